//! AdamW (arXiv:1711.05101, algorithm 2).

use std::ops::Range;

use mopd_kernels::adamw::{self, AdamWUpdate};
use mopd_kernels::tensor::view_mut;
use mopd_plan as plan;
use tch::{Kind, Tensor};

use super::{Master, Step, host_gradient, kernels, zeros};

pub struct AdamWState {
    settings: plan::AdamW,
    /// First and second moments, in the order of the parameters.
    pub mean: Tensor,
    pub square: Tensor,
    /// Weight decay applies to the first `decayed` parameters.
    decayed: usize,
}

impl AdamWState {
    pub fn new(settings: &plan::AdamW, parameters: &Master, decayed: i64) -> AdamWState {
        let (mean, square) = (zeros(parameters), zeros(parameters));
        AdamWState { settings: settings.clone(), mean, square, decayed: decayed as usize }
    }

    pub fn clip_norm(&self) -> f64 {
        self.settings.clip_norm
    }

    /// Updates the parameters in `range`. Weight decay is decoupled and not applied to normalization weights.
    pub fn step(&self, parameters: &mut Master, range: Range<usize>, gradient: &Tensor, step: Step) {
        let decay = step.learning_rate * self.settings.weight_decay;
        let middle = self.decayed.clamp(range.start, range.end);
        for (part, decay) in [(range.start..middle, decay), (middle..range.end, 0.0)] {
            let gradient = gradient.narrow(0, (part.start - range.start) as i64, part.len() as i64);
            self.step_part(&mut parameters.part(part.clone()), part, &gradient, decay, step);
        }
    }

