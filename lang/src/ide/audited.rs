//! Diagnostics of the last audit while the text is edited. An audit takes longer than a keystroke may, so
//! they are shown until the text that they depend on changes, at the place where that text now stands.
//!
//! A diagnostic depends on the item that it is about, on the items named there, and on the settings of other
//! items that it points at. The names are followed up to models: the settings of a model say nothing about
//! the gradients of the stage that begins with it.

use rustc_hash::{FxHashMap, FxHashSet};

use super::ENTRY;
use crate::check::{Analysis, allow};
use crate::diag::{Diagnostic, Fix, Label};
use crate::source::Span;
use crate::syntax::tokens::{SyntaxToken, TokenKind, lex};
use crate::syntax::words;

/// What the last audit reported in addition to the check.
#[derive(Default)]
pub struct AuditDiagnostics {
    text: String,
    diagnostics: Vec<AuditDiagnostic>,
}

struct AuditDiagnostic {
    diagnostic: Diagnostic,
    /// The pieces of the text that it depends on.
    pieces: Vec<Piece>,
}

/// An item, or a setting in its block.
#[derive(Clone, Debug, PartialEq)]
struct Piece {
    /// The words that the item begins with: `objective mine`.
    head: [String; 2],
    /// Without comments and line ends.
    tokens: Vec<SyntaxToken>,
}

impl AuditDiagnostics {
    /// The diagnostics of an audited text that its check does not report.
    pub fn new(text: &str, checked: &[Diagnostic], audited: &[Diagnostic]) -> AuditDiagnostics {
        let items = items(text);
        let added = audited.iter().filter(|diagnostic| !checked.contains(diagnostic));
        let diagnostics = added.filter_map(|diagnostic| {
            let pieces = needed(&items, text, diagnostic)?;
            Some(AuditDiagnostic { diagnostic: diagnostic.clone(), pieces })
        });
        AuditDiagnostics { text: text.to_owned(), diagnostics: diagnostics.collect() }
    }

    /// Adds to the analysis of a changed text those that still hold.
    pub fn add_to(&self, analysis: &mut Analysis) {
        if self.diagnostics.is_empty() {
            return;
        }
        let now = analysis.sources.file(ENTRY).text.clone();
        let items = items(&now);
        for earlier in &self.diagnostics {
            let Some(diagnostic) = earlier.moved(&self.text, &now, &items) else { continue };
            let span = diagnostic.primary.span;
            let repeated = analysis
                .diagnostics
                .iter()
                .any(|other| (other.code, other.primary.span) == (diagnostic.code, span));
            if !repeated && !allow::is_allowed(&analysis.sources, diagnostic.code, span) {
                analysis.diagnostics.push(diagnostic);
            }
        }
        analysis.diagnostics.sort_by_key(|diagnostic| diagnostic.primary.span);
    }
}

impl AuditDiagnostic {
    /// The diagnostic at its place in another text; `None` where a piece has changed.
    fn moved(&self, before: &str, now: &str, items: &[Piece]) -> Option<Diagnostic> {
        let pairs: Vec<(&Piece, Piece)> = self
            .pieces
            .iter()
            .map(|piece| Some((piece, piece.within(before, now, items)?)))
            .collect::<Option<_>>()?;
        let span = |span: Span| match span.file {
            ENTRY => pairs.iter().find_map(|(from, to)| from.moved(span, to)),
            _ => Some(span),
        };
        let label = |label: &Label| Some(Label { span: span(label.span)?, text: label.text.clone() });
        // A fix is kept if it replaces the same text.
        let text =
            |text: &str, span: Span| text.get(span.start as usize..span.end as usize).map(str::to_owned);
        let fix = |fix: &Fix| {
            let to = span(fix.span).filter(|to| text(before, fix.span) == text(now, *to))?;
            (fix.span.file == ENTRY).then(|| Fix { span: to, ..fix.clone() })
        };
        let Diagnostic { code, severity, message, primary, related, help, fix: edit, choices } =
            &self.diagnostic;
        Some(Diagnostic {
            code: *code,
            severity: *severity,
            message: message.clone(),
            primary: label(primary)?,
            related: related.iter().filter_map(label).collect(),
            help: help.clone(),
            fix: edit.as_ref().and_then(fix),
            choices: choices.iter().filter_map(fix).collect(),
        })
    }
}

