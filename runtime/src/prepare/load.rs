//! Existing models: found, opened and hashed before anything runs. Their weights stay in their mapped files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mopd_plan::events::FailureKind;
use mopd_plan::{Pretrained, PretrainedSource, keys};
use mopd_store::content::HashedFile;
use serde::Serialize;

use super::unchanged::HashedFiles;
use crate::failure::{Error, Result};
use crate::formats::hub::{self, Hub};
use crate::formats::{gguf, huggingface, peft, safetensors};
use crate::mapped::MappedFile;
use crate::model::{Config, Merged, Weights};
use crate::store::Checkpoint;
use crate::tokenizer::{Tokenizer, TokenizerFiles};
use crate::{data, tokenizer};

/// A pretrained model, or one of an earlier run.
#[derive(Clone, Debug)]
pub struct LoadedModel {
    pub weights: Weights,
    /// Blake3 hash of the model: its configuration, its tokenizer, the content of its files. It does not
    /// depend on where the model was found.
    pub content: String,
    /// The hashed weight files, to check that they have not changed since.
    pub unchanged: HashedFiles,
}

/// Loads a model as its files have it: see [`load_pretrained`].
pub fn load(source: &PretrainedSource, base: &Path, notes: Option<&Path>) -> Result<LoadedModel> {
    load_pretrained(&Pretrained::new(source.clone()), base, notes)
}

/// Loads a model with the end tokens and the chat template that an experiment gives it. `base` is the folder
/// that paths are relative to; `notes`, if given, is a folder that keeps hashes between runs (see
/// [`HashedFile::remembered`]).
pub fn load_pretrained(pretrained: &Pretrained, base: &Path, notes: Option<&Path>) -> Result<LoadedModel> {
    let (weights, files) = match &pretrained.source {
        PretrainedSource::HuggingFace { name, revision } => {
            let found = Hub::from_environment().find(name, revision.as_deref(), base)?;
            of_folder(&found.folder)?
        }
        PretrainedSource::Checkpoint { folder } => of_folder(&data::path_as_written(base, folder))?,
        PretrainedSource::Gguf { file } => of_gguf(&data::path_as_written(base, file))?,
    };
    let weights = with_settings(weights, pretrained, base)?;
    let hashed = |file: &PathBuf| {
        let hashed = match notes {
            Some(notes) => HashedFile::remembered(file, notes),
            None => HashedFile::hash(file, u64::MAX),
        };
        // The existing mapping, which the weights are in.
        hashed.and_then(|hashed| Ok((hashed, MappedFile::open(file)?))).map_err(|error| {
            Error::new(FailureKind::Model, format!("cannot read {}: {error}", file.display()))
        })
    };
    let files = files.iter().map(hashed).collect::<Result<Vec<_>>>()?;
    let content =
        content_hash(&weights, weights.adapted(), files.iter().map(|(file, _)| file.hash.clone()).collect());
    Ok(LoadedModel { weights, content, unchanged: HashedFiles::model(files) })
}

/// Where the files of a model are.
enum ModelFiles {
    Folder(PathBuf),
    Gguf(PathBuf),
}

/// Finds a model without fetching it. `None` for a repository of the hub that is not in the cache, also that
/// of an adapter's base: its content is known when it is fetched.
fn locate(source: &PretrainedSource, base: &Path) -> Result<Option<ModelFiles>> {
    let folder = match source {
        PretrainedSource::HuggingFace { name, revision } => {
            let revision = revision.as_deref();
            let local = hub::own_folder(name, revision, base)?;
            local.or_else(|| Hub::from_environment().cached(name, revision))
        }
        PretrainedSource::Checkpoint { folder } => Some(data::path_as_written(base, folder)),
        PretrainedSource::Gguf { file } => {
            return Ok(Some(ModelFiles::Gguf(data::path_as_written(base, file))));
        }
    };
    let Some(folder) = folder else { return Ok(None) };
    let is_whole = !peft::is_adapter(&folder)? || peft::cached_base(&folder)?.is_some();
    Ok(is_whole.then_some(ModelFiles::Folder(folder)))
}

