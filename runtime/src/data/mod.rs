//! Prompts and their answers in memory, and the order in which prompts are drawn. `mopd_data` reads their
//! files.

mod dataset;
mod length;
mod lists;
pub mod mixture;
mod overlap;

pub use dataset::{Dataset, LongPrompts, conversation};
pub use length::{ContextError, ContextLength, Longest};
pub use lists::{Builder, Lists};
pub use mixture::Mixture;
pub use mopd_data::{
    DataError, DataProblem, DatasetRequest, Field, FieldKind, MESSAGES, RowPlace, experts, numerals,
    path_as_written, reads,
};
pub use overlap::{TestOverlap, overlap, prompt_hash, repeated};

use std::path::{Path, PathBuf};

use mopd_plan::DataSource;
use mopd_plan::events::FailureKind;

use crate::failure::Error;

/// The files that currently match a data source.
pub fn files(base: &Path, source: &DataSource) -> Result<Vec<PathBuf>, DataError> {
    let found = mopd_data::files_of(base, source)?;
    Ok(found.files.into_iter().map(|file| file.path).collect())
}

impl From<DataError> for Error {
    fn from(error: DataError) -> Error {
        Error::new(FailureKind::Data, error.to_string()).help(error.help())
    }
}

#[cfg(test)]
mod tests;
