//! Hashes of files' content. Hashing a large checkpoint takes about as long as reading it, so hashes are
//! remembered: a file with the same path, length and times is assumed to be the same.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::write_atomically;
use crate::regular;

/// Smaller files are hashed faster than a remembered hash is found.
const WORTH_REMEMBERING: u64 = 1 << 20;

/// Metadata by which an unchanged file is recognised without a read: device, inode, length, and the times of
/// the last change of its content and of its metadata, in seconds and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileStamp(u64, u64, u64, (i64, i64), (i64, i64));

impl FileStamp {
    pub fn from_metadata(found: &Metadata) -> FileStamp {
        let (modified, changed) = ((found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec()));
        FileStamp(found.dev(), found.ino(), found.len(), modified, changed)
    }

    /// The stamp without the metadata's time, which changes when a link to the file is made.
    #[must_use]
    pub fn of_content(self) -> FileStamp {
        FileStamp(self.0, self.1, self.2, self.3, (0, 0))
    }

    /// Whether the file was written, touched or replaced since, not only its metadata changed. Some file
    /// systems assign a new inode number at every lookup; then the times show that the file is the same.
    fn is_written_since(self, before: FileStamp) -> bool {
        let FileStamp(device, inode, length, modified, changed) = self;
        (length, modified) != (before.2, before.3)
            || (device, inode) != (before.0, before.1) && changed != before.4
    }
}

#[derive(Serialize, Deserialize, PartialEq)]
struct Note {
    identity: FileStamp,
    hash: String,
}

/// The state of a file since it was hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileState {
    Unchanged,
    /// It was written to but has the hashed content now: a read in between may have seen other
    /// content.
    Rewritten,
    /// It has another content, or does not exist.
    Changed,
}

/// A file whose content was hashed, to check later whether it still has that content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HashedFile {
    pub path: PathBuf,
    /// BLAKE3 hash, in hexadecimal.
    pub hash: String,
    /// Taken before it was hashed, so that a change during hashing is noticed.
    stamp: FileStamp,
}

impl HashedFile {
    /// Hashes a regular file of at most `limit` bytes.
    pub fn hash(path: &Path, limit: u64) -> io::Result<HashedFile> {
        let file = regular::open_within(path, limit)?;
        let stamp = FileStamp::from_metadata(&file.metadata()?);
        Ok(HashedFile { path: path.to_owned(), hash: regular::hash_open(&file, limit)?, stamp })
    }

    /// As [`HashedFile::hash`], but without reading a file whose hash is remembered. `notes` is a folder that
    /// need not exist; a hash that can't be stored there is computed again the next time.
    pub fn remembered(path: &Path, notes: &Path) -> io::Result<HashedFile> {
        let real = fs::canonicalize(path)?;
        let file = regular::open(&real)?;
        let found = file.metadata()?;
        let stamp = FileStamp::from_metadata(&found);
        let hashed = |hash: String| HashedFile { path: path.to_owned(), hash, stamp };
        if found.len() < WORTH_REMEMBERING {
            return regular::hash_open(&file, u64::MAX).map(hashed);
        }
        let note = notes.join(format!("{}.json", blake3::hash(real.as_os_str().as_encoded_bytes()).to_hex()));
        let known = fs::read(&note).ok().and_then(|text| serde_json::from_slice::<Note>(&text).ok());
        if let Some(known) = known.filter(|known| known.identity == stamp) {
            return Ok(hashed(known.hash));
        }
        let hash = regular::hash_open(&file, u64::MAX)?;
        let text = serde_json::to_vec(&Note { identity: stamp, hash: hash.clone() })?;
        // Errors are ignored, because the hash is valid without the note.
        let _ = write_atomically(&note, |file| io::Write::write_all(file, &text));
        Ok(hashed(hash))
    }

    /// The state of the file at its path, which is only read if its stamp differs.
    pub fn state(&mut self) -> FileState {
        match fs::metadata(&self.path) {
            Ok(found) if FileStamp::from_metadata(&found) == self.stamp => FileState::Unchanged,
            _ => regular::open(&self.path).map_or(FileState::Changed, |file| self.state_of(&file)),
        }
    }

