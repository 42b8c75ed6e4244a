//! The lock of a results folder: two writers would mix the tables of one run with the plan of the other.

use std::fs;
use std::path::{Path, PathBuf};

use mopd_store::Lock;
use mopd_store::results_folder::ResultsFolder;

use crate::archive;
use crate::output::printable;
use crate::problem::Problem;

/// The file name in the results folder.
pub const LOCK: &str = ".lock";

/// # Errors
/// If there is a file in place of a results folder, or of a folder above it, or if the folder has files of
/// the user that a run would replace.
pub fn check_folder(folder: &Path) -> Result<(), Problem> {
    let there = folder.ancestors().find(|path| path.symlink_metadata().is_ok());
    let Some(file) = there.filter(|path| !path.is_dir()) else { return archive::check(folder) };
    let message =
        format!("{} cannot be the folder of results: {} is a file", folder.display(), file.display());
    Err(Problem::usage("can't-write", message).help("name a folder, which may be new: `--out DIR`"))
}

/// The lock of a results folder, released when dropped.
pub struct RunLock {
    folder: PathBuf,
    lock: Lock,
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // A folder that was deleted meanwhile has results and no plan. The next run must know whose they are.
        if !self.lock.in_place().unwrap_or(true) {
            ResultsFolder::at(&self.folder).mark();
        }
    }
}

impl RunLock {
    /// # Errors
    /// If another command has the lock, or the folder can't be written to.
    pub fn take(folder: &Path) -> Result<RunLock, Problem> {
        check_folder(folder)?;
        let path = folder.join(LOCK);
        let Some(lock) = Lock::try_at(&path)? else {
            let holder = fs::read_to_string(&path).unwrap_or_default();
            let holder =
                if holder.is_empty() { String::new() } else { format!(": {}", printable(holder.trim())) };
            let message = format!("another run writes to {}{holder}", folder.display());
            return Err(Problem::usage("folder-in-use", message).help(
                "wait until it ends, or give this run its own folder with `--out DIR`; results that both \
                need are computed only once",
            ));
        };
        // The last holder may have been killed during a write.
        ResultsFolder::at(folder).remove_partial();
        let words: Vec<String> =
            std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
        // The note helps waiting users; the lock also works without it.
        let _ = lock.note(&format!("`mopd {}`, process {}\n", words.join(" "), std::process::id()));
        Ok(RunLock { folder: folder.to_owned(), lock })
    }

    pub fn is_of(&self, folder: &Path) -> bool {
        self.folder == folder
    }

    /// # Errors
    /// If the folder was removed while it was written to: earlier files are missing now.
    pub fn check(&self) -> Result<(), Problem> {
        if self.lock.in_place().unwrap_or(false) {
            return Ok(());
        }
        let message = format!(
            "the folder of results, {}, was deleted or replaced during the run: the plan and the source \
            text are missing there",
            self.folder.display()
        );
        Err(Problem::run("results-gone", message).help(
            "run the same command again: finished stages are kept in the store, so only the results are \
            written again",
        ))
    }
}
