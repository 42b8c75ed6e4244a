//! The tasks of a plan and their order: stages per seed, then evaluations.

mod adapters;
mod disk_space;
mod elsewhere;
mod engine;
mod evaluation;
mod exclusive;
mod fits;
mod guards;
mod inputs;
mod keys;
mod locking;
mod memory_budget;
mod names;
mod predicted;
mod preflight;
mod prepared;
mod private;
mod published;
mod rerun_reasons;
mod results;
mod resume;
mod run;
pub mod sample;
mod scores;
mod servers;
mod stage;
mod unseen;

use std::collections::{BTreeSet, HashMap};

use mopd_plan::events::RunJob;
use mopd_plan::{DomainId, Evaluation, ModelId, Objective, Plan, Stage, TableColumn};

pub use keys::{KeyInputs, Keys, fork_of};
pub use memory_budget::DeviceMemoryBudget;
pub use preflight::files;
pub use prepared::predict;
pub use rerun_reasons::explain_reruns;
pub use run::{JobProgress, run};
pub use servers::servers;

use crate::model::{Config, Weights};
pub use crate::prepare::check::steps;
use crate::prepare::{DomainData, ModelSpec};
use crate::random::stream_of;
use crate::report::results::seeds;

/// One unit of work.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    pub seed: u64,
    pub work: Work,
    /// Indices of the tasks whose weights this one reads; all smaller than its own.
    pub needs: Vec<usize>,
    /// Predicted operations from the start of this task to the end of the longest chain that waits for it.
    pub critical_path: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    Stage(ModelId),
    /// A model on the tests of a domain, for the comparisons in the list, which share the result.
    Evaluate {
        model: ModelId,
        domain: DomainId,
        evaluation: Evaluation,
        comparisons: Vec<usize>,
    },
}

/// The stages that `wanted` need, themselves included, in the order of the plan.
pub fn closure(plan: &Plan, wanted: impl IntoIterator<Item = ModelId>) -> Vec<ModelId> {
    let models = &plan.experiment.models;
    let mut needed = vec![false; models.len()];
    for model in wanted {
        needed[model.0 as usize] = true;
    }
    for index in (0..models.len()).rev() {
        if needed[index] {
            for input in models[index].stage.inputs() {
                needed[input.0 as usize] = true;
            }
        }
    }
    (0..models.len()).filter(|&index| needed[index]).map(|index| ModelId(index as u32)).collect()
}

/// The tasks of a plan: those that its comparisons need, or all models where it has no comparison. Stages
/// come first, seed by seed in the order of the plan, then evaluations.
pub fn tasks(plan: &Plan) -> Vec<Task> {
    let comparisons = &plan.experiment.comparisons;
    let mut wanted: Vec<(u64, BTreeSet<ModelId>)> = Vec::new();
    let mut want = |seed: u64, models: &mut dyn Iterator<Item = ModelId>| match wanted
        .iter_mut()
        .find(|(known, _)| *known == seed)
    {
        Some((_, set)) => set.extend(models),
        None => wanted.push((seed, models.collect())),
    };
    for comparison in comparisons {
        for seed in seeds(plan, comparison) {
            want(seed, &mut comparison.evaluations().into_iter().map(|(model, _)| model));
        }
    }
    if comparisons.is_empty() {
        want(plan.experiment.seed, &mut (0..plan.experiment.models.len()).map(|index| ModelId(index as u32)));
    }

    let mut tasks = Vec::new();
    let mut place = HashMap::new();
    for (seed, models) in wanted {
        for model in closure(plan, models) {
            place.insert((model, seed), tasks.len());
            let needs = plan
                .experiment
                .model(model)
                .stage
                .inputs()
                .iter()
                .map(|input| place[&(*input, seed)])
                .collect();
            tasks.push(Task { seed, work: Work::Stage(model), needs, critical_path: 0.0 });
        }
    }
    for (index, comparison) in comparisons.iter().enumerate() {
        for seed in seeds(plan, comparison) {
            for (model, column) in comparison.evaluations() {
                let TableColumn { domain, evaluation, metrics: _ } = &comparison.columns[column];
                let same = |task: &&mut Task| match &task.work {
                    Work::Evaluate { model: of, domain: on, evaluation: by, comparisons: _ } => {
                        (task.seed, of, on, by) == (seed, &model, domain, evaluation)
                    }
                    Work::Stage(_) => false,
                };
                if let Some(Task { work: Work::Evaluate { comparisons, .. }, .. }) =
                    tasks.iter_mut().find(same)
                {
                    comparisons.push(index);
                    continue;
                }
                let (domain, evaluation) = (*domain, evaluation.clone());
                let work = Work::Evaluate { model, domain, evaluation, comparisons: vec![index] };
                tasks.push(Task { seed, work, needs: vec![place[&(model, seed)]], critical_path: 0.0 });
            }
        }
    }
    for index in (0..tasks.len()).rev() {
        // Short tasks that nothing waits for go last.
        if let Work::Stage(model) = tasks[index].work {
            tasks[index].critical_path += plan.stages[model.0 as usize].cost.flops.unwrap_or(0.0) + 1.0;
        }
        let critical_path = tasks[index].critical_path;
        for need in tasks[index].needs.clone() {
            let after = &mut tasks[need].critical_path;
            *after = after.max(critical_path);
        }
    }
    tasks
}

