//! `mopd bench distill` and `mopd bench generate` on small checkpoints: they run the trainer and its
//! rollouts, and print JSON for programs.

use std::fs;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const STUDENT: &str = "out/models/student-seed1";
const ONE: &str = "out/models/one-seed1";
const OTHER: &str = "out/models/other-seed1";
/// A checkpoint with another tokenizer.
const FOREIGN: &str = "out/models/foreign-seed1";

/// A folder with these checkpoints, made by a run that trains nothing.
fn checkpoints() -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    let names = ["student", "one", "other", "foreign"];
    let model = |name: &&str| {
        format!(
            "model {name} = llama {{ layers = 2, width = 32, heads = 4, context = 96, tokenizer = bytes }}\n"
        )
    };
    let source =
        format!("experiment \"models\" {{ seed = 1 }}\n\n{}", names.iter().map(model).collect::<String>());
    fs::write(folder.path().join("models.mopd"), source).expect("writing the experiment");
    let output = mopd(&folder, &["run", "models.mopd", "--out", "out"]);
    assert!(output.status.success(), "{}", said(&output));
    let foreign = folder.path().join(FOREIGN);
    let ids: serde_json::Map<String, Value> = (0..259).map(|id| (format!("w{id}"), id.into())).collect();
    let end = serde_json::json!({ "id": 257, "content": "w257", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true });
    let tokenizer = serde_json::json!({ "version": "1.0", "added_tokens": [end], "pre_tokenizer": { "type": "Whitespace" },
        "model": { "type": "WordLevel", "vocab": ids, "unk_token": "w0" } });
    fs::write(foreign.join("tokenizer.json"), tokenizer.to_string()).expect("a tokenizer");
    let about = fs::read_to_string(foreign.join("mopd.json")).expect("what the model is");
    // The published file is a link to the store's.
    fs::remove_file(foreign.join("mopd.json")).expect("what the model is");
    fs::write(foreign.join("mopd.json"), about.replace("\"bytes\": true", "\"bytes\": false"))
        .expect("what the model is");
    folder
}

fn mopd(folder: &TempDir, arguments: &[&str]) -> Output {
    let mut command = Command::new(mopd_tests::mopd());
    // Temporary files left behind would be found in this folder.
    command.env("TMPDIR", folder.path()).current_dir(folder.path()).args(arguments).stdin(Stdio::null());
    command.output().expect("mopd starts")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn figures(folder: &TempDir, arguments: &[&str]) -> Value {
    let short = ["bench", "distill", "--json", "--batch", "4", "--new", "8", "--steps", "3"];
    let output = mopd(folder, &[&short[..], arguments].concat());
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(&output)))
}

