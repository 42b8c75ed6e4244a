//! Saves and restores the state between two steps, so that training continues as if it had never stopped.
//!
//! Random numbers are keyed by step, prompt and sample, so they need no state. What can be recomputed with
//! the same bits is left out: the order of an epoch, frozen models' hidden states, rollouts that teachers
//! wrote before the first step.

use super::Trainer;
use crate::report::Record;
use crate::report::metrics::StepMetrics;
use crate::store::state::{HookNumbers, PartPosition, StateTensors, TrainPosition, TrainState};
use crate::train::hooks::SavedState;
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
        let Trainer { stage, place: _, student, models, privacy: _, parts, losses, hooks } = self;
        let (mut numbers, mut tensors) = (HookNumbers::default(), StateTensors::default());
        let updates = student.save(&mut tensors);
        models.state(&mut tensors);
        hooks.iter().for_each(|hook| hook.save(&mut numbers, &mut tensors));
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
            first,
            own_data,
            others,
            losses,
            hooks: numbers,
        };
        TrainState { position, tensors, record }
    }

    /// Restores the state. An error describes how state and stage differ; the trainer is then unusable.
    pub fn restore(&mut self, state: &TrainState, mode: RestoreMode) -> Result<(), String> {
        let TrainState { position, tensors, record } = state;
        self.restore_from(position, tensors, &record.rows, mode)
    }

    /// The same for one of several models; `rows` are those of all.
    pub fn restore_from(
        &mut self,
        position: &TrainPosition,
        tensors: &StateTensors,
        rows: &[StepMetrics],
        mode: RestoreMode,
    ) -> Result<(), String> {
        // `turn` and `others` are the learners', `seconds` and `canaries` are the loop's.
        let TrainPosition {
            step,
            turn: _,
            seconds: _,
            updates,
            canaries: _,
            first,
            own_data,
            others: _,
            losses,
            hooks: numbers,
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
        let (steps, is_fork, student) = (*step, mode == RestoreMode::Fork, &self.student);
        let state = SavedState { steps, is_fork, numbers, tensors, rows, student };
        self.hooks.iter_mut().try_for_each(|hook| hook.restore(&state, &mut self.losses))?;
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
