//! A layer's attention over packed sequences with the normalisation before it, forward and backward, on the
//! CPU.
//!
//! Queries and keys after RoPE, values, and the output of the heads are saved for the backward pass;
//! everything between is recomputed. See [`super::gated`] for the other half of a layer, and for the
//! precision of products.

use std::ops::Range;

use half::bf16;
use mopd_kernels::causal_attention::AttentionHeads;
use mopd_kernels::rope::{HeadNorm, HeadNormGrad, Positions, QkvEpilogue};
use mopd_kernels::tensor::{Element, multiply};
use mopd_kernels::{Cpu, TrainingScalar};
use tch::{Device, Kind, Tensor, no_grad_guard};

use super::linear::Linear;
use super::loops::{Normalised, numbers, numbers_mut};
use super::parameters::AttentionWeights;
use super::rope::Rotary;
use super::{Config, LayerAttention};
use crate::machine::transfer::to_vec;

/// The attention of one layer.
pub(super) struct PackedAttention<'a> {
    pub cpu: Cpu,
    pub kind: &'a LayerAttention,
    query_key_value: &'a Linear,
    output: &'a Linear,
    heads: AttentionHeads,
    /// Scales of queries, then of keys: `[2, head width]`; and the normalisation's epsilon.
    head_norm: Option<(Tensor, f64)>,
}

/// The sequences and positions of a batch, as a layer's attention reads them.
pub(super) struct BatchPlaces<'a> {
    /// The tokens of each sequence.
    pub sequences: &'a [Range<usize>],
    /// The rotary table of every token, in single precision; `None` where the layer has no positions.
    pub rotary: Option<&'a Rotary>,
    /// The tokens whose outputs are needed; `None`: all.
    pub answered: Option<&'a Tensor>,
}

/// The activations saved for the backward pass.
pub(super) struct SavedForBackward {
    /// `[tokens, heads + 2 * groups, head width]`: queries and keys before their normalisation, where they
    /// have one.
    pub read: Option<Tensor>,
    /// The same after RoPE, with the values.
    pub projected: Tensor,
    /// `[tokens, heads * head width]`
    pub attended: Tensor,
}

impl SavedForBackward {
    /// Keys after RoPE and values, `[tokens, groups, head width]` each.
    pub fn keys_values(&self, config: &Config) -> [Tensor; 2] {
        let [heads, groups, width] =
            [config.heads, config.key_value_heads, config.head_dim].map(|size| size as i64);
        let projected = self.projected.view([-1, heads + 2 * groups, width]);
        [heads, heads + groups].map(|first| projected.narrow(1, first, groups))
    }
}

/// Gradients of attention's inputs and small parameters.
pub(super) struct AttentionGradients {
    /// `[tokens, width]`
    pub stream: Tensor,
    /// `[width]`
    pub norm: Tensor,
    /// `[2, head width]`
    pub head_norm: Option<Tensor>,
    /// Gradients of the projections' biases, `[outputs]`.
    pub query_key_value_bias: Option<Tensor>,
    pub output_bias: Option<Tensor>,
}

/// A matrix of attention.
#[derive(Clone, Copy)]
pub(super) enum AttentionMatrix {
    QueryKeyValue,
    Output,
}

