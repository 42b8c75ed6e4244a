//! What a checkpoint of a stage holds.

use std::collections::BTreeMap;

use mopd_compiler::expr::graph::NodeId;
use serde::{Deserialize, Serialize};
use tch::{Tensor, no_grad_guard};

use crate::data::mixture::{self, Draw};
use crate::report::Record;
use crate::rollout::{Debate, Sequence};

/// Tensors by name.
#[derive(Debug, Default)]
pub struct StateTensors(pub BTreeMap<String, Tensor>);

impl StateTensors {
    /// Not copied: it must be written down before the next step changes it.
    pub fn put(&mut self, name: impl Into<String>, tensor: &Tensor) {
        self.0.insert(name.into(), tensor.detach());
    }

    pub fn get(&self, name: &str) -> Result<&Tensor, String> {
        self.0.get(name).ok_or_else(|| format!("it has no `{name}`"))
    }

    /// Writes the numbers of that name over those of `into`, which must be as many and of the same type.
    pub fn restore(&self, name: &str, into: &Tensor) -> Result<(), String> {
        let _guard = no_grad_guard();
        let found = self.get(name)?;
        if (found.size(), found.kind()) != (into.size(), into.kind()) {
            let (theirs, ours) = ((found.size(), found.kind()), (into.size(), into.kind()));
            return Err(format!("`{name}` is {theirs:?} in it, where the stage has {ours:?}"));
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
    /// What the steps so far left to look at.
    pub record: Record,
}

/// What is no tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainPosition {
    /// Steps done.
    pub step: u32,
    /// Turns of the next one that are done, where several models learn.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub turn: u32,
    /// That they took.
    pub seconds: f64,
    /// Updates that the optimiser made.
    pub updates: i32,
    /// Steps that were done when the weights were extrapolated last.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub extrapolated: u32,
    #[serde(flatten)]
    pub first: PartPosition,
    /// Of terms with completions of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own_data: Vec<PartPosition>,
    /// Of the other models that learn in the stage.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<TrainPosition>,
    /// Of the step before: of all terms together, then of those that are read. As bits: JSON has no infinity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<u64>,
    /// The states of its objective by name, as bits.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub states: BTreeMap<String, u64>,
    /// The last loss on validation rows, as bits, and the step before which it was computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validated: Option<(u32, u64)>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Where some terms stand, with their completions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartPosition {
    pub data: mixture::MixturePosition,
    /// The numbers that the objective carries over, by their bits: JSON has no infinity.
    pub carried: Vec<(NodeId, u64)>,
    /// How often each ladder of the objective was climbed.
    #[serde(default)]
    pub climbed: Vec<u32>,
    /// What the policy of a `learned(...)` has learned, as bits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policy: Vec<u64>,
    /// What stays as it was measured of prompts, measure by measure and domain by domain, as bits; nothing of
    /// a measure that is taken whenever prompts are chosen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measured: Vec<Vec<Vec<u64>>>,
    /// The groups that are kept for later steps, buffer by buffer, the oldest first.
    #[serde(default)]
    pub kept: Vec<Vec<BufferedGroup>>,
    /// The weights that servers of rollouts sample with for several steps, server by server; none of one that
    /// has no weights yet. Their numbers are tensors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pushed: Vec<Option<PushedPosition>>,
    /// What later passes train on.
    pub rollouts: Option<StoredRollouts>,
}

/// Weights that a server of rollouts has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PushedPosition {
    /// Steps after which the student had them.
    pub step: u32,
    /// What the trainer says of the canary with them, as bits.
    pub canary: Vec<u32>,
}

/// A group that may be replayed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BufferedGroup {
    pub draw: Draw,
    /// The bits of its place in the order: JSON has no infinity.
    order: u64,
    /// None where only the prompt is kept.
    pub sequences: Vec<Sequence>,
}

impl BufferedGroup {
    pub fn new(draw: Draw, order: f64, sequences: Vec<Sequence>) -> BufferedGroup {
        BufferedGroup { draw, order: order.to_bits(), sequences }
    }

    /// The smallest is replayed first.
    pub fn order(&self) -> f64 {
        f64::from_bits(self.order)
    }
}

/// What later passes train on.
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
}

/// Sequences of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum GroupSizes {
    /// As earlier versions wrote them.
    Alike(usize),
    Each(Vec<usize>),
}
