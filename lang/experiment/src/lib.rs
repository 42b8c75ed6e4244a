//! The data types of a checked experiment. They lie below the language, which makes them of text, and below
//! the plan and the worker, which know no text.

#![forbid(unsafe_code)]

mod checked;
pub mod nearest;
pub mod stack;

pub use checked::*;
