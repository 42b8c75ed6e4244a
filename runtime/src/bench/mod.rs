//! What `mopd bench` measures in the worker.

pub mod divergence;
pub mod floor;
pub mod generate;
pub mod machine;
