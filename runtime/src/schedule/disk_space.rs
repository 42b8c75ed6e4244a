//! Whether the disks of the store and of the results have space for what a run writes, before anything is
//! trained.

use std::collections::HashSet;
use std::path::Path;

use mopd_plan::events::{FailureKind, RunJob};
use mopd_plan::{ModelId, Objective, Stage, Train, Trainable};
use mopd_store::files::{free_space, is_on_file_system_of};
use mopd_store::{Folder, StoreItemKind};

use super::fits::ModelSizes;
use super::{Keys, Task, Work};
use crate::control::Control;
use crate::failure::{Error, Result};
use crate::store::Store;

/// The results that exist.
#[derive(Clone, Copy)]
pub(super) struct StoredResults<'a> {
    pub keys: &'a Keys,
    pub store: &'a Store,
}

/// What a run writes to a disk.
#[derive(Clone, Copy)]
struct DiskUse<'a> {
    folder: &'a Path,
    /// What is written there.
    what: &'static str,
    /// Bytes of all results.
    results: u64,
    /// The largest result.
    largest: (u64, ModelId),
    /// The most bytes of checkpoints at a time.
    states: u64,
    free: u64,
    way: &'static str,
}

impl DiskUse<'_> {
    fn add(&mut self, result: u64, id: ModelId) {
        self.results += result;
        self.largest = self.largest.max((result, id));
    }

    /// Refuses a result that alone exceeds the free space.
    fn check(&self, job: &RunJob) -> Result<()> {
        let (needed, id) = self.largest;
        if needed <= self.free {
            return Ok(());
        }
        let model = job.plan.experiment.model(id);
        let message = format!(
            "the disk has no space for the {} of `{}`: it takes {}, but only {} are free for {}",
            self.what,
            model.name,
            size(needed),
            size(self.free),
            self.folder.display()
        );
        Err(Error::new(FailureKind::Storage, message).help(self.way).at(model.origin))
    }

    /// Warns if the disk may become full.
    fn warn(&self, control: &Control) {
        if self.results + self.states <= self.free {
            return;
        }
        let checkpoints = match self.states {
            0 => String::new(),
            states => format!(" and up to {} of checkpoints at a time", size(states)),
        };
        control.warn(format!(
            "the disk of {} may become full: {} are free, and this run writes {} of {}s{checkpoints}; finished \
             stages are kept if it does",
            self.folder.display(),
            size(self.free),
            size(self.results),
            self.what,
        ));
    }
}

/// What tasks without a stored result write. Without `stored`, no result exists. Models of unknown size are
/// left out.
fn uses<'a>(
    job: &'a RunJob,
    tasks: &[Task],
    sizes: &ModelSizes,
    waiting: impl Fn(usize) -> bool,
    stored: Option<StoredResults>,
) -> Vec<DiskUse<'a>> {
    let (store, out) = (Path::new(&job.store), Path::new(&job.out));
    let none = (0, ModelId(0));
    let of_store = free_space(store).map(|free| {
        let way = "free some space and run again: finished stages are kept; `mopd cache prune` deletes what \
            no run needs";
        DiskUse { folder: store, what: "result", results: 0, largest: none, states: 0, free, way }
    });
    // Models there are links to the files of the store on one file system, and copies on another.
    let of_out = free_space(out).filter(|_| !is_on_file_system_of(out, store)).map(|free| {
        let way = "free some space there, or name another folder with `--out`: finished stages are kept";
        DiskUse { folder: out, what: "model", results: 0, largest: none, states: 0, free, way }
    });
    let (mut of_store, mut of_out, mut seen) = (of_store, of_out, HashSet::new());
    for (index, task) in tasks.iter().enumerate() {
        let Work::Stage(id) = task.work else { continue };
        let model = job.plan.experiment.model(id);
        if let Some(use_of_out) = &mut of_out {
            let published = stored
                .is_some_and(|of| of.store.is_published(of.keys.of(index), out, &model.name, task.seed));
            use_of_out.add(if published { 0 } else { bytes_of_result(&model.stage, sizes, id) }, id);
        }
        if let Some(use_of_store) = &mut of_store
            && waiting(index)
            && stored.is_none_or(|of| seen.insert(of.keys.of(index)))
        {
            use_of_store.add(bytes_of_result(&model.stage, sizes, id), id);
            let is_stored = stored.is_some_and(|of| of.store.has(&of.keys.of_base(index)));
            if is_base_of_adapter(job, id) && !is_stored {
                use_of_store.add(4 * sizes.parameters(id).unwrap_or(0), id);
            }
            // The last two are kept.
            use_of_store.states = use_of_store.states.max(2 * bytes_of_state(&model.stage, sizes));
        }
    }
    if let Some(use_of_store) = &mut of_store
        && use_of_store.results + use_of_store.states > use_of_store.free
    {
        use_of_store.free += given_way(store);
    }
    of_store.into_iter().chain(of_out).collect()
}

