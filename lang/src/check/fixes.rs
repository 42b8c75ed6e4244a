//! Certain fixes of a text whose grammar is broken. There, what was meant is a guess: `clip((x, -5, 5)` needs
//! another bracket, and only one of the places for it gives `clip` its arguments. So each fix is applied
//! alone, and the text that it makes is checked. A fix that leaves a new error where it was applied or where
//! the mistake was, or a grammar that is no better, is not offered.

use crate::diag::{Applicability, Code, Diagnostic, Fix, Severity, apply_once};
use crate::source::FileId;

const ENTRY: FileId = FileId(0);

/// The most fixes that are tried: each takes a check.
const MOST: usize = 16;

/// Drops the certain fixes of the entry file, which has this text, that don't hold. `check` returns the
/// diagnostics of another text in its place.
pub fn drop_failing(
    diagnostics: &mut [Diagnostic],
    text: &str,
    mut check: impl FnMut(&str) -> Vec<Diagnostic>,
) {
    if !diagnostics.iter().any(is_grammar) {
        return;
    }
    let certain: Vec<usize> =
        (0..diagnostics.len()).filter(|index| certain_fix(&diagnostics[*index]).is_some()).collect();
    let (tried, untried) = certain.split_at(certain.len().min(MOST));
    let holds = |index: &usize| {
        let fixed = apply_once(text, ENTRY, &diagnostics[*index..=*index], |_| true);
        fixed.is_some_and(|(fixed, _)| is_better(diagnostics, *index, text, &check(&fixed), &fixed))
    };
    let hold: Vec<bool> = tried.iter().map(holds).collect();
    for (index, _) in tried.iter().zip(hold).filter(|(_, holds)| !holds) {
        diagnostics[*index].fix = None;
    }
    for index in untried {
        let fix = diagnostics[*index].fix.as_mut().expect("it has a fix");
        fix.applicability = Applicability::Possible;
    }
}

fn is_grammar(diagnostic: &Diagnostic) -> bool {
    matches!(diagnostic.code, Code::Syntax | Code::ForeignSyntax)
}

fn certain_fix(diagnostic: &Diagnostic) -> Option<&Fix> {
    let fix = diagnostic.fix.as_ref()?;
    (fix.span.file == ENTRY && fix.applicability == Applicability::Certain).then_some(fix)
}

/// Whether `fixed` is better than `text`, whose diagnostics are `before`, by the fix of one of them. Errors
/// elsewhere may be new: they were hidden.
fn is_better(before: &[Diagnostic], index: usize, text: &str, after: &[Diagnostic], fixed: &str) -> bool {
    let mended = &before[index];
    let grammar = |all: &[Diagnostic]| all.iter().filter(|diagnostic| is_grammar(diagnostic)).count();
    let line = |text: &str, offset: u32| text[..offset as usize].matches('\n').count();
    let fix = certain_fix(mended).expect("it has a fix");
    let first = line(text, fix.span.start);
    let lines = first..=first + fix.replacement.matches('\n').count();
    // The line of the mistake: that of the text behind it, counted from the end, if the edit is before it.
    let mistake = Some(mended.primary.span).filter(|span| span.file == ENTRY).map(|span| {
        let behind = || text[span.start as usize..].matches('\n').count();
        if span.start < fix.span.end {
            line(text, span.start)
        } else {
            line(fixed, fixed.len() as u32) - behind()
        }
    });
    let is_new = |error: &Diagnostic| {
        let is_at = |line: usize| lines.contains(&line) || mistake == Some(line);
        let span = error.primary.span;
        let is_there = span.file == ENTRY && is_at(line(fixed, span.start));
        let is_known = || before.iter().any(|old| old.code == error.code && old.message == error.message);
        error.severity == Severity::Error && is_there && !is_known()
    };
    grammar(after) < grammar(before) + usize::from(!is_grammar(mended)) && !after.iter().any(is_new)
}
