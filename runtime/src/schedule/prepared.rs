//! A plan with its models and data, read and checked before the first task.

use std::path::Path;

use mopd_plan::events::{Event, RunJob, Versions};
use mopd_plan::results::PrivateStage;

use super::fits::{self, ModelSizes};
use super::memory_budget::DeviceMemoryBudget;
use super::predicted::{Predicted, TasksToDo};
use super::private::private_stages;
use super::{KeyInputs, Keys, Task, preflight};
use crate::control::Control;
use crate::failure::{Error, Result};
use crate::machine::arithmetic::{self, Arithmetic, Numeric};
use crate::machine::place::Place;
use crate::prepare::cache::DataCache;
use crate::prepare::{DomainData, ModelSpec, ProgramFiles, ReadContext, model_specs, prepare, programs};
use crate::remote::Servers;
use crate::store::Store;
use crate::tokenizer::chat;
use crate::zip::zip_equal;

/// A plan with its data.
pub(super) struct PreparedPlan {
    pub(super) tasks: Vec<Task>,
    pub(super) specs: Vec<ModelSpec>,
    /// Number of cores of each task.
    pub(super) widths: Vec<usize>,
    pub(super) domains: Vec<DomainData>,
    /// For each model's stage, the programs that its rollouts start.
    pub(super) environments: Vec<Vec<ProgramFiles>>,
    pub(super) servers: Servers,
    /// The privacy loss of private stages.
    pub(super) private: Vec<PrivateStage>,
}

/// The keys of everything that a run computes.
pub(super) fn keys_of(job: &RunJob, prepared: &PreparedPlan, arithmetic: &Arithmetic, place: Place) -> Keys {
    let PreparedPlan { tasks, specs, widths, domains, environments, servers, private: _ } = prepared;
    let dtype = job.plan.experiment.dtype.name();
    let numeric =
        Numeric { arithmetic, dtype, device: arithmetic::device_of_key(place, job.plan.experiment.gpu) };
    let hashes = |programs: &Vec<ProgramFiles>| programs.iter().map(|program| program.hash.clone()).collect();
    let environments: Vec<Vec<String>> = environments.iter().map(hashes).collect();
    Keys::new(&KeyInputs {
        plan: &job.plan,
        tasks,
        specs,
        domains,
        environments: &environments,
        servers,
        numeric: &numeric,
        forks: &job.forks,
        widths,
        engine: job.engine.as_ref(),
    })
}

/// Reads models and data of a plan, and checks them.
pub(super) fn prepared(
    job: &RunJob,
    cache: Option<&DataCache>,
    store: Option<&Store>,
    control: &Control,
) -> Result<PreparedPlan> {
    let plan = &job.plan;
    preflight::check_schema(plan)?;
    chat::look_at_the_clock();
    let base = Path::new(&job.base);
    let tasks = super::tasks(plan);
    let places = ReadContext { base, notes: &Store::notes(Path::new(&job.store)), cache, store };
    let specs = model_specs(plan, places)?;
    let (domains, warnings) = prepare(plan, &super::stages(&tasks), &specs, places)?;
    for warning in warnings {
        control.warn(warning);
    }
    let (private, warnings) = private_stages(plan, &tasks, &domains)?;
    warnings.into_iter().for_each(|warning| control.warn(warning));
    let mut widths = super::threads(&tasks, &specs, cores());
    for (width, task) in zip_equal(&mut widths, &tasks) {
        // Its processes take all cores.
        *width = if super::on_engine(job, task) { cores() } else { *width };
    }
    let environments = plan.experiment.models.iter().map(|model| {
        let trains = model.stage.trains();
        let each = trains.into_iter().map(|train| programs(train, base));
        let all = each.collect::<Result<Vec<_>>>().map_err(|error| error.at(model.origin))?;
        Ok(all.into_iter().flatten().collect())
    });
    let environments = environments.collect::<Result<_>>()?;
    Ok(PreparedPlan {
        servers: Servers::open(plan, base, control)?,
        tasks,
        specs,
        widths,
        domains,
        environments,
        private,
    })
}

/// Reports the predicted time and memory of each stage of a plan, without running it.
pub fn predict(job: &RunJob, versions: &Versions, place: Place, control: &Control) -> Result<()> {
    let folder = Path::new(&job.store);
    // The run that follows reuses tokens from the store, unless it can't be written.
    let store = Store::open(folder).ok();
    let prepared = prepared(job, None, store.as_ref(), control)?;
    prepared.private.iter().for_each(|stage| control.emit(&Event::Private(stage.clone())));
    let device_memory = DeviceMemoryBudget::detect(workers(job, &prepared.tasks), place);
    let keys = keys_of(job, &prepared, &Arithmetic::of_this_machine(&versions.libtorch), place);
    let to_do = TasksToDo { keys: &keys, waiting: &|_| true, done: &|_| 0 };
    let sizes = ModelSizes::of_specs(&prepared.specs);
    // The rest of the plan holds for larger machines, too.
    let refused = match fits::weights(job, &prepared.tasks, &sizes, &device_memory, |_| true) {
        Ok(()) => {
            let predicted = Predicted::new(job, &prepared, folder, place, &device_memory, control, to_do)?;
            fits::predicted(&job.plan, &prepared.tasks, &predicted, &device_memory, control)
        }
        refused => refused,
    };
    match refused {
        Err(Error::Failed(failure)) => {
            let help = failure.help.as_deref().map_or_else(String::new, |help| format!("\n  help: {help}"));
            control.warn(format!("a run on this machine would be refused: {}{help}", failure.message));
            Ok(())
        }
        other => other,
    }
}

/// Number of tasks that may run in parallel.
pub(super) fn workers(job: &RunJob, tasks: &[Task]) -> usize {
    job.workers.map_or(cores(), |workers| workers as usize).clamp(1, tasks.len().max(1))
}

pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
