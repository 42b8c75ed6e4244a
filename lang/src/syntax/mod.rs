//! From text to syntax tree.

pub mod ast;
mod layout;
mod parse;
mod words;

pub use layout::MAX_DEPTH;
pub use parse::parse;
