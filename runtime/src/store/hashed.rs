//! Files that are hashed while they are written, so that large data is not in memory twice.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde::Serialize;

use crate::files::{WriteError, write_atomically};

/// Writes a file. Returns the BLAKE3 hash of its content in hexadecimal.
pub fn write_hashed(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<String, WriteError> {
    let mut hash = None;
    write_atomically(path, |file| {
        let hashing = Hashing { file, hasher: blake3::Hasher::new() };
        let mut file = BufWriter::with_capacity(1 << 16, hashing);
        write(&mut file)?;
        file.flush()?;
        hash = Some(file.get_ref().hasher.finalize().to_hex().to_string());
        Ok(())
    })?;
    Ok(hash.expect("a file that was written was hashed"))
}

/// The same for plain data, as JSON.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<String, WriteError> {
    write_hashed(path, |file| Ok(serde_json::to_writer(file, value)?))
}

struct Hashing<'a> {
    file: &'a mut File,
    hasher: blake3::Hasher,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
