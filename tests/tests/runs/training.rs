//! Real training runs with the standard library on a tiny model: the GRPO family, preference pairs, copies of
//! the student as teachers.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// Runs an experiment of two domains whose models are `start` and those that `models` adds; returns its
/// folder.
pub fn run(models: &str, compared: &[&str]) -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    let words = ["ab", "ba", "cad", "dac", "bad", "dab", "abc", "cab", "aab", "bba", "ccd", "dda"];
    for domain in ["copy", "last"] {
        let line = |word: &&str| {
            let answer = if domain == "copy" { word } else { &word[word.len() - 1..] };
            format!(
                "{{\"prompt\": \"{domain}: {word}=\", \"answer\": \"{answer}\", \"worse\": \"{word}x\"}}\n"
            )
        };
        let text = |words: &[&str]| words.iter().map(line).collect::<String>();
        fs::write(folder.path().join(format!("{domain}.jsonl")), text(&words[..8])).expect("writing data");
        fs::write(folder.path().join(format!("{domain}.test.jsonl")), text(&words[8..]))
            .expect("writing data");
    }
    let source = format!(
        r#"use std.opd.mopd
use std.rl.{{clipped, grpo_loss, dr_grpo, dapo, dapo_overlong, dapo_rl, gspo, rloo}}
use std.kl_penalty.{{grpo_anchored, grpo_k3, grpo_anchored_full}}

experiment "family" {{ seed = 1 }}

domain copy {{ prompts = "copy.jsonl", tests = "copy.test.jsonl", reward = command("python3 judge.py"), share = 1/2 }}
domain last {{ prompts = "last.jsonl", tests = "last.test.jsonl", reward = command("python3 judge.py"), share = 1/2 }}

model base  = llama {{ layers = 1, width = 32, heads = 2, context = 32, tokenizer = bytes }}
model start = sft(base, on: domains) {{ target = answer, steps = 30, batch = 16, lr = 5e-3 }}
{models}
compare "table" {{ models = [start, {}], samples = 1, temperature = 1.0, max_tokens = 6 }}
"#,
        compared.join(", ")
    );
    // A reward that seldom is the same for all samples of a prompt.
    let judge = "import json, sys\nfor line in sys.stdin:\n    job = json.loads(line)\n    \
                 print(json.dumps({\"id\": job[\"id\"], \"reward\": min(1, len(set(job[\"completion\"])) / \
                 8)}), flush=True)\n";
    fs::write(folder.path().join("judge.py"), judge).expect("writing a judge");
    fs::write(folder.path().join("family.mopd"), source).expect("writing the experiment");
    let output = Command::new(mopd_tests::mopd())
        .current_dir(folder.path())
        .args(["run", "family.mopd", "--out", "out"])
        .stdin(Stdio::null())
        .output()
        .expect("mopd starts");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    let results: Value =
        serde_json::from_slice(&fs::read(folder.path().join("out/results.json")).expect("results"))
            .expect("JSON");
    assert_eq!(results["tables"][0]["rows"].as_array().expect("rows").len(), compared.len() + 1);
    folder
}

fn weights(folder: &TempDir, model: &str) -> Vec<u8> {
    fs::read(folder.path().join(format!("out/models/{model}-seed1/model.safetensors")))
        .expect("a model's weights")
}

