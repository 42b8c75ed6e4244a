//! From text to syntax tree.

pub mod ast;
pub(crate) mod layout;
mod parse;
pub(crate) mod words;

pub use parse::parse;
pub(crate) use parse::top_level;
pub use words::{ITEMS, RESERVED};
