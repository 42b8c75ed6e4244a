//! Executes a plan with libtorch.
//!
//! Its modules, from the bottom layer to the top. Each imports only modules before it, and a test checks
//! that (`tests/tests/language/layering.rs`):
//!
//! - `http`, `table`, [`failure`], [`control`], [`random`]: small shared utilities; [`machine`]: devices,
//!   memory, arithmetic; `program`: child processes that run the user's programs;
//! - [`tokenizer`]: text and conversations as tokens; [`mapped`]: memory-mapped tensor files; [`model`]:
//!   decoders and their weights; [`formats`]: file formats of other projects' models;
//! - [`data`]: rows of a domain; [`reward`]: scores of completions; `environment`: multi-turn environments
//!   that answer completions; [`rollout`]: completions sampled from a model;
//! - [`report`]: what a run reports; [`store`]: results under their keys; `remote`: clients of model
//!   servers; [`prepare`]: models and data of a plan, read and checked; [`evaluate`]: how well a model does
//!   on held-out prompts;
//! - [`train`]: the one training loop; [`predict`]: time and memory that a stage will take; [`schedule`]:
//!   the tasks of a plan; [`serve`]: a server of a model; [`bench`]: measurements.

#![forbid(unsafe_code)]

pub mod bench;
#[cfg(test)]
mod compiled;
pub mod control;
pub mod data;
mod environment;
pub mod evaluate;
pub mod failure;
pub mod formats;
pub mod http;
pub mod machine;
pub mod mapped;
pub mod model;
#[cfg(test)]
mod mutations;
pub mod predict;
pub mod prepare;
pub mod program;
pub mod random;
pub mod remote;
pub mod report;
pub mod reward;
pub mod rollout;
pub mod schedule;
pub mod serve;
pub mod store;
pub mod table;
pub mod tokenizer;
pub mod train;

pub(crate) use mopd_data::quote;
pub use mopd_data::zip;
pub use mopd_store::{content, files};
