//! Attention of one layer over whole sequences: grouped heads (arXiv:2305.13245), sliding windows
//! (arXiv:2004.05150), capped scores, a gate of the output (arXiv:2505.06708).

use mopd_kernels::cuda::FlashAttention;
use tch::{Device, Kind, Tensor};

use super::causal_conv::RecurrentState;
use super::config::FastPath;
use super::decoder::{Decoder, ForwardContext, gather};
use super::packed_attention::SavedForBackward;
use super::packed_batch::PackedBatch;
use super::parameters::AttentionWeights;
use super::{Config, LayerAttention};
use crate::machine::place::Place;

/// Added to the score of a masked position. Finite, so that a fully masked row stays finite.
pub(super) const HIDDEN: f64 = -1e30;

/// The layout in which attention reads the sequences of a batch, where our own loops do not run.
pub(super) enum SequenceLayout {
    /// Padded to the longest.
    Padded(Masks),
    /// Packed, as in all other parts of a layer.
    Packed(FlashAttention),
}

impl SequenceLayout {
    pub fn new(place: Place, config: &Config, kind: Kind, batch: &PackedBatch) -> SequenceLayout {
        let ([_, longest], tokens) = (batch.shape, batch.token_count());
        let is_flash = |gpu| {
            config.runs_on(FastPath::FlashAttention)
                && FlashAttention::is_written_for(gpu, kind, config.head_dim as i64)
        };
        if place.kernels().is_some_and(is_flash) {
            SequenceLayout::Packed(FlashAttention::new(batch.bounds(place.device), tokens, longest))
        } else {
            SequenceLayout::Padded(Masks::new(config, longest as usize, kind, place.device))
        }
    }
}

/// What a layer read of the sequences, which generation goes on from.
pub(super) enum LayerRead {
    /// Read by our own loops, with the activations that they saved for the backward pass.
    Own(SavedForBackward),
    /// `[sequences, longest, groups, head width]`, padded as the batch is.
    Padded { keys: Tensor, values: Tensor },
    /// `[tokens, groups, head width]`
    Packed { keys: Tensor, values: Tensor },
    /// By a part in place of attention, with one row for each sequence.
    Recurrent(RecurrentState),
}

impl LayerRead {
    /// The activations that our own loops saved for the backward pass; `None` where they did not run.
    pub fn saved_for_backward(self) -> Option<SavedForBackward> {
        match self {
            LayerRead::Own(kept) => Some(kept),
            LayerRead::Padded { .. } | LayerRead::Packed { .. } | LayerRead::Recurrent(_) => None,
        }
    }

    /// Keys and values of the batch's tokens, `[tokens, groups, head width]` each.
    ///
    /// # Panics
    /// If the layer does not have attention.
    pub fn keys_values(&self, config: &Config, batch: &PackedBatch) -> [Tensor; 2] {
        match self {
            LayerRead::Own(kept) => kept.keys_values(config),
            LayerRead::Padded { keys, values } => {
                [keys, values].map(|padded| padded.flatten(0, 1).index_select(0, &batch.pack))
            }
            LayerRead::Packed { keys, values } => [keys.shallow_clone(), values.shallow_clone()],
            LayerRead::Recurrent(_) => unreachable!("only attention has keys and values"),
        }
    }
}

