//! Builds a tree of brackets and entries from tokens, with every comment.
//!
//! It has less detail than the syntax tree: only the separators and groups that layout depends on.

use std::ops::Range;

use crate::syntax::tokens::{SyntaxToken, TokenKind};

/// Words that are followed by an operand: brackets after them are neither call nor index.
const OPERATOR_WORDS: [&str; 8] = ["and", "or", "not", "then", "live", "for", "in", "else"];

pub struct Comment<'a> {
    pub text: &'a str,
    /// Whether the comment is the first on its line.
    pub own_line: bool,
    pub blank_before: bool,
}

/// The blanks and comments before a token of an entry.
#[derive(Default)]
pub struct LeadingTrivia<'a> {
    pub newline: bool,
    pub comments: Vec<Comment<'a>>,
}

pub struct SourcePiece<'a> {
    pub before: LeadingTrivia<'a>,
    pub node: LayoutNode<'a>,
}

pub enum LayoutNode<'a> {
    Token(TokenKind, &'a str),
    Group(TokenGroup<'a>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupRole {
    /// `{ key = value }`: entries end at a newline or a comma.
    Block,
    /// The names of `use std.opd.{a, b}`.
    Names,
    /// A list, arguments, parameters: a comma may follow the last.
    Elements,
    /// One expression in brackets, an index, the text of a mark: no comma may follow.
    Single,
}

pub struct TokenGroup<'a> {
    pub open: &'a str,
    pub close: &'a str,
    pub role: GroupRole,
    /// Whether the author wrote a newline somewhere in it.
    pub lines: bool,
    /// A comment on the line of the opening bracket.
    pub opening: Option<&'a str>,
    pub body: Body<'a>,
}

#[derive(Default)]
pub struct Body<'a> {
    pub entries: Vec<TreeEntry<'a>>,
    /// Comments after the last entry.
    pub tail: Vec<Comment<'a>>,
}

/// The text between two separators: an item, a statement, an arm, an element of a list.
pub struct TreeEntry<'a> {
    pub leading: Vec<Comment<'a>>,
    pub blank_before: bool,
    pub pieces: Vec<SourcePiece<'a>>,
    pub trailing: Option<&'a str>,
    pub span: Range<usize>,
    /// Whether it does not parse, and is therefore printed as it is.
    pub verbatim: bool,
}

/// The inputs of the builder besides the tokens.
pub struct LexedSource<'a> {
    pub text: &'a str,
    /// The same text after the layout pass: the remaining newlines are separators.
    pub laid_out: &'a str,
    /// The offsets at which items begin.
    pub items: &'a [usize],
    /// The offsets at which the parser reported errors.
    pub faults: &'a [usize],
}

#[derive(Clone, Copy, PartialEq)]
enum BodyKind {
    File,
    Block,
    Brackets,
}

struct TreeBuilder<'a> {
    source: &'a LexedSource<'a>,
    tokens: std::slice::Iter<'a, SyntaxToken>,
}

/// The tree of a whole file. Brackets must be balanced and not nested deeper than the layout pass allows.
pub fn build<'a>(source: &'a LexedSource<'a>, tokens: &'a [SyntaxToken]) -> Body<'a> {
    let mut builder = TreeBuilder { source, tokens: tokens.iter() };
    builder.body(BodyKind::File).body
}

/// A body, with its opening comment and its closing bracket.
struct ClosedBody<'a> {
    body: Body<'a>,
    opening: Option<&'a str>,
    close: &'a str,
    end: usize,
    lines: bool,
}

impl<'a> TreeBuilder<'a> {
    /// Reads up to the closing bracket, or to the end of the file.
    fn body(&mut self, inside: BodyKind) -> ClosedBody<'a> {
        let source = self.source;
        let mut draft = BodyBuilder {
            source,
            body: Body::default(),
            entry: None,
            comments: Vec::new(),
            newlines: 0,
            fresh: true,
        };
        let mut opening = None;
        let mut lines = false;
        while let Some(token) = self.tokens.next() {
            let text = &source.text[token.start..token.end];
            if inside == BodyKind::File && source.items.binary_search(&token.start).is_ok() {
                draft.finish();
            }
            match token.kind {
                TokenKind::Newline => {
                    lines = true;
                    draft.newlines += 1;
                    draft.fresh = false;
                    if inside == BodyKind::Block && source.laid_out.as_bytes()[token.start] == b'\n' {
                        draft.finish();
                    }
                }
                TokenKind::Comment if draft.fresh && draft.is_empty() && inside != BodyKind::File => {
                    opening = Some(text)
                }
                TokenKind::Comment => draft.comment(text),
                TokenKind::Comma if inside != BodyKind::File && !draft.in_for_head() => {
                    draft.finish();
                    (draft.newlines, draft.fresh) = (0, true);
                }
                TokenKind::Close if inside != BodyKind::File => {
                    let body = draft.close();
                    return ClosedBody { body, opening, close: text, end: token.end, lines };
                }
                TokenKind::Open => {
                    let role = draft.role(text);
                    let gap = draft.gap(token);
                    let braces = text == "{";
                    let inner = self.body(if braces { BodyKind::Block } else { BodyKind::Brackets });
                    lines |= inner.lines;
                    let ClosedBody { body, opening, close, .. } = inner;
                    draft.push(
                        gap,
                        LayoutNode::Group(TokenGroup {
                            open: text,
                            close,
                            role,
                            lines: inner.lines,
                            opening,
                            body,
                        }),
                        inner.end,
                    );
                }
                kind => {
                    let gap = draft.gap(token);
                    draft.push(gap, LayoutNode::Token(kind, text), token.end);
                }
            }
        }
        ClosedBody { body: draft.close(), opening, close: "", end: source.text.len(), lines }
    }
}

