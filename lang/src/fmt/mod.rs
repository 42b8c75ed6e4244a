//! One canonical layout. Only blanks, line breaks and the commas between entries change; every other token
//! stays.
//!
//! The rules are in the book (`formatting.md`). The author decides what stands on one line and what on
//! several; the formatter decides the rest. What does not parse is left as it stands.

mod align;
mod edits;
mod print;
mod spacing;
#[cfg(test)]
mod tests;
mod tree;

use std::ops::Range;

use crate::diag::{Code, Diagnostic};
use crate::source::FileId;
use crate::syntax::ast::Module;
use crate::syntax::tokens::{self, SyntaxToken, TokenKind};
use crate::syntax::{Shift, Shifted, layout, parse, top_level};
pub use edits::{TextEdit, applied, edits, edits_in, edits_on_close, edits_on_newline};
use tree::LexedSource;

/// What is wider is broken where a bracket allows it. Wide enough for a table of domains with their files.
pub const WIDTH: usize = 160;

pub struct Formatted {
    pub text: String,
    /// What does not parse and was left as it stands; places are those of the given text. Parts of the
    /// language that are not supported yet are no reason to leave a text alone, and are not among them.
    pub diagnostics: Vec<Diagnostic>,
}

/// Formats one file. Any text will do.
pub fn format(text: &str) -> Formatted {
    let (module, diagnostics) = parse(FileId(0), text);
    let wrong = diagnostics.iter().filter(|diagnostic| diagnostic.code != Code::NotSupported);
    let faults: Vec<usize> = wrong.map(|diagnostic| diagnostic.primary.span.start as usize).collect();
    // Whatever a text has in it, nothing may look different to the parser afterwards; how it finds its way
    // around an error depends on layout.
    let before = Meaning::new(module, &diagnostics);
    let keeps = |formatted: &String| Meaning::of(formatted) == before;
    let attempts = [false, true].into_iter().map(|whole_items| arranged(text, &faults, whole_items));
    let attempts = attempts.take(if faults.is_empty() { 1 } else { 2 });
    let formatted = { attempts }.find(keeps).unwrap_or_else(|| text.to_owned());
    let diagnostics =
        diagnostics.into_iter().filter(|diagnostic| diagnostic.code != Code::NotSupported).collect();
    Formatted { text: formatted, diagnostics }
}

/// Whether the parser makes the same of two texts.
fn same_meaning(one: &str, other: &str) -> bool {
    Meaning::of(one) == Meaning::of(other)
}

/// Where the items of a text stand.
fn top_level_items(text: &str) -> Vec<Range<usize>> {
    top_level(&layout::lay_out(text))
}

/// What the parser makes of a text, without the places: its tree, and what is wrong with it.
#[derive(PartialEq)]
struct Meaning {
    tree: Module,
    diagnostics: Vec<(Code, String)>,
}

impl Meaning {
    fn of(text: &str) -> Meaning {
        let (module, diagnostics) = parse(FileId(0), text);
        Meaning::new(module, &diagnostics)
    }

    fn new(mut tree: Module, diagnostics: &[Diagnostic]) -> Meaning {
        tree.items.shift(Shift::Erase);
        let mut diagnostics: Vec<(Code, String)> =
            diagnostics.iter().map(|diagnostic| (diagnostic.code, diagnostic.message.clone())).collect();
        diagnostics.sort();
        Meaning { tree, diagnostics }
    }
}

/// The text anew. `whole_items`: an item with a fault in it is left as it stands.
fn arranged(text: &str, faults: &[usize], whole_items: bool) -> String {
    let laid_out = layout::lay_out(text);
    let tokens = tokens_of(text);
    let faults: Vec<usize> = faults.iter().map(|at| blamed(&tokens, *at)).collect();
    let is_left =
        |item: Range<usize>| whole_items && faults.iter().any(|at| item.start <= *at && *at <= item.end);
    let (tokens, items) = joined(text, &tokens, &top_level(&laid_out), is_left);
    let source = LexedSource { text, laid_out: &laid_out, items: &items, faults: &faults };
    print::file(text, &tree::build(&source, &tokens))
}

