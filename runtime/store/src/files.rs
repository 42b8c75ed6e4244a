//! Atomic writes: a file is either complete or absent, however a run ended.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::NamedTempFile;

/// A file could not be written; an earlier file at `path` is unchanged.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {}", path.display(), reason(source))]
pub struct WriteError {
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

impl WriteError {
    /// What is in the way: the path itself, or the file that is named as if it were one of its folders.
    fn blocking_path(&self) -> &Path {
        self.path.ancestors().find(|path| path.is_file()).unwrap_or(&self.path)
    }

    /// Advice, where there is a usual solution.
    pub fn help(&self) -> Option<String> {
        match self.source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Some("free some space and run again: finished stages are kept".to_owned())
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Some(
                "run in a folder that you can write to: `.mopd` is created there; `--out DIR` sets \
                another folder for results"
                    .to_owned(),
            ),
            io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::AlreadyExists => {
                Some(format!(
                    "rename or delete {} and run again: finished stages are kept",
                    self.blocking_path().display()
                ))
            }
            // Folders are made before files in them are written.
            io::ErrorKind::NotFound => Some(
                "its folder was deleted meanwhile: run the same command again, which computes again what \
                was deleted"
                    .to_owned(),
            ),
            io::ErrorKind::FileTooLarge => Some(
                "raise the limit of file sizes (`ulimit -f`) and run again: finished stages are \
                kept"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// Describes an I/O error, without the error number if it is a common one.
pub fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file or folder".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "it is a folder".to_owned(),
        io::ErrorKind::NotADirectory => "part of this path is a file, but must be a folder".to_owned(),
        io::ErrorKind::AlreadyExists => "it exists already".to_owned(),
        io::ErrorKind::StorageFull => "the disk is full".to_owned(),
        io::ErrorKind::QuotaExceeded => "the disk quota is used up".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only".to_owned(),
        // An error of the system; this program's own limits have messages with the size.
        io::ErrorKind::FileTooLarge if error.raw_os_error().is_some() => {
            "the file would exceed the limit of file sizes".to_owned()
        }
        _ => error.to_string(),
    }
}

/// Writes a file through a temporary one in the same folder, which is synced to the disk and then renamed. A
/// reader sees the old file or the new one, never a part, even after a power failure. Creates the folder if
/// there is none.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), WriteError> {
    let attempt = || {
        let folder = folder_of(path);
        make_folders(folder)?;
        // 0666 minus the umask, as for other files; the default of temporary files would hide results from
        // the group.
        let mut file = partial_file(folder, 0o666)?;
        write(file.as_file_mut())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|failure| failure.error)?;
        // The rename itself is durable once the folder is.
        sync_folder(folder)
    };
    attempt().map_err(|source| WriteError { path: path.to_owned(), source })
}

/// The folder that a path is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the names in a folder durable: new files, and renamed ones.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Creates a folder and the missing ones above it, durably. Returns the folders that have new names.
pub(crate) fn make_folders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
    let changed: Vec<PathBuf> =
        folder.ancestors().take_while(missing).map(|made| folder_of(made).to_owned()).collect();
    fs::create_dir_all(folder)?;
    changed.iter().try_for_each(|changed| sync_folder(changed))?;
    Ok(changed)
}

