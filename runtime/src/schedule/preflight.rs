//! Checks of rewards, environments and servers before the first stage.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::Path;

use mopd_plan::events::{Event, FailureKind, RunJob, Versions};
use mopd_plan::{Device, DomainId, ModelId, Plan, SCHEMA};

use super::disk_space::{self, StoredResults};
use super::fits::{self, ModelSizes};
use super::memory_budget::DeviceMemoryBudget;
use super::prepared::{PreparedPlan, keys_of, prepared};
use super::private::private_stages;
use super::{Task, Work};
use crate::control::Control;
use crate::failure::{Error, Result};
use crate::machine::arithmetic::Arithmetic;
use crate::machine::place::Place;
use crate::prepare::cache::DataCache;
use crate::prepare::probe::{BegunEnvironments, FirstRow, ask, begin, look};
use crate::prepare::{ModelSpec, ReadContext, configs, longest_on_servers, opened_specs, prepare};
use crate::remote::StudentIdentity;
use crate::store::Store;

pub(super) fn check_schema(plan: &Plan) -> Result<()> {
    if plan.schema == SCHEMA {
        return Ok(());
    }
    let message = format!("the plan has schema {}, but this worker supports {SCHEMA}", plan.schema);
    Err(Error::new(FailureKind::Runtime, message).help("build mopd and mopd-worker from the same sources"))
}

/// Calls each verifier, environment and server once that tasks without a stored result will use.
pub(super) fn ask_all(
    plan: &Plan,
    prepared: &PreparedPlan,
    base: &Path,
    waiting: impl Fn(usize) -> bool,
    control: &Control,
) -> Result<()> {
    let PreparedPlan { tasks, domains, .. } = prepared;
    for domain in judged(plan, tasks, &waiting) {
        ask(&domains[domain.0 as usize], control)?;
    }
    let rows: Vec<Option<FirstRow>> = domains.iter().map(FirstRow::find).collect();
    let stages = tasks.iter().enumerate().filter_map(|(index, task)| match task.work {
        Work::Stage(id) => waiting(index).then_some(id),
        Work::Evaluate { .. } => None,
    });
    let mut begun = BegunEnvironments::new();
    for id in stages.collect::<BTreeSet<ModelId>>() {
        let model = plan.experiment.model(id);
        for train in model.stage.trains() {
            begin(train, base, &rows, &mut begun, control).map_err(|error| error.at(model.origin))?;
        }
    }
    ask_servers(plan, prepared, waiting, control)
}

/// Checks that servers of the stages without a stored result respond, and that teachers' servers have the
/// student's token ids.
fn ask_servers(
    plan: &Plan,
    prepared: &PreparedPlan,
    waiting: impl Fn(usize) -> bool,
    control: &Control,
) -> Result<()> {
    let mut compared = BTreeSet::new();
    for (index, task) in prepared.tasks.iter().enumerate() {
        let Work::Stage(id) = task.work else { continue };
        let model = plan.experiment.model(id);
        for train in model.stage.trains().into_iter().filter(|_| waiting(index)) {
            if train.served().next().is_none() && train.sampled_by().next().is_none() {
                continue;
            }
            let longest = longest_on_servers(train, &prepared.domains, &prepared.specs);
            let longest = longest.map_err(|error| error.at(model.origin))? as usize;
            let tokenizer = &prepared.specs[train.start.0 as usize].tokenizer;
            let student = StudentIdentity { tokenizer, longest, dtype: plan.experiment.dtype };
            let outcome = prepared.servers.compare_tokenizers(train, student, &mut compared, control);
            outcome.map_err(|error| error.at(model.origin))?;
            let outcome = prepared.servers.check_sampling(train, student, control);
            outcome.map_err(|error| error.at(model.origin))?;
        }
    }
    Ok(())
}

/// The domains whose verifiers are used by tasks without a stored result.
fn judged(plan: &Plan, tasks: &[Task], waiting: impl Fn(usize) -> bool) -> BTreeSet<DomainId> {
    let waited = tasks.iter().enumerate().filter(|(index, _)| waiting(*index));
    waited.flat_map(|(_, task)| judged_by(plan, task)).collect()
}

/// The domains whose verifiers a task uses.
pub(super) fn judged_by(plan: &Plan, task: &Task) -> BTreeSet<DomainId> {
    let mut judged = BTreeSet::new();
    match &task.work {
        Work::Stage(id) => {
            for train in plan.experiment.model(*id).stage.trains() {
                let shares = train.mixture.iter().filter(|_| train.is_judged());
                judged.extend(shares.map(|share| share.domain));
                judged.extend(train.extrapolation.as_ref().map(|of| of.judged_by));
            }
        }
        Work::Evaluate { domain, .. } => judged.extend([*domain]),
    }
    judged
}