/// Refuses a stage whose result alone exceeds the free space.
pub(super) fn refuse(
    job: &RunJob,
    tasks: &[Task],
    sizes: &ModelSizes,
    waiting: impl Fn(usize) -> bool,
    stored: Option<StoredResults>,
) -> Result<()> {
    uses(job, tasks, sizes, waiting, stored).iter().try_for_each(|disk| disk.check(job))
}

/// The same, and warns where all results and the checkpoints of one stage exceed it: the run then goes as far
/// as it can, and other things may be deleted meanwhile.
pub(super) fn check(
    job: &RunJob,
    tasks: &[Task],
    sizes: &ModelSizes,
    waiting: impl Fn(usize) -> bool,
    (keys, store): (&Keys, &Store),
    control: &Control,
) -> Result<()> {
    let disks = uses(job, tasks, sizes, waiting, Some(StoredResults { keys, store }));
    disks.iter().try_for_each(|disk| disk.check(job))?;
    disks.iter().for_each(|disk| disk.warn(control));
    Ok(())
}

/// Bytes of checkpoints and scores, which make room for results or become them.
fn given_way(store: &Path) -> u64 {
    let items = Folder::at(store).items().unwrap_or_default();
    let gives_way = |kind| matches!(kind, StoreItemKind::Checkpoint | StoreItemKind::Scores);
    items.iter().filter(|item| gives_way(item.kind)).map(|item| item.bytes).sum()
}

/// Whether a model is a GGUF file to which some stage adds an adapter. It is stored as a folder, once.
fn is_base_of_adapter(job: &RunJob, id: ModelId) -> bool {
    let models = &job.plan.experiment.models;
    let adapts = |train: &Train<Objective>| {
        train.start == id && train.options.ema.is_none() && matches!(train.trainable, Trainable::Adapter(_))
    };
    job.plan.experiment.model(id).stage.loads_gguf()
        && models.iter().flat_map(|model| model.stage.trains()).any(adapts)
}

/// Least bytes of a stage's models, which are stored in single precision.
fn bytes_of_result(stage: &Stage<Objective>, sizes: &ModelSizes, id: ModelId) -> u64 {
    let of = |id: ModelId| 4 * sizes.parameters(id).unwrap_or(0);
    // Of an adapter, only its own matrices are stored, which are small.
    let of_trained = |train: &Train<Objective>, id| match train.trainable {
        Trainable::Adapter(_) if train.options.ema.is_none() => 0,
        _ => of(id),
    };
    match stage {
        // The first is not stored, and the second is, with the others of its joint stage.
        Stage::Load(_) | Stage::Learner { .. } => 0,
        Stage::Initialise(_) | Stage::Merge(_) => of(id),
        Stage::Train(train) => of_trained(train, id),
        Stage::Joint(_) => stage.trains().iter().map(|train| of_trained(train, train.start)).sum(),
    }
}

/// Least bytes of a checkpoint: the trained weights and the optimizer's moments, where all weights train.
fn bytes_of_state(stage: &Stage<Objective>, sizes: &ModelSizes) -> u64 {
    let trains = stage.trains().into_iter().filter(|train| train.trainable.is_all());
    let parameters = |id: ModelId| sizes.parameters(id).unwrap_or(0);
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
