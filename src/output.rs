//! The two streams. A reader that goes away (`mopd plan x.mopd | head`) is no error: what is left to say is dropped.

use std::io::{IsTerminal, Write};

/// Writes to standard output.
pub fn result(text: &str) {
    let mut stream = std::io::stdout().lock();
    // A closed pipe or a full disk behind a redirection leaves nobody to tell.
    let _ = stream.write_all(text.as_bytes()).and_then(|()| stream.flush());
}

/// Writes to standard error.
pub fn error(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Terminal styles, or plain text where the stream is no terminal or `NO_COLOR` asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    pub terminal: bool,
}

impl Style {
    #[cfg(test)]
    pub const PLAIN: Style = Style { terminal: false };

    pub fn of_stdout() -> Style {
        Style { terminal: std::io::stdout().is_terminal() && styled() }
    }

    pub fn of_stderr() -> Style {
        Style { terminal: std::io::stderr().is_terminal() && styled() }
    }

    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub fn red(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    pub fn yellow(self, text: &str) -> String {
        self.paint("1;33", text)
    }

    pub fn green(self, text: &str) -> String {
        self.paint("1;32", text)
    }

    pub fn cyan(self, text: &str) -> String {
        self.paint("36", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.terminal { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

fn styled() -> bool {
    // https://no-color.org: any value but the empty one.
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !plain && std::env::var_os("TERM").is_none_or(|value| value != "dumb")
}

/// `first` before the first line of `text`, `rest` before the others; ends with a newline.
pub fn hanging(first: &str, rest: &str, text: &str) -> String {
    let mut lines = text.lines();
    let mut out = format!("{first}{}\n", lines.next().unwrap_or_default());
    for line in lines {
        out += &format!("{rest}{line}\n");
    }
    out
}

/// Text that a model or a program made, safe to show: control characters other than newline and tab are spelled out, so that
/// they can't steer the terminal.
pub fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let shown = if c.is_control() && c != '\n' && c != '\t' { c.escape_default().to_string() } else { c.to_string() };
            shown.chars().collect::<Vec<_>>()
        })
        .collect()
}

/// "1 model", "3 models".
pub fn counted(n: usize, thing: &str) -> String {
    if n == 1 { format!("1 {thing}") } else { format!("{n} {thing}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_of_a_model_are_spelled_out() {
        assert_eq!(printable("a\u{1b}[2J\tb\nc\u{7}é"), "a\\u{1b}[2J\tb\nc\\u{7}é");
    }

    #[test]
    fn text_that_goes_on_is_indented() {
        assert_eq!(hanging("help: ", "      ", "a\nb"), "help: a\n      b\n");
        assert_eq!(hanging("help: ", "      ", ""), "help: \n");
    }

    #[test]
    fn no_style_without_a_terminal() {
        assert_eq!(Style::PLAIN.red("x"), "x");
        assert_eq!(Style { terminal: true }.red("x"), "\u{1b}[1;31mx\u{1b}[0m");
    }
}
