//! The student's weights while they are trained: the model, its parameters that change, and the optimizer.

use std::rc::Rc;

use mopd_plan::Trainable;
use tch::Tensor;

use super::master::Master;
use super::optimizer::OptimizerState;
use super::stage::{Stage, StageKeys};
use super::trained::TrainedParameters;
use crate::failure::Result;
use crate::machine::transfer::to_vec;
use crate::model::{Adapted, Decoder, ExpertLoad, Gradient, Merged, Weights};
use crate::random::{Key, Purpose};
use crate::store::state::StateTensors;

/// The random numbers that an adapter is initialised with.
fn initial_key(keys: StageKeys) -> Key {
    keys.shared(Purpose::Initialise, 1)
}

/// The start of a stage with the adapter that training begins with; `None` where it trains no adapter.
pub fn initial_adapter(stage: &Stage) -> Result<Option<Merged>> {
    let Trainable::Adapter(settings) = &stage.train.trainable else { return Ok(None) };
    let adapted = Adapted::new(settings, &stage.start, stage.place, initial_key(stage.keys()))?;
    Ok(Some(adapted.merged()))
}

/// A model whose weights are trained.
pub struct StudentWeights {
    pub model: Rc<Decoder>,
    pub trained: TrainedParameters,
    /// Whether the weights are known to differ from those that the stage began with.
    pub moved: bool,
    pub optimizer: OptimizerState,
}

impl StudentWeights {
    pub fn new(stage: &Stage, model: Rc<Decoder>) -> Result<StudentWeights> {
        let trained = TrainedParameters::new(
            &stage.train.trainable,
            &stage.start,
            &stage.models,
            &model,
            initial_key(stage.keys()),
        )?;
        let (parameters, decayed) = trained.parameters(&model);
        let optimizer = OptimizerState::new(&stage.train.optimizer, &parameters, decayed);
        Ok(StudentWeights { model, trained, moved: false, optimizer })
    }

    /// The trained parameters.
    pub fn parameters(&self) -> Master {
        self.trained.parameters(&self.model).0
    }

    /// The gradient of the trained parameters, from that of all weights.
    pub fn gradient(&self, of_weights: Gradient) -> Gradient {
        self.trained.gradient(of_weights)
    }

    /// All weights in single precision.
    pub fn to_f32(&self) -> Tensor {
        self.trained.to_f32(&self.model)
    }

    pub fn weights(&self) -> Weights {
        self.trained.weights(&self.model)
    }

    /// Updates the weights by a gradient of norm `norm`. Without a gradient neither the weights nor the
    /// optimizer's moments change.
    pub fn update(&mut self, gradient: Option<Gradient>, norm: f64, learning_rate: f64) {
        if let Some(gradient) = gradient {
            self.optimizer.step(&mut self.parameters(), gradient, norm, learning_rate);
            self.trained.apply(&self.model);
        }
    }

    /// How the tokens of the step were distributed over experts.
    pub fn expert_load(&self) -> Option<ExpertLoad> {
        self.model.take_expert_load()
    }

    /// Adds the state to `tensors`; returns the number of the optimizer's updates. Whether the weights have
    /// moved follows from the record.
    pub fn save(&self, tensors: &mut StateTensors) -> i32 {
        let StudentWeights { model, trained, moved: _, optimizer } = self;
        trained.state(model, tensors);
        optimizer.state(tensors)
    }

    pub fn restore(&mut self, tensors: &StateTensors, updates: i32) -> Result<(), String> {
        let StudentWeights { model, trained, moved: _, optimizer } = self;
        trained.restore(model, tensors)?;
        optimizer.restore(tensors, updates)
    }

    /// Ends the training, and frees the optimizer's state.
    pub fn finish(self) -> FinishedStudent {
        let StudentWeights { model, trained, .. } = self;
        FinishedStudent { model, trained }
    }
}

/// A student that is not trained any more. Its results need memory, so the optimizer's state, which is twice
/// the size of the weights, is gone.
pub struct FinishedStudent {
    model: Rc<Decoder>,
    trained: TrainedParameters,
}

impl FinishedStudent {
    /// The result of a stage that began with `start`: these trained parameters, or the last ones.
    pub fn result(self, start: &Weights, parameters: Option<Tensor>) -> Weights {
        let FinishedStudent { model, trained } = self;
        match parameters {
            Some(parameters) => start.with_values(to_vec(&trained.with_frozen_parameters(parameters))),
            None => trained.weights(&model),
        }
    }
}
