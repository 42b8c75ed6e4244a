//! Hashes of files' content. Hashing a large checkpoint takes about as long as reading it, so that what was
//! hashed is remembered: a file of the same place, length and times is taken to be the same.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{regular, write_atomically};

/// Smaller files are hashed sooner than their note is found.
const WORTH_REMEMBERING: u64 = 1 << 20;

#[derive(Serialize, Deserialize, PartialEq)]
struct Note {
    /// Device, inode, length, and when its content and its properties changed last, in seconds and
    /// nanoseconds.
    identity: (u64, u64, u64, (i64, i64), (i64, i64)),
    hash: String,
}

/// Blake3 of a file's content, in hexadecimal. `notes` is a folder that need not exist; what cannot be kept
/// there is hashed again the next time.
pub fn hash(path: &Path, notes: &Path) -> io::Result<String> {
    let path = fs::canonicalize(path)?;
    let file = regular::open(&path)?;
    let found = file.metadata()?;
    let identity = (
        found.dev(),
        found.ino(),
        found.len(),
        (found.mtime(), found.mtime_nsec()),
        (found.ctime(), found.ctime_nsec()),
    );
    if found.len() < WORTH_REMEMBERING {
        return regular::hash_open(&file, u64::MAX);
    }
    let note = notes.join(format!("{}.json", blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex()));
    let known = fs::read(&note).ok().and_then(|text| serde_json::from_slice::<Note>(&text).ok());
    if let Some(known) = known.filter(|known| known.identity == identity) {
        return Ok(known.hash);
    }
    let hash = regular::hash_open(&file, u64::MAX)?;
    let text = serde_json::to_vec(&Note { identity, hash: hash.clone() })?;
    // Without the note the hash is as right as with it.
    let _ = write_atomically(&note, |file| io::Write::write_all(file, &text));
    Ok(hash)
}

/// The same, whatever is remembered.
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
        // Another file in the same place, as tools replace checkpoints.
        content[7] = 2;
        fs::write(folder.path().join("new"), &content).unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!(hash(&path, &notes).unwrap(), blake3::hash(&content).to_hex().as_str());
        // A note that is damaged is none.
        let note = fs::read_dir(&notes).unwrap().next().unwrap().unwrap().path();
        fs::write(&note, "{").unwrap();
        assert_eq!(hash(&path, &notes).unwrap(), blake3::hash(&content).to_hex().as_str());
        assert!(hash(&folder.path().join("absent"), &notes).is_err());
    }
}
