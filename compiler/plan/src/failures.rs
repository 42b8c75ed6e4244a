//! Failures of jobs.

use serde::{Deserialize, Serialize};

use super::Origin;

/// The reason why a job failed, in the author's terms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FailureKind,
    /// One line that is understandable on its own.
    pub message: String,
    /// How to fix it.
    pub help: Option<String>,
    /// The item in the source that the failure belongs to.
    pub origin: Option<Origin>,
    pub stage: Option<String>,
    pub seed: Option<u64>,
    pub step: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// A data file is missing, or a line of it is malformed.
    Data,
    /// A prompt and its longest completion do not fit the model's context.
    Context,
    /// A reward program crashed, hung or returned an invalid result.
    Reward,
    /// An environment crashed, hung or returned an invalid result.
    Environment,
    /// A program that edits completions crashed, hung or returned an invalid result.
    Edit,
    /// A model's files are missing or malformed, or describe a model that can't be run.
    Model,
    /// A loss, gradient or log-probability is not finite.
    NonFinite,
    /// A guard of a stage stopped it.
    Guard,
    /// A stage needs more memory than there is.
    Memory,
    /// Results could not be written.
    Storage,
    /// An error of libtorch, a device or the plan itself.
    Runtime,
}

impl FailureKind {
    pub const ALL: [FailureKind; 11] = [
        FailureKind::Data,
        FailureKind::Context,
        FailureKind::Reward,
        FailureKind::Environment,
        FailureKind::Edit,
        FailureKind::Model,
        FailureKind::NonFinite,
        FailureKind::Guard,
        FailureKind::Memory,
        FailureKind::Storage,
        FailureKind::Runtime,
    ];

    pub fn name(self) -> &'static str {
        match self {
            FailureKind::Data => "data",
            FailureKind::Context => "context",
            FailureKind::Reward => "reward",
            FailureKind::Environment => "environment",
            FailureKind::Edit => "edit",
            FailureKind::Model => "model",
            FailureKind::NonFinite => "non-finite",
            FailureKind::Guard => "guard",
            FailureKind::Memory => "memory",
            FailureKind::Storage => "storage",
            FailureKind::Runtime => "runtime",
        }
    }
}
