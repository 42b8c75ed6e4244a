//! The compiler, from a checked experiment to a plan.

#![deny(unsafe_code)]

pub use lower::{Expressions, TermExpressions, compile, expressions, normal_form};
pub use mopd_lang::diag::{missing_file_help, nearest, nearest_file};

pub mod audit;
pub mod cluster;
pub mod export;
pub mod expr;
pub mod keys;
mod lower;
pub mod plan;
mod refusal;
pub mod trial;
