//! Executes a plan with libtorch.

pub mod bench;
pub mod control;
pub mod data;
pub mod failure;
pub mod formats;
pub mod machine;
pub mod mapped;
pub mod model;
#[cfg(test)]
mod mutations;
pub mod predict;
pub mod prepare;
mod quote;
pub mod random;
pub mod report;
pub mod reward;
pub mod rollout;
pub mod schedule;
pub mod store;
pub mod tokenizer;
pub mod train;
pub mod zip;

/// Chat templates are bounded by it.
#[global_allocator]
static ALLOCATOR: machine::bounded::Counting = machine::bounded::Counting;

pub use mopd_store::{content, files};
