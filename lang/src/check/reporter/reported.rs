//! The diagnostics of a check so far, found by place: a file of many mistakes asks for each whether it is
//! known.

use std::cell::RefCell;

use rustc_hash::FxHashMap;

use crate::diag::{Code, Diagnostic, Label, Severity};
use crate::source::Span;

#[derive(Default)]
pub struct ReportedDiagnostics {
    /// In the order of their reports.
    all: Vec<Diagnostic>,
    /// The indices of those with a code and a primary place.
    at: FxHashMap<(Code, Span), Vec<usize>>,
    /// How many have a code and a first related place.
    beside: FxHashMap<(Code, Span), usize>,
    has_errors: bool,
    /// What was reported, again as well.
    heard: RefCell<Vec<(Code, Span)>>,
}

impl ReportedDiagnostics {
    /// Adds a diagnostic unless it is there already. The body of a function or objective is checked at every
    /// use, but its mistakes are reported once.
    pub fn add(&mut self, diagnostic: Diagnostic) {
        let key = (diagnostic.code, diagnostic.primary.span);
        self.heard.get_mut().push(key);
        let known = self.at.entry(key).or_default();
        if known.iter().any(|known| same_but_for_members(&self.all[*known].message, &diagnostic.message)) {
            return;
        }
        known.push(self.all.len());
        if let Some(first) = diagnostic.related.first() {
            *self.beside.entry((diagnostic.code, first.span)).or_default() += 1;
        }
        self.has_errors |= diagnostic.severity == Severity::Error;
        self.all.push(diagnostic);
    }

    /// Whether there is a diagnostic of this code at this place. Who asks would report it again.
    pub fn is_reported(&self, code: Code, span: Span) -> bool {
        let known = self.at.get(&(code, span)).is_some_and(|known| !known.is_empty());
        if known {
            self.heard.borrow_mut().push((code, span));
        }
        known
    }

    /// How many reports there were, for [`ReportedDiagnostics::heard_since`].
    pub fn count(&self) -> usize {
        self.heard.borrow().len()
    }

    /// What was reported after so many reports.
    pub fn heard_since(&self, count: usize) -> Vec<(Code, Span)> {
        self.heard.borrow().get(count..).unwrap_or_default().to_vec()
    }

    /// Adds a note to the diagnostics of this code at this place whose message does not say `without`.
    pub fn annotate(&mut self, code: Code, span: Span, without: &str, note: &Label) {
        for known in self.at.get(&(code, span)).into_iter().flatten() {
            let diagnostic = &mut self.all[*known];
            if !diagnostic.message.contains(without) {
                diagnostic.related.push(note.clone());
            }
        }
    }

    pub fn has_errors(&self) -> bool {
        self.has_errors
    }

    /// Removes the diagnostics of this code and message whose first related place is this one, and that are
    /// reported elsewhere.
    pub fn remove_beside(&mut self, code: Code, message: &str, span: Span) {
        if !self.beside.contains_key(&(code, span)) {
            return;
        }
        let heard = std::mem::take(&mut self.heard);
        let all = std::mem::take(self).all;
        let removed = |known: &Diagnostic| {
            known.code == code
                && known.message == message
                && known.primary.span != span
                && known.related.first().is_some_and(|first| first.span == span)
        };
        all.into_iter().filter(|known| !removed(known)).for_each(|kept| self.add(kept));
        self.heard = heard;
    }

    pub fn into_vec(self) -> Vec<Diagnostic> {
        self.all
    }
}

/// Whether two messages differ at most in the member of a family that they name: `expert[sort]`,
/// `expert[reverse]`.
fn same_but_for_members(a: &str, b: &str) -> bool {
    let plain = |text: &str| {
        let mut inside = false;
        let kept = text.chars().filter(|c| {
            inside = inside && *c != ']' || *c == '[';
            !inside
        });
        kept.collect::<String>()
    };
    a == b || a.contains('[') && b.contains('[') && plain(a) == plain(b)
}

#[cfg(test)]
mod tests {
    use crate::source::FileId;

    use super::*;

    fn span(start: usize) -> Span {
        Span::new(FileId(0), start, start + 1)
    }

    fn messages(reported: ReportedDiagnostics) -> Vec<String> {
        reported.into_vec().into_iter().map(|diagnostic| diagnostic.message).collect()
    }

    #[test]
    fn add_ignores_what_is_reported_at_the_same_place() {
        let mut reported = ReportedDiagnostics::default();
        for (code, start, message) in [
            (Code::UnknownName, 0, "a"),
            (Code::UnknownName, 0, "a"),
            (Code::UnknownName, 1, "a"),
            (Code::OutOfRange, 0, "a"),
            (Code::OutOfRange, 2, "of `expert[sort]`"),
            (Code::OutOfRange, 2, "of `expert[reverse]`"),
            (Code::OutOfRange, 2, "of `expert`"),
        ] {
            reported.add(Diagnostic::error(code, span(start), message));
        }
        assert!(reported.is_reported(Code::UnknownName, span(1)));
        assert!(!reported.is_reported(Code::UnknownName, span(2)));
        assert_eq!(messages(reported), ["a", "a", "a", "of `expert[sort]`", "of `expert`"]);
    }

    #[test]
    fn remove_beside_takes_only_reports_at_other_places() {
        let mut reported = ReportedDiagnostics::default();
        let of = |start, message| Diagnostic::warning(Code::OutOfRange, span(start), message);
        reported.add(of(1, "too large").note(span(7), "read here"));
        reported.add(of(2, "too small").note(span(7), "read here"));
        reported.add(of(7, "too large").note(span(7), "read here"));
        reported.add(of(3, "too large").note(span(8), "read here"));
        reported.remove_beside(Code::OutOfRange, "too large", span(7));
        assert!(!reported.has_errors());
        assert!(!reported.is_reported(Code::OutOfRange, span(1)));
        assert_eq!(messages(reported), ["too small", "too large", "too large"]);
    }
}
