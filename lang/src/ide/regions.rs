//! Folding ranges and growing selections. Both are based on tokens, so they work in any text.

use crate::syntax::tokens::{SyntaxToken, TokenKind, lex};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoldKind {
    /// Between brackets.
    Region,
    Comment,
    Imports,
}

/// A range of byte offsets over several lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fold {
    pub start: usize,
    pub end: usize,
    pub kind: FoldKind,
}

/// Folding ranges for brackets, runs of comment lines and runs of `use` lines that take several lines.
pub fn folds(source: &str) -> Vec<Fold> {
    let tokens = lex(source);
    let mut found: Vec<Fold> = pairs(source, &tokens)
        .into_iter()
        .map(|(open, close)| Fold {
            start: tokens[open].end,
            end: tokens[close].start,
            kind: FoldKind::Region,
        })
        .collect();
    found.extend(runs(&tokens, FoldKind::Comment, |line| line.iter().all(|token| token.is_comment())));
    found.extend(runs(&tokens, FoldKind::Imports, |line| line[0].text(source) == "use"));
    found.retain(|fold| source[fold.start..fold.end].contains('\n'));
    found.sort_by_key(|fold| (fold.start, fold.end));
    found
}

/// Runs of adjacent lines of one kind.
fn runs(tokens: &[SyntaxToken], kind: FoldKind, is: impl Fn(&[SyntaxToken]) -> bool) -> Vec<Fold> {
    let mut found: Vec<Fold> = Vec::new();
    let mut running = false;
    for line in tokens.split(|token| token.kind == TokenKind::Newline) {
        let fits = !line.is_empty() && is(line);
        if fits {
            let (start, end) = (line[0].start, line[line.len() - 1].end);
            match found.last_mut().filter(|_| running) {
                Some(run) => run.end = end,
                None => found.push(Fold { start, end, kind }),
            }
        }
        running = fits;
    }
    found
}

/// Opening brackets with their partners.
fn pairs(source: &str, tokens: &[SyntaxToken]) -> Vec<(usize, usize)> {
    let mut open: Vec<usize> = Vec::new();
    let mut found = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        match token.kind {
            TokenKind::Open => open.push(index),
            TokenKind::Close => {
                let partner = match token.text(source) {
                    ")" => "(",
                    "]" => "[",
                    _ => "{",
                };
                if let Some(at) = open.iter().rposition(|open| tokens[*open].text(source) == partner) {
                    found.push((open[at], index));
                    open.truncate(at);
                }
            }
            _ => {}
        }
    }
    found
}

/// Growing ranges around an offset: the token, its line, the insides of brackets, the brackets, the item, the
/// file.
pub fn selections(source: &str, offset: usize) -> Vec<(usize, usize)> {
    let tokens = lex(source);
    let mut ranges = Vec::new();
    if let Some(token) = tokens
        .iter()
        .find(|token| token.start <= offset && offset <= token.end && token.kind != TokenKind::Newline)
    {
        ranges.push((token.start, token.end));
    }
    let line_start = source[..offset].rfind('\n').map_or(0, |at| at + 1);
    let line_end = source[offset..].find('\n').map_or(source.len(), |at| offset + at);
    let line = &source[line_start..line_end];
    let indent = line.len() - line.trim_start().len();
    ranges.push(((line_start + indent).min(offset), (line_start + line.trim_end().len()).max(offset)));
    for (open, close) in pairs(source, &tokens) {
        ranges.push((tokens[open].end, tokens[close].start));
        ranges.push((tokens[open].start, tokens[close].end));
    }
    ranges.push(item_around(source, offset));
    ranges.push((0, source.len()));
    ranges.retain(|(start, end)| *start <= offset && offset <= *end);
    ranges.sort_by_key(|(start, end)| (end - start, *start));
    // Each contains the one before it.
    let mut growing: Vec<(usize, usize)> = Vec::new();
    for range in ranges {
        if growing.last().is_none_or(|last| range.0 <= last.0 && last.1 <= range.1 && range != *last) {
            growing.push(range);
        }
    }
    growing
}

/// The item around an offset: from a line at the left margin to the last line before the next one. Comments
/// above belong to the item.
fn item_around(source: &str, offset: usize) -> (usize, usize) {
    let begins = |line: &str| line.starts_with(|character: char| character.is_ascii_alphabetic());
    let mut start = 0;
    let mut at = 0;
    for line in source.split_inclusive('\n') {
        if begins(line) {
            if at > offset {
                return (start, source[..at].trim_end().len().max(offset));
            }
            start = at;
        }
        at += line.len();
    }
    (start.min(offset), source.trim_end().len().max(offset))
}
