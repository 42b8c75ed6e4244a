//! The content-addressed store of results, as files: entries that are whole or do not count, locks between
//! runs, which run needs what, and what can be let go of. What is inside an entry is its writer's matter.
//!
//! ```text
//! <key>/                  a result, valid once `checksums.json` is there, which is written last
//! <key>.unfinished/<step> checkpoints of a stage, each such an entry
//! <key>.scores/<hash>     what frozen models say of data, each such an entry; no run needs them
//! <key>.last-good/        weights before a number that was not finite
//! locks/<key>             held by whoever computes that key
//! runs/<run>.json         what a run needs
//! notes/                  hashes of files elsewhere
//! arithmetic/             by what arithmetic results were made
//! ```

#![forbid(unsafe_code)]

#[cfg(not(unix))]
compile_error!("mopd runs on Linux: it is written for systems of the Unix family alone");

mod cache;
pub mod content;
pub mod files;
mod lock;
pub mod named;
pub mod programs;
pub mod regular;
mod runs;
pub mod signals;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use cache::{PrunePolicy, PruneVerdict, Pruned, StoreItem, StoreItemKind, age};
pub use files::{WriteError, write_atomically};
pub use lock::Lock;
pub use runs::{StoredRun, StoredRuns};

const CHECKSUMS: &str = "checksums.json";

/// A folder with entries.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
}

/// What looking for a result found.
#[derive(Debug)]
pub enum Lookup<T> {
    Found(T),
    Absent,
    /// Some file of the entry is not what was written; the reason, for a warning.
    Damaged(String),
}

/// What an entry consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksums {
    /// What it is the result of, in words.
    #[serde(default)]
    pub about: String,
    /// Blake3 of every other file, in hexadecimal.
    pub files: BTreeMap<String, String>,
}

impl Folder {
    /// As it is; it need not exist.
    pub fn at(path: &Path) -> Folder {
        Folder { path: path.to_owned() }
    }

    /// Makes the folder if there is none, and finds out now whether it can be written to.
    pub fn open(path: &Path) -> Result<Folder, WriteError> {
        let failed = |source| WriteError { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(failed)?;
        tempfile::tempfile_in(path).map_err(failed)?;
        Ok(Folder::at(path))
    }

    /// Where an entry is, or would be.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether there is an entry; it may turn out to be damaged.
    pub fn has(&self, name: &str) -> bool {
        self.path(name).join(CHECKSUMS).exists()
    }

    /// Reads an entry whose files are what was written.
    pub fn read<T>(&self, name: &str, read: impl FnOnce(&Path) -> Result<T, String>) -> Lookup<T> {
        let folder = self.path(name);
        if !self.has(name) {
            return Lookup::Absent;
        }
        match self.verify(name).and_then(|()| read(&folder)) {
            Ok(found) => {
                self.touch(name);
                Lookup::Found(found)
            }
            Err(reason) => Lookup::Damaged(format!("{}: {reason}", folder.display())),
        }
    }

    /// The files of an entry, as they are said to be.
    pub fn checksums(&self, name: &str) -> Result<Checksums, String> {
        read_json(&self.path(name).join(CHECKSUMS))
    }

    /// Whether every file of an entry is what was written.
    pub fn verify(&self, name: &str) -> Result<(), String> {
        for (file, expected) in &self.checksums(name)?.files {
            let found = content::hash_anew(&self.path(name).join(file))
                .map_err(|error| format!("{file}: {}", files::reason(&error)))?;
            if found != *expected {
                return Err(format!("{file} is not what was written"));
            }
        }
        Ok(())
    }

    /// `write` fills the entry's folder and answers the hash of each file; `about` says what it is. Of an
    /// entry that can't be written nothing stays.
    pub fn write<E: From<WriteError>>(
        &self,
        name: &str,
        about: &str,
        write: impl FnOnce(&Path) -> Result<BTreeMap<String, String>, E>,
    ) -> Result<(), E> {
        let folder = self.path(name);
        // A damaged entry must not become valid half-way through its replacement.
        let checksums = folder.join(CHECKSUMS);
        remove_file(&checksums)?;
        // Whoever was killed while it wrote the entry before left a part of a file.
        files::remove_partial(&folder, None);
        let written = write(&folder).and_then(|files| {
            let sums = Checksums { about: about.to_owned(), files };
            let sums = serde_json::to_vec(&sums).expect("checksums are plain data");
            Ok(write_atomically(&checksums, |file| file.write_all(&sums))?)
        });
        if written.is_err() {
            // Half of it takes room, which may be what is missing.
            let _ = fs::remove_dir_all(&folder);
        }
        written
    }

    /// Takes an entry away: its checksums first, so that no half of it ever counts.
    pub fn remove(&self, name: &str) -> Result<(), WriteError> {
        let folder = self.path(name);
        remove_file(&folder.join(CHECKSUMS))?;
        match fs::remove_dir_all(&folder) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(WriteError { path: folder, source })
            }
            _ => Ok(()),
        }
    }

    /// Notes that an entry was of use now. Where that can't be noted it seems older than it is.
    fn touch(&self, name: &str) {
        let file = fs::File::options().append(true).open(self.path(name).join(CHECKSUMS));
        let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
    }
}

fn remove_file(path: &Path) -> Result<(), WriteError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(WriteError { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Writes a file of an entry. Answers its hash.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<String, WriteError> {
    write_atomically(path, |file| file.write_all(bytes))?;
    Ok(blake3::hash(bytes).to_hex().to_string())
}

pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let bytes = fs::read(path).map_err(|error| format!("{name}: {}", files::reason(&error)))?;
    serde_json::from_slice(&bytes).map_err(|error| format!("{name}: {error}"))
}

#[cfg(test)]
mod tests;
