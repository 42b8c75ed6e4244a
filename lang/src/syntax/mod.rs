//! From text to syntax tree.

pub mod ast;
pub(crate) mod layout;
mod parse;
mod shift;
pub(crate) mod words;

pub(crate) use parse::top_level;
pub use parse::{KnownFile, parse};
pub use words::{ITEMS, RESERVED};
