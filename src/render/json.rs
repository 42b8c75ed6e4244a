//! Diagnostics as JSON for editors and scripts: lines from 0, columns from 0 in UTF-16 units.

use std::path::Path;

use mopd_lang::diag::Diagnostic;
use mopd_lang::source::{FileId, Sources, Span};
use mopd_plan::Plan;
use mopd_plan::events::Failure;
use serde::Serialize;

use crate::problem::Problem;

/// One diagnostic. Other programs read this, so fields are only ever added.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JsonDiagnostic {
    code: &'static str,
    severity: &'static str,
    message: String,
    file: String,
    range: JsonRange,
    /// The first is the offending place; the others explain it, possibly in other files.
    labels: Vec<JsonLabel>,
    help: Option<String>,
    fix: Option<JsonFix>,
    /// The URL of this code's page; null until it is published.
    url: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct JsonRange {
    start: JsonPosition,
    end: JsonPosition,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct JsonPosition {
    line: usize,
    character: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct JsonLabel {
    file: String,
    range: JsonRange,
    text: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct JsonFix {
    title: String,
    file: String,
    range: JsonRange,
    replacement: String,
    /// `certain` or `possible`.
    applicability: &'static str,
}

pub fn diagnostics(diagnostics: &[Diagnostic], sources: &Sources) -> Vec<JsonDiagnostic> {
    diagnostics.iter().map(|diagnostic| of_diagnostic(diagnostic, sources)).collect()
}

/// The reason why a file was not checked at all, at its beginning.
pub fn of_problem(problem: &Problem, path: &Path) -> JsonDiagnostic {
    let start = || JsonPosition { line: 0, character: 0 };
    JsonDiagnostic {
        code: problem.name(),
        severity: "error",
        message: problem.message().to_owned(),
        file: path.display().to_string(),
        range: JsonRange { start: start(), end: start() },
        labels: Vec::new(),
        help: problem.help_text().map(str::to_owned),
        fix: None,
        url: None,
    }
}

/// A problem of a run: at its item in the source, or at the beginning of the file.
pub fn of_failure(failure: &Failure, plan: &Plan, sources: &Sources) -> JsonDiagnostic {
    let place = super::place_of(failure, plan, sources).unwrap_or(Span::new(FileId(0), 0, 0));
    let (file, range) = (file(place, sources), range(place, sources));
    let label = JsonLabel { file: file.clone(), range: range.clone(), text: super::ASKED_FOR.to_owned() };
    JsonDiagnostic {
        code: failure.kind.name(),
        severity: "error",
        message: failure.message.clone(),
        file,
        range,
        labels: vec![label],
        help: failure.help.clone(),
        fix: None,
        url: None,
    }
}

/// The list as JSON text, ending with a newline.
pub fn list(diagnostics: &[JsonDiagnostic]) -> String {
    serde_json::to_string_pretty(diagnostics).expect("strings and whole numbers can always be written") + "\n"
}

fn of_diagnostic(diagnostic: &Diagnostic, sources: &Sources) -> JsonDiagnostic {
    let labels = std::iter::once(&diagnostic.primary).chain(&diagnostic.related);
    JsonDiagnostic {
        code: diagnostic.code.name(),
        severity: diagnostic.severity.name(),
        message: diagnostic.message.clone(),
        file: file(diagnostic.primary.span, sources),
        range: range(diagnostic.primary.span, sources),
        labels: labels
            .map(|label| JsonLabel {
                file: file(label.span, sources),
                range: range(label.span, sources),
                text: label.text.clone(),
            })
            .collect(),
        help: diagnostic.help.clone(),
        fix: diagnostic.fix.as_ref().map(|fix| JsonFix {
            title: fix.title.clone(),
            file: file(fix.span, sources),
            range: range(fix.span, sources),
            replacement: fix.replacement.clone(),
            applicability: fix.applicability.name(),
        }),
        url: None,
    }
}

fn file(span: Span, sources: &Sources) -> String {
    sources.file(span.file).path.clone()
}

fn range(span: Span, sources: &Sources) -> JsonRange {
    let position = |offset| {
        let (line, character) = sources.position(span.file, offset);
        JsonPosition { line, character }
    };
    JsonRange { start: position(span.start), end: position(span.end) }
}

#[cfg(test)]
mod tests {
    use mopd_lang::diag::Code;
    use mopd_lang::source::SourceFile;

    use super::*;

    #[test]
    fn columns_are_counted_as_editors_count() {
        let text = "// 1\nlet 𝒜é = x\n";
        let mut sources = Sources::default();
        sources.add(SourceFile { path: "a.mopd".to_owned(), text: text.to_owned() });
        let at = text.find("= x").expect("it is there") + 2;
        let diagnostic = Diagnostic::error(Code::UnknownName, Span::new(FileId(0), at, at + 1), "no `x`")
            .label("unknown")
            .replace_with("write y", "y");
        let [found] = &diagnostics(&[diagnostic], &sources)[..] else { panic!("one diagnostic") };
        // 𝒜 is two UTF-16 units and four bytes, é is one unit and two bytes.
        let expected = JsonRange {
            start: JsonPosition { line: 1, character: 10 },
            end: JsonPosition { line: 1, character: 11 },
        };
        assert_eq!(found.range, expected);
        assert_eq!(
            found.labels,
            [JsonLabel { file: "a.mopd".to_owned(), range: expected.clone(), text: "unknown".to_owned() }]
        );
        assert_eq!(
            found.fix.as_ref().map(|fix| (&fix.range, fix.replacement.as_str())),
            Some((&expected, "y"))
        );
    }

    #[test]
    fn no_diagnostics_are_an_empty_list() {
        assert_eq!(list(&[]), "[]\n");
    }
}
