//! `mopd export --engine`: a stage of an experiment for an engine, and which of its settings are covered.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use mopd_compiler::export::coverage::Coverage;
use mopd_compiler::export::stage::{DomainPart, ExportRequest, RowFacts, trained};
use mopd_compiler::export::{ExportEngine, export as exported};
use mopd_experiment::SweepAxis;
use mopd_lang::diag::nearest;
use mopd_plan::{
    ExportedRewards, ModelId, Plan, Pretrained, PretrainedSource, RECORDS_FILE, REWARDS_FILE, Recipe, Stage,
};
use mopd_store::files::folder_of_model;
use mopd_store::named::NamedModel;
use serde_json::json;

use super::report::{self, LocatedReport};
use super::rows::{self, DomainRows};
use crate::args::{EngineName, ExportArgs};
use crate::commands::plan_to_run;
use crate::host::{self, folder_of};
use crate::output;
use crate::problem::{CommandStatus, Problem};
use crate::run_folder::out_folder;

impl From<EngineName> for ExportEngine {
    fn from(name: EngineName) -> ExportEngine {
        match name {
            EngineName::Verl => ExportEngine::Verl,
            EngineName::Trl => ExportEngine::Trl,
        }
    }
}

pub fn export(engine: EngineName, arguments: &ExportArgs) -> Result<CommandStatus, Problem> {
    let engine = ExportEngine::from(engine);
    let mut analysis = host::analyse_file(&arguments.path, &arguments.overrides.set)?;
    let plan = plan_to_run(&mut analysis);
    crate::commands::report(&analysis);
    let (Some(plan), Some(checked)) = (plan, &analysis.experiment) else { return Ok(CommandStatus::Failure) };
    one_run(&checked.sweep, &arguments.overrides.set)?;
    let model = stage(&plan, arguments.stage.as_deref())?;
    let base = folder_of(&arguments.path);
    // The report needs no data.
    let rows = if arguments.report { None } else { Some(rows::read(&plan, model, &base)?) };
    let facts: Option<Vec<RowFacts>> = rows.as_ref().map(|rows| rows.iter().map(DomainRows::facts).collect());
    let results = out_folder(None, &plan);
    let missing = RefCell::new(Vec::new());
    let folder = |name: &str| {
        let folder = results.join("models").join(folder_of_model(name, plan.experiment.seed));
        let exists = folder.is_dir();
        if !exists {
            missing.borrow_mut().push(name.to_owned());
        }
        (absolute(folder), exists)
    };
    let located = |pretrained: &Pretrained| located(pretrained, &base);
    let request = ExportRequest {
        rows: facts.as_deref(),
        ..ExportRequest::new(&plan, Some(checked), model, &folder, &located)
    };
    let (coverage, files) = exported(engine, request);
    let placed = LocatedReport { coverage: &coverage, plan: &plan, sources: &analysis.sources };
    let name = &plan.experiment.model(model).name;
    output::result(&report::text(&placed, name, engine, arguments.format));
    let Some((files, settings)) = files else {
        output::error(&refused(&coverage, name, engine));
        return Ok(CommandStatus::Failure);
    };
    let Some(rows) = rows else { return Ok(CommandStatus::Success) };
    let out = arguments.out.clone().unwrap_or_else(|| PathBuf::from(format!("{name}-{}", engine.name())));
    check_checkpoints(&out)?;
    for file in &files.files {
        write(&out, &file.name, &file.text)?;
    }
    // Those of another stage.
    for left in [REWARDS_FILE, RECORDS_FILE] {
        let _ = std::fs::remove_file(out.join(left));
    }
    let lines = rows::lines(engine, &settings, &rows, &files)?;
    write(&out, "train.jsonl", &lines)?;
    if files.judged {
        let reward = |part: &DomainPart| (part.domain.name.clone(), part.domain.reward.clone());
        let domains = settings.domains.iter().map(reward).collect();
        let rewards = ExportedRewards { base: absolute(base), domains };
        write(&out, REWARDS_FILE, &format!("{:#}\n", json!(rewards)))?;
        write(&out, RECORDS_FILE, &rows::records(&rows))?;
    }
    let report = report::text(&placed, name, engine, crate::args::Format::Human);
    write(&out, "COVERAGE.txt", &report)?;
    output::note(&format!("wrote {}; `sh {}` trains\n", out.display(), out.join("launch.sh").display()));
    let mut missing = missing.into_inner();
    missing.dedup();
    if !missing.is_empty() {
        output::error(&format!(
            "warning: the weights of {} are not there yet: `mopd run` makes them\n",
            missing.join(", ")
        ));
    }
    Ok(CommandStatus::Success)
}

/// Refuses a folder in which another program has saved checkpoints: the new one would continue from them.
fn check_checkpoints(out: &Path) -> Result<(), Problem> {
    let folder = out.join("checkpoints");
    let is_empty = std::fs::read_dir(&folder).map_or(true, |mut entries| entries.next().is_none());
    if is_empty {
        return Ok(());
    }
    let message = format!("{} has checkpoints of a program that was written here before", folder.display());
    Err(Problem::usage("checkpoints-there", message)
        .help("move or delete them, since the new program would continue from them, or write to another folder with `--out DIR`"))
}

fn absolute(folder: PathBuf) -> String {
    std::path::absolute(&folder).unwrap_or(folder).display().to_string()
}

