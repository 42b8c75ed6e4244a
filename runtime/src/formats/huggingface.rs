//! A model's folder in the layout of the transformers library: `config.json`, safetensors, and the
//! tokenizer's files.

use std::path::Path;
use std::sync::Arc;

use mopd_plan::events::FailureKind;
use mopd_store::regular;
use serde::Deserialize;
use serde_json::Value;

use super::tensors::assemble;
use super::{LARGEST_TEXT, config_json, safetensors, unreadable};
use crate::failure::{Error, Result};
use crate::mapped::MappedTensor;
use crate::model::{Config, Weights};
use crate::quote::quote;
use crate::tokenizer::{PretrainedTokenizer, Tokenizer};

pub const CONFIG: &str = "config.json";
/// The configuration that PEFT writes beside an adapter.
const ADAPTER_CONFIG: &str = "adapter_config.json";

/// What a run writes beside its models: where they come from, and whether they have the tokenizer of bytes.
pub const PROVENANCE: &str = "mopd.json";

/// Whether the model in a folder depends on this file, besides its weights and its tokenizer's files.
pub fn reads(name: &str) -> bool {
    [CONFIG, ADAPTER_CONFIG, PROVENANCE].contains(&name)
}

/// Reads `config.json` of a folder.
pub fn config(folder: &Path) -> Result<Config> {
    no_adapter(folder)?;
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

/// Refuses a folder that holds an adapter (LoRA), alone or in the model's own folder, where the reference
/// library loads it with the model.
pub fn no_adapter(folder: &Path) -> Result<()> {
    #[derive(Default, Deserialize)]
    struct Adapter {
        #[serde(default)]
        base_model_name_or_path: Option<String>,
    }
    if !folder.join(ADAPTER_CONFIG).exists() {
        return Ok(());
    }
    if folder.join(CONFIG).exists() {
        let message = format!("{} holds an adapter (LoRA) beside the model", folder.display());
        return Err(Error::new(FailureKind::Model, message).help(format!(
            "merge it into the model with PEFT (`merge_and_unload`), or move `{ADAPTER_CONFIG}` out of the \
             folder to use the model without it"
        )));
    }
    let message = format!("{} holds an adapter (LoRA), not a whole model", folder.display());
    let whole = folder.parent().filter(|parent| parent.join(CONFIG).is_file());
    let help = match whole {
        Some(whole) => format!("name {}: the model with the adapter merged into it", whole.display()),
        None => {
            let text = regular::read(&folder.join(ADAPTER_CONFIG), LARGEST_TEXT).ok();
            let adapter: Adapter =
                text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
            let base = adapter.base_model_name_or_path.filter(|base| !base.is_empty());
            let base =
                base.map_or_else(|| "the model that it was trained on".to_owned(), |base| quote(&base));
            format!("merge it into {base} with PEFT (`merge_and_unload`), save that, and name its folder")
        }
    };
    Err(Error::new(FailureKind::Model, message).help(help))
}

/// The tokenizer in a folder.
pub fn tokenizer(folder: &Path) -> Result<Arc<Tokenizer>> {
    no_adapter(folder)?;
    Ok(Arc::new(Tokenizer::Pretrained(PretrainedTokenizer::load(folder)?)))
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
