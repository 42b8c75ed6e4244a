//! Expressions: one graph, its derivative, and its lowerings.

mod aggregate;
pub mod batch;
pub mod build;
pub mod derivative;
pub mod graph;
pub mod interpret;
pub mod jit;
mod scalar;
pub mod single;
#[cfg(test)]
mod testing;
pub mod values;
