//! The models that a stage trains (its learners), and their position between turns. Most stages train one.

use std::rc::Rc;

use super::batches::RolloutCache;
use super::hooks::StepAction;
use super::scoring::ScoreCache;
use super::stage::Stage;
use super::trainer::{RestoreMode, Trainer};
use crate::failure::Result;
use crate::model::{Decoder, Weights};
use crate::report::Record;
use crate::store::state::{StateTensors, TrainState};
use crate::zip::zip_equal;

/// A position between two turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LearnersPosition {
    /// Steps done.
    pub step: u32,
    /// Turns done in the next step.
    pub turn: u32,
}

impl LearnersPosition {
    /// The position before the first turn of `step`.
    pub fn before(step: u32) -> LearnersPosition {
        LearnersPosition { step, turn: 0 }
    }

    pub fn from_state(state: &TrainState) -> LearnersPosition {
        LearnersPosition { step: state.position.step, turn: state.position.turn }
    }
}

/// The models that a stage trains.
pub struct Learners<'a>(pub Vec<Trainer<'a>>);

impl<'a> Learners<'a> {
    /// `parts` has the parts of each model's stage.
    pub fn new(
        parts: &'a [Vec<Stage<'a>>],
        cache: Option<RolloutCache>,
        scores: Option<ScoreCache<'a>>,
    ) -> Result<Learners<'a>> {
        let models: Vec<Rc<Decoder>> = parts.iter().map(|stages| Rc::new(stages[0].student())).collect();
        let trainer = |(place, stages): (usize, &'a Vec<Stage<'a>>)| {
            Trainer::among(stages, place, &models, cache, scores)
        };
        Ok(Learners(parts.iter().enumerate().map(trainer).collect::<Result<_>>()?))
    }

    /// The index of the model whose turn it is.
    pub fn of_turn(&self, turn: u32) -> usize {
        let its = |trainer: &Trainer| trainer.stage.turn.place == turn;
        self.0.iter().position(its).expect("each turn is one model's")
    }

    /// Between two steps, after `steps` of them.
    pub fn between_steps(&mut self, steps: u32, record: &mut Record) -> Result<()> {
        self.0.iter_mut().try_for_each(|trainer| trainer.between_steps(steps, record))
    }

    /// What the hooks of all models ask for since the last call.
    pub fn take_actions(&mut self) -> Vec<StepAction> {
        let hooks = self.0.iter_mut().flat_map(|trainer| &mut trainer.hooks);
        hooks.flat_map(|hook| hook.take_actions()).collect()
    }

    /// Warnings after the last step.
    pub fn end_of_training(&self) -> Vec<String> {
        self.0.iter().flat_map(|trainer| &trainer.hooks).flat_map(|hook| hook.end_of_training()).collect()
    }

    pub fn state(
        &self,
        LearnersPosition { step, turn }: LearnersPosition,
        seconds: f64,
        record: Record,
    ) -> TrainState {
        let mut state = self.0[0].state(step, seconds, record);
        state.position.turn = turn;
        for (place, trainer) in self.0.iter().enumerate().skip(1) {
            let TrainState { position, tensors, .. } = trainer.state(step, seconds, Record::default());
            let named = tensors.0.into_iter().map(|(name, tensor)| (prefix(place) + &name, tensor));
            state.tensors.0.extend(named);
            state.position.others.push(position);
        }
        state
    }

    pub fn restore(&mut self, state: &TrainState, mode: RestoreMode) -> Result<(), String> {
        let (has, trains) = (1 + state.position.others.len(), self.0.len());
        if has != trains {
            return Err(format!("it has {has} models, but the stage trains {trains}"));
        }
        let (first, others) = self.0.split_first_mut().expect("a stage trains a model");
        first.restore(state, mode)?;
        zip_equal(others, &state.position.others).enumerate().try_for_each(|(place, (trainer, position))| {
            let prefix = prefix(place + 1);
            let own = state.tensors.0.iter().filter_map(|(name, tensor)| {
                Some((name.strip_prefix(&prefix)?.to_owned(), tensor.shallow_clone()))
            });
            trainer.restore_from(position, &StateTensors(own.collect()), &state.record.rows, mode)
        })
    }

    /// The trained models: that of the stage itself, then the others.
    pub fn trained_models(self) -> (Weights, Vec<Weights>) {
        // Frees what only further training needs before the results take memory.
        let left = |trainer| {
            let Trainer { stage, student, hooks, .. } = trainer;
            (stage, student.finish(), hooks.iter().find_map(|hook| hook.result()))
        };
        let left: Vec<_> = self.0.into_iter().map(left).collect();
        let mut answers =
            left.into_iter().map(|(stage, student, parameters)| student.result(&stage.start, parameters));
        (answers.next().expect("a stage trains a model"), answers.collect())
    }
}

/// The prefix of the names of a model's tensors in a checkpoint; the first model has none.
fn prefix(place: usize) -> String {
    format!("learner.{place}.")
}
