//! Executes a plan with libtorch.

pub mod arithmetic;
pub mod bench;
pub mod bounded;
pub mod control;
pub mod data;
pub mod device;
pub mod evaluate;
pub mod failure;
pub mod formats;
pub mod load;
pub mod memory;
pub mod merge;
pub mod model;
#[cfg(test)]
mod mutations;
pub mod predict;
pub mod prepare;
pub mod prompts;
mod quote;
pub mod random;
pub mod report;
pub mod reward;
pub mod rollout;
pub mod sample;
pub mod schedule;
pub mod store;
pub mod train;
pub mod warm;
pub mod zip;

/// Chat templates are bounded by it.
#[global_allocator]
static ALLOCATOR: bounded::Counting = bounded::Counting;

pub use mopd_store::{content, files};
