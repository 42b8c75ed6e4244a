//! What the command line accepts.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

const EXAMPLES: &str = "\
Examples:
  mopd new pilot                        a starter experiment with data, in the folder pilot
  mopd check pilot/pilot.mopd           what is wrong with it
  mopd plan pilot/pilot.mopd            what it would do, and what that costs
  mopd run pilot/pilot.mopd             do it; finished stages are kept
  mopd explain unit-mismatch            what a finding means

Exit status: 0 good; 1 the experiment or the run is wrong; 2 the command was used wrongly or a file can't be \
                        read;
130 interrupted.";

/// A declarative language and compiler for multi-teacher on-policy distillation of language models.
#[derive(Debug, Parser)]
#[command(name = "mopd", version, after_help = EXAMPLES, arg_required_else_help = true, max_term_width = 110)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    New(New),
    Check(Check),
    Fmt(Fmt),
    Plan(Plan),
    Audit(Audit),
    Run(Run),
    Watch(Watch),
    Report(Report),
    Compare(Compare),
    Export(Export),
    Explain(Explain),
    Sample(Sample),
    Doctor(Doctor),
    Lsp(Lsp),
    Bench(Bench),
    Expr(Expr),
    Cache(Cache),
    /// Every other word: a command that is not built yet, or a slip.
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// Start an experiment: a commented file with data, that runs
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  mopd new pilot && mopd run pilot/pilot.mopd")]
pub struct New {
    /// The folder to make; its last part names the experiment
    pub name: PathBuf,
}

/// Say what is wrong with experiments, without running anything
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  mopd check a.mopd b.mopd\n  mopd check --fix a.mopd\n  mopd check \
                        --format json a.mopd | jq '.[].code'")]
