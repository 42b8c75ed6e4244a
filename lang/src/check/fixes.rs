//! Certain fixes of a text whose grammar is broken. There, what was meant is a guess: `clip((x, -5, 5)` needs
//! another bracket, and only one of the places for it gives `clip` its arguments. So each fix is applied
//! alone, and the text that it makes is checked. A fix that leaves a new error where it was applied, or a
//! grammar that is no better, is not offered.

use crate::check::analysis::Checked;
use crate::diag::{Applicability, Code, Diagnostic, Severity, apply_once};
use crate::source::{FileId, Sources};

const ENTRY: FileId = FileId(0);

/// The most fixes that are tried: each takes a check.
const MOST: usize = 16;

fn is_grammar(diagnostic: &Diagnostic) -> bool {
    matches!(diagnostic.code, Code::Syntax | Code::ForeignSyntax)
}

impl Checked {
    /// Drops the certain fixes of the entry file that don't hold. `check` checks another text in its place.
    pub fn drop_fixes_that_fail(&mut self, mut check: impl FnMut(&str) -> Checked) {
        if !self.diagnostics.iter().any(is_grammar) {
            return;
        }
        let text = &self.sources.file(ENTRY).text;
        let is_tried = |diagnostic: &Diagnostic| {
            let fix = diagnostic.fix.as_ref().filter(|fix| fix.span.file == ENTRY);
            fix.is_some_and(|fix| fix.applicability == Applicability::Certain)
        };
        let tried: Vec<usize> =
            (0..self.diagnostics.len()).filter(|place| is_tried(&self.diagnostics[*place])).collect();
        let (tried, untried) = tried.split_at(tried.len().min(MOST));
        let holds = |place: &usize| {
            let fixed = apply_once(text, ENTRY, &self.diagnostics[*place..=*place], |_| true);
            fixed.is_some_and(|(fixed, _)| self.is_better(&self.diagnostics[*place], &check(&fixed)))
        };
        let failed: Vec<bool> = tried.iter().map(holds).map(|holds| !holds).collect();
        for (place, _) in tried.iter().zip(failed).filter(|(_, failed)| *failed) {
            self.diagnostics[*place].fix = None;
        }
        for place in untried {
            self.diagnostics[*place].fix.as_mut().expect("it has a fix").applicability =
                Applicability::Possible;
        }
    }

    /// Whether the text is better after the fix of `fixed`. Errors elsewhere may be new: they were hidden.
    fn is_better(&self, fixed: &Diagnostic, after: &Checked) -> bool {
        let grammar =
            |checked: &Checked| checked.diagnostics.iter().filter(|found| is_grammar(found)).count();
        let (before, now) = (grammar(self), grammar(after));
        let fix = fixed.fix.as_ref().expect("it has a fix");
        let line = |sources: &Sources, place| sources.position(ENTRY, place).0;
        let first = line(&self.sources, fix.span.start);
        let lines = first..=first + fix.replacement.matches('\n').count();
        let is_known = |found: &Diagnostic| {
            self.diagnostics.iter().any(|known| known.code == found.code && known.message == found.message)
        };
        let is_new = |found: &&Diagnostic| {
            let span = found.primary.span;
            let is_there = span.file == ENTRY && lines.contains(&line(&after.sources, span.start));
            found.severity == Severity::Error && is_there && !is_known(found)
        };
        now < before + usize::from(!is_grammar(fixed)) && after.diagnostics.iter().find(is_new).is_none()
    }
}