/// A body under construction.
struct BodyBuilder<'a> {
    source: &'a LexedSource<'a>,
    body: Body<'a>,
    entry: Option<TreeEntry<'a>>,
    /// Comments since the last token.
    comments: Vec<Comment<'a>>,
    /// Newlines since the last token or comment.
    newlines: usize,
    /// Whether no newline came since the last token.
    fresh: bool,
}

impl<'a> BodyBuilder<'a> {
    fn is_empty(&self) -> bool {
        self.entry.is_none() && self.body.entries.is_empty()
    }

    fn comment(&mut self, text: &'a str) {
        let comment = Comment { text, own_line: !self.fresh, blank_before: self.newlines > 1 };
        self.newlines = 0;
        // A comment after a comma belongs to the entry before the comma.
        if self.entry.is_none()
            && self.fresh
            && self.comments.is_empty()
            && let Some(last) = self.body.entries.last_mut()
            && last.trailing.is_none()
        {
            last.trailing = Some(text);
            return;
        }
        self.comments.push(comment);
    }

    /// The gap before the token that comes next.
    fn gap(&mut self, token: &SyntaxToken) -> LeadingTrivia<'a> {
        let blank_before = self.newlines > 1;
        let gap = LeadingTrivia { newline: !self.fresh, comments: std::mem::take(&mut self.comments) };
        (self.newlines, self.fresh) = (0, true);
        if self.entry.is_some() {
            return gap;
        }
        let span = token.start..token.end;
        let pieces = Vec::new();
        self.entry = Some(TreeEntry {
            leading: gap.comments,
            blank_before,
            pieces,
            trailing: None,
            span,
            verbatim: false,
        });
        LeadingTrivia::default()
    }

    fn push(&mut self, before: LeadingTrivia<'a>, node: LayoutNode<'a>, end: usize) {
        if let Some(entry) = &mut self.entry {
            entry.pieces.push(SourcePiece { before, node });
            entry.span.end = end;
        }
    }

    /// Ends the current entry, if there is one. A comment on its line belongs to it, comments on later lines
    /// to the next entry.
    fn finish(&mut self) {
        let Some(mut entry) = self.entry.take() else { return };
        if self.comments.first().is_some_and(|comment| !comment.own_line) {
            entry.trailing = Some(self.comments.remove(0).text);
        }
        let wrong = |piece: &SourcePiece| match &piece.node {
            LayoutNode::Token(kind, _) => *kind == TokenKind::Foreign,
            LayoutNode::Group(group) => {
                group.role != GroupRole::Block && group.body.entries.iter().any(|entry| entry.verbatim)
            }
        };
        let faults =
            self.source.faults.iter().filter(|at| entry.span.start <= **at && **at <= entry.span.end);
        entry.verbatim = entry.pieces.iter().any(wrong) || { faults }.any(|at| !covered(&entry, *at));
        self.body.entries.push(entry);
    }

    fn close(mut self) -> Body<'a> {
        self.finish();
        self.body.tail = self.comments;
        self.body
    }

    /// Whether the position is between `for` and its colon, where commas do not separate entries.
    fn in_for_head(&self) -> bool {
        let Some(entry) = &self.entry else { return false };
        let pieces = entry.pieces.iter().enumerate().rev();
        let mut decisive = pieces.filter_map(|(at, piece)| match piece.node {
            LayoutNode::Token(TokenKind::Sign, ":") => Some(false),
            LayoutNode::Token(TokenKind::Word, "for") => {
                Some(at == 0 || !is_token(&entry.pieces[at - 1].node, "."))
            }
            _ => None,
        });
        decisive.next().unwrap_or(false)
    }

    fn role(&self, open: &str) -> GroupRole {
        let pieces = self.entry.as_ref().map_or(&[][..], |entry| &entry.pieces);
        let count = pieces.len();
        let applied = count > 0 && is_value(pieces, count - 1);
        match open {
            "{" if count > 0 && is_token(&pieces[count - 1].node, ".") => GroupRole::Names,
            "{" => GroupRole::Block,
            "[" if applied => GroupRole::Single,
            "[" => GroupRole::Elements,
            _ if applied && !(count > 1 && is_token(&pieces[count - 2].node, "@")) => GroupRole::Elements,
            _ => GroupRole::Single,
        }
    }
}

/// Whether a fault is in a statement inside the entry, so that the entry itself is not faulty.
fn covered(entry: &TreeEntry, fault: usize) -> bool {
    entry.pieces.iter().any(|piece| match &piece.node {
        LayoutNode::Token(..) => false,
        LayoutNode::Group(group) => group.body.entries.iter().any(|inner| {
            let holds = inner.span.start <= fault && fault <= inner.span.end;
            holds && (group.role == GroupRole::Block || covered(inner, fault))
        }),
    })
}

pub fn is_token(node: &LayoutNode, text: &str) -> bool {
    matches!(node, LayoutNode::Token(_, token) if *token == text)
}

/// Whether an operand ends with this piece, so that an operator after it is binary.
pub fn is_value(pieces: &[SourcePiece], at: usize) -> bool {
    match &pieces[at].node {
        LayoutNode::Group(_) => true,
        LayoutNode::Token(TokenKind::Word, word) => {
            !OPERATOR_WORDS.contains(word) || at > 0 && is_token(&pieces[at - 1].node, ".")
        }
        LayoutNode::Token(kind, _) => {
            matches!(kind, TokenKind::Number | TokenKind::Text | TokenKind::Foreign)
        }
    }
}
