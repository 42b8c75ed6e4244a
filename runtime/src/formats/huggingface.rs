//! A model's folder in the layout of the transformers library: `config.json`, safetensors, and the
//! tokenizer's files.

use std::path::Path;
use std::sync::Arc;

use mopd_store::regular;
use serde_json::Value;

use super::tensors::assemble;
use super::{LARGEST_TEXT, config_json, peft, safetensors, unreadable};
use crate::failure::Result;
use crate::mapped::MappedTensor;
use crate::model::{Config, Weights};
use crate::tokenizer::{PretrainedTokenizer, Tokenizer, TokenizerFiles};

pub const CONFIG: &str = "config.json";

/// What a run writes beside its models: where they come from, and whether they have the tokenizer of bytes.
pub const PROVENANCE: &str = "mopd.json";

/// Whether the model in a folder depends on this file, besides its weights and its tokenizer's files.
pub fn reads(name: &str) -> bool {
    [CONFIG, peft::CONFIG, PROVENANCE].contains(&name)
}

/// Reads `config.json` of a folder.
pub fn config(folder: &Path) -> Result<Config> {
    let path = folder.join(CONFIG);
    let text = regular::read(&path, LARGEST_TEXT).map_err(|error| {
        unreadable(&path, mopd_store::files::reason(&error)).help(
            "a model is a folder with `config.json` and `model.safetensors`, as `save_pretrained` writes it",
        )
    })?;
    let json: Value =
        serde_json::from_slice(&text).map_err(|error| unreadable(&path, format!("not JSON: {error}")))?;
    config_json::read(&json).map_err(|problem| unreadable(&path, problem))
}

/// Locates the tensors of a model, in the order of its layout; their numbers are not read yet.
pub fn parts(folder: &Path, config: &Config) -> Result<Vec<MappedTensor>> {
    assemble(config, &safetensors::open(folder)?).map_err(|problem| unreadable(folder, problem))
}

/// The model in a folder. Its numbers stay in the mapped files.
pub fn weights(folder: &Path, tokenizer: Arc<Tokenizer>) -> Result<Weights> {
    let config = config(folder)?;
    let tokenizer = with_rows(&config, tokenizer).map_err(|problem| unreadable(folder, problem))?;
    let parts = parts(folder, &config)?;
    Ok(Weights::stored(Arc::new(config), tokenizer, parts))
}

/// The tokenizer in a folder.
pub fn tokenizer(folder: &Path) -> Result<Arc<Tokenizer>> {
    Ok(Arc::new(Tokenizer::Pretrained(PretrainedTokenizer::load(folder)?)))
}

/// The tokenizer of an adapter's folder: its own files where it has them, since a trainer may have saved
/// another chat template, else the base's. Where it does not say how completions end, the base does.
pub fn tokenizer_of_adapter(folder: &Path, base: &Weights) -> Result<Arc<Tokenizer>> {
    if !TokenizerFiles::are_in(folder) {
        return Ok(base.tokenizer.clone());
    }
    let mut files = TokenizerFiles::read(folder)?;
    if let Tokenizer::Pretrained(tokenizer) = &*base.tokenizer {
        files.end_as(tokenizer.files());
    }
    let tokenizer = Arc::new(Tokenizer::Pretrained(PretrainedTokenizer::new(files)?));
    with_rows(&base.config, tokenizer).map_err(|problem| unreadable(folder, problem))
}

/// The tokenizer as the model uses it. Published embeddings are often padded beyond the tokenizer's ids. They
/// are smaller only by special tokens that the model does not know: the text models of Gemma 3 have the
/// tokenizer of those that read images, with a token for an image.
pub fn with_rows(config: &Config, tokenizer: Arc<Tokenizer>) -> Result<Arc<Tokenizer>, String> {
    let (rows, ids) = (config.vocabulary, tokenizer.vocabulary());
    if ids <= rows {
        return Ok(tokenizer);
    }
    let within = match &*tokenizer {
        Tokenizer::Bytes => None,
        Tokenizer::Pretrained(tokenizer) => tokenizer.within(rows).map_err(|error| error.to_string())?,
    };
    let within = within.ok_or_else(|| {
        format!(
            "the tokenizer has {ids} ids, but the embedding has only {rows} rows: they belong to different \
             models"
        )
    })?;
    Ok(Arc::new(Tokenizer::Pretrained(within)))
}
