//! Event files that grow with each step, so that TensorBoard can show a run during training.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use mopd_plan::Plan;
use mopd_plan::events::MetricsRow;

use super::tensorboard::{beginning, length_before};
use super::{FILE, FOLDER, series};
use crate::metrics::LearnerTurns;
use crate::run_folder::ColumnTable;
use mopd_store::WriteError;

pub struct LiveEventFiles {
    folder: PathBuf,
    turns: LearnerTurns,
    /// The files of this run, by series.
    files: HashMap<String, File>,
}

impl LiveEventFiles {
    /// For a run of this plan with its results in `out`.
    pub fn new(plan: &Plan, out: &Path) -> LiveEventFiles {
        LiveEventFiles { folder: out.join(FOLDER), turns: LearnerTurns::of(plan), files: HashMap::new() }
    }

    /// # Errors
    /// If a file can't be written; the error has its path.
    pub fn step(&mut self, step: u32, rows: &[MetricsRow]) -> Result<(), WriteError> {
        for (name, events) in series(&ColumnTable::from_rows(rows), &self.turns) {
            let path = self.folder.join(&name).join(FILE);
            let file = match self.files.get_mut(&name) {
                Some(file) => Ok(file),
                None => opened(&path, step).map(|file| self.files.entry(name).or_insert(file)),
            };
            file.and_then(|file| file.write_all(&events.records()))
                .map_err(|source| WriteError { path, source })?;
        }
        Ok(())
    }
}

/// Opens a file to add a step. Earlier steps are kept, for a stage that is resumed.
fn opened(path: &Path, step: u32) -> io::Result<File> {
    std::fs::create_dir_all(path.parent().unwrap_or(path))?;
    let kept = std::fs::read(path).ok().and_then(|known| length_before(&known, u64::from(step)));
    let mut file = File::options().create(true).write(true).truncate(false).open(path)?;
    file.set_len(kept.unwrap_or(0) as u64)?;
    file.seek(SeekFrom::End(0))?;
    if kept.is_none() {
        file.write_all(&beginning())?;
    }
    Ok(file)
}
