//! From what the language says to what the runtime executes. Checked types are wide, the plan's are narrow; whatever does
//! not convert is refused by name, where it was asked for. Exhaustive matches, one function a type: a construct that the
//! language gains is a compile error here until somebody decides what becomes of it.

pub(super) mod formula;
pub(super) mod settings;

use mopd_lang::diag::Diagnostic;

/// A conversion; its error is one refusal.
pub(super) type Narrowed<T> = Result<T, Box<Diagnostic>>;
