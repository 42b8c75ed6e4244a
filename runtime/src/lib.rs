//! Executes a plan with libtorch.
//!
//! Rooms, from the bottom to the top; each imports only those before it, which a test holds
//! (`tests/tests/rooms.rs`):
//!
//! - `zip`, `quote`, `http`, `table`, [`failure`], [`control`], [`random`]: small things that many need;
//!   [`peers`]: processes that work together; [`machine`]: devices, memory, arithmetic; `program`: processes
//!   of the author's;
//! - [`tokenizer`]: text and conversations as tokens; [`mapped`]: tensors in files; [`model`]: decoders and
//!   their weights; [`formats`]: models of others;
//! - [`data`]: rows of a domain; [`reward`]: what judges completions; `environment`: what answers them turn
//!   by turn; [`rollout`]: completions sampled from a model;
//! - [`report`]: what a run leaves to look at; [`store`]: results under their keys; `served`: models that
//!   servers serve; [`prepare`]: models and data of a plan, read and checked; [`evaluate`]: how well a model
//!   does on held-out prompts;
//! - [`train`]: the one training loop; [`predict`]: what a stage will take; [`schedule`]: the tasks of a
//!   plan; [`serve`]: a server of a model; [`bench`]: measurements.

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
pub mod peers;
pub mod predict;
pub mod prepare;
mod program;
mod quote;
pub mod random;
pub mod report;
pub mod reward;
pub mod rollout;
pub mod schedule;
pub mod serve;
pub mod served;
pub mod store;
pub mod table;
pub mod tokenizer;
pub mod train;
pub mod zip;

pub use mopd_store::{content, files};
