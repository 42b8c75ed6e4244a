//! The student's weights while they are trained: the model, its parameters that change, their average, and
//! the optimizer.

use std::rc::Rc;

use mopd_plan::Trainable;
use tch::{Tensor, no_grad_guard};

use super::master::Master;
use super::optimizer::OptimizerState;
use super::stage::Stage;
use super::trained::TrainedParameters;
use crate::failure::Result;
use crate::machine::transfer::to_vec;
use crate::model::{Adapted, Decoder, ExpertLoad, Gradient, Merged, Weights};
use crate::random::{Key, Purpose};
use crate::store::state::StateTensors;

/// The random numbers that an adapter is initialised with.
fn initial_key(stage: &Stage) -> Key {
    Key::new(stage.seed, stage.stream, Purpose::Initialise, 1)
}

/// The start of a stage with the adapter that training begins with; `None` where it trains no adapter.
pub fn initial_adapter(stage: &Stage) -> Result<Option<Merged>> {
    let Trainable::Adapter(settings) = &stage.train.trainable else { return Ok(None) };
    let adapted = Adapted::new(settings, &stage.start, stage.place, initial_key(stage))?;
    Ok(Some(adapted.merged()))
}

/// A model whose weights are trained.
pub struct StudentWeights {
    pub model: Rc<Decoder>,
    pub trained: TrainedParameters,
    /// Whether the weights are known to differ from those that the stage began with.
    pub moved: bool,
    /// The rate and the moving average of the weights, where the average is the stage's result.
    pub average: Option<(f64, Tensor)>,
    pub optimizer: OptimizerState,
}

impl StudentWeights {
    /// The student of a stage before its first step.
    pub fn decoder(stage: &Stage) -> Rc<Decoder> {
        Rc::new(Decoder::trainable(&stage.start, stage.place, stage.kind))
    }

    pub fn new(stage: &Stage, model: Rc<Decoder>) -> Result<StudentWeights> {
        let trained = TrainedParameters::new(stage, &model, initial_key(stage))?;
        let average = stage.train.options.ema.map(|rate| (rate, trained.to_f32(&model).copy()));
        let optimizer = optimizer(stage, &trained, &model);
        Ok(StudentWeights { model, trained, moved: false, average, optimizer })
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

    /// Updates the weights and their average by a gradient of norm `norm`. Without a gradient neither the
    /// weights nor the optimizer's moments change.
    pub fn update(&mut self, gradient: Option<Gradient>, norm: f64, learning_rate: f64) {
        if let Some(gradient) = gradient {
            self.optimizer.step(&mut self.parameters(), gradient, norm, learning_rate);
            self.trained.apply(&self.model);
        }
        if let Some((rate, average)) = &mut self.average {
            let _guard = no_grad_guard();
            let _ = average.lerp_(&self.trained.to_f32(&self.model), 1.0 - *rate);
        }
    }

    /// How the tokens of the step were distributed over experts.
    pub fn expert_load(&self) -> Option<ExpertLoad> {
        self.model.take_expert_load()
    }

    /// Adds the state to `tensors`; returns the number of the optimizer's updates. Whether the weights have
    /// moved follows from the record.
    pub fn save(&self, tensors: &mut StateTensors) -> i32 {
        let StudentWeights { model, trained, moved: _, average, optimizer } = self;
        trained.state(model, tensors);
        if let Some((_, average)) = average {
            tensors.put("average", average);
        }
        optimizer.state(tensors)
    }

    pub fn restore(&mut self, tensors: &StateTensors, updates: i32) -> Result<(), String> {
        let StudentWeights { model, trained, moved: _, average, optimizer } = self;
        trained.restore(model, tensors)?;
        optimizer.restore(tensors, updates)?;
        match average {
            None => Ok(()),
            Some((_, average)) => tensors.restore("average", average),
        }
    }

    /// Ends the training, and frees the optimizer's state.
    pub fn finish(self) -> FinishedStudent {
        let StudentWeights { model, trained, average, .. } = self;
        FinishedStudent { model, trained, average }
    }
}

/// A student that is not trained any more. Its results need memory, so the optimizer's state, which is twice
/// the size of the weights, is gone.
pub struct FinishedStudent {
    model: Rc<Decoder>,
    trained: TrainedParameters,
    average: Option<(f64, Tensor)>,
}

impl FinishedStudent {
    /// The result of the stage.
    pub fn result(self, stage: &Stage) -> Weights {
        let FinishedStudent { model, trained, average } = self;
        match average {
            Some((_, average)) => stage.start.with_values(to_vec(&trained.with_frozen_parameters(average))),
            None => trained.weights(&model),
        }
    }
}

/// The optimizer of all trained parameters.
fn optimizer(stage: &Stage, trained: &TrainedParameters, model: &Decoder) -> OptimizerState {
    let (parameters, decayed) = trained.parameters(model);
    OptimizerState::new(&stage.train.optimizer, &parameters, decayed)
}
