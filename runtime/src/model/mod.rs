//! Decoders: configuration, weights, training forward, cached generation.

mod adapter;
mod attention;
mod cache;
mod causal_conv;
pub mod change;
mod config;
mod decoder;
mod feed_forward;
mod gated;
mod gated_delta;
mod gradient;
mod layout;
mod linear;
mod lm_head_grad;
mod loops;
pub mod merge;
mod packed_attention;
mod packed_batch;
mod paged;
mod parameter_data;
mod parameters;
mod rope;
mod saved_activations;
mod second_head;
mod short_conv;
mod step;
mod stored_names;
mod streamed;
mod weights;

pub use adapter::{Adapted, MatrixAdapter, Merged};
pub use attention::cap;
pub use cache::Generator;
pub use config::{
    Activation, Biases, ClampedUnit, Config, EmbeddingScale, Experts, FastPath, GatedDelta, LayerAttention,
    ModelFamily, Norm, Rope, RopeScaling, ShortConv,
};
pub use decoder::{Decoder, logits};
pub use feed_forward::ExpertLoad;
pub use gradient::{Gradient, GradientOf};
pub use layout::{EntryKind, ParameterEntry, layout};
pub use lm_head_grad::{HeadGrads, LmHeadGrad};
pub use packed_batch::PackedBatch;
pub use paged::{PagedGenerator, page_layout};
pub use saved_activations::{GeneratedActivations, SavedActivations};
pub use second_head::{CERTAIN, SecondHeadGrad, SecondPass};
pub use streamed::{ScoringDecoder, StreamedDecoder};
pub use weights::Weights;

/// The logit of an id that belongs to no token, in place of the LM head's output: its probability is 0 at any
/// temperature in use. It is finite, so that the difference of two such log-probabilities is a number, whose
/// product with probability 0 is 0.
pub const ABSENT: f32 = -1e8;

#[cfg(test)]
pub mod tests;
