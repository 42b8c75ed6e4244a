//! The decoder of the Llama family: weights, training forward, cached generation.

mod cache;
mod config;
mod decoder;
mod step;
mod weights;

pub use cache::Generator;
pub use config::{Activation, Biases, Config, Experts, Family, LayerAttention, Norm, Rope, RopeScaling};
pub use decoder::{Decoder, PackedBatch, to_vec};
pub use weights::{Entry, EntryKind, Weights, layout};

/// An index into the vocabulary; see [`crate::data::tokenizer`].
pub type Token = i64;

#[cfg(test)]
pub mod tests;
