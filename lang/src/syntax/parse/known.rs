//! Incremental parsing: items of a changing file that an edit does not touch are kept.
//!
//! The layout pass cuts the text at the items, and reads each piece without the text before it. So if the
//! text of a piece and the beginning of the next piece are unchanged, its tree and diagnostics are unchanged,
//! except for their places.

use std::rc::Rc;

use pest::Parser;
use pest::iterators::Pair;

use super::build::{AstBuilder, ParserState};
use super::{Grammar, Rule};
use crate::diag::{Code, Diagnostic};
use crate::source::{FileId, MOST_BYTES, Span, TOO_LONG_HELP};
use crate::syntax::ast::{Item, Module};
use crate::syntax::layout::{self, KnownPiece, LaidOutItem, LayoutContext, LayoutPiece};
use crate::syntax::shift::{Shift, Shifted};

/// The last text of a file, with its trees and diagnostics. Trees are moved in place if nothing else holds
/// them, so the previous result should be dropped first.
#[derive(Default)]
pub struct KnownFile {
    file: Option<FileId>,
    text: String,
    chunks: Vec<Chunk>,
    tree: Rc<Module>,
}

/// A piece that has been parsed.
struct Chunk {
    start: usize,
    end: usize,
    context: LayoutContext,
    /// The state that was passed to it by the pieces before, and the state that it passes on.
    carried_in: ParserState,
    carried_out: ParserState,
    items: Vec<Rc<Item>>,
    diagnostics: Vec<Diagnostic>,
    module_doc: Vec<String>,
}

impl KnownFile {
    /// Parses a new text of the file. The result is that of [`super::parse`].
    pub fn parse(&mut self, file: FileId, text: &str) -> (Rc<Module>, Vec<Diagnostic>) {
        if text.len() > MOST_BYTES {
            *self = KnownFile::default();
            return (Rc::default(), vec![too_long(file, text)]);
        }
        // Items can't be moved in place while the old tree holds them.
        self.tree = Rc::default();
        let (pieces, items_close) = layout::pieces(file, text, self.same_pieces(text));
        let mut old: Vec<Option<Chunk>> = std::mem::take(&mut self.chunks).into_iter().map(Some).collect();
        let mut carry = ParserState::default();
        let mut at = 0;
        for piece in pieces {
            let kept = match &piece {
                LayoutPiece::KnownPiece(number) => {
                    old[*number].take().filter(|chunk| chunk.carried_in == carry)
                }
                LayoutPiece::New(_) => None,
            };
            let chunk = match kept {
                Some(mut chunk) => {
                    chunk.move_to(file, at, self.file != Some(file));
                    chunk
                }
                None => {
                    let layout = match piece {
                        LayoutPiece::New(layout) => layout,
                        LayoutPiece::KnownPiece(_) => layout::lay_out_piece(file, &text[at..], items_close),
                    };
                    Chunk::parse(file, text, at, layout, carry)
                }
            };
            at = chunk.end;
            carry = chunk.carried_out.clone();
            self.chunks.push(chunk);
        }
        self.file = Some(file);
        text.clone_into(&mut self.text);
        let doc: Vec<&str> =
            self.chunks.iter().flat_map(|chunk| &chunk.module_doc).map(String::as_str).collect();
        let items = self.chunks.iter().flat_map(|chunk| &chunk.items).cloned().collect();
        self.tree = Rc::new(Module { doc: doc.join("\n"), items });
        self.result()
    }

    /// The last result, if it was for this text of this file.
    pub fn unchanged(&self, file: FileId, text: &str) -> Option<(Rc<Module>, Vec<Diagnostic>)> {
        (self.file == Some(file) && self.text == text).then(|| self.result())
    }

    /// Returns the unchanged pieces. The texts may differ in one range, as when someone types: a text that is
    /// in both but has moved relative to its neighbours counts as changed.
    fn same_pieces(&self, text: &str) -> impl Fn(usize, bool) -> Option<KnownPiece> {
        let before = common_prefix(self.text.as_bytes(), text.as_bytes());
        let after = common_suffix(&self.text.as_bytes()[before..], &text.as_bytes()[before..]);
        let (old_length, new_length) = (self.text.len(), text.len());
        let all = before == new_length && before == old_length;
        move |at, items_close| {
            let behind = all || at >= new_length - after;
            let place = if behind { at + old_length - new_length } else { at };
            let number = self.chunks.binary_search_by_key(&place, |chunk| chunk.start).ok()?;
            let chunk = &self.chunks[number];
            let LayoutContext { items_close: rule, rest_of_file, unclosed_brace } = chunk.context;
            // Where a piece ends depends on how the next one begins. The last one may continue now.
            let next_is_same = || {
                self.chunks.get(number + 1..).is_some_and(|next| next.len() > 1 && next[0].end <= before)
                    && !rest_of_file
            };
            let same = (behind || next_is_same()) && rule.is_none_or(|rule| rule == items_close);
            same.then_some(KnownPiece { number, length: chunk.end - chunk.start, unclosed_brace })
        }
    }

    fn result(&self) -> (Rc<Module>, Vec<Diagnostic>) {
        let diagnostics = self.chunks.iter().flat_map(|chunk| &chunk.diagnostics).cloned().collect();
        (Rc::clone(&self.tree), diagnostics)
    }
}

/// A text is not read further than its length if it can't be an experiment that somebody wrote.
fn too_long(file: FileId, text: &str) -> Diagnostic {
    let message = format!("the file has {} bytes, more than a source file may have", text.len());
    Diagnostic::error(Code::Syntax, Span::new(file, 0, 0), message).label("not read").help(TOO_LONG_HELP)
}

