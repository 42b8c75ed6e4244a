//! Loaded models of families that are not made from random weights: two steps of all weights with a teacher
//! of another family, then two of an adapter.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::training::run;

struct Family {
    /// In `runtime/tests/fixtures/architectures`.
    fixture: &'static str,
    targets: &'static str,
    /// Keys of `config.json` that are saved as they were read.
    keys: &'static [&'static str],
    /// Of the adapter's tensors in PEFT.
    adapted: &'static [&'static str],
}

const FAMILIES: &[Family] = &[
    Family {
        fixture: "phi3_longrope",
        targets: "[attention, feed_forward]",
        keys: &["original_max_position_embeddings", "max_position_embeddings", "sliding_window"],
        adapted: &["0.self_attn.qkv_proj", "1.self_attn.o_proj", "0.mlp.gate_up_proj", "1.mlp.down_proj"],
    },
    Family {
        fixture: "gpt_oss_mxfp4",
        targets: "[attention]",
        keys: &["layer_types", "sliding_window", "num_local_experts", "swiglu_limit", "attention_bias"],
        adapted: &["0.self_attn.q_proj", "1.self_attn.o_proj"],
    },
    Family {
        fixture: "lfm2",
        targets: "[attention, short_conv, gate]",
        keys: &["layer_types", "conv_L_cache", "conv_bias"],
        adapted: &["0.conv.in_proj", "2.conv.out_proj", "1.self_attn.out_proj", "3.feed_forward.w1"],
    },
];

/// A copy of a fixture, with the tokenizer of bytes.
pub fn loaded(fixture: &str) -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    let from = mopd_tests::root().join("runtime/tests/fixtures/architectures").join(fixture);
    for file in ["config.json", "model.safetensors"] {
        fs::copy(from.join(file), folder.path().join(file)).expect("a copy");
    }
    // As a run writes it beside a model with the tokenizer of bytes.
    let provenance =
        r#"{"format": 3, "model": "loaded", "seed": 1, "key": "key", "lineage": [], "bytes": true}"#;
    fs::write(folder.path().join("mopd.json"), provenance).expect("writing provenance");
    folder
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

#[test]
fn loaded_families_are_trained_and_saved() {
    for Family { fixture, targets, keys, adapted } in FAMILIES {
        let loaded = loaded(fixture);
        let models = format!(
            "model loaded = checkpoint(\"{}\")
teacher tutor = start {{ origin = foreign }}
route {{ for d in domains: domain == d -> tutor }}
model student = distill(loaded) {{
  objective = mopd, rollout = sample(n: 2, temperature: 1.0, max_tokens: 6)
  prompts = 4, steps = 2, lr = 1e-3
}}
model tuned = sft(student, on: domains) {{ target = answer, steps = 2, batch = 4, lr = 1e-3 }}
model adapted = sft(student, on: domains) {{
  adapter = lora(rank: 2, alpha: 4, targets: {targets})
  target = answer, steps = 2, batch = 4, lr = 1e-2
}}
",
            loaded.path().display()
        );
        let folder = run(&models, &["loaded", "student", "tuned", "adapted"]);
        let models = folder.path().join("out/models");
        let (before, after) =
            (json(&loaded.path().join("config.json")), json(&models.join("student-seed1/config.json")));
        for key in ["model_type", "num_hidden_layers", "hidden_size"].iter().chain(*keys) {
            assert_eq!(after[key], before[key], "{fixture}: {key}");
        }
        let weights = |name: &str| fs::read(models.join(name).join("model.safetensors")).expect("weights");
        assert_ne!(weights("student-seed1"), weights("tuned-seed1"), "{fixture}: nothing was trained");
        let adapter = fs::read(models.join("adapted-seed1/adapter_model.safetensors")).expect("an adapter");
        let header = String::from_utf8_lossy(&adapter).into_owned();
        for module in *adapted {
            let name = format!("base_model.model.model.layers.{module}.lora_B.weight");
            assert!(header.contains(&name), "{fixture}: no {name}");
        }
    }
}
