//! Standard output and standard error. A closed pipe (`mopd plan x.mopd | head`) is no error; the rest of
//! the output is dropped. Any other failure to write results is reported at the end ([`unwritten`]).
//!
//! File names, data, and the output of models, hubs and rewards are not trusted, and a terminal
//! interprets control characters. So all output goes through [`safe`], which passes no control characters
//! but our own colours, and untrusted text goes through [`printable`] before it is combined with ours.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::clock;

/// The output options of the command line.
#[derive(Default)]
pub struct OutputSettings {
    /// `None` if the streams decide.
    pub colours: Option<bool>,
    pub quiet: bool,
    pub verbose: bool,
    pub log: Option<LogFile>,
}

/// The file that also gets everything from standard error: each text with its time, without colours.
pub struct LogFile(Mutex<File>);

impl LogFile {
    /// Appends to an existing file.
    pub fn append(path: &Path) -> io::Result<LogFile> {
        Ok(LogFile(Mutex::new(File::options().create(true).append(true).open(path)?)))
    }
}

static SETTINGS: OnceLock<OutputSettings> = OnceLock::new();
/// Why some of the results could not be written to standard output.
static UNWRITTEN: OnceLock<io::Error> = OnceLock::new();

fn settings() -> &'static OutputSettings {
    SETTINGS.get_or_init(OutputSettings::default)
}

/// Sets the options; only the first call has an effect.
pub fn configure(settings: OutputSettings) {
    // Nothing is printed before this call.
    let _ = SETTINGS.set(settings);
}

pub fn is_quiet() -> bool {
    settings().quiet
}

pub fn has_log_file() -> bool {
    settings().log.is_some()
}

/// Writes to standard output.
pub fn result(text: &str) {
    verbatim(&safe(text, Style::of_stdout()));
}

/// Writes text to standard output unchanged, such as a formatted file for another program.
pub fn verbatim(text: &str) {
    let mut stream = std::io::stdout().lock();
    if let Err(error) = stream.write_all(text.as_bytes()).and_then(|()| stream.flush())
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        // The first one counts. The command goes on, since it may have other results to write.
        let _ = UNWRITTEN.set(error);
    }
}

/// Why standard output is incomplete, for example because it is a file on a full disk.
pub fn unwritten() -> Option<&'static io::Error> {
    UNWRITTEN.get()
}

/// Writes to standard error, and to the log file if there is one.
pub fn error(text: &str) {
    to_stderr(text);
    to_log_file(text);
}

/// [`error`] for progress messages, which a quiet command leaves out.
pub fn note(text: &str) {
    if !is_quiet() {
        to_stderr(text);
    }
    to_log_file(text);
}

/// Details that are only shown with `--verbose`.
pub fn detail(text: &str) {
    if settings().verbose {
        error(text);
    }
}

/// A line of a log, with its time on standard error too. `note` says whether a quiet command leaves it out.
pub fn log_line(text: &str, note: bool) {
    if !(note && is_quiet()) {
        to_stderr(&format!("{} {}\n", stamp(), text.trim_end()));
    }
    to_log_file(text);
}

fn to_stderr(text: &str) {
    let _ = std::io::stderr().lock().write_all(safe(text, Style::of_stderr()).as_bytes());
}

/// Writes only to the log file.
pub fn to_log_file(text: &str) {
    let Some(LogFile(file)) = &settings().log else { return };
    let text = without_colours(text);
    if !text.trim().is_empty() {
        let line = format!("{} {}\n", stamp(), safe(text.trim_end(), Style { terminal: false }));
        // A full disk must not end the logged run.
        let _ = file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
    }
}

/// `2026-11-23 14:57:50`, in local time.
fn stamp() -> String {
    clock::now().format("%Y-%m-%d %H:%M:%S").to_string()
}

fn without_colours(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(c) = rest.chars().next() {
        match colour(rest) {
            0 => {
                out.push(c);
                rest = &rest[c.len_utf8()..];
            }
            skipped => rest = &rest[skipped..],
        }
    }
    out
}

/// Terminal styles, or plain text: as `--color` says, otherwise plain if the stream is not a terminal or with
/// `NO_COLOR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    pub terminal: bool,
}

impl Style {
    #[cfg(test)]
    pub const PLAIN: Style = Style { terminal: false };

    pub fn of_stdout() -> Style {
        Style { terminal: styled(std::io::stdout().is_terminal()) }
    }

    pub fn of_stderr() -> Style {
        Style { terminal: styled(std::io::stderr().is_terminal()) }
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

fn styled(terminal: bool) -> bool {
    // https://no-color.org: any value but the empty one.
    let plain = || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    settings().colours.unwrap_or_else(|| terminal && !plain() && !dumb())
}

/// `text` with `first` before its first line and `rest` before the others; ends with a newline.
pub fn hanging(first: &str, rest: &str, text: &str) -> String {
    let mut lines = text.lines();
    let mut out = format!("{first}{}\n", lines.next().unwrap_or_default());
    for line in lines {
        out += &format!("{rest}{line}\n");
    }
    out
}

/// Whether a terminal interprets a character instead of showing it: control characters, bidirectional
/// controls and invisible ones.
fn steers(c: char) -> bool {
    let hidden = matches!(
        c,
        '\u{61c}'
            | '\u{200b}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
    );
    hidden || (c.is_control() && c != '\n' && c != '\t')
}

/// A fast path: nearly all text is plain.
fn plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n' | b'\t'))
}

/// Escapes a character as in JSON, so that text in JSON keeps its meaning.
fn spell(c: char, out: &mut String) {
    *out += &format!("\\u{:04x}", u32::from(c));
}

/// Text from a model, a program or a file, safe to show: control characters are escaped. Newlines and tabs
/// stay.
pub fn printable(text: &str) -> String {
    if plain(text) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) { spell(c, &mut out) } else { out.push(c) }
    }
    out
}

