//! One run at a time computes a result, others wait for it; and one at a time writes to a folder of results.
//! A lock is the system's own on an open file: whoever dies lets go of it.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::{Folder, WriteError};

/// Let go of when dropped.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    /// Closed last, which unlocks it.
    file: File,
    exclusive: bool,
}

impl Lock {
    /// False where the file system has no locks: then nothing keeps another run from the same work, and both
    /// are right.
    pub fn exclusive(&self) -> bool {
        self.exclusive
    }

    /// The lock that the file at this path is; none where another process, or another thread, has it.
    pub fn try_at(path: &Path) -> Result<Option<Lock>, WriteError> {
        let attempt = || -> io::Result<Option<Lock>> {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            loop {
                let file = File::options().create(true).truncate(false).write(true).open(path)?;
                let exclusive = match file.try_lock() {
                    Ok(()) => true,
                    Err(TryLockError::WouldBlock) => return Ok(None),
                    Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => false,
                    Err(TryLockError::Error(error)) => return Err(error),
                };
                let lock = Lock { path: path.to_owned(), file, exclusive };
                // Whoever had it has removed the file: a lock on what nobody else can open any more is none.
                if lock.in_place()? {
                    return Ok(Some(lock));
                }
                lock.let_go();
            }
        };
        attempt().map_err(|source| WriteError { path: path.to_owned(), source })
    }

    /// Whether another process, or another thread, has the lock that the file at this path is. Takes nothing
    /// and makes no file.
    pub fn is_held(path: &Path) -> bool {
        let taken = |file: File| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
        File::open(path).is_ok_and(taken)
    }

    /// Whether the file is still the one at its path: a folder may be deleted under a lock.
    pub fn in_place(&self) -> io::Result<bool> {
        match fs::metadata(&self.path) {
            Ok(there) => Ok(there.ino() == self.file.metadata()?.ino()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Says in the file who has the lock, for whoever finds it taken.
    pub fn note(&self, holder: &str) -> io::Result<()> {
        self.file.set_len(0)?;
        (&self.file).write_all(holder.as_bytes())
    }

    /// Without touching what is at the path, which is another's.
    fn let_go(mut self) {
        self.path = PathBuf::new();
    }
}

impl Folder {
    /// The lock of a key; none where another run, or another thread, has it.
    pub fn try_lock(&self, key: &str) -> Result<Option<Lock>, WriteError> {
        Lock::try_at(&self.path("locks").join(key))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is held, so that nobody's new file is taken away. A file that stays is no harm.
        if self.in_place().unwrap_or(false) {
            let _ = fs::remove_file(&self.path);
        }
        let _ = self.file.unlock();
    }
}