    /// Updates `parameters`, which are those in `range`; weight decay subtracts `decay` times each.
    fn step_part(
        &self,
        parameters: &mut Master,
        range: Range<usize>,
        gradient: &Tensor,
        decay: f64,
        step: Step,
    ) {
        let Step { scale, learning_rate, steps, place } = step;
        let plan::AdamW { beta1, beta2, epsilon, .. } = self.settings;
        let (mean_weight, square_weight) = (1.0 - beta1, 1.0 - beta2);
        let correction1 = 1.0 - beta1.powi(steps);
        let correction2 = 1.0 - beta2.powi(steps);
        let [mut mean, mut square] =
            [&self.mean, &self.square].map(|moment| moment.narrow(0, range.start as i64, range.len() as i64));
        let update = AdamWUpdate {
            scale: scale as f32,
            mean_weight: mean_weight as f32,
            square_weight: square_weight as f32,
            epsilon: epsilon as f32,
            decay: decay as f32,
            rate: (learning_rate / correction1) as f32,
            correction: (1.0 / correction2) as f32,
        };
        if let Some(kernels) = kernels(place) {
            kernels.step(parameters.tensors(), [&mean, &square], gradient, update);
            return;
        }
        let (Some(cpu), Some(host_gradient), Some(mut parameters_here)) =
            (place.loops(), host_gradient(gradient), parameters.host_view_mut())
        else {
            let gradient = gradient.to_kind(Kind::Float) * scale;
            let moved = |moment: &mut Tensor, next: &Tensor, weight: f64| {
                let _ = moment.g_sub_(&(&*moment * weight));
                let _ = moment.g_add_(&(next * weight));
            };
            moved(&mut mean, &gradient, mean_weight);
            moved(&mut square, &(&gradient * &gradient), square_weight);
            let denominator = (&square / correction2).sqrt_() + epsilon;
            let mut single = parameters.to_f32();
            let taken_off = &single * decay + &mean * (learning_rate / correction1) / denominator;
            let _ = single.g_sub_(&taken_off);
            parameters.set(&single);
            return;
        };
        let [mut mean, mut square] =
            [&mut mean, &mut square].map(|moment| view_mut(moment).expect("where the gradient is"));
        adamw::step(
            cpu,
            parameters_here.parameters(),
            &mut mean,
            &mut square,
            host_gradient.gradient(),
            update,
        );
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
    use crate::model::{Decoder, EntryKind, Gradient, layout};

    /// Algorithm 2 with clipping, one parameter at a time.
    struct Reference {
        settings: plan::AdamW,
        parameters: Vec<f64>,
        decayed: Vec<bool>,
        mean: Vec<f64>,
        square: Vec<f64>,
        steps: i32,
    }

    impl Reference {
        fn step(&mut self, gradient: &[f32], learning_rate: f64) {
            let plan::AdamW { beta1, beta2, epsilon, weight_decay, clip_norm } = self.settings;
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

    /// The same for a model in half precision, whose updates go to master weights in single precision.
    #[test]
    fn equals_the_reference() {
        for (kind, clip_norm, weight_decay) in [
            (Kind::Float, 1e9, 0.0),
            (Kind::Float, 1e9, 0.1),
            (Kind::Float, 0.5, 0.01),
            (Kind::BFloat16, 0.5, 0.01),
        ] {
            let settings = plan::AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay, clip_norm };
            let weights = random_model(&tiny(), 1);
            let model = Decoder::trainable(&weights, Place::cpu(), kind);
            let mut master = Master::of_model(model.flat(), &weights);
            let mut optimizer =
                OptimizerState::new(&plan::Optimizer::AdamW(settings.clone()), &master, model.decayed());
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
                let gradient = Gradient::whole(tensor.shallow_clone(), Place::cpu());
                let norm = gradient_norm(&gradient);
                optimizer.step(&mut master, gradient, norm, 1e-4);
                reference.step(&to_vec(&tensor), 1e-4);
            }
            for (got, expected) in to_vec(&master.to_f32()).iter().zip(&reference.parameters) {
                assert!((f64::from(*got) - expected).abs() < 5e-7, "{got} {expected}");
            }
            // The model's own weights are the master weights, rounded.
            let rounding = if kind == Kind::Float { 0.0 } else { 1.0 / 256.0 };
            for (own, single) in to_vec(model.flat()).iter().zip(to_vec(&master.to_f32())) {
                assert!((own - single).abs() <= rounding * single.abs(), "{own} {single}");
            }
        }
    }

    /// The first update is the learning rate times the gradient's sign, even for decay rates close to 1: the
    /// weights of the moments are as exact as the bias corrections. With decay rates of 0 the same holds for
    /// every later update, also where gradients get much smaller.
    #[test]
    fn the_first_step_is_the_learning_rate() {
        let nearest = f64::from(1.0f32.next_down());
        let rate = 1e-2;
        let weights = random_model(&tiny(), 1);
        for ((beta1, beta2), place) in
            [(0.9, 0.999), (0.9, 0.99999), (0.9, 0.9999999), (0.9, nearest), (nearest, 0.999), (0.0, 0.0)]
                .into_iter()
                .flat_map(|betas| Place::tested().into_iter().map(move |place| (betas, place)))
        {
            let settings =
                plan::AdamW { beta1, beta2, epsilon: 1e-30, weight_decay: 0.0, clip_norm: f64::MAX };
            let mut master = Master::of_model(&weights.flat(Kind::Float, place.device), &weights);
            let mut optimizer = OptimizerState::new(&plan::Optimizer::AdamW(settings), &master, 0);
            let scales: &[f64] = if beta1 == 0.0 { &[1.0, -1e-6, 1e-3] } else { &[0.1] };
            for scale in scales {
                let before = to_vec(&master.to_f32());
                let gradient: Vec<f32> =
                    (0..before.len()).map(|at| (scale * (1.0 + at as f64 * 0.37).sin()) as f32).collect();
                let tensor = Tensor::from_slice(&gradient).to_device(place.device);
                let whole = Gradient::whole(tensor, place);
                let norm = gradient_norm(&whole);
                optimizer.step(&mut master, whole, norm, rate);
                for ((now, then), gradient) in to_vec(&master.to_f32()).iter().zip(&before).zip(&gradient) {
                    let moved = (f64::from(*then) - f64::from(*now)) / rate * f64::from(gradient.signum());
                    assert!(
                        (moved - 1.0).abs() < 1e-4,
                        "{beta1}, {beta2}, {place:?}: {moved} for {gradient}"
                    );
                }
            }
        }
    }

    /// libtorch's operators and the GPU's kernels, against the CPU's loop.
    #[test]
    fn every_place_steps_as_the_loop_does() {
        let settings =
            plan::AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, clip_norm: 0.5 };
        let weights = random_model(&tiny(), 1);
        for (kind, place) in [Kind::Float, Kind::BFloat16]
            .into_iter()
            .flat_map(|kind| Place::tested().into_iter().skip(1).map(move |place| (kind, place)))
        {
            let of = |place: Place| {
                let master = Master::of_model(&weights.flat(kind, place.device), &weights);
                let settings = plan::Optimizer::AdamW(settings.clone());
                let optimizer = OptimizerState::new(&settings, &master, 100);
                (place, master, optimizer)
            };
            let [mut here, mut elsewhere] = [of(Place::cpu()), of(place)];
            for (step, of_gradient) in [kind, Kind::Float, kind].into_iter().enumerate() {
                let length = here.1.len() as i64;
                let gradient =
                    (Tensor::arange(length, (Kind::Float, Device::Cpu)) * 0.37 + step as f64).sin();
                let norms = [&mut here, &mut elsewhere].map(|(place, master, optimizer)| {
                    let gradient = gradient.to_kind(of_gradient).to_device(place.device);
                    let gradient = Gradient::whole(gradient, *place);
                    let norm = gradient_norm(&gradient);
                    optimizer.step(master, gradient, norm, 1e-3);
                    norm
                });
                assert!((norms[0] / norms[1] - 1.0).abs() < 1e-9, "{kind:?}, {place:?}: {norms:?}");
            }
            let apart = here.1.to_f32() - elsewhere.1.to_f32().to_device(Device::Cpu);
            let apart = apart.abs().max().double_value(&[]);
            assert!(apart < 1e-7, "{kind:?}, {place:?}: {apart:e}");
        }
    }
}
