//! Saves and restores the state between two steps, so that training continues as if it had never stopped.
//!
//! Random numbers are keyed by step, prompt and sample, so they need no state. What can be recomputed with
//! the same bits is left out: the order of an epoch, frozen models' hidden states, rollouts that teachers
//! wrote before the first step.

use std::collections::HashMap;

use mopd_expr::graph::NodeId;

use super::Trainer;
use super::losses::ValidationLoss;
use super::part::{Rollouts, StagePart};
use super::sequences::Sequences;
use super::vocabulary::{LmHead, Logits};
use crate::data::mixture::Draw;
use crate::model::Decoder;
use crate::report::Record;
use crate::rollout::Sequence;
use crate::store::state::{
    GroupSizes, PartPosition, StateTensors, StoredRollouts, TrainPosition, TrainState,
};
use crate::zip::zip_equal;

/// Whether a stage resumes its own state or continues from another stage's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreMode {
    /// The state is the stage's own.
    Resume,
    /// The state is that of a stage with another objective, schedule or coefficient, and what belongs to
    /// these is left out.
    Fork,
}

impl Trainer<'_> {
    /// The state after `step` steps. Its tensors share memory with the trainer's.
    pub(super) fn state(&self, step: u32, seconds: f64, record: Record) -> TrainState {
        let mut tensors = StateTensors::default();
        self.trained.state(&self.model, &mut tensors);
        let updates = self.optimizer.state(&mut tensors);
        if let Some((_, average)) = &self.average {
            tensors.put("average", average);
        }
        self.models.state(&mut tensors);
        let extrapolated = self.extrapolator.as_ref().map_or(0, |extrapolator| {
            extrapolator.state(&mut tensors);
            extrapolator.steps
        });
        let mut parts = self.parts.iter().map(|part| part.position(&mut tensors)).collect::<Vec<_>>();
        let first = parts.remove(0);
        let (turn, others) = (0, Vec::new());
        let losses = self.losses.position();
        let validated = self.losses.validated.map(|ValidationLoss { step, loss }| (step, loss.to_bits()));
        let position = TrainPosition {
            step,
            turn,
            seconds,
            updates,
            extrapolated,
            first,
            own_data: parts,
            others,
            losses,
            states: self.losses.states.bits(),
            validated,
        };
        TrainState { position, tensors, record }
    }

    /// Restores the state. An error describes how state and stage differ; the trainer is then unusable.
    pub(super) fn restore(&mut self, state: &TrainState, mode: RestoreMode) -> Result<(), String> {
        let TrainState { position, tensors, .. } = state;
        if mode == RestoreMode::Fork && self.privacy.is_some() {
            return Err(
                "this stage's privacy budget does not account for the steps before the fork".to_owned()
            );
        }
        if position.step > self.stage.steps {
            return Err(format!(
                "it is from step {}, but the stage has only {}",
                position.step, self.stage.steps
            ));
        }
        self.trained.restore(&self.model, tensors)?;
        self.optimizer.restore(tensors, position.updates)?;
        if let Some((_, average)) = &self.average {
            tensors.restore("average", average)?;
        }
        self.models.restore(tensors)?;
        if let Some(extrapolator) = &mut self.extrapolator {
            match mode {
                RestoreMode::Resume => extrapolator.restore(tensors, position.extrapolated)?,
                RestoreMode::Fork => {
                    let weights = self.trained.parameters(&self.model).0;
                    extrapolator.fork(tensors, position.extrapolated, position.step, &weights);
                }
            }
        }
        let all: Vec<&PartPosition> = std::iter::once(&position.first).chain(&position.own_data).collect();
        if mode == RestoreMode::Fork {
            // A part that the other stage does not have starts where that stage's first part stood. The
            // choice of prompts is left out: this stage chooses anew.
            let of = |part: usize| all.get(part).unwrap_or(&all[0]).data.clone().without_choice();
            return self.restore_positions(&(0..self.parts.len()).map(of).collect::<Vec<_>>());
        }
        if all.len() != self.parts.len() {
            return Err(format!(
                "it has {} sets of completions, but the stage has {}",
                all.len(),
                self.parts.len()
            ));
        }
        self.losses.restore(&position.losses)?;
        self.losses.states.restore(&position.states)?;
        let validated = |(step, loss)| ValidationLoss { step, loss: f64::from_bits(loss) };
        self.losses.validated = position.validated.map(validated);
        let model = &self.model;
        zip_equal(&mut self.parts, all)
            .try_for_each(|(part, position)| part.restore(model, position, tensors))
    }
}

