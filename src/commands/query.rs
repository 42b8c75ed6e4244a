//! `mopd query`: a question about runs in SQL, which polars answers in Python. mopd itself links no engine of
//! queries (`book/src/decisions/tables.md`).

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use mopd_plan::results::Results;
use mopd_store::programs;
use serde_json::{Map, Value, json};

use crate::args::QueryArgs;
use crate::host::{as_text, reason};
use crate::named_python::{VARIABLE, named_python};
use crate::output;
use crate::problem::{CommandStatus, Problem};
use crate::run_folder::RunFolder;
use crate::run_settings::run_settings;
use crate::run_time::whole_seconds;
use crate::sweep_folder::SweepFolder;

const PROGRAM: &str = include_str!("../../tools/python/mopd/_query.py");

/// The exit statuses of the program: a question that it refuses, and a Python without polars.
const REFUSED: i32 = 2;
const NO_POLARS: i32 = 3;

pub fn query(arguments: &QueryArgs) -> Result<CommandStatus, Problem> {
    let mut runs = Vec::new();
    for path in folders(&arguments.runs) {
        let run = RunFolder::open(&path)?;
        let name = as_text(&path)?;
        let tables = run.results.as_ref().map(|results| &results.tables);
        runs.push(json!({ "run": name, "folder": name, "facts": facts(&run), "tables": tables }));
    }
    let out = arguments.out.as_ref().map(|path| as_text(path)).transpose()?;
    let asked = json!({ "sql": arguments.sql, "runs": runs, "format": arguments.format.name(), "out": out });
    let python = named_python(arguments.python.as_ref())?.unwrap_or_else(programs::python);
    let unstarted = |error: std::io::Error| {
        no_polars(format!("can't start `{python}`, the Python with polars: {}", reason(&error)))
    };
    let mut child = Command::new(&python)
        .args(["-c", PROGRAM])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(unstarted)?;
    if let Some(mut input) = child.stdin.take() {
        // If the program stopped reading, its own error says why.
        let _ = input.write_all(asked.to_string().as_bytes());
    }
    let ended = child.wait_with_output().map_err(unstarted)?;
    let said = String::from_utf8_lossy(&ended.stderr).trim_end().to_owned();
    match ended.status.code() {
        Some(0) => {
            if !said.is_empty() {
                output::note(&format!("{said}\n"));
            }
            Ok(CommandStatus::Success)
        }
        Some(NO_POLARS) if said.is_empty() => {
            Err(no_polars(format!("`{python}` has no polars, which answers queries")))
        }
        Some(NO_POLARS) => Err(no_polars(format!("`{python}` has {said}, and queries need 2.1 or newer"))),
        Some(REFUSED) => Err(Problem::usage("wrong-query", said).help(
            "the tables are runs, metrics, samples, answers, rewards and tables; `select * from runs` shows \
             the columns of one, and a name with a dot is written in double quotes",
        )),
        _ => {
            let last = said.lines().last().unwrap_or("it says nothing");
            Err(Problem::run("wrong-query", format!("polars in `{python}` failed: {last}")))
        }
    }
}

fn no_polars(message: String) -> Problem {
    Problem::usage("no-polars", message).help(format!(
        "install it beside mopd, `pip install 'mopd[query]'` or `pip install 'polars>=2.1'`, or name a Python that has it: \
         `--python PATH`, or {VARIABLE} in the environment"
    ))
}

/// The folders of single runs: of a sweep, those of its runs that have begun.
fn folders(paths: &[PathBuf]) -> Vec<PathBuf> {
    let of = |path: &PathBuf| match SweepFolder::read(path) {
        None => vec![path.clone()],
        Some(sweep) => {
            sweep.folders(path).into_iter().filter(|run| run.join("plan.json").is_file()).collect()
        }
    };
    paths.iter().flat_map(of).collect()
}

/// The columns of a run in the table `runs`: its circumstances, then its settings.
fn facts(run: &RunFolder) -> Map<String, Value> {
    let RunFolder { path, plan, results, provenance, .. } = run;
    let results = results.as_ref();
    let seeds = |results: &Results| results.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let circumstances = [
        ("experiment", json!(plan.experiment.name)),
        ("finished", json!(results.is_some())),
        ("started", json!(provenance.as_ref().map(|provenance| &provenance.started))),
        ("seconds", json!(whole_seconds(path))),
        ("peak_memory", json!(results.map(|results| results.peak_memory))),
        ("seeds", json!(results.map(seeds))),
        ("plan", json!(plan.hash)),
        ("mopd", json!(results.map(|results| &results.versions.mopd))),
        ("libtorch", json!(results.map(|results| &results.versions.libtorch))),
    ];
    let mut facts: Map<String, Value> =
        circumstances.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let set = provenance.iter().flat_map(|provenance| &provenance.set);
    facts.extend(run_settings(plan, set));
    facts
}
