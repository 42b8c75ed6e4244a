//! The update of a step: the gradient's norm, and the new weights. Where several processes train together,
//! each updates the part of the weights whose moments it keeps, and receives the rest from the others.

use tch::no_grad_guard;

use super::optimizer::{OptimizerState, sum_of_squares};
use super::trained::TrainedParameters;
use super::{Stage, Trainer, exchange};
use crate::failure::Result;
use crate::model::{Decoder, ExpertLoad, Gradient};

/// The optimizer of all trained parameters, or of the part of this process.
pub(super) fn optimizer(stage: &Stage, trained: &TrainedParameters, model: &Decoder) -> OptimizerState {
    let (parameters, decayed) = trained.parameters(model);
    let settings = &stage.train.optimizer;
    let Some(peers) = stage.peers else { return OptimizerState::new(settings, &parameters, decayed) };
    let owned = peers.shard(parameters.len());
    let decayed = (decayed as usize).clamp(owned.start, owned.end) - owned.start;
    OptimizerState::new(settings, &parameters.part(owned), decayed as i64)
}

impl Trainer<'_> {
    /// The gradient of what this process updates, and the norm of the whole gradient: 0 where there is none.
    pub(super) fn reduced(&self, gradient: Option<Gradient>) -> Result<(Option<Gradient>, f64)> {
        let Some(gradient) = gradient else { return Ok((None, 0.0)) };
        let Some(peers) = self.stage.peers else {
            let squares = sum_of_squares(&gradient);
            return Ok((Some(gradient), squares.sqrt()));
        };
        let own = exchange::reduced(peers, &gradient)?;
        let norm = exchange::norm(peers, sum_of_squares(&own))?;
        Ok((Some(own), norm))
    }

    /// How the tokens of the step were distributed over experts, summed over the processes.
    pub(super) fn expert_load(&self) -> Result<Option<ExpertLoad>> {
        let own = self.model.take_expert_load();
        match self.stage.peers {
            None => Ok(own),
            Some(peers) => exchange::expert_load(peers, own),
        }
    }

    /// Updates the weights, their average and the copies by a gradient of norm `norm`; returns the learning
    /// rate. Without a gradient neither the weights nor the optimizer's moments change.
    pub(super) fn apply(&mut self, gradient: Option<Gradient>, norm: f64, step: u32) -> Result<f64> {
        let learning_rate = self.stage.train.learning_rate.at(step, self.stage.steps) * self.guards.factor;
        if let Some(gradient) = gradient {
            let mut parameters = self.trained.parameters(&self.model).0;
            match self.stage.peers {
                None => self.optimizer.step(&mut parameters, gradient, norm, learning_rate),
                Some(peers) => {
                    let mut own = parameters.part(peers.shard(parameters.len()));
                    self.optimizer.step(&mut own, gradient, norm, learning_rate);
                    exchange::weights(peers, &parameters)?;
                }
            }
            self.trained.apply(&self.model);
        }
        if let Some((rate, average)) = &mut self.average {
            let _guard = no_grad_guard();
            let _ = average.lerp_(&self.trained.to_f32(&self.model), 1.0 - *rate);
        }
        self.models.follow(&self.model, || self.trained.to_f32(&self.model), step + 1);
        Ok(learning_rate)
    }
}