impl Decoder {
    /// The output of the heads before the output projection, `[tokens, heads * head width]`, in the `last`
    /// layer only where a completion token is predicted; and the keys and values that were read.
    pub(super) fn attention(
        &self,
        weights: &AttentionWeights,
        normed: &Tensor,
        context: &ForwardContext,
        last: bool,
    ) -> (Tensor, LayerRead) {
        let config = &*self.config;
        let [heads, groups, head_dim] =
            [config.heads, config.key_value_heads, config.head_dim].map(|size| size as i64);
        let batch = &context.batch;
        let projected = weights.query_key.apply(normed);
        let (query_key, gate) =
            self.without_gate(projected.view([-1, config.query_and_gate_heads() as i64 + groups, head_dim]));
        let query_key = context.rotary.apply_rope(&weights.kind, self.normalise_heads(query_key, weights));
        let value = weights.value.apply(normed);
        let gated = |attended: Tensor| match &gate {
            Some(gate) if last => attended * gather(&gate.flatten(1, 2), &batch.predictors).sigmoid(),
            Some(gate) => attended * gate.flatten(1, 2).sigmoid(),
            None => attended,
        };
        // Splitting has a cheaper backward pass than two views.
        let split = |query_key: &Tensor, axis| -> [Tensor; 2] {
            let parts = query_key.split_with_sizes([heads, groups], axis);
            parts.try_into().expect("two sizes make two parts")
        };
        let masks = match &context.sequence_layout {
            SequenceLayout::Padded(masks) => masks,
            SequenceLayout::Packed(flash) => {
                let [query, keys] = split(&query_key, 1);
                let values = value.view([-1, groups, head_dim]);
                let (scale, window) = (config.attention_scale, weights.kind.window);
                let attended = flash.attend([&query, &keys, &values], scale, window).flatten(1, 2);
                let attended = if last { gather(&attended, &batch.predictors) } else { attended };
                return (gated(attended), LayerRead::Packed { keys, values });
            }
        };
        let [sequences, longest] = batch.shape;
        let query_key = query_key.reshape([-1, (heads + groups) * head_dim]);
        let query_key =
            gather(&query_key, &batch.unpack).view([sequences, longest, heads + groups, head_dim]);
        let values = gather(&value, &batch.unpack).view([sequences, longest, groups, head_dim]);
        let [query, keys] = split(&query_key, 2);
        let by_head = |part: &Tensor| part.transpose(1, 2);
        let attended =
            attend(self.place, config, weights, masks, &by_head(&query), &by_head(&keys), &by_head(&values));
        let attended = attended.transpose(1, 2).reshape([sequences * longest, heads * head_dim]);
        let attended = gather(&attended, if last { &batch.predictors_padded } else { &batch.pack });
        (gated(attended), LayerRead::Padded { keys, values })
    }

    /// Takes the gate out of projections whose first rows are those of the queries, `[tokens, rows, head
    /// width]`: what is left, and the gate, `[tokens, heads, head width]`, where there is one.
    pub(super) fn without_gate(&self, projected: Tensor) -> (Tensor, Option<Tensor>) {
        if !self.config.attention_gate {
            return (projected, None);
        }
        let [tokens, rows, head_dim] = projected.size()[..] else { unreachable!("it has three axes") };
        let heads = self.config.heads as i64;
        let parts = projected.split_with_sizes([2 * heads, rows - 2 * heads], 1);
        let query_gate = parts[0].reshape([tokens, heads, 2, head_dim]).unbind(2);
        (Tensor::cat(&[&query_gate[0], &parts[1]], 1), Some(query_gate[1].shallow_clone()))
    }

    /// Normalises each head of queries and keys, `[.., heads + key-value heads, head width]`.
    pub(super) fn normalise_heads(&self, query_key: Tensor, weights: &AttentionWeights) -> Tensor {
        let Some(scales) = &weights.query_key_norm else { return query_key };
        let config = &*self.config;
        let (heads, groups, width) =
            (config.heads as i64, config.key_value_heads as i64, config.head_dim as i64);
        let scales = self.scale(scales);
        let repeated = |row: i64, count: i64| scales.narrow(0, row, 1).expand([count, width], false);
        let scales = Tensor::cat(&[repeated(0, heads), repeated(1, groups)], 0);
        (query_key.rms_norm::<&Tensor>([width], None, config.norm.epsilon) * scales).to_kind(query_key.kind())
    }
}

/// The attention masks of all layers. One mask for each distinct window, made once.
pub(super) struct Masks {
    /// Window, and the mask that is added to scores, `[length, length]`; no mask for plain causal attention.
    masks: Vec<(Option<usize>, Option<Tensor>)>,
}

impl Masks {
    /// Masks for sequences of at most `length` tokens.
    pub fn new(config: &Config, length: usize, kind: Kind, device: Device) -> Masks {
        let mut masks: Vec<(Option<usize>, Option<Tensor>)> = Vec::new();
        for layer in config.attention_layers() {
            let window = window(layer, length);
            if masks.iter().any(|(made, _)| *made == window) {
                continue;
            }
            // libtorch's causal attention is the fastest, but it has no windows, caps or sinks.
            let plain = window.is_none() && config.attention_softcap.is_none() && !config.attention_sinks;
            masks.push((window, (!plain).then(|| triangle(length, window, device).to_kind(kind))));
        }
        Masks { masks }
    }

    fn of(&self, layer: &LayerAttention, length: usize) -> Option<&Tensor> {
        let window = window(layer, length);
        self.masks.iter().find(|(made, _)| *made == window).and_then(|(_, mask)| mask.as_ref())
    }
}

/// The window of a layer, if it is shorter than the sequence.
fn window(layer: &LayerAttention, length: usize) -> Option<usize> {
    layer.window.filter(|window| *window < length)
}

