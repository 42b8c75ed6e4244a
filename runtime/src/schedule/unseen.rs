//! Says what the keys of reused results do not include.

use std::collections::BTreeSet;
use std::path::Path;

use mopd_plan::events::RunJob;
use mopd_plan::{Reward, keys};
use mopd_store::write_whole;

use super::Work;
use super::preflight::judged_by;
use super::prepared::PreparedPlan;
use crate::control::Control;
use crate::prepare::ProgramFiles;
use crate::store::Store;

/// Warns when results of a program are reused for the first time from this store: what can't be hashed may
/// have changed since.
pub(super) fn warn_of_reuse(
    job: &RunJob,
    prepared: &PreparedPlan,
    waiting: impl Fn(usize) -> bool,
    control: &Control,
) {
    let experiment = &job.plan.experiment;
    let reused = || prepared.tasks.iter().enumerate().filter(|(index, _)| !waiting(*index));
    let domains: BTreeSet<_> = reused().flat_map(|(_, task)| judged_by(&job.plan, task)).collect();
    let rewards = domains.into_iter().map(|id| {
        let reward = &experiment.domain(id).reward;
        let name = format!("the reward of `{}`", experiment.domain(id).name);
        (name, &prepared.domains[id.0 as usize].programs, Some(reward))
    });
    let stages: BTreeSet<_> = reused()
        .filter_map(|(_, task)| match task.work {
            Work::Stage(id) => Some(id),
            Work::Evaluate { .. } => None,
        })
        .collect();
    let rollouts = stages.into_iter().map(|id| {
        let name = format!("the programs of the rollouts of `{}`", experiment.model(id).name);
        (name, &prepared.environments[id.0 as usize], None)
    });
    for (name, programs, reward) in rewards.chain(rollouts) {
        let mut unseen: Vec<&str> = Vec::new();
        let of_programs = programs.iter().flat_map(|program| &program.unseen).map(String::as_str);
        let inputs = reward.into_iter().flat_map(|reward| reward.facts().inputs);
        for what in of_programs.chain(inputs.filter_map(|input| input.unseen)) {
            // Several programs of a reward have most of these in common.
            if !unseen.contains(&what) {
                unseen.push(what);
            }
        }
        if !unseen.is_empty() && is_first(Path::new(&job.store), programs, reward) {
            control.warn(format!(
                "reused: results that depend on {name}. Their keys do not include {}\n  help: if one of these has \
                 changed, `--from STAGE` computes a stage again; `depends: [...]` adds files to the key. This is \
                 said once",
                unseen.join(", ")
            ));
        }
    }
}

/// Notes that this reward, or these programs of rollouts, were named, and returns whether they were not
/// before.
fn is_first(store: &Path, programs: &[ProgramFiles], reward: Option<&Reward>) -> bool {
    let hashes: Vec<&str> = programs.iter().map(|program| program.hash.as_str()).collect();
    let reward = reward.map(Reward::without_paths);
    let name = keys::hash("mopd named inputs", 1, &(reward, hashes)).to_hex();
    let path = Store::notes(store).join("named").join(name.as_str());
    // Where it can't be noted, it is said again.
    let first = !path.exists();
    let _ = write_whole(&path, b"");
    first
}
