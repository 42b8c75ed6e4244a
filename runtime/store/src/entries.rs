//! A folder with entries. An entry is a folder of files with their checksums; it is complete, or it does not
//! count.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::content;
use crate::files::{self, WriteError, write_atomically};

pub(crate) const CHECKSUMS: &str = "checksums.json";
/// Ends of the names of folders that exist while an intact entry is replaced.
pub(crate) const NEW: &str = ".new";
pub(crate) const OLD: &str = ".old";

/// A folder with entries.
#[derive(Clone, Debug)]
pub struct Folder {
    pub(crate) path: PathBuf,
}

/// The result of a search for an entry.
#[derive(Debug)]
pub enum Lookup<T> {
    Found(T),
    Absent,
    Damaged(Damage),
}

/// Why an entry can't be used, for a warning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// "incomplete" if files of it were deleted, "damaged" if they differ from what was written.
    pub kind: &'static str,
    pub reason: String,
}

impl Damage {
    fn changed(reason: String) -> Damage {
        Damage { kind: "damaged", reason }
    }

    /// Of an adapter whose base is not there any more.
    pub(crate) fn without_base() -> Damage {
        let reason = "the model that its adapter changes was deleted: a run that needs it computes it again";
        Damage { kind: "incomplete", reason: reason.to_owned() }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// The files of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksums {
    /// A description of the entry.
    #[serde(default)]
    pub about: String,
    /// BLAKE3 hash of every other file, in hexadecimal.
    pub files: BTreeMap<String, String>,
    /// Another entry without which this one can't be used: the base of an adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<String>,
}

impl Folder {
    /// A folder that need not exist.
    pub fn at(path: &Path) -> Folder {
        Folder { path: path.to_owned() }
    }

    /// Creates the folder if there is none, and checks that it can be written to.
    pub fn open(path: &Path) -> Result<Folder, WriteError> {
        let failed = |source| WriteError { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(failed)?;
        tempfile::tempfile_in(path).map_err(failed)?;
        Ok(Folder::at(path))
    }

    /// The folder of an entry, whether it exists or not.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether there is an entry; it may turn out to be damaged.
    pub fn has(&self, name: &str) -> bool {
        self.path(name).join(CHECKSUMS).exists()
    }

    /// Verifies the checksums of an entry and reads it.
    pub fn read<T>(&self, name: &str, read: impl FnOnce(&Path) -> Result<T, String>) -> Lookup<T> {
        let folder = self.path(name);
        if !self.has(name) {
            return Lookup::Absent;
        }
        match self.verify(name).and_then(|()| read(&folder).map_err(Damage::changed)) {
            Ok(found) => {
                self.touch(name);
                Lookup::Found(found)
            }
            Err(Damage { kind, reason }) => {
                Lookup::Damaged(Damage { kind, reason: format!("{}: {reason}", folder.display()) })
            }
        }
    }

    /// The checksums of an entry, without verification.
    pub fn checksums(&self, name: &str) -> Result<Checksums, String> {
        read_json(&self.path(name).join(CHECKSUMS))
    }

    /// Checks that every file of an entry has its checksum.
    pub fn verify(&self, name: &str) -> Result<(), Damage> {
        let files = self.checksums(name).map_err(Damage::changed)?.files;
        let exists = |file: &str| !matches!(self.path(name).join(file).try_exists(), Ok(false));
        let gone: Vec<&str> = files.keys().map(String::as_str).filter(|file| !exists(file)).collect();
        if let [first, others @ ..] = gone.as_slice() {
            let reason = match others.len() {
                0 => format!("{first} was deleted"),
                1 => format!("{first} and {} were deleted", others[0]),
                count => format!("{first} and {count} other files were deleted"),
            };
            return Err(Damage { kind: "incomplete", reason });
        }
        for (file, expected) in &files {
            let found = content::hash_anew(&self.path(name).join(file))
                .map_err(|error| Damage::changed(format!("{file}: {}", files::reason(&error))))?;
            if found != *expected {
                return Err(Damage::changed(format!(
                    "the checksum of {file} is wrong: the file has changed since it \
                    was written"
                )));
            }
        }
        Ok(())
    }

    /// Writes an entry, which replaces an earlier one when it is complete. `write` fills the given folder and
    /// returns the hash of each file; `about` describes the entry. After a failure, nothing of the new entry
    /// remains, and the earlier one stays if it was intact.
    pub fn write<E: From<WriteError>>(
        &self,
        name: &str,
        about: &str,
        write: impl FnOnce(&Path) -> Result<BTreeMap<String, String>, E>,
    ) -> Result<(), E> {
        self.write_needing(name, about, None, write)
    }

    /// The same for an entry that can't be used without another one.
    pub fn write_needing<E: From<WriteError>>(
        &self,
        name: &str,
        about: &str,
        needs: Option<&str>,
        write: impl FnOnce(&Path) -> Result<BTreeMap<String, String>, E>,
    ) -> Result<(), E> {
        let (about, needs) = (about.to_owned(), needs.map(str::to_owned));
        let sums = |files| Checksums { about, files, needs };
        if !files::has_locks(&self.path) {
            return self.write_beside(name, |folder| write(folder).map(sums));
        }
        let (new, old) = (format!("{name}{NEW}"), format!("{name}{OLD}"));
        // Left by a process that was killed while it replaced the entry.
        self.remove(&new)?;
        self.remove(&old)?;
        let replaces = self.has(name) && self.verify(name).is_ok();
        let folder = self.path(if replaces { &new } else { name });
        // A damaged entry must not become valid half-way through its replacement.
        remove_file(&folder.join(CHECKSUMS))?;
        // A process that was killed while it wrote the entry may have left a partial file.
        files::remove_partial(&folder, true);
        let written = write(&folder).and_then(|files| {
            complete(&folder, &sums(files))?;
            if replaces && !self.swap(&new, name)? {
                let back = |_: &WriteError| {
                    let _ = self.rename(&old, name);
                };
                self.rename(name, &old).inspect_err(back)?;
                self.rename(&new, name).inspect_err(back)?;
            }
            Ok(())
        });
        if written.is_err() {
            // A partial entry takes space, and a lack of space may be the reason of the failure.
            let _ = fs::remove_dir_all(&folder);
        }
        written?;
        // The new entry counts, whether the earlier one can be deleted or not.
        if replaces {
            let _ = self.remove(&new).and(self.remove(&old));
        }
        Ok(())
    }

    /// [`Folder::write`] on a file system without locks, where other processes may write the same entry at
    /// the same time: each writes a folder of its own, and the last one stays.
    fn write_beside<E: From<WriteError>>(
        &self,
        name: &str,
        write: impl FnOnce(&Path) -> Result<Checksums, E>,
    ) -> Result<(), E> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // Processes of several machines may share the folder and have one id.
        let own = format!("{name}.{}-{}-{number}", std::process::id(), started.as_nanos());
        let (new, old) = (format!("{own}{NEW}"), format!("{own}{OLD}"));
        let folder = self.path(&new);
        let written = write(&folder).and_then(|sums| {
            complete(&folder, &sums)?;
            Ok(self.put_in_place(&new, &old, name)?)
        });
        let _ = self.remove(&new).and(self.remove(&old));
        written
    }

