//! Optimizers: AdamW or SGD over one vector of parameters, with clipping by the global norm.

mod adamw;
mod sgd;

use mopd_kernels::adamw::sum_of_squares as of_piece;
use mopd_kernels::cuda::AdamWKernels;
use mopd_plan as plan;
use tch::{Kind, Tensor, no_grad_guard};

use self::adamw::AdamWState;
use self::sgd::SgdState;
use super::master::{Master, host_gradient};
use crate::machine::device::compiled;
use crate::machine::place::Place;
use crate::model::Gradient;
use crate::store::state::StateTensors;

pub struct OptimizerState {
    rule: Rule,
    steps: i32,
}

enum Rule {
    AdamW(AdamWState),
    Sgd(SgdState),
}

impl OptimizerState {
    /// The state before the first update. Weight decay applies to the first `decayed` parameters.
    pub fn new(settings: &plan::Optimizer, parameters: &Master, decayed: i64) -> OptimizerState {
        let rule = match settings {
            plan::Optimizer::AdamW(settings) => Rule::AdamW(AdamWState::new(settings, parameters, decayed)),
            plan::Optimizer::Sgd(settings) => Rule::Sgd(SgdState::new(settings, parameters)),
        };
        OptimizerState { rule, steps: 0 }
    }

    /// Adds the moments to `tensors` by name; returns the number of updates so far.
    pub fn state(&self, tensors: &mut StateTensors) -> i32 {
        self.moments().into_iter().for_each(|(name, tensor)| tensors.put(name, tensor));
        self.steps
    }

    pub fn restore(&mut self, tensors: &StateTensors, updates: i32) -> Result<(), String> {
        self.moments().into_iter().try_for_each(|(name, tensor)| tensors.restore(name, tensor))?;
        self.steps = updates;
        Ok(())
    }

    fn moments(&self) -> Vec<(&'static str, &Tensor)> {
        match &self.rule {
            Rule::AdamW(AdamWState { mean, square, .. }) => {
                vec![("optimizer.mean", mean), ("optimizer.square", square)]
            }
            Rule::Sgd(sgd) => sgd.velocity.iter().map(|velocity| ("optimizer.velocity", velocity)).collect(),
        }
    }

    /// One update. `norm` is the gradient's global norm, as [`gradient_norm`] gives it; both must be finite.
    pub fn step(&mut self, parameters: &mut Master, gradient: Gradient, norm: f64, learning_rate: f64) {
        let _guard = no_grad_guard();
        assert!(gradient.parameters() == parameters.len(), "a gradient of other parameters");
        let clip_norm = match &self.rule {
            Rule::AdamW(adamw) => adamw.clip_norm(),
            Rule::Sgd(sgd) => sgd.clip_norm(),
        };
        // As in PyTorch's `clip_grad_norm_`: the small constant keeps rounding from scaling up a gradient at
        // the bound.
        let scale = (clip_norm / (norm + 1e-6)).min(1.0);
        self.steps += 1;
        let step = Step { scale, learning_rate, steps: self.steps, place: gradient.place };
        for (range, piece) in gradient.into_pieces() {
            match &self.rule {
                Rule::AdamW(adamw) => adamw.step(parameters, range, &piece, step),
                Rule::Sgd(sgd) => sgd.step(parameters, range, &piece, step),
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Step {
    /// The factor by which clipping multiplies the gradient.
    scale: f64,
    learning_rate: f64,
    /// The number of updates, including this one.
    steps: i32,
    place: Place,
}

fn zeros(parameters: &Master) -> Tensor {
    Tensor::zeros([parameters.len() as i64], (Kind::Float, parameters.device()))
}

/// The global norm of a gradient: the root of [`sum_of_squares`].
pub fn gradient_norm(gradient: &Gradient) -> f64 {
    sum_of_squares(gradient).sqrt()
}

/// The sum of a gradient's squares, in f64; not finite if an element is not.
pub fn sum_of_squares(gradient: &Gradient) -> f64 {
    let kernels = kernels(gradient.place);
    let sums = gradient.written().map(|piece| match gradient.place.loops().zip(host_gradient(piece)) {
        Some((cpu, piece)) => of_piece(cpu, piece.gradient()),
        None => match kernels {
            Some(kernels) => kernels.sum_of_squares(piece),
            None => piece.to_kind(Kind::Double).square_().sum(Kind::Double).double_value(&[]),
        },
    });
    sums.sum()
}

/// A GPU's kernels, or `None` on the CPU and where they cannot be compiled.
fn kernels(place: Place) -> Option<AdamWKernels> {
    compiled(AdamWKernels::compile(place.kernels()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::place::Place;

    #[test]
    fn the_norm_is_exact_and_tells_of_bad_numbers() {
        let norm =
            |numbers: &[f32]| gradient_norm(&Gradient::whole(Tensor::from_slice(numbers), Place::cpu()));
        assert!((norm(&[3.0, 4.0]) - 5.0).abs() < 1e-12);
        assert!(!norm(&[3.0, f32::NAN]).is_finite());
        assert!(!norm(&[3.0, f32::NEG_INFINITY]).is_finite());
        // Squares that overflow f32 are still a finite norm.
        assert!(norm(&[1e30]).is_finite());
    }
}
