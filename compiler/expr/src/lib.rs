//! Expressions: the graph, its derivative, and the ways to evaluate it.

#![deny(unsafe_code)]

pub mod aggregate;
pub mod batch;
pub mod build;
pub mod derivative;
pub mod graph;
pub mod interpret;
#[cfg(not(target_family = "wasm"))]
#[allow(unsafe_code, reason = "machine code is called")]
pub mod jit;
pub mod roles;
pub mod summand;
pub mod testing;
pub mod values;

pub use graph::signals;