    /// Gives an entry its name, which another process may give to its own, or remove, at any moment.
    fn put_in_place(&self, new: &str, old: &str, name: &str) -> Result<(), WriteError> {
        const ATTEMPTS: usize = 100;
        let mut outcome = Ok(());
        for _ in 0..ATTEMPTS {
            // Succeeds only where there is no entry yet.
            outcome = self.rename(new, name);
            if outcome.is_ok() || self.swap(new, name)? {
                return Ok(());
            }
            let _ = self.rename(name, old).and(self.remove(old));
        }
        outcome
    }

    /// Swaps two entries durably, so that both names always have one; false where the file system can't.
    fn swap(&self, one: &str, other: &str) -> Result<bool, WriteError> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        let (one, other) = (self.path(one), self.path(other));
        if renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).is_err() {
            return Ok(false);
        }
        let synced = files::sync_folder(files::folder_of(&other));
        synced.map(|()| true).map_err(|source| WriteError { path: other, source })
    }

    /// Renames an entry's folder durably.
    fn rename(&self, from: &str, to: &str) -> Result<(), WriteError> {
        let (from, to) = (self.path(from), self.path(to));
        let renamed = fs::rename(&from, &to).and_then(|()| files::sync_folder(files::folder_of(&to)));
        renamed.map_err(|source| WriteError { path: to, source })
    }

    /// Deletes an entry, its checksums first, so that a partly deleted entry never counts.
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

    /// Records that an entry was used now. If that fails, the entry seems older than it is.
    fn touch(&self, name: &str) {
        let file = fs::File::options().append(true).open(self.path(name).join(CHECKSUMS));
        let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
    }
}

/// Writes the checksums of a folder's files, which make it an entry.
fn complete(folder: &Path, sums: &Checksums) -> Result<(), WriteError> {
    let sums = serde_json::to_vec(sums).expect("checksums are plain data");
    write_atomically(&folder.join(CHECKSUMS), |file| file.write_all(&sums))
}

pub(crate) fn remove_file(path: &Path) -> Result<(), WriteError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(WriteError { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Writes a file of an entry. Returns its hash.
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
mod tests {
    use super::*;

    /// Processes on a file system without locks write an entry and read it, at the same time.
    #[test]
    fn without_locks_an_entry_is_whole_at_any_time() {
        let there = tempfile::tempdir().unwrap();
        let folder = Folder::open(there.path()).unwrap();
        let write = |text: String| {
            folder.write_beside("entry", |new| -> Result<_, WriteError> {
                let hash = write_whole(&new.join("text"), text.as_bytes())?;
                let files = BTreeMap::from([("text".to_owned(), hash)]);
                Ok(Checksums { about: "about".to_owned(), files, needs: None })
            })
        };
        write("first".to_owned()).unwrap();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let write = &write;
                scope.spawn(move || (0..20).for_each(|round| write(format!("{writer} {round}")).unwrap()));
            }
            for _ in 0..200 {
                assert!(folder.has("entry"));
            }
        });
        assert_eq!(folder.verify("entry"), Ok(()));
        let names: Vec<_> =
            fs::read_dir(there.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["entry"]);
        // A damaged entry is replaced.
        fs::remove_file(folder.path("entry").join("text")).unwrap();
        write("last".to_owned()).unwrap();
        assert_eq!(folder.verify("entry"), Ok(()));
    }
}
