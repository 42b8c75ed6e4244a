//! Everything that training has between two steps, so that it can go on from there as if it had never
//! stopped.
//!
//! Random numbers are keyed by step, prompt and sample, so that they need no state. What can be made again
//! with the same bits is left out: the order of an epoch, frozen models' hidden states, rollouts that
//! teachers wrote before the first step.

use std::collections::{BTreeMap, HashMap};

use mopd_compiler::expr::graph::NodeId;
use serde::{Deserialize, Serialize};
use tch::{Tensor, no_grad_guard};

use super::batches::{Sequence, Sequences};
use super::vocabulary::{Logits, Matrix};
use super::{Rollouts, Trainer};
use crate::data::mixture::{self, Draw};
use crate::report::Record;

/// Tensors by name.
#[derive(Debug, Default)]
pub struct Tensors(pub BTreeMap<String, Tensor>);

impl Tensors {
    /// Not copied: it must be written down before the next step changes it.
    pub fn put(&mut self, name: impl Into<String>, tensor: &Tensor) {
        self.0.insert(name.into(), tensor.detach());
    }

    fn get(&self, name: &str) -> Result<&Tensor, String> {
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
pub struct State {
    pub position: Position,
    pub tensors: Tensors,
    /// What the steps so far left to look at.
    pub record: Record,
}

/// What is no tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Steps done.
    pub step: u32,
    /// That they took.
    pub seconds: f64,
    /// Updates that the optimiser made.
    updates: i32,
    data: mixture::Position,
    /// The numbers that the objective carries over, by their bits: JSON has no infinity.
    carried: Vec<(NodeId, u64)>,
    /// What later passes train on.
    rollouts: Option<Kept>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Kept {
    sequences: Vec<Sequence>,
    of_group: usize,
    #[serde(default)]
    draws: Vec<Draw>,
}

/// How a stage takes a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taking {
    /// It is its own.
    Own,
    /// It is that of a stage with another objective, schedule or coefficient: what belongs to those is left
    /// out.
    Forked,
}

impl Trainer<'_> {
    /// After `step` steps. Tensors are the trainer's own, not copies.
    pub(super) fn state(&self, step: u32, seconds: f64, record: Record) -> State {
        let mut tensors = Tensors::default();
        self.trained.state(&self.model, &mut tensors);
        let updates = self.optimizer.state(&mut tensors);
        if let Some((_, average)) = &self.average {
            tensors.put("average", average);
        }
        self.models.state(&mut tensors);
        let rollouts = self.rollouts.as_ref().map(|rollouts| {
            if let Some(Logits::Projected { hidden, matrix: Matrix::Held(matrix), .. }) =
                &*rollouts.policy.borrow()
            {
                tensors.put("policy.hidden", hidden);
                tensors.put("policy.matrix", matrix);
            }
            let Sequences { list, draws, .. } = &rollouts.sequences;
            Kept { sequences: list.clone(), of_group: rollouts.sequences.of_group(), draws: draws.clone() }
        });
        let mut carried: Vec<(NodeId, u64)> =
            self.carried.iter().map(|(node, value)| (*node, value.to_bits())).collect();
        carried.sort_unstable();
        let position = Position { step, seconds, updates, data: self.batches.position(), carried, rollouts };
        State { position, tensors, record }
    }

    /// Goes to where the state was. An error says in what they differ; what trains is spoilt by then.
    pub(super) fn restore(&mut self, state: &State, taking: Taking) -> Result<(), String> {
        let State { position, tensors, .. } = state;
        if position.step > self.stage.steps {
            return Err(format!("it is of step {}, beyond the stage's {}", position.step, self.stage.steps));
        }
        self.trained.restore(&self.model, tensors)?;
        self.optimizer.restore(tensors, position.updates)?;
        if let Some((_, average)) = &self.average {
            tensors.restore("average", average)?;
        }
        self.models.restore(tensors)?;
        self.batches.restore(&position.data, self.stage)?;
        if taking == Taking::Forked {
            return Ok(());
        }
        self.carried = position
            .carried
            .iter()
            .map(|(node, bits)| (*node, f64::from_bits(*bits)))
            .collect::<HashMap<_, _>>();
        self.rollouts = match &position.rollouts {
            Some(kept) => Some(self.kept(kept, tensors)?),
            None => None,
        };
        Ok(())
    }

    fn kept(
        &self,
        Kept { sequences, of_group, draws }: &Kept,
        tensors: &Tensors,
    ) -> Result<Rollouts, String> {
        let sources = &self.stage.sources;
        let known = |sequence: &Sequence| {
            sources.get(sequence.source).is_some_and(|source| sequence.record < source.prompts.dataset.len())
        };
        if *of_group == 0 || !sequences.iter().all(known) {
            return Err("its rollouts are of prompts that the stage does not have".to_owned());
        }
        if self.kept.is_some() && draws.len() * of_group != sequences.len() {
            return Err("it does not say where its sequences stand in the data".to_owned());
        }
        let device = self.stage.device;
        let policy = match tensors.0.contains_key("policy.hidden") {
            true => Some(Logits::Projected {
                hidden: tensors.get("policy.hidden")?.to_device(device),
                matrix: Matrix::Held(tensors.get("policy.matrix")?.to_device(device)),
                softcap: self.model.config.logit_softcap,
            }),
            false => None,
        };
        let sequences = Sequences::new(sequences.clone(), *of_group, sources.len()).drawn(draws.clone());
        Ok(Rollouts { sequences, known: Default::default(), policy: std::cell::RefCell::new(policy) })
    }
}
