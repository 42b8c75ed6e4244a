//! `mopd plan`: the stages of a run and their cost.

use std::collections::BTreeSet;
use std::path::Path;

use mopd_experiment::{AuthorProgram, Experiment, RewardProgram, Train};
use mopd_lang::Analysis;
use mopd_lang::check::NamedObjective;
use mopd_lang::source::FileId;
use mopd_lang::syntax::ast::ItemKind;
use mopd_plan::difference::NamedPlan;
use mopd_plan::events::{Event, Failure, Job, Prediction, RunJob};
use mopd_plan::{self as plan, Stage};
use mopd_store::programs::CommandSources;
use serde::Serialize;
use serde_json::{Map, Value};

use super::run::job_of;
use super::sweep::{self, CheckedSweep, Sweep};
use super::{cluster, plan_json, plan_to_run, report, why};
use crate::args::{Format, PlanArgs, PlanFormat, PredictMode};
use crate::compile::plan_of;
use crate::figures;
use crate::host::{self, folder_of};
use crate::output::{self, Style};
use crate::problem::{CommandStatus, Problem};
use crate::render::outline::Programs;
use crate::render::{self, outline};
use crate::run_folder::out_folder;
use crate::worker;

pub fn plan(arguments: &PlanArgs) -> Result<CommandStatus, Problem> {
    if arguments.format == PlanFormat::Dot {
        return Err(Problem::not_supported("`--format dot`").help("the formats are tree and json"));
    }
    if arguments.predict.is_some() && arguments.format == PlanFormat::Json {
        return Err(Problem::usage(
            "no-prediction",
            "a plan as JSON has no predictions, because they hold for one machine only".to_owned(),
        )
        .help("leave out `--format json`, or `--predict`"));
    }
    let mut analysis = host::analyse_file(&arguments.file, &arguments.overrides.set)?;
    // With the file's own values, which are those of no run, it may have errors.
    let sweeps = match &analysis.experiment {
        Some(experiment) => !experiment.sweep.is_empty(),
        None => analysis.has_errors() && has_sweep(&analysis),
    };
    if sweeps {
        let checked = sweep::check(&arguments.file, &arguments.overrides.set, &mut |_| ())?;
        match &checked.sweep {
            Some(sweep) if sweep.is_swept() => return planned(sweep, &checked, arguments),
            Some(_) => {}
            // The values in the file may be valid, but no run has them.
            None if arguments.format == PlanFormat::Json || analysis.experiment.is_none() => {
                return Ok(invalid(&checked));
            }
            None => {}
        }
    }
    if arguments.why {
        let plan = plan_to_run(&mut analysis);
        report(&analysis);
        return match plan {
            Some(plan) => {
                why::why(&plan, arguments, &out_folder(None, &plan)).map(|()| CommandStatus::Success)
            }
            None => Ok(CommandStatus::Failure),
        };
    }
    let plan = plan_of(&mut analysis);
    // Shows what is known, even of an experiment that can't run.
    match (&analysis.experiment, &plan) {
        (Some(_), Some(plan)) if arguments.format == PlanFormat::Json => output::result(&plan_json(plan)?),
        (Some(experiment), plan) if arguments.format == PlanFormat::Tree => {
            let programs = programs(experiment, &folder_of(&arguments.file))?;
            let run = plan.as_ref().map(|plan| NamedPlan { name: String::new(), plan });
            output::result(&outline::tree(experiment, run.as_slice(), &programs, Style::of_stdout()));
            match (plan, &arguments.cluster) {
                (Some(plan), Some(cluster)) => cluster::predict(plan, cluster)?,
                (Some(plan), None) => predict(plan, arguments, &mut Predictions::default())?,
                (None, _) => {}
            }
        }
        (None, _) if !analysis.has_errors() => {
            let objectives: Vec<&NamedObjective> =
                analysis.objectives.iter().filter(|named| named.public).collect();
            if !objectives.is_empty() {
                library(&analysis, &objectives, arguments.format);
                report(&analysis);
                return Ok(CommandStatus::Success);
            }
            let mut missing = super::no_experiment(&analysis.sources);
            if let Some(help) = missing.help.as_mut().filter(|_| !analysis.objectives.is_empty()) {
                help.push_str(", or write `pub objective` to see its normal form");
            }
            analysis.diagnostics.push(missing);
        }
        _ => {}
    }
    report(&analysis);
    Ok(if plan.is_some() { CommandStatus::Success } else { CommandStatus::Failure })
}

fn has_sweep(analysis: &Analysis) -> bool {
    let items = analysis.index.tree(FileId(0)).map_or(&[][..], |tree| tree.items.as_slice());
    items.iter().any(|item| matches!(item.kind, ItemKind::Sweep { .. }))
}

