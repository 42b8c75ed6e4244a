//! A slice that could not be parsed, with accessors for the rules that explain it.

use super::build::{AstBuilder, CatchAllRule};
use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::words::split_word;

/// An item, a statement or an arm in which the grammar stopped.
#[derive(Clone, Copy)]
pub struct Unparsed<'a, 'b> {
    pub builder: &'a AstBuilder<'b>,
    pub slice: &'a str,
    /// Its offset in the file.
    pub start: usize,
    /// The offset in the slice at which the grammar stopped.
    pub at: usize,
    pub kind: CatchAllRule,
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

    /// The text from the place where the grammar stopped.
    pub fn stuck(&self) -> &'a str {
        &self.slice[self.at..]
    }

    /// The text before that place, without blanks at its end.
    pub fn before(&self) -> &'a str {
        self.slice[..self.at].trim_end()
    }

    /// The offset of the second word in the slice.
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
