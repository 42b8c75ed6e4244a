//! The commands, one file each.

mod answers;
mod audit;
mod bench;
mod cache;
mod check;
mod cluster;
mod compare;
mod completions;
mod delta;
mod doctor;
mod dry_run;
mod eval;
mod explain;
mod export;
mod expr;
mod files;
mod fmt;
mod import;
mod ls;
mod man;
mod new;
mod plan;
mod query;
mod report;
mod rewards;
mod run;
mod sample;
mod serve;
mod setup;
mod sweep;
mod trial;
mod watch;
mod why;

use std::ffi::OsString;
use std::path::Path;

use mopd_lang::Analysis;
use mopd_lang::diag::{Code, Diagnostic, nearest};
use mopd_lang::source::{FileId, Sources, Span};
use mopd_plan::Plan;
use serde::Serialize;

use crate::args::{Color, Command, OutputArgs};
use crate::compile::plan_of;
use crate::host;
use crate::output::{self, Style};
use crate::problem::{CommandStatus, Problem};
use crate::render;

const BUILT: &[&str] = &[
    "new",
    "check",
    "fmt",
    "plan",
    "audit",
    "run",
    "watch",
    "report",
    "ls",
    "answers",
    "query",
    "compare",
    "delta",
    "export",
    "import",
    "explain",
    "sample",
    "serve",
    "rewards",
    "eval",
    "setup",
    "doctor",
    "lsp",
    "bench",
    "expr",
    "try",
    "cache",
    "completions",
    "man",
    "help",
];

/// What other programs call the commands.
const OTHER_COMMANDS: &[(&[&str], &str)] = &[
    (&["train", "start", "launch", "execute", "exec"], "run"),
    (&["validate", "lint", "test", "verify", "typecheck"], "check"),
    (&["format"], "fmt"),
    (&["init", "create", "quickstart"], "new"),
    (&["evaluate"], "eval"),
    (&["generate", "chat", "infer"], "sample"),
    (&["list", "runs", "ps"], "ls"),
    (&["show", "view", "dashboard"], "report"),
    (&["outputs", "responses", "generations"], "answers"),
    (&["sql", "select"], "query"),
    (&["diff"], "compare"),
    (&["convert"], "import"),
    (&["install"], "setup"),
];

/// Applies the output options of the command line.
///
/// # Errors
/// If the log file can't be written to.
pub fn begin(arguments: &OutputArgs) -> Result<(), Problem> {
    let log = arguments
        .log_file
        .as_deref()
        .map(|path| output::LogFile::append(path).map_err(|error| Problem::unwritten(path, &error)));
    let colours = match arguments.color {
        Color::Auto => None,
        Color::Always => Some(true),
        Color::Never => Some(false),
    };
    let (quiet, verbose) = (arguments.quiet, arguments.verbose);
    output::configure(output::OutputSettings { colours, quiet, verbose, log: log.transpose()? });
    Ok(())
}

pub fn dispatch(command: Command) -> Result<CommandStatus, Problem> {
    match command {
        Command::New(arguments) => new::new(&arguments),
        Command::Check(arguments) => check::check(&arguments),
        Command::Fmt(arguments) => fmt::fmt(&arguments),
        Command::Plan(arguments) => plan::plan(&arguments),
        Command::Audit(arguments) => audit::audit(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Watch(arguments) => watch::watch(&arguments),
        Command::Report(arguments) => report::report(&arguments),
        Command::Export(arguments) => export::export(&arguments),
        Command::Import(arguments) => import::import(&arguments),
        Command::Ls(arguments) => ls::ls(&arguments),
        Command::Answers(arguments) => answers::answers(&arguments),
        Command::Query(arguments) => query::query(&arguments),
        Command::Compare(arguments) => compare::compare(&arguments),
        Command::Delta(arguments) => delta::delta(&arguments),
        Command::Explain(arguments) => explain::explain(&arguments),
        Command::Sample(arguments) => sample::sample(&arguments),
        Command::Serve(arguments) => serve::serve(&arguments),
        Command::Rewards(arguments) => rewards::rewards(&arguments),
        Command::Eval(arguments) => eval::eval(&arguments),
        Command::Setup(arguments) => setup::setup(&arguments),
        Command::Doctor(arguments) => doctor::doctor(&arguments),
        Command::Lsp(_) => crate::lsp::serve(),
        Command::Bench(arguments) => bench::bench(&arguments),
        Command::Expr(arguments) => expr::expr(&arguments),
        Command::Try(arguments) => trial::trial(&arguments),
        Command::Cache(arguments) => cache::cache(&arguments),
        Command::Completions(arguments) => completions::completions(&arguments),
        Command::Man(arguments) => man::man(&arguments),
        Command::Other(words) => Err(unknown_command(&words)),
    }
}

fn unknown_command(words: &[OsString]) -> Problem {
    let word = words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    let problem = Problem::usage("unknown-command", format!("mopd has no command `{word}`"));
    if let Some((_, ours)) = OTHER_COMMANDS.iter().find(|(theirs, _)| theirs.contains(&word.as_str())) {
        return problem.help(format!("that is `mopd {ours}`"));
    }
    match nearest(&word, BUILT.iter().copied()) {
        Some(meant) => problem.help(format!("did you mean `mopd {meant}`?")),
        None if word.ends_with(".mopd") => problem.help(format!("did you mean `mopd run {word}`?")),
        None => problem.help("`mopd --help` lists the commands"),
    }
}

/// A compiled file, ready to run.
#[derive(Debug)]
struct Compiled {
    sources: Sources,
    plan: Plan,
    /// The values that are set from outside: with `--set`, or as a member of a sweep.
    set: Vec<(String, String)>,
}

/// Checks and compiles; diagnostics go to standard error. `None` where they prevent a run.
fn compile(path: &Path, overrides: &[(String, String)]) -> Result<Option<Compiled>, Problem> {
    let mut analysis = host::analyse_file(path, overrides)?;
    let plan = plan_to_run(&mut analysis);
    report(&analysis);
    Ok(plan.map(|plan| Compiled { sources: analysis.sources, plan, set: overrides.to_vec() }))
}

/// [`plan_of`] for a file to run: reports a file that declares no experiment.
fn plan_to_run(analysis: &mut Analysis) -> Option<Plan> {
    let plan = plan_of(analysis);
    if analysis.experiment.is_none() && !analysis.has_errors() {
        analysis.diagnostics.push(no_experiment(&analysis.sources));
    }
    plan
}

/// Writes the diagnostics to standard error.
fn report(analysis: &Analysis) {
    let style = Style::of_stderr();
    output::error(&render::human::diagnostics(&analysis.diagnostics, &analysis.sources, style));
    if !analysis.diagnostics.is_empty() {
        output::error(&render::human::summary(&analysis.diagnostics, style));
    }
}

fn no_experiment(sources: &Sources) -> Diagnostic {
    let entry = FileId(0);
    let end = sources.file(entry).text.len();
    Diagnostic::error(
        Code::MissingExperiment,
        Span::new(entry, end, end),
        format!("{} declares no `experiment`", sources.file(entry).path),
    )
    .label("no `experiment` in this file")
    .help("add `experiment \"name\" { seed = 1 }`, or name the file that uses this one")
}

/// A plan, or those of a sweep, as text, ending with a newline.
fn plan_json(plan: &impl Serialize) -> Result<String, Problem> {
    let text = serde_json::to_string_pretty(plan);
    Ok(text.map_err(|error| {
        Problem::run("plan-not-written", format!("the plan can't be written as JSON: {error}"))
    })? + "\n")
}
