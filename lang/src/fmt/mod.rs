//! The formatter, which gives a file its canonical layout. Only blanks, line breaks and the commas between
//! entries change; every other token stays.
//!
//! The rules are in the book (`formatting.md`). The author decides whether something is on one line or
//! several, the formatter everything else. Text that does not parse is left as it is.

mod align;
mod edits;
mod print;
mod spacing;
#[cfg(test)]
mod tests;
mod tree;

use std::ops::Range;

use crate::diag::{Code, Diagnostic, bounded};
use crate::source::{FileId, MOST_BYTES};
use crate::syntax::ast::Module;
use crate::syntax::tokens::{self, SyntaxToken, TokenKind};
use crate::syntax::{Shift, Shifted, layout, parse, top_level};
pub use edits::{TextEdit, applied, edits, edits_in, edits_on_close, edits_on_newline};
use tree::LexedSource;

/// Wider lines are broken where a bracket allows it. Wide enough for a table of domains with their files.
pub const WIDTH: usize = 160;

pub struct Formatted {
    pub text: String,
    /// Errors of the parts that do not parse and were left as they are, with places in the given text. Parts
    /// of the language that are not supported yet are formatted, and are not among these.
    pub diagnostics: Vec<Diagnostic>,
}

/// Formats one file. Accepts any text.
pub fn format(text: &str) -> Formatted {
    let (module, diagnostics) = parse(FileId(0), text);
    if text.len() > MOST_BYTES {
        return Formatted { text: text.to_owned(), diagnostics };
    }
    let wrong = diagnostics.iter().filter(|diagnostic| diagnostic.code != Code::NotSupported);
    let faults: Vec<usize> = wrong.map(|diagnostic| diagnostic.primary.span.start as usize).collect();
    // The result must always parse to the same tree. Error recovery depends on layout, so this is checked.
    let before = ParseResult::new(module, &diagnostics);
    let keeps = |formatted: &String| ParseResult::from_text(formatted) == before;
    let attempts = [false, true].into_iter().map(|whole_items| arranged(text, &faults, whole_items));
    let attempts = attempts.take(if faults.is_empty() { 1 } else { 2 });
    let formatted = { attempts }.find(keeps).unwrap_or_else(|| text.to_owned());
    let diagnostics =
        diagnostics.into_iter().filter(|diagnostic| diagnostic.code != Code::NotSupported).collect();
    Formatted { text: formatted, diagnostics: bounded(diagnostics) }
}

/// Whether two texts parse to the same.
fn same_meaning(one: &str, other: &str) -> bool {
    ParseResult::from_text(one) == ParseResult::from_text(other)
}

/// The ranges of a text's items.
fn top_level_items(text: &str) -> Vec<Range<usize>> {
    top_level(&layout::lay_out(text))
}

/// The result of parsing a text, without places: its tree and its diagnostics.
#[derive(PartialEq)]
struct ParseResult {
    tree: Module,
    diagnostics: Vec<(Code, String)>,
}

impl ParseResult {
    fn from_text(text: &str) -> ParseResult {
        let (module, diagnostics) = parse(FileId(0), text);
        ParseResult::new(module, &diagnostics)
    }

    fn new(mut tree: Module, diagnostics: &[Diagnostic]) -> ParseResult {
        tree.items.shift(Shift::Erase);
        let mut diagnostics: Vec<(Code, String)> =
            diagnostics.iter().map(|diagnostic| (diagnostic.code, diagnostic.message.clone())).collect();
        diagnostics.sort();
        ParseResult { tree, diagnostics }
    }
}

/// The formatted text. `whole_items`: an item with an error in it is left as it is.
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

/// The tokens of a text for layout. All comments have one kind, and all foreign text, which is left as it
/// is, another.
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

/// The token that causes an error. An error is often found only at the separator or closing bracket after
/// something missing; then the token before is the cause.
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

/// Joins each item with unmatched brackets, and text outside items, into one foreign token. Also returns the
/// starts of items.
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
        // Text after the item on its line that the grammar did not cover stays where it is.
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
