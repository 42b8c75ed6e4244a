//! Decoders: configuration, weights, training forward, cached generation.

mod attention;
mod by_matrix;
mod cache;
mod config;
mod decoder;
mod feed_forward;
mod gated;
mod gradient;
mod layout;
mod linear;
mod loops;
pub mod merge;
mod packed_attention;
mod paged;
mod pages;
mod parameter_data;
mod parameters;
mod rope;
mod step;
mod trace;
mod weights;

pub use by_matrix::ByMatrix;
pub use cache::Generator;
pub use config::{Activation, Biases, Config, Experts, Family, LayerAttention, Norm, Rope, RopeScaling};
pub use decoder::{Decoder, PackedBatch, logits, to_vec};
pub use feed_forward::ExpertLoad;
pub use gradient::Gradient;
pub use layout::{Entry, EntryKind, layout};
pub use paged::PagedGenerator;
pub use pages::{PageLayout, Sequence, pages_of};
pub use trace::Trace;
pub use weights::Weights;

/// The logit of an id that no token has, in place of what the output matrix says: its probability is 0 at any
/// temperature in use. It is finite, so that a difference of two such log-probabilities is a number, which
/// probability 0 then makes 0.
pub const ABSENT: f32 = -1e8;

#[cfg(test)]
pub mod tests;
