//! One line per diagnostic, as in compilers: `file:line:column: error[code]: message`, with lines and
//! characters from 1.

use mopd_lang::diag::Diagnostic;
use mopd_lang::source::{FileId, Sources, Span};
use mopd_plan::Plan;
use mopd_plan::events::Failure;

pub fn diagnostics(diagnostics: &[Diagnostic], sources: &Sources) -> String {
    let of = |diagnostic: &Diagnostic| {
        let (severity, code) = (diagnostic.severity.name(), diagnostic.code.name());
        line(diagnostic.primary.span, severity, code, &diagnostic.message, sources)
    };
    diagnostics.iter().map(of).collect()
}

/// A problem of a run: at its item in the source, or at the beginning of the file.
pub fn failure(failure: &Failure, plan: &Plan, sources: &Sources) -> String {
    let place = super::place_of(failure, plan, sources).unwrap_or(Span::new(FileId(0), 0, 0));
    line(place, "error", failure.kind.name(), &failure.message, sources)
}

fn line(span: Span, severity: &str, code: &str, message: &str, sources: &Sources) -> String {
    let file = sources.file(span.file);
    let before = &file.text[..span.start as usize];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let (line, column) = (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1);
    format!("{}:{line}:{column}: {severity}[{code}]: {message}\n", file.path)
}
