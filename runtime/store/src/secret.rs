//! The secret of a store, which only its owner can read.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::entries::Folder;
use crate::files::{WriteError, partial_file, reason};

/// Its folder and file.
pub(crate) const PRIVATE: &str = "private";
const SECRET: &str = "secret";

/// Random bytes from the operating system, which nobody can guess.
///
/// # Panics
/// If the system has none to give, as hash tables of the standard library do.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}

impl Folder {
    /// Random bytes from the operating system, drawn once for this store. They occur nowhere else, and only
    /// the owner may read the file, because they allow the noise to be computed.
    pub fn secret(&self) -> Result<[u8; 32], String> {
        let path = self.path(PRIVATE).join(SECRET);
        let found = match read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => draw(&path).and_then(|()| read(&path)),
            found => found,
        };
        found.map_err(|error| format!("{}: {}", path.display(), reason(&error)))
    }
}

fn read(path: &Path) -> io::Result<[u8; 32]> {
    let cut = |_| io::Error::new(io::ErrorKind::InvalidData, "the file must have 32 bytes");
    fs::read(path)?.try_into().map_err(cut)
}

/// Writes a file that only its owner can read, atomically.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let folder = path.parent().unwrap_or(path);
    let written = partial_file(folder, 0o600)
        .and_then(|mut file| file.write_all(bytes).map(|()| file))
        .and_then(|file| file.persist(path).map_err(|failure| failure.error));
    written.map(drop).map_err(|source| WriteError { path: path.to_owned(), source })
}

/// Writes the secret atomically; if several runs draw at once, the first one's counts.
fn draw(path: &Path) -> io::Result<()> {
    let drawn: [u8; 32] = random_bytes();
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)?;
    // Only the owner can read a temporary file, and the permissions stay after the rename.
    let mut file = partial_file(folder, 0o600)?;
    file.write_all(&drawn)?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Err(failure) if failure.error.kind() != io::ErrorKind::AlreadyExists => Err(failure.error),
        _ => File::open(folder)?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_store_keeps_a_secret_of_its_own() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let [one, other] = [&one, &other].map(|folder| Folder::open(folder.path()).unwrap());
        let secret = one.secret().unwrap();
        assert!(secret == one.secret().unwrap() && secret != other.secret().unwrap());
        let path = one.path(PRIVATE).join(SECRET);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // Another run was first.
        draw(&path).unwrap();
        assert_eq!(secret, one.secret().unwrap());
        assert!(one.items().unwrap().is_empty(), "it is no result, and is not pruned");
        assert_ne!(random_bytes::<16>(), random_bytes());
        fs::write(&path, &secret[..31]).unwrap();
        assert!(one.secret().unwrap_err().contains("32 bytes"));
    }
}