impl Piece {
    /// This piece in another text.
    fn within(&self, before: &str, now: &str, items: &[Piece]) -> Option<Piece> {
        let same = |tokens: &[SyntaxToken]| {
            tokens.len() == self.tokens.len()
                && tokens.iter().zip(&self.tokens).all(|(new, old)| new.text(now) == old.text(before))
        };
        let candidates = items.iter().filter(|item| item.head == self.head);
        candidates
            .flat_map(|item| std::iter::once(item.clone()).chain(item.settings(now)))
            .find(|piece| same(&piece.tokens))
    }

    /// The settings of the item's block: its parts between separators outside of inner brackets.
    fn settings(&self, text: &str) -> Vec<Piece> {
        let (mut settings, mut depth, mut first) = (Vec::new(), 0usize, 0);
        let mut close = |first: usize, end: usize| {
            if first < end {
                settings.push(Piece { head: self.head.clone(), tokens: self.tokens[first..end].to_vec() });
            }
        };
        for (nth, token) in self.tokens.iter().enumerate() {
            let new_line = nth > 0 && text[self.tokens[nth - 1].end..token.start].contains('\n');
            match token.kind {
                _ if depth == 1 && new_line && token.kind != TokenKind::Close => {
                    close(first, nth);
                    first = nth;
                    depth += usize::from(token.kind == TokenKind::Open);
                }
                TokenKind::Open => {
                    depth += 1;
                    first = if depth == 1 { nth + 1 } else { first };
                }
                TokenKind::Close => {
                    if depth == 1 {
                        close(first, nth);
                        first = nth + 1;
                    }
                    depth = depth.saturating_sub(1);
                }
                TokenKind::Comma if depth == 1 => {
                    close(first, nth);
                    first = nth + 1;
                }
                _ => {}
            }
        }
        settings
    }

    fn contains(&self, span: Span) -> bool {
        let ends = self.tokens.first().zip(self.tokens.last());
        ends.is_some_and(|(first, last)| first.start <= span.start as usize && span.end as usize <= last.end)
    }

    /// A span of this piece, in another piece with the same tokens.
    fn moved(&self, span: Span, to: &Piece) -> Option<Span> {
        let (start, end) = (span.start as usize, span.end as usize);
        let pairs = || self.tokens.iter().zip(&to.tokens);
        let (old, new) = pairs().find(|(old, _)| (old.start..old.end).contains(&start))?;
        let first = new.start + (start - old.start);
        let (old, new) = pairs().find(|(old, _)| old.start <= end && end <= old.end)?;
        Some(Span::new(ENTRY, first, new.start + (end - old.start)))
    }
}

/// What a diagnostic depends on; `None` if it has a place outside of all items.
fn needed(items: &[Piece], text: &str, diagnostic: &Diagnostic) -> Option<Vec<Piece>> {
    let around = |span: Span| items.iter().position(|item| item.contains(span));
    let imports = items.iter().enumerate().filter(|(_, item)| item.head[0] == "use").map(|(nth, _)| nth);
    let mut whole: Vec<usize> = imports.collect();
    let about = match diagnostic.primary.span.file {
        ENTRY => Some(around(diagnostic.primary.span)?),
        _ => None,
    };
    whole.extend(about);
    let names: FxHashMap<&str, usize> =
        items.iter().enumerate().map(|(nth, item)| (item.head[1].as_str(), nth)).collect();
    let mut settings = Vec::new();
    for label in diagnostic.related.iter().filter(|label| label.span.file == ENTRY) {
        let item = around(label.span)?;
        if Some(item) != about {
            let setting = items[item].settings(text).into_iter().find(|setting| setting.contains(label.span));
            settings.push(setting.unwrap_or_else(|| items[item].clone()));
        }
    }
    // Names are followed from item to item.
    let mut seen: FxHashSet<usize> = whole.iter().copied().collect();
    let mut waiting: Vec<Piece> =
        whole.iter().map(|item| items[*item].clone()).chain(settings.clone()).collect();
    while let Some(piece) = waiting.pop() {
        let words = piece.tokens.iter().filter(|token| token.kind == TokenKind::Word);
        for item in words.filter_map(|word| names.get(word.text(text)).copied()) {
            if !matches!(items[item].head[0].as_str(), "model" | "stage") && seen.insert(item) {
                whole.push(item);
                waiting.push(items[item].clone());
            }
        }
    }
    Some(whole.into_iter().map(|item| items[item].clone()).chain(settings).collect())
}

