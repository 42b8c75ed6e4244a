//! From a checked experiment to a plan.

pub mod expr;
pub mod plan;
