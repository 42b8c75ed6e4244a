//! A model in a folder, for the store, for `mopd sample`, and for other tools: the layout of the transformers
//! library, and `mopd.json` with the model's provenance.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use mopd_plan::events::{FailureKind, MergedJob};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::hashed::write_hashed;
use crate::failure::{Error, Result};
use crate::formats::config_json::{self, TokenIds};
use crate::formats::huggingface::{self, PROVENANCE};
use crate::formats::peft;
use crate::formats::safetensors::{self, TensorHeader};
use crate::model::{Config, Merged, Weights, layout};
use crate::tokenizer::{BEGIN, Tokenizer};

const GENERATION: &str = "generation_config.json";
/// Largest size of a file in bytes: larger models are split, as in the transformers library.
const LARGEST_FILE: usize = 5_000_000_000;

/// The content of `mopd.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointProvenance {
    pub format: u32,
    /// The model's name in the experiment that made it first.
    pub model: String,
    pub seed: u64,
    /// Content key of the stage; see [`super::Store`].
    pub key: String,
    /// The models that this one was made from.
    pub lineage: Vec<Ancestor>,
    /// The checkpoint of another stage that training was forked from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked: Option<Forked>,
    /// Whether the tokenizer is that of bytes; other tokenizers have their own files.
    bytes: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    pub name: String,
    pub key: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forked {
    pub key: String,
    /// Number of steps of the other stage at that checkpoint.
    pub step: u32,
}

/// Increased whenever the meaning of `mopd.json` changes.
const FORMAT: u32 = 3;

impl CheckpointProvenance {
    pub fn new(
        weights: &Weights,
        model: &str,
        seed: u64,
        key: &str,
        lineage: Vec<Ancestor>,
    ) -> CheckpointProvenance {
        let (model, key) = (model.to_owned(), key.to_owned());
        CheckpointProvenance {
            format: FORMAT,
            model,
            seed,
            key,
            lineage,
            forked: None,
            bytes: *weights.tokenizer == Tokenizer::Bytes,
        }
    }

    pub fn forked_from(self, forked: Option<Forked>) -> CheckpointProvenance {
        CheckpointProvenance { forked, ..self }
    }
}

/// A model read from a folder.
#[derive(Debug)]
pub struct Checkpoint {
    /// `None` where another program wrote the folder.
    pub provenance: Option<CheckpointProvenance>,
    /// Mapped from their files.
    pub weights: Weights,
}

impl Checkpoint {
    /// Opens a folder. Every tensor must exist with its shape; no number but those of an adapter is read yet.
    /// An adapter's base is where the folder says.
    pub fn load(folder: &Path) -> Result<Checkpoint> {
        let base = || Ok(Arc::new(Checkpoint::load(&peft::base_folder(folder)?)?.weights));
        Checkpoint::load_on(folder, base)
    }

    /// The same if the caller knows the model that an adapter changes.
    pub fn load_on(folder: &Path, base: impl FnOnce() -> Result<Arc<Weights>>) -> Result<Checkpoint> {
        let provenance = provenance(folder)?;
        let bytes = provenance.as_ref().is_some_and(|provenance| provenance.bytes);
        let weights = if peft::is_adapter(folder)? {
            let base = base()?;
            let merged = Merged::new(base.clone(), peft::read(folder, &base.config)?);
            let tokenizer = if bytes {
                base.tokenizer.clone()
            } else {
                huggingface::tokenizer_of_adapter(folder, &base)?
            };
            let mut weights = Weights::merged(merged);
            weights.tokenizer = tokenizer;
            weights
        } else {
            let tokenizer = if bytes { Arc::new(Tokenizer::Bytes) } else { huggingface::tokenizer(folder)? };
            huggingface::weights(folder, tokenizer)?
        };
        Ok(Checkpoint { provenance, weights })
    }
}

