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

/// The student's mean negative log-probability of a field in the validation rows of a stage's domains, on
/// which no stage is trained, in nats per token at temperature 1, over all tokens of the field including the
/// end token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// The field whose text is predicted.
    pub target: String,
    /// The steps between two evaluations; the first is before the first step.
    pub every: u32,
    /// The number of rows of each domain, from the first; all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u32>,
}

impl Validation {
    /// The number of a domain's rows that are used.
    pub fn rows_of(&self, rows: usize) -> usize {
        self.rows.map_or(rows, |most| rows.min(most as usize))
    }

    /// The number of evaluations in `steps` steps.
    pub fn times(&self, steps: u32) -> u32 {
        steps.div_ceil(self.every.max(1))
    }
}

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

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Optimizer {
    AdamW(AdamW),
    Sgd(Sgd),
}

impl Optimizer {
    /// The numbers of the optimizer's state per parameter, in single precision.
    pub fn moments(&self) -> u64 {
        match self {
            Optimizer::AdamW(_) => 2,
            Optimizer::Sgd(sgd) => u64::from(sgd.momentum != 0.0),
        }
    }
}

/// Differential privacy: each record's gradient is clipped, and noise is added to their sum, so that all
/// steps together are (`epsilon`, `delta`)-differentially private (arXiv:1607.00133).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Private {
    pub clip: f64,
    pub epsilon: f64,
    pub delta: f64,
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
