//! The command line. Each command has a struct of arguments, which its file in `commands` reads.

mod bench;
mod experiment;
mod results;
mod run;
mod serve;
mod shell;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use mopd_plan::Dtype;
use mopd_plan::events::Predict;

use crate::problem::Problem;

pub use self::bench::*;
pub use self::experiment::*;
pub use self::results::*;
pub use self::run::*;
pub use self::serve::*;
pub use self::shell::*;

const EXAMPLES: &str = "\
Examples:
  mopd new pilot                        a starter experiment with data, in the folder pilot
  cd pilot
  mopd check pilot.mopd                 report its diagnostics
  mopd plan pilot.mopd                  its stages, objectives and cost
  mopd run pilot.mopd                   run it; finished stages are kept
  mopd explain unit-mismatch            what a diagnostic code means

Exit status: 0 success; 1 the experiment is wrong or the run failed; 2 the command was used wrongly \
or a file can't be read;
130 interrupted.";

/// A declarative language and compiler for multi-teacher on-policy distillation of language models.
#[derive(Debug, Parser)]
#[command(name = "mopd", version, after_help = EXAMPLES, arg_required_else_help = true, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// The output options, which every command has.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Colours; `auto` means on terminals, unless NO_COLOR is set
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = Color::Auto)]
    pub color: Color,
    /// Report only problems on standard error
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Also report which programs, folders and results of the store are used
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Also append standard error to this file, each line with its time
    #[arg(long, global = true, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    New(NewArgs),
    Check(CheckArgs),
    Fmt(FmtArgs),
    Plan(PlanArgs),
    Audit(AuditArgs),
    Run(RunArgs),
    Watch(WatchArgs),
    Report(ReportArgs),
    Ls(LsArgs),
    Answers(AnswersArgs),
    Query(QueryArgs),
    Compare(CompareArgs),
    Delta(DeltaArgs),
    Export(ExportArgs),
    Import(ImportArgs),
    Explain(ExplainArgs),
    Sample(SampleArgs),
    Serve(ServeArgs),
    Rewards(RewardsArgs),
    Eval(EvalArgs),
    Setup(SetupArgs),
    Doctor(DoctorArgs),
    Lsp(LspArgs),
    Bench(BenchArgs),
    Expr(ExprArgs),
    Try(TryArgs),
    Cache(CacheArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
    /// Any other word: a command that is not supported yet, or unknown.
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// Parses the command line. Help, the version, and wrong use that clap reports end the program.
///
/// # Errors
/// If there is an unknown option.
pub fn parsed(words: impl IntoIterator<Item = OsString>) -> Result<Cli, Problem> {
    let words = joined(words);
    let matches = examples_first(Cli::command()).try_get_matches_from(&words);
    match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => Ok(cli),
        Err(error) => Err(unknown_option(&error, &words).unwrap_or_else(|| error.exit())),
    }
}

/// Options of other programs, and what mopd has instead.
const OTHER_OPTIONS: &[(&[&str], &str)] = &[
    (&["--seed"], "`--set seed=2` sets the seed of `run`, `watch` and `plan`"),
    (
        &["--output", "--output_dir", "--output-dir", "--out_dir", "--save_dir"],
        "`--out DIR` names the folder for results",
    ),
    (
        &[
            "--device",
            "--cuda",
            "--gpu",
            "--gpus",
            "--num_gpus",
            "--num-gpus",
            "--nproc_per_node",
            "--nproc-per-node",
        ],
        "a run uses the GPU if there is one; `device = cpu` in the `experiment` uses the CPU",
    ),
    (&["--resume_from_checkpoint", "--continue"], "the same command resumes where it stopped"),
    (&["--force", "--overwrite", "--clean"], "`--fresh` reruns every stage"),
    (&["--config", "--file", "--experiment", "--input"], "the file is named alone: `mopd run a.mopd`"),
    (
        &["--lr", "--learning_rate", "--steps", "--max_steps", "--batch_size", "--model", "--epochs"],
        "what the file says is changed by `--set NAME=VALUE`, for a number that it declares with `param`",
    ),
    (&["--report_to", "--wandb"], "`--tracker COMMAND` reports to other tools"),
];