/// The provenance of the model in a folder, if this program wrote it.
fn provenance(folder: &Path) -> Result<Option<CheckpointProvenance>> {
    let path = folder.join(PROVENANCE);
    let provenance = match fs::read(&path) {
        Ok(text) => Some(
            serde_json::from_slice::<CheckpointProvenance>(&text)
                .map_err(|error| unreadable(&path, error))?,
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(unreadable(&path, error)),
    };
    if let Some(CheckpointProvenance { format, .. }) = provenance
        && format != FORMAT
    {
        return Err(unreadable(
            &path,
            format!("format {format} is not supported, this version reads {FORMAT}"),
        ));
    }
    Ok(provenance)
}

fn unreadable(path: &Path, cause: impl std::fmt::Display) -> Error {
    Error::new(FailureKind::Model, format!("cannot read {}: {cause}", path.display())).help(
        "a checkpoint is a folder with `config.json` and `model.safetensors`, like those in `models/` of \
        a run",
    )
}

/// Checks that a model can be saved; also called before a stage computes it, so that no result is lost.
///
/// # Errors
/// If `config.json` can't represent all features of the model.
pub fn check_can_be_saved(config: &Config) -> Result<()> {
    match config_json::unwritten(config) {
        None => Ok(()),
        Some(problem) => Err(Error::new(FailureKind::Model, format!("the model cannot be saved: {problem}"))
            .help(
                "start from a model of a family with this feature; this model can only be used as a \
                teacher",
            )),
    }
}

/// Writes a model as a folder of PEFT: its adapter, whose base is at `base`. Returns what [`save`] does.
pub fn save_as_adapter(
    folder: &Path,
    provenance: &CheckpointProvenance,
    merged: &Merged,
    base: &str,
) -> Result<BTreeMap<String, String>> {
    let mut files = vec![(PROVENANCE.to_owned(), pretty(provenance))];
    files.extend(peft::files(merged, base)?.into_iter().map(|(name, content)| (name.to_owned(), content)));
    files.extend(tokenizer_files(&merged.base().tokenizer));
    files
        .into_iter()
        .map(|(name, content)| {
            let sum = write_hashed(&folder.join(&name), |file| file.write_all(&content))?;
            Ok((name, sum))
        })
        .collect()
}

/// Writes the whole model of a folder with an adapter, entry by entry.
pub fn write_merged(job: &MergedJob) -> Result<()> {
    let (folder, out) = (Path::new(&job.folder), Path::new(&job.out));
    let Checkpoint { provenance, weights } = Checkpoint::load(folder)?;
    if weights.adapted().is_none() {
        let message = format!("{} has no adapter: it is a whole model", folder.display());
        return Err(Error::new(FailureKind::Model, message));
    }
    if fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        let message = format!("{} is not empty", out.display());
        return Err(Error::new(FailureKind::Storage, message).help("name another folder with `--out`"));
    }
    let named = || folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let provenance =
        provenance.unwrap_or_else(|| CheckpointProvenance::new(&weights, &named(), 0, "", Vec::new()));
    save(out, &provenance, &weights)?;
    Ok(())
}

/// Writes the folder of a whole model. Returns the files with the BLAKE3 hash of each one's content in
/// hexadecimal.
pub fn save(
    folder: &Path,
    provenance: &CheckpointProvenance,
    weights: &Weights,
) -> Result<BTreeMap<String, String>> {
    save_in_files_of(LARGEST_FILE, folder, provenance, weights)
}

fn save_in_files_of(
    largest: usize,
    folder: &Path,
    provenance: &CheckpointProvenance,
    weights: &Weights,
) -> Result<BTreeMap<String, String>> {
    check_can_be_saved(&weights.config)?;
    let ids = token_ids(&weights.tokenizer);
    let config = config_json::write(&weights.config, &ids);
    let mut sums = BTreeMap::new();
    let mut put = |name: &str, write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>| -> Result<()> {
        sums.insert(name.to_owned(), write_hashed(&folder.join(name), |file| write(file))?);
        Ok(())
    };
    let entries = layout(&weights.config);
    let headers: Vec<TensorHeader> = entries
        .iter()
        .map(|entry| TensorHeader { name: entry.name.clone(), shape: entry.shape.clone() })
        .collect();
    let shards = safetensors::shards(&headers, largest);
    for (index, range) in shards.iter().enumerate() {
        put(&safetensors::shard_name(index, shards.len()), &mut |file| {
            safetensors::write(&headers[range.clone()], file, |tensor, take| {
                take(&weights.of(&entries[range.start + tensor]))
            })
        })?;
    }
    weights.release();
    let mut texts =
        vec![(huggingface::CONFIG.to_owned(), pretty(&config)), (PROVENANCE.to_owned(), pretty(provenance))];
    if shards.len() > 1 {
        texts.push((safetensors::INDEX.to_owned(), pretty(&safetensors::index(&headers, &shards))));
    }
    texts.extend(tokenizer_files(&weights.tokenizer));
    for (name, content) in texts {
        put(&name, &mut |file| file.write_all(&content))?;
    }
    Ok(sums)
}

/// The files of a model's tokenizer, and those that say which tokens begin and end a text.
pub fn tokenizer_files(tokenizer: &Tokenizer) -> Vec<(String, Vec<u8>)> {
    // A tokenizer's own files have more settings than these ids.
    let mut files = match tokenizer {
        Tokenizer::Pretrained(tokenizer) => tokenizer.files().files.clone(),
        Tokenizer::Bytes => Vec::new(),
    };
    if !files.iter().any(|(name, _)| name == GENERATION) {
        let ids = token_ids(tokenizer);
        let generation =
            json!({ "bos_token_id": ids.begin, "eos_token_id": ids.end, "pad_token_id": ids.padding });
        files.push((GENERATION.to_owned(), pretty(&generation)));
    }
    files
}

