//! Diagnostics for people: a message, the places, the help. This is the only user of miette, which draws the
//! marked lines; all else is written here.

use std::fmt;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};
use mopd_lang::diag::{Diagnostic, Severity};
use mopd_lang::source::Sources;

use super::{MarkedSpan, Report, of_diagnostic};
use crate::host::{is_generated, words_of};
use crate::output::{Style, counted, hanging, printable, printable_in_place};

/// The widest line, in bytes, that is drawn. Of a file without line breaks, every mark would show all of it.
const WIDEST: usize = 2_000;

/// All diagnostics, each followed by an empty line.
pub fn diagnostics(diagnostics: &[Diagnostic], sources: &Sources, style: Style) -> String {
    diagnostics.iter().map(|diagnostic| report(&of_diagnostic(diagnostic, sources), style) + "\n").collect()
}

/// The hint to `mopd explain`, once, and the numbers of errors and warnings.
pub fn summary(diagnostics: &[Diagnostic], style: Style) -> String {
    let count = |severity| diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let mut codes: Vec<&str> = Vec::new();
    for diagnostic in diagnostics {
        if !codes.contains(&diagnostic.code.name()) {
            codes.push(diagnostic.code.name());
        }
    }
    let mut text = String::new();
    match codes.as_slice() {
        [] => {}
        [code] => text += &format!("run `mopd explain {code}` for an explanation\n"),
        [code, rest @ ..] => {
            let rest: Vec<String> = rest.iter().take(4).map(|code| format!("`{code}`")).collect();
            let more = if codes.len() > rest.len() + 1 { ", ..." } else { "" };
            text += &format!(
                "run `mopd explain {code}` for an explanation; likewise {}{more}\n",
                rest.join(", ")
            );
        }
    }
    let errors = (errors > 0).then(|| style.red(&counted(errors, "error")));
    let warnings = (warnings > 0).then(|| style.yellow(&counted(warnings, "warning")));
    let counts: Vec<String> = [errors, warnings].into_iter().flatten().collect();
    text + &counts.join(", ") + "\n"
}

/// One report, ending with a newline.
pub fn report(report: &Report, style: Style) -> String {
    let head = format!("{}[{}]", report.severity.name(), report.code);
    let head = match report.severity {
        Severity::Error => style.red(&head),
        Severity::Warning => style.yellow(&head),
    };
    let mut text = format!("{head}{}\n", style.bold(&format!(": {}", shown(report.message))));
    let mut files: Vec<&str> = Vec::new();
    for mark in &report.marks {
        if !files.contains(&mark.path) {
            files.push(mark.path);
        }
    }
    for path in files {
        let marks: Vec<&MarkedSpan> = report.marks.iter().filter(|mark| mark.path == path).collect();
        text += &match marks.first() {
            Some(first) if is_generated(path) => words_of(first.start, report.code)
                .map_or_else(String::new, |words| format!("  in `{}`\n", printable(words))),
            _ => snippet(&marks, report.severity, style),
        };
    }
    for note in &report.notes {
        text += &hanging(&style.cyan("  note: "), "        ", &shown(note));
    }
    if let Some(help) = report.help {
        let help = match report.marks.first().is_some_and(|mark| is_generated(mark.path)) {
            true => of_command(help),
            false => help.to_owned(),
        };
        text += &hanging(&style.cyan("  help: "), "        ", &shown(&help));
    }
    if let Some(fix) = &report.fix {
        text += &hanging(&style.cyan("  fix:  "), "        ", &shown(fix));
    }
    text
}

/// A text of a report, without its middle if it is longer than any line that is drawn.
fn shown(text: &str) -> String {
    const ENDS: usize = 100;
    let text = printable(text);
    if text.len() <= WIDEST {
        return text;
    }
    let (head, tail) = (text.floor_char_boundary(ENDS), text.ceil_char_boundary(text.len() - ENDS));
    let between = text[head..tail].chars().count();
    format!("{} ... {between} more characters ... {}", &text[..head], &text[tail..])
}

/// The help for an error in a generated text: its settings are options of the command, and it has no file.
fn of_command(help: &str) -> String {
    help.replace("`max_tokens = ", "`--max-tokens ")
        .replace("the folder of the experiment's file", "the folder where the command runs")
}

