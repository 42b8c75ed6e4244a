//! Which run needs what. A run is kept as long as its folder of results is there; what it needs is not
//! pruned.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::files::reason;
use crate::{Folder, Lock, WriteError, write_whole};

/// What a run reads from the store or writes to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRun {
    pub experiment: String,
    /// Its folder of results, from the root.
    pub out: PathBuf,
    /// Keys, and what they are the results of.
    pub needs: BTreeMap<String, String>,
}

/// Held while runs are written down, and while entries that none needs are looked for.
const REGISTRY: &str = "runs";

/// What is known of all runs.
#[derive(Debug, Default)]
pub struct StoredRuns {
    /// Those whose folder of results is there.
    pub kept: Vec<StoredRun>,
    /// The files of the others.
    pub gone: Vec<PathBuf>,
    /// Files that can't be read, and why: nobody knows what they protect.
    pub unreadable: Vec<String>,
}

impl Folder {
    pub(crate) fn try_registry(&self) -> Result<Option<Lock>, WriteError> {
        self.try_lock(REGISTRY)
    }

    /// Writes down what a run needs, in place of what an earlier run with the same folder of results did.
    /// False where something is being pruned just now: ask again.
    pub fn register(&self, run: &StoredRun) -> Result<bool, WriteError> {
        let Some(_registry) = self.try_registry()? else { return Ok(false) };
        let name = blake3::hash(run.out.as_os_str().as_encoded_bytes()).to_hex();
        let text = serde_json::to_vec(run).expect("a run is plain data");
        write_whole(&self.path("runs").join(format!("{name}.json")), &text)?;
        Ok(true)
    }

    /// All runs.
    ///
    /// # Errors
    /// Where it can't be known which runs there are.
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
            match crate::read_json::<StoredRun>(&path) {
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
