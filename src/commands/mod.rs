//! One file a command.

mod bench;
mod check;
mod doctor;
mod explain;
mod fmt;
mod new;
mod plan;
mod run;
mod sample;

use std::ffi::OsString;
use std::path::Path;

use mopd_compiler::plan::Plan;
use mopd_lang::diag::{Code, Diagnostic, Severity, nearest};
use mopd_lang::experiment::{Experiment, Objective};
use mopd_lang::source::{FileId, Sources, Span};

use crate::args::Command;
use crate::host;
use crate::output::{self, Style};
use crate::problem::{Problem, Status};
use crate::render;

const BUILT: &[&str] = &["new", "check", "fmt", "plan", "run", "explain", "sample", "doctor", "lsp", "bench", "help"];

/// Commands of the contract that this version does not have.
const LATER: &[&str] = &["audit", "watch", "report", "compare", "eval", "export", "serve", "expr"];

pub fn dispatch(command: Command) -> Result<Status, Problem> {
    match command {
        Command::New(arguments) => new::new(&arguments),
        Command::Check(arguments) => check::check(&arguments),
        Command::Fmt(arguments) => fmt::fmt(&arguments),
        Command::Plan(arguments) => plan::plan(&arguments),
        Command::Run(arguments) => run::run(&arguments),
        Command::Explain(arguments) => explain::explain(&arguments),
        Command::Sample(arguments) => sample::sample(&arguments),
        Command::Doctor(arguments) => doctor::doctor(&arguments),
        Command::Lsp(_) => crate::lsp::serve(),
        Command::Bench(arguments) => bench::bench(&arguments),
        Command::Other(words) => Err(other(&words)),
    }
}

fn other(words: &[OsString]) -> Problem {
    let word = words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    if LATER.contains(&word.as_str()) {
        return Problem::not_supported(&format!("`mopd {word}`")).help(format!("this version has: {}", BUILT.join(", ")));
    }
    let problem = Problem::usage("unknown-command", format!("mopd has no command `{word}`"));
    match nearest(&word, BUILT.iter().copied()) {
        Some(meant) => problem.help(format!("did you mean `mopd {meant}`?")),
        None if word.ends_with(".mopd") => problem.help(format!("did you mean `mopd run {word}`?")),
        None => problem.help("`mopd --help` lists the commands"),
    }
}

/// A file that is fit to run.
struct Compiled {
    sources: Sources,
    plan: Plan,
}

/// Checks and compiles; findings go to standard error. None where they forbid to go on.
fn compile(path: &Path, overrides: &[(String, String)]) -> Result<Option<Compiled>, Problem> {
    let analysis = host::analyse_file(path, overrides)?;
    let mut findings = analysis.diagnostics;
    let wrong = findings.iter().any(|finding| finding.severity == Severity::Error);
    let plan = match &analysis.experiment {
        Some(experiment) if !wrong => compile_experiment(experiment, &analysis.origins, &analysis.sources, &mut findings),
        None if !wrong => {
            findings.push(no_experiment(&analysis.sources));
            None
        }
        _ => None,
    };
    let style = Style::of_stderr();
    output::error(&render::human::findings(&findings, &analysis.sources, style));
    if !findings.is_empty() {
        output::error(&render::human::summary(&findings, style));
    }
    Ok(plan.map(|plan| Compiled { sources: analysis.sources, plan }))
}

fn compile_experiment(
    experiment: &Experiment<Objective>,
    origins: &[Span],
    sources: &Sources,
    findings: &mut Vec<Diagnostic>,
) -> Option<Plan> {
    match mopd_compiler::compile(experiment, origins, sources) {
        Ok(plan) => Some(plan),
        Err(more) => {
            findings.extend(more);
            None
        }
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
    .label("nothing here says what to run")
    .help("add `experiment \"name\" { seed = 1 }`, or name the file that uses this one")
}

/// A plan as text, ending with a newline.
fn plan_json(plan: &Plan) -> Result<String, Problem> {
    let text = serde_json::to_string_pretty(plan);
    Ok(text.map_err(|error| Problem::run("plan-not-written", format!("the plan can't be written as JSON: {error}")))? + "\n")
}
