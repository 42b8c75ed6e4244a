//! Stores in other folders. A run looks for finished stages in the folder where it is started; started from
//! another one, it would train all of them again, so the user gets a hint.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use mopd_plan::events::RunJob;
use mopd_store::Folder;

use super::{Keys, Task, Work};

/// If the store of a run has none of its stages, looks for stores beside the experiment and in parent folders
/// of it and of the working folder. Returns a sentence that names the one with most of the stages; none for a
/// run that computes all of them anyway.
pub(super) fn hint(job: &RunJob, tasks: &[Task], keys: &Keys) -> Option<String> {
    if job.fresh {
        return None;
    }
    let here = env::current_dir().ok()?;
    let base = fs::canonicalize(&job.base).ok()?;
    let stages = || (0..tasks.len()).filter(|index| matches!(tasks[*index].work, Work::Stage(_)));
    let kept = |store: &Path| {
        let store = Folder::at(store);
        stages().filter(|index| keys.all_of(*index).all(|key| store.has(key))).count()
    };
    let own = fs::canonicalize(&job.store).ok()?;
    if kept(&own) > 0 {
        return None;
    }
    let mut best: Option<(usize, PathBuf)> = None;
    for folder in base.ancestors().chain(here.ancestors()) {
        let Ok(store) = fs::canonicalize(folder.join(&job.store)) else { continue };
        let count = if store == own { 0 } else { kept(&store) };
        if count > best.as_ref().map_or(0, |(most, _)| *most) {
            best = Some((count, folder.to_owned()));
        }
    }
    let (count, folder) = best?;
    let folder = folder.strip_prefix(&here).unwrap_or(&folder);
    Some(format!(
        "{} in this folder has no stage of this run, but {} has {count} of its {}: run the command from \
        {} to use them",
        job.store,
        folder.join(&job.store).display(),
        stages().count(),
        folder.display()
    ))
}
