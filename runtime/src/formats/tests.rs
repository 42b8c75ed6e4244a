//! Checkpoints that transformers made (`runtime/tests/fixtures/architectures.py`) are read, saved and read
//! again: the logits stay those of transformers.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use tch::{Device, Kind};

use super::tensors::{Tensors, assemble};
use super::{huggingface, peft, safetensors};
use crate::failure::{Error, Result};
use crate::machine::place::Place;
use crate::machine::transfer::to_vec;
use crate::mapped::MappedTensor;
use crate::model::{Config, Decoder, Merged, PackedBatch, Weights};
use crate::store::{Checkpoint, CheckpointProvenance, CurrentFiles, Store, save_as_adapter};
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
            None,
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

/// The decoder of a checkpoint that also reads images and predicts several tokens at once.
#[test]
fn parts_of_qwen3_5_beside_the_decoder_are_left_out() {
    let folder = fixtures().join("qwen3_5");
    let (config, tensors) = (huggingface::config(&folder).unwrap(), safetensors::open(&folder).unwrap());
    let names = |name: &String| name.replacen("model.", "model.language_model.", 1);
    let mut whole: Tensors = tensors.iter().map(|(name, tensor)| (names(name), tensor.clone())).collect();
    let any = tensors["model.norm.weight"].clone();
    for name in ["mtp.fc.weight", "mtp.layers.0.self_attn.q_proj.weight", "model.visual.pos_embed.weight"] {
        whole.insert(name.to_owned(), any.clone());
    }
    let parts = |tensors: &Tensors| -> Vec<Vec<f32>> {
        let parts = assemble(&config, tensors).unwrap();
        parts
            .iter()
            .map(|part| {
                let mut values = vec![0.0; part.len()];
                part.read(&mut values);
                values
            })
            .collect()
    };
    assert_eq!(parts(&whole), parts(&tensors));
    whole.insert("model.language_model.more.weight".to_owned(), any);
    let problem = assemble(&config, &whole).unwrap_err();
    assert!(problem.contains("does not describe 1 tensor of the file: model.more.weight"), "{problem}");
}

fn adapters() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/adapters")
}

/// The model in a folder that PEFT wrote, whose base has no tokenizer.
fn adapted(folder: &Path) -> Result<Weights> {
    let base = peft::base_folder(folder)?;
    let base = Arc::new(huggingface::weights(&base, Arc::new(Tokenizer::Bytes))?);
    let adapters = peft::read(folder, &base.config)?;
    Ok(Weights::merged(Merged::new(base, adapters)))
}

/// What `runtime/tests/fixtures/adapters.py` computes with transformers and PEFT in float64.
#[test]
fn a_folder_of_peft_gives_the_log_probabilities_of_transformers() {
    #[derive(Deserialize)]
    struct Reference {
        tokens: Vec<Token>,
        logp: Vec<Vec<f64>>,
    }
    for case in ["lora", "dora", "patterns", "half", "fused", "fused_dora", "conv"] {
        let folder = adapters().join(case);
        let weights = adapted(&folder).unwrap();
        let text = fs::read(folder.join("reference.json")).unwrap();
        let Reference { tokens, logp } = serde_json::from_slice(&text).unwrap();
        assert_eq!((tokens.len(), logp.len(), logp[0].len()), (12, 3, weights.config.vocabulary));
        let decoder = Decoder::frozen(&weights, Place::cpu(), Kind::Float);
        let (prompt, rest) = tokens.split_at(10);
        let completion = [rest, &[0]].concat();
        let batch = PackedBatch::new([(prompt, completion.as_slice())].into_iter(), Device::Cpu);
        let got = to_vec(&decoder.logits(&batch).log_softmax(-1, Kind::Float));
        assert_eq!(got.len(), 3 * weights.config.vocabulary);
        for (got, expected) in got.iter().zip(logp.iter().flatten()) {
            assert!((f64::from(*got) - expected).abs() < 1e-4, "{case}: {got} {expected}");
        }
        // A result with one rank is read as the same model.
        if case != "patterns" {
            let result = tempfile::tempdir().unwrap();
            let (merged, none) = (weights.adapted().unwrap(), Vec::new());
            let provenance = CheckpointProvenance::new(&weights, "m", 1, "key", none);
            save_as_adapter(result.path(), &provenance, merged, "org/base").unwrap();
            let again = Checkpoint::load_on(result.path(), || Ok(merged.base().clone())).unwrap();
            assert!(again.weights.values() == weights.values(), "{case}");
        }
    }
}

/// What this version would compute otherwise than PEFT is refused by its name.
#[test]
fn what_an_adapter_has_beside_lora_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let copy = |from: &str| fs::copy(adapters().join("lora").join(from), folder.path().join(from)).unwrap();
    copy("adapter_model.safetensors");
    let text = fs::read_to_string(adapters().join("lora/adapter_config.json")).unwrap();
    let problem = |field: &str, value: serde_json::Value| {
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config["base_model_name_or_path"] = fixtures().join("llama").display().to_string().into();
        config[field] = value;
        fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
        adapted(folder.path()).unwrap_err().to_string()
    };
    for (field, value, said) in [
        ("peft_type", "LOHA".into(), "the type \"LOHA\""),
        ("bias", "all".into(), "trained biases"),
        ("modules_to_save", serde_json::json!(["lm_head"]), "`modules_to_save`"),
        ("trainable_token_indices", serde_json::json!([1]), "`trainable_token_indices`"),
        ("init_lora_weights", "pissa".into(), "\"pissa\" changed"),
        ("layer_replication", serde_json::json!([[0, 2]]), "`layer_replication`"),
        ("a_later_invention", true.into(), "`a_later_invention`"),
        ("r", 3.into(), "lora_A.weight has the shape [2, 32], expected [3, 32]"),
        ("use_dora", true.into(), "lora_magnitude_vector is missing"),
        ("rank_pattern", serde_json::json!({"q_proj": 2, "self_attn.q_proj": 3}), "both match"),
        ("base_model_name_or_path", "".into(), "names no model"),
        ("base_model_name_or_path", "./nowhere".into(), "there is no folder ./nowhere"),
        ("base_model_name_or_path", adapters().join("lora").display().to_string().into(), "an adapter too"),
    ] {
        let problem = problem(field, value);
        assert!(problem.contains(said), "{field}: {problem}");
    }
    // Tensors of another model, such as one with another number of layers.
    let base = huggingface::config(&fixtures().join("llama")).unwrap();
    let fewer = Config { layers: 1, attention: base.attention[..1].to_vec(), ..base };
    let problem = peft::read(&adapters().join("lora"), &fewer).unwrap_err().to_string();
    assert!(problem.contains("base_model.model.model.layers.1."), "{problem}");
}

#[test]
fn an_adapter_beside_a_whole_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["adapter_config.json", "config.json"] {
        fs::write(folder.path().join(name), "{}").unwrap();
    }
    assert!(peft::is_adapter(folder.path()).unwrap(), "trainers save the base's configuration");
    fs::write(folder.path().join("model.safetensors"), "").unwrap();
    let Error::Failed(failure) = Checkpoint::load(folder.path()).unwrap_err() else { panic!("interrupted") };
    assert!(failure.message.ends_with("holds an adapter (LoRA) beside the model"), "{failure:?}");
    assert!(failure.help.unwrap().contains("move `adapter_config.json` out"));
}
