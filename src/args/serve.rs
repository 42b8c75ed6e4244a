use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::{ComputeDtype, Format};

/// Serve a model to runs on other machines, and to clients of the vLLM and SGLang APIs
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd serve runs/experts/models/math-seed1
  mopd serve models/Qwen3-8B --name teacher --dtype bfloat16 --port 8001
  MOPD_KEY=$(cat key) mopd serve models/Qwen3-8B --host 0.0.0.0 --key MOPD_KEY

A run asks it:
`teacher big = served(\"mopd\", url: \"http://localhost:8000\", model: \"teacher\", answers: dist)`
It answers until it is stopped.")]
pub struct ServeArgs {
    /// A folder under models/ of a run, one as `save_pretrained` writes it, a GGUF file, or a name on the hub
    pub model: String,
    /// The model's name in requests [default: MODEL as it is written]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Address to listen at; addresses that other machines can reach need `--key`
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    pub host: String,
    /// Port; 0 for any free one
    #[arg(long, default_value_t = 8000)]
    pub port: u16,
    /// Name of the environment variable with the key that requests must have
    #[arg(long, value_name = "VARIABLE")]
    pub key: Option<String>,
    /// Compute dtype of the model
    #[arg(long, value_enum, default_value_t = ComputeDtype::Float32)]
    pub dtype: ComputeDtype,
    /// Allow requests to replace the weights by those of a folder inside this one
    #[arg(long, value_name = "FOLDER")]
    pub allow_updates: Option<PathBuf>,
    /// Most tokens of a request, over all its sequences
    #[arg(long, value_name = "N", default_value_t = 1 << 18)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub max_request_tokens: u32,
    /// Most entries that are listed for a token, besides its own [default: all]
    #[arg(long, value_name = "K")]
    pub max_logprobs: Option<u32>,
    /// `json` writes the worker's events to standard output, one per line
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
}

/// Judge completions for the training of an exported folder
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd rewards student-verl -- sh -c 'python3 ...'     while a program runs
  mopd rewards student-verl                            until it is stopped, on a further machine

`launch.sh` of the folder does the first. Programs of this machine that can read the folder's file
rewards-service.HOST.json, with the address and a secret, may ask.")]
pub struct RewardsArgs {
    /// The folder that `mopd export --engine` wrote
    pub folder: PathBuf,
    /// A program to start, with which the service ends: the exit status is the program's
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}
