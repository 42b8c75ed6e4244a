//! Gradients of parts of a loss, which show whether the parts agree.

pub use mopd_lang::experiment::Between;
use serde::{Deserialize, Serialize};

use super::{NodeId, Objective, Train};

/// At some steps the gradient of each part of the loss is computed by itself, over the weights that train:
/// the norm of each, and the cosine between each two. Below 0 they conflict (arXiv:2001.06782, definition 1).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GradientAlignment {
    pub between: Between,
    /// The first step, and again after so many.
    pub every: u32,
}

impl GradientAlignment {
    pub fn is_due(&self, step: u32) -> bool {
        step.is_multiple_of(self.every.max(1))
    }

    /// How often in so many steps.
    pub fn times(&self, steps: u32) -> u32 {
        steps.div_ceil(self.every.max(1))
    }
}

/// What of the loss's derivatives comes from one term: over all terms they add up to those of
/// [`super::LivePrimitive`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TermGradient {
    pub term: String,
    /// In the order of the live primitives.
    pub adjoints: Vec<NodeId>,
}

impl Train<Objective> {
    /// Of how many parts of the loss one objective of the stage gives a gradient by itself.
    pub fn aligned_in(&self, objective: &Objective) -> usize {
        match self.alignment.map(|alignment| alignment.between) {
            None => 0,
            Some(Between::Terms) => objective.term_gradients.len(),
            Some(Between::Domains) => self.mixture.len(),
        }
    }

    /// How many gradients are there beside that of the step.
    pub fn aligned(&self) -> usize {
        match self.alignment.map(|alignment| alignment.between) {
            Some(Between::Domains) => self.mixture.len(),
            _ => self.objectives().map(|(_, objective)| self.aligned_in(objective)).sum(),
        }
    }
}
