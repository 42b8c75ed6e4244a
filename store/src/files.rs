//! Atomic writes: a file is either complete or absent, however a run ended.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        fs::create_dir_all(folder)?;
        // 0666 minus the umask, as for other files; the default of temporary files would hide results from
        // the group.
        let permissions = fs::Permissions::from_mode(0o666);
        let mut file =
            tempfile::Builder::new().prefix(PARTIAL).permissions(permissions).tempfile_in(folder)?;
        write(file.as_file_mut())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|failure| failure.error)?;
        // The rename itself is durable once the folder is.
        File::open(folder)?.sync_all()
    };
    attempt().map_err(|source| WriteError { path: path.to_owned(), source })
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
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = folder.read_dir().ok()?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    Some(names)
}

/// Prefix of the names of temporary files.
pub(crate) const PARTIAL: &str = ".writing-";

/// Deletes temporary files that an interrupted [`write_atomically`] left in a folder and its subfolders: all,
/// or only those older than `age`. The caller makes sure that no process writes them. Files that can't be
/// deleted stay.
pub fn remove_partial(folder: &Path, age: Option<Duration>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            remove_partial(&entry.path(), age);
            continue;
        }
        let old = || metadata.modified().ok()?.elapsed().ok();
        let unused = age.is_none_or(|age| old().is_some_and(|since| since >= age));
        if unused && metadata.is_file() && entry.file_name().to_string_lossy().starts_with(PARTIAL) {
            let _ = fs::remove_file(entry.path());
        }
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
