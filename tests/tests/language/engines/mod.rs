//! Exports for engines: what they cover of every method, their files, and, if `MOPD_ENGINES` names a Python
//! environment with the engines, what the engines do with them.
//!
//! ```sh
//! python3.11 -m venv ENV && ENV/bin/pip install torch==2.11.0 transformers==5.23.0 trl==1.16.0 accelerate \
//!     datasets tokenizers safetensors omegaconf hydra-core codetiming ray peft torchdata pylatexenc pillow \
//!     'tensordict<=0.10.0' && ENV/bin/pip install --no-deps verl==0.9.1
//! MOPD_ENGINES=ENV cargo test --locked --release --workspace --test language engines::
//! ```

mod coverage;
mod schemas;
mod torch;
mod trl;
mod verl;

use std::path::PathBuf;
use std::process::Command;

use mopd_plan::{Pretrained, PretrainedSource};

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