/// What `--format json` writes of a sweep.
#[derive(Serialize)]
struct SweepPlans<'a> {
    runs: Vec<PlannedRun<'a>>,
}

#[derive(Serialize)]
struct PlannedRun<'a> {
    values: Map<String, Value>,
    /// `None` if it can't run.
    plan: Option<&'a plan::Plan>,
}

/// The plan of a file that sweeps: its first run in full, the costs of all runs together, and what is asked
/// for of each run.
fn planned(sweep: &Sweep, checked: &CheckedSweep, arguments: &PlanArgs) -> Result<CommandStatus, Problem> {
    let runs = sweep.plans();
    let format = if arguments.format == PlanFormat::Json { Format::Json } else { Format::Human };
    if arguments.format == PlanFormat::Json && !arguments.why {
        let runs = sweep.members.iter().map(|member| PlannedRun {
            values: sweep::values(member),
            plan: member.compiled.as_ref().map(|compiled| &compiled.plan),
        });
        let runs = runs.collect();
        output::result(&plan_json(&SweepPlans { runs })?);
        return Ok(invalid(checked));
    }
    if let Some(experiment) = checked.analysis.experiment.as_ref().filter(|_| !arguments.why) {
        let programs = programs(experiment, &folder_of(&arguments.file))?;
        output::result(&outline::tree(experiment, &runs, &programs, Style::of_stdout()));
    }
    let mut predictions = Predictions::default();
    let folder = sweep.folder(None);
    for (index, member) in sweep.members.iter().enumerate() {
        let Some(compiled) = &member.compiled else { continue };
        let plan = &compiled.plan;
        let announce = || sweep.announcement(index, format).iter().for_each(|text| output::result(text));
        match &arguments.cluster {
            _ if arguments.why => {
                announce();
                why::why(plan, arguments, &member.out(&folder))?;
            }
            Some(cluster) => {
                announce();
                cluster::predict(plan, cluster)?;
            }
            None if arguments.predict.is_none_or(|mode| mode == PredictMode::Never) => {
                // Trials of many runs take long, so they are made for all runs only if that is asked for.
                predict(plan, arguments, &mut predictions)?;
                if !predictions.is_empty() {
                    output::note(&format!(
                        "the predictions above are of the run with {}; `--predict` predicts every run\n",
                        member.name()
                    ));
                }
                break;
            }
            None => {
                announce();
                predict(plan, arguments, &mut predictions)?;
            }
        }
    }
    if arguments.predict.is_some() && !predictions.is_empty() {
        output::result(&predictions.text());
    }
    Ok(invalid(checked))
}

/// Reports the diagnostics of a sweep; a failure if there are runs that can't run.
fn invalid(checked: &CheckedSweep) -> CommandStatus {
    report(&checked.analysis);
    output::error(&checked.refused_text());
    let all = checked.sweep.is_some() && checked.refused.is_empty();
    if all { CommandStatus::Success } else { CommandStatus::Failure }
}

/// The predictions so far, of all runs of a sweep.
#[derive(Default)]
struct Predictions {
    /// Seed and key of each: a stage that several runs share is computed once.
    known: BTreeSet<(u64, String)>,
    seconds: f64,
    /// The largest memory of a stage, in bytes.
    memory: u64,
}

impl Predictions {
    /// Whether it is the first of this stage.
    fn add(&mut self, plan: &plan::Plan, stage: &str, seed: u64, prediction: &Prediction) -> bool {
        let mut models = plan.experiment.models.iter().zip(&plan.stages);
        let key = models.find(|(model, _)| model.name == stage).map(|(_, facts)| &facts.key);
        let is_new = key.is_none_or(|key| self.known.insert((seed, key.clone())));
        if is_new {
            self.seconds += prediction.seconds;
            self.memory = self.memory.max(prediction.memory);
        }
        is_new
    }

    fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    fn text(&self) -> String {
        let (seconds, memory) = (figures::duration(self.seconds), figures::bytes(self.memory));
        format!(
            "predicted for all runs: about {seconds} if stages run one after another, at most {memory} in one \
             stage\n"
        )
    }
}