/// Checks that a model is where the plan says, without reading its weights or its tokenizer, and returns its
/// configuration. `None` where it must be fetched.
pub fn look(source: &PretrainedSource, base: &Path) -> Result<Option<Config>> {
    let folder = match locate(source, base)? {
        None => return Ok(None),
        Some(ModelFiles::Gguf(file)) => return gguf::open(&file).map(|opened| Some(opened.config)),
        Some(ModelFiles::Folder(folder)) => folder,
    };
    if !peft::is_adapter(&folder)? {
        return looked_at(&folder).map(Some);
    }
    let config = looked_at(&peft::base_folder(&folder)?)?;
    peft::read(&folder, &config)?;
    Ok(Some(config))
}

/// The configuration of a whole model, whose weights are there.
fn looked_at(folder: &Path) -> Result<Config> {
    let config = huggingface::config(folder)?;
    safetensors::files(folder)?;
    Ok(config)
}

/// Opens a model as [`load_pretrained`] does, but hashes none of its files. `None` where it must be fetched.
pub fn open(pretrained: &Pretrained, base: &Path) -> Result<Option<Weights>> {
    let (weights, _) = match locate(&pretrained.source, base)? {
        None => return Ok(None),
        Some(ModelFiles::Gguf(file)) => of_gguf(&file)?,
        Some(ModelFiles::Folder(folder)) => of_folder(&folder)?,
    };
    with_settings(weights, pretrained, base).map(Some)
}

/// The model with the end tokens and the chat template that an experiment gives it. They are part of the
/// tokenizer's files from then on, so results depend on them and saved models have them.
fn with_settings(mut weights: Weights, pretrained: &Pretrained, base: &Path) -> Result<Weights> {
    let Pretrained { source: _, end_tokens, chat_template, enable_thinking } = pretrained;
    let setting = match (end_tokens.as_slice(), chat_template, enable_thinking) {
        ([], None, None) => return Ok(weights),
        ([], None, Some(_)) => "enable_thinking",
        ([], Some(_), _) => "chat_template",
        _ => "end_tokens",
    };
    let Tokenizer::Pretrained(tokenizer) = &*weights.tokenizer else {
        let message = "a model with the tokenizer of bytes has one end token and one format of its own";
        return Err(Error::new(FailureKind::Model, message).help(format!("leave `{setting}` out")));
    };
    let mut tokenizer = tokenizer.clone();
    if !end_tokens.is_empty() {
        tokenizer = tokenizer.with_ends(end_tokens)?;
    }
    if let Some(file) = chat_template {
        tokenizer = tokenizer.with_template(&data::path_as_written(base, file))?;
    }
    if let Some(thinks) = enable_thinking {
        tokenizer = tokenizer.with_thinking(*thinks)?;
    }
    weights.tokenizer = Arc::new(Tokenizer::Pretrained(tokenizer));
    Ok(weights)
}

/// [`LoadedModel::content`] of a folder into which these weights were just saved. `written` has the Blake3
/// hash of each file, so that none is read again.
pub fn saved_content(weights: &Weights, folder: &Path, written: &BTreeMap<String, String>) -> Result<String> {
    let hash = |file: &PathBuf| {
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        written[&name].clone()
    };
    Ok(content_hash(weights, None, safetensors::files(folder)?.iter().map(hash).collect()))
}

/// `files` are the Blake3 hashes of the files that hold the weights, in their order, an adapter's among them.
fn content_hash(weights: &Weights, adapter: Option<&Merged>, files: Vec<String>) -> String {
    let (config, tokenizer) = (&*weights.config, weights.tokenizer.hash());
    // The tensors of an adapter are in its file, and what multiplies them is not.
    let adapter = adapter.map(|merged| {
        merged.adapters().map(|adapter| (adapter.entry.name, adapter.rank, adapter.alpha)).collect()
    });
    let content = ModelContent { config, tokenizer, weights: files, adapter };
    keys::hash("mopd model", keys::VERSION, &content).to_hex().to_string()
}

