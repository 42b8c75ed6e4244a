//! `model.safetensors` and `config.json`: one model in a folder, for the store, for `mopd sample`, and for other tools.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use mopd_compiler::plan::events::FailureKind;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::data::tokenizer::Tokenizer;
use crate::failure::{Error, Result};
use crate::model::{Config, Weights, layout};

const MODEL: &str = "model.safetensors";
const CONFIG: &str = "config.json";
pub(super) const FILES: [&str; 2] = [MODEL, CONFIG];

/// What `config.json` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    pub format: u32,
    pub config: Config,
    /// The model's name in the experiment that made it first.
    pub model: String,
    pub seed: u64,
    /// What the stage computed; see [`super::Store`].
    pub key: String,
    /// The models that this one was made from.
    pub lineage: Vec<Ancestor>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    pub name: String,
    pub key: String,
}

/// Raised whenever the meaning of `config.json` or the names of tensors change.
const FORMAT: u32 = 2;

impl Provenance {
    pub fn new(config: &Config, model: &str, seed: u64, key: &str, lineage: Vec<Ancestor>) -> Provenance {
        let (model, key) = (model.to_owned(), key.to_owned());
        Provenance { format: FORMAT, config: config.clone(), model, seed, key, lineage }
    }
}

/// A model read from a folder.
#[derive(Debug)]
pub struct Checkpoint {
    pub provenance: Provenance,
    pub weights: Weights,
}

impl Checkpoint {
    /// Reads `model.safetensors` and `config.json`; every tensor must be there with its shape, in f32.
    pub fn load(folder: &Path) -> Result<Checkpoint> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).map_err(|error| unreadable(&path, error))
        };
        let provenance: Provenance =
            serde_json::from_slice(&read(CONFIG)?).map_err(|error| unreadable(&folder.join(CONFIG), error))?;
        if provenance.format != FORMAT {
            let problem = format!("format {} is not supported, this version reads {FORMAT}", provenance.format);
            return Err(unreadable(&folder.join(CONFIG), problem));
        }
        let weights = parse(&read(MODEL)?, &provenance.config).map_err(|problem| unreadable(&folder.join(MODEL), problem))?;
        Ok(Checkpoint { provenance, weights })
    }
}

fn unreadable(path: &Path, cause: impl std::fmt::Display) -> Error {
    Error::new(FailureKind::Runtime, format!("cannot read {}: {cause}", path.display()))
        .help("a checkpoint is a folder with `model.safetensors` and `config.json`, such as those in `models/` of a run")
}

fn parse(bytes: &[u8], config: &Config) -> Result<Weights, String> {
    config.check().map_err(|problem| format!("config.json: {problem}"))?;
    let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    // Checked before the layout is made: a hostile file may ask for any number of layers.
    let described = 9 * config.layers as u64 + if config.tied { 2 } else { 3 };
    if file.len() as u64 != described {
        return Err(format!("{} tensors, but config.json describes {described}", file.len()));
    }
    let entries = layout(config);
    let mut values = Vec::new();
    for entry in &entries {
        let tensor = file.tensor(&entry.name).map_err(|_| format!("the tensor {} is missing", entry.name))?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != entry.shape {
            return Err(format!(
                "the tensor {} is {:?} {:?}, but config.json asks for F32 {:?}",
                entry.name,
                tensor.dtype(),
                tensor.shape(),
                entry.shape
            ));
        }
        let (numbers, _) = tensor.data().as_chunks::<4>();
        values.extend(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)));
    }
    Ok(Weights::new(Arc::new(config.clone()), Arc::new(Tokenizer::Bytes), values))
}

/// The files of a checkpoint.
pub(super) fn serialise(provenance: &Provenance, weights: &Weights) -> Result<[(&'static str, Vec<u8>); 2]> {
    let bytes: Vec<u8> = weights.values().iter().flat_map(|value| value.to_le_bytes()).collect();
    let failed = |error: &dyn std::fmt::Display| Error::new(FailureKind::Runtime, format!("cannot save a model: {error}"));
    let mut tensors = BTreeMap::new();
    for entry in layout(&weights.config) {
        let data = &bytes[4 * entry.offset..4 * (entry.offset + entry.len())];
        let view = TensorView::new(Dtype::F32, entry.shape, data).map_err(|error| failed(&error))?;
        tensors.insert(entry.name, view);
    }
    let model = safetensors::serialize(tensors, None).map_err(|error| failed(&error))?;
    let config = serde_json::to_vec_pretty(provenance).map_err(|error| failed(&error))?;
    Ok([(MODEL, model), (CONFIG, config)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::{lively, tiny};

    #[test]
    fn hostile_files_are_errors() {
        let weights = lively(&tiny(), 1);
        let provenance = Provenance::new(&tiny(), "m", 1, "k", Vec::new());
        let [(_, model), _] = serialise(&provenance, &weights).unwrap();
        assert_eq!(parse(&model, &tiny()).unwrap().values(), weights.values());
        assert!(parse(&[], &tiny()).is_err());
        assert!(parse(&[255; 64], &tiny()).is_err());
        assert!(parse(&model[..model.len() - 4], &tiny()).is_err());
        let wider = Config { width: 32, ..tiny() };
        assert!(parse(&model, &wider).unwrap_err().contains("config.json asks for"));
        let deeper = Config { layers: 3, attention: vec![tiny().attention[0]; 3], ..tiny() };
        assert!(parse(&model, &deeper).unwrap_err().contains("config.json describes"));
        assert!(parse(&model, &Config { heads: 0, ..tiny() }).is_err());
    }

    #[test]
    fn a_missing_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = Checkpoint::load(folder.path()).unwrap_err();
        assert!(error.to_string().contains("config.json"), "{error}");
    }
}
