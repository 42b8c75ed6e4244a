//! Refuses, before anything runs, the settings that several processes can't train together yet.

use mopd_plan::events::{FailureKind, RunJob};
use mopd_plan::{DivergenceParameter, Objective, Producer, Stage, Train, producers};

use super::{Task, Work};
use crate::failure::{Error, Result};
use crate::machine::place::Place;

/// Most processes: each is connected to every other one.
const MOST: u32 = 64;

/// Refuses stages without a stored result that the processes of a job can't train together.
pub(super) fn check(
    job: &RunJob,
    tasks: &[Task],
    place: Place,
    waiting: impl Fn(usize) -> bool,
) -> Result<()> {
    if job.processes == 1 {
        return Ok(());
    }
    let processes = job.processes;
    if !(2..=MOST).contains(&processes) {
        let help = "each process holds all weights; use at most as many processes as there are cores";
        return Err(failed(&format!("a run can have 1 to {MOST} processes, not {processes}")).help(help));
    }
    if matches!(place.device, tch::Device::Cuda(_)) {
        return Err(unsupported("a GPU"));
    }
    if !job.forks.is_empty() {
        return Err(unsupported("a stage that starts from a checkpoint of another stage"));
    }
    for (_, task) in tasks.iter().enumerate().filter(|(index, _)| waiting(*index)) {
        let Work::Stage(id) = task.work else { continue };
        let model = job.plan.experiment.model(id);
        let named = |what: &str| unsupported(&format!("`{}`: {what}", model.name)).at(model.origin);
        match &model.stage {
            Stage::Joint(_) => return Err(named("a stage that trains several models")),
            Stage::Train(train) => {
                if let Some(what) = of_stage(train) {
                    return Err(named(&what));
                }
                let parts = train.mini_batches.max(1);
                if let Some(rollout) = train.rollouts().find(|rollout| rollout.groups / parts < processes) {
                    let mut asked = rollout.producer.kind().groups_setting(rollout.groups);
                    if parts > 1 {
                        asked += &format!(" in {parts} mini-batches");
                    }
                    let message = format!(
                        "`{}`: {processes} processes cannot split the data of a step, {asked}",
                        model.name
                    );
                    return Err(failed(&message)
                        .help(
                            "each process needs at least one prompt: use fewer processes, or more \
                            prompts per step",
                        )
                        .at(model.origin));
                }
            }
            Stage::Initialise(_) | Stage::Load(_) | Stage::Merge(_) | Stage::Learner { .. } => {}
        }
    }
    Ok(())
}

fn failed(message: &str) -> Error {
    Error::new(FailureKind::Runtime, message)
}

fn unsupported(what: &str) -> Error {
    failed(&format!("{what} is not supported yet with `--processes`"))
        .help("run it with one process: leave out `--processes`")
}

/// The first unsupported setting of a stage that trains one model.
fn of_stage(train: &Train<Objective>) -> Option<String> {
    let settings = [
        (train.private.is_some(), "a private stage"),
        (train.extrapolation.is_some(), "`extrapolate`"),
        (train.alignment.is_some(), "`gradient_alignment`"),
        (train.curriculum.is_some(), "a choice of prompts (`priority`, `refresh`)"),
        (!train.panels.is_empty(), "a panel"),
        (!train.feedback.is_empty(), "feedback that a model writes"),
        (train.trains_scalar_head(), "a student that learns values (`student.value`)"),
        (train.trains_second_head(), "a student with a second head"),
        (train.served().next().is_some(), "a teacher on a server"),
        (train.trajectory().is_some(), "a rollout that begins at every turn of the data"),
    ];
    let choices = || train.scorers.iter().flat_map(|(_, scorer)| &scorer.choices);
    let scorers = [
        (choices().any(|choice| choice.own_tokens), "a teacher with another tokenizer"),
        (
            choices()
                .filter_map(|choice| choice.teacher.composition())
                .flat_map(|composition| &composition.members)
                .any(|member| whole_batch(&member.weight)),
            "a composed teacher whose weights compare the prompts of a step",
        ),
    ];
    let found = settings.into_iter().chain(scorers).find(|(there, _)| *there);
    let undivided =
        || train.producers().flat_map(Producer::all).find_map(|of| of.kind().unshardable_reason());
    let found = found.map(|(_, what)| what).or_else(undivided).map(str::to_owned);
    found.or_else(|| train.objectives().find_map(|(_, objective)| of_objective(objective, train)))
}

fn of_objective(objective: &Objective, train: &Train<Objective>) -> Option<String> {
    let sampler = producers::sampler(objective, &train.rollout);
    let parts = [
        (objective.chosen.is_some() || !objective.agreements().is_empty(), "a term over blocks"),
        (!objective.recorded().is_empty(), "the student's log-probabilities of recorded text"),
        (!objective.attempts().is_empty(), "`correct` of a teacher"),
        (objective.learned.is_some(), "`learned(...)`"),
        (
            objective.divergences().iter().flat_map(|of| of.parameters()).any(whole_batch),
            "a divergence whose weights compare the prompts of a step",
        ),
        (
            train.passes > 1 && !matches!(sampler, Ok(None)),
            "the sampler's distribution in several passes over the same rollouts",
        ),
    ];
    let found = parts.into_iter().find(|(there, _)| *there);
    found.map(|(_, what)| format!("the objective `{}` with {what}", objective.name))
}

/// Whether a parameter combines several prompts of a step: each process would only have its own prompts.
fn whole_batch(parameter: &DivergenceParameter) -> bool {
    let DivergenceParameter::Formula(formula) = parameter else { return false };
    formula.graph.compares_prompts()
}
