//! The compiler, from a checked experiment to a plan.

#![forbid(unsafe_code)]

pub use lower::{Expressions, TermExpressions, compile, expressions, normal_form};

pub mod audit;
pub mod cluster;
pub mod export;
mod lower;
pub mod trial;