impl StagePart<'_> {
    /// The name of a tensor of this part in a state.
    fn name(&self, tensor: &str) -> String {
        match self.stage.part {
            0 => tensor.to_owned(),
            part => format!("{tensor}.{part}"),
        }
    }

    fn position(&self, tensors: &mut StateTensors) -> PartPosition {
        let rollouts = self.rollouts.as_ref().map(|rollouts| {
            if let Some(Logits::Projected { hidden, lm_head: LmHead::Held(lm_head), .. }) =
                &*rollouts.policy.borrow()
            {
                tensors.put(self.name("policy.hidden"), hidden);
                tensors.put(self.name("policy.matrix"), lm_head);
            }
            let Sequences { list, draws, dropped, debates, .. } = &rollouts.sequences;
            StoredRollouts {
                sequences: list.clone(),
                of_group: GroupSizes::Each(rollouts.sequences.groups().map(<[_]>::len).collect()),
                draws: draws.clone(),
                dropped: dropped.clone(),
                debates: debates.to_vec(),
            }
        });
        let mut carried: Vec<(NodeId, u64)> =
            self.carried.iter().map(|(node, value)| (*node, value.to_bits())).collect();
        carried.sort_unstable();
        PartPosition {
            data: self.batches.position(),
            carried,
            climbed: self.batches.climbed().to_vec(),
            policy: self.batches.policy(),
            measured: self.batches.measured(),
            kept: self.batches.buffered_groups(),
            pushed: self.batches.pushed(tensors, &|tensor| self.name(tensor)),
            rollouts,
        }
    }

    fn restore(
        &mut self,
        model: &Decoder,
        position: &PartPosition,
        tensors: &StateTensors,
    ) -> Result<(), String> {
        self.batches.restore(&position.data, self.stage)?;
        self.batches.restore_climbed(&position.climbed, &self.stage.train.objective.ladders)?;
        self.batches.restore_policy(&position.policy)?;
        self.batches.restore_measured(&position.measured)?;
        self.batches.restore_groups(&position.kept, self.stage)?;
        self.batches.restore_pushed(&position.pushed, model, (tensors, &|tensor| self.name(tensor)))?;
        self.carried = position
            .carried
            .iter()
            .map(|(node, bits)| (*node, f64::from_bits(*bits)))
            .collect::<HashMap<_, _>>();
        self.rollouts = match &position.rollouts {
            Some(kept) => Some(self.restored_rollouts(model, kept, tensors)?),
            None => None,
        };
        Ok(())
    }

    fn restored_rollouts(
        &self,
        model: &Decoder,
        StoredRollouts { sequences, of_group, draws, dropped, debates }: &StoredRollouts,
        tensors: &StateTensors,
    ) -> Result<Rollouts, String> {
        let sources = &self.stage.sources;
        let known = |sequence: &Sequence| {
            self.stage.contains(Draw { source: sequence.source, record: sequence.record })
        };
        if !sequences.iter().all(known) {
            return Err("its rollouts have prompts that the stage does not have".to_owned());
        }
        let sizes = match of_group {
            GroupSizes::Alike(size) => vec![*size; sequences.len() / size.max(&1)],
            GroupSizes::Each(sizes) => sizes.clone(),
        };
        if sizes.contains(&0) || sizes.iter().sum::<usize>() != sequences.len() {
            return Err("its rollouts have groups of another size".to_owned());
        }
        let mut rest = sequences.iter().cloned();
        let groups = sizes.iter().map(|size| rest.by_ref().take(*size).collect()).collect::<Vec<_>>();
        if self.kept.is_some() && draws.len() != groups.len() {
            return Err("it has no valid positions of its sequences in the data".to_owned());
        }
        let device = self.stage.place.device;
        let policy = match tensors.0.contains_key(&self.name("policy.hidden")) {
            true => Some(Logits::Projected {
                hidden: tensors.get(&self.name("policy.hidden"))?.to_device(device),
                lm_head: LmHead::Held(tensors.get(&self.name("policy.matrix"))?.to_device(device)),
                softcap: model.config.logit_softcap,
                scalar_head: None,
            }),
            false => None,
        };
        if dropped.as_ref().is_some_and(|dropped| dropped.len() != self.stage.sections().len()) {
            return Err("its rollouts have teachers that the stage does not have".to_owned());
        }
        let sequences = Sequences::of_groups(groups, sources.len())
            .drawn(draws.clone())
            .without(dropped.clone())
            .debated(debates.as_slice().into());
        Ok(Rollouts { policy: std::cell::RefCell::new(policy), ..Rollouts::new(self.stage, sequences) })
    }
}
