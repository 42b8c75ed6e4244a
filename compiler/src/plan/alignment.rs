//! Gradients of parts of a loss, which show whether the parts agree.

pub use mopd_lang::experiment::Between;
use serde::{Deserialize, Serialize};

use super::{NodeId, Objective, Train};

/// At some steps the gradient of each part of the loss is computed separately, over the trained weights: the
/// norm of each, and the cosine of each pair. Below 0 they conflict (arXiv:2001.06782, definition 1).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GradientAlignment {
    pub between: Between,
    /// The steps between two measurements; the first is of the first step.
    pub every: u32,
}

impl GradientAlignment {
    pub fn is_due(&self, step: u32) -> bool {
        step.is_multiple_of(self.every.max(1))
    }

    /// How many times in this many steps.
    pub fn times(&self, steps: u32) -> u32 {
        steps.div_ceil(self.every.max(1))
    }
}

/// One term's share of the loss's derivatives: summed over the terms, these are those of
/// [`super::LivePrimitive`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TermGradient {
    pub term: String,
    /// In the order of the live primitives.
    pub adjoints: Vec<NodeId>,
}

impl Train<Objective> {
    /// For how many parts of the loss this objective of the stage gives a separate gradient.
    pub fn aligned_in(&self, objective: &Objective) -> usize {
        match self.alignment.map(|alignment| alignment.between) {
            None => 0,
            Some(Between::Terms) => objective.term_gradients.len(),
            Some(Between::Domains) => self.mixture.len(),
        }
    }

    /// How many gradients exist besides that of the step.
    pub fn aligned(&self) -> usize {
        match self.alignment.map(|alignment| alignment.between) {
            Some(Between::Domains) => self.mixture.len(),
            _ => self.objectives().map(|(_, objective)| self.aligned_in(objective)).sum(),
        }
    }
}
