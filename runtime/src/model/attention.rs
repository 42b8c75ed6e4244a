//! Attention of one layer over whole sequences: grouped heads (arXiv:2305.13245), sliding windows
//! (arXiv:2004.05150), capped scores.

use mopd_kernels::cuda::FlashAttention;
use tch::{Device, Kind, Tensor};

use super::config::FastPath;
use super::packed_attention::SavedForBackward;
use super::packed_batch::PackedBatch;
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

/// The keys and values that the attention of a layer read.
pub(super) enum AttentionRead {
    /// Read by our own loops, with the activations that they saved for the backward pass.
    Own(SavedForBackward),
    /// `[sequences, longest, groups, head width]`, padded as the batch is.
    Padded { keys: Tensor, values: Tensor },
    /// `[tokens, groups, head width]`
    Packed { keys: Tensor, values: Tensor },
}

impl AttentionRead {
    /// The activations that our own loops saved for the backward pass; `None` where they did not run.
    pub fn saved_for_backward(self) -> Option<SavedForBackward> {
        match self {
            AttentionRead::Own(kept) => Some(kept),
            AttentionRead::Padded { .. } | AttentionRead::Packed { .. } => None,
        }
    }

    /// Keys and values of the batch's tokens, `[tokens, groups, head width]` each.
    pub fn keys_values(&self, config: &Config, batch: &PackedBatch) -> [Tensor; 2] {
        match self {
            AttentionRead::Own(kept) => kept.keys_values(config),
            AttentionRead::Padded { keys, values } => {
                [keys, values].map(|padded| padded.flatten(0, 1).index_select(0, &batch.pack))
            }
            AttentionRead::Packed { keys, values } => [keys.shallow_clone(), values.shallow_clone()],
        }
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
        for layer in &config.attention {
            let window = window(layer, length);
            if masks.iter().any(|(made, _)| *made == window) {
                continue;
            }
            // libtorch's causal attention is the fastest, but it has neither windows nor caps.
            let plain = window.is_none() && config.attention_softcap.is_none();
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
    layer: &LayerAttention,
    masks: &Masks,
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
) -> Tensor {
    let length = query.size()[2];
    let mask = masks.of(layer, length as usize);
    if config.attention_softcap.is_none() {
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
    attend_stored(config, query, key, value, mask)
}

/// Attention that computes all scores, with any setting of the model: queries are `[rows, heads, queries,
/// head width]`, keys and values `[rows, groups, length, head width]`; `mask` is added to the scores, `[rows,
/// heads, queries, length]`. The result has the shape of the queries.
pub(super) fn attend_stored(
    config: &Config,
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    mask: Option<&Tensor>,
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
    let weights = wide_softmax(&scores).to_kind(value.kind());
    let attended = weights.view([grouped[0], grouped[1], grouped[2], length]).matmul(value);
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
