//! From text to syntax tree.

pub mod ast;
mod layout;
mod parse;
pub(crate) mod words;

pub use parse::parse;
