//! Commands that read source text: they start, check, format, plan and explain experiments.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Format, Overrides, PredictMode};

/// Create a starter experiment: a commented file with data, ready to run
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  mopd new pilot && cd pilot && mopd run pilot.mopd\n  mopd new --example quickstart first \
                  && cd first && mopd run quickstart.mopd"
)]
pub struct NewArgs {
    /// The folder to create; its last part names the starter
    pub name: PathBuf,
    /// Instead of the starter, write this experiment of the book, with its data
    #[arg(long, value_enum, value_name = "EXAMPLE")]
    pub example: Option<BookExample>,
}

/// Experiments of `examples/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BookExample {
    /// Three specialists, one student, eight baselines
    Quickstart,
    /// Ten methods of the literature against each other
    Literature,
    /// A student that uses a tool
    Lookup,
    /// A student that calls two tools in a conversation, and learns from a specialist for each
    Agent,
    /// A published model that learns one thing and keeps another; the file says how to fetch it
    Real,
}

/// Check experiments and report diagnostics, without running anything
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  mopd check a.mopd b.mopd\n  mopd check --fix a.mopd\n  mopd check --files \
                        a.mopd\n  mopd check --format json a.mopd | jq '.[].code'"
)]
pub struct CheckArgs {
    /// Experiments, or modules that experiments use; `-` for standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub overrides: Overrides,
    /// `short` is one line per diagnostic; `json` counts lines and UTF-16 columns from 0, as editors do
    #[arg(long, value_enum, default_value_t = CheckFormat::Human)]
    pub format: CheckFormat,
    /// Apply the certain fixes until none is left, and report what remains
    #[arg(long)]
    pub fix: bool,
    /// Also read the data, the tokenizers and the programs, and ask each reward once. This starts the worker;
    /// no model is read
    #[arg(long = "files")]
    pub with_files: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckFormat {
    Human,
    Short,
    Json,
    /// SARIF 2.1.0, which code hosts show beside the lines
    Sarif,
}

/// Format files in the canonical style
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd fmt a.mopd experiments          a file, and every .mopd file of a folder
  mopd fmt --check .                   only list the files that would change
  mopd fmt - < a.mopd                  from standard input to standard output

The files that change are listed on standard output. What does not parse is left unchanged and reported; \
                        the rest of the
file is formatted. There are no options of style.")]
pub struct FmtArgs {
    /// Files, folders, or `-` for standard input
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Change nothing; exit with 1 if something would change
    #[arg(long)]
    pub check: bool,
}

/// Show the stages of an experiment, their objectives in normal form, and their cost
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  mopd plan a.mopd\n  mopd plan --format json a.mopd > plan.json\n  \
                        mopd plan --predict a.mopd             time and memory of each stage, from a short \
                        trial\n  mopd plan --why a.mopd                 what a run would keep, and why it trains the rest\n  mopd plan std.opd                       the objectives of a library module")]
pub struct PlanArgs {
    /// The experiment, a .mopd file; or a library, also as `std.opd`
    pub file: PathBuf,
    #[command(flatten)]
    pub overrides: Overrides,
    /// `json` is the plan itself, as the worker gets it; of a sweep, a list of the runs with their values
    #[arg(long, value_enum, default_value_t = PlanFormat::Tree)]
    pub format: PlanFormat,
    /// Predict time and memory of each stage from a few steps with shallow models: `full` where no value is
    /// given; `quick` for half a minute at most, which is automatic where a model is loaded; `never`
    #[arg(long, value_enum, value_name = "HOW", num_args = 0..=1, require_equals = true,
          default_missing_value = "full")]
    pub predict: Option<PredictMode>,
    /// With `--predict`: simulate the machines that a TOML file describes, instead of measuring this one
    #[arg(long, value_name = "FILE", requires = "predict")]
    pub cluster: Option<PathBuf>,
    /// Instead, report whether a run would keep or train each stage, and which of its inputs have changed
    /// since the previous run
    #[arg(long, conflicts_with = "predict")]
    pub why: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PlanFormat {
    Tree,
    Json,
    /// Not supported yet.
    #[value(hide = true)]
    Dot,
}

/// Report which divergence the gradient of each term follows
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd audit a.mopd
  mopd audit std.estimators              the objectives of a library module
  mopd audit --format json a.mopd | jq '.[].terms[].findings[].verdict'

Every term is evaluated over all outcomes on toy models of a few tokens, with its exact gradient. The book's \
                        page on the audit
explains each verdict.")]
pub struct AuditArgs {
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

/// Explain a diagnostic code
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  mopd explain unit-mismatch\n  mopd explain --all")]
pub struct ExplainArgs {
    /// The name in brackets after `error` or `warning`
    #[arg(required_unless_present = "all")]
    pub code: Option<String>,
    /// List every code with one line
    #[arg(long, conflicts_with = "code")]
    pub all: bool,
}

/// Language server for editors: diagnostics, completion, hover and more, over standard input and output
#[derive(Debug, Args)]
#[command(after_help = "Editors start this command. The book describes how to configure yours.")]
pub struct LspArgs {
    /// Accepted because many editors pass it; standard input and output are always used
    #[arg(long, hide = true)]
    pub stdio: bool,
}

/// Show the compiled form of the weight and the terms of an objective
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd expr a.mopd my_objective                       the graph of all that it computes for each token
  mopd expr a.mopd my_objective.weight --emit asm     the machine code of its weight
  mopd expr std.opd mopd --emit clif                  an objective of the standard library")]
pub struct ExprArgs {
    /// The file; or a module of the standard library, as `std.opd`
    pub file: PathBuf,
    /// OBJECTIVE, OBJECTIVE.weight, OBJECTIVE.select, or OBJECTIVE.TERM
    pub name: String,
    /// `ir` is the graph, `clif` the input of the code generator, `asm` the machine code
    #[arg(long, value_enum, default_value_t = Emit::Ir)]
    pub emit: Emit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Emit {
    Ir,
    Clif,
    Asm,
}

/// Compute an objective on given numbers: its loss, every part of it, and the gradient
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd try std.opd mopd > numbers.json            numbers to begin with: all that the objective reads
  mopd try std.opd mopd numbers.json              the loss, every part of it, and the gradient
  mopd try a.mopd student numbers.json            the objective of a model as the experiment has it

Numbers are computed by the interpreter in f64 and by the compiled code in f32. What the file says under \
                        `expected` is compared;
a difference above 1e-5 of the largest number of a list is exit status 1.")]
pub struct TryArgs {
    /// The file; or a module of the standard library, as `std.opd`
    pub file: PathBuf,
    /// An objective of the file, or a model that it trains
    pub name: String,
    /// JSON; `-` for standard input
    pub numbers: Option<PathBuf>,
    #[command(flatten)]
    pub overrides: Overrides,
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
}
