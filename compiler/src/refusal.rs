//! What this version can't execute, said by name where it was asked for.

use std::fmt::Display;

use mopd_lang::diag::{Code, Diagnostic};
use mopd_lang::experiment::Origin;
use mopd_lang::source::{FileId, Span};

/// A conversion from what the language says to what the runtime executes; its error is one refusal.
pub type Narrowed<T> = Result<T, Box<Diagnostic>>;

/// The table that origins point into.
#[derive(Clone, Copy)]
pub struct Origins<'a>(pub &'a [Span]);

impl Origins<'_> {
    /// Where nobody asks for a place, there is no table.
    pub fn span(self, origin: Origin) -> Span {
        if self.0.is_empty() {
            return Span::new(FileId(0), 0, 0);
        }
        self.0[origin.0 as usize]
    }
}

/// This version can't execute `construct`, a noun phrase.
pub fn refused(at: Span, construct: impl Display) -> Box<Diagnostic> {
    Diagnostic::error(Code::NotSupported, at, format!("{construct} is not supported yet"))
        .label("part of the language, but this version can't run it")
        .into()
}