/// What [`LoadedModel::content`] hashes.
#[derive(Serialize)]
struct ModelContent<'a> {
    config: &'a Config,
    tokenizer: String,
    /// Blake3 of each file.
    weights: Vec<String>,
    /// The matrices that an adapter changes, each with its rank and alpha.
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter: Option<Vec<(String, usize, f64)>>,
}

/// A model and the files that hold its weights.
type OpenedModel = (Weights, Vec<PathBuf>);

fn of_folder(folder: &Path) -> Result<OpenedModel> {
    let weights = Checkpoint::load(folder)?.weights;
    if !peft::is_adapter(folder)? {
        return Ok((weights, safetensors::files(folder)?));
    }
    let mut files = safetensors::files(&peft::base_folder(folder)?)?;
    files.push(folder.join(peft::MODEL));
    Ok((weights, files))
}

fn of_gguf(path: &Path) -> Result<OpenedModel> {
    let opened = gguf::open(path)?;
    let unreadable = |problem: String| {
        Error::new(FailureKind::Model, format!("cannot read {}: {problem}", path.display()))
    };
    // A file beside it wins: it is the way out if the tokenizer inside can't be read.
    let beside = path.with_file_name("tokenizer.json");
    let tokenizer = if beside.exists() {
        tokenizer::PretrainedTokenizer::load(&beside)?
    } else {
        let files = gguf::tokenizer::files(&opened.metadata).map_err(unreadable)?;
        tokenizer::PretrainedTokenizer::new(TokenizerFiles {
            place: path.to_owned(),
            files,
            model_ends: None,
        })?
    };
    let tokenizer = Arc::new(Tokenizer::Pretrained(tokenizer));
    let tokenizer = huggingface::with_rows(&opened.config, tokenizer).map_err(unreadable)?;
    Ok((Weights::stored(Arc::new(opened.config), tokenizer, opened.parts), vec![path.to_owned()]))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::model::tests::{random_adapter, random_model, tiny};
    use crate::store::{CheckpointProvenance, CurrentFiles, Store};

    fn saved(weights: &Weights, folder: &Path, name: &str) -> String {
        let store = Store::open(&folder.join("store")).unwrap();
        store
            .insert(
                name,
                &CheckpointProvenance::new(weights, name, 1, name, Vec::new()),
                weights,
                &Default::default(),
                None,
            )
            .unwrap();
        store.publish(name, folder, name, 1, &CurrentFiles::of(weights)).unwrap();
        format!("models/{name}-seed1")
    }

    #[test]
    fn the_key_is_of_the_content_wherever_it_lies() {
        let folder = tempfile::tempdir().unwrap();
        let notes = folder.path().join("notes");
        let first = saved(&random_model(&tiny(), 1), folder.path(), "first");
        let other = saved(&random_model(&tiny(), 2), folder.path(), "other");
        let copy = folder.path().join("copy");
        fs::create_dir(&copy).unwrap();
        for entry in fs::read_dir(folder.path().join(&first)).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
        let content =
            |pretrained: &PretrainedSource| load(pretrained, folder.path(), Some(&notes)).unwrap().content;
        let checkpoint = |folder: &str| content(&PretrainedSource::Checkpoint { folder: folder.to_owned() });
        assert_eq!(checkpoint(&first), checkpoint("copy"));
        assert_ne!(checkpoint(&first), checkpoint(&other));
        // The hash is the same if it is computed from the hashes made while writing the files.
        let (written, weights) = (folder.path().join("written"), random_model(&tiny(), 1));
        fs::create_dir(&written).unwrap();
        let provenance = CheckpointProvenance::new(&weights, "written", 1, "", Vec::new());
        let hashes = crate::store::save(&written, &provenance, &weights).unwrap();
        assert_eq!(saved_content(&weights, &written, &hashes).unwrap(), checkpoint(&first));
        // A model that was merged from an adapter is whole in its folder.
        let (whole, adapted) = (folder.path().join("whole"), random_adapter(&Arc::new(weights), 2));
        fs::create_dir(&whole).unwrap();
        let hashes = crate::store::save(&whole, &provenance, &adapted).unwrap();
        assert_eq!(saved_content(&adapted, &whole, &hashes).unwrap(), checkpoint("whole"));
        // The same folder by the other constructor is the same model.
        assert_eq!(
            content(&PretrainedSource::HuggingFace { name: first.clone(), revision: None }),
            checkpoint(&first)
        );
        assert_eq!(
            load(&PretrainedSource::Checkpoint { folder: first }, folder.path(), Some(&notes))
                .unwrap()
                .weights
                .values(),
            random_model(&tiny(), 1).values()
        );
    }

    #[test]
    fn a_gguf_file_has_its_tokenizer_and_is_saved_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf");
        let loaded =
            load(&PretrainedSource::Gguf { file: "llama.gguf".to_owned() }, &fixtures, None).unwrap();
        assert_eq!(loaded.weights.tokenizer.vocabulary(), 40);
        let path = saved(&loaded.weights, folder.path(), "student");
        assert!(folder.path().join(&path).join("tokenizer.json").exists());
        let again = load(&PretrainedSource::Checkpoint { folder: path }, folder.path(), None).unwrap();
        assert_eq!(again.weights.values(), loaded.weights.values());
        assert_eq!(again.weights.tokenizer, loaded.weights.tokenizer);
        assert_eq!(again.weights.config, loaded.weights.config);
    }

    #[test]
    fn a_special_token_without_a_row_is_no_error() {
        let whole = tokenizer::tests::edited("smollm", |tokenizer| {
            let rows = tokenizer["model"]["vocab"].as_object().unwrap().len();
            let image = serde_json::json!({
                "id": rows, "content": "<image>", "special": true, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false,
            });
            tokenizer["added_tokens"].as_array_mut().unwrap().push(image);
        });
        let rows = whole.vocabulary() - 1;
        let model = random_model(&Config { vocabulary: rows, ..tiny() }, 1);
        let weights = Weights::new(model.config.clone(), Arc::new(whole), model.values().into_owned());
        let folder = tempfile::tempdir().unwrap();
        let path = saved(&weights, folder.path(), "student");
        let again =
            load(&PretrainedSource::Checkpoint { folder: path }, folder.path(), None).unwrap().weights;
        assert_eq!((again.config.vocabulary, again.tokenizer.vocabulary()), (rows, rows));
        assert!(again.tokenizer.encode("a <image>").is_err());
    }

    #[test]
    fn missing_models_are_errors_with_their_path() {
        let folder = tempfile::tempdir().unwrap();
        let problem =
            |pretrained: PretrainedSource| load(&pretrained, folder.path(), None).unwrap_err().to_string();
        // `look` reports the same without opening a model.
        let none = || {
            [
                PretrainedSource::Checkpoint { folder: "runs/none".to_owned() },
                PretrainedSource::Gguf { file: "none.gguf".to_owned() },
                PretrainedSource::HuggingFace { name: "../none".to_owned(), revision: None },
            ]
        };
        for model in none() {
            let seen = look(&model, folder.path()).unwrap_err().to_string();
            if !matches!(model, PretrainedSource::Checkpoint { .. }) {
                assert_eq!(seen, problem(model));
            }
        }
        let elsewhere = PretrainedSource::HuggingFace { name: "org/none".to_owned(), revision: None };
        assert!(look(&elsewhere, folder.path()).is_ok());
        assert!(
            problem(PretrainedSource::Checkpoint { folder: "runs/none".to_owned() }).contains("runs/none")
        );
        assert!(problem(PretrainedSource::Gguf { file: "none.gguf".to_owned() }).contains("none.gguf"));
        assert!(
            problem(PretrainedSource::HuggingFace { name: "../none".to_owned(), revision: None })
                .contains("names no repository")
        );
        // An embedding for fewer ids than the tokenizer has.
        let path = saved(&random_model(&tiny(), 1), folder.path(), "student");
        let config = folder.path().join(&path).join("config.json");
        let text = fs::read_to_string(&config).unwrap().replace("\"vocab_size\": 259", "\"vocab_size\": 200");
        fs::remove_file(&config).unwrap();
        fs::write(&config, text).unwrap();
        let problem = problem(PretrainedSource::Checkpoint { folder: path });
        assert!(problem.contains("has 259 ids, but the embedding has only 200 rows"), "{problem}");
    }
}
