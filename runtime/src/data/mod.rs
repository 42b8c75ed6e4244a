//! Prompts and their answers: data files, their rows and columns, and the order in which prompts are drawn.

mod cells;
mod dataset;
mod error;
mod files;
mod length;
mod lines;
mod lists;
pub mod mixture;
mod numbers;
mod overlap;
mod parquet;
mod patterns;
mod rows;
mod trajectory;

pub use dataset::{Dataset, DatasetRequest, conversation};
pub use error::{DataError, DataProblem, RowPlace};
pub use length::{ContextError, ContextLength, Longest};
pub use lists::{Builder, Lists};
pub use mixture::Mixture;
pub use numbers::number;
pub use overlap::{TestOverlap, overlap, prompt_hash};

use std::path::{Path, PathBuf};

use mopd_plan::DataSource;

/// The files that currently match a data source.
pub fn files(base: &Path, source: &DataSource) -> Result<Vec<PathBuf>, DataError> {
    let found = files::find(&path_as_written(base, &source.path), source.split.as_deref())?;
    Ok(found.into_iter().map(|file| file.path).collect())
}

/// A field that every row must have, besides the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    pub name: &'a str,
    pub kind: FieldKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// A string, or a number, which is read as its text.
    Text,
    /// A number, or a string that [`number`] can read.
    Number,
    /// A list of messages. Each of the assistant's turns becomes a row, whose prompt is the conversation
    /// before it; the file's own prompt is not read. At most one field has this kind.
    Trajectory,
}

impl<'a> Field<'a> {
    pub fn text(name: &'a str) -> Field<'a> {
        Field { name, kind: FieldKind::Text }
    }

    pub fn number(name: &'a str) -> Field<'a> {
        Field { name, kind: FieldKind::Number }
    }

    pub fn trajectory(name: &'a str) -> Field<'a> {
        Field { name, kind: FieldKind::Trajectory }
    }
}

/// The path of a file named in the source, as the author would write it: `sort.jsonl`, not `./sort.jsonl`.
pub fn path_as_written(base: &Path, name: &str) -> PathBuf {
    if base == Path::new(".") { PathBuf::from(name) } else { base.join(name) }
}

#[cfg(test)]
mod tests;
