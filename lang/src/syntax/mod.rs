//! From text to syntax tree.

pub mod ast;
mod layout;
mod parse;
mod words;

pub use parse::parse;
