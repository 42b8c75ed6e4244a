//! The moving average of the trained weights (`ema`), which is then the result of the stage.

use mopd_plan::TrainOptions;
use tch::{Tensor, no_grad_guard};

use super::{SavedState, StepHook, Update};
use crate::store::state::{HookNumbers, StateTensors};
use crate::train::objective::Losses;
use crate::train::student::StudentWeights;

/// The name of the average among a checkpoint's tensors.
const AVERAGE: &str = "average";

pub struct WeightAverage {
    rate: f64,
    /// In single precision.
    average: Tensor,
}

/// `None` where the stage does not average.
pub fn new(options: &TrainOptions, student: &StudentWeights) -> Option<WeightAverage> {
    let rate = options.ema?;
    Some(WeightAverage { rate, average: student.to_f32().copy() })
}

impl StepHook for WeightAverage {
    fn after_update(&mut self, update: &Update) {
        let _guard = no_grad_guard();
        let _ = self.average.lerp_(&update.student.to_f32(), 1.0 - self.rate);
    }

    fn result(&self) -> Option<Tensor> {
        Some(self.average.shallow_clone())
    }

    fn save(&self, _: &mut HookNumbers, tensors: &mut StateTensors) {
        tensors.put(AVERAGE, &self.average);
    }

    fn restore(&mut self, state: &SavedState, _: &mut Losses) -> Result<(), String> {
        state.tensors.restore(AVERAGE, &self.average)
    }
}
