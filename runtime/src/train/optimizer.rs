//! AdamW (arXiv:1711.05101, algorithm 2) over one flat vector of parameters, with global-norm clipping.

use mopd_compiler::plan::AdamW;
use tch::{Kind, Tensor, no_grad_guard};

use super::master::{Master, gradient_here};
use super::state::Tensors;
use crate::kernels::adamw::{self, Update};
use crate::kernels::elements::slice_mut;

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
    pub fn state(&self, tensors: &mut Tensors) -> i32 {
        tensors.put("optimizer.mean", &self.mean);
        tensors.put("optimizer.square", &self.square);
        self.steps
    }

    pub fn restore(&mut self, tensors: &Tensors, updates: i32) -> Result<(), String> {
        tensors.restore("optimizer.mean", &self.mean)?;
        tensors.restore("optimizer.square", &self.square)?;
        self.steps = updates;
        Ok(())
    }

    /// One update. `norm` is the gradient's global norm, as [`gradient_norm`] gives it; both must be finite. Weight decay is
    /// decoupled and leaves the normalisations alone.
    pub fn step(&mut self, parameters: &mut Master, gradient: &Tensor, norm: f64, learning_rate: f64) {
        let _guard = no_grad_guard();
        let AdamW { beta1, beta2, epsilon, weight_decay, clip_norm } = self.settings;
        // The same small constant as elsewhere keeps a gradient at the bound from being scaled up by rounding.
        let scale = (clip_norm / (norm + 1e-6)).min(1.0);
        self.steps += 1;
        let correction1 = 1.0 - beta1.powi(self.steps);
        let correction2 = 1.0 - beta2.powi(self.steps);
        let keep = 1.0 - learning_rate * weight_decay;
        let (Some(gradient_here), Some(parameters_here)) = (gradient_here(gradient), parameters.here()) else {
            let gradient = gradient.to_kind(Kind::Float) * scale;
            let _ = self.mean.lerp_(&gradient, 1.0 - beta1);
            let _ = self.square.g_mul_scalar_(beta2);
            let _ = self.square.addcmul_(&gradient, &(&gradient * (1.0 - beta2)));
            let denominator = (&self.square / correction2).sqrt_() + epsilon;
            let mut single = parameters.single();
            let _ = single.narrow(0, 0, self.decayed).g_mul_scalar_(keep);
            let _ = single.addcdiv_(&(&self.mean * (-learning_rate / correction1)), &denominator);
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
        let threads = tch::get_num_threads() as usize;
        let [mean, square] = [&mut self.mean, &mut self.square].map(|moment| slice_mut(moment).expect("where the gradient is"));
        let decayed = self.decayed as usize;
        let ((mean, other_mean), (square, other_square)) = (mean.split_at_mut(decayed), square.split_at_mut(decayed));
        let [parameters, others] = parameters_here.split_at(mean.len());
        let [gradient, other_gradient] = gradient_here.split_at(mean.len());
        adamw::step(threads, parameters, mean, square, gradient, update);
        adamw::step(threads, others, other_mean, other_square, other_gradient, Update { keep: 1.0, ..update });
    }
}

/// The square root of the sum of squares, summed in f64. Not finite where some part of the gradient is not.
pub fn gradient_norm(gradient: &Tensor) -> f64 {
    match gradient_here(gradient) {
        Some(gradient) => adamw::sum_of_squares(tch::get_num_threads() as usize, gradient).sqrt(),
        None => gradient.to_kind(Kind::Double).square_().sum(Kind::Double).sqrt().double_value(&[]),
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::model::tests::{lively, tiny};
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
                let gradient = if norm > clip_norm { f64::from(gradient) * clip_norm / norm } else { f64::from(gradient) };
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
        for (kind, clip_norm, weight_decay) in
            [(Kind::Float, 1e9, 0.0), (Kind::Float, 1e9, 0.1), (Kind::Float, 0.5, 0.01), (Kind::BFloat16, 0.5, 0.01)]
        {
            let settings = AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay, clip_norm };
            let weights = lively(&tiny(), 1);
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
                let gradient: Vec<f32> =
                    (0..length).map(|i| ((i as f32) * 0.37 + step as f32).sin() * 0.1 * (1 + i % 5) as f32).collect();
                let tensor = Tensor::from_slice(&gradient).to_kind(kind);
                optimizer.step(&mut master, &tensor, gradient_norm(&tensor), 1e-4);
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
        let weights = lively(&tiny(), 1);
        for kind in [Kind::Float, Kind::BFloat16] {
            let of = || Master::of_model(&weights.flat(kind, Device::Cpu), &weights);
            let (mut here, mut elsewhere) = (of(), of());
            let [mut loops, mut tensors] = [&here, &elsewhere].map(|master| Optimizer::new(&settings, master, 100));
            for step in 0..3 {
                let gradient = (Tensor::arange(here.len() as i64, (Kind::Float, Device::Cpu)) * 0.37 + step).sin();
                // No slice can be made of every second number of a longer one.
                let apart = Tensor::stack(&[&gradient, &gradient], 1).select(1, 0);
                loops.step(&mut here, &gradient, gradient_norm(&gradient), 1e-3);
                tensors.step(&mut elsewhere, &apart, gradient_norm(&apart), 1e-3);
            }
            let apart = (here.single() - elsewhere.single()).abs().max().double_value(&[]);
            assert!(apart < 1e-7, "{kind:?}: {apart:e}");
        }
    }

    #[test]
    fn the_norm_is_exact_and_tells_of_bad_numbers() {
        assert!((gradient_norm(&Tensor::from_slice(&[3.0f32, 4.0])) - 5.0).abs() < 1e-12);
        assert!(!gradient_norm(&Tensor::from_slice(&[3.0f32, f32::NAN])).is_finite());
        assert!(!gradient_norm(&Tensor::from_slice(&[3.0f32, f32::NEG_INFINITY])).is_finite());
        // Squares that overflow f32 are still a finite norm.
        assert!(gradient_norm(&Tensor::from_slice(&[1e30f32])).is_finite());
    }
}