/// [`HIDDEN`] above the diagonal, and below it beyond the window; 0 elsewhere.
fn triangle(length: usize, window: Option<usize>, device: Device) -> Tensor {
    let hidden = || Tensor::full([length as i64, length as i64], HIDDEN, (Kind::Float, device));
    let after = hidden().triu(1);
    match window {
        Some(window) => after + hidden().tril(-(window as i64)),
        None => after,
    }
}

/// Keys or values of grouped heads, `[rows, groups, length, head width]`, repeated for every head.
fn for_every_head(config: &Config, of_groups: &Tensor) -> Tensor {
    let [rows, groups, length, width] = of_groups.size()[..] else { unreachable!("it has four axes") };
    let shared = config.heads as i64 / groups;
    of_groups.unsqueeze(2).expand([rows, groups, shared, length, width], false).reshape([
        rows,
        config.heads as i64,
        length,
        width,
    ])
}

/// Whether a GPU has an attention kernel for grouped heads that does not store all scores: in half precision,
/// without a mask. Otherwise `[heads, length, length]` numbers would be stored.
fn has_grouped_kernel(kind: Kind, mask: Option<&Tensor>) -> bool {
    kind == Kind::BFloat16 && mask.is_none()
}

/// Causal attention; queries are `[rows, heads, length, head width]`, keys and values have fewer heads where
/// they are grouped. The result has the shape of the queries.
pub(super) fn attend(
    place: Place,
    config: &Config,
    weights: &AttentionWeights,
    masks: &Masks,
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
) -> Tensor {
    let length = query.size()[2];
    let mask = masks.of(&weights.kind, length as usize);
    if config.attention_softcap.is_none() && weights.sinks.is_none() {
        let (causal, grouped) = (mask.is_none(), config.heads != config.key_value_heads);
        if grouped && place.loops().is_none() && !has_grouped_kernel(query.kind(), mask) {
            let [key, value] = [key, value].map(|part| for_every_head(config, part));
            return Tensor::scaled_dot_product_attention(
                query,
                &key,
                &value,
                mask,
                0.0,
                causal,
                config.attention_scale,
                false,
            );
        }
        return Tensor::scaled_dot_product_attention(
            query,
            key,
            value,
            mask,
            0.0,
            causal,
            config.attention_scale,
            grouped,
        );
    }
    attend_stored(config, query, key, value, mask, weights.sinks.as_ref())
}

/// Attention that computes all scores, with any setting of the model: queries are `[rows, heads, queries,
/// head width]`, keys and values `[rows, groups, length, head width]`; `mask` is added to the scores, `[rows,
/// heads, queries, length]`; `sinks` are scores without a token, `[heads]`. The result has the shape of the
/// queries.
pub(super) fn attend_stored(
    config: &Config,
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    mask: Option<&Tensor>,
    sinks: Option<&Tensor>,
) -> Tensor {
    let [rows, heads, queries, width] = query.size()[..] else { unreachable!("it has four axes") };
    let [_, groups, length, _] = key.size()[..] else { unreachable!("it has four axes") };
    // Heads that share keys are the rows of one matrix product.
    let grouped = [rows, groups, heads / groups * queries];
    let query = query.reshape([grouped[0], grouped[1], grouped[2], width]) * config.attention_scale;
    let scores = cap(query.matmul(&key.transpose(2, 3)), config.attention_softcap);
    let scores = scores.view([rows, heads, queries, length]);
    let scores = match mask {
        Some(mask) => scores + mask,
        None => scores,
    };
    let scores = match sinks {
        Some(sinks) => {
            let sinks = sinks.to_kind(scores.kind()).view([1, heads, 1, 1]);
            Tensor::cat(&[scores, sinks.expand([rows, heads, queries, 1], false)], -1)
        }
        None => scores,
    };
    let weights = wide_softmax(&scores).narrow(-1, 0, length).to_kind(value.kind());
    let attended = weights.reshape([grouped[0], grouped[1], grouped[2], length]).matmul(value);
    attended.view([rows, heads, queries, width])
}

/// `cap * tanh(x / cap)` (arXiv:2408.00118, section 2).
pub fn cap(x: Tensor, cap: Option<f64>) -> Tensor {
    match cap {
        Some(cap) => (x / cap).tanh_() * cap,
        None => x,
    }
}

/// Softmax over the last axis, in f32 where the inputs are narrower.
pub(super) fn wide_softmax(scores: &Tensor) -> Tensor {
    scores.softmax(-1, if scores.kind() == Kind::Double { Kind::Double } else { Kind::Float })
}
