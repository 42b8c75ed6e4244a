//! `mopd plan`: the stages of a run and their cost.

use std::path::Path;

use mopd_compiler::plan::events::{Event, Failure, Job};
use mopd_compiler::plan::{self, Stage};
use mopd_lang::Analysis;
use mopd_lang::check::NamedObjective;
use mopd_lang::experiment::{Experiment, Train};
use mopd_store::programs::Program;

use super::run::job_of;
use super::{plan_json, plan_of, report};
use crate::args::{PlanArgs, PlanFormat};
use crate::host::{self, folder_of};
use crate::output::{self, Style};
use crate::problem::{Problem, Status};
use crate::render::outline::{Predictions, Programs};
use crate::render::{self, outline};
use crate::worker;

pub fn plan(arguments: &PlanArgs) -> Result<Status, Problem> {
    if arguments.why {
        return Err(Problem::not_supported("`mopd plan --why`"));
    }
    if arguments.format == PlanFormat::Dot {
        return Err(Problem::not_supported("`--format dot`").help("the formats are tree and json"));
    }
    if arguments.predict && arguments.format == PlanFormat::Json {
        return Err(Problem::usage(
            "no-prediction",
            "a plan as JSON has no predictions: they are of one machine".to_owned(),
        )
        .help("leave out `--format json`, or `--predict`"));
    }
    let mut analysis = host::analyse_file(&arguments.file, &arguments.overrides.set)?;
    let plan = plan_of(&mut analysis);
    // What is known is shown, even of an experiment that can't run.
    match (&analysis.experiment, &plan) {
        (Some(_), Some(plan)) if arguments.format == PlanFormat::Json => output::result(&plan_json(plan)?),
        (Some(experiment), plan) if arguments.format == PlanFormat::Tree => {
            let predictions = match plan {
                Some(plan) => predictions(plan, arguments)?,
                None => Predictions::new(),
            };
            let programs = programs(experiment, &folder_of(&arguments.file))?;
            output::result(&outline::tree(
                experiment,
                plan.as_ref(),
                &programs,
                &predictions,
                Style::of_stdout(),
            ));
        }
        (None, _) if !analysis.has_errors() => {
            let objectives: Vec<&NamedObjective> =
                analysis.objectives.iter().filter(|named| named.public).collect();
            if !objectives.is_empty() {
                library(&analysis, &objectives, arguments.format);
                report(&analysis);
                return Ok(Status::Good);
            }
            analysis.diagnostics.push(super::no_experiment(&analysis.sources));
        }
        _ => {}
    }
    report(&analysis);
    Ok(if plan.is_some() { Status::Good } else { Status::Wrong })
}

/// What the programs of rewards and rollouts of an experiment are made of; `base` is the folder that they run
/// in.
fn programs(experiment: &Experiment, base: &Path) -> Result<Programs, Problem> {
    let mut programs = Programs::default();
    let of = |command: &str, depends: &[String], user: String| {
        Program::of(command, depends, base).map_err(|error| {
            Problem::usage("can't-read", format!("{user}: {error}"))
                .help("paths are relative to the folder of the experiment's file")
        })
    };
    let domains = experiment.domains.iter().map(|domain| ("domain", &domain.name, &domain.reward));
    let evals = experiment.benchmarks.iter().map(|eval| ("eval", &eval.name, &eval.reward));
    for (kind, name, reward) in domains.chain(evals) {
        for (command, depends) in reward.commands() {
            let program = of(command, depends, format!("{kind} `{name}`"))?;
            programs.rewards.entry(name.clone()).or_default().push(program);
        }
    }
    for model in &experiment.models {
        let parts: Vec<Train> =
            outline::trained(&model.stage).into_iter().flat_map(|(_, train)| train.parts()).collect();
        for (_, command, depends) in parts.iter().flat_map(|part| part.rollout.programs()) {
            let program = of(command, depends, format!("model `{}`", model.name))?;
            programs.of_rollouts.insert(command.to_owned(), program);
        }
    }
    Ok(programs)
}

/// What each stage will take, where that is asked for or nothing else can say it.
fn predictions(plan: &plan::Plan, arguments: &PlanArgs) -> Result<Predictions, Problem> {
    let in_files = |stage: &Stage<_>| match stage {
        Stage::Load(_) => true,
        Stage::Initialise(architecture) => architecture.tokenizer.vocabulary().is_none(),
        Stage::Train(_) | Stage::Merge(_) | Stage::Joint(_) | Stage::Learner { .. } => false,
    };
    if !arguments.predict && !plan.experiment.models.iter().any(|model| in_files(&model.stage)) {
        return Ok(Predictions::new());
    }
    match predicted(plan, arguments) {
        Err(problem) if !arguments.predict => {
            // The rest of the plan is worth showing.
            output::error(&format!("no prediction of time and memory: {}\n", problem.message()));
            Ok(Predictions::new())
        }
        other => other,
    }
}

fn predicted(plan: &plan::Plan, arguments: &PlanArgs) -> Result<Predictions, Problem> {
    let job = Job::Predict(Box::new(job_of(plan, &arguments.file, Path::new("."))?));
    let mut found = Predictions::new();
    let failed = |failure: &Failure| Problem::run("no-prediction", failure.message.clone());
    let status = worker::ask(&job, failed, |event| {
        if let Event::Predicted { stage, prediction, .. } = event {
            found.insert(stage, prediction);
        }
    })?;
    if status.success() { Ok(found) } else { Err(worker::death(status)) }
}

/// What a file without an experiment has to offer.
fn library(analysis: &Analysis, objectives: &[&NamedObjective], format: PlanFormat) {
    match format {
        PlanFormat::Json => output::result(&render::library::json(objectives)),
        PlanFormat::Tree | PlanFormat::Dot => {
            let path = analysis.sources.files().next().map_or("", |(_, file)| file.path.as_str());
            output::result(&render::library::tree(path, objectives, Style::of_stdout()));
        }
    }
}
