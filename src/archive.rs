//! Prepares a results folder for a run: earlier results move to `previous` where they are not those of the
//! new run, and a folder of the user is refused.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use mopd_store::results_folder::{NEXT, PLAN, ResultsFolder};
use mopd_store::{WriteError, write_atomically};

use crate::problem::Problem;

/// Checks that a folder of results has no files of the user that a run would replace or remove.
///
/// # Errors
/// If it has such files, and no run has written there.
pub fn check(out: &Path) -> Result<(), Problem> {
    let found = ResultsFolder::at(out).in_the_way();
    if found.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = found.iter().map(|name| format!("`{name}`")).collect();
    let message = format!(
        "{} is not a folder of results, and has {}, which a run would replace",
        out.display(),
        names.join(", ")
    );
    Err(Problem::usage("not-a-run", message).help(
        "name another folder, which may be new, with `--out DIR`; or move these files away if you do not \
        need them there",
    ))
}

/// Writes the first files of a run, its text and its plan, to the results folder; `plan` is the plan's hash.
/// Earlier results are moved away if necessary ([`ResultsFolder::make_room`]). If the disk is full, nothing
/// changes.
///
/// # Errors
/// If the folder is not one of results, or can't be written to.
pub fn begin(out: &Path, plan: &str, files: &[(&Path, &str)]) -> Result<(), Problem> {
    check(out)?;
    let folder = ResultsFolder::at(out);
    let next = out.join(NEXT);
    folder.remove(NEXT)?;
    for (name, text) in files {
        let written = write_atomically(&next.join(name), |file| file.write_all(text.as_bytes()));
        if let Err(WriteError { source, .. }) = written {
            // Only the error of writing matters.
            let _ = folder.remove(NEXT);
            return Err(unwritten(&out.join(name), source));
        }
    }
    folder.make_room(plan)?;
    // The plan is last: as long as the old one is there, or the temporary folder, this is a run's folder.
    let (plans, others): (Vec<_>, Vec<_>) = files.iter().partition(|(name, _)| *name == Path::new(PLAN));
    for (name, _) in others.into_iter().chain(plans) {
        let path = out.join(name);
        let moved = path
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::rename(next.join(name), &path));
        moved.map_err(|error| unwritten(&path, error))?;
    }
    let written: Vec<&str> = files.iter().filter_map(|(name, _)| name.to_str()).collect();
    folder.remove_plan_files_besides(&written)?;
    Ok(folder.remove(NEXT)?)
}

fn unwritten(path: &Path, source: io::Error) -> Problem {
    WriteError { path: path.to_owned(), source }.into()
}