/// The items of a text, however broken: an item begins with its word at the left margin, or at the beginning
/// of a line outside of all brackets.
fn items(text: &str) -> Vec<Piece> {
    let (mut items, mut depth, mut line_start) = (Vec::<Piece>::new(), 0usize, true);
    let mut tokens = lex(text).into_iter().filter(|token| !token.is_comment()).peekable();
    while let Some(token) = tokens.next() {
        if token.kind == TokenKind::Newline {
            line_start = true;
            continue;
        }
        let margin = token.start == 0 || text[..token.start].ends_with('\n');
        let word = token.text(text);
        let begins = line_start && (margin || depth == 0) && (word == "pub" || words::ITEMS.contains(&word));
        if begins {
            let next = |token: Option<&SyntaxToken>| token.map_or("", |token| token.text(text)).to_owned();
            items.push(Piece { head: [word.to_owned(), next(tokens.peek())], tokens: Vec::new() });
            depth = 0;
        }
        match token.kind {
            TokenKind::Open => depth += 1,
            TokenKind::Close => depth = depth.saturating_sub(1),
            _ => {}
        }
        line_start = false;
        let Some(item) = items.last_mut() else { continue };
        // `pub objective mine`
        if let [first, second] = item.tokens.as_slice()
            && first.text(text) == "pub"
        {
            item.head = [second.text(text).to_owned(), word.to_owned()];
        }
        item.tokens.push(token);
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diag::Code;
    use crate::ide::testing::{GOOD, check};

    /// A warning at a part of `GOOD`, with a note at another and a fix of the first.
    fn audited() -> AuditDiagnostics {
        let span = |part: &str| {
            let start = GOOD.find(part).expect("a part of the text");
            Span::new(ENTRY, start, start + part.len())
        };
        let warning = Diagnostic::warning(Code::WrongSign, span("-gap * live student.logp"), "wrong")
            .note(span("sample(n: 1, temperature: 1.0, max_tokens: longest)"), "on these")
            .replace_with("turn it", "gap * live student.logp");
        AuditDiagnostics::new(GOOD, &[], &[warning])
    }

    /// What is marked in the edited text: the place, the note, what the fix replaces.
    fn marked(text: &str) -> Option<[String; 3]> {
        let mut analysis = check(text);
        audited().add_to(&mut analysis);
        let diagnostic = analysis.diagnostics.iter().find(|diagnostic| diagnostic.code == Code::WrongSign)?;
        let fix = diagnostic.fix.as_ref().map_or(diagnostic.primary.span, |fix| fix.span);
        let spans = [diagnostic.primary.span, diagnostic.related[0].span, fix];
        Some(spans.map(|span| analysis.sources.text(span).to_owned()))
    }

    #[test]
    fn they_stay_while_what_they_depend_on_is_the_same() {
        let first = marked(GOOD).expect("it is audited");
        assert_eq!(first[0], "-gap * live student.logp");
        assert!(first[1].starts_with("sample("));
        for (old, new) in [
            // A comment, outside and within the objective.
            ("experiment", "// a note\nexperiment"),
            ("  let gap", "  // a note\n  let gap"),
            ("live student.logp", "live   student.logp // a note"),
            // Other items and settings, half typed too.
            ("steps = 2, prompts = 2", "steps = 3, prompts = 2"),
            ("lr = 1e-3\n}\n\nteacher", "lr = \n}\n\nteacher"),
            ("let longest", "let other = (1 +\nlet longest"),
        ] {
            let edited = GOOD.replacen(old, new, 1);
            assert_ne!(edited, GOOD, "{old}");
            let now = marked(&edited).unwrap_or_else(|| panic!("{new}: gone"));
            let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert_eq!(now.map(|text| plain(&text)), first.clone().map(|text| plain(&text)), "{new}");
        }
    }

    #[test]
    fn they_go_where_it_changes() {
        for (old, new) in [
            ("let gap = teacher.logp", "let gap = 2 * teacher.logp"),
            ("-gap * live", "gap * live"),
            ("temperature: 1.0", "temperature: 0.5"),
            // Named by the rollout.
            ("let longest = 8", "let longest = 9"),
            ("use std.opd.mopd", "use std.opd"),
        ] {
            let edited = GOOD.replacen(old, new, 1);
            assert_ne!(edited, GOOD, "{old}");
            assert_eq!(marked(&edited), None, "{new}");
        }
    }

    #[test]
    fn a_comment_silences_them() {
        let edited = GOOD.replace("  term distill", "  // allow(wrong-sign): meant\n  term distill");
        assert_eq!(marked(&edited), None);
    }
}
