//! Exports for engines: what they cover of every method, their files, and, if `MOPD_ENGINES` names a Python
//! environment with an engine, what the engines do with them.
//!
//! TRL and verl need different versions of transformers, so each test runs where its engine is installed, and
//! is skipped in the other's environment:
//!
//! ```sh
//! python3 -m venv TRL
//! TRL/bin/pip install trl==1.16.0 peft pyarrow
//! python3.11 -m venv VERL
//! VERL/bin/pip install torch==2.11.0 transformers==5.9.0 'verl[verl-core]==0.9.1' TransferQueue==0.1.11
//! MOPD_ENGINES=TRL cargo test --locked --release --workspace --test language engines::
//! MOPD_ENGINES=VERL cargo test --locked --release --workspace --test language engines::
//! ```

mod coverage;
mod run_trl;
mod schemas;
mod torch;
mod trl;
mod verl;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mopd_plan::{Pretrained, PretrainedSource};
use serde_json::Value;

/// The Python of the environment; if `MOPD_ENGINES` is not set, what needs it is skipped.
fn python() -> Option<PathBuf> {
    let Some(environment) = std::env::var_os("MOPD_ENGINES") else {
        mopd_tests::skipped("MOPD_ENGINES, a virtual environment with the engines, is not set");
        return None;
    };
    let python = PathBuf::from(environment).join("bin/python");
    assert!(python.exists(), "MOPD_ENGINES has no {}", python.display());
    Some(python)
}

/// The Python of the environment, if it has this engine.
fn python_of(engine: &str) -> Option<PathBuf> {
    let python = python()?;
    let script = format!("import importlib.util as u, sys; sys.exit(u.find_spec('{engine}') is None)");
    if Command::new(&python).args(["-c", &script]).status().expect("Python starts").success() {
        return Some(python);
    }
    mopd_tests::skipped(&format!("MOPD_ENGINES has no {engine}"));
    None
}

/// Where published weights are: as the experiment names them.
fn located(pretrained: &Pretrained) -> String {
    match &pretrained.source {
        PretrainedSource::HuggingFace { name, .. } => name.clone(),
        PretrainedSource::Checkpoint { folder: path } | PretrainedSource::Gguf { file: path } => path.clone(),
    }
}

/// Runs a script and returns its output.
fn run(command: &mut Command) -> String {
    let output = command.output().expect("Python starts");
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    text
}

/// The data of two domains, 16 rows each, with this many letters to sort or to reverse.
fn two_jobs(folder: &Path, letters: impl Fn(u32) -> u32) {
    fs::create_dir_all(folder.join("data")).expect("a folder");
    for (name, backwards) in [("sort", false), ("reverse", true)] {
        let rows = (0..16u32).map(|row| {
            let letters: Vec<char> = (0..letters(row))
                .map(|at| char::from(b'a' + ((row * 7 + at * at * 3 + row * at) % 6) as u8))
                .collect();
            let mut answer = letters.clone();
            if backwards {
                answer.reverse()
            } else {
                answer.sort()
            }
            let text = |letters: Vec<char>| letters.into_iter().collect::<String>();
            format!("{{\"prompt\": \"{name}: {}\\n\", \"answer\": \"{}\"}}\n", text(letters), text(answer))
        });
        fs::write(folder.join(format!("data/{name}.jsonl")), rows.collect::<String>()).expect("a file");
    }
}

/// The data of `headline.mopd`: numbers, and programs with tests that half of them pass.
fn sums_and_programs(folder: &Path) {
    fs::create_dir_all(folder.join("data")).expect("a folder");
    let rows =
        |row: &dyn Fn(u32) -> Value| (0..16).map(|number| format!("{}\n", row(number))).collect::<String>();
    let math = rows(
        &|number| serde_json::json!({"prompt": format!("{number}+1="), "answer": format!("{}", number + 1)}),
    );
    let code = rows(&|number| {
        let tests = format!("assert x == {}", number % 2);
        serde_json::json!({"prompt": format!("set x, {number}:"), "answer": format!("x={}", number % 2), "tests": tests})
    });
    fs::write(folder.join("data/math.jsonl"), math).expect("a file");
    fs::write(folder.join("data/code.jsonl"), code).expect("a file");
}

/// The metrics of a run, one row per stage, step and domain.
fn metrics(python: &Path, run_folder: &Path) -> Vec<Value> {
    let script = "import json, pyarrow.parquet as p; print(json.dumps(p.read_table('metrics.parquet', \
                  columns=['stage', 'domain', 'teacher', 'step', 'loss', 'gradient_norm', 'learning_rate', \
                  'entropy', 'reward', 'divergence', 'tokens']).to_pylist()))";
    let text = run(Command::new(python).current_dir(run_folder).args(["-c", script]));
    serde_json::from_str(&text).expect("rows")
}