/// The marked lines of one file; the heading shows the place of the first mark.
fn snippet(marks: &[&MarkedSpan], severity: Severity, style: Style) -> String {
    let [first, ..] = marks else { return String::new() };
    // Nothing can be drawn for a file without visible characters.
    if first.text.trim().is_empty() {
        let labels =
            marks.iter().filter(|mark| !mark.label.is_empty()).map(|mark| format!(": {}", mark.label));
        return format!("  {} is empty{}\n", first.path, labels.collect::<String>());
    }
    if marks.iter().any(|mark| line_around(mark.text, visible(mark).0).len() > WIDEST) {
        return marks.iter().map(|mark| not_drawn(mark)).collect();
    }
    let labels = marks.iter().enumerate().map(|(index, mark)| {
        let (start, end) = visible(mark);
        let text = (!mark.label.is_empty()).then(|| shown(mark.label));
        if index == 0 {
            LabeledSpan::new_primary_with_span(text, (start, end - start))
        } else {
            LabeledSpan::new_with_span(text, (start, end - start))
        }
    });
    let drawing = Drawing {
        source: NamedSource::new(printable(first.path), printable_in_place(first.text)),
        labels: labels.collect(),
        severity: match severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        },
    };
    // The lines beside the marked ones are drawn too, unless they are too wide.
    let is_wide = |mark: &MarkedSpan| lines_beside(mark.text, visible(mark)).any(|line| line.len() > WIDEST);
    let context = usize::from(!marks.iter().any(|mark| is_wide(mark)));
    let theme = if style.terminal { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let handler = GraphicalReportHandler::new_themed(theme)
        .with_links(false)
        .with_wrap_lines(false)
        .with_context_lines(context);
    let mut out = String::new();
    if handler.render_report(&mut out, &drawing).is_err() {
        return format!("  in {}\n", first.path);
    }
    // The first line has miette's icon and an empty message; our message is printed already.
    out.split_once('\n').map(|(_, drawn)| drawn.to_owned()).unwrap_or_default()
}

/// The lines before and after the marked ones.
fn lines_beside(text: &str, (start, end): (usize, usize)) -> impl Iterator<Item = &str> {
    let before = text[..start].rfind('\n').map(|newline| line_around(text, newline));
    let after = text[end..].find('\n').map(|newline| line_around(text, end + newline + 1));
    before.into_iter().chain(after)
}

/// The whole line of a place.
fn line_around(text: &str, at: usize) -> &str {
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    &text[start..text[at..].find('\n').map_or(text.len(), |length| at + length)]
}

/// A mark by its line and column, without the line.
fn not_drawn(mark: &MarkedSpan) -> String {
    let (start, _) = visible(mark);
    let (line, column) = (1 + mark.text[..start].matches('\n').count(), {
        let line = mark.text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        1 + mark.text[line..start].chars().count()
    });
    let label = if mark.label.is_empty() { String::new() } else { format!(": {}", shown(mark.label)) };
    format!("  {}:{line}:{column}{label}\n", mark.path)
}

/// The part of a mark that can be drawn: its first line, on character boundaries, inside the text. A mark at
/// the end of the text moves to the last visible character: miette hides or rejects marks after it.
fn visible(mark: &MarkedSpan) -> (usize, usize) {
    let text = mark.text;
    let last = text.trim_end();
    let last_start = last.char_indices().next_back().map_or(0, |(at, _)| at);
    if mark.start >= last.len() {
        return (last_start, last.len());
    }
    let start = floor(text, mark.start);
    let mut end = floor(text, mark.end.clamp(start, text.len()));
    if let Some(newline) = text[start..end].find('\n') {
        end = start + text[start..start + newline].trim_end().len();
    }
    (start, end)
}

fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The input of miette: marks in one file, without a message.
struct Drawing {
    source: NamedSource<String>,
    labels: Vec<LabeledSpan>,
    severity: miette::Severity,
}

impl fmt::Debug for Drawing {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Drawing {
    fn fmt(&self, _: &mut fmt::Formatter) -> fmt::Result {
        Ok(())
    }
}

impl std::error::Error for Drawing {}

impl miette::Diagnostic for Drawing {
    fn severity(&self) -> Option<miette::Severity> {
        Some(self.severity)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(self.labels.iter().cloned()))
    }
}

#[cfg(test)]
mod tests {
    use mopd_lang::diag::Code;
    use mopd_lang::source::{SourceFile, Span};

    use super::*;

    fn sources(texts: &[(&str, &str)]) -> Sources {
        let mut sources = Sources::default();
        for (path, text) in texts {
            sources.add(SourceFile { path: (*path).to_owned(), text: (*text).to_owned() });
        }
        sources
    }

    fn span(sources: &Sources, file: usize, part: &str) -> Span {
        let (id, source) = sources.files().nth(file).expect("the test adds it");
        let start = source.text.find(part).expect("the test holds it");
        Span::new(id, start, start + part.len())
    }

    fn drawn(diagnostic: Diagnostic, sources: &Sources) -> String {
        report(&of_diagnostic(&diagnostic, sources), Style::PLAIN)
    }

    #[test]
    fn a_diagnostic_with_a_cause_in_another_file() {
        let sources = sources(&[
            ("a.mopd", "// été\nlet x = kl - reward\n"),
            ("std:opd.mopd", "//! Distillation.\n\npub let kl: nats = 1\n"),
        ]);
        let diagnostic =
            Diagnostic::error(Code::UnitMismatch, span(&sources, 0, "kl - reward"), "nats minus real")
                .label("this subtracts a reward from a divergence")
                .note(span(&sources, 1, "kl: nats"), "nats, declared here")
                .help("give the reward a coefficient")
                .fix("write a coefficient", span(&sources, 0, "reward"), "0.1 * reward");
        let expected = "\
error[unit-mismatch]: nats minus real
   ╭─[a.mopd:2:9]
 1 │ // été
 2 │ let x = kl - reward
   ·         ─────┬─────
   ·              ╰── this subtracts a reward from a divergence
   ╰────
   ╭─[std:opd.mopd:3:9]
 2 │ 
 3 │ pub let kl: nats = 1
   ·         ────┬───
   ·             ╰── nats, declared here
   ╰────
  help: give the reward a coefficient
  fix:  write a coefficient: `reward` becomes `0.1 * reward`
";
        assert_eq!(drawn(diagnostic, &sources), expected);
    }

