//! AdamW (arXiv:1711.05101, algorithm 2) over one vector of parameters, with global-norm clipping.

use std::ops::Range;

use mopd_compiler::plan::AdamW;
use tch::{Kind, Tensor, no_grad_guard};

use super::master::{Master, gradient_here};
use crate::machine::device;
use crate::model::Gradient;
use crate::store::state::StateTensors;
use mopd_kernels::adamw::{self, Update};
use mopd_kernels::tensor::view_mut;

pub struct Optimizer {
    settings: AdamW,
    /// First and second moments, in the order of the parameters.
    mean: Tensor,
    square: Tensor,
    decayed: i64,
    steps: i32,
}

impl Optimizer {
    /// State for as many parameters as there are, the first `decayed` of which decay.
    pub fn new(settings: &AdamW, parameters: &Master, decayed: i64) -> Optimizer {
        let zeros = || Tensor::zeros([parameters.len() as i64], (Kind::Float, parameters.device()));
        let (mean, square) = (zeros(), zeros());
        Optimizer { settings: settings.clone(), mean, square, decayed, steps: 0 }
    }

    /// What it keeps, under names; answers the updates so far.
    pub fn state(&self, tensors: &mut StateTensors) -> i32 {
        tensors.put("optimizer.mean", &self.mean);
        tensors.put("optimizer.square", &self.square);
        self.steps
    }

    pub fn restore(&mut self, tensors: &StateTensors, updates: i32) -> Result<(), String> {
        tensors.restore("optimizer.mean", &self.mean)?;
        tensors.restore("optimizer.square", &self.square)?;
        self.steps = updates;
        Ok(())
    }

    /// One update. `norm` is the gradient's global norm, as [`gradient_norm`] gives it; both must be finite.
    /// Weight decay is decoupled and leaves the normalisations alone.
    pub fn step(&mut self, parameters: &mut Master, gradient: Gradient, norm: f64, learning_rate: f64) {
        let _guard = no_grad_guard();
        assert!(gradient.parameters() == parameters.len(), "a gradient of other parameters");
        let AdamW { weight_decay, clip_norm, .. } = self.settings;
        // The same small constant as elsewhere keeps a gradient at the bound from being scaled up by
        // rounding.
        let scale = (clip_norm / (norm + 1e-6)).min(1.0);
        self.steps += 1;
        let keep = 1.0 - learning_rate * weight_decay;
        for (range, piece) in gradient.into_pieces() {
            let middle = (self.decayed as usize).clamp(range.start, range.end);
            for (part, keep) in [(range.start..middle, keep), (middle..range.end, 1.0)] {
                let gradient = piece.narrow(0, (part.start - range.start) as i64, part.len() as i64);
                self.step_part(
                    &mut parameters.part(part.clone()),
                    part,
                    &gradient,
                    Factors { scale, keep, learning_rate },
                );
            }
        }
    }

    /// `parameters` are those in `range`.
    fn step_part(
        &mut self,
        parameters: &mut Master,
        range: Range<usize>,
        gradient: &Tensor,
        factors: Factors,
    ) {
        let Factors { scale, keep, learning_rate } = factors;
        let AdamW { beta1, beta2, epsilon, .. } = self.settings;
        let correction1 = 1.0 - beta1.powi(self.steps);
        let correction2 = 1.0 - beta2.powi(self.steps);
        let [mut mean, mut square] =
            [&self.mean, &self.square].map(|moment| moment.narrow(0, range.start as i64, range.len() as i64));
        let cpu = device::cpu(gradient.device());
        let (Some(cpu), Some(gradient_here), Some(mut parameters_here)) =
            (cpu, gradient_here(gradient), parameters.here())
        else {
            let gradient = gradient.to_kind(Kind::Float) * scale;
            let _ = mean.lerp_(&gradient, 1.0 - beta1);
            let _ = square.g_mul_scalar_(beta2);
            let _ = square.addcmul_(&gradient, &(&gradient * (1.0 - beta2)));
            let denominator = (&square / correction2).sqrt_() + epsilon;
            let mut single = parameters.single();
            let _ = single.g_mul_scalar_(keep);
            let _ = single.addcdiv_(&(&mean * (-learning_rate / correction1)), &denominator);
            parameters.set(&single);
            return;
        };
        let update = Update {
            scale: scale as f32,
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            epsilon: epsilon as f32,
            keep: keep as f32,
            rate: (learning_rate / correction1) as f32,
            correction: (1.0 / correction2) as f32,
        };
        let [mut mean, mut square] =
            [&mut mean, &mut square].map(|moment| view_mut(moment).expect("where the gradient is"));
        adamw::step(
            cpu,
            parameters_here.parameters(),
            &mut mean,
            &mut square,
            gradient_here.gradient(),
            update,
        );
    }
}

/// What a number of the gradient is multiplied by, what a parameter is, and the learning rate.
#[derive(Clone, Copy)]
struct Factors {
    scale: f64,
    keep: f64,
    learning_rate: f64,
}

