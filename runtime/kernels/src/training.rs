//! The loops of a training pass, compiled in this crate for each storage type of models.
//!
//! A generic function is compiled in the crate that calls it. Other crates are compiled incrementally, where
//! the standard library's iterators are not inlined into loops: the calls took an eighth of a small model's
//! step. The functions of a trait that is implemented here for a concrete type are compiled here.

use std::ops::Range;

use half::bf16;

use crate::causal_attention::{self, AttentionHeads};
use crate::functions::Activation;
use crate::gemm::Factor;
use crate::rope::{self, HeadNormGrad, QkvEpilogue};
use crate::{Cpu, gated_unit};

macro_rules! training_loops {
    ($($name:ident = $function:path, ($($argument:ident: $of:ty),*);)*) => {
        /// A storage type of models in training. Each function calls the generic one in its module.
        pub trait TrainingScalar: Factor + Send + Sync {
            $(fn $name(cpu: Cpu, $($argument: $of),*);)*
        }

        training_loops!(@of f32: $($name = $function, ($($argument: $of),*);)*);
        training_loops!(@of bf16: $($name = $function, ($($argument: $of),*);)*);
    };
    (@of $number:ty: $($name:ident = $function:path, ($($argument:ident: $of:ty),*);)*) => {
        impl TrainingScalar for $number {
            $(fn $name(cpu: Cpu, $($argument: $of),*) {
                $function(cpu, $($argument),*)
            })*
        }
    };
}

training_loops! {
    gated_unit_forward = gated_unit::forward, (
        activation: Activation, inner: usize, gate_up: &[f32], kept: &mut [Self], product: &mut [Self]
    );
    gated_unit_backward = gated_unit::backward, (
        activation: Activation, inner: usize, kept: &[Self], grad_product: &[f32], product: &mut [Self],
        grad_gate_up: &mut [Self]
    );
    normalisation_backward = gated_unit::normalisation_backward, (
        epsilon: f32, x: &[Self], scale: &[f32], grad_normed: &mut [f32], grad_x: &mut [f32]
    );
    rope_forward = rope::forward, (
        epilogue: &QkvEpilogue, projected: &[f32], read: Option<&mut [Self]>, output: &mut [Self]
    );
    rope_backward = rope::backward, (
        epilogue: &QkvEpilogue, grad_output: &mut [f32], norm: Option<HeadNormGrad<Self>>,
        grad_projected: &mut [Self]
    );
    causal_attention_forward = causal_attention::forward, (
        heads: &AttentionHeads, sequences: &[Range<usize>], projected: &[Self], attended: &mut [Self]
    );
    causal_attention_backward = causal_attention::backward, (
        heads: &AttentionHeads, sequences: &[Range<usize>], projected: &[Self], attended: &[Self],
        grad_attended: &[f32], grad_projected: &mut [f32]
    );
}
