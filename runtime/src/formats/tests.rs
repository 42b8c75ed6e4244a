//! Checkpoints that transformers made (`runtime/tests/fixtures/architectures.py`) are read, saved and read
//! again: the logits stay those of transformers.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tch::{Device, Kind};

use super::tensors::{Tensors, assemble};
use super::{huggingface, safetensors};
use crate::failure::Error;
use crate::machine::place::Place;
use crate::machine::transfer::to_vec;
use crate::mapped::MappedTensor;
use crate::model::{Decoder, PackedBatch, Weights};
use crate::store::{Checkpoint, CheckpointProvenance, CurrentFiles, Store};
use crate::tokenizer::Token;
use crate::tokenizer::Tokenizer;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/architectures")
}

fn families() -> Vec<String> {
    let folders = fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap());
    let mut names: Vec<String> = folders
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() > 8, "the fixtures were not found");
    names
}

/// Sequences, and the reference's logits at the last tokens of each.
fn reference(name: &str) -> Vec<(Vec<Token>, Vec<f32>)> {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(fixtures().join(name).join("reference.safetensors"), folder.path().join(safetensors::MODEL))
        .unwrap();
    let bytes = fs::read(folder.path().join(safetensors::MODEL)).unwrap();
    let file = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut cases = Vec::new();
    while let Ok(tokens) = file.tensor(&format!("tokens.{}", cases.len())) {
        let logits = file.tensor(&format!("logits.{}", cases.len())).unwrap();
        let tokens =
            tokens.data().as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
        cases.push((
            tokens,
            logits.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        ));
    }
    assert!(!cases.is_empty());
    cases
}

/// The largest difference from the reference's logits.
fn difference(weights: &Weights, name: &str) -> f32 {
    let decoder = Decoder::frozen(weights, Place::cpu(), Kind::Float);
    let mut worst = 0.0f32;
    for (tokens, expected) in reference(name) {
        let positions = expected.len() / weights.config.vocabulary;
        // The last token of the completion is only predicted, never read, so any token will do.
        let (prompt, rest) = tokens.split_at(tokens.len() + 1 - positions);
        let completion = [rest, &[0]].concat();
        let batch = PackedBatch::new([(prompt, completion.as_slice())].into_iter(), Device::Cpu);
        let got = to_vec(&decoder.logits(&batch));
        assert_eq!(got.len(), expected.len());
        worst =
            got.iter().zip(&expected).fold(worst, |worst, (got, expected)| worst.max((got - expected).abs()));
    }
    worst
}

fn save(weights: &Weights, folder: &Path) -> PathBuf {
    let store = Store::open(&folder.join("store")).unwrap();
    store
        .insert(
            "key",
            &CheckpointProvenance::new(weights, "student", 1, "key", Vec::new()),
            weights,
            &Default::default(),
            &Vec::new(),
        )
        .unwrap();
    store.publish("key", folder, "student", 1, &CurrentFiles::of(weights)).unwrap()
}

