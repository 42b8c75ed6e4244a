//! The check of `mopd check --files` and `mopd run --dry-run`: asks the worker whether everything that a run
//! reads exists and is valid, except the weights of models, and whether its rewards answer.

use std::path::Path;

use mopd_plan::Plan;
use mopd_plan::events::{Event, Failure, Job, RunJob};

use super::run::job_of;
use crate::problem::Problem;
use crate::worker;

/// The problems of a run of the plan with this many processes, in the plan's order. `file` is the experiment.
pub fn refused(plan: &Plan, file: &Path, processes: u32) -> Result<Vec<Failure>, Problem> {
    let job = Job::Files(Box::new(RunJob { processes, ..job_of(plan, file, Path::new("."))? }));
    let mut refused = Vec::new();
    let failed = |failure: &Failure| Problem::run("files-not-checked", failure.message.clone());
    let status = worker::ask(&job, failed, |event| {
        if let Event::Refused(failure) = event {
            refused.push(failure);
        }
    })?;
    if status.success() { Ok(refused) } else { Err(worker::death(status)) }
}
