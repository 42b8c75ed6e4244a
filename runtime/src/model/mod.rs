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
mod numbers;
mod packed_attention;
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
pub use layout::{Entry, EntryKind, layer_of, layout};
pub use trace::Trace;
pub use weights::Weights;

/// An index into the vocabulary; see [`crate::data::tokenizer`].
pub type Token = i64;

#[cfg(test)]
pub mod tests;