/// A temporary file in a folder, locked as long as it is open, so that [`remove_partial`] can tell it from
/// one whose process was killed.
pub(crate) fn partial_file(folder: &Path, mode: u32) -> io::Result<NamedTempFile> {
    let permissions = fs::Permissions::from_mode(mode);
    loop {
        let file =
            tempfile::Builder::new().prefix(PARTIAL).permissions(permissions.clone()).tempfile_in(folder)?;
        match file.as_file().lock() {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if no_locks(&error) => return Ok(file),
            Err(error) => return Err(error),
        }
        // It may have been removed before it was locked.
        match fs::metadata(file.path()) {
            Ok(there) if there.ino() == file.as_file().metadata()?.ino() => return Ok(file),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
}

/// Bytes that the file system of a folder, or of its nearest existing parent, has free for this user; `None`
/// where it does not say.
pub fn free_space(folder: &Path) -> Option<u64> {
    let absolute = std::path::absolute(folder).ok()?;
    let there = absolute.ancestors().find(|path| path.exists())?;
    let found = rustix::fs::statvfs(there).ok()?;
    // Some network file systems report no size at all.
    (found.f_blocks > 0).then(|| found.f_bavail.saturating_mul(found.f_frsize))
}

/// Whether a folder is on the file system of another one, each itself or its nearest existing parent. True
/// where that is unknown.
pub fn is_on_file_system_of(folder: &Path, other: &Path) -> bool {
    let device = |path: &Path| {
        let absolute = std::path::absolute(path).ok()?;
        absolute.ancestors().find_map(|path| Some(fs::metadata(path).ok()?.dev()))
    };
    let (Some(own), Some(other)) = (device(folder), device(other)) else { return true };
    own == other
}

/// Checks that files can be written to a folder, or to its nearest existing parent, by creating and deleting
/// an empty file.
pub fn try_to_write(folder: &Path) -> Result<(), WriteError> {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let there = absolute.ancestors().find(|path| path.symlink_metadata().is_ok()).unwrap_or(&absolute);
    let made = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(there);
    made.map(drop).map_err(|source| WriteError { path: folder.to_owned(), source })
}

/// The sorted names in a path's folder, without hidden ones; `None` where the folder does not exist.
pub fn names_beside(path: &Path) -> Option<Vec<String>> {
    let entries = folder_of(path).read_dir().ok()?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    Some(names)
}

/// Whether the file system has no locks. NFS without a lock daemon says ENOLCK, for which the standard
/// library has no kind.
pub(crate) fn no_locks(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported || error.raw_os_error() == Some(libc::ENOLCK)
}

/// Whether the file system of a folder has locks.
pub(crate) fn has_locks(folder: &Path) -> bool {
    let refused = |file: File| matches!(file.try_lock(), Err(TryLockError::Error(error)) if no_locks(&error));
    // Where no file can be made, the write that follows says why.
    !tempfile::tempfile_in(folder).is_ok_and(refused)
}

/// Prefix of the names of temporary files.
pub(crate) const PARTIAL: &str = ".writing-";

/// Deletes temporary files that an interrupted [`write_atomically`] left in a folder and, if `deep`, in its
/// subfolders. Files that a process writes now stay, and files that can't be deleted.
pub fn remove_partial(folder: &Path, deep: bool) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && deep {
            remove_partial(&entry.path(), deep);
        }
        if kind.is_file() && entry.file_name().to_string_lossy().starts_with(PARTIAL) {
            remove_unused(&entry.path());
        }
    }
}

/// Deletes a temporary file that no process has locked.
fn remove_unused(path: &Path) {
    /// The age from which nobody writes a file, where there are no locks.
    const NOBODYS: Duration = Duration::from_secs(3600);
    let Ok(file) = File::options().write(true).open(path) else { return };
    let old = || file.metadata().ok()?.modified().ok()?.elapsed().ok();
    let unused = match file.try_lock() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(_)) => old().is_some_and(|since| since >= NOBODYS),
    };
    if unused {
        let _ = fs::remove_file(path);
    }
}

/// The name of a model's folder: `expert[sort]` of seed 3 has `expert.sort-seed3`.
pub fn folder_of_model(model: &str, seed: u64) -> String {
    format!("{}-seed{seed}", file_name(model))
}

