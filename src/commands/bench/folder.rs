//! A temporary folder for measurements.

use std::path::{Path, PathBuf};

use crate::problem::Problem;

/// A temporary folder, removed at the end.
pub struct TempFolder(pub PathBuf);

impl TempFolder {
    pub fn new() -> Result<TempFolder, Problem> {
        let path = std::env::temp_dir().join(format!("mopd-bench-{}", std::process::id()));
        std::fs::create_dir(&path).map_err(|error| unwritable(&path, &error))?;
        Ok(TempFolder(path))
    }

    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf, Problem> {
        let file = self.0.join(name);
        std::fs::write(&file, text).map_err(|error| unwritable(&file, &error))?;
        Ok(file)
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        // If this fails, the system cleans it up.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> Problem {
    Problem::unwritten(path, error)
}