#[test]
fn saved_models_give_the_logits_of_the_reference() {
    // If set, the folder where `saved.py` finds these models, to load them with transformers.
    let kept = std::env::var_os("MOPD_SAVED").map(PathBuf::from);
    for name in families() {
        let weights = huggingface::weights(&fixtures().join(&name), Arc::new(Tokenizer::Bytes)).unwrap();
        let loaded = difference(&weights, &name);
        assert!(loaded < 1e-4, "{name}: {loaded}");
        let folder = tempfile::tempdir().unwrap();
        let saved = save(&weights, folder.path());
        let again = Checkpoint::load(&saved).unwrap().weights;
        assert_eq!(again.config, weights.config, "{name}");
        assert_eq!(again.values(), weights.values(), "{name}");
        assert_eq!(difference(&again, &name), loaded, "{name}");
        if let Some(kept) = &kept {
            let to = kept.join(&name);
            fs::create_dir_all(&to).unwrap();
            for entry in fs::read_dir(&saved).unwrap() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
    }
}

#[test]
fn weights_become_tensors_of_any_kind() {
    use tch::Kind;

    // The file is in bfloat16, so all three types represent its numbers exactly.
    let weights = huggingface::weights(&fixtures().join("llama"), Arc::new(Tokenizer::Bytes)).unwrap();
    let values = weights.values().into_owned();
    let owned = weights.with_values(values.clone());
    for kind in [Kind::Float, Kind::Double, Kind::BFloat16] {
        for weights in [&weights, &owned] {
            let flat = weights.flat(kind, Device::Cpu);
            assert_eq!(flat.kind(), kind);
            assert_eq!(to_vec(&flat), values);
        }
    }
    // Numbers that a type can't represent are rounded to nearest, ties to even, from files and from memory.
    let folder = tempfile::tempdir().unwrap();
    let uneven =
        weights.with_values(values.iter().enumerate().map(|(i, value)| value + i as f32 * 1e-5).collect());
    let stored = Checkpoint::load(&save(&uneven, folder.path())).unwrap().weights;
    for kind in [Kind::BFloat16, Kind::Half] {
        assert_eq!(to_vec(&stored.flat(kind, Device::Cpu)), to_vec(&uneven.flat(kind, Device::Cpu)));
    }
    stored.release();
    assert_eq!(stored.values(), uneven.values());
}

/// A checkpoint of the base model, such as `AutoModel` saves, has names without `model.`.
#[test]
fn a_base_model_is_read_by_the_names_of_a_whole_one() {
    let folder = fixtures().join("llama_tied");
    let (config, tensors) = (huggingface::config(&folder).unwrap(), safetensors::open(&folder).unwrap());
    let renamed = |name: fn(&str) -> String| -> Tensors {
        tensors.iter().map(|(own, tensor)| (name(own), tensor.clone())).collect()
    };
    let values = |tensors: &Tensors| -> Vec<Vec<f32>> {
        let values = |part: &MappedTensor| {
            let mut values = vec![0.0; part.len()];
            part.read(&mut values);
            values
        };
        assemble(&config, tensors).unwrap().iter().map(values).collect()
    };
    assert_eq!(values(&renamed(|name| name.replacen("model.", "", 1))), values(&tensors));
    // Other names are shown.
    let problem = assemble(&config, &renamed(|name| format!("language_model.{name}"))).unwrap_err();
    assert!(problem.contains("missing: model.embed_tokens.weight, "), "{problem}");
    assert!(problem.contains("; instead there are language_model.model."), "{problem}");
}

#[test]
fn an_adapter_is_no_model() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = folder.path().join("adapter");
    fs::create_dir(&adapter).unwrap();
    fs::write(adapter.join("adapter_config.json"), "{\"base_model_name_or_path\": \"org/base\"}").unwrap();
    let problem = || {
        let Error::Failed(failure) = Checkpoint::load(&adapter).unwrap_err() else { panic!("interrupted") };
        assert!(
            failure.message.ends_with("adapter holds an adapter (LoRA), not a whole model"),
            "{failure:?}"
        );
        failure.help.unwrap()
    };
    assert_eq!(
        problem(),
        "merge it into \"org/base\" with PEFT (`merge_and_unload`), save that, and name its folder"
    );
    // In the model's own folder, where the reference library adds it to the model.
    fs::write(adapter.join("config.json"), "{}").unwrap();
    let Error::Failed(failure) = Checkpoint::load(&adapter).unwrap_err() else { panic!("interrupted") };
    assert!(failure.message.ends_with("adapter holds an adapter (LoRA) beside the model"), "{failure:?}");
    assert!(failure.help.unwrap().contains("move `adapter_config.json` out"));
    fs::remove_file(adapter.join("config.json")).unwrap();
    // An adapter beside a `config.json`, as in the folder of a run's model.
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    assert_eq!(
        problem(),
        format!("name {}: the model with the adapter merged into it", folder.path().display())
    );
}
