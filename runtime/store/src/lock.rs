//! Locks: one run at a time computes a result while others wait for it, and one run at a time writes to a
//! folder of results. A lock is the system's lock of an open file, so it is released when the process ends.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::entries::Folder;
use crate::files::{WriteError, no_locks};

/// A lock, released when dropped.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    /// Closed last, which unlocks it.
    file: File,
    exclusive: bool,
}

impl Lock {
    /// False where the file system has no locks: then two runs may compute the same result, and both results
    /// are valid.
    pub fn exclusive(&self) -> bool {
        self.exclusive
    }

    /// Takes the lock of the file at this path; `None` if another process or thread holds it. One that only
    /// looks whether it is held ([`Lock::is_held`]) is waited for.
    pub fn try_at(path: &Path) -> Result<Option<Lock>, WriteError> {
        Lock::take(path, &[1, 2, 4, 8, 16, 32, 64, 128])
    }

    /// `waits` are the milliseconds to wait before each further attempt.
    fn take(path: &Path, waits: &[u64]) -> Result<Option<Lock>, WriteError> {
        let attempt = || -> io::Result<Option<Lock>> {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            let mut waits = waits.iter();
            loop {
                let file = File::options().create(true).truncate(false).write(true).open(path)?;
                let exclusive = match file.try_lock() {
                    Ok(()) => true,
                    Err(TryLockError::WouldBlock) => {
                        let Some(wait) = waits.next() else { return Ok(None) };
                        std::thread::sleep(Duration::from_millis(*wait));
                        continue;
                    }
                    Err(TryLockError::Error(error)) if no_locks(&error) => false,
                    Err(TryLockError::Error(error)) => return Err(error),
                };
                let lock = Lock { path: path.to_owned(), file, exclusive };
                // If the previous holder has deleted the file, a lock on it excludes no other process.
                if lock.in_place()? {
                    return Ok(Some(lock));
                }
                lock.release();
            }
        };
        attempt().map_err(|source| WriteError { path: path.to_owned(), source })
    }

    /// Whether another process or thread holds the lock of the file at this path. Creates no file, and shares
    /// the lock no longer than it takes to look.
    pub fn is_held(path: &Path) -> bool {
        let taken = |file: File| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
        File::open(path).is_ok_and(taken)
    }

    /// Whether the file is still the one at its path: its folder may be deleted while the lock is held.
    pub fn in_place(&self) -> io::Result<bool> {
        match fs::metadata(&self.path) {
            Ok(there) => Ok(there.ino() == self.file.metadata()?.ino()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes the holder of the lock into the file, for processes that find it taken.
    pub fn note(&self, holder: &str) -> io::Result<()> {
        self.file.set_len(0)?;
        (&self.file).write_all(holder.as_bytes())
    }

    /// Releases the lock without deleting the file at the path, which is another process's.
    fn release(mut self) {
        self.path = PathBuf::new();
    }
}

impl Folder {
    /// Takes the lock of a key; `None` if another run or thread holds it. Nobody only looks at these.
    pub fn try_lock(&self, key: &str) -> Result<Option<Lock>, WriteError> {
        Lock::take(&self.path("locks").join(key), &[])
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Under the lock, so that no other process's new file is deleted. A file that stays is harmless.
        if self.in_place().unwrap_or(false) {
            let _ = fs::remove_file(&self.path);
        }
        let _ = self.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// As `mopd ls` does at any time, also when a run begins.
    #[test]
    fn who_looks_whether_a_lock_is_held_keeps_nobody_from_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    Lock::is_held(&path);
                    std::thread::sleep(Duration::from_micros(200));
                }
            });
            let refused = |_: &u32| {
                // Left by a killed run.
                fs::write(&path, "").unwrap();
                Lock::try_at(&path).unwrap().is_none()
            };
            let refused = (0..500).filter(refused).count();
            done.store(true, Ordering::SeqCst);
            assert_eq!(refused, 0);
        });
    }
}
