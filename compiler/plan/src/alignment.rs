//! Gradients of the parts of a loss, which show whether the parts agree.

pub use mopd_experiment::GradientPartition;
use mopd_expr::graph::NodeId;
use serde::{Deserialize, Serialize};

/// At some steps the gradient of each part of the loss is computed separately, over the trained weights, for
/// its norm and the cosine of each pair. Below 0 two parts conflict (arXiv:2001.06782, definition 1).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GradientAlignment {
    pub between: GradientPartition,
    /// The steps between two measurements; the first is of the first step.
    pub every: u32,
}

impl GradientAlignment {
    pub fn is_due(&self, step: u32) -> bool {
        step.is_multiple_of(self.every.max(1))
    }

    /// The number of measurements in `steps` steps.
    pub fn times(&self, steps: u32) -> u32 {
        steps.div_ceil(self.every.max(1))
    }
}

/// One term's share of the loss's derivatives. Summed over the terms, these are the adjoints of
/// [`super::LivePrimitive`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TermGradient {
    pub term: String,
    /// One node per live primitive, in their order.
    pub adjoints: Vec<NodeId>,
}
