//! The decoder of the Llama family: weights, training forward, cached generation.

mod cache;
mod decoder;
mod weights;

pub use cache::Generator;
pub use decoder::{Decoder, PackedBatch, to_vec};
pub use weights::{Entry, EntryKind, Sizes, Weights, layout};

/// An index into the vocabulary; see [`crate::data::tokenizer`].
pub type Token = i64;

#[cfg(test)]
pub mod tests;
