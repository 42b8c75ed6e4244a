//! The benchmarks of `mopd bench` that run in the worker.

pub mod divergence;
pub mod floor;
pub mod generate;
pub mod machine;