/// The files of the programs of an experiment's rewards and rollouts; `base` is the folder they run in.
fn programs(experiment: &Experiment, base: &Path) -> Result<Programs, Problem> {
    let mut programs = Programs::default();
    let of = |command: &str, depends: &[String], user: String| {
        CommandSources::find(command, depends, base).map_err(|error| {
            Problem::usage("can't-read", format!("{user}: {error}"))
                .help("paths are relative to the folder of the experiment's file")
        })
    };
    let domains = experiment.domains.iter().map(|domain| ("domain", &domain.name, &domain.reward));
    let evals = experiment.benchmarks.iter().map(|eval| ("eval", &eval.name, &eval.reward));
    for (kind, name, reward) in domains.chain(evals) {
        for RewardProgram { command, depends, is_function } in reward.facts().programs {
            let program = of(command, depends, format!("{kind} `{name}`"))?;
            let program = if is_function { program.of_function() } else { program };
            programs.rewards.entry(name.clone()).or_default().push(program);
        }
    }
    for model in &experiment.models {
        let parts: Vec<Train> =
            outline::trained(&model.stage).into_iter().flat_map(|(_, train)| train.parts()).collect();
        for AuthorProgram { command, depends, .. } in parts.iter().flat_map(|part| part.rollout.programs()) {
            let program = of(command, depends, format!("model `{}`", model.name))?;
            programs.of_rollouts.insert(command.to_owned(), program);
        }
    }
    Ok(programs)
}

/// Predicts the cost of each stage, where that is requested or otherwise unknown: printed after the rest of
/// the plan, stage by stage as it becomes known.
fn predict(plan: &plan::Plan, arguments: &PlanArgs, predictions: &mut Predictions) -> Result<(), Problem> {
    let in_files = |stage: &Stage<_>| match stage {
        Stage::Load(_) => true,
        Stage::Initialise(architecture) => architecture.tokenizer.vocabulary().is_none(),
        Stage::Train(_) | Stage::Merge(_) | Stage::Joint(_) | Stage::Learner { .. } => false,
    };
    let loads = plan.experiment.models.iter().any(|model| in_files(&model.stage));
    let mode = match arguments.predict {
        Some(mode) => mode,
        None if loads => PredictMode::Quick,
        None => PredictMode::Never,
    };
    let trains = |stage: &Stage<_>| stage.trains().iter().any(|train| train.options.private.is_some());
    // The noise of a private stage follows from its data.
    let private =
        arguments.predict.is_none() && plan.experiment.models.iter().any(|model| trains(&model.stage));
    if mode == PredictMode::Never && !private {
        return Ok(());
    }
    match predicted(plan, mode, arguments, predictions) {
        Err(problem) if arguments.predict.is_none() => {
            let what = if mode == PredictMode::Never { "noise" } else { "prediction of time and memory" };
            // The rest of the plan is useful without it.
            output::error(&format!("no {what}: {}\n", problem.message()));
            Ok(())
        }
        other => other,
    }
}

fn predicted(
    plan: &plan::Plan,
    mode: PredictMode,
    arguments: &PlanArgs,
    predictions: &mut Predictions,
) -> Result<(), Problem> {
    let job = RunJob { predict: mode.into(), ..job_of(plan, &arguments.file, Path::new("."))? };
    if mode != PredictMode::Never {
        output::note("measuring what the stages take on this machine\n");
    }
    let (mut said, mut private): (BTreeSet<String>, BTreeSet<String>) = Default::default();
    let failed = |failure: &Failure| Problem::run("no-prediction", failure.message.clone());
    let status = worker::ask(&Job::Predict(Box::new(job)), failed, |event| match event {
        Event::Predicted { stage, seed, prediction } => {
            // Another seed takes as long, and what an earlier run computes is not computed again.
            if !predictions.add(plan, &stage, seed, &prediction) || !said.insert(stage.clone()) {
                return;
            }
            let took = figures::predicted(prediction.seconds, prediction.range());
            let memory = figures::bytes(prediction.memory);
            output::result(&format!("predicted {stage}: {took}, peak memory {memory}\n"));
        }
        Event::Private(stage) if private.insert(stage.stage.clone()) => {
            output::result(&format!("private {}: {}\n", stage.stage, figures::privacy(&stage)));
        }
        Event::PredictionEnded { seconds, short, late } => {
            if let Some(left_out) = figures::left_out(seconds, short, late) {
                output::note(&format!("{left_out}\n"));
            }
        }
        _ => {}
    })?;
    if status.success() { Ok(()) } else { Err(worker::death(status)) }
}

/// The public items of a file without an experiment.
fn library(analysis: &Analysis, objectives: &[&NamedObjective], format: PlanFormat) {
    match format {
        PlanFormat::Json => output::result(&render::library::json(objectives)),
        PlanFormat::Tree | PlanFormat::Dot => {
            let path = analysis.sources.files().next().map_or("", |(_, file)| file.path.as_str());
            output::result(&render::library::tree(path, objectives, Style::of_stdout()));
        }
    }
}