    /// The same for an open file, even if the path has another file by now.
    pub fn state_of(&mut self, file: &File) -> FileState {
        let Ok(stamp) = file.metadata().map(|found| FileStamp::from_metadata(&found)) else {
            return FileState::Changed;
        };
        if stamp == self.stamp {
            return FileState::Unchanged;
        }
        if !regular::hash_open(file, u64::MAX).is_ok_and(|hash| hash == self.hash) {
            return FileState::Changed;
        }
        if stamp.is_written_since(self.stamp) {
            return FileState::Rewritten;
        }
        // With the new stamp, the file is not read again the next time.
        self.stamp = stamp;
        FileState::Unchanged
    }
}

/// BLAKE3 hash of a file's content, in hexadecimal; see [`HashedFile::remembered`].
pub fn hash(path: &Path, notes: &Path) -> io::Result<String> {
    HashedFile::remembered(path, notes).map(|file| file.hash)
}

/// The same, without remembered hashes.
pub fn hash_anew(path: &Path) -> io::Result<String> {
    regular::hash(path, u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_of_the_content_and_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let (path, notes) = (folder.path().join("weights"), folder.path().join("notes"));
        let mut content = vec![1u8; 3 << 20];
        fs::write(&path, &content).unwrap();
        let first = hash(&path, &notes).unwrap();
        assert_eq!(first, blake3::hash(&content).to_hex().as_str());
        assert_eq!(fs::read_dir(&notes).unwrap().count(), 1);
        assert_eq!(hash(&path, &notes).unwrap(), first);
        // Replaces the file by another one, as tools replace checkpoints.
        content[7] = 2;
        fs::write(folder.path().join("new"), &content).unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!(hash(&path, &notes).unwrap(), blake3::hash(&content).to_hex().as_str());
        // A damaged note is ignored.
        let note = fs::read_dir(&notes).unwrap().next().unwrap().unwrap().path();
        fs::write(&note, "{").unwrap();
        assert_eq!(hash(&path, &notes).unwrap(), blake3::hash(&content).to_hex().as_str());
        assert!(hash(&folder.path().join("absent"), &notes).is_err());
    }

    /// Checks the file at the path and the open file: only the path shows that another file replaced it.
    #[test]
    fn a_file_that_was_written_to_is_not_what_was_hashed() {
        use FileState::{Changed, Rewritten, Unchanged};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("judge.py");
        // Each write has its own time, even where the file system's times are coarse.
        let mut time = std::time::SystemTime::UNIX_EPOCH;
        let mut write = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).unwrap();
            time += std::time::Duration::from_secs(60);
            File::options().write(true).open(folder.path().join(name)).unwrap().set_modified(time).unwrap();
        };
        write("judge.py", "0.25");
        let mut known = HashedFile::hash(&path, u64::MAX).unwrap();
        let open = regular::open(&path).unwrap();
        assert_eq!((known.state(), known.state_of(&open)), (Unchanged, Unchanged));
        // A new link changes its stamp, but not its content.
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::hard_link(&path, folder.path().join("link")).unwrap();
        let before = known.stamp;
        assert_eq!((known.state(), known.state_of(&open)), (Unchanged, Unchanged));
        assert_ne!(known.stamp, before);
        assert_eq!(known.stamp.of_content().4, (0, 0));
        // An edit that is undone is noticed, with and without a check in between.
        write("judge.py", "0.75");
        assert_eq!((known.state(), known.state_of(&open)), (Changed, Changed));
        write("judge.py", "0.25");
        assert_eq!((known.state(), known.state_of(&open)), (Rewritten, Rewritten));
        assert_eq!(known.state(), Rewritten, "it is asked again");
        let mut known = HashedFile::hash(&path, u64::MAX).unwrap();
        write("new", "0.25");
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!((known.state(), known.state_of(&open)), (Rewritten, Unchanged));
        write("new", "0.75");
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!((known.state(), known.state_of(&open)), (Changed, Unchanged));
        fs::remove_file(&path).unwrap();
        assert_eq!((known.state(), known.state_of(&open)), (Changed, Unchanged));
    }

    /// Some network file systems assign a new inode number at every lookup.
    #[test]
    fn a_file_that_is_numbered_anew_is_the_same() {
        let stamp = |inode, changed| FileStamp(1, inode, 4, (60, 0), (changed, 0));
        assert!(!stamp(8, 60).is_written_since(stamp(7, 60)));
        assert!(stamp(8, 61).is_written_since(stamp(7, 60)), "an older one was moved in its place");
        assert!(!stamp(7, 61).is_written_since(stamp(7, 60)), "its properties");
    }
}