#[test]
fn steps_are_measured_and_counted() {
    let folder = checkpoints();
    let found = figures(&folder, &[STUDENT, ONE]);
    assert_eq!(found["steps"].as_array().map(Vec::len), Some(3));
    assert_eq!((&found["dtype"], &found["objective"]), (&"float32".into(), &"full".into()));
    let tokens = found["tokens"].as_f64().expect("tokens");
    assert!((4.0..=32.0).contains(&tokens), "{found}");
    // "State the final answer to: 123 + 456 - 789" in bytes, and the begin token.
    assert!((42.0..=43.0).contains(&found["prompt_tokens"].as_f64().expect("prompts")), "{found}");
    for part in ["rollout", "scoring", "update", "step"] {
        for what in ["seconds", "floor", "tokens_per_second", "times_the_floor"] {
            assert!(found[what][part].as_f64().is_some_and(|value| value > 0.0), "{what} of {part}: {found}");
        }
    }
    for what in ["float32", "bfloat16", "memory"] {
        assert!(found["machine"][what].as_f64().is_some_and(|rate| rate > 1e6), "{found}");
    }
    assert!(found["peak_memory"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{found}");

    let names: Vec<&str> = found["phases"]
        .as_array()
        .expect("phases")
        .iter()
        .filter_map(|phase| phase["name"].as_str())
        .collect();
    let expected = [
        "the prompts",
        "one more token for every sequence",
        "a teacher",
        "the student's logits",
        "the backward pass",
        "AdamW",
    ];
    assert_eq!(names, expected);
    // The first step is not included in any median.
    let rollouts: Vec<f64> = found["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .filter_map(|step| step["rollout"].as_f64())
        .collect();
    let median = found["seconds"]["rollout"].as_f64().expect("a median");
    assert!((median - (rollouts[1] + rollouts[2]) / 2.0).abs() < 1e-12, "{found}");
}

#[test]
fn several_teachers_and_every_setting() {
    let folder = checkpoints();
    // A teacher that is also the student.
    let found = figures(&folder, &[STUDENT, STUDENT]);
    assert_eq!(found["teachers"], serde_json::json!([STUDENT]));
    let found = figures(&folder, &[STUDENT, ONE, OTHER, "--objective", "sampled", "--lora", "2"]);
    assert_eq!(found["teachers"], serde_json::json!([ONE, OTHER]));
    let teachers =
        found["phases"].as_array().expect("phases").iter().filter(|phase| phase["name"] == "a teacher");
    assert_eq!(teachers.count(), 2);
    let settings = [STUDENT, ONE, "--objective", "top-k", "--micro-batch", "2", "--checkpointing", "all"];
    let found = figures(&folder, &settings);
    assert_eq!(
        (&found["micro_batch"], &found["checkpointing"], &found["lora"]),
        (&2.into(), &"all".into(), &Value::Null)
    );
    let table =
        mopd(&folder, &["bench", "distill", STUDENT, ONE, "--batch", "2", "--new", "4", "--steps", "2"]);
    for part in ["| rollout |", "times the floor", "peak memory of the worker", "FLOP/s in bfloat16"] {
        assert!(said(&table).contains(part), "no {part:?} in {}", said(&table));
    }
}

#[test]
fn bench_measures_completions_of_one_model() {
    let folder = checkpoints();
    let short = [
        "bench", "generate", STUDENT, "--prompt", "8", "--batch", "1,3,1", "--new", "2,5,2", "--rounds", "2",
    ];
    let output = mopd(&folder, &[&short[..], &["--json"]].concat());
    assert!(output.status.success(), "{}", said(&output));
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let all = found["figures"].as_array().expect("figures");
    let shapes: Vec<[u64; 2]> =
        all.iter().map(|of| ["batch", "new"].map(|name| of[name].as_u64().expect("a number"))).collect();
    assert_eq!(shapes, [[1, 2], [3, 2], [1, 5], [3, 5]]);
    // A run uses one thread for a model as small as this, with any number of cores.
    assert_eq!(found["threads"], 1, "{found}");
    for (of, [batch, new]) in all.iter().zip(shapes) {
        let tokens: Vec<u64> =
            of["tokens"].as_array().expect("tokens").iter().filter_map(Value::as_u64).collect();
        // An end token may end it earlier.
        assert!(
            tokens.len() == 2 && tokens.iter().all(|tokens| (batch..=batch * new).contains(tokens)),
            "{of}"
        );
        assert!(of["floor"].as_f64().expect("a floor") > 0.0, "{of}");
    }
    let table = mopd(&folder, &short);
    for part in ["float32, prompts of 8 tokens", "| times the floor |", "FLOP/s in bfloat16"] {
        assert!(said(&table).contains(part), "no {part:?} in {}", said(&table));
    }
    let long = mopd(&folder, &["bench", "generate", STUDENT, "--new", "64"]);
    assert!(
        !long.status.success() && said(&long).contains("more than the model's context of 96"),
        "{}",
        said(&long)
    );
}

#[test]
fn bench_reports_invalid_arguments() {
    let folder = checkpoints();
    let refused = |arguments: &[&str], parts: &[&str]| {
        let output = mopd(&folder, &[&["bench", "distill", "--batch", "4"][..], arguments].concat());
        assert!(!output.status.success() && output.stdout.is_empty(), "{}", said(&output));
        for part in parts {
            assert!(said(&output).contains(part), "no {part:?} in {}", said(&output));
        }
    };
    refused(&[STUDENT, "./none"], &["none", "guide0"]);
    refused(&["no/such\\\"model", ONE], &["start"]);
    refused(&[STUDENT, FOREIGN, "--new", "8"], &["the teacher `t0` has another tokenizer than its student"]);
    // 64 tokens by default.
    refused(&[STUDENT, ONE], &["96", "tokens"]);
    refused(&[STUDENT, ONE, "--chat"], &["template"]);
    refused(&[STUDENT, ONE, "--checkpointing", "some"], &["expected a number of layers, or `all`"]);
    let left = fs::read_dir(folder.path()).expect("a folder").filter_map(Result::ok);
    let left = left.filter(|entry| entry.file_name().to_string_lossy().starts_with("mopd-bench"));
    assert_eq!(left.count(), 0, "a temporary folder is left behind");
}
