//! Files that the Python functions of a reward open while they judge, such as a list of words. They are known
//! only after a first run, so they can't be in its key. They are recorded with their content; a later run
//! whose files differ from the record has another key.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use mopd_plan::events::FailureKind;
use mopd_plan::keys;
use mopd_plan::results::FileHash;
use mopd_store::content::HashedFile;
use mopd_store::places::Checkout;
use mopd_store::{read_json, write_whole};

use super::ProgramFiles;
use super::unchanged::HashedFiles;
use crate::failure::{Error, Result};
use crate::reward::OpenedFile;

/// Increased whenever equal changes have another hash.
const VERSION: u32 = 1;
/// Files of a reward that are recorded at most; a program that opens more reads a folder of data.
const MOST: usize = 1000;
/// Hash of a file that is gone.
const GONE: &str = "gone";

/// The recorded files of a domain's reward, by names that do not depend on where the experiment lies: the
/// hash of each when it was first opened; none if the program writes it, so that it is no input.
type OpenedRecord = BTreeMap<String, Option<String>>;

/// What the functions of a domain's reward open.
pub struct OpenedFiles {
    path: PathBuf,
    base: PathBuf,
    notes: PathBuf,
    /// The sources and declared files, which are in the key already.
    sources: BTreeSet<String>,
    began: SystemTime,
    /// The recorded files that differ from the record, with the hashes that they have now.
    changed: BTreeMap<String, String>,
    state: Mutex<OpenedState>,
}

struct OpenedState {
    record: OpenedRecord,
    /// The recorded files as this run sees them.
    inputs: BTreeMap<String, HashedFiles>,
}

impl OpenedFiles {
    /// Reads the record of a reward made of `programs`. `notes` is the store's folder of notes.
    pub fn read(programs: &[ProgramFiles], base: &Path, notes: &Path) -> OpenedFiles {
        let hashes: Vec<&str> = programs.iter().map(|program| program.hash.as_str()).collect();
        let name = keys::hash("mopd opened files", VERSION, &hashes).to_hex();
        let path = notes.with_file_name("opened").join(format!("{name}.json"));
        let record: OpenedRecord = read_json(&path).unwrap_or_default();
        let sources =
            programs.iter().flat_map(|program| &program.files).map(|file| file.name.clone()).collect();
        let (mut changed, mut inputs) = (BTreeMap::new(), BTreeMap::new());
        for (name, first) in &record {
            let Some(first) = first else { continue };
            match HashedFile::remembered(&base.join(name), notes) {
                Ok(file) => {
                    if file.hash != *first {
                        changed.insert(name.clone(), file.hash.clone());
                    }
                    inputs.insert(name.clone(), HashedFiles::program(FailureKind::Reward, [file]));
                }
                Err(_) => drop(changed.insert(name.clone(), GONE.to_owned())),
            }
        }
        OpenedFiles {
            path,
            base: base.to_owned(),
            notes: notes.to_owned(),
            sources,
            began: SystemTime::now(),
            changed,
            state: Mutex::new(OpenedState { record, inputs }),
        }
    }

    /// The files that differ from the record, as a part of the key; none if all are as they were first.
    pub fn changed(&self) -> Option<ProgramFiles> {
        if self.changed.is_empty() {
            return None;
        }
        let hash = keys::hash("mopd changed files", VERSION, &self.changed).to_hex().to_string();
        let file = |(name, hash): (&String, &String)| FileHash { name: name.clone(), hash: hash.clone() };
        let files = self.changed.iter().map(file).collect();
        let unchanged = HashedFiles::program(FailureKind::Reward, []);
        Some(ProgramFiles { hash, files, unchanged, unseen: Vec::new() })
    }

    /// Records what was opened since the last call, and checks that recorded files are as this run's key has
    /// them. To be called before a result is kept.
    ///
    /// # Errors
    /// If one of the files was changed since, or another run recorded other content for it.
    pub fn check(&self, opened: Vec<OpenedFile>) -> Result<()> {
        let mut state = self.locked();
        let OpenedState { record, inputs } = &mut *state;
        let before = record.clone();
        let checkout = Checkout::new(&self.base);
        for OpenedFile { path, written } in opened {
            let name = checkout.name(&path.to_string_lossy());
            if written {
                inputs.remove(&name);
                record.insert(name, None);
            } else if record.len() < MOST && !record.contains_key(&name) && !self.sources.contains(&name) {
                let Ok(file) = HashedFile::remembered(&path, &self.notes) else { continue };
                // What is written during the run is no input: the program or another one made it.
                let modified = std::fs::metadata(&path).and_then(|found| found.modified());
                if modified.is_ok_and(|modified| modified < self.began) {
                    record.insert(name.clone(), Some(file.hash.clone()));
                    inputs.insert(name, HashedFiles::program(FailureKind::Reward, [file]));
                }
            }
        }
        for file in inputs.values() {
            file.check(&self.base)?;
        }
        if *record != before {
            self.write(record)?;
        }
        Ok(())
    }

    /// Writes the record with what other runs have recorded.
    fn write(&self, record: &mut OpenedRecord) -> Result<()> {
        for (name, first) in read_json::<OpenedRecord>(&self.path).unwrap_or_default() {
            let seen = record.entry(name.clone()).or_insert_with(|| first.clone());
            if seen.is_some() && first.is_some() && *seen != first {
                let message = format!("another run on this store had another `{name}` for the same reward");
                return Err(Error::new(FailureKind::Reward, message).help(
                    "run again: now it is known that the reward opens this file, and each content counts",
                ));
            }
            if first.is_none() {
                *seen = None;
            }
        }
        let text = serde_json::to_vec(record).expect("names and hashes are plain data");
        write_whole(&self.path, &text)?;
        Ok(())
    }

    fn locked(&self) -> MutexGuard<'_, OpenedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
