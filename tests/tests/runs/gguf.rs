//! GGUF files as models of the command line, and as the base of adapters.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// The tokens of the file are `!` to `H`.
const EXPERIMENT: &str = r#"experiment "file" { seed = 1 }
domain swap { prompts = "rows.jsonl", tests = "tests.jsonl", format = text, reward = exact_match }
model start  = gguf("m.gguf")
model expert[to in { few: 2, more: 3 }] = sft(start, on: swap) {
  adapter = lora(rank: 2, alpha: 4, targets: [attention])
  target = answer, steps = to, batch = 4, lr = 1e-3
}
compare "swap" { models = [start, expert], samples = 1, temperature = 0, max_tokens = 4 }
"#;

fn folder() -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    let file = mopd_tests::root().join("runtime/tests/fixtures/gguf/llama.gguf");
    fs::copy(file, folder.path().join("m.gguf")).expect("a copy");
    let rows = |words: &[&str]| {
        let row = |word: &&str| {
            let answer: String = word.chars().rev().collect();
            format!("{{\"prompt\": \"{word}=\", \"answer\": \"{answer}\"}}\n")
        };
        words.iter().map(row).collect::<String>()
    };
    fs::write(folder.path().join("rows.jsonl"), rows(&["AB", "BC", "CD", "DA"])).expect("data");
    fs::write(folder.path().join("tests.jsonl"), rows(&["EF", "FG"])).expect("data");
    fs::write(folder.path().join("file.mopd"), EXPERIMENT).expect("an experiment");
    folder
}

/// What a command says, which must succeed.
fn mopd(folder: &TempDir, arguments: &[&str]) -> (String, String) {
    let output = Command::new(mopd_tests::mopd())
        .current_dir(folder.path())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("mopd starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {out}{err}");
    (out, err)
}

/// The folder that an adapter names as its base.
fn base(folder: &TempDir, model: &str) -> PathBuf {
    let config = folder.path().join(format!("out/models/{model}-seed1/adapter_config.json"));
    let config: Value = serde_json::from_slice(&fs::read(config).expect("an adapter")).expect("JSON");
    PathBuf::from(config["base_model_name_or_path"].as_str().expect("a text"))
}

#[test]
fn adapters_of_a_gguf_file_name_a_folder() {
    let folder = folder();
    let (_, said) = mopd(&folder, &["run", "file.mopd", "--out", "out"]);
    assert!(!said.contains("whole model"), "{said}");
    let found = base(&folder, "expert.few");
    // PEFT needs a whole model in the layout of transformers; all adapters of the file share one.
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        assert!(found.join(file).is_file(), "no {file} in {}", found.display());
    }
    assert_eq!(found, base(&folder, "expert.more"));
    assert!(!folder.path().join("out/models/expert.few-seed1/model.safetensors").exists());
    mopd(&folder, &["export", "--merged", "out/models/expert.few-seed1", "--out", "whole"]);
    let size = |path: &Path| fs::metadata(path.join("model.safetensors")).expect("weights").len();
    assert_eq!(size(&folder.path().join("whole")), size(&found));
    mopd(&folder, &["cache", "verify"]);

    // An entry that somebody deletes is written again, and nothing is trained again.
    fs::remove_dir_all(&found).expect("removed");
    let (events, _) = mopd(&folder, &["run", "file.mopd", "--out", "out", "--format", "json"]);
    assert!(!events.contains("\"event\":\"step\""), "{events}");
    assert!(base(&folder, "expert.few").join("model.safetensors").is_file());
    // Pruning keeps it, as long as there are results that need it.
    mopd(&folder, &["cache", "prune", "--keep-under", "1KiB"]);
    assert!(found.join("config.json").is_file());
}

#[test]
fn a_gguf_file_and_an_adapter_are_sampled_evaluated_and_served() {
    let folder = folder();
    mopd(&folder, &["run", "file.mopd", "--out", "out"]);
    let sample = |model: &str| {
        let words =
            ["sample", model, "--prompt", "EF=", "--seed", "3", "--max-tokens", "4", "--format", "json"];
        let list: Value = serde_json::from_str(&mopd(&folder, &words).0).expect("JSON");
        list[0].clone()
    };
    // The loaded base from its file, and as the adapter names it.
    assert_eq!(sample("m.gguf"), sample(base(&folder, "expert.few").to_str().expect("text")));
    assert_ne!(sample("m.gguf")["logp"], sample("out/models/expert.more-seed1")["logp"]);

    let adapter = "out/models/expert.more-seed1";
    let words =
        ["eval", "m.gguf", adapter, "--on", "tests.jsonl", "--reward", "exact_match", "--max-tokens", "4"];
    let (table, _) = mopd(&folder, &words);
    assert!(table.contains("| m ") && table.contains("| expert_more_seed1 "), "{table}");

    for model in ["m.gguf", adapter] {
        let mut server = Command::new(mopd_tests::mopd())
            .current_dir(folder.path())
            .args(["serve", model, "--port", "0", "--format", "json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("mopd starts");
        let lines = BufReader::new(server.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
        let mut events = lines.map(|line| serde_json::from_str::<Value>(&line).expect("an event"));
        let event = events.find(|event| event["event"] == "serving");
        server.kill().expect("killed");
        server.wait().expect("ended");
        assert_eq!(event.expect("it serves")["context"], 128);
    }
}

#[test]
fn a_file_that_is_no_model_is_refused_with_its_name() {
    let folder = folder();
    for (model, said) in [("rows.jsonl", "rows.jsonl"), ("gone.gguf", "gone.gguf")] {
        let output = Command::new(mopd_tests::mopd())
            .current_dir(folder.path())
            .args(["sample", model, "--prompt", "EF="])
            .output()
            .expect("mopd starts");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains("error[model]") && text.contains(said), "{text}");
    }
}
