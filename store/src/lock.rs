//! One run at a time computes a result; others wait for it. A lock is the system's own on an open file: whoever dies lets go of it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

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
    /// False where the file system has no locks: then nothing keeps another run from the same work, and both are right.
    pub fn exclusive(&self) -> bool {
        self.exclusive
    }
}

impl Folder {
    /// The lock of a key; none where another run, or another thread, has it.
    pub fn try_lock(&self, key: &str) -> Result<Option<Lock>, WriteError> {
        let folder = self.path("locks");
        let path = folder.join(key);
        let attempt = || -> io::Result<Option<Lock>> {
            fs::create_dir_all(&folder)?;
            loop {
                let file = File::options().create(true).truncate(false).write(true).open(&path)?;
                let exclusive = match file.try_lock() {
                    Ok(()) => true,
                    Err(TryLockError::WouldBlock) => return Ok(None),
                    Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => false,
                    Err(TryLockError::Error(error)) => return Err(error),
                };
                // Whoever had it has removed the file: a lock on what nobody else can open any more is none.
                match fs::metadata(&path) {
                    Ok(there) if there.ino() == file.metadata()?.ino() => {
                        return Ok(Some(Lock { path: path.clone(), file, exclusive }));
                    }
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        };
        attempt().map_err(|source| WriteError { path: path.clone(), source })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is held, so that nobody's new file is taken away. An empty file that stays is no harm.
        let _ = fs::remove_file(&self.path);
        let _ = self.file.unlock();
    }
}