pub struct Check {
    /// Experiments, or modules that experiments use
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// `short` is one line a finding; `json` counts lines and UTF-16 columns from 0, as editors do
    #[arg(long, value_enum, default_value_t = CheckFormat::Human)]
    pub format: CheckFormat,
    /// Apply the fixes that are certain, again until none is left, and report what remains
    #[arg(long)]
    pub fix: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckFormat {
    Human,
    Short,
    Json,
    /// SARIF 2.1.0, which code hosts show beside the lines
    Sarif,
}

/// Lay out files in the one canonical style
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd fmt a.mopd experiments          a file, and every .mopd file of a folder
  mopd fmt --check .                   only say which files would change
  mopd fmt - < a.mopd                  from standard input to standard output

The files that change are listed on standard output. What does not parse is left as it stands and reported; \
                        the rest of the
file is formatted. There are no options of style.")]
pub struct Fmt {
    /// Files, folders, or `-` for standard input
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Change nothing; exit with 1 if something would change
    #[arg(long)]
    pub check: bool,
}

/// Show the stages of an experiment, their objectives in normal form, and what they cost
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  mopd plan a.mopd\n  mopd plan --format json a.mopd > plan.json\n  \
                        mopd plan --predict a.mopd             time and memory of each stage, from a short \
                        trial\n  mopd plan std.opd                       the objectives of a library module")]
pub struct Plan {
    /// The experiment, a .mopd file; or a library, also as `std.opd`
    pub file: PathBuf,
    #[command(flatten)]
    pub overrides: Overrides,
    /// `json` is the plan itself, as the worker gets it
    #[arg(long, value_enum, default_value_t = PlanFormat::Tree)]
    pub format: PlanFormat,
    /// Try a few steps with shallow models to say how long each stage will take and how much memory; done by
    /// itself where a model is loaded
    #[arg(long)]
    pub predict: bool,
    #[arg(long, hide = true)]
    pub why: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PlanFormat {
    Tree,
    Json,
    /// Answered with "not supported yet".
    #[value(hide = true)]
    Dot,
}

/// Say which divergence the gradient of each term follows
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd audit a.mopd
  mopd audit std.estimators              the objectives of a library module
  mopd audit --format json a.mopd | jq '.[].terms[].findings[].verdict'

Every term is evaluated over all that can be drawn in worlds of a few tokens, with its exact gradient. The \
                        book's page on the audit
says what each answer means.")]
pub struct Audit {
    /// The experiment, a .mopd file; or a library, also as `std.opd`
    pub file: PathBuf,
    #[command(flatten)]
    pub overrides: Overrides,
    #[arg(long, value_enum, default_value_t = AuditFormat::Human)]
    pub format: AuditFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AuditFormat {
    Human,
    Json,
}

/// Run an experiment; stages that are finished already are not run again
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd run a.mopd
  mopd run --set seed=2 --out runs/a-2 a.mopd
  mopd run --from student a.mopd        that stage again, and what is made from it
  mopd run --format json a.mopd > events.jsonl

The folder for results holds results.json (the tables), metrics.parquet (every step, by domain and teacher), \
                        models/
(checkpoints), plan.json and source.mopd. Finished stages are kept in .mopd/store and reused by later runs; \
                        a stage that was cut
off goes on from its last checkpoint, and ends with the same bits.")]
pub struct Run {
    /// The experiment, a .mopd file
    pub file: PathBuf,
    #[command(flatten)]
    pub overrides: Overrides,
    /// Folder for results [default: what the experiment says, else runs/NAME]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Run every stage again, even those that are finished
    #[arg(long)]
    pub fresh: bool,
    /// Run this stage again, and what is made from it; a family's name is all of its members. Can be given
    /// several times
    #[arg(long, value_name = "STAGE", conflicts_with = "fresh")]
    pub from: Vec<String>,
    /// Go on from what is kept. A run does so by itself; with this it says so if nothing is
    #[arg(long, conflicts_with_all = ["fresh", "from"])]
    pub resume: bool,
    /// How often a stage that trains leaves a checkpoint: `30s`, `10min`, `1h`; `0s` is after every step
    /// [default: every minute, and less often where that would cost more than 2% of the time]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub checkpoint_every: Option<f64>,
    /// Stages that run side by side at most, a core each [default: what the machine can carry]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub workers: Option<u32>,
    /// Leave event files for TensorBoard too, in tensorboard/ of the folder for results
    #[arg(long)]
    pub tensorboard: bool,
    /// `json` writes the worker's events to standard output, one a line
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
}

/// Check at every save, and run again just what the edit changed
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd watch a.mopd
  mopd watch --check a.mopd             findings and what an edit means; nothing runs
  mopd watch --format json a.mopd | jq 'select(.event == \"step\")'

A save that leaves the meaning as it is changes nothing. One that changes it stops what is under way at its \
                        next step and goes on
with the new text; finished stages are kept. The runs of a `sweep` follow each other. A mistake in the file \
                        leaves the last good run going. Modules, data files, tokenizers
and reward programs are followed like the file itself.")]
pub struct Watch {
    /// The experiment, a .mopd file
    pub file: PathBuf,
    #[command(flatten)]
    pub overrides: Overrides,
    /// Folder for results [default: what the experiment says, else runs/NAME]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Check and compare only; run nothing
    #[arg(long)]
    pub check: bool,
    /// A stage that was under way goes on from its last checkpoint where an edit changed only its objective,
    /// its learning rate, its optimiser's settings or its length; what it was begun with is written
    /// beside its result
    #[arg(long, conflicts_with = "check")]
    pub fork: bool,
    /// How often a stage that trains leaves a checkpoint, as in `mopd run`
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub checkpoint_every: Option<f64>,
    /// Stages that run side by side at most, a core each [default: what the machine can carry]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub workers: Option<u32>,
    /// Lines instead of the view that a terminal gets
    #[arg(long)]
    pub plain: bool,
    /// `json` writes events to standard output, one a line
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
}

/// Say what the store of results holds, whether it is whole, and let go of what no run needs
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd cache list
  mopd cache verify
  mopd cache prune --older-than 30d --dry-run
  mopd cache prune --keep-under 10GiB

What a run needs is never pruned as long as its folder of results is there: to let go of a run, delete that \
                        folder, then prune.")]
pub struct Cache {
    #[command(subcommand)]
    pub action: CacheAction,
    /// The store [default: .mopd/store]
    #[arg(long, global = true, value_name = "DIR")]
    pub store: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum CacheAction {
    /// What there is, how large, when it was of use last, and which runs need it
    List {
        /// `json` is one object a line
        #[arg(long, value_enum, default_value_t = Format::Human)]
        format: Format,
    },
    /// Read everything and name what is not what was written; exit status 1 if there is any
    Verify,
    /// Let go of results and checkpoints that no kept run needs
    #[command(group(clap::ArgGroup::new("what").required(true).multiple(true).args(["older_than", "keep_under"])))]
    Prune {
        /// What was not of use for so long: `12h`, `30d`
        #[arg(long, value_name = "TIME", value_parser = seconds)]
        older_than: Option<f64>,
        /// What was of use longest ago, until the store takes at most so much: `500MiB`, `10GiB`
        #[arg(long, value_name = "SIZE", value_parser = size)]
        keep_under: Option<u64>,
        /// Only say what would go
        #[arg(long)]
        dry_run: bool,
    },
}

/// Bytes.
fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split_unit(text);
    let of_unit = match unit {
        "" if number == "0" => 1.0,
        "B" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1048576.0,
        "GiB" => 1073741824.0,
        "TiB" => 1099511627776.0,
        _ => return Err("expected a number and B, KiB, MiB, GiB or TiB, such as 10GiB".to_owned()),
    };
    let number: f64 =
        number.parse().map_err(|_| "expected a number before the unit, such as 10GiB".to_owned())?;
    Ok((number * of_unit) as u64)
}

fn split_unit(text: &str) -> (&str, &str) {
    let end =
        text.find(|character: char| !(character.is_ascii_digit() || character == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim())
}

#[derive(Debug, Args)]
pub struct Overrides {
    /// Set the seed or a `param` of the file, for this run: `--set seed=2`
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
}

/// A length of time, in seconds.
fn seconds(text: &str) -> Result<f64, String> {
    let (number, unit) = split_unit(text);
    let of_unit = match unit {
        "s" => 1.0,
        "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return Err("expected a number and s, min, h or d, such as 30s".to_owned()),
    };
    let number: f64 =
        number.parse().map_err(|_| "expected a number before the unit, such as 30s".to_owned())?;
    let seconds = number * of_unit;
    if seconds < 1e15 { Ok(seconds) } else { Err("that is more than any run takes".to_owned()) }
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() && !value.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("expected NAME=VALUE, such as seed=2".to_owned()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Human,
    Json,
}

/// Show a run as one page for a browser: tables, curves, tokens, the plan, the cost, the source
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd report runs/quickstart
  mopd report runs/quickstart --out quickstart.html

The page needs no network and no other file: it can be sent and kept. The path of the page is the result.")]
pub struct Report {
    /// The folder of a run
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// The page [default: report.html in the run's folder]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Say what differs between runs: in meaning, and in result with the interval of every difference
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd compare runs/a runs/b
  mopd compare --format latex runs/a runs/b > table.tex
  mopd compare --format csv runs/a runs/b runs/c

Every run is compared with the first one.")]
pub struct Compare {
    /// Folders of runs
    #[arg(value_name = "RUN", required = true, num_args = 2..)]
    pub runs: Vec<PathBuf>,
    /// `csv` has a line for every number; `latex` needs the package booktabs
    #[arg(long, value_enum, default_value_t = CompareFormat::Text)]
    pub format: CompareFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompareFormat {
    Text,
    Markdown,
    Csv,
    Latex,
}

/// Write a run in the files of another program
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  mopd export --tensorboard runs/quickstart && tensorboard --logdir \
                        runs/quickstart/tensorboard")]
pub struct Export {
    /// Event files: a series for every stage and seed
    #[arg(long, required_unless_present = "engine")]
    pub tensorboard: bool,
    #[arg(long, hide = true, value_name = "NAME", conflicts_with = "tensorboard")]
    pub engine: Option<String>,
    /// The folder of a run
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// The folder for the files [default: tensorboard in the run's folder]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Explain a finding: why it is one, and the way out
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  mopd explain unit-mismatch\n  mopd explain --all")]
pub struct Explain {
    /// The name in brackets after `error` or `warning`
    #[arg(required_unless_present = "all")]
    pub code: Option<String>,
    /// List every code with one line
    #[arg(long, conflicts_with = "code")]
    pub all: bool,
}

/// Try a checkpoint on a prompt
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  mopd sample runs/quickstart/models/student-seed1 --prompt 'sort dacb='")]
pub struct Sample {
    /// A folder under models/ of a run
    pub checkpoint: PathBuf,
    #[arg(long, value_name = "TEXT")]
    pub prompt: String,
    /// Number of completions
    #[arg(short, long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub n: u32,
    /// 0 takes the most probable token each time
    #[arg(long, default_value_t = 1.0, value_parser = temperature)]
    pub temperature: f64,
    /// Longest completion, in tokens; what the model's context leaves, if not given
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: Option<u32>,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
}

fn temperature(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("expected a number that is 0 or more".to_owned()),
    }
}

/// Say what this machine can do, and what is missing
#[derive(Debug, Args)]
pub struct Doctor {
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
}

/// Serve editors: diagnostics, completion, hover and more, over standard input and output
#[derive(Debug, Args)]
#[command(after_help = "An editor starts this, not a person. The book says how to connect yours.")]
pub struct Lsp {
    /// What many editors pass; there is no other way
    #[arg(long, hide = true)]
    pub stdio: bool,
}

/// Measure what mopd costs on this machine
#[derive(Debug, Args)]
pub struct Bench {
    #[command(subcommand)]
    pub what: BenchWhat,
}

#[derive(Debug, Subcommand)]
pub enum BenchWhat {
    Check(BenchCheck),
    Distill(BenchDistill),
    Divergence(BenchDivergence),
    Expr(BenchExpr),
    Watch(BenchWatch),
    /// Every other word: a measurement that is not built yet, or a slip.
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// Measure the checker as a whole process, and the language server one keystroke at a time
#[derive(Debug, Args)]
pub struct BenchCheck {
    /// How often the short file is checked
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// Keystrokes that are timed, spread over the long file
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..))]
    pub keystrokes: u32,
    /// Keystrokes between the two looks at the server's memory
    #[arg(long, default_value_t = 10_000)]
    pub edits: u32,
    /// For programs: times in milliseconds, memory in bytes
    #[arg(long)]
    pub json: bool,
}

/// Measure steps of on-policy distillation on models of yours: time of each part, tokens a second, memory,
/// and the least time that this machine could take
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd bench distill models/student models/teacher
  mopd bench distill --batch 8 --new 64 --chat Qwen/Qwen3-0.6B Qwen/Qwen3-1.7B
  mopd bench distill student math code law           three teachers, each with a third of the prompts

What runs is an experiment like any other, in a temporary folder. Figures are medians over the steps behind \
                        the first.")]
pub struct BenchDistill {
    /// A folder as `save_pretrained` writes it, or a name on the hub: what `hf(...)` takes
    pub student: String,
    /// One or several, each of a domain of its own
    #[arg(required = true, value_name = "TEACHER")]
    pub teachers: Vec<String>,
    /// Prompts a step, a completion each
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: u32,
    /// Longest completion, in tokens; it ends earlier where the student says so
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub new: u32,
    /// The first is not counted: it brings memory into reach
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(2..))]
    pub steps: u32,
    /// The numbers that models compute with
    #[arg(long, value_enum, default_value_t = DistillDtype::Float32)]
    pub dtype: DistillDtype,
    #[arg(long, value_enum, default_value_t = DistillObjective::Full)]
    pub objective: DistillObjective,
    /// Ask by the student's chat template
    #[arg(long)]
    pub chat: bool,
    /// Train an adapter of this rank beside every matrix of the layers, instead of all weights
    #[arg(long, value_name = "RANK", value_parser = clap::value_parser!(u32).range(1..))]
    pub lora: Option<u32>,
    /// Sequences that go forward and backward at once [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub micro_batch: Option<u32>,
    /// So many layers, or `all`, compute their inner values again on the way back
    #[arg(long, value_name = "N|all", value_parser = checkpointing)]
    pub checkpointing: Option<String>,
    /// For programs: times in seconds, memory in bytes
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
pub enum DistillDtype {
    Float32,
    Bfloat16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DistillObjective {
    /// The reverse divergence over the whole vocabulary
    Full,
    /// The same over the 64 entries that the teacher finds most probable
    TopK,
    /// Its estimate from the token that was sampled
    Sampled,
}

/// Measure how long it takes in `mopd watch` from a save to its findings, and to the first step of what it
/// changed
#[derive(Debug, Args)]
pub struct BenchWatch {
    /// Saves whose findings are timed
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub saves: u32,
    /// Saves whose first step is timed, behind a run of the experiment that `mopd new` writes
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub edits: u32,
    /// For programs: times in milliseconds
    #[arg(long)]
    pub json: bool,
}

/// Measure a divergence over the vocabulary with its gradient, against a plain log-softmax version, on one
/// thread
#[derive(Debug, Args)]
pub struct BenchDivergence {
    /// Sizes of the vocabulary, one after the other
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [49_152, 151_936], value_parser = clap::value_parser!(u32).range(65..))]
    pub vocabulary: Vec<u32>,
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    pub tokens: u32,
    /// Make the logits too, from hidden states of this width; where it is not given, neither time nor memory
    /// of logits is counted
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub width: Option<u32>,
    #[arg(long, value_enum, default_value_t = DivergenceName::Kl)]
    pub of: DivergenceName,
    /// Runs of each version that are timed, in turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// For programs: times in seconds, memory in bytes
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DivergenceName {
    /// kl(student || teacher)
    Kl,
    /// jsd(student, teacher, beta: 0.5)
    Jsd,
    /// kl(student || teacher, support: top_k(teacher, 64), mass: generalized)
    TopK,
}

/// Measure a per-token weight, interpreted and compiled, against a plain pass over the same memory
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  mopd bench expr --tokens 65536 --runs 50\n\nThe ways are measured in \
                        turn, run by run; each figure is a median.")]
pub struct BenchExpr {
    /// Tokens of a batch; may be given several times [default: 65536 and 4194304]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 26))]
    pub tokens: Vec<u32>,
    /// How often each way is measured; the interpreter, which is slow, three times at most
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// For programs: times in seconds
    #[arg(long)]
    pub json: bool,
}

/// Show what becomes of the weight and the terms of an objective
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd expr a.mopd my_objective                       the graph of all that it computes for each token
  mopd expr a.mopd my_objective.weight --emit asm     the machine code of its weight
  mopd expr std.opd mopd --emit clif                  an objective of the standard library")]
pub struct Expr {
    /// The file; or a module of the standard library, as `std.opd`
    pub file: PathBuf,
    /// OBJECTIVE, OBJECTIVE.weight, OBJECTIVE.select, or OBJECTIVE.TERM
    pub name: String,
    /// `ir` is the graph, `clif` what the code generator is given, `asm` the instructions for this machine
    #[arg(long, value_enum, default_value_t = Emit::Ir)]
    pub emit: Emit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Emit {
    Ir,
    Clif,
    Asm,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn an_assignment_has_two_sides() {
        assert_eq!(assignment("seed = 2"), Ok(("seed".to_owned(), "2".to_owned())));
        assert_eq!(assignment("note=a=b"), Ok(("note".to_owned(), "a=b".to_owned())));
        for bad in ["seed", "=2", "seed=", ""] {
            assert!(assignment(bad).is_err(), "{bad}");
        }
    }
}
