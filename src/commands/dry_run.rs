//! `mopd run --dry-run`: whether a run could start, what it would run, and where results would go. No model
//! is loaded or made, and no file remains.

use std::path::Path;
use std::rc::Rc;

use mopd_lang::Analysis;
use mopd_lang::diag::{Code, Diagnostic};
use mopd_plan::Plan;
use mopd_store::Lock;
use mopd_store::files::try_to_write;
use serde_json::{Value, json};

use super::run::{STORE, engine, stages_named};
use super::sweep::{Sweep, SweepRun};
use super::{Compiled, files};
use crate::args::{Format, RunArgs};
use crate::host::{self, as_text};
use crate::libtorch;
use crate::output::{self, Style, counted};
use crate::problem::{CommandStatus, Problem};
use crate::render;
use crate::run_lock::{self, LOCK};
use crate::worker;

pub fn dry_run(arguments: &RunArgs, sweep: &Sweep, folder: &Path) -> Result<CommandStatus, Problem> {
    let worker = worker::find()?;
    let libtorch = libtorch::find()?.libtorch;
    for (_, compiled) in sweep.compiled() {
        stages_named(&arguments.from, compiled)?;
        engine::engine(arguments, &compiled.plan)?;
    }
    if Lock::is_held(&folder.join(LOCK)) {
        let message = format!("another run writes to {} now", folder.display());
        return Err(Problem::usage("folder-in-use", message)
            .help("wait until it ends, or give this run its own folder with `--out DIR`"));
    }
    run_lock::check_folder(folder)?;
    for written in [folder, Path::new(STORE)] {
        try_to_write(written)?;
    }
    if refused(arguments, sweep.compiled(), folder)? {
        return Ok(CommandStatus::Failure);
    }
    let (analysis, _) = host::check_file(&arguments.file, &arguments.overrides.set)?;
    missing(&analysis);
    let left_out = left_out(&analysis);
    let stages = |plan: &Plan| -> Vec<String> {
        let names = plan.experiment.models.iter().map(|model| model.name.clone());
        names.filter(|name| !left_out.contains(name)).collect()
    };
    let runs: Vec<(&SweepRun, &Plan)> =
        sweep.compiled().map(|(member, compiled)| (member, &compiled.plan)).collect();
    if arguments.format == Format::Json {
        let of_run = |(member, plan): &(&SweepRun, &Plan)| -> Result<Value, Problem> {
            let out = as_text(&member.out(folder))?;
            let (stages, tables) = (stages(plan), &plan.experiment.comparisons);
            let tables: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
            Ok(
                json!({ "out": out, "plan": plan.hash, "stages": stages, "seeds": seeds(plan), "tables": tables }),
            )
        };
        let runs: Vec<Value> = runs.iter().map(of_run).collect::<Result<_, _>>()?;
        let line = json!({ "event": "dry_run", "out": as_text(folder)?, "store": STORE, "runs": runs });
        output::result(&format!("{line}\n"));
        return Ok(CommandStatus::Success);
    }
    for (member, plan) in &runs {
        let name = if sweep.is_swept() { format!(" [{}]", member.name()) } else { String::new() };
        let (stages, tables) = (stages(plan), plan.experiment.comparisons.len());
        output::result(&format!(
            "{}{name}: {} on {}, {}: {}\n",
            plan.experiment.name,
            counted(stages.len(), "model"),
            counted(seeds(plan) as usize, "seed"),
            counted(tables, "table"),
            stages.join(", "),
        ));
    }
    output::result(&format!(
        "results in {}{}\n",
        folder.display(),
        folder_state(folder, if let [(_, only)] = runs.as_slice() { Some(only) } else { None })
    ));
    output::result(&format!("finished stages are taken from {STORE}; `mopd plan --why` says which\n"));
    let libtorch = libtorch.map_or_else(String::new, |it| format!(", libtorch {}", it.folder.display()));
    output::result(&format!("worker {}{libtorch}\n", worker.display()));
    Ok(CommandStatus::Success)
}

/// Reports everything that the runs could not use, once each. Returns whether there is any. `folder` is the
/// results folder of a sweep.
pub fn refused<'a>(
    arguments: &RunArgs,
    runs: impl Iterator<Item = (&'a SweepRun, &'a Rc<Compiled>)>,
    folder: &Path,
) -> Result<bool, Problem> {
    let mut said: Vec<String> = Vec::new();
    for (member, compiled) in runs {
        for failure in files::refused_run(compiled, arguments, &member.out(folder))? {
            let report = render::of_failure(&failure, &compiled.plan, &compiled.sources);
            let text = render::human::report(&report, Style::of_stderr());
            if !said.contains(&text) {
                output::error(&text);
                said.push(text);
            }
        }
    }
    Ok(!said.is_empty())
}

/// Reports missing files that the experiment names; no run reads them.
fn missing(analysis: &Analysis) {
    let of_files = |diagnostic: &&Diagnostic| diagnostic.code == Code::MissingFile;
    let missing: Vec<Diagnostic> = analysis.diagnostics.iter().filter(of_files).cloned().collect();
    output::error(&render::human::diagnostics(&missing, &analysis.sources, Style::of_stderr()));
}

/// The names of models that no table and no stage needs.
fn left_out(analysis: &Analysis) -> Vec<String> {
    let Some(experiment) = &analysis.experiment else { return Vec::new() };
    experiment.left_out().into_iter().map(|id| experiment.model(id).name.clone()).collect()
}

fn seeds(plan: &Plan) -> u32 {
    plan.experiment.comparisons.iter().map(|comparison| comparison.seeds).max().unwrap_or(1).max(1)
}

/// The state of the results folder. `only` is the plan of the only run.
fn folder_state(folder: &Path, only: Option<&Plan>) -> String {
    if !folder.join("results.json").is_file() {
        return String::new();
    }
    let same = only.is_some_and(|plan| super::ls::plan_of(folder).as_deref() == Some(plan.hash.as_str()));
    match same {
        true => ", which has those of the same plan".to_owned(),
        false => {
            format!(
                ", which has those of another plan; they are moved to \
                {}",
                folder.join("previous").display()
            )
        }
    }
}