    #[test]
    fn a_mark_at_the_end_of_the_text_is_drawn() {
        for text in ["model a = llama {", "model a = llama {\n", "model a = llama {\n\n  \n"] {
            let sources = sources(&[("a.mopd", text)]);
            let diagnostic = Diagnostic::error(
                Code::Syntax,
                Span::new(mopd_lang::source::FileId(0), text.len(), text.len()),
                "open",
            )
            .label("the block ends nowhere");
            let shown = drawn(diagnostic, &sources);
            assert!(
                shown.contains("a.mopd:1:17") && shown.contains("the block ends nowhere"),
                "{text:?}: {shown}"
            );
        }
    }

    #[test]
    fn an_empty_file_has_nothing_to_draw() {
        for text in ["", "\n \n"] {
            let sources = sources(&[("a.mopd", text)]);
            let diagnostic = Diagnostic::error(
                Code::MissingExperiment,
                Span::new(mopd_lang::source::FileId(0), 0, 0),
                "no experiment",
            )
            .label("nothing says what to run");
            assert_eq!(
                drawn(diagnostic, &sources),
                "error[missing-experiment]: no experiment\n  a.mopd is empty: nothing says what to run\n"
            );
        }
    }

    #[test]
    fn a_long_text_is_shown_by_its_ends() {
        assert_eq!(shown("short"), "short");
        let long = format!("begin{}end", "é".repeat(WIDEST));
        let shown = shown(&long);
        assert!(shown.starts_with("beginé") && shown.ends_with("éend") && shown.len() < 300, "{shown}");
        assert!(shown.contains(" ... 1905 more characters ... "), "{shown}");
    }

    #[test]
    fn a_wide_line_beside_the_marked_one_is_not_drawn() {
        let text = format!("let a = 1\nlet b = {}\nlet c = 2\n", "1 + ".repeat(WIDEST));
        let sources = sources(&[("a.mopd", &text)]);
        let first = Diagnostic::error(Code::Syntax, span(&sources, 0, "a ="), "here").label("x");
        let last = Diagnostic::error(Code::Syntax, span(&sources, 0, "c ="), "here").label("x");
        for shown in [drawn(first, &sources), drawn(last, &sources)] {
            assert!(shown.len() < 200 && shown.contains("╰── x"), "{shown}");
        }
    }

    #[test]
    fn any_range_can_be_drawn() {
        let text = "a = \"é\u{1b}[31m\"\r\nb = {\n\tc = 日本\n}\n";
        let sources = sources(&[("a.mopd", text)]);
        for start in 0..=text.len() {
            for end in start..=text.len() {
                let diagnostic = Diagnostic::error(
                    Code::Syntax,
                    Span::new(mopd_lang::source::FileId(0), start, end),
                    "here",
                )
                .label("x");
                let shown = drawn(diagnostic, &sources);
                assert!(shown.contains("a.mopd:") && !shown.contains('\u{1b}'), "{start}..{end}: {shown}");
            }
        }
    }

    #[test]
    fn a_block_is_marked_by_its_first_line() {
        let sources = sources(&[("a.mopd", "model student = distill(start) {\n  steps = 1\n}\n")]);
        let diagnostic = Diagnostic::warning(
            Code::UnusedTeacher,
            span(&sources, 0, "model student = distill(start) {\n  steps = 1\n}"),
            "m",
        );
        let shown = drawn(diagnostic, &sources);
        assert!(shown.starts_with("warning[unused-teacher]: m\n"), "{shown}");
        assert!(shown.contains("· ────────────────────────────────\n"), "{shown}");
    }

    #[test]
    fn explain_hint_is_printed_once() {
        let sources = sources(&[("a.mopd", "x")]);
        let at = span(&sources, 0, "x");
        let errors =
            |codes: &[Code]| codes.iter().map(|code| Diagnostic::error(*code, at, "m")).collect::<Vec<_>>();
        assert_eq!(
            summary(&errors(&[Code::Syntax, Code::Syntax]), Style::PLAIN),
            "run `mopd explain syntax` for an explanation\n2 errors\n"
        );
        let mut mixed = errors(&[Code::Syntax]);
        mixed.push(Diagnostic::warning(Code::UnusedTeacher, at, "m"));
        assert_eq!(
            summary(&mixed, Style::PLAIN),
            "run `mopd explain syntax` for an explanation; likewise `unused-teacher`\n1 error, 1 \
             warning\n"
        );
    }
}
