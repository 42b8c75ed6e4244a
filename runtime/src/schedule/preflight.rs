//! What is asked before the first stage.

use std::collections::BTreeSet;
use std::path::Path;

use mopd_compiler::plan::events::{Event, FailureKind, RunJob};
use mopd_compiler::plan::{DomainId, ModelId, Plan, SCHEMA};

use super::prepared::PreparedPlan;
use super::{Task, Work};
use crate::control::Control;
use crate::failure::{Error, Result};
use crate::prepare::Places;
use crate::prepare::preflight::{BegunEnvironments, FirstRow, ask, begin, look};
use crate::store::Store;

pub(super) fn check_schema(plan: &Plan) -> Result<()> {
    if plan.schema == SCHEMA {
        return Ok(());
    }
    let message = format!("the plan has schema {}, this worker reads {SCHEMA}", plan.schema);
    Err(Error::new(FailureKind::Runtime, message).help("build mopd and mopd-worker from the same sources"))
}

/// Asks once who will be asked by tasks that are waited for: verifiers of domains, environments of stages.
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
    let rows: Vec<Option<FirstRow>> = domains.iter().map(FirstRow::of).collect();
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

/// Whether the ids of the stages that are waited for mean the same on their teachers' servers, and whether
/// these answer.
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
            let spec = &prepared.specs[train.start.0 as usize];
            let (student, context) = (&spec.tokenizer, spec.config.context);
            let outcome =
                prepared.servers.compare_tokenizers(train, student, context, &mut compared, control);
            outcome.map_err(|error| error.at(model.origin))?;
            let dtype = plan.experiment.dtype;
            let outcome = prepared.servers.check_sampling(train, (student, context, dtype), control);
            outcome.map_err(|error| error.at(model.origin))?;
        }
    }
    Ok(())
}

/// The domains whose verifiers are asked by tasks that are waited for.
fn judged(plan: &Plan, tasks: &[Task], waiting: impl Fn(usize) -> bool) -> BTreeSet<DomainId> {
    let mut judged = BTreeSet::new();
    for (_, task) in tasks.iter().enumerate().filter(|(index, _)| waiting(*index)) {
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
    }
    judged
}

/// Says what of a plan can't be read, and which rewards don't answer; models are left alone.
pub fn files(job: &RunJob, control: &Control) -> Result<()> {
    let plan = &job.plan;
    check_schema(plan)?;
    let (base, store) = (Path::new(&job.base), Path::new(&job.store));
    let places = Places { base, notes: &Store::notes(store), cache: None, store: None };
    let refused = |error: Error| {
        if let Error::Failed(failure) = error {
            control.emit(&Event::Refused(*failure));
        }
    };
    look(plan, &super::stages(&super::tasks(plan)), places, control, refused)
}
