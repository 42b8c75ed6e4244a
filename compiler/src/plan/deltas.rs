//! How far two sets of weights are apart: what `mopd delta` asks the worker, and what it answers.

use mopd_lang::experiment::WeightGroup;
use serde::{Deserialize, Serialize};

/// Compare two models, and their change with that of two others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeltaJob {
    /// Folders of models.
    pub after: String,
    pub before: String,
    /// Another change of a model of the same shape: after, before.
    pub beside: Option<(String, String)>,
    /// Entries that differ by more than this.
    pub beyond: f64,
    /// Whether singular values are computed.
    pub ranks: bool,
}

/// How one parameter changed, or all of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// The parameter as checkpoints call it, the group, or `all`.
    pub name: String,
    /// None for all.
    pub group: Option<WeightGroup>,
    /// Empty for a group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shape: Vec<u64>,
    pub entries: u64,
    /// Norm of the change.
    pub norm: f64,
    /// That, divided by the norm before; none where that is 0.
    pub relative: Option<f64>,
    /// Entries that are another number.
    pub changed: u64,
    /// Entries that are another number after rounding to bfloat16.
    pub changed_in_bfloat16: u64,
    /// Entries that differ by more than [`DeltaJob::beyond`].
    pub changed_beyond: u64,
    /// Of a matrix that changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<Rank>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<DeltaOverlap>,
}

/// Of the singular values of a change.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rank {
    /// exp of the entropy of the singular values divided by their sum (Roy & Vetterli 2007).
    pub effective: f64,
    /// The fewest singular values with 99 % of the sum of squares.
    pub of_99_percent: u64,
    /// The most that either can be.
    pub full: u64,
}

/// With another change.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeltaOverlap {
    /// None where one of them is 0.
    pub cosine: Option<f64>,
    /// Of the entries that differ by more than [`DeltaJob::beyond`]: those in both as a part of those in
    /// either; none where there are none.
    pub jaccard: Option<f64>,
}