/// The square root of the sum of squares, summed in f64. Not finite where some part of the gradient is not.
pub fn gradient_norm(gradient: &Gradient) -> f64 {
    let sums = gradient.written().map(|piece| match device::cpu(piece.device()).zip(gradient_here(piece)) {
        Some((cpu, piece)) => adamw::sum_of_squares(cpu, piece.gradient()),
        None => piece.to_kind(Kind::Double).square_().sum(Kind::Double).double_value(&[]),
    });
    sums.sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::model::tests::{random_model, tiny};
    use crate::model::{Decoder, EntryKind, layout, to_vec};

    /// Algorithm 2 with clipping, one number at a time.
    struct Reference {
        settings: AdamW,
        parameters: Vec<f64>,
        decayed: Vec<bool>,
        mean: Vec<f64>,
        square: Vec<f64>,
        steps: i32,
    }

    impl Reference {
        fn step(&mut self, gradient: &[f32], learning_rate: f64) {
            let AdamW { beta1, beta2, epsilon, weight_decay, clip_norm } = self.settings;
            let norm = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
            self.steps += 1;
            for (i, &gradient) in gradient.iter().enumerate() {
                let gradient = if norm > clip_norm {
                    f64::from(gradient) * clip_norm / norm
                } else {
                    f64::from(gradient)
                };
                self.mean[i] = beta1 * self.mean[i] + (1.0 - beta1) * gradient;
                self.square[i] = beta2 * self.square[i] + (1.0 - beta2) * gradient * gradient;
                let mean = self.mean[i] / (1.0 - beta1.powi(self.steps));
                let square = self.square[i] / (1.0 - beta2.powi(self.steps));
                let decay = if self.decayed[i] { weight_decay * self.parameters[i] } else { 0.0 };
                self.parameters[i] -= learning_rate * (mean / (square.sqrt() + epsilon) + decay);
            }
        }
    }

    /// Also of a model in half precision: the updates are not its own.
    #[test]
    fn equals_the_reference() {
        for (kind, clip_norm, weight_decay) in [
            (Kind::Float, 1e9, 0.0),
            (Kind::Float, 1e9, 0.1),
            (Kind::Float, 0.5, 0.01),
            (Kind::BFloat16, 0.5, 0.01),
        ] {
            let settings = AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay, clip_norm };
            let weights = random_model(&tiny(), 1);
            let model = Decoder::trainable(&weights, Device::Cpu, kind);
            let mut master = Master::of_model(model.flat(), &weights);
            let mut optimizer = Optimizer::new(&settings, &master, model.decayed());
            let length = weights.values().len();
            let mut decayed = vec![true; length];
            for entry in layout(&weights.config) {
                decayed[entry.offset..entry.offset + entry.len()].fill(entry.kind != EntryKind::Norm);
            }
            let mut reference = Reference {
                settings,
                parameters: weights.values().iter().map(|&value| f64::from(value)).collect(),
                decayed,
                mean: vec![0.0; length],
                square: vec![0.0; length],
                steps: 0,
            };
            for step in 0..5 {
                let gradient: Vec<f32> = (0..length)
                    .map(|i| ((i as f32) * 0.37 + step as f32).sin() * 0.1 * (1 + i % 5) as f32)
                    .collect();
                let tensor = Tensor::from_slice(&gradient).to_kind(kind);
                let gradient = Gradient::whole(tensor.shallow_clone());
                let norm = gradient_norm(&gradient);
                optimizer.step(&mut master, gradient, norm, 1e-4);
                reference.step(&to_vec(&tensor), 1e-4);
            }
            for (got, expected) in to_vec(&master.single()).iter().zip(&reference.parameters) {
                assert!((f64::from(*got) - expected).abs() < 5e-7, "{got} {expected}");
            }
            // What the model computes with is what the optimiser moved, rounded.
            let rounding = if kind == Kind::Float { 0.0 } else { 1.0 / 256.0 };
            for (own, single) in to_vec(model.flat()).iter().zip(to_vec(&master.single())) {
                assert!((own - single).abs() <= rounding * single.abs(), "{own} {single}");
            }
        }
    }

    /// What runs on other devices, against the processor's loop.
    #[test]
    fn tensors_step_as_the_loop_does() {
        let settings = AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, clip_norm: 0.5 };
        let weights = random_model(&tiny(), 1);
        for kind in [Kind::Float, Kind::BFloat16] {
            let of = || Master::of_model(&weights.flat(kind, Device::Cpu), &weights);
            let (mut here, mut elsewhere) = (of(), of());
            let [mut loops, mut tensors] =
                [&here, &elsewhere].map(|master| Optimizer::new(&settings, master, 100));
            for step in 0..3 {
                let gradient =
                    (Tensor::arange(here.len() as i64, (Kind::Float, Device::Cpu)) * 0.37 + step).sin();
                // No slice can be made of every second number of a longer one.
                let apart = Tensor::stack(&[&gradient, &gradient], 1).select(1, 0);
                for (optimizer, master, gradient) in
                    [(&mut loops, &mut here, gradient), (&mut tensors, &mut elsewhere, apart)]
                {
                    let gradient = Gradient::whole(gradient);
                    let norm = gradient_norm(&gradient);
                    optimizer.step(master, gradient, norm, 1e-3);
                }
            }
            let apart = (here.single() - elsewhere.single()).abs().max().double_value(&[]);
            assert!(apart < 1e-7, "{kind:?}: {apart:e}");
        }
    }

    #[test]
    fn the_norm_is_exact_and_tells_of_bad_numbers() {
        let norm = |numbers: &[f32]| gradient_norm(&Gradient::whole(Tensor::from_slice(numbers)));
        assert!((norm(&[3.0, 4.0]) - 5.0).abs() < 1e-12);
        assert!(!norm(&[3.0, f32::NAN]).is_finite());
        assert!(!norm(&[3.0, f32::NEG_INFINITY]).is_finite());
        // Squares that overflow f32 are still a finite norm.
        assert!(norm(&[1e30]).is_finite());
    }
}
