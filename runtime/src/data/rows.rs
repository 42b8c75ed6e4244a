//! Rows of data files, whatever their layout: columns by name, values as JSON.

use std::io::{self, BufRead, Read};
use std::ops::ControlFlow;
use std::path::Path;

use super::error::{DataError, DataProblem, RowPlace};
use super::files::{DataFile, FileLayout};
use super::{cells, lines, parquet};
use crate::tokenizer::json::{Json, Object};

/// What to read of each row.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Columns, without repetition.
    pub columns: &'a [String],
    /// The whole row besides.
    pub whole: bool,
}

/// One row.
#[derive(Clone, Debug)]
pub struct DataRow {
    pub place: RowPlace,
    /// One per wanted column; none where the row has no such column.
    pub values: Vec<Option<Json>>,
    pub whole: Option<Object>,
    /// The names that the row has, in order; empty where it has all that are wanted.
    pub present: Vec<String>,
}

/// Takes rows until it has enough.
pub type Take<'a> = dyn FnMut(DataRow) -> Result<ControlFlow<()>, DataProblem> + 'a;

/// Reads a file row by row, holding a part of it at a time. Answers its hash in hexadecimal; all of the file
/// enters, even if rows were enough. `notes` is as in [`super::DatasetRequest`]; files that are read as a
/// whole in any case are hashed on the way.
pub fn read(
    file: &DataFile,
    wanted: Wanted,
    notes: Option<&Path>,
    take: &mut Take,
) -> Result<String, DataError> {
    match file.layout {
        FileLayout::Lines => lines::read(&file.path, wanted, take),
        FileLayout::Parquet => parquet::read(&file.path, wanted, notes, take),
        FileLayout::Cells { separator } => cells::read(&file.path, separator, wanted, take),
    }
}

/// A row takes several times its text while it is looked at: a longer one is most likely a file of another
/// kind.
const LONGEST: usize = 256 << 20;

/// Appends the next line with its end to `record`, which may hold earlier lines of the same row. Answers how
/// long it is; 0 at the end of the file.
pub(super) fn line(file: &mut impl BufRead, record: &mut Vec<u8>) -> io::Result<Result<usize, DataProblem>> {
    let room = LONGEST.saturating_sub(record.len());
    let count = file.take(room as u64 + 1).read_until(b'\n', record)?;
    Ok(if count > room { Err(DataProblem::TooLong { mebibytes: LONGEST >> 20 }) } else { Ok(count) })
}

impl Wanted<'_> {
    /// The row that is a JSON object.
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
