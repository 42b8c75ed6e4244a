//! The plan of an experiment: what the compiler writes and the runtime reads.

use serde::{Deserialize, Serialize};

use crate::experiment::Experiment;
use crate::objective::Objective;
use crate::settings::{Origin, Schedule};

/// Raised whenever the meaning of a field changes.
pub const SCHEMA: u32 = 3;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub schema: u32,
    /// Hash of the experiment's meaning, without names of models, comments and layout.
    pub hash: String,
    pub experiment: Experiment<Objective>,
    /// One per model, in the same order.
    pub stages: Vec<StageFacts>,
    /// The places that [`Origin`] indexes.
    pub places: Vec<SourcePlace>,
}

impl Plan {
    pub fn place(&self, origin: Origin) -> Option<&SourcePlace> {
        self.places.get(origin.0 as usize)
    }
}

/// Facts about a stage that the compiler computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageFacts {
    /// Hash of the stage's computation: its settings and the keys of its inputs. Data and seed are added at
    /// run time.
    pub key: String,
    /// [`Self::key`] without the paths of files: the part of its result's key to which the files' content is
    /// added at run time.
    #[serde(default)]
    pub content_key: String,
    /// Hash of the stage's own settings, without its inputs and files. Not part of any key; it distinguishes
    /// a stage that was edited from one whose inputs were.
    #[serde(default)]
    pub own_settings: String,
    /// Selects the stage's random numbers: a hash of its recipe and its lineage, to which the content of its
    /// data is added at run time. Two stages that differ only in objective, reward, optimizer or length draw
    /// the same prompts and the same uniforms, so comparisons are paired.
    pub stream: u64,
    pub cost: Cost,
    /// The schedules that may be longer than a stage in epochs, according to a comment
    /// `// allow(unfinished-schedule): ...`. Not part of any key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_schedules: Vec<Schedule>,
}

/// Predicted cost, an upper bound: every sequence is assumed to be as long as its limits allow. `None` for a
/// number that depends on the files of a model or a domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    pub parameters: Option<u64>,
    /// Trained parameters.
    pub trained: Option<u64>,
    /// The number of sequences that are trained on.
    pub sequences: Option<u64>,
    /// The number of completions that are drawn, where the stage trains on a choice of them (`best`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drawn: Option<u64>,
    pub tokens: Option<u64>,
    pub flops: Option<f64>,
    /// Weights, gradients and optimiser state, in bytes.
    pub memory: Option<u64>,
}

/// A place in the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourcePlace {
    pub file: String,
    /// Byte offsets, half-open.
    pub start: u32,
    pub end: u32,
}