/// The stages among the tasks, each model once.
pub fn stages(tasks: &[Task]) -> Vec<ModelId> {
    let models: BTreeSet<ModelId> = tasks
        .iter()
        .filter_map(|task| if let Work::Stage(model) = task.work { Some(model) } else { None })
        .collect();
    models.into_iter().collect()
}

/// Which tasks are computed even if the store has their results: the stages named in `from`, and all tasks
/// that depend on them.
pub fn forced(plan: &Plan, tasks: &[Task], from: &[String]) -> Vec<bool> {
    let mut forced: Vec<bool> = Vec::with_capacity(tasks.len());
    for task in tasks {
        // A stage is also named by each further model that it trains.
        let beside = |made: ModelId, stage: &Stage<Objective>| {
            let Stage::Learner { joint, .. } = stage else { return false };
            *joint == made
        };
        let named = match task.work {
            Work::Stage(made) => plan.experiment.models.iter().zip(0..).any(|(model, id)| {
                (ModelId(id) == made || beside(made, &model.stage)) && from.contains(&model.name)
            }),
            Work::Evaluate { .. } => false,
        };
        forced.push(named || task.needs.iter().any(|need| forced[*need]));
    }
    forced
}

/// Parameters from which on a model's products keep several cores busy.
const LARGE: usize = 10_000_000;

/// Whether a task is a stage that trains.
fn trains(plan: &Plan, task: &Task) -> bool {
    matches!(task.work, Work::Stage(id) if !plan.experiment.model(id).stage.trains().is_empty())
}

/// Number of cores that compute with a model. It depends on the model alone: sums over several cores are
/// taken in another order, and a result must not depend on which tasks ran when.
pub fn threads_of(config: &Config, cores: usize) -> usize {
    if Weights::parameters(config) >= LARGE { cores.max(1) } else { 1 }
}

/// Whether an engine trains a task's stage.
fn on_engine(job: &RunJob, task: &Task) -> bool {
    let Work::Stage(model) = task.work else { return false };
    job.engine.as_ref().is_some_and(|engine| engine.stage(model).is_some())
}

/// Number of cores of each task, by its model.
pub fn threads(tasks: &[Task], specs: &[ModelSpec], cores: usize) -> Vec<usize> {
    let width = |task: &Task| {
        let (Work::Stage(model) | Work::Evaluate { model, .. }) = task.work;
        threads_of(&specs[model.0 as usize].config, cores)
    };
    tasks.iter().map(width).collect()
}

/// Selects a stage's random numbers by the plan and the content of the stage's prompts, wherever these are
/// stored.
pub fn stream(plan: &Plan, model: ModelId, domains: &[DomainData]) -> u64 {
    let of_plan = plan.stages[model.0 as usize].stream;
    let trains = plan.experiment.model(model).stage.trains();
    if trains.is_empty() {
        return of_plan;
    }
    let content = trains
        .iter()
        .flat_map(|train| train.mixture.iter().map(move |share| (train, share)))
        .filter_map(|(train, share)| domains.get(share.domain.0 as usize)?.rows_of(train));
    let content: Vec<&str> = content.map(|prompts| prompts.dataset.hash.as_str()).collect();
    stream_of(&format!("{of_plan} {}", content.join(" ")))
}
