//! The blanks between two tokens of one line.

use super::tree::{LayoutNode, SourcePiece, is_token, is_value};
use crate::syntax::tokens::TokenKind;

/// Whether there is a blank before piece `at`, which is not the first.
pub fn blank_before(pieces: &[SourcePiece], at: usize) -> bool {
    let (left, right) = (&pieces[at - 1].node, &pieces[at].node);
    let either = |token: &str| is_token(left, token) || is_token(right, token);
    if is_token(left, "@") || is_prefix(pieces, at - 1) || is_token(right, ":") || is_token(right, ",") {
        return false;
    }
    if either("..") || either("..=") {
        // `1.. .5`: three dots would read differently.
        return matches!(right, LayoutNode::Token(TokenKind::Number, number) if number.starts_with('.'));
    }
    if either(".") || either("^") || either("**") || is_ratio(pieces, at) || is_ratio(pieces, at - 1) {
        return false;
    }
    match right {
        LayoutNode::Group(group) if group.open != "{" => !is_value(pieces, at - 1),
        _ => true,
    }
}

/// Whether a piece is `-` or `!` as a prefix operator.
pub fn is_prefix(pieces: &[SourcePiece], at: usize) -> bool {
    let sign = is_token(&pieces[at].node, "-") || is_token(&pieces[at].node, "!");
    sign && (at == 0 || !is_value(pieces, at - 1))
}

/// Whether a piece is the `/` of a ratio of two plain numbers, such as `1/3`, which reads as one number.
/// False where an adjacent operator of the same or higher precedence would contradict that.
fn is_ratio(pieces: &[SourcePiece], at: usize) -> bool {
    let node = |at: usize| pieces.get(at).map(|piece| &piece.node);
    let number = |at: usize| matches!(node(at), Some(LayoutNode::Token(TokenKind::Number, _)));
    let one_of = |at: usize, tokens: &[&str]| {
        node(at).is_some_and(|node| tokens.iter().any(|token| is_token(node, token)))
    };
    at >= 1
        && one_of(at, &["/"])
        && number(at - 1)
        && number(at + 1)
        && !(at >= 2 && one_of(at - 2, &["*", "/", "^", "**", "."]))
        && !one_of(at + 2, &["^", "**", "."])
}

/// Whether a piece is a binary operator, after which a line may continue.
pub fn is_infix(pieces: &[SourcePiece], at: usize) -> bool {
    match &pieces[at].node {
        LayoutNode::Token(TokenKind::Sign, ":") => ends_for_head(pieces, at),
        LayoutNode::Token(TokenKind::Sign, operator) => {
            !matches!(*operator, "." | "@" | "!" | ".." | "|>") && !is_prefix(pieces, at)
        }
        LayoutNode::Token(TokenKind::Word, "and" | "or" | "then") => {
            at > 0 && !is_token(&pieces[at - 1].node, ".")
        }
        // A comma between the bindings of a `where`. Others end the entry or are in the head of a `for`.
        LayoutNode::Token(TokenKind::Comma, _) => {
            let mut before = (0..at).rev();
            before
                .find(|at| is_token(&pieces[*at].node, "for") || begins_bindings(pieces, *at))
                .is_some_and(|at| !is_token(&pieces[at].node, "for"))
        }
        _ => false,
    }
}

/// Whether a line that begins here continues the line before.
pub fn begins_tail(pieces: &[SourcePiece], at: usize) -> bool {
    is_token(&pieces[at].node, "|>") || begins_bindings(pieces, at)
}

/// Whether a piece is the word `where` before bindings. Before a parenthesis it is the function.
pub fn begins_bindings(pieces: &[SourcePiece], at: usize) -> bool {
    let word = |node: &LayoutNode| matches!(node, LayoutNode::Token(TokenKind::Word, _));
    is_token(&pieces[at].node, "where")
        && at > 0
        && is_value(pieces, at - 1)
        && pieces.get(at + 1).is_some_and(|next| word(&next.node))
}

/// Whether a piece is the colon of `for ...:`, not that of a label or a type.
pub fn ends_for_head(pieces: &[SourcePiece], at: usize) -> bool {
    let mut before = pieces[..at].iter().rev();
    is_token(&pieces[at].node, ":")
        && before
            .find(|piece| is_token(&piece.node, "for") || is_token(&piece.node, ":"))
            .is_some_and(|piece| is_token(&piece.node, "for"))
}