fn unknown_option(error: &clap::Error, words: &[OsString]) -> Option<Problem> {
    let text = |kind: ContextKind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let option = text(ContextKind::InvalidArg).filter(|option| option.starts_with('-'))?;
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let words = words.iter().skip(1).filter_map(|word| word.to_str());
    let command = words.into_iter().find(|word| !word.starts_with('-')).map(|word| format!(" {word}"));
    let command = format!("mopd{}", command.unwrap_or_default());
    let problem = Problem::usage("unknown-option", format!("`{command}` has no option `{option}`"));
    let known = OTHER_OPTIONS.iter().find(|(theirs, _)| theirs.contains(&option.as_str()));
    Some(match (known, text(ContextKind::SuggestedArg)) {
        (Some((_, ours)), _) => problem.help(*ours),
        (None, Some(near)) => problem.help(format!("did you mean `{near}`?")),
        (None, None) => problem.help(format!("`{command} --help` lists the options")),
    })
}

/// Help with the examples before the options.
fn examples_first(command: clap::Command) -> clap::Command {
    const TEMPLATE: &str = "{about-with-newline}\n{usage-heading} {usage}{after-help}\n\n{all-args}";
    command.help_template(TEMPLATE).mut_subcommands(examples_first)
}

/// Parses a size as bytes.
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
    /// Set a value in place of the file's: the seed, a `param`, a parameter of the file's objective, or any
    /// setting of a model, domain, teacher, table or `experiment`: `--set seed=2`, `--set student.lr=1e-4`
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
}

/// Parses a length of time as seconds.
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

/// The compute dtype of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ComputeDtype {
    Float32,
    Bfloat16,
}

impl From<ComputeDtype> for Dtype {
    fn from(dtype: ComputeDtype) -> Dtype {
        match dtype {
            ComputeDtype::Float32 => Dtype::Float32,
            ComputeDtype::Bfloat16 => Dtype::Bfloat16,
        }
    }
}

/// The time that predictions may take; see [`Predict`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PredictMode {
    Never,
    Quick,
    Full,
}

/// Joins `--predict never` to `--predict=never`. `mopd plan` also accepts `--predict` alone, so the parser
/// would take the next word for the file.
fn joined(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::new();
    let mut options = true;
    for word in words {
        let is_mode = word.to_str().is_some_and(|word| PredictMode::from_str(word, false).is_ok());
        match joined.last_mut() {
            Some(last) if options && is_mode && *last == "--predict" => {
                last.push("=");
                last.push(word);
            }
            _ => {
                options &= word != "--";
                joined.push(word);
            }
        }
    }
    joined
}

impl From<PredictMode> for Predict {
    fn from(mode: PredictMode) -> Predict {
        match mode {
            PredictMode::Never => Predict::Never,
            PredictMode::Quick => Predict::Quick,
            PredictMode::Full => Predict::Full,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        examples_first(Cli::command()).debug_assert();
    }

    #[test]
    fn a_prediction_is_asked_for_with_and_without_an_equals_sign() {
        let mode = |line: &str| {
            let words = joined(line.split(' ').map(OsString::from));
            match Cli::try_parse_from(words).expect(line).command {
                Command::Plan(PlanArgs { file, predict, .. }) => (file.display().to_string(), predict),
                other => panic!("{other:?}"),
            }
        };
        let a = || "a.mopd".to_owned();
        assert_eq!(mode("mopd plan --predict a.mopd"), (a(), Some(PredictMode::Full)));
        assert_eq!(mode("mopd plan --predict=never a.mopd"), (a(), Some(PredictMode::Never)));
        assert_eq!(mode("mopd plan --predict never a.mopd"), (a(), Some(PredictMode::Never)));
        assert_eq!(mode("mopd plan a.mopd --predict quick"), (a(), Some(PredictMode::Quick)));
        assert_eq!(mode("mopd plan --predict -- never"), ("never".to_owned(), Some(PredictMode::Full)));
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
