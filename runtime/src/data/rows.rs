//! Rows of data files of any layout: columns by name, values as JSON.

use std::io::{self, BufRead, Read};
use std::ops::ControlFlow;
use std::path::Path;

use super::error::{DataError, DataProblem, RowPlace};
use super::files::{DataFile, FileLayout};
use super::{cells, lines, parquet};
use crate::tokenizer::json::{Json, Object};

/// The parts of each row to read.
#[derive(Clone, Copy, Debug)]
pub struct RowProjection<'a> {
    /// Columns, without repetition.
    pub columns: &'a [String],
    /// Whether to read the whole row, too.
    pub whole: bool,
}

/// One row.
#[derive(Clone, Debug)]
pub struct DataRow {
    pub place: RowPlace,
    /// One per wanted column; `None` where the row has no such column.
    pub values: Vec<Option<Json>>,
    pub whole: Option<Object>,
    /// The row's column names, in order; empty if it has all wanted columns.
    pub present: Vec<String>,
}

/// A callback that takes rows, and breaks when it has enough.
pub type RowVisitor<'a> = dyn FnMut(DataRow) -> Result<ControlFlow<()>, DataProblem> + 'a;

/// Reads a file row by row, with only a part of it in memory. Returns the hash of the whole file in
/// hexadecimal, even if `take` stops early. `notes` is as in [`super::DatasetRequest`]; files that are always
/// read as a whole are hashed on the way.
pub fn read(
    file: &DataFile,
    wanted: RowProjection,
    notes: Option<&Path>,
    take: &mut RowVisitor,
) -> Result<String, DataError> {
    match file.layout {
        FileLayout::Lines => lines::read(&file.path, wanted, take),
        FileLayout::Parquet => parquet::read(&file.path, wanted, notes, take),
        FileLayout::Cells { separator } => cells::read(&file.path, separator, wanted, take),
    }
}

/// Most bytes of a row, which takes up to thirty times as much memory while it is parsed. A longer one is
/// most likely a file of another kind.
const LONGEST: usize = 32 << 20;

/// Most columns of a row.
pub(super) const MOST_COLUMNS: usize = 200_000;

/// Refuses a row of too many columns.
pub(super) fn check_columns(count: usize) -> Result<(), DataProblem> {
    if count <= MOST_COLUMNS {
        return Ok(());
    }
    Err(DataProblem::TooManyColumns { count, most: MOST_COLUMNS })
}

/// Appends the next line with its line feed to `record`, which may hold earlier lines of the same row.
/// Returns the line's length; 0 at the end of the file.
pub(super) fn line(file: &mut impl BufRead, record: &mut Vec<u8>) -> io::Result<Result<usize, DataProblem>> {
    let room = LONGEST.saturating_sub(record.len());
    let count = file.take(room as u64 + 1).read_until(b'\n', record)?;
    Ok(if count > room { Err(DataProblem::TooLong { mebibytes: LONGEST >> 20 }) } else { Ok(count) })
}

impl RowProjection<'_> {
    /// Makes a row of a JSON object.
    pub fn of_object(self, place: RowPlace, mut object: Object) -> DataRow {
        let complete = self.columns.iter().all(|column| object.get(column).is_some());
        let present = if complete { Vec::new() } else { object.keys().cloned().collect() };
        let mut value = |column: &String| {
            if self.whole { object.get(column).cloned() } else { object.shift_remove(column) }
        };
        let values = self.columns.iter().map(&mut value).collect();
        DataRow { place, values, whole: self.whole.then_some(object), present }
    }
}
