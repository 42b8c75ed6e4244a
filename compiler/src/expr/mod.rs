//! Expressions: one graph, its derivative, and its lowerings.

pub mod aggregate;
pub mod batch;
pub mod build;
pub mod derivative;
pub mod graph;
pub mod interpret;
pub mod jit;
pub mod summand;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod values;
