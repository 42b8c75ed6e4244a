//! What `mopd bench` asks of a worker.

use serde::{Deserialize, Serialize};

use super::Dtype;
use super::floor::{Phase, Rates};

/// Measure a divergence and its gradient, ours and a plain version that libtorch differentiates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchJob {
    pub vocabulary: u32,
    pub tokens: u32,
    /// The logits of both models are the product of hidden states of this width and a matrix, made and
    /// differentiated inside the measured part; where absent, logits are given.
    pub width: Option<u32>,
    pub divergence: BenchDivergence,
    pub measure: Measure,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BenchDivergence {
    /// kl(student || teacher)
    Kl,
    /// jsd(student, teacher, beta: 0.5)
    Jsd,
    /// kl(student || teacher, support: top_k(teacher, 64), mass: generalized)
    TopK,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "measure", rename_all = "snake_case")]
pub enum Measure {
    /// Of a single run, in a process that does nothing else.
    Memory { plain: bool },
    /// Of both, in turn, and how far they are apart.
    Time { runs: u32 },
}

/// Have a model write completions, alone: what `mopd bench generate` asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerateJob {
    /// A folder, or a name on the hub.
    pub model: String,
    /// What relative paths begin at.
    pub base: String,
    pub dtype: Dtype,
    /// Tokens of each prompt.
    pub prompt: u32,
    /// One after the other, so often.
    pub shapes: Vec<GenerationShape>,
    pub rounds: u32,
}

/// Completions that are written together, each of another prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationShape {
    pub batch: u32,
    /// Tokens of a completion, at most: an end token ends it.
    pub new: u32,
}

/// One round of a shape, as it was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerationRound {
    pub shape: GenerationShape,
    pub seconds: f64,
    /// Tokens that were written, all completions together.
    pub tokens: u64,
    /// Bytes that the process held at most beyond what it held before; none where the system does not tell.
    pub memory: Option<u64>,
    /// Bytes that the prediction of a run counts for it.
    pub predicted_memory: u64,
    /// What it does, one after the other, if every completion has its full length.
    pub phases: Vec<Phase>,
    pub rates: Rates,
    /// Cores that it has.
    pub threads: u32,
}
