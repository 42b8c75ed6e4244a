//! From what the language says to what the runtime executes. Checked types are wide, the plan's are narrow;
//! whatever does not convert is refused by name, where it was asked for. Matches are exhaustive, one function
//! a type: a construct that the language gains is a compile error here until somebody decides what becomes of
//! it.

mod data;
mod divergence;
mod filter;
pub(super) mod formula;
pub(super) mod rollout;
pub(super) mod settings;
pub(super) mod teacher;

use std::fmt::Display;

use mopd_lang::diag::{Code, Diagnostic};
use mopd_lang::source::Span;

/// A conversion; its error is one refusal.
pub(super) type Narrowed<T> = Result<T, Box<Diagnostic>>;

/// This version can't execute `construct`, a noun phrase.
fn refused(at: Span, construct: impl Display) -> Box<Diagnostic> {
    Diagnostic::error(Code::NotSupported, at, format!("{construct} is not supported yet"))
        .label("part of the language, but this version can't run it")
        .into()
}
