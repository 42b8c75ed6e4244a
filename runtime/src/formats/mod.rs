//! Model formats of other projects: folders of the transformers library, the Hugging Face hub, GGUF files.

pub mod config_json;
pub mod gguf;
pub mod hub;
pub mod huggingface;
pub mod peft;
pub mod safetensors;
pub mod tensors;

use std::fmt::Display;
use std::path::Path;

use mopd_plan::events::FailureKind;

use crate::failure::Error;

/// Most bytes of a configuration or an index; the largest published ones have a hundredth of it.
const LARGEST_TEXT: u64 = 256 << 20;

fn unreadable(path: &Path, cause: impl Display) -> Error {
    Error::new(FailureKind::Model, format!("cannot read {}: {cause}", path.display()))
}

#[cfg(test)]
mod tests;
