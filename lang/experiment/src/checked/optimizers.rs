//! Settings of updates: optimizers and extrapolation; and measurements beside them: a validation loss, and
//! the alignment of gradients.

use serde::{Deserialize, Serialize};

use super::{BenchmarkId, Origin};

/// Extrapolates the weights along their change so far while a benchmark improves (arXiv:2605.11739).
#[derive(Clone, Debug, PartialEq)]
pub struct Extrapolation {
    pub factor: f64,
    pub rounds: u32,
    /// The base: the weights are extrapolated at steps that are powers of it.
    pub powers_of: u32,
    pub judged_by: BenchmarkId,
    /// The weights that are extrapolated; all where empty.
    pub weights: Vec<WeightGroup>,
    pub origin: Origin,
}

/// A loss on rows that no stage is trained on.
#[derive(Clone, Debug, PartialEq)]
pub struct Validation {
    /// The field whose text is predicted.
    pub target: String,
    /// The steps between two evaluations; the first is before the first step.
    pub every: u32,
    /// The number of rows of each domain, the first ones; all where absent.
    pub rows: Option<u32>,
    pub origin: Origin,
}

/// The cosines between the gradients of a loss's parts.
#[derive(Clone, Debug, PartialEq)]
pub struct GradientAlignment {
    pub between: GradientPartition,
    /// The steps between two measurements; the first is of the first step.
    pub every: u32,
    pub origin: Origin,
}

/// The parts of a loss whose gradients add up to that of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GradientPartition {
    /// The terms of the objective.
    Terms,
    /// The domains, each with the completions of its prompts.
    Domains,
}

impl GradientPartition {
    pub fn name(self) -> &'static str {
        match self {
            GradientPartition::Terms => "terms",
            GradientPartition::Domains => "domains",
        }
    }
}

/// The number of powers of `base` among the integers from 1 to `last`.
pub fn powers_up_to(base: u32, last: u32) -> u32 {
    last.checked_ilog(base.max(2)).map_or(0, |exponent| exponent + 1)
}

/// A part of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightGroup {
    Attention,
    FeedForward,
    /// The embedding, and the LM head.
    Embedding,
    Norm,
}

impl WeightGroup {
    pub fn name(self) -> &'static str {
        match self {
            WeightGroup::Attention => "attention",
            WeightGroup::FeedForward => "feed_forward",
            WeightGroup::Embedding => "embedding",
            WeightGroup::Norm => "norm",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Optimizer {
    AdamW(AdamW),
    Sgd(Sgd),
    /// Gradients clipped per example and noised (arXiv:1607.00133), until the budget is spent.
    Private {
        clip: f64,
        epsilon: f64,
        delta: f64,
        origin: Origin,
    },
}

/// Gradient descent, with momentum where it is not 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sgd {
    pub momentum: f64,
    /// Largest global gradient norm.
    pub clip_norm: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamW {
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
    /// Largest global gradient norm.
    pub clip_norm: f64,
}
