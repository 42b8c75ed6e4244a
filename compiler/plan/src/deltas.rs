//! The difference between two sets of weights: the job of `mopd delta` for the worker, and its result.

use mopd_experiment::WeightGroup;
use serde::{Deserialize, Serialize};

/// Compares two models, and optionally their difference with that of two other models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeltaJob {
    /// The folders of the two models.
    pub after: String,
    pub before: String,
    /// The two models of another difference, of the same shape: `after`, `before`.
    pub beside: Option<(String, String)>,
    /// The difference above which an entry counts in [`Delta::changed_beyond`].
    pub beyond: f64,
    /// Whether to compute singular values.
    pub ranks: bool,
}

/// The change of one parameter, of a group, or of all parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// The parameter's name in checkpoints, the name of the group, or `all`.
    pub name: String,
    /// `None` for all parameters.
    pub group: Option<WeightGroup>,
    /// The parameter's shape; empty for a group and for `all`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shape: Vec<u64>,
    pub entries: u64,
    /// The norm of the change.
    pub norm: f64,
    /// The norm of the change divided by the norm before; `None` where that is 0.
    pub relative: Option<f64>,
    /// Entries whose value changed.
    pub changed: u64,
    /// Entries whose value changed after rounding to bfloat16.
    pub changed_in_bfloat16: u64,
    /// Entries that differ by more than [`DeltaJob::beyond`].
    pub changed_beyond: u64,
    /// The rank of the change. Only for a matrix that changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<Rank>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<DeltaOverlap>,
}

/// The rank of a change, from its singular values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rank {
    /// exp of the entropy of the singular values divided by their sum (Roy & Vetterli 2007).
    pub effective: f64,
    /// The fewest singular values with 99 % of the sum of squares.
    pub of_99_percent: u64,
    /// The largest possible value of either.
    pub full: u64,
}

/// The overlap with another change.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeltaOverlap {
    /// `None` if one of the changes is 0.
    pub cosine: Option<f64>,
    /// The entries that differ by more than [`DeltaJob::beyond`] in both changes, divided by those that do in
    /// either; `None` where there are none.
    pub jaccard: Option<f64>,
}