/// Every objective of the family, two updates from each batch of rollouts, in micro-batches.
#[test]
fn the_grpo_family_trains() {
    let family = [
        ("plain", "grpo_loss()", ""),
        ("doctor", "dr_grpo()", ""),
        ("token_mean", "dapo()", ""),
        ("overlong", "dapo_overlong(longest: 6, margin: 3)", ""),
        ("sequence", "gspo()", ""),
        ("left_out", "rloo()", ""),
        ("anchored", "grpo_anchored(anchor: 0.1)", "reference = start"),
        ("k3", "grpo_k3(anchor: 0.1)", "reference = start"),
        ("exact", "grpo_anchored_full(anchor: 0.1)", "reference = start"),
    ];
    let mut models: String = family
        .iter()
        .map(|(name, objective, more)| {
            let passes = if *name == "left_out" { "" } else { "passes = 2" };
            format!(
                "model {name} = grpo(start, on: domains) {{\n  objective = {objective}\n  {passes}\n  \
                 {more}\n  micro_batch = 3\n  steps = 4\n  prompts = 4\n  samples = 4\n  max_tokens = 6\n  \
                 lr = 1e-3\n}}\n"
            )
        })
        .collect();
    models += "model resampled = dapo_rl(start, samples: 4, temperature: 1.0, max_tokens: 6, prompts: 4, \
               steps: 3, lr: 1e-3)\n";
    let mut names: Vec<&str> = family.iter().map(|(name, ..)| *name).collect();
    names.push("resampled");
    let folder = run(&models, &names);
    let mut all: Vec<Vec<u8>> = names.iter().chain(&["start"]).map(|name| weights(&folder, name)).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), names.len() + 1, "every objective makes another model, and none stands still");
}

/// Pairs from the data, and pairs of the student's own text against that of the model it started from.
#[test]
fn preferences_are_trained_on() {
    let settings = "reference = start, beta = 0.5, batch = 4, steps = 6, lr = 2e-3";
    let sampled = "sample(n: 1, temperature: 1.0, max_tokens: 6)";
    let models = format!(
        "model data_pairs = dpo(start, on: domains) {{ chosen = data(answer), rejected = data(worse), \
         {settings} }}\nmodel own_pairs = dpo(start, on: domains) {{ chosen = data(answer), rejected = \
         snapshot(start, {sampled}), {settings} }}\n"
    );
    let folder = run(&models, &["data_pairs", "own_pairs"]);
    assert_ne!(weights(&folder, "data_pairs"), weights(&folder, "start"));
    assert_ne!(weights(&folder, "data_pairs"), weights(&folder, "own_pairs"));
}

/// The student's own past as its teacher: at the start, some steps ago, and on average.
#[test]
fn the_student_teaches_itself() {
    let student = |name: &str, copy: &str| {
        format!(
            "teacher {name}_past = {copy}\nmodel {name} = distill(start) {{\n  route {{ else -> {name}_past \
             }}\n  objective = follow\n  rollout = sample(n: 4, temperature: 1.0, max_tokens: 6)\n  prompts \
             = 4\n  steps = 5\n  lr = 3e-3\n}}\n"
        )
    };
    // At first the divergence has no gradient, so a second term moves the student.
    let mut models = "objective follow {\n  term seek = -zscore(reward, over: group, deviation: sample) * \
                      live student.logp\n  term stay = live kl(student || teacher)\n  reduce = mean(token) \
                      then mean(sequence)\n}\n"
        .to_owned();
    models += &student("initial", "self.initial");
    models += &student("average", "self.ema(0.5)");
    models += &student("every", "self.every(2 steps)");
    let folder = run(&models, &["initial", "average", "every"]);
    let mut all: Vec<Vec<u8>> = ["initial", "average", "every"].map(|name| weights(&folder, name)).to_vec();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 3);
}

/// An adapter is saved without its base, and `mopd export --merged` writes the whole model; freezing,
/// averaging and recomputation also run.
#[test]
fn adapters_are_saved_without_their_base() {
    let models = "model adapted = grpo(start, on: domains) {\n  adapter = dora(rank: 4, alpha: 8, targets: \
                  [attention, feed_forward])\n  checkpointing = all\n  steps = 4, prompts = 4, samples = 4, \
                  max_tokens = 6, lr = 1e-2\n}\nmodel upper = sft(start, on: domains) { target = answer, \
                  train_only = [attention], ema = 0.9, steps = 4, batch = 8, lr = 1e-3 }\n";
    let folder = run(models, &["adapted", "upper"]);
    assert_ne!(weights(&folder, "upper"), weights(&folder, "start"));
    let adapted = folder.path().join("out/models/adapted-seed1");
    let config: Value =
        serde_json::from_slice(&fs::read(adapted.join("adapter_config.json")).expect("a config"))
            .expect("JSON");
    assert_eq!(config["r"], 4);
    assert!(adapted.join("adapter_model.safetensors").exists());
    assert!(!adapted.join("model.safetensors").exists() && !adapted.join("config.json").exists());
    let merged = |to: &str| {
        let mut command = Command::new(mopd_tests::mopd());
        command.current_dir(&folder).args(["export", "--merged", "out/models/adapted-seed1", "--out", to]);
        command.output().expect("it runs")
    };
    let output = merged("whole");
    assert!(output.status.success(), "{output:?}");
    let whole = fs::read(folder.path().join("whole/model.safetensors")).expect("weights");
    assert_eq!(whole.len(), weights(&folder, "start").len());
    assert_ne!(whole, weights(&folder, "start"));
    // What is there is not overwritten, and a whole model has nothing to merge.
    assert!(!merged("whole").status.success());
    let output = Command::new(mopd_tests::mopd())
        .current_dir(&folder)
        .args(["export", "--merged", "whole", "--out", "again"])
        .output()
        .expect("it runs");
    assert!(String::from_utf8_lossy(&output.stderr).contains("whole has no adapter"), "{output:?}");
}

