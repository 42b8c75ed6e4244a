//! A slice that could not be parsed, as the rules look at it that say why.

use super::build::{AstBuilder, Broken};
use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::words::split_word;

/// An item, a statement or an arm that the grammar gave up in.
#[derive(Clone, Copy)]
pub struct Unparsed<'a, 'b> {
    pub builder: &'a AstBuilder<'b>,
    pub slice: &'a str,
    /// Where it begins in the file.
    pub start: usize,
    /// Where the grammar gave up, in the slice.
    pub at: usize,
    pub kind: Broken,
}

impl<'a> Unparsed<'a, '_> {
    /// Its first word, empty where it begins with none, and what follows that.
    pub fn first(&self) -> (&'a str, &'a str) {
        split_word(self.slice)
    }

    /// Its second word, and what follows that.
    pub fn second(&self) -> (&'a str, &'a str) {
        split_word(self.first().1)
    }

    /// What the grammar could not go on with.
    pub fn stuck(&self) -> &'a str {
        &self.slice[self.at..]
    }

    /// What it read, without blanks at the end.
    pub fn before(&self) -> &'a str {
        self.slice[..self.at].trim_end()
    }

    /// Where the second word is, in the slice.
    pub fn after_first(&self) -> usize {
        self.slice.len() - self.first().1.len()
    }

    /// Of so many bytes, from a place in the slice on.
    pub fn span(&self, from: usize, length: usize) -> Span {
        self.builder.span_at(self.start + from, self.start + from + length)
    }

    /// Of the first word.
    pub fn first_span(&self) -> Span {
        self.span(0, self.first().0.len())
    }

    /// Of what other languages write.
    pub fn foreign(&self, from: usize, length: usize, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(Code::ForeignSyntax, self.span(from, length), message)
    }
}