impl<'a> PackedAttention<'a> {
    /// `None` where the loops do not support the layer. `head_norm` has the scales as they are multiplied,
    /// offset included.
    pub fn new(
        cpu: Cpu,
        config: &Config,
        weights: &'a AttentionWeights,
        output: &'a Linear,
        head_norm: Option<Tensor>,
    ) -> Option<PackedAttention<'a>> {
        let AttentionWeights { kind, query_key_value, .. } = weights;
        let weight = &query_key_value.weight;
        let written =
            matches!(weight.kind(), Kind::Float | Kind::BFloat16) && config.head_dim.is_multiple_of(2);
        let heads = AttentionHeads {
            heads: config.heads,
            groups: config.key_value_heads,
            width: config.head_dim,
            scale: config.attention_scale as f32,
            window: kind.window.unwrap_or(usize::MAX),
        };
        written.then(|| PackedAttention {
            cpu,
            kind,
            query_key_value,
            output,
            heads,
            head_norm: head_norm
                .map(|scales| (scales.to_kind(Kind::Float).contiguous(), config.norm.epsilon)),
        })
    }

    fn with_between<R>(&self, rotary: Option<&Rotary>, run: impl FnOnce(&QkvEpilogue) -> R) -> R {
        let bias = self.query_key_value.bias.as_ref().map(to_vec);
        let norm = self.head_norm.as_ref().map(|(scales, epsilon)| (numbers(scales), *epsilon as f32));
        let angles = rotary.map(|Rotary { cosine, sine }| (numbers(cosine), numbers(sine)));
        run(&QkvEpilogue {
            heads: self.heads,
            bias: bias.as_deref(),
            norm: norm.as_ref().map(|(scales, epsilon)| HeadNorm { scales, epsilon: *epsilon }),
            positions: angles.as_ref().map(|(cosine, sine)| Positions { cosine, sine }),
        })
    }

    /// `normed` is `[tokens, width]`; the output is `[answered tokens, width]`, in single precision.
    pub fn forward(&self, normed: &Tensor, places: &BatchPlaces) -> (Tensor, SavedForBackward) {
        let _guard = no_grad_guard();
        let saved = match normed.kind() {
            Kind::BFloat16 => self.run_forward::<bf16>(normed, places),
            _ => self.run_forward::<f32>(normed, places),
        };
        let mut answer = multiply(&Self::answered(&saved.attended, places), &self.output.weight.tr());
        if let Some(bias) = &self.output.bias {
            answer += bias;
        }
        (answer, saved)
    }

    fn answered(rows: &Tensor, places: &BatchPlaces) -> Tensor {
        places.answered.map_or_else(|| rows.shallow_clone(), |answered| rows.index_select(0, answered))
    }

    fn run_forward<T: TrainingScalar + Element>(
        &self,
        normed: &Tensor,
        places: &BatchPlaces,
    ) -> SavedForBackward {
        let (tokens, options) = (normed.size()[0], (normed.kind(), Device::Cpu));
        let product = multiply(normed, &self.query_key_value.weight.tr());
        let mut projected = Tensor::empty(product.size(), options);
        let mut read = self.head_norm.as_ref().map(|_| Tensor::empty(product.size(), options));
        self.with_between(places.rotary, |epilogue| {
            let mut read = read.as_mut().map(numbers_mut::<T>);
            let mut projected = numbers_mut::<T>(&mut projected);
            T::rope_forward(self.cpu, epilogue, &numbers(&product), read.as_deref_mut(), &mut projected);
        });
        drop(product);
        let mut attended = Tensor::empty([tokens, (self.heads.heads * self.heads.width) as i64], options);
        T::causal_attention_forward(
            self.cpu,
            &self.heads,
            places.sequences,
            &numbers::<T>(&projected),
            &mut numbers_mut(&mut attended),
        );
        SavedForBackward { read, projected, attended }
    }

    /// From d loss / d (stream + output), `[answered tokens, width]`. `of_matrix` gets d loss / d output,
    /// `[tokens, outputs]`, and the input, `[tokens, inputs]`, of each matrix, both in the precision of
    /// products.
    pub fn backward(
        &self,
        saved: SavedForBackward,
        places: &BatchPlaces,
        before: &Normalised,
        grad_answer: &Tensor,
        mut of_matrix: impl FnMut(AttentionMatrix, &Tensor, &Tensor),
    ) -> AttentionGradients {
        let _guard = no_grad_guard();
        let kind = before.normed.kind();
        let grad_narrow = grad_answer.to_kind(kind);
        of_matrix(AttentionMatrix::Output, &grad_narrow, &Self::answered(&saved.attended, places));
        let output_bias = self.output.bias.as_ref().map(|_| column_sums(grad_answer));
        let grad_answered = multiply(&grad_narrow, &self.output.weight);
        // The gradient of the stream starts with that of the residual connection.
        let grad_answer = grad_answer.to_kind(Kind::Float);
        let (grad_attended, mut grad_stream) = match places.answered {
            None => (grad_answered, grad_answer.copy()),
            Some(answered) => {
                let all = |rows: &Tensor| {
                    let tokens = before.normed.size()[0];
                    Tensor::zeros([tokens, rows.size()[1]], (Kind::Float, Device::Cpu))
                        .index_copy(0, answered, rows)
                };
                (all(&grad_answered), all(&grad_answer))
            }
        };
        let run = match kind {
            Kind::BFloat16 => Self::run_backward::<bf16>,
            _ => Self::run_backward::<f32>,
        };
        let (grad_single, grad_projected, head_norm) = run(self, saved, places, &grad_attended);
        of_matrix(AttentionMatrix::QueryKeyValue, &grad_projected, before.normed);
        let query_key_value_bias = self.query_key_value.bias.as_ref().map(|_| column_sums(&grad_single));
        drop(grad_single);
        let norm = before.backward(multiply(&grad_projected, &self.query_key_value.weight), &mut grad_stream);
        AttentionGradients { stream: grad_stream, norm, head_norm, query_key_value_bias, output_bias }
    }

    /// d loss / d output of the projections, in single precision and in that of products; and d loss / d
    /// scales of the heads.
    fn run_backward<T: TrainingScalar + Element>(
        &self,
        SavedForBackward { read, projected, attended }: SavedForBackward,
        places: &BatchPlaces,
        grad_attended: &Tensor,
    ) -> (Tensor, Tensor, Option<Tensor>) {
        let mut grad_single = Tensor::empty(projected.size(), (Kind::Float, Device::Cpu));
        T::causal_attention_backward(
            self.cpu,
            &self.heads,
            places.sequences,
            &numbers::<T>(&projected),
            &numbers::<T>(&attended),
            &numbers(grad_attended),
            &mut numbers_mut(&mut grad_single),
        );
        let mut grad_projected = projected.empty_like();
        let mut grad_scales = self.head_norm.as_ref().map(|_| {
            Tensor::empty([projected.size()[0], 2, self.heads.width as i64], (Kind::Float, Device::Cpu))
        });
        self.with_between(places.rotary, |epilogue| {
            let read = read.as_ref().map(numbers::<T>);
            let mut grad_scales = grad_scales.as_mut().map(numbers_mut::<f32>);
            let norm = read.as_deref().zip(grad_scales.as_deref_mut());
            let norm = norm.map(|(read, grad_scales)| HeadNormGrad { read, grad_scales });
            let (mut grad_single, mut grad_projected) =
                (numbers_mut(&mut grad_single), numbers_mut(&mut grad_projected));
            T::rope_backward(self.cpu, epilogue, &mut grad_single, norm, &mut grad_projected);
        });
        let grad_scales = grad_scales.map(|sums| sums.sum_dim_intlist([0i64].as_slice(), false, Kind::Float));
        (grad_single, grad_projected, grad_scales)
    }
}

fn column_sums(rows: &Tensor) -> Tensor {
    rows.sum_dim_intlist([0i64].as_slice(), false, Kind::Float)
}
