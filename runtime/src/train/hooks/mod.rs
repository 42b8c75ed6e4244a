//! What a stage does besides its updates. Each such feature is a [`StepHook`] in a file of its own here, with
//! its numbers, its columns of the metrics and its part of a checkpoint. A step calls the hooks of its stage
//! in the order of [`of_stage`]. A hook has the moments that it needs; at the others it does nothing.
//!
//! Two features are no hooks. A private stage ([`super::privacy`]) computes another gradient, from each
//! record alone. Blocks with `agreement` ([`super::agreement`]) are signals, which the objective of the step
//! reads.

mod alignment;
mod average;
mod extrapolation;
pub mod guards;
mod monitor;
mod validation;

use mopd_expr::batch::Batch;
use tch::Tensor;

#[cfg(test)]
pub use self::alignment::{AlignedGradients, columns};
#[cfg(test)]
pub use self::extrapolation::{Extrapolator, of_stage as extrapolator};
use super::models::Models;
use super::objective::{Losses, Outputs};
use super::rollouts::Rollouts;
use super::scoring::{Scoring, ScoringPass};
use super::stage::Stage;
use super::student::StudentWeights;
use crate::failure::{Error, Result};
use crate::model::Gradient;
use crate::report::Record;
use crate::report::metrics::StepMetrics;
use crate::store::state::{HookNumbers, StateTensors};

/// A feature of a stage, called at moments of its steps.
pub trait StepHook {
    /// Before the batch of `step` is drawn. It may set numbers that the objective reads.
    fn before_batch(
        &mut self,
        _step: u32,
        _student: &StudentWeights,
        _models: &Models,
        _read: &mut Losses,
    ) -> Result<()> {
        Ok(())
    }

    /// Whether it needs [`StepHook::after_gradient`] in this step. The forward pass then stays in memory.
    fn reads_gradients(&self, _step: u32) -> bool {
        false
    }

    /// After the gradient of a part of the stage.
    fn after_gradient(&mut self, _part: &GradientPass) -> Result<()> {
        Ok(())
    }

    /// The factor on the learning rate of the next update.
    fn rate_factor(&self) -> f64 {
        1.0
    }

    /// After the weights were updated.
    fn after_update(&mut self, _update: &Update) {}

    /// When the rows of a step are known, part by part: adds its numbers to them, or reads those that the
    /// hooks before it have added.
    fn end_of_step(&mut self, _step: u32, _rows: &mut [Vec<StepMetrics>]) {}

    /// What it asks for since the last call.
    fn take_actions(&mut self) -> Vec<StepAction> {
        Vec::new()
    }

    /// Between two steps, after `steps` of them. It may change the weights and the rows of the last step; if
    /// it fails, both are as the step left them.
    fn between_steps(&mut self, _steps: u32, _student: &StudentWeights, _record: &mut Record) -> Result<()> {
        Ok(())
    }

    /// Warnings after the last step.
    fn end_of_training(&self) -> Vec<String> {
        Vec::new()
    }

    /// Trained parameters that are the stage's result in place of the last ones.
    fn result(&self) -> Option<Tensor> {
        None
    }

    /// Adds its state to a checkpoint.
    fn save(&self, _numbers: &mut HookNumbers, _tensors: &mut StateTensors) {}

    /// Restores its state, before the next step. An error says how state and stage differ.
    fn restore(&mut self, _state: &SavedState, _read: &mut Losses) -> Result<(), String> {
        Ok(())
    }
}

/// The pass of a part from which its gradient was computed, without activations.
pub struct GradientPass<'p> {
    pub scoring: &'p Scoring<'p>,
    pub pass: &'p ScoringPass,
    pub rollouts: &'p Rollouts,
    pub batch: &'p Batch,
    pub outputs: &'p Outputs,
    /// Maps the gradient of all weights to that of the trained parameters.
    pub trained: &'p dyn Fn(Gradient) -> Gradient,
}

/// An update of the weights.
pub struct Update<'u> {
    pub step: u32,
    /// The student with its new weights.
    pub student: &'u StudentWeights,
    /// The rollouts of the stage's first part.
    pub rollouts: &'u Rollouts,
    /// The norm of the gradient; `None` where no part had anything to train on.
    pub norm: Option<f64>,
    pub learning_rate: f64,
}

/// What a hook asks for after a step.
pub enum StepAction {
    Warn(String),
    /// To stop the training.
    Stop(Error),
}

/// A checkpoint as hooks read it.
pub struct SavedState<'s> {
    /// The number of steps done.
    pub steps: u32,
    /// Whether it is another stage's.
    pub is_fork: bool,
    pub numbers: &'s HookNumbers,
    pub tensors: &'s StateTensors,
    /// The rows of the steps so far.
    pub rows: &'s [StepMetrics],
    /// The student, which is restored already.
    pub student: &'s StudentWeights,
}

/// The hooks of a stage, in the order in which they are called.
pub type Hooks<'a> = Vec<Box<dyn StepHook + 'a>>;

/// The hooks of a stage. Guards are last: they read the numbers that the others add.
pub fn of_stage<'a>(stage: &'a Stage<'a>, student: &StudentWeights) -> Result<Hooks<'a>> {
    let mut hooks: Hooks<'a> = Vec::new();
    let mut add = |hook: Option<Box<dyn StepHook + 'a>>| hooks.extend(hook);
    add(validation::of_stage(stage)?.map(boxed));
    add(stage.train.options.alignment.map(alignment::AlignedGradients::new).map(boxed));
    add(average::new(&stage.train.options, student).map(boxed));
    add(extrapolation::of_stage(stage, student)?.map(boxed));
    add(Some(boxed(monitor::Monitor::new(stage))));
    add(Some(boxed(guards::Guards::new(guards::GuardedStage::of(stage)))));
    Ok(hooks)
}

fn boxed<'a>(hook: impl StepHook + 'a) -> Box<dyn StepHook + 'a> {
    Box::new(hook)
}
