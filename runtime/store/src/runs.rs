//! The registry of the entries that runs need. A run counts as long as its folder of results exists; the
//! entries that it needs are not pruned.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::entries::{Folder, read_json, remove_file, write_whole};
use crate::files::{WriteError, reason, remove_partial};
use crate::lock::Lock;

/// The entries that a run reads from the store or writes to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRun {
    pub experiment: String,
    /// Its folder of results, as an absolute path. In the file, it is relative to the project's folder if it
    /// is below that, so that a project can be moved or renamed with its runs.
    pub out: PathBuf,
    /// Keys, with descriptions of their results.
    pub needs: BTreeMap<String, String>,
}

/// Lock that is held while runs are registered, and while the store is pruned.
const REGISTRY: &str = "runs";

/// All registered runs.
#[derive(Debug, Default)]
pub struct StoredRuns {
    /// Runs whose folder of results exists.
    pub kept: Vec<StoredRun>,
    /// The files of the other runs.
    pub gone: Vec<PathBuf>,
    /// Files that can't be read, with the reason: which entries they protect is unknown.
    pub unreadable: Vec<String>,
}

impl Folder {
    pub(crate) fn try_registry(&self) -> Result<Option<Lock>, WriteError> {
        self.try_lock(REGISTRY)
    }

    /// Registers a run, and replaces an earlier one with the same folder of results. Returns false if the
    /// store is being pruned now: try again.
    pub fn register(&self, run: &StoredRun) -> Result<bool, WriteError> {
        let Some(_registry) = self.try_registry()? else { return Ok(false) };
        // A run may have been killed while it registered.
        remove_partial(&self.path("runs"), false);
        let file = |out: &Path| {
            let name = blake3::hash(out.as_os_str().as_encoded_bytes()).to_hex();
            self.path("runs").join(format!("{name}.json"))
        };
        let stored = StoredRun { out: self.within_project(&run.out), ..run.clone() };
        let text = serde_json::to_vec(&stored).expect("a run is plain data");
        write_whole(&file(&stored.out), &text)?;
        // Earlier versions wrote an absolute path, under another name.
        if stored.out != run.out {
            remove_file(&file(&run.out))?;
        }
        Ok(true)
    }

    /// The folder of the project that a store at `.mopd/store` belongs to.
    fn project(&self) -> Option<PathBuf> {
        let path = std::path::absolute(&self.path).ok()?;
        path.parent().filter(|folder| folder.ends_with(".mopd"))?.parent().map(Path::to_owned)
    }

    /// A path relative to the project, if it is below it.
    fn within_project(&self, path: &Path) -> PathBuf {
        let Some(project) = self.project() else { return path.to_owned() };
        let real = |path: &Path| fs::canonicalize(path).ok();
        let inside = path.strip_prefix(&project).map(Path::to_owned).ok();
        // The project may be known by two names.
        let inside = inside.or_else(|| Some(real(path)?.strip_prefix(real(&project)?).ok()?.to_owned()));
        inside.unwrap_or_else(|| path.to_owned())
    }

    /// All registered runs.
    ///
    /// # Errors
    /// If the registry can't be listed.
    pub fn runs(&self) -> Result<StoredRuns, String> {
        let mut runs = StoredRuns::default();
        let files = match fs::read_dir(self.path("runs")) {
            Ok(files) => files,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(runs),
            Err(error) => return Err(format!("{}: {}", self.path("runs").display(), reason(&error))),
        };
        for file in files {
            let path = file.map_err(|error| error.to_string())?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let read = read_json::<StoredRun>(&path).map(|run| match self.project() {
                // An absolute path replaces that of the project.
                Some(project) => StoredRun { out: project.join(&run.out), ..run },
                None => run,
            });
            match read {
                Ok(run) if run.out.is_dir() => runs.kept.push(run),
                Ok(_) => runs.gone.push(path),
                Err(problem) => runs.unreadable.push(format!("{}: {problem}", self.path("runs").display())),
            }
        }
        runs.kept.sort_by(|a, b| a.out.cmp(&b.out));
        runs.unreadable.sort();
        Ok(runs)
    }
}