/// [`printable`] for text with byte offsets: every character keeps its length.
pub fn printable_in_place(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        let line_end = c == '\r' && characters.peek() == Some(&'\n');
        if steers(c) && !line_end { out.extend(std::iter::repeat_n('?', c.len_utf8())) } else { out.push(c) }
    }
    out
}

/// Text for a stream: [`printable`], but with colours if the stream has them, and with the line ends of other
/// systems.
pub fn safe(text: &str, style: Style) -> Cow<'_, str> {
    if plain(text) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let count = match c {
            '\u{1b}' if style.terminal => colour(rest),
            '\r' if rest.starts_with("\r\n") => 2,
            c if steers(c) => 0,
            c => c.len_utf8(),
        };
        if count == 0 {
            spell(c, &mut out);
            rest = &rest[c.len_utf8()..];
        } else {
            out += &rest[..count];
            rest = &rest[count..];
        }
    }
    Cow::Owned(out)
}

/// The length of the escape sequence at the beginning of `text`, if it sets a text colour or weight;
/// otherwise 0. Other sequences move the cursor, hide text, write to the clipboard or send answers as the
/// user.
fn colour(text: &str) -> usize {
    let Some((numbers, _)) = text.strip_prefix("\u{1b}[").and_then(|rest| rest.split_once('m')) else {
        return 0;
    };
    let mut parts = numbers.split(';');
    while let Some(part) = parts.next() {
        let fits = match part {
            "38" => match parts.next() {
                Some("5") => parts.next().is_some_and(level),
                Some("2") => (0..3).all(|_| parts.next().is_some_and(level)),
                _ => false,
            },
            "" | "0" | "1" | "2" | "3" | "4" | "22" | "23" | "24" | "39" => true,
            part => part.parse().is_ok_and(|code: u8| matches!(code, 30..=37 | 90..=97)),
        };
        if !fits {
            return 0;
        }
    }
    "\u{1b}[m".len() + numbers.len()
}

fn level(text: &str) -> bool {
    text.parse::<u8>().is_ok()
}

/// "1 model", "3 models".
pub fn counted(n: usize, thing: &str) -> String {
    if n == 1 { format!("1 {thing}") } else { format!("{n} {thing}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\u{1b}[2J\tb\nc\u{7}é\u{9b}31m\u{202e}\u{2066}\r\u{7f}\u{feff}\u{200b}z";

    #[test]
    fn control_characters_are_escaped() {
        let wanted = "a\\u001b[2J\tb\nc\\u0007é\\u009b31m\\u202e\\u2066\\u000d\\u007f\\ufeff\\u200bz";
        assert_eq!(printable(HOSTILE), wanted);
        for style in [Style::PLAIN, Style { terminal: true }] {
            assert_eq!(safe(HOSTILE, style), wanted);
        }
        // Joined characters, as in emoji and Persian words, and every script.
        for text in ["👩\u{200d}🔬", "می\u{200c}خواهم", "日本 é עברית"] {
            assert_eq!(printable(text), text);
        }
        assert_eq!(safe("a\r\nb\rc", Style::PLAIN), "a\r\nb\\u000dc");
    }

    #[test]
    fn only_colours_pass_and_only_where_there_are_any() {
        let style = Style { terminal: true };
        for good in [
            style.red("x"),
            style.bold("x"),
            "\u{1b}[38;5;12mx\u{1b}[m".into(),
            "\u{1b}[38;2;1;20;255;4mx\u{1b}[39m".into(),
        ] {
            assert_eq!(safe(&good, style), good);
            assert!(!safe(&good, Style::PLAIN).contains('\u{1b}'));
        }
        for bad in [
            "\u{1b}[8m",
            "\u{1b}[7m",
            "\u{1b}[41m",
            "\u{1b}[38m",
            "\u{1b}[38;5m",
            "\u{1b}[38;9;1m",
            "\u{1b}[38;2;1;2;256m",
            "\u{1b}[2J",
            "\u{1b}[1;1H",
            "\u{1b}]0;title\u{7}",
            "\u{1b}]52;c;eA==\u{7}",
            "\u{1b}c",
            "\u{1b}",
            "\u{1b}[",
            "\u{1b}[1",
            "\u{1b}P$q\u{1b}\\",
            "\u{1b}[1\nm",
            "\u{1b}[+1m",
        ] {
            assert!(!safe(&format!("a{bad}"), style).contains(['\u{1b}', '\u{7}']), "{bad:?}");
        }
    }

    #[test]
    fn a_log_file_has_no_colours() {
        let style = Style { terminal: true };
        let text = format!("{}: x {}", style.red("error"), style.bold("é"));
        assert_eq!(without_colours(&text), "error: x é");
        assert_eq!(without_colours(HOSTILE), HOSTILE);
    }

    #[test]
    fn json_says_the_same() {
        let line = serde_json::json!({ "text": HOSTILE, HOSTILE: [1.5] }).to_string();
        let shown = safe(&line, Style::PLAIN);
        assert!(!shown.chars().any(steers));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            serde_json::from_str::<serde_json::Value>(&line).unwrap()
        );
    }

    #[test]
    fn places_in_a_file_stay() {
        let text = "a\u{1b}\u{9b}\u{202e}é\r\n\rb";
        assert_eq!(printable_in_place(text), "a??????é\r\n?b");
        assert_eq!(printable_in_place(text).len(), text.len());
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
