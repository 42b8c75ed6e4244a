//! One line a finding, as compilers print them: `file:line:column: error[code]: message`, lines and
//! characters from 1.

use mopd_lang::diag::Diagnostic;
use mopd_lang::source::Sources;

pub fn findings(findings: &[Diagnostic], sources: &Sources) -> String {
    findings.iter().map(|finding| line(finding, sources)).collect()
}

fn line(finding: &Diagnostic, sources: &Sources) -> String {
    let span = finding.primary.span;
    let file = sources.file(span.file);
    let before = &file.text[..span.start as usize];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let (line, column) = (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1);
    format!(
        "{}:{line}:{column}: {}[{}]: {}\n",
        file.path,
        finding.severity.name(),
        finding.code.name(),
        finding.message
    )
}
