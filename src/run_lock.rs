//! The lock of a folder of results: two writers would leave the tables of one beside the plan of the
//! other.

use std::fs;
use std::path::{Path, PathBuf};

use mopd_store::Lock;
use mopd_store::files::remove_partial;

use crate::output::printable;
use crate::problem::Problem;

/// In the folder of results.
pub const LOCK: &str = ".lock";

/// # Errors
/// Where a file stands in the place of a folder of results, or of one above it.
pub fn check_folder(folder: &Path) -> Result<(), Problem> {
    let there = folder.ancestors().find(|path| path.symlink_metadata().is_ok());
    let Some(file) = there.filter(|path| !path.is_dir()) else { return Ok(()) };
    let message =
        format!("{} can't be the folder of results: {} is a file", folder.display(), file.display());
    Err(Problem::usage("can't-write", message)
        .help("name a folder, or one that is yet to be made: `--out DIR`"))
}

/// The right to write to a folder of results; let go of when dropped.
pub struct RunLock {
    folder: PathBuf,
    lock: Lock,
}

impl RunLock {
    /// # Errors
    /// Where another command has it, or the folder can't be written to.
    pub fn take(folder: &Path) -> Result<RunLock, Problem> {
        check_folder(folder)?;
        let path = folder.join(LOCK);
        let Some(lock) = Lock::try_at(&path)? else {
            let holder = fs::read_to_string(&path).unwrap_or_default();
            let holder =
                if holder.is_empty() { String::new() } else { format!(": {}", printable(holder.trim())) };
            let message = format!("another run writes to {}{holder}", folder.display());
            return Err(Problem::usage("folder-in-use", message).help(
                "wait until it ends, or give this one a folder of its own with `--out DIR`; what both need \
                 is computed once either way",
            ));
        };
        // Whoever had it before may have been killed while it wrote.
        remove_partial(folder, None);
        let words: Vec<String> =
            std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
        // Who it is helps whoever waits; the lock is one without.
        let _ = lock.note(&format!("`mopd {}`, process {}\n", words.join(" "), std::process::id()));
        Ok(RunLock { folder: folder.to_owned(), lock })
    }

    pub fn is_of(&self, folder: &Path) -> bool {
        self.folder == folder
    }

    /// # Errors
    /// Where the folder was taken away while it was written to: what was there before is missing now.
    pub fn check(&self) -> Result<(), Problem> {
        if self.lock.in_place().unwrap_or(false) {
            return Ok(());
        }
        let message = format!(
            "the folder of results, {}, was deleted or replaced while the run was under way: the plan and \
             the text beside the results are missing",
            self.folder.display()
        );
        Err(Problem::run("results-gone", message).help(
            "run the same command again: finished stages are kept in the store, so that only the results \
             are written again",
        ))
    }
}
