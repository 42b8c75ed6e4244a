//! From text to syntax tree.

pub mod ast;
pub(crate) mod layout;
mod parse;
pub(crate) mod quotes;
mod shift;
pub(crate) mod tokens;
pub(crate) mod words;

pub(crate) use parse::top_level;
pub use parse::{KnownFile, parse};
pub(crate) use shift::{Shift, Shifted};
pub use words::{ITEMS, RESERVED};
