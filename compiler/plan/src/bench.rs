//! The jobs of `mopd bench` for a worker.

use serde::{Deserialize, Serialize};

use super::Dtype;
use super::roofline::{MachineRates, Phase};

/// Measures a divergence and its gradient: mopd's, and a plain version that libtorch differentiates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchJob {
    pub vocabulary: u32,
    pub tokens: u32,
    /// The width of hidden states. The logits of both models are then products of hidden states and a matrix,
    /// computed and differentiated inside the measured part. If absent, logits are given.
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
    /// The memory of a single run, in a process that does nothing else.
    Memory { plain: bool },
    /// The time of both versions, in turn, and the distance of their results.
    Time { runs: u32 },
}

/// Measures generation alone, for `mopd bench generate`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerateJob {
    /// A folder, or a name on the hub.
    pub model: String,
    /// The base folder of relative paths.
    pub base: String,
    pub dtype: Dtype,
    /// Tokens of each prompt.
    pub prompt: u32,
    /// The shapes, which are run one after the other in each of `rounds` rounds.
    pub shapes: Vec<GenerationShape>,
    pub rounds: u32,
}

/// A batch of completions, each of its own prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationShape {
    pub batch: u32,
    /// The most tokens of a completion, which an end token may end earlier.
    pub new: u32,
}

/// The measurements of one round of a shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerationRound {
    pub shape: GenerationShape,
    pub seconds: f64,
    /// The number of generated tokens, over all completions.
    pub tokens: u64,
    /// The peak memory in bytes beyond what the process had before. `None` if the system reports none.
    pub memory: Option<u64>,
    /// The memory in bytes that a run would predict for it.
    pub predicted_memory: u64,
    /// The phases in order, if every completion has its full length.
    pub phases: Vec<Phase>,
    pub rates: MachineRates,
    /// The number of CPU cores used.
    pub threads: u32,
}
