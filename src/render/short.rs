//! One line per diagnostic, as compilers print them: `file:line:column: error[code]: message`, lines and
//! characters from 1.

use mopd_lang::diag::Diagnostic;
use mopd_lang::source::Sources;

pub fn diagnostics(diagnostics: &[Diagnostic], sources: &Sources) -> String {
    diagnostics.iter().map(|diagnostic| line(diagnostic, sources)).collect()
}

fn line(diagnostic: &Diagnostic, sources: &Sources) -> String {
    let span = diagnostic.primary.span;
    let file = sources.file(span.file);
    let before = &file.text[..span.start as usize];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let (line, column) = (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1);
    format!(
        "{}:{line}:{column}: {}[{}]: {}\n",
        file.path,
        diagnostic.severity.name(),
        diagnostic.code.name(),
        diagnostic.message
    )
}