/// Where published weights are, as a run finds them: a name on the hub, or an absolute path. `base` is the
/// folder of the experiment.
pub fn located(pretrained: &Pretrained, base: &Path) -> String {
    match &pretrained.source {
        PretrainedSource::HuggingFace { name, .. } => match NamedModel::resolve(name, base) {
            NamedModel::Repository => name.clone(),
            NamedModel::Folder(folder) | NamedModel::Nowhere(folder) => absolute(folder),
        },
        PretrainedSource::Checkpoint { folder: path } | PretrainedSource::Gguf { file: path } => {
            absolute(base.join(path))
        }
    }
}

/// Refuses a file with several runs, since an export is of one.
fn one_run(sweep: &[SweepAxis], set: &[(String, String)]) -> Result<(), Problem> {
    let open: Vec<&SweepAxis> =
        sweep.iter().filter(|axis| !set.iter().any(|(name, _)| *name == axis.parameter)).collect();
    if open.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = open.iter().map(|axis| format!("`{}`", axis.parameter)).collect();
    let first = |axis: &&SweepAxis| Some(format!("--set {}={}", axis.parameter, axis.values.first()?.value));
    let chosen: Vec<String> = open.iter().filter_map(first).collect();
    let message = format!("the file sweeps over {}, and an export is of one run", names.join(" and "));
    Err(Problem::usage("several-runs", message)
        .help(format!("select a run with its values, such as `{}`", chosen.join(" "))))
}

/// The stages of an experiment by engines: whether each can train it.
pub fn matrix(arguments: &ExportArgs) -> Result<CommandStatus, Problem> {
    let mut analysis = host::analyse_file(&arguments.path, &arguments.overrides.set)?;
    let plan = plan_to_run(&mut analysis);
    crate::commands::report(&analysis);
    let (Some(plan), Some(checked)) = (plan, &analysis.experiment) else { return Ok(CommandStatus::Failure) };
    one_run(&checked.sweep, &arguments.overrides.set)?;
    let base = folder_of(&arguments.path);
    let (folder, located) =
        (|name: &str| (name.to_owned(), true), |weights: &Pretrained| located(weights, &base));
    let columns = [(ExportEngine::Verl, false), (ExportEngine::Trl, false), (ExportEngine::Trl, true)];
    let heading = |(engine, by_run): (ExportEngine, bool)| match by_run {
        true => format!("run --engine {}", engine.name()),
        false => format!("export to {}", engine.name()),
    };
    let mut rows = vec![[vec!["stage".to_owned()], columns.map(heading).to_vec()].concat()];
    for (model, named) in trained(&plan) {
        let word = |(engine, by_run)| {
            let request = ExportRequest {
                by_run,
                ..ExportRequest::new(&plan, Some(checked), model, &folder, &located)
            };
            exported(engine, request).0.whole().to_owned()
        };
        rows.push([vec![named.name.clone()], columns.map(word).to_vec()].concat());
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..=columns.len()).map(width).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        output::result(&format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end()));
    }
    output::note(
        "`mopd export --engine E --stage S --report` says what an engine can't express of a stage\n",
    );
    Ok(CommandStatus::Success)
}

/// The stage by name; without one the first distillation with a route, else the last stage that trains.
fn stage(plan: &Plan, wanted: Option<&str>) -> Result<ModelId, Problem> {
    let stages: Vec<_> = trained(plan).collect();
    let Some(wanted) = wanted else {
        // Later ones are often baselines, and stages without a route are steps towards it.
        let distils = |stage: &Stage<_>| match stage {
            Stage::Train(train) => train.recipe == Recipe::Distill && !train.scorers.routed().is_empty(),
            _ => false,
        };
        let first = stages.iter().find(|(_, model)| distils(&model.stage)).or(stages.last());
        return first.map(|(id, _)| *id).ok_or_else(|| {
            Problem::usage(
                "nothing-to-export",
                "the experiment has no stage that trains, so there is nothing to export",
            )
        });
    };
    if let Some((id, _)) = stages.iter().find(|(_, model)| model.name == wanted) {
        return Ok(*id);
    }
    let names: Vec<&str> = stages.iter().map(|(_, model)| model.name.as_str()).collect();
    let problem =
        Problem::usage("unknown-stage", format!("the experiment has no stage `{wanted}` that trains"));
    Err(match nearest(wanted, names.iter().copied()) {
        Some(meant) => problem.help(format!("did you mean `--stage '{meant}'`?")),
        None => problem.help(format!("the stages that train are {}", names.join(", "))),
    })
}

fn refused(coverage: &Coverage, stage: &str, engine: ExportEngine) -> String {
    let count = coverage.refused().count();
    let what = if count == 1 { "1 construct".to_owned() } else { format!("{count} constructs") };
    format!(
        "nothing was written: {} {} cannot express {what} of \
        `{stage}`\n",
        engine.name(),
        engine.version()
    )
}

fn write(folder: &Path, name: &str, text: &str) -> Result<(), Problem> {
    let path = folder.join(name);
    let parent = path.parent().unwrap_or(folder);
    std::fs::create_dir_all(parent)
        .and_then(|()| std::fs::write(&path, text))
        .map_err(|error| Problem::unwritten(&path, &error).help("`--out DIR` writes to another place"))
}