/// A loaded Qwen3.5, whose layers have the gated delta rule in place of attention, learns from a teacher of
/// another family by all its weights, then by adapters of the rule, and drafts for its former self; the
/// results are read again.
#[test]
fn layers_with_the_gated_delta_rule_are_trained() {
    let loaded = TempDir::new().expect("a temporary folder");
    let fixture = mopd_tests::root().join("runtime/tests/fixtures/architectures/qwen3_5");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture.join(file), loaded.path().join(file)).expect("a copy");
    }
    // As a run writes it beside a model with the tokenizer of bytes.
    let provenance =
        r#"{"format": 3, "model": "loaded", "seed": 1, "key": "key", "lineage": [], "bytes": true}"#;
    fs::write(loaded.path().join("mopd.json"), provenance).expect("writing provenance");
    let models = format!(
        "model loaded = checkpoint(\"{}\")
teacher tutor = start {{ origin = foreign }}
route {{ for d in domains: domain == d -> tutor }}
model student = distill(loaded) {{
  objective = mopd, rollout = sample(n: 2, temperature: 1.0, max_tokens: 6)
  prompts = 4, steps = 2, lr = 1e-3
}}
model adapted = sft(student, on: domains) {{
  adapter = lora(rank: 2, alpha: 4, targets: [attention, gated_delta])
  target = answer, steps = 2, batch = 4, lr = 1e-2
}}
teacher former = loaded
objective draft {{
  let w      = where(accepted, 1, 2 * 0.9^(offset - 1))
  term close = w * live tv(teacher, student)
  reduce     = sum(token, over: batch) / sum(w, over: batch)
}}
model drafting = distill(student) {{
  route {{ else -> former }}
  objective = draft, rollout = speculative(block: 4, sample(n: 2, temperature: 1.0, max_tokens: 6))
  prompts = 4, steps = 2, lr = 1e-3
}}
",
        loaded.path().display()
    );
    let folder = run(&models, &["loaded", "student", "adapted", "drafting"]);
    let models = folder.path().join("out/models");
    let json = |path: &str| -> Value {
        serde_json::from_slice(&fs::read(models.join(path)).expect("a file")).expect("JSON")
    };
    let [before, after] = [
        serde_json::from_slice::<Value>(&fs::read(fixture.join("config.json")).expect("a file"))
            .expect("JSON"),
        json("student-seed1/config.json"),
    ];
    for key in ["model_type", "layer_types", "linear_num_value_heads", "rope_parameters"] {
        assert_eq!(after[key], before[key], "{key}");
    }
    assert_ne!(weights(&folder, "drafting"), weights(&folder, "student"));
    let targets = json("adapted-seed1/adapter_config.json")["target_modules"].to_string();
    assert!(targets.contains("in_proj_qkv") && targets.contains("q_proj"), "{targets}");
    let adapter = fs::read(models.join("adapted-seed1/adapter_model.safetensors")).expect("an adapter");
    let header = String::from_utf8_lossy(&adapter).into_owned();
    let name = "base_model.model.model.layers.0.linear_attn.in_proj_qkv.lora_A.weight";
    assert!(header.contains(name), "{}", &header[..200]);
}
