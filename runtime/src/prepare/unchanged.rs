//! Detects changes of files that are hashed before a run begins and read again during it: the files of
//! programs, which their processes may read at any time, and the weights of models.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use mopd_plan::events::FailureKind;
use mopd_store::content::{FileState, HashedFile};

use crate::failure::{Error, Result};
use crate::mapped::MappedFile;

/// Files with the state in which they were hashed.
#[derive(Clone, Debug)]
pub struct HashedFiles {
    /// The kind of failure that a change of these files is.
    kind: FailureKind,
    files: Arc<Mutex<Vec<KnownFile>>>,
}

#[derive(Debug)]
struct KnownFile {
    hashed: HashedFile,
    /// A model's mapping, which stays that of the old file if the path is replaced.
    mapped: Option<Arc<MappedFile>>,
}

impl HashedFiles {
    /// The files of a program, whose processes open them by path.
    pub fn program(kind: FailureKind, files: impl IntoIterator<Item = HashedFile>) -> HashedFiles {
        HashedFiles::new(kind, files.into_iter().map(|hashed| KnownFile { hashed, mapped: None }))
    }

    /// The files of a model, whose weights are read through the mapping.
    pub fn model(files: Vec<(HashedFile, Arc<MappedFile>)>) -> HashedFiles {
        let known = |(hashed, mapped)| KnownFile { hashed, mapped: Some(mapped) };
        HashedFiles::new(FailureKind::Model, files.into_iter().map(known))
    }

    fn new(kind: FailureKind, files: impl Iterator<Item = KnownFile>) -> HashedFiles {
        HashedFiles { kind, files: Arc::new(Mutex::new(files.collect())) }
    }

    /// Checks that the files are unchanged. Reads only files whose times or length have changed. `base` is
    /// the folder that paths are relative to.
    ///
    /// # Errors
    /// A file that is gone or has other content, since results computed with it don't match their key. Also
    /// one that was changed and has its old content again: a process may have read the other one.
    pub fn check(&self, base: &Path) -> Result<()> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let mut states = files.iter_mut().map(|file| {
            let state = match &file.mapped {
                Some(mapped) => mapped.state(&mut file.hashed),
                None => file.hashed.state(),
            };
            (state, &*file)
        });
        let Some((state, file)) = states.find(|(state, _)| *state != FileState::Unchanged) else {
            return Ok(());
        };
        let path = file.hashed.path.strip_prefix(base).unwrap_or(&file.hashed.path).display();
        let (message, help) = match (&file.mapped, state) {
            (Some(_), _) => (
                format!(
                    "`{path}` was changed while the run was reading it: results that were computed since \
                    are not kept"
                ),
                "run again: finished stages are kept. To replace a model, write a new folder, or write a \
                new file and rename it over the old one: a run that has begun continues with the old one",
            ),
            (None, FileState::Rewritten) => (
                format!(
                    "`{path}` was written to during the run. Its content is the same as before, but the \
                    program may have read something else in between, so its answers since then are not \
                    kept"
                ),
                "run again: stages resume from their last checkpoint. A program that writes files while \
                it runs must write them to a temporary folder",
            ),
            (None, _) => (
                format!("`{path}` changed during the run: the program's answers since then are not kept"),
                "run again: finished stages are kept, and the program's answers are computed with the new \
                file; with the old file, stages resume from their last checkpoint. A program that writes \
                files while it runs must write them to a temporary folder",
            ),
        };
        Err(Error::new(self.kind, message).help(help))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn files_written_during_a_run_are_named_even_if_restored() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        // Each write gets a distinct time, however coarse the file system's clock is.
        let mut time = SystemTime::UNIX_EPOCH;
        let mut write = |name: &str, text: &str| {
            fs::write(path(name), text).unwrap();
            time += Duration::from_secs(60);
            File::options().write(true).open(path(name)).unwrap().set_modified(time).unwrap();
        };
        write("judge.py", "0.25");
        write("model", "1.0");
        let hashed = |name: &str| HashedFile::hash(&path(name), u64::MAX).unwrap();
        let program = || HashedFiles::program(FailureKind::Reward, [hashed("judge.py")]);
        let model = || HashedFiles::model(vec![(hashed("model"), MappedFile::open(&path("model")).unwrap())]);
        let said = |files: &HashedFiles| files.check(folder.path()).err().map(|error| error.to_string());
        let begins =
            |said: Option<String>, with: &str| assert!(said.is_some_and(|said| said.starts_with(with)));
        let (first, first_model) = (program(), model());
        assert_eq!([said(&first), said(&first_model)], [None, None]);
        fs::hard_link(path("judge.py"), path("linked.py")).unwrap();
        fs::hard_link(path("model"), path("linked")).unwrap();
        assert_eq!([said(&first), said(&first_model)], [None, None]);
        write("judge.py", "0.75");
        write("model", "2.0");
        begins(said(&first), "`judge.py` changed during the run");
        begins(said(&first_model), "`model` was changed while the run was reading it");
        // The old content again: a process may have read the other one in between.
        write("judge.py", "0.25");
        write("model", "1.0");
        begins(
            said(&first.clone()),
            "`judge.py` was written to during the run. Its content is the same as before",
        );
        begins(said(&first_model), "`model` was changed while the run was reading it");
        // A process opens the new file at the path; the mapping is still of the old one.
        let (program, model) = (program(), model());
        for name in ["judge.py", "model"] {
            write("new", "3.0");
            fs::rename(path("new"), path(name)).unwrap();
        }
        begins(said(&program), "`judge.py` changed");
        assert_eq!(said(&model), None);
    }
}
