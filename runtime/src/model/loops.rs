//! What the parts of a layer that run in our own loops share.

use half::bf16;
use tch::{Kind, Tensor};

use mopd_kernels::Stored;
use mopd_kernels::crew::threads;
use mopd_kernels::elements::{Element, slice, slice_mut};
use mopd_kernels::gated::normalisation_backward;

pub(super) fn numbers<T: Element>(tensor: &Tensor) -> &[T] {
    slice(tensor).expect("tensors of this pass are whole, here, and of the kinds that they are made of")
}

pub(super) fn numbers_mut<T: Element>(tensor: &mut Tensor) -> &mut [T] {
    slice_mut(tensor).expect("tensors of this pass are whole, here, and of the kinds that they are made of")
}

/// The normalisation before a part of a layer, as its backward pass needs it.
pub(super) struct Normalised<'a> {
    /// What was normalised, `[tokens, width]`.
    pub stream: &'a Tensor,
    /// What it became.
    pub normed: &'a Tensor,
    /// `[width]`
    pub scale: &'a Tensor,
    pub epsilon: f64,
}

impl Normalised<'_> {
    /// Adds to `by_stream` what d loss / d normed, `[tokens, width]`, says of the stream; answers d loss / d
    /// scale. Both are in single precision.
    pub fn backward(&self, mut by_normed: Tensor, by_stream: &mut Tensor) -> Tensor {
        let run = match self.stream.kind() {
            Kind::BFloat16 => Normalised::run::<bf16>,
            _ => Normalised::run::<f32>,
        };
        run(self, &mut by_normed, by_stream);
        by_normed.sum_dim_intlist([0i64].as_slice(), false, Kind::Float)
    }

    fn run<T: Stored + Element + Sync>(&self, by_normed: &mut Tensor, by_stream: &mut Tensor) {
        let (stream, scale) = (self.stream.contiguous(), self.scale.to_kind(Kind::Float).contiguous());
        let (by_normed, by_stream) = (numbers_mut(by_normed), numbers_mut(by_stream));
        normalisation_backward(
            threads(),
            self.epsilon as f32,
            numbers::<T>(&stream),
            numbers(&scale),
            by_normed,
            by_stream,
        );
    }
}
