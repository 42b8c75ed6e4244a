//! Executes a plan with libtorch.

pub mod bench;
pub mod control;
pub mod data;
pub mod device;
pub mod evaluate;
pub mod failure;
pub mod formats;
pub mod kernels;
pub mod load;
pub mod memory;
pub mod merge;
pub mod model;
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

pub use mopd_store::{content, files};