/// The tokens of a text as a layout sees them: comments are alike, and so is all that is no part of the
/// language and is left as it is.
fn tokens_of(text: &str) -> Vec<SyntaxToken> {
    let seen = |token: SyntaxToken| match token.kind {
        TokenKind::Doc => SyntaxToken { kind: TokenKind::Comment, ..token },
        TokenKind::OpenText => {
            let end = token.start + tokens::trimmed(token.text(text)).len();
            SyntaxToken { kind: TokenKind::Foreign, end, ..token }
        }
        TokenKind::Unknown => SyntaxToken { kind: TokenKind::Foreign, ..token },
        _ => token,
    };
    tokens::lex(text).into_iter().map(seen).collect()
}

/// A fault is often found where something is missing, at a separator or a closing bracket: what stands before
/// it is at fault.
fn blamed(tokens: &[SyntaxToken], fault: usize) -> usize {
    let next = tokens.partition_point(|token| token.end <= fault);
    let blameless = |token: &SyntaxToken| {
        matches!(token.kind, TokenKind::Newline | TokenKind::Comment | TokenKind::Comma | TokenKind::Close)
    };
    if tokens.get(next).is_some_and(|token| token.start <= fault && !blameless(token)) {
        return fault;
    }
    let before = tokens[..next]
        .iter()
        .rev()
        .find(|token| !matches!(token.kind, TokenKind::Newline | TokenKind::Comment));
    before.map_or(fault, |token| token.end)
}

/// Puts together, as one foreign token each, the items whose brackets can't be followed, and what belongs to
/// no item. Also says where items begin.
fn joined(
    text: &str,
    tokens: &[SyntaxToken],
    items: &[Range<usize>],
    is_left: impl Fn(Range<usize>) -> bool,
) -> (Vec<SyntaxToken>, Vec<usize>) {
    let mut joined: Vec<SyntaxToken> = Vec::with_capacity(tokens.len());
    let mut starts = Vec::new();
    let mut items = items.iter().peekable();
    let mut at = 0;
    while at < tokens.len() {
        let token = tokens[at];
        if matches!(token.kind, TokenKind::Newline | TokenKind::Comment) {
            joined.push(token);
            at += 1;
            continue;
        }
        while items.next_if(|item| item.end <= token.start).is_some() {}
        let item = items.peek().filter(|item| item.start <= token.start);
        let mut end =
            item.map_or(at + 1, |item| at + tokens[at..].partition_point(|token| token.start < item.end));
        while matches!(tokens[end - 1].kind, TokenKind::Newline | TokenKind::Comment) {
            end -= 1;
        }
        // Something behind an item, on its line, that the grammar did not see stays where it is.
        let mut whole = item.is_some();
        while let Some(next) = tokens.get(end)
            && !matches!(next.kind, TokenKind::Newline | TokenKind::Comment)
        {
            whole = false;
            end += 1;
        }
        let part = &tokens[at..end];
        let span = part[0].start..part[part.len() - 1].end;
        starts.push(span.start);
        if whole && balanced(text, part) && !is_left(span.clone()) {
            joined.extend_from_slice(part);
        } else {
            joined.push(SyntaxToken { kind: TokenKind::Foreign, start: span.start, end: span.end });
        }
        at = end;
    }
    (joined, starts)
}

fn balanced(text: &str, tokens: &[SyntaxToken]) -> bool {
    let mut open = Vec::new();
    tokens.iter().all(|token| match (token.kind, &text[token.start..token.end]) {
        (TokenKind::Open, bracket) => {
            open.push(bracket);
            open.len() <= layout::MAX_DEPTH
        }
        (TokenKind::Close, bracket) => {
            matches!((open.pop(), bracket), (Some("("), ")") | (Some("["), "]") | (Some("{"), "}"))
        }
        _ => true,
    }) && open.is_empty()
}
