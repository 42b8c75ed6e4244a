//! Whether the store's disk has space for what a run writes, before anything is trained.

use std::collections::HashSet;
use std::path::Path;

use mopd_plan::events::{FailureKind, RunJob};
use mopd_plan::{ModelId, Objective, Stage};
use mopd_store::files::free_space;
use mopd_store::{Folder, StoreItemKind};

use super::prepared::PreparedPlan;
use super::{Keys, Work};
use crate::control::Control;
use crate::failure::{Error, Result};
use crate::model::Weights;
use crate::prepare::ModelSpec;

/// Refuses a stage whose result alone exceeds the free space, and warns where all results and the checkpoints
/// of one stage do: the run then goes as far as it can, and other things may be deleted meanwhile.
pub(super) fn check(
    job: &RunJob,
    prepared: &PreparedPlan,
    keys: &Keys,
    waiting: impl Fn(usize) -> bool,
    control: &Control,
) -> Result<()> {
    let store = Path::new(&job.store);
    let Some(free) = free_space(store) else { return Ok(()) };
    let (mut seen, mut results, mut states) = (HashSet::new(), 0, 0);
    let mut largest = (0, ModelId(0));
    for (index, task) in prepared.tasks.iter().enumerate().filter(|(index, _)| waiting(*index)) {
        let Work::Stage(id) = task.work else { continue };
        if !seen.insert(keys.of(index)) {
            continue;
        }
        let stage = &job.plan.experiment.model(id).stage;
        let result = bytes_of_result(stage, &prepared.specs, id);
        results += result;
        // The last two are kept.
        states = states.max(2 * bytes_of_state(stage, &prepared.specs));
        if result > largest.0 {
            largest = (result, id);
        }
    }
    if results + states <= free {
        return Ok(());
    }
    let free = free + given_way(store);
    let (needed, id) = largest;
    if needed > free {
        let model = job.plan.experiment.model(id);
        let message = format!(
            "the disk has no space for the result of `{}`: it takes {}, but only {} are free for {}",
            model.name,
            size(needed),
            size(free),
            store.display()
        );
        let way = "free some space and run again: finished stages are kept; `mopd cache prune` deletes what no \
            run needs";
        return Err(Error::new(FailureKind::Storage, message).help(way).at(model.origin));
    }
    if results + states > free {
        control.warn(format!(
            "the disk of {} may become full: {} are free, and this run writes {} of results and up to {} of \
            checkpoints at a time; finished stages are kept if it does",
            store.display(),
            size(free),
            size(results),
            size(states)
        ));
    }
    Ok(())
}

/// Bytes of checkpoints and scores, which make room for results or become them.
fn given_way(store: &Path) -> u64 {
    let items = Folder::at(store).items().unwrap_or_default();
    let gives_way = |kind| matches!(kind, StoreItemKind::Checkpoint | StoreItemKind::Scores);
    items.iter().filter(|item| gives_way(item.kind)).map(|item| item.bytes).sum()
}

/// Least bytes of a stage's models in the store, which are in single precision.
fn bytes_of_result(stage: &Stage<Objective>, specs: &[ModelSpec], id: ModelId) -> u64 {
    let of = |id: ModelId| 4 * Weights::parameters(&specs[id.0 as usize].config) as u64;
    match stage {
        // The first is not stored, and the second is, with the others of its joint stage.
        Stage::Load(_) | Stage::Learner { .. } => 0,
        Stage::Initialise(_) | Stage::Merge(_) | Stage::Train(_) => of(id),
        Stage::Joint(_) => stage.trains().iter().map(|train| of(train.start)).sum(),
    }
}

/// Least bytes of a checkpoint: the trained weights and the optimizer's moments, where all weights train.
fn bytes_of_state(stage: &Stage<Objective>, specs: &[ModelSpec]) -> u64 {
    let trains = stage.trains().into_iter().filter(|train| train.trainable.is_all());
    let parameters = |id: ModelId| Weights::parameters(&specs[id.0 as usize].config) as u64;
    trains.map(|train| 4 * (1 + train.optimizer.moments()) * parameters(train.start)).sum()
}

fn size(bytes: u64) -> String {
    let (unit, name) = if bytes < 1 << 30 { (1 << 20, "MiB") } else { (1 << 30, "GiB") };
    format!("{:.2} {name}", bytes as f64 / f64::from(unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit_that_fits() {
        assert_eq!([300 << 10, 3 << 20, 5 << 29].map(size), ["0.29 MiB", "3.00 MiB", "2.50 GiB"]);
    }
}
