//! `mopd bench`.

use std::ffi::OsString;

use clap::{Args, Subcommand, ValueEnum};

use super::ComputeDtype;

/// Measure the speed of mopd on this machine
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub command: BenchCommand,
}

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    Check(BenchCheckArgs),
    Distill(BenchDistillArgs),
    Divergence(BenchDivergenceArgs),
    Expr(BenchExprArgs),
    Generate(BenchGenerateArgs),
    Watch(BenchWatchArgs),
    /// Any other word: an unknown measurement.
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// Measure the latency of `mopd check`, and of keystrokes in the language server
#[derive(Debug, Args)]
pub struct BenchCheckArgs {
    /// Number of checks of the short file
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// Number of timed keystrokes, spread over the long file
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..))]
    pub keystrokes: u32,
    /// Keystrokes between the two measurements of the server's memory
    #[arg(long, default_value_t = 1_000)]
    pub edits: u32,
    /// Write JSON: times in milliseconds, memory in bytes
    #[arg(long)]
    pub json: bool,
}

/// Measure steps of on-policy distillation on your models: time of each part, tokens per second, memory, and
/// a lower bound of the time on this machine
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd bench distill models/student models/teacher
  mopd bench distill --batch 8 --new 64 --chat Qwen/Qwen3-0.6B Qwen/Qwen3-1.7B
  mopd bench distill student math code law           three teachers, with a third of the prompts each

It runs an ordinary experiment in a temporary folder. Figures are medians over all steps but the first.")]
pub struct BenchDistillArgs {
    /// A folder as `save_pretrained` writes it, or a name on the hub: what `hf(...)` takes
    pub student: String,
    /// One or several, each with a domain of its own
    #[arg(required = true, value_name = "TEACHER")]
    pub teachers: Vec<String>,
    /// Prompts per step, with one completion each
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: u32,
    /// Longest completion, in tokens; the student may end it earlier
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub new: u32,
    /// Steps; the first is a warm-up and is not counted
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(2..))]
    pub steps: u32,
    /// Compute dtype
    #[arg(long, value_enum, default_value_t = ComputeDtype::Float32)]
    pub dtype: ComputeDtype,
    #[arg(long, value_enum, default_value_t = DistillObjective::Full)]
    pub objective: DistillObjective,
    /// Format prompts with the student's chat template
    #[arg(long)]
    pub chat: bool,
    /// Train a LoRA adapter of this rank on every matrix of the layers, instead of all weights
    #[arg(long, value_name = "RANK", value_parser = clap::value_parser!(u32).range(1..))]
    pub lora: Option<u32>,
    /// Sequences per forward and backward pass [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub micro_batch: Option<u32>,
    /// Number of layers, or `all`, that recompute their activations in the backward pass
    #[arg(long, value_name = "N|all", value_parser = checkpointing)]
    pub checkpointing: Option<String>,
    /// Write JSON: times in seconds, memory in bytes
    #[arg(long)]
    pub json: bool,
}

/// Measure completions of one model, alone: tokens per second, memory, and a lower bound of the time on this
/// machine
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd bench generate models/student
  mopd bench generate Qwen/Qwen3-0.6B --dtype bfloat16 --batch 1,8,32 --new 64,512

Completions are sampled at temperature 1 with the log-probability of each token, as the rollouts of a run
are. A completion that ends early counts with the tokens that it has.")]
pub struct BenchGenerateArgs {
    /// A folder as `save_pretrained` writes it, or a name on the hub: what `hf(...)` takes
    pub model: String,
    /// Completions that are written together
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 8, 32])]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: Vec<u32>,
    /// Longest completion, in tokens
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [64])]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub new: Vec<u32>,
    /// Tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub prompt: u32,
    /// Compute dtype
    #[arg(long, value_enum, default_value_t = ComputeDtype::Float32)]
    pub dtype: ComputeDtype,
    /// Rounds through all sizes, in turn, after one that is not counted
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Write JSON: times in seconds, memory in bytes
    #[arg(long)]
    pub json: bool,
}

fn checkpointing(text: &str) -> Result<String, String> {
    match text == "all" || text.parse::<u32>().is_ok() {
        true => Ok(text.to_owned()),
        false => Err("expected a number of layers, or `all`".to_owned()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DistillObjective {
    /// Reverse divergence over the whole vocabulary
    Full,
    /// Reverse divergence over the teacher's 64 most probable entries
    TopK,
    /// Its estimate from the sampled token
    Sampled,
}

/// Measure the latency of `mopd watch` from a save to its diagnostics, and to the first step of what it
/// changed
#[derive(Debug, Args)]
pub struct BenchWatchArgs {
    /// Number of saves for the latency of diagnostics
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub saves: u32,
    /// Number of saves for the latency of the first step, after a run of the experiment that `mopd new`
    /// writes
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub edits: u32,
    /// Write JSON: times in milliseconds
    #[arg(long)]
    pub json: bool,
}

/// Measure a divergence over the vocabulary with its gradient, against a plain log-softmax version, on one
/// thread
#[derive(Debug, Args)]
pub struct BenchDivergenceArgs {
    /// Sizes of the vocabulary, measured one after the other
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        default_values_t = [49_152, 151_936],
        value_parser = clap::value_parser!(u32).range(65..)
    )]
    pub vocabulary: Vec<u32>,
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    pub tokens: u32,
    /// Include the logits, from hidden states of this width [default: time and memory of logits are not
    /// counted]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub width: Option<u32>,
    #[arg(long, value_enum, default_value_t = BenchDivergenceName::Kl)]
    pub of: BenchDivergenceName,
    /// Timed runs of each version, in turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// Write JSON: times in seconds, memory in bytes
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchDivergenceName {
    /// kl(student || teacher)
    Kl,
    /// jsd(student, teacher, beta: 0.5)
    Jsd,
    /// kl(student || teacher, support: top_k(teacher, 64), mass: generalized)
    TopK,
}

/// Measure a per-token weight, interpreted and compiled, against a plain pass over the same memory
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  mopd bench expr --tokens 65536 --runs 50\n\nThe variants run in \
                        turn; each figure is a median.")]
pub struct BenchExprArgs {
    /// Tokens of a batch; may be given several times [default: 65536 and 4194304]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 26))]
    pub tokens: Vec<u32>,
    /// Runs of each variant; the interpreter, which is slow, runs at most three times
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// Write JSON: times in seconds
    #[arg(long)]
    pub json: bool,
}
