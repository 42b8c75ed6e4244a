//! Prepares a results folder for a run with another plan. Finished results move to `previous`: a new plan is
//! never beside old numbers, and finished numbers are not lost if the new run is killed.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use mopd_store::{WriteError, write_atomically};

use crate::problem::Problem;
use crate::provenance::PROVENANCE;
use crate::run_events::EVENTS;
use crate::run_folder::{METRICS, REWARDS, SAMPLES, WEIGHTS};

/// The folder, inside the results folder, with the last finished run of another plan.
const PREVIOUS: &str = "previous";
/// Temporary folders, where `previous` and the first files of a run are written.
const PART: &str = "previous.part";
const NEXT: &str = "next.part";
const RESULTS: &str = "results.json";
/// Files that belong to the plan they were made by. The first one marks a run as finished, so it is removed
/// before the others.
const MADE: [&str; 6] = [RESULTS, REWARDS, METRICS, SAMPLES, WEIGHTS, EVENTS];
/// Files that identify the plan, or a sweep.
const SAYS: [&str; 4] = [PLAN, "source.mopd", "sweep.json", PROVENANCE];
const PLAN: &str = "plan.json";
const MODULES: &str = "modules";

/// The plan's hash in `plan.json` and `results.json`, also of other versions.
#[derive(serde::Deserialize)]
struct PlanHash {
    #[serde(alias = "hash")]
    plan: String,
}

/// Writes the first files of a run, its text and its plan, to the results folder; `plan` is the plan's hash.
/// Files of an earlier run with another plan are moved away ([`make_room`]). If the disk is full, nothing
/// changes.
///
/// # Errors
/// If a folder can't be written to.
pub fn begin(out: &Path, plan: &str, files: &[(&Path, &str)]) -> Result<(), Problem> {
    let next = out.join(NEXT);
    remove(&next)?;
    for (name, text) in files {
        let written = write_atomically(&next.join(name), |file| file.write_all(text.as_bytes()));
        if let Err(WriteError { source, .. }) = written {
            // Only the error of writing matters.
            let _ = remove(&next);
            return Err(unwritten(&out.join(name), source));
        }
    }
    make_room(out, Some(plan))?;
    for (name, _) in files {
        let path = out.join(name);
        let moved = path
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::rename(next.join(name), &path));
        moved.map_err(|error| unwritten(&path, error))?;
    }
    remove(&next)
}

/// Prepares a folder for a run of the plan with this hash, or for the runs of a sweep, whose plans are in
/// folders of their own. The files of a finished run with another plan replace the content of `previous`;
/// those of an unfinished one are removed, for its stages are in the store. If the plan is the same,
/// everything stays.
///
/// # Errors
/// If a folder can't be written to.
pub fn make_room(out: &Path, plan: Option<&str>) -> Result<(), Problem> {
    let hash = |name: &str| -> Option<String> {
        let text = fs::read(out.join(name)).ok()?;
        serde_json::from_slice(&text).ok().map(|PlanHash { plan }| plan)
    };
    let planned = hash(PLAN);
    if planned.as_deref() == plan {
        return Ok(());
    }
    // Results that can't be read must not be removed.
    let finished = out.join(RESULTS).is_file()
        && hash(RESULTS).is_none_or(|made| planned.is_none_or(|planned| planned == made));
    if finished {
        archive(out)?;
    }
    for name in MADE.iter().chain(&SAYS) {
        remove(&out.join(name))?;
    }
    remove(&out.join(MODULES))
}

/// If it is killed at any time, the run is whole in the folder or in `previous`, or in both.
fn archive(out: &Path) -> Result<(), Problem> {
    let part = out.join(PART);
    remove(&part)?;
    let copied = || {
        fs::create_dir(&part)?;
        for name in MADE.iter().chain(&SAYS) {
            link(&out.join(name), &part.join(name))?;
        }
        for entry in fs::read_dir(out.join(MODULES)).into_iter().flatten() {
            let entry = entry?;
            fs::create_dir_all(part.join(MODULES))?;
            link(&entry.path(), &part.join(MODULES).join(entry.file_name()))?;
        }
        Ok(())
    };
    copied().map_err(|error| unwritten(&part, error))?;
    let previous = out.join(PREVIOUS);
    remove(&previous)?;
    fs::rename(&part, &previous).map_err(|error| unwritten(&previous, error))
}

/// Links a file to another place; does nothing if it does not exist.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_file() {
        return Ok(());
    }
    // Later writes replace the file by a new one, and never change the old one's content.
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(|_| ()))
}

/// Removes a file or a folder. A missing one is no error, even where nothing may be removed.
fn remove(path: &Path) -> Result<(), Problem> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    let removed = if found.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(|error| unwritten(path, error))
}

fn unwritten(path: &Path, source: io::Error) -> Problem {
    WriteError { path: path.to_owned(), source }.into()
}
