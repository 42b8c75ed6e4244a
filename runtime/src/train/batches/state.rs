//! The state of the batches between two steps.

use std::cell::RefCell;

use mopd_plan::Ladder;

use super::curriculum::CurriculumState;
use super::learned::LearnedPolicy;
use super::prompts::shuffle;
use super::sampled_by::SentWeights;
use super::{Batches, SequenceProducer, buffers};
use crate::data::mixture::MixturePosition;
use crate::model::Decoder;
use crate::random::Purpose;
use crate::store::state::{BatchesPosition, BufferedGroup, PushedPosition, StateTensors};
use crate::train::stage::{Stage, StageKeys, StageSources};
use crate::zip::zip_equal;

/// The weights that servers sample with, for a producer and all inside it, from the outside in.
fn pushed(producer: &dyn SequenceProducer) -> Vec<&RefCell<Option<SentWeights>>> {
    let inside = producer.inside().into_iter().flat_map(pushed);
    producer.pushed().into_iter().chain(inside).collect()
}

impl Batches {
    /// The state, whose tensors are added to `tensors`.
    pub fn save(&self, keys: StageKeys, tensors: &mut StateTensors) -> BatchesPosition {
        let Batches { mixture, producer, curriculum, panels: _, climbed, policy, activations: _ } = self;
        let pushed = self.pushed_weights().enumerate().map(|(index, weights)| {
            let weights = weights.borrow();
            let name = keys.tensor_name(&format!("pushed.{index}"));
            weights.as_ref().map(|weights| weights.state(&name, tensors))
        });
        BatchesPosition {
            data: mixture.position(),
            climbed: climbed.clone(),
            policy: policy.as_ref().map(LearnedPolicy::numbers).unwrap_or_default(),
            measured: curriculum.as_ref().map(CurriculumState::bits).unwrap_or_default(),
            kept: buffers(&**producer).into_iter().map(|buffer| buffer.borrow().state()).collect(),
            pushed: pushed.collect(),
        }
    }

    /// Restores a state of the same stage. `student` has the current weights.
    pub fn restore(
        &mut self,
        stage: &Stage,
        student: &Decoder,
        position: &BatchesPosition,
        tensors: &StateTensors,
    ) -> Result<(), String> {
        let BatchesPosition { data, climbed, policy, measured, kept, pushed } = position;
        self.restore_data(data, stage.keys())?;
        self.restore_climbed(climbed, &stage.train.objective.ladders)?;
        self.restore_policy(policy)?;
        self.restore_measured(measured)?;
        self.restore_groups(kept, &stage.sources)?;
        self.restore_pushed(pushed, stage.keys(), student, tensors)
    }

    /// The position in the data alone.
    pub fn data(&self) -> MixturePosition {
        self.mixture.position()
    }

    /// Restores the position in the data, of the same stage or of one with as many sources.
    pub fn restore_data(&mut self, position: &MixturePosition, keys: StageKeys) -> Result<(), String> {
        self.mixture.restore(position, shuffle(keys, Purpose::Shuffle))
    }

    fn restore_climbed(&mut self, climbed: &[u32], ladders: &[Ladder]) -> Result<(), String> {
        let fits = climbed.len() == ladders.len()
            && climbed.iter().zip(ladders).all(|(climbed, ladder)| *climbed < ladder.values);
        if !fits {
            return Err(format!(
                "it has other step schedules (`ladder`): it is at the positions {climbed:?}, but the stage \
                has {} of {:?} values",
                ladders.len(),
                ladders.iter().map(|ladder| ladder.values).collect::<Vec<_>>()
            ));
        }
        self.climbed = climbed.to_vec();
        Ok(())
    }

    fn restore_policy(&mut self, numbers: &[u64]) -> Result<(), String> {
        match (&mut self.policy, numbers) {
            (Some(policy), numbers) => policy.restore(numbers),
            (None, []) => Ok(()),
            (None, _) => Err("it has a learned policy (`learned(...)`), but the stage has none".to_owned()),
        }
    }

    fn restore_measured(&mut self, bits: &[Vec<Vec<u64>>]) -> Result<(), String> {
        match (&mut self.curriculum, bits) {
            (Some(curriculum), bits) => curriculum.restore(bits, &self.mixture.sizes()),
            (None, []) => Ok(()),
            (None, _) => Err("it has curriculum measurements of prompts, but the stage has no \
                curriculum (`priority`)"
                .to_owned()),
        }
    }

    fn restore_groups(&mut self, kept: &[Vec<BufferedGroup>], sources: &StageSources) -> Result<(), String> {
        let buffers = buffers(&*self.producer);
        if buffers.len() != kept.len() {
            return Err(format!("it has {} replay buffers, but the stage has {}", kept.len(), buffers.len()));
        }
        if !kept.iter().flatten().all(|group| sources.contains(group.draw)) {
            return Err("its replay buffer has prompts that the stage does not have".to_owned());
        }
        zip_equal(buffers, kept).for_each(|(buffer, kept)| buffer.borrow_mut().restore(kept));
        Ok(())
    }

    /// The weights of all servers, also of those that the choice of prompts draws from.
    fn pushed_weights(&self) -> impl Iterator<Item = &RefCell<Option<SentWeights>>> {
        let measured = self.curriculum.iter().flat_map(CurriculumState::rollouts);
        std::iter::once(&*self.producer).chain(measured).flat_map(pushed)
    }

    fn restore_pushed(
        &self,
        kept: &[Option<PushedPosition>],
        keys: StageKeys,
        student: &Decoder,
        tensors: &StateTensors,
    ) -> Result<(), String> {
        let weights: Vec<_> = self.pushed_weights().collect();
        if weights.len() != kept.len() {
            return Err(format!(
                "it has the weights of {} servers, but the stage has {}",
                kept.len(),
                weights.len()
            ));
        }
        for (index, (weights, kept)) in zip_equal(weights, kept).enumerate() {
            let name = keys.tensor_name(&format!("pushed.{index}"));
            let restored = kept.as_ref().map(|kept| SentWeights::restored(kept, student, &name, tensors));
            *weights.borrow_mut() = restored.transpose()?;
        }
        Ok(())
    }
}
