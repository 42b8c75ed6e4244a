//! Expressions: one graph, its derivative, and its lowerings.

pub mod batch;
pub mod graph;