/// A model's name as a file name: `expert[sort]` becomes `expert.sort`.
fn file_name(model: &str) -> String {
    let mut name = String::with_capacity(model.len());
    for character in model.chars() {
        match character {
            ']' => {}
            '[' => name.push('.'),
            other if other.is_alphanumeric() || "-_.".contains(other) => name.push(other),
            _ => name.push('_'),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn replaces_the_file_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/results.json");
        write_atomically(&path, |file| file.write_all(b"first")).unwrap();
        write_atomically(&path, |file| file.write_all(b"second")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(names(path.parent().unwrap()), ["results.json"]);
    }

    #[test]
    fn a_full_disk_is_named_and_the_old_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.json");
        fs::write(&path, "old").unwrap();
        let error = write_atomically(&path, |file| {
            file.write_all(b"half")?;
            // The kernel's own answer to a write when no space is left.
            fs::OpenOptions::new().write(true).open("/dev/full")?.write_all(b"rest")
        })
        .unwrap_err();
        assert_eq!(error.to_string(), format!("cannot write {}: the disk is full", path.display()));
        assert_eq!(error.help().unwrap(), "free some space and run again: finished stages are kept");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["results.json"]);
    }

    #[test]
    fn a_folder_that_is_a_file_is_an_error_with_the_path() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("taken"), "").unwrap();
        let path = folder.path().join("taken/results.json");
        let error = write_atomically(&path, |_| Ok(())).unwrap_err();
        let expected = format!("cannot write {}: it exists already", path.display());
        assert_eq!(error.to_string(), expected);
        let taken = folder.path().join("taken");
        assert!(
            error.help().unwrap().starts_with(&format!("rename or delete {} and run again", taken.display()))
        );
    }

    /// Such a file system can't be mounted here, so this tests how its errors are read.
    #[test]
    fn a_file_system_may_have_no_locks() {
        for code in [libc::ENOLCK, libc::ENOTSUP, libc::ENOSYS] {
            let error = io::Error::from_raw_os_error(code);
            assert!(no_locks(&error), "{error}");
        }
        assert!(!no_locks(&io::Error::from_raw_os_error(libc::EIO)));
    }

    #[test]
    fn a_partial_file_goes_when_its_writer_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let left = inner.join(format!("{PARTIAL}left"));
        fs::write(&left, "half").unwrap();
        write_atomically(&inner.join("file"), |file| {
            remove_partial(folder.path(), false);
            assert!(left.exists(), "it is in a subfolder");
            remove_partial(folder.path(), true);
            assert!(!left.exists());
            file.write_all(b"whole")
        })
        .unwrap();
        assert_eq!(fs::read(inner.join("file")).unwrap(), b"whole");
        assert_eq!(names(&inner), ["file"]);
    }

    /// A folder's name is durable once the folder that it is in is synced.
    #[test]
    fn every_folder_with_a_new_name_is_synced() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path();
        let expected = vec![place.join("a/b"), place.join("a"), place.to_owned()];
        assert_eq!(make_folders(&place.join("a/b/c")).unwrap(), expected);
        assert!(place.join("a/b/c").is_dir());
        assert!(make_folders(&place.join("a/b/c")).unwrap().is_empty());
        assert_eq!(folder_of(Path::new("a")), Path::new("."));
    }

    #[test]
    fn the_free_space_is_that_of_the_nearest_folder() {
        let folder = tempfile::tempdir().unwrap();
        let free = free_space(&folder.path().join("new/deeper"));
        assert!(free.is_none_or(|bytes| bytes < 1 << 60), "{free:?}");
    }

    #[test]
    fn a_file_that_the_system_finds_too_large_is_told_apart_from_one_that_we_do() {
        const EFBIG: i32 = 27;
        let of_system = io::Error::from_raw_os_error(EFBIG);
        assert_eq!(reason(&of_system), "the file would exceed the limit of file sizes");
        let ours = io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 7");
        assert_eq!(reason(&ours), "it is larger than 7");
    }

    #[test]
    fn whether_a_folder_can_be_written_to_is_found_without_making_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("taken"), "").unwrap();
        assert!(try_to_write(&folder.path().join("new/deeper")).is_ok());
        let error = try_to_write(&folder.path().join("taken/deeper")).unwrap_err();
        assert!(error.to_string().ends_with("part of this path is a file, but must be a folder"), "{error}");
        assert_eq!(names(folder.path()), ["taken"]);
    }
}
