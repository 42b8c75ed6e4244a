//! Makes room in a folder of results for a run with another plan. Finished results move to `previous`; a
//! new plan never stands beside old numbers, and finished numbers are not lost if the new run is killed.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use mopd_store::{WriteError, write_atomically};

use crate::problem::Problem;
use crate::provenance::PROVENANCE;
use crate::run_events::EVENTS;
use crate::run_folder::{METRICS, REWARDS, SAMPLES, WEIGHTS};

/// The folder within that of results that holds the last finished run with another plan.
const PREVIOUS: &str = "previous";
/// Where that one is made, and what a run begins with.
const PART: &str = "previous.part";
const NEXT: &str = "next.part";
const RESULTS: &str = "results.json";
/// What only fits the plan that it was made by. The first says that a run is finished, so it goes before the
/// others.
const MADE: [&str; 6] = [RESULTS, REWARDS, METRICS, SAMPLES, WEIGHTS, EVENTS];
/// What says which plan that was, or that it was a sweep.
const SAYS: [&str; 4] = [PLAN, "source.mopd", "sweep.json", PROVENANCE];
const PLAN: &str = "plan.json";
const MODULES: &str = "modules";

/// Of `plan.json` and of `results.json`, of this version or another: the plan's hash.
#[derive(serde::Deserialize)]
struct PlanHash {
    #[serde(alias = "hash")]
    plan: String,
}

/// Puts what a run begins with, its text and its plan, into the folder of results, `plan` being the plan's
/// hash; what an earlier run with another plan left makes room ([`make_room`]). Where there is no room on the
/// disk, everything stays as it was.
///
/// # Errors
/// A folder that can't be written to.
pub fn begin(out: &Path, plan: &str, files: &[(&Path, &str)]) -> Result<(), Problem> {
    let next = out.join(NEXT);
    remove(&next)?;
    for (name, text) in files {
        let written = write_atomically(&next.join(name), |file| file.write_all(text.as_bytes()));
        if let Err(WriteError { source, .. }) = written {
            // That it can't be written is what there is to say.
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

/// Makes room for a run of the plan with this hash, or for the runs of a sweep, which have their plans in
/// folders of their own. The files of a finished run with another plan go to `previous`, in the place of what
/// was there; those of an unfinished one go away, for its stages are in the store. Where the plan is the
/// same, everything stays.
///
/// # Errors
/// A folder that can't be written to.
pub fn make_room(out: &Path, plan: Option<&str>) -> Result<(), Problem> {
    let hash = |name: &str| -> Option<String> {
        let text = fs::read(out.join(name)).ok()?;
        serde_json::from_slice(&text).ok().map(|PlanHash { plan }| plan)
    };
    let planned = hash(PLAN);
    if planned.as_deref() == plan {
        return Ok(());
    }
    // Results that can't be read are nobody's to throw away.
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

/// Killed at any moment, the run is whole in the folder or in `previous`, or in both.
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

/// The same file at another place; nothing where there is none.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_file() {
        return Ok(());
    }
    // What is written later is a new file in the old one's place, never the old one written over.
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(|_| ()))
}

/// A file or a folder; one that is not there is gone already, also where nothing may be removed.
fn remove(path: &Path) -> Result<(), Problem> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    let removed = if found.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(|error| unwritten(path, error))
}

fn unwritten(path: &Path, source: io::Error) -> Problem {
    WriteError { path: path.to_owned(), source }.into()
}