/// Whether a file of a stored model is one of [`tokenizer_files`].
pub fn is_of_tokenizer(name: &str) -> bool {
    let others = [huggingface::CONFIG, peft::CONFIG, PROVENANCE, safetensors::INDEX];
    let is_weights = Path::new(name).extension().is_some_and(|extension| extension == "safetensors");
    let is_adapter = Path::new(name).starts_with(super::ADAPTER_BESIDE);
    super::is_of_model(name) && !others.contains(&name) && !is_weights && !is_adapter
}

fn token_ids(tokenizer: &Tokenizer) -> TokenIds {
    let end = match tokenizer.ends() {
        [end] => json!(end),
        ends => json!(ends),
    };
    let begin = match tokenizer {
        Tokenizer::Bytes => json!(BEGIN),
        Tokenizer::Pretrained(tokenizer) => json!(tokenizer.begin()),
    };
    TokenIds { begin, end, padding: json!(tokenizer.padding()) }
}

fn pretty(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("plain data with text keys");
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::{random_model, tiny};

    fn saved(config: &Config, largest: usize) -> (tempfile::TempDir, Weights, BTreeMap<String, String>) {
        let folder = tempfile::tempdir().unwrap();
        let weights = random_model(config, 1);
        let provenance = CheckpointProvenance::new(&weights, "m", 1, "k", Vec::new());
        let sums = save_in_files_of(largest, folder.path(), &provenance, &weights).unwrap();
        (folder, weights, sums)
    }

    #[test]
    fn a_model_survives_its_folder() {
        for (tied, largest) in [(true, LARGEST_FILE), (false, LARGEST_FILE), (false, 10_000)] {
            // Also with a second head.
            let (folder, weights, sums) = saved(&Config { tied, second_head: tied, ..tiny() }, largest);
            let loaded = Checkpoint::load(folder.path()).unwrap();
            assert_eq!(loaded.weights.values(), weights.values());
            assert_eq!(loaded.weights.config, weights.config);
            assert_eq!(loaded.provenance.unwrap().key, "k");
            assert_eq!(sums.contains_key("model.safetensors.index.json"), largest == 10_000);
            for (name, sum) in sums {
                let content = fs::read(folder.path().join(&name)).unwrap();
                assert_eq!(blake3::hash(&content).to_hex().as_str(), sum, "{name}");
            }
        }
    }

    #[test]
    fn files_of_another_model_are_refused_in_words() {
        let (folder, ..) = saved(&tiny(), LARGEST_FILE);
        let error = |change: &dyn Fn(&mut serde_json::Value)| {
            let path = folder.path().join("config.json");
            let text = fs::read(&path).unwrap();
            let mut config = serde_json::from_slice(&text).unwrap();
            change(&mut config);
            fs::write(&path, config.to_string()).unwrap();
            let error = Checkpoint::load(folder.path()).unwrap_err().to_string();
            fs::write(&path, text).unwrap();
            error
        };
        let set = |key: &'static str, value: serde_json::Value| error(&|config| config[key] = value.clone());
        assert!(set("intermediate_size", json!(32)).contains("but the configuration asks for [32, 16]"));
        assert!(set("num_hidden_layers", json!(3)).contains("9 tensors are missing: model.layers.2."));
        assert!(set("num_hidden_layers", json!(1)).contains("of the file: model.layers.1."));
        assert!(set("tie_word_embeddings", json!(false)).contains("lm_head.weight is missing"));
        assert!(set("num_hidden_layers", json!(4000)).contains("weights or more, but there are only"));
        assert!(set("num_attention_heads", json!(0)).contains("config.json"));
    }

    /// A feature that can't be saved is named before a stage begins.
    #[test]
    fn model_that_cannot_be_saved_is_refused_with_the_feature() {
        assert!(check_can_be_saved(&tiny()).is_ok());
        let error = check_can_be_saved(&Config { logit_softcap: Some(30.0), ..tiny() }).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the model cannot be saved: `config.json` of `llama` has no setting for its soft cap of logits"
        );
    }

    #[test]
    fn a_missing_file_is_named() {
        let (folder, ..) = saved(&tiny(), LARGEST_FILE);
        for name in ["model.safetensors", "config.json"] {
            let bytes = fs::read(folder.path().join(name)).unwrap();
            fs::remove_file(folder.path().join(name)).unwrap();
            let error = Checkpoint::load(folder.path()).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
            fs::write(folder.path().join(name), bytes).unwrap();
        }
    }
}
