//! Memory-mapped files: the system reads a page when it is accessed, and may drop it again.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use mopd_kernels::os::Mapping;
use mopd_store::content::{FileStamp, FileState, HashedFile};

#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    file: File,
    map: Mapping,
}

/// Every file that is mapped now, so that a file that is opened twice takes memory once.
static MAPPED: Mutex<Option<HashMap<FileStamp, Weak<MappedFile>>>> = Mutex::new(None);

impl MappedFile {
    /// Maps a file, or returns the existing mapping.
    pub fn open(path: &Path) -> io::Result<Arc<MappedFile>> {
        // Checked before opening: opening a pipe blocks until something writes to it.
        if !fs::metadata(path)?.is_file() {
            return Err(io::Error::other("not a file"));
        }
        let file = File::open(path)?;
        // A published checkpoint is another hard link to the same content.
        let identity = FileStamp::from_metadata(&file.metadata()?).of_content();
        let mut mapped = MAPPED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mapped = mapped.get_or_insert_with(HashMap::new);
        if let Some(shared) = mapped.get(&identity).and_then(Weak::upgrade) {
            return Ok(shared);
        }
        let map = Mapping::new(&file)?;
        let shared = Arc::new(MappedFile { path: path.to_owned(), file, map });
        mapped.retain(|_, known| known.strong_count() > 0);
        mapped.insert(identity, Arc::downgrade(&shared));
        Ok(shared)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How this file changed since it was hashed, whatever is at its path by now.
    pub fn state(&self, hashed: &mut HashedFile) -> FileState {
        hashed.state_of(&self.file)
    }

    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Copies the bytes from `start` on by reading, not through the mapping. For copying a large file once
    /// this takes a fraction of the time of mapping its pages, and keeps none of them in memory.
    pub fn copy(&self, start: usize, into: &mut [u8]) {
        let place = &self.map[start..start + into.len()];
        if self.file.read_exact_at(into, start as u64).is_err() {
            into.copy_from_slice(place);
        }
    }

    /// Advises the system to read these bytes into memory.
    pub fn expect(&self, range: Range<usize>) {
        self.map.expect(range);
    }

    /// Releases the memory of these bytes; a later access reads them again from the disk or the system's
    /// cache.
    pub fn release(&self, range: Range<usize>) {
        self.map.release(range);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_mapped_once_however_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, vec![7; 100_000]).unwrap();
        std::os::unix::fs::symlink(&path, folder.path().join("b")).unwrap();
        let first = MappedFile::open(&path).unwrap();
        let second = MappedFile::open(&folder.path().join("b")).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        // Renaming puts another file at the path; the old mapping keeps its content.
        fs::write(folder.path().join("new"), "new").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        let third = MappedFile::open(&path).unwrap();
        assert_eq!(third.bytes(), b"new");
        assert_eq!(first.bytes(), vec![7; 100_000]);
    }

    #[test]
    fn released_pages_can_be_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let bytes: Vec<u8> = (0..50_000u32).map(|index| index as u8).collect();
        fs::write(&path, &bytes).unwrap();
        let file = MappedFile::open(&path).unwrap();
        assert_eq!(file.bytes(), bytes);
        file.release(10..40_000);
        file.release(49_999..60_000);
        assert_eq!(file.bytes(), bytes);
    }

    #[test]
    fn mapping_a_folder_or_an_absent_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(MappedFile::open(folder.path()).is_err());
        assert!(MappedFile::open(&folder.path().join("absent")).is_err());
    }
}
