//! Helpers shared by the parts of a layer that run in our own loops.

use half::bf16;
use mopd_kernels::tensor::{Element, View, ViewMut, view, view_mut};
use mopd_kernels::{Cpu, TrainingScalar};
use tch::{Kind, Tensor};

pub(super) fn numbers<T: Element>(tensor: &Tensor) -> View<'_, T> {
    view(tensor).expect("tensors of this pass are whole, here, and of the kinds that they are made of")
}

pub(super) fn numbers_mut<T: Element>(tensor: &mut Tensor) -> ViewMut<'_, T> {
    view_mut(tensor).expect("tensors of this pass are whole, here, and of the kinds that they are made of")
}

/// The normalisation before a part of a layer, with what its backward pass needs.
pub(super) struct Normalised<'a> {
    pub cpu: Cpu,
    /// The input, `[tokens, width]`.
    pub stream: &'a Tensor,
    /// The output, `[tokens, width]`.
    pub normed: &'a Tensor,
    /// `[width]`
    pub scale: &'a Tensor,
    pub epsilon: f64,
}

impl Normalised<'_> {
    /// From d loss / d normed, `[tokens, width]`: adds d loss / d stream to `grad_stream` and returns d loss
    /// / d scale. Both are in single precision.
    pub fn backward(&self, mut grad_normed: Tensor, grad_stream: &mut Tensor) -> Tensor {
        let run = match self.stream.kind() {
            Kind::BFloat16 => Normalised::run::<bf16>,
            _ => Normalised::run::<f32>,
        };
        run(self, &mut grad_normed, grad_stream);
        grad_normed.sum_dim_intlist([0i64].as_slice(), false, Kind::Float)
    }

    fn run<T: TrainingScalar + Element>(&self, grad_normed: &mut Tensor, grad_stream: &mut Tensor) {
        let (stream, scale) = (self.stream.contiguous(), self.scale.to_kind(Kind::Float).contiguous());
        T::normalisation_backward(
            self.cpu,
            self.epsilon as f32,
            &numbers(&stream),
            &numbers(&scale),
            &mut numbers_mut(grad_normed),
            &mut numbers_mut(grad_stream),
        );
    }
}
