//! The content of a stage's checkpoint.

use std::collections::BTreeMap;

use mopd_expr::graph::NodeId;
use mopd_plan::Signal;
use serde::{Deserialize, Serialize};
use tch::{Tensor, no_grad_guard};

use crate::data::mixture::{self, Draw};
use crate::report::Record;
use crate::rollout::{Debate, Sequence};

/// Tensors by name.
#[derive(Debug, Default)]
pub struct StateTensors(pub BTreeMap<String, Tensor>);

impl StateTensors {
    /// Adds a tensor without a copy: it must be written before the next step changes it.
    pub fn put(&mut self, name: impl Into<String>, tensor: &Tensor) {
        self.0.insert(name.into(), tensor.detach());
    }

    pub fn get(&self, name: &str) -> Result<&Tensor, String> {
        self.0.get(name).ok_or_else(|| format!("it has no `{name}`"))
    }

    /// Copies the tensor of that name into `into`, which must have the same shape and kind.
    pub fn restore(&self, name: &str, into: &Tensor) -> Result<(), String> {
        let _guard = no_grad_guard();
        let found = self.get(name)?;
        if (found.size(), found.kind()) != (into.size(), into.kind()) {
            let (theirs, ours) = ((found.size(), found.kind()), (into.size(), into.kind()));
            return Err(format!("`{name}` is {theirs:?} in it, but the stage has {ours:?}"));
        }
        into.shallow_clone().copy_(found);
        Ok(())
    }
}

/// A checkpoint of a stage.
#[derive(Debug)]
pub struct TrainState {
    pub position: TrainPosition,
    pub tensors: StateTensors,
    /// The record of the steps so far.
    pub record: Record,
}

/// The state that is not in tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainPosition {
    /// Number of finished steps.
    pub step: u32,
    /// Finished turns of the next step, where several models learn.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub turn: u32,
    /// Time that these steps took.
    pub seconds: f64,
    /// Number of the optimizer's updates.
    pub updates: i32,
    /// The canaries of served teachers, which answers to the same requests must equal: a hash of each
    /// server's identity, and its numbers as bits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub canaries: Vec<(String, Vec<u32>)>,
    #[serde(flatten)]
    pub first: PartPosition,
    /// Positions of terms with their own completions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own_data: Vec<PartPosition>,
    /// Positions of the other models that learn in the stage.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<TrainPosition>,
    #[serde(flatten)]
    pub losses: LossesPosition,
    #[serde(flatten)]
    pub hooks: HookNumbers,
}

/// Numbers that the hooks of a stage keep.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HookNumbers {
    /// Number of finished steps at the last extrapolation of the weights.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub extrapolated: u32,
    /// The step before which the validation loss was last computed, and the loss as bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validated: Option<(u32, u64)>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The position of some terms with their completions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartPosition {
    #[serde(flatten)]
    pub batches: BatchesPosition,
    /// The numbers that the objective carries to the next step, as bits: JSON has no infinity.
    pub carried: Vec<(NodeId, u64)>,
    /// Rollouts that later updates train on: those of the next one, where a batch has mini-batches.
    pub rollouts: Option<StoredRollouts>,
    /// Of the updates after that, in their order. The debates are in `rollouts`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mini_batches: Vec<StoredRollouts>,
}

/// The position of what makes the batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchesPosition {
    pub data: mixture::MixturePosition,
    /// Number of steps climbed on each ladder of the objective.
    #[serde(default)]
    pub climbed: Vec<u32>,
    /// The parameters of a `learned(...)` policy, as bits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policy: Vec<u64>,
    /// Lasting measurements of prompts, by measure and domain, as bits; empty for measures that are taken
    /// anew at every choice of prompts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measured: Vec<Vec<Vec<u64>>>,
    /// The groups kept for later steps, by buffer, the oldest first.
    #[serde(default)]
    pub kept: Vec<Vec<BufferedGroup>>,
    /// The weights with which servers of rollouts sample for several steps, by server; `None` for one without
    /// weights yet. The numbers are in the tensors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pushed: Vec<Option<PushedPosition>>,
}

/// The numbers of earlier steps that objectives read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossesPosition {
    /// The previous step's total loss, then those of terms that are read; as bits: JSON has no infinity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<u64>,
    /// The states of the objective by name, as bits.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub states: BTreeMap<String, u64>,
}

/// Weights on a server of rollouts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PushedPosition {
    /// Number of steps after which the student had them.
    pub step: u32,
    /// The trainer's log-probabilities of the canary with them, as bits.
    pub canary: Vec<u32>,
}

/// A group that may be replayed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BufferedGroup {
    pub draw: Draw,
    /// Its sort key, as bits: JSON has no infinity.
    order: u64,
    /// Empty where only the prompt is kept.
    pub sequences: Vec<Sequence>,
}

impl BufferedGroup {
    pub fn new(draw: Draw, order: f64, sequences: Vec<Sequence>) -> BufferedGroup {
        BufferedGroup { draw, order: order.to_bits(), sequences }
    }

    /// The sort key; the smallest is replayed first.
    pub fn order(&self) -> f64 {
        f64::from_bits(self.order)
    }
}

/// Rollouts that later updates train on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredRollouts {
    pub sequences: Vec<Sequence>,
    pub of_group: GroupSizes,
    #[serde(default)]
    pub draws: Vec<Draw>,
    #[serde(default)]
    pub dropped: Option<Vec<u32>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub debates: Vec<Debate>,
    /// The step that drew them.
    #[serde(default)]
    pub drawn: u32,
    /// The numbers of the student before the first update from them. Their values are in the tensors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub old: Vec<Signal>,
}

/// Number of sequences of each group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum GroupSizes {
    /// The same for all groups, as earlier versions wrote them.
    Alike(usize),
    Each(Vec<usize>),
}
