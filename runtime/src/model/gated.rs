//! A layer's gated linear unit (arXiv:2002.05202) with the normalisation before it, forward and backward, on
//! the CPU.
//!
//! It has three quarters of a usual layer's parameters, and most of the activations that libtorch would save
//! of a layer. Here only gate and up are saved; everything between them is recomputed. Products of
//! half-precision matrices are accumulated and returned in single precision
//! ([`mopd_kernels::tensor::multiply`]). Everything between products is one loop, forward and backward
//! ([`TrainingScalar::gated_unit_forward`]).

use half::bf16;
use mopd_kernels::tensor::{Element, multiply};
use mopd_kernels::{Cpu, TrainingScalar};
use tch::{Kind, Tensor, no_grad_guard};

use super::Activation;
use super::feed_forward::FeedForward;
use super::linear::Linear;
use super::loops::{Normalised, numbers, numbers_mut};

/// The unit of one layer.
pub(super) struct GatedUnit<'a> {
    pub cpu: Cpu,
    /// `[2 * inner, width]`: gate, then up.
    gate_up: &'a Tensor,
    /// `[width, inner]`
    down: &'a Tensor,
    activation: Activation,
}

/// Gate and up, saved for the backward pass: `[tokens, 2 * inner]`.
pub(super) struct SavedForBackward(pub Tensor);

/// A matrix of the unit.
#[derive(Clone, Copy)]
pub(super) enum UnitMatrix {
    GateUp,
    Down,
}

/// Gradients of a unit's inputs: of the residual stream and of the norm's scale.
pub(super) struct UnitGradients {
    /// `[tokens, width]`
    pub stream: Tensor,
    /// `[width]`
    pub norm: Tensor,
}

impl<'a> GatedUnit<'a> {
    /// `None` where the loops do not support the layer.
    pub fn new(cpu: Cpu, feed_forward: &'a FeedForward, activation: Activation) -> Option<GatedUnit<'a>> {
        let FeedForward::Gated {
            gate_up: Linear { weight: gate_up, bias: None },
            down: Linear { weight: down, bias: None },
            ..
        } = feed_forward
        else {
            return None;
        };
        matches!(gate_up.kind(), Kind::Float | Kind::BFloat16).then_some(GatedUnit {
            cpu,
            gate_up,
            down,
            activation,
        })
    }

    /// `normed` and the output are `[tokens, width]`, the output in single precision.
    pub fn forward(&self, normed: &Tensor) -> (Tensor, SavedForBackward) {
        let _guard = no_grad_guard();
        let gate_up = multiply(normed, &self.gate_up.tr());
        let [tokens, inner] = [normed.size()[0], self.down.size()[1]];
        let options = (normed.kind(), normed.device());
        let (mut saved, mut product) =
            (Tensor::empty([tokens, 2 * inner], options), Tensor::empty([tokens, inner], options));
        let run = match normed.kind() {
            Kind::BFloat16 => GatedUnit::run_forward::<bf16>,
            _ => GatedUnit::run_forward::<f32>,
        };
        run(self, &gate_up, &mut saved, &mut product);
        (multiply(&product, &self.down.tr()), SavedForBackward(saved))
    }

    fn run_forward<T: TrainingScalar + Element>(
        &self,
        gate_up: &Tensor,
        saved: &mut Tensor,
        product: &mut Tensor,
    ) {
        let inner = product.size()[1] as usize;
        T::gated_unit_forward(
            self.cpu,
            self.activation,
            inner,
            &numbers(gate_up),
            &mut numbers_mut(saved),
            &mut numbers_mut(product),
        );
    }

    /// From d loss / d (stream + output), `[tokens, width]`. `of_matrix` gets d loss / d output, `[tokens,
    /// outputs]`, and the input, `[tokens, inputs]`, of each matrix, both in the precision of products.
    pub fn backward(
        &self,
        SavedForBackward(saved): SavedForBackward,
        before: &Normalised,
        grad_answer: &Tensor,
        mut of_matrix: impl FnMut(UnitMatrix, &Tensor, &Tensor),
    ) -> UnitGradients {
        let _guard = no_grad_guard();
        let kind = before.normed.kind();
        let grad_narrow = grad_answer.to_kind(kind);
        let grad_product = multiply(&grad_narrow, self.down);
        let (mut product, mut grad_gate_up) = (grad_product.empty_like().to_kind(kind), saved.empty_like());
        let run = match kind {
            Kind::BFloat16 => GatedUnit::run_backward::<bf16>,
            _ => GatedUnit::run_backward::<f32>,
        };
        run(self, &saved, &grad_product, &mut product, &mut grad_gate_up);
        drop((saved, grad_product));
        of_matrix(UnitMatrix::Down, &grad_narrow, &product);
        of_matrix(UnitMatrix::GateUp, &grad_gate_up, before.normed);
        drop((grad_narrow, product));
        // The gradient of the stream starts with that of the residual connection.
        let mut grad_stream = grad_answer.to_kind(Kind::Float).copy();
        let norm = before.backward(multiply(&grad_gate_up, self.gate_up), &mut grad_stream);
        UnitGradients { stream: grad_stream, norm }
    }

    fn run_backward<T: TrainingScalar + Element>(
        &self,
        saved: &Tensor,
        grad_product: &Tensor,
        product: &mut Tensor,
        grad_gate_up: &mut Tensor,
    ) {
        let inner = product.size()[1] as usize;
        T::gated_unit_backward(
            self.cpu,
            self.activation,
            inner,
            &numbers(saved),
            &numbers(grad_product),
            &mut numbers_mut(product),
            &mut numbers_mut(grad_gate_up),
        );
    }
}