impl Chunk {
    fn parse(file: FileId, text: &str, start: usize, layout: LaidOutItem, carried_in: ParserState) -> Chunk {
        let end = start + layout.text.len();
        let mut builder = AstBuilder::new(file, &text[start..end], &layout, carried_in.clone());
        let items: Vec<Rc<Item>> = match Grammar::parse(Rule::file, &layout.text) {
            Ok(pairs) => pairs
                .flat_map(Pair::into_inner)
                .flat_map(|pair| builder.top_level(pair))
                .map(Rc::new)
                .collect(),
            // The root rule matches any text. If the grammar ever loses that property, the file still gets a
            // report.
            Err(error) => {
                builder.report_raw(&error);
                Vec::new()
            }
        };
        let (mut diagnostics, carried_out) = builder.finish();
        diagnostics.extend(layout.diagnostics);
        diagnostics.sort_by_key(|diagnostic| (diagnostic.primary.span.start, diagnostic.primary.span.end));
        let (context, module_doc) = (layout.context, layout.module_doc);
        let mut chunk = Chunk {
            start: 0,
            end: end - start,
            context,
            carried_in,
            carried_out,
            items,
            diagnostics,
            module_doc,
        };
        chunk.move_to(file, start, false);
        chunk
    }

    fn move_to(&mut self, file: FileId, start: usize, other_file: bool) {
        if start != self.start || other_file {
            let shift = Shift::new(file, self.start, start);
            self.items.shift(shift);
            self.diagnostics.shift(shift);
            (self.start, self.end) = (start, start + self.end - self.start);
        }
    }
}

const BLOCK: usize = 256;

fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let blocks = a.chunks_exact(BLOCK).zip(b.chunks_exact(BLOCK)).take_while(|(a, b)| a == b).count() * BLOCK;
    blocks + a[blocks..].iter().zip(&b[blocks..]).take_while(|(a, b)| a == b).count()
}

fn common_suffix(a: &[u8], b: &[u8]) -> usize {
    let blocks =
        a.rchunks_exact(BLOCK).zip(b.rchunks_exact(BLOCK)).take_while(|(a, b)| a == b).count() * BLOCK;
    let (a, b) = (&a[..a.len() - blocks], &b[..b.len() - blocks]);
    blocks + a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: FileId = FileId(0);
    const FIVE: &str =
        "let a = 1\n/// two\nlet b = 2\nfn f(x) = x\n\nobjective o {\n  term t = live ratio\n}\nlet z = 9\n";

    /// How many items of `before` are kept in the tree of `after`, which must equal that of a new parse.
    fn reused(before: &str, after: &str) -> usize {
        let mut known = KnownFile::default();
        let places = |module: &Module| module.items.iter().map(Rc::as_ptr).collect::<Vec<_>>();
        let old = places(&known.parse(FILE, before).0);
        let again = known.parse(FILE, after);
        assert_eq!(
            format!("{again:?}"),
            format!("{:?}", super::super::parse(FILE, after)),
            "{before:?} to {after:?}"
        );
        places(&again.0).iter().filter(|item| old.contains(item)).count()
    }

    #[test]
    fn a_keystroke_costs_its_item_and_the_one_before_at_most() {
        assert_eq!(reused(FIVE, FIVE), 5);
        assert_eq!(reused(FIVE, &FIVE.replace("x) = x", "x) = x + 1")), 3);
        assert_eq!(reused(FIVE, &FIVE.replace("live ratio", "live ratio\n  weight = 2")), 3);
        // A comment belongs to the item after it.
        assert_eq!(reused(FIVE, &FIVE.replace("let z", "// last\nlet z")), 3);
    }

    #[test]
    fn a_text_that_is_the_same_is_not_read_again() {
        let mut known = KnownFile::default();
        assert!(known.unchanged(FILE, "").is_none(), "nothing has been read");
        let broken = format!("{FIVE}let = 1\n");
        let (tree, diagnostics) = known.parse(FILE, &broken);
        let (same, said) = known.unchanged(FILE, &broken).expect("the text of the last parse");
        assert!(Rc::ptr_eq(&tree, &same));
        assert!(!said.is_empty() && format!("{said:?}") == format!("{diagnostics:?}"));
        // Places name their file.
        assert!(known.unchanged(FileId(1), &broken).is_none());
        assert!(known.unchanged(FILE, FIVE).is_none());
    }

    #[test]
    fn an_open_block_leaves_the_items_after_it_alone() {
        let open = FIVE.replace("let b = 2", "let b = f {");
        assert_eq!(reused(FIVE, &open), 3);
        // While it is open, and when it closes.
        assert_eq!(reused(&open, &open.replace("z = 9", "z = 99")), 3);
        assert_eq!(reused(&open, FIVE), 3);
    }

    #[test]
    fn reparse_after_an_edit_finds_the_new_end_of_an_item() {
        // `let n` begins an item, `let not` continues the line before.
        reused("let b = 0\nlet a = 1 +\nlet n", "let b = 0\nlet a = 1 +\nlet not");
        // The quote closes one that was opened some items before.
        let open = "let a = \"\"\"\nlet b = 2\nlet c = 3\nlet d = 4\n";
        reused(open, &format!("{open}\"\"\"\n"));
    }

    #[test]
    fn reparse_keeps_the_state_between_items() {
        // Documentation after an item belongs to the next one; a deeper line belongs to the broken one before
        // it.
        reused("let a = 1\nlet b = 2\nlet c = 3\n", "let a = 1 /// of b\nlet b = 2\nlet c = 3\n");
        reused("let a = 1\n  let = 2\n  let = 3\nlet c = 3\n", "let = 1\n  let = 2\n  let = 3\nlet c = 3\n");
    }
}