/// Reports which data of a plan can't be read, which rewards don't respond, and what does not fit in memory
/// or on a disk, without reading weights. Where all models that a plan loads are here, also checks that the
/// data fits them, with contexts and templates.
pub fn files(job: &RunJob, versions: &Versions, place: Place, control: &Control) -> Result<()> {
    let plan = &job.plan;
    check_schema(plan)?;
    let (base, store) = (Path::new(&job.base), Path::new(&job.store));
    let cache = DataCache::default();
    let places = ReadContext { base, notes: &Store::notes(store), cache: Some(&cache), store: None };
    let tasks = super::tasks(plan);
    let fine = Cell::new(true);
    let refuse = |error: Error| {
        if let Error::Failed(failure) = error {
            fine.set(false);
            control.emit(&Event::Refused(*failure));
        }
    };
    let mut warnings = look(plan, &super::stages(&tasks), places, control, refuse)?;
    if fine.get() {
        match fits_here(job, &tasks, places, versions, place, control) {
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => refuse(error),
            Ok(of_models) => warnings.extend(of_models),
        }
    }
    let mut said = BTreeSet::new();
    warnings.retain(|warning| said.insert(warning.clone()));
    warnings.into_iter().for_each(|warning| control.warn(warning));
    Ok(())
}

/// Checks that models and results fit on this machine, and, where no model needs to be fetched, that the data
/// fits the models. Returns the warnings.
fn fits_here(
    job: &RunJob,
    tasks: &[Task],
    places: ReadContext,
    versions: &Versions,
    place: Place,
    control: &Control,
) -> Result<Vec<String>> {
    let plan = &job.plan;
    let sizes = ModelSizes::of_configs(&configs(plan, places.base)?);
    // Of a model that is too large, no tokenizer needs to be read.
    resources_suffice(job, tasks, &sizes, versions, place, control)?;
    let Some(specs) = opened_specs(plan, places.base)? else { return Ok(Vec::new()) };
    data_fits(plan, tasks, &specs, places)
}

/// Checks that the data of stages and tables fits the models. Returns the warnings of a run.
fn data_fits(plan: &Plan, tasks: &[Task], specs: &[ModelSpec], places: ReadContext) -> Result<Vec<String>> {
    let (domains, warnings) = prepare(plan, &super::stages(tasks), specs, places)?;
    private_stages(plan, tasks, &domains).map(|_| warnings)
}

/// Refuses stages as a run does whose weights alone exceed the memory, or whose results alone exceed the free
/// space of a disk.
fn resources_suffice(
    job: &RunJob,
    tasks: &[Task],
    sizes: &ModelSizes,
    versions: &Versions,
    place: Place,
    control: &Control,
) -> Result<()> {
    let place = if job.plan.experiment.device == Some(Device::Cpu) { Place::cpu() } else { place };
    let device_memory = DeviceMemoryBudget::detect(1, place);
    let check = |waiting: &dyn Fn(usize) -> bool, stored: Option<StoredResults>| {
        fits::weights(job, tasks, sizes, &device_memory, waiting)?;
        disk_space::refuse(job, tasks, sizes, waiting, stored)
    };
    let Err(too_large) = check(&|_| true, None) else { return Ok(()) };
    // The store may have the results of stages that do not fit. Keys are computed only now, since they need
    // everything that a run reads.
    let folder = Path::new(&job.store);
    let store = if folder.is_dir() { Store::open(folder).ok() } else { None };
    let Some(store) = store.filter(|_| !job.fresh) else { return Err(too_large) };
    let prepared = match prepared(job, None, Some(&store), control) {
        Ok(prepared) => prepared,
        Err(Error::Interrupted) => return Err(Error::Interrupted),
        // That something is too large is known, whatever else is wrong.
        Err(_) => return Err(too_large),
    };
    let keys = keys_of(job, &prepared, &Arithmetic::of_this_machine(&versions.libtorch), place);
    let forced = super::forced(&job.plan, tasks, &job.from);
    let kept = |index| keys.all_of(index).all(|key| store.has(key));
    let waiting = |index: usize| forced[index] || !kept(index);
    check(&waiting, Some(StoredResults { keys: &keys, store: &store }))
}
