//! The check of `mopd check --files` and `mopd run --dry-run`: asks the worker whether everything that a run
//! reads exists and is valid, except the weights of models, and whether its rewards answer.

use std::path::Path;

use mopd_plan::Plan;
use mopd_plan::events::{Event, Failure, FailureKind, Job, RunJob};
use mopd_store::host_memory;

use super::Compiled;
use super::run::{job_of, stages_named};
use crate::args::RunArgs;
use crate::problem::Problem;
use crate::worker;

/// The problems of the files and rewards of a plan, in the plan's order. `file` is the experiment.
pub fn refused(plan: &Plan, file: &Path) -> Result<Vec<Failure>, Problem> {
    let mut refused = asked(job_of(plan, file, Path::new("."))?)?;
    // The plan may be for another machine.
    refused.retain(|failure| !matches!(failure.kind, FailureKind::Memory | FailureKind::Storage));
    Ok(refused)
}

/// The problems of a run on this machine with results in `out`, in the plan's order.
pub fn refused_run(compiled: &Compiled, arguments: &RunArgs, out: &Path) -> Result<Vec<Failure>, Problem> {
    let fresh = arguments.fresh;
    let from = stages_named(&arguments.from, compiled)?;
    let job = job_of(&compiled.plan, &arguments.file, out)?;
    asked(RunJob { fresh, from, ..job })
}

/// Whether the upper bound of a stage's memory is more than this machine has, as far as both are known.
pub fn may_not_fit(plan: &Plan) -> bool {
    let Some(available) = host_memory::available() else { return false };
    let needed = plan.stages.iter().filter_map(|facts| facts.cost.memory).max().unwrap_or(0);
    needed > available
}

fn asked(job: RunJob) -> Result<Vec<Failure>, Problem> {
    let job = Job::Files(Box::new(job));
    let mut refused = Vec::new();
    let failed = |failure: &Failure| Problem::run("files-not-checked", failure.message.clone());
    let status = worker::ask(&job, failed, |event| {
        if let Event::Refused(failure) = event {
            refused.push(failure);
        }
    })?;
    if status.success() { Ok(refused) } else { Err(worker::death(status)) }
}
