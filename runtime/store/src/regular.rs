//! Safe reads of files that users name. A path may name a pipe, which blocks when opened, or a device, which
//! never ends. So only regular files are opened, and at most a given number of bytes is read.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

/// Opens a regular file, or a link to one. Anything else is an error that names its kind; see
/// [`crate::files::reason`].
pub fn open(path: &Path) -> io::Result<File> {
    // Before opening, because opening a pipe waits for its other end; and after, because the path may change
    // in between.
    check(&fs::metadata(path)?)?;
    let file = File::open(path)?;
    check(&file.metadata()?)?;
    Ok(file)
}

/// The whole content of a regular file of at most `limit` bytes.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let length = file.metadata()?.len();
    if length > limit {
        return Err(too_large(limit));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    // The length is not reliable: files under `/proc` have none, and others grow.
    (&file).take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(too_large(limit)) } else { Ok(bytes) }
}

/// BLAKE3 hash, in hexadecimal, of a regular file of at most `limit` bytes, read in pieces.
pub fn hash(path: &Path, limit: u64) -> io::Result<String> {
    hash_open(&open_within(path, limit)?, limit)
}

/// As [`open`], for a file of at most `limit` bytes.
pub(crate) fn open_within(path: &Path, limit: u64) -> io::Result<File> {
    let file = open(path)?;
    if file.metadata()?.len() > limit { Err(too_large(limit)) } else { Ok(file) }
}

/// Hashes a file from its beginning, without the file's shared cursor.
pub(crate) fn hash_open(file: &File, limit: u64) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let (mut left, mut at) = (limit, 0);
    loop {
        let count = file.read_at(&mut buffer, at)?;
        if count == 0 {
            return Ok(hasher.finalize().to_hex().to_string());
        }
        left = left.checked_sub(count as u64).ok_or_else(|| too_large(limit))?;
        at += count as u64;
        hasher.update(&buffer[..count]);
    }
}

fn check(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(());
    }
    if kind.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    let what = if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(io::Error::new(ErrorKind::InvalidInput, format!("it is {what}, not a regular file")))
}

fn too_large(limit: u64) -> io::Error {
    let limit = match limit {
        0..1024 => format!("{limit} bytes"),
        1024..0x10_0000 => format!("{} KiB", limit >> 10),
        _ => format!("{} MiB", limit >> 20),
    };
    io::Error::new(ErrorKind::FileTooLarge, format!("it is larger than {limit}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;
    use crate::files::reason;

    #[test]
    fn a_regular_file_is_read_and_hashed_up_to_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("judge.py");
        let content = vec![7; 3 << 20];
        fs::write(&path, &content).unwrap();
        let link = folder.path().join("link");
        symlink(&path, &link).unwrap();
        for path in [&path, &link] {
            assert_eq!(read(path, 3 << 20).unwrap(), content);
            assert_eq!(hash(path, 3 << 20).unwrap(), blake3::hash(&content).to_hex().as_str());
        }
        for error in [read(&path, (3 << 20) - 1).unwrap_err(), hash(&path, (3 << 20) - 1).unwrap_err()] {
            assert_eq!(reason(&error), "it is larger than 2 MiB");
        }
        // The system reports its length as 0.
        assert!(!read(Path::new("/proc/self/status"), 1 << 20).unwrap().is_empty());
        assert_eq!(
            reason(&read(Path::new("/proc/self/status"), 10).unwrap_err()),
            "it is larger than 10 bytes"
        );
        assert_eq!(hash(Path::new("/proc/self/status"), 10).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }

    #[test]
    fn pipes_devices_and_sockets_are_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for (path, wanted) in [
            (pipe.as_path(), "it is a pipe, not a regular file"),
            (&socket, "it is a socket, not a regular file"),
            (Path::new("/dev/zero"), "it is a device, not a regular file"),
            (folder.path(), "it is a folder"),
            (&folder.path().join("absent"), "there is no such file or folder"),
        ] {
            assert_eq!(reason(&open(path).unwrap_err()), wanted);
            assert_eq!(reason(&read(path, u64::MAX).unwrap_err()), wanted);
            assert_eq!(reason(&hash(path, u64::MAX).unwrap_err()), wanted);
            assert_eq!(reason(&crate::content::hash(path, folder.path()).unwrap_err()), wanted);
            assert_eq!(reason(&crate::content::hash_anew(path).unwrap_err()), wanted);
        }
    }
}
