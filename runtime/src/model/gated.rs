//! A layer's gated linear unit (arXiv:2002.05202) with the normalisation before it, forward and backward, on
//! the processor.
//!
//! It has three quarters of a usual layer's parameters, and what libtorch keeps of it for the gradient is
//! most of what it keeps of a layer. Here only gate and up are kept; what lies between is made again.
//! Products of half-precision matrices are summed and answered in single precision
//! ([`mopd_kernels::product`]), and everything between them is one loop each way
//! ([`mopd_kernels::gated`]).

use half::bf16;
use tch::{Device, Kind, Tensor, no_grad_guard};

use super::Activation;
use super::feed_forward::FeedForward;
use super::linear::Linear;
use super::loops::{Normalised, numbers, numbers_mut};
use mopd_kernels::Stored;
use mopd_kernels::crew::threads;
use mopd_kernels::elements::Element;
use mopd_kernels::gated::{backward, forward};
use mopd_kernels::product::multiply;

/// The unit of one layer.
pub(super) struct Unit<'a> {
    /// `[2 * inner, width]`: gate, then up.
    gate_up: &'a Tensor,
    /// `[width, inner]`
    down: &'a Tensor,
    activation: Activation,
}

/// What the backward pass reads: gate and up, `[tokens, 2 * inner]`.
pub(super) struct Kept(Tensor);

/// d loss / d what a unit read.
pub(super) struct Gradients {
    /// `[tokens, width]`
    pub stream: Tensor,
    /// `[width]`
    pub norm: Tensor,
    /// Of the matrices, in their shapes.
    pub gate_up: Tensor,
    pub down: Tensor,
}

impl<'a> Unit<'a> {
    /// None where the loops are not written for what the layer has, or for where it is.
    pub fn of(feed_forward: &'a FeedForward, activation: Activation) -> Option<Unit<'a>> {
        let FeedForward::Gated {
            gate_up: Linear { weight: gate_up, bias: None },
            down: Linear { weight: down, bias: None },
            ..
        } = feed_forward
        else {
            return None;
        };
        let written =
            gate_up.device() == Device::Cpu && matches!(gate_up.kind(), Kind::Float | Kind::BFloat16);
        written.then_some(Unit { gate_up, down, activation })
    }

    /// `normed` and the answer are `[tokens, width]`, the answer in single precision.
    pub fn forward(&self, normed: &Tensor) -> (Tensor, Kept) {
        let _guard = no_grad_guard();
        let gate_up = multiply(normed, &self.gate_up.tr());
        let [tokens, inner] = [normed.size()[0], self.down.size()[1]];
        let options = (normed.kind(), Device::Cpu);
        let (mut kept, mut product) =
            (Tensor::empty([tokens, 2 * inner], options), Tensor::empty([tokens, inner], options));
        let run = match normed.kind() {
            Kind::BFloat16 => Unit::run_forward::<bf16>,
            _ => Unit::run_forward::<f32>,
        };
        run(self, &gate_up, &mut kept, &mut product);
        (multiply(&product, &self.down.tr()), Kept(kept))
    }

    fn run_forward<T: Stored + Element + Send + Sync>(
        &self,
        gate_up: &Tensor,
        kept: &mut Tensor,
        product: &mut Tensor,
    ) {
        let inner = product.size()[1] as usize;
        forward(
            threads(),
            self.activation,
            inner,
            numbers(gate_up),
            numbers_mut::<T>(kept),
            numbers_mut(product),
        );
    }

    /// From d loss / d (stream + answer), `[tokens, width]`.
    pub fn backward(&self, Kept(kept): Kept, before: &Normalised, by_answer: &Tensor) -> Gradients {
        let _guard = no_grad_guard();
        let kind = before.normed.kind();
        let by_narrow = by_answer.to_kind(kind);
        let by_product = multiply(&by_narrow, self.down);
        let (mut product, mut by_gate_up) = (by_product.empty_like().to_kind(kind), kept.empty_like());
        let run = match kind {
            Kind::BFloat16 => Unit::run_backward::<bf16>,
            _ => Unit::run_backward::<f32>,
        };
        run(self, &kept, &by_product, &mut product, &mut by_gate_up);
        drop((kept, by_product));
        let down = multiply(&by_narrow.tr(), &product);
        let gate_up = multiply(&by_gate_up.tr(), before.normed);
        // What the stream carries past the unit is the beginning of what it is told.
        let mut by_stream = by_answer.to_kind(Kind::Float).copy();
        let norm = before.backward(multiply(&by_gate_up, self.gate_up), &mut by_stream);
        Gradients { stream: by_stream, norm, gate_up, down }
    }

    fn run_backward<T: Stored + Element + Send + Sync>(
        &self,
        kept: &Tensor,
        by_product: &Tensor,
        product: &mut Tensor,
        by_gate_up: &mut Tensor,
    ) {
        let inner = product.size()[1] as usize;
        let (product, by_gate_up) = (numbers_mut::<T>(product), numbers_mut(by_gate_up));
        backward(threads(), self.activation, inner, numbers(kept), numbers(by_product), product, by_gate_up);
    }
}
