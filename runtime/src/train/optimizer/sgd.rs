//! Stochastic gradient descent with momentum, as PyTorch has it: v = momentum v + gradient, w -= rate v.

use std::ops::Range;

use mopd_plan as plan;
use tch::{Kind, Tensor};

use super::{Master, Step, zeros};

/// The number of parameters that are updated at a time, which bounds the memory of temporary tensors.
const PIECE: usize = 1 << 20;

pub struct SgdState {
    settings: plan::Sgd,
    /// In the order of the parameters; `None` without momentum.
    pub velocity: Option<Tensor>,
}

impl SgdState {
    pub fn new(settings: &plan::Sgd, parameters: &Master) -> SgdState {
        let velocity = (settings.momentum != 0.0).then(|| zeros(parameters));
        SgdState { settings: settings.clone(), velocity }
    }

    pub fn clip_norm(&self) -> f64 {
        self.settings.clip_norm
    }

    /// Updates the parameters in `range`.
    pub fn step(&self, parameters: &mut Master, range: Range<usize>, gradient: &Tensor, step: Step) {
        for start in range.clone().step_by(PIECE) {
            let part = start..(start + PIECE).min(range.end);
            let length = part.len() as i64;
            let gradient = gradient.narrow(0, (start - range.start) as i64, length);
            let gradient = gradient.to_kind(Kind::Float) * step.scale;
            let velocity = match &self.velocity {
                None => gradient,
                Some(velocity) => {
                    let mut velocity = velocity.narrow(0, start as i64, length);
                    let _ = velocity.g_mul_scalar_(self.settings.momentum);
                    velocity.g_add_(&gradient)
                }
            };
            let mut parameters = parameters.part(part);
            let mut single = parameters.to_f32();
            let _ = single.g_sub_(&(velocity * step.learning_rate));
            parameters.set(&single);
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::super::{OptimizerState, gradient_norm};
    use super::*;
    use crate::machine::place::Place;
    use crate::machine::transfer::to_vec;
    use crate::model::tests::{random_model, tiny};
    use crate::model::{Decoder, Gradient};

    /// Against the formula in double precision, one parameter at a time.
    #[test]
    fn equals_the_reference() {
        for (kind, momentum, clip_norm) in [
            (Kind::Float, 0.0, 1e9),
            (Kind::Float, 0.9, 1e9),
            (Kind::Float, 0.9, 0.5),
            (Kind::BFloat16, 0.9, 0.5),
        ] {
            let settings = plan::Optimizer::Sgd(plan::Sgd { momentum, clip_norm });
            let weights = random_model(&tiny(), 1);
            let model = Decoder::trainable(&weights, Place::cpu(), kind);
            let mut master = Master::of_model(model.flat(), &weights);
            let mut optimizer = OptimizerState::new(&settings, &master, model.decayed());
            let mut expected: Vec<f64> = weights.values().iter().map(|&value| f64::from(value)).collect();
            let mut velocity = vec![0.0; expected.len()];
            for step in 0..4 {
                let tensor =
                    (Tensor::arange(expected.len() as i64, (Kind::Float, Device::Cpu)) * 0.37 + step).sin();
                let norm = to_vec(&tensor).iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
                for ((weight, velocity), gradient) in
                    expected.iter_mut().zip(&mut velocity).zip(to_vec(&tensor))
                {
                    *velocity = momentum * *velocity + f64::from(gradient) * (clip_norm / norm).min(1.0);
                    *weight -= 1e-2 * *velocity;
                }
                let gradient = Gradient::whole(tensor, Place::cpu());
                let norm = gradient_norm(&gradient);
                optimizer.step(&mut master, gradient, norm, 1e-2);
            }
            for (got, expected) in to_vec(&master.to_f32()).iter().zip(&expected) {
                assert!((f64::from(*got) - expected).abs() < 5e-7, "{kind:?} {momentum}: {got} {expected}");
            }
        }
    }
}
