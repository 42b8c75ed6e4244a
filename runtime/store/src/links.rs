//! Files that are equal to files of the store, by a link or a copy.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::content;
use crate::files::{PARTIAL, WriteError, folder_of, make_folders, sync_folder, write_atomically};

/// Makes the file `to` equal to the file `from`, of which `hash` is the hash of the content: by a link, which
/// takes no space, or across file systems by a copy. A reader of `to` sees the old file or the new one, never
/// a part, and an equal file is left alone.
pub fn link_or_copy(from: &Path, to: &Path, hash: &str) -> Result<(), WriteError> {
    if is_equal(from, to, hash) {
        return Ok(());
    }
    let linked = || -> io::Result<()> {
        let folder = folder_of(to);
        make_folders(folder)?;
        let mut name = tempfile::Builder::new();
        let link = name.prefix(PARTIAL).make_in(folder, |path| fs::hard_link(from, path))?;
        link.persist(to).map_err(|failure| failure.error)?;
        sync_folder(folder)
    };
    linked().or_else(|_| write_atomically(to, |file| io::copy(&mut File::open(from)?, file).map(drop)))
}

fn is_equal(from: &Path, to: &Path, hash: &str) -> bool {
    let (Ok(ours), Ok(theirs)) = (fs::metadata(from), fs::metadata(to)) else { return false };
    is_same_file(&ours, &theirs)
        || (ours.len() == theirs.len() && content::hash_anew(to).is_ok_and(|found| found == hash))
}

fn is_same_file(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Whether a file that [`link_or_copy`] made is there, as far as that shows without reading it.
pub fn seems_equal(from: &Path, to: &Path) -> bool {
    let (Ok(ours), Ok(theirs)) = (fs::metadata(from), fs::metadata(to)) else { return false };
    ours.len() == theirs.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_equal_file_is_left_alone_and_another_is_replaced_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("models/to"));
        fs::write(&from, "new").unwrap();
        let hash = content::hash_anew(&from).unwrap();
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        link_or_copy(&from, &to, &hash).unwrap();
        assert_eq!(inode(&from), inode(&to));
        // A copy, as on another file system.
        fs::remove_file(&to).unwrap();
        fs::write(&to, "new").unwrap();
        let copy = inode(&to);
        link_or_copy(&from, &to, &hash).unwrap();
        assert_eq!(inode(&to), copy);
        for other in ["old", "longer"] {
            fs::write(folder.path().join("other"), other).unwrap();
            fs::rename(folder.path().join("other"), &to).unwrap();
            assert_eq!(seems_equal(&from, &to), other.len() == "new".len());
            link_or_copy(&from, &to, &hash).unwrap();
            assert_eq!(fs::read(&to).unwrap(), b"new");
            assert_eq!(fs::read_dir(to.parent().unwrap()).unwrap().count(), 1);
        }
        // What can't be replaced stays.
        fs::remove_file(&from).unwrap();
        assert!(link_or_copy(&from, &to, "another").is_err());
        assert_eq!(fs::read(&to).unwrap(), b"new");
    }
}
