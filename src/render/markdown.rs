//! The pages of `mopd explain` on a terminal: Markdown with styled headings, code and emphasis.

use crate::output::Style;

pub fn show(page: &str, style: Style) -> String {
    if !style.terminal {
        return page.to_owned();
    }
    let mut out = String::new();
    let mut code = false;
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
            continue;
        }
        let shown = if code {
            format!("    {}", style.cyan(line))
        } else if line.starts_with('#') {
            style.bold(line.trim_start_matches('#').trim_start())
        } else {
            inline_code(line, style)
        };
        out += &shown;
        out.push('\n');
    }
    out
}

/// Colours `` `name` ``; a single backtick stays.
fn inline_code(line: &str, style: Style) -> String {
    let parts: Vec<&str> = line.split('`').collect();
    if parts.len().is_multiple_of(2) {
        return line.to_owned();
    }
    parts
        .iter()
        .enumerate()
        .map(|(index, part)| if index % 2 == 1 { style.cyan(part) } else { (*part).to_owned() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_the_page_itself() {
        let page = "# a\n\n```mopd\nlet x = 1\n```\n";
        assert_eq!(show(page, Style::PLAIN), page);
    }

    #[test]
    fn on_a_terminal_marks_become_styles() {
        let style = Style { terminal: true };
        let shown = show("# Title\nuse `x` here\n```mopd\n# no heading\n```\nodd ` one\n", style);
        let expected = format!(
            "{}\nuse {} here\n    {}\nodd ` one\n",
            style.bold("Title"),
            style.cyan("x"),
            style.cyan("# no heading")
        );
        assert_eq!(shown, expected);
    }
}
