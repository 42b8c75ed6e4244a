//! Saves and restores the state between two steps, so that training continues as if it had never stopped.
//!
//! Random numbers are keyed by step, prompt and sample, so they need no state. What can be recomputed with
//! the same bits is left out: the order of an epoch, frozen models' hidden states, rollouts that teachers
//! wrote before the first step.

use super::Trainer;
use crate::report::Record;
use crate::store::state::{PartPosition, StateTensors, TrainPosition, TrainState};
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
    pub fn state(&self, step: u32, seconds: f64, record: Record) -> TrainState {
        let Trainer {
            stage,
            place: _,
            student,
            models,
            privacy: _,
            extrapolator,
            validator: _,
            parts,
            warned_empty_step: _,
            losses,
            guards: _,
            monitor: _,
        } = self;
        let mut tensors = StateTensors::default();
        let updates = student.save(&mut tensors);
        models.state(&mut tensors);
        let extrapolated = extrapolator.as_ref().map_or(0, |extrapolator| {
            extrapolator.state(&mut tensors);
            extrapolator.steps
        });
        let mut own_data = parts.iter().map(|part| part.save(&mut tensors)).collect::<Vec<_>>();
        let first = own_data.remove(0);
        let (turn, others, losses) = (0, Vec::new(), losses.save());
        let canaries = stage.servers.canaries(stage.train);
        let position = TrainPosition {
            step,
            turn,
            seconds,
            updates,
            canaries,
            extrapolated,
            first,
            own_data,
            others,
            losses,
        };
        TrainState { position, tensors, record }
    }

    /// Restores the state. An error describes how state and stage differ; the trainer is then unusable.
    pub fn restore(&mut self, state: &TrainState, mode: RestoreMode) -> Result<(), String> {
        let TrainState { position, tensors, record: _ } = state;
        // `turn` and `others` are the learners', `seconds` and `canaries` are the loop's.
        let TrainPosition {
            step,
            turn: _,
            seconds: _,
            updates,
            canaries: _,
            extrapolated,
            first,
            own_data,
            others: _,
            losses,
        } = position;
        if mode == RestoreMode::Fork && self.privacy.is_some() {
            return Err(
                "this stage's privacy budget does not account for the steps before the fork".to_owned()
            );
        }
        if *step > self.stage.steps {
            return Err(format!("it is from step {step}, but the stage has only {}", self.stage.steps));
        }
        self.student.restore(tensors, *updates)?;
        self.models.restore(tensors)?;
        if let Some(extrapolator) = &mut self.extrapolator {
            match mode {
                RestoreMode::Resume => extrapolator.restore(tensors, *extrapolated)?,
                RestoreMode::Fork => {
                    extrapolator.fork(tensors, *extrapolated, *step, &self.student.parameters());
                }
            }
        }
        let all: Vec<&PartPosition> = std::iter::once(first).chain(own_data).collect();
        if mode == RestoreMode::Fork {
            // A part that the other stage does not have starts where that stage's first part stood. The
            // choice of prompts is left out: this stage chooses anew.
            let of = |part: usize| all.get(part).unwrap_or(&all[0]).batches.data.clone().without_choice();
            return self.restore_positions(&(0..self.parts.len()).map(of).collect::<Vec<_>>());
        }
        if all.len() != self.parts.len() {
            return Err(format!(
                "it has {} sets of completions, but the stage has {}",
                all.len(),
                self.parts.len()
            ));
        }
        self.losses.restore(losses)?;
        let model = &self.student.model;
        zip_equal(&mut self.parts, all)
            .try_for_each(|(part, position)| part.restore(model, position, tensors))
    }
}
