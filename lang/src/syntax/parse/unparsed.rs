//! A slice that could not be parsed, as the rules that explain it need it.

use super::build::{AstBuilder, Broken};
use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::words::split_word;

/// An item, a statement or an arm in which the grammar gave up.
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
    /// Its first word, possibly empty, and the text after it.
    pub fn first(&self) -> (&'a str, &'a str) {
        split_word(self.slice)
    }

    /// Its second word, and the text after it.
    pub fn second(&self) -> (&'a str, &'a str) {
        split_word(self.first().1)
    }

    /// The text from the place where the grammar gave up.
    pub fn stuck(&self) -> &'a str {
        &self.slice[self.at..]
    }

    /// The text before that place, without blanks at its end.
    pub fn before(&self) -> &'a str {
        self.slice[..self.at].trim_end()
    }

    /// Where the second word is, in the slice.
    pub fn after_first(&self) -> usize {
        self.slice.len() - self.first().1.len()
    }

    /// The span of `length` bytes at `from`, an offset in the slice.
    pub fn span(&self, from: usize, length: usize) -> Span {
        self.builder.span_at(self.start + from, self.start + from + length)
    }

    /// The span of the first word.
    pub fn first_span(&self) -> Span {
        self.span(0, self.first().0.len())
    }

    /// A diagnostic for syntax of another language.
    pub fn foreign(&self, from: usize, length: usize, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(Code::ForeignSyntax, self.span(from, length), message)
    }
}
