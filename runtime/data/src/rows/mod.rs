//! Rows of data files of any layout: columns by name, values as JSON.

mod cells;
mod lines;
mod list;
mod parquet;

use std::io::{self, BufRead, BufReader, Read, Take};
use std::ops::ControlFlow;
use std::path::Path;

use crate::compressed::text_of;
use crate::error::{DataError, DataProblem, RowPlace};
use crate::files::{DataFile, FileLayout};
use crate::json::{Json, Object};
use crate::structs::{nested, outermost};

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

/// How far a file is read.
#[derive(Clone, Copy, Debug)]
pub enum Reach<'a> {
    /// To its end, which its hash needs, also where the visitor has enough. `notes` is as in
    /// [`crate::DatasetRequest`]; files that are always read as a whole are hashed on the way.
    End { notes: Option<&'a Path> },
    /// Until the visitor has enough, and at most so many bytes of text.
    First { bytes: u64 },
}

impl Reach<'_> {
    fn hasher(self) -> Option<TextHash> {
        matches!(self, Reach::End { .. }).then(TextHash::default)
    }

    /// The most bytes of text that are read.
    fn bytes(self) -> u64 {
        if let Reach::First { bytes } = self { bytes } else { u64::MAX }
    }

    fn stops_early(self) -> bool {
        matches!(self, Reach::First { .. })
    }
}

/// What was read of a file.
pub struct ReadFile {
    /// Of the whole file, in hexadecimal; `None` where only its beginning was read.
    pub hash: Option<String>,
    /// Whether every row was visited.
    pub whole: bool,
}

impl ReadFile {
    const BEGINNING: ReadFile = ReadFile { hash: None, whole: false };

    fn whole(hasher: Option<TextHash>) -> ReadFile {
        ReadFile { hash: hasher.map(TextHash::finish), whole: true }
    }
}

/// The hash of a text file with one line end behind its last line, however many the file has there.
#[derive(Default)]
struct TextHash {
    hasher: blake3::Hasher,
    /// As it was before the empty lines that were read last.
    before_empty: Option<blake3::Hasher>,
    /// Whether the last line that is not empty has a line end.
    ended: bool,
}

impl TextHash {
    /// Adds the next line.
    fn update(&mut self, line: &[u8]) {
        if line.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
            self.before_empty.get_or_insert_with(|| self.hasher.clone());
        } else {
            self.before_empty = None;
            self.ended = line.ends_with(b"\n");
        }
        self.hasher.update(line);
    }

    fn finish(self) -> String {
        let mut hasher = self.before_empty.unwrap_or(self.hasher);
        if !self.ended {
            hasher.update(b"\n");
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// Reads a file row by row, with only a part of it in memory.
pub fn read(
    file: &DataFile,
    wanted: RowProjection,
    reach: Reach,
    take: &mut RowVisitor,
) -> Result<ReadFile, DataError> {
    match file.layout {
        FileLayout::Lines => lines::read(&file.path, wanted, reach, take),
        FileLayout::List => list::read(&file.path, wanted, reach, take),
        FileLayout::Parquet => parquet::read(&file.path, wanted, reach, take),
        FileLayout::Cells { separator } => cells::read(&file.path, separator, wanted, reach, take),
    }
}

/// The names of a table's columns, if the file says them before its rows.
pub fn header(file: &DataFile) -> Result<Option<Vec<String>>, DataError> {
    match file.layout {
        FileLayout::Parquet => parquet::columns(&file.path).map(Some),
        FileLayout::Lines | FileLayout::List | FileLayout::Cells { .. } => Ok(None),
    }
}

/// The number of rows, if the file says it.
pub fn count(file: &DataFile) -> Result<Option<u64>, DataError> {
    match file.layout {
        FileLayout::Parquet => parquet::count(&file.path).map(Some),
        FileLayout::Lines | FileLayout::List | FileLayout::Cells { .. } => Ok(None),
    }
}

/// A text file, of which at most so many bytes are read.
struct TextFile {
    file: BufReader<Take<Box<dyn Read>>>,
}

impl TextFile {
    fn open(path: &Path, reach: Reach) -> io::Result<TextFile> {
        let file = text_of(path)?.take(reach.bytes());
        Ok(TextFile { file: BufReader::with_capacity(1 << 20, file) })
    }

    /// Appends the next line: see [`line`].
    fn line(&mut self, record: &mut Vec<u8>) -> io::Result<Result<usize, DataProblem>> {
        line(&mut self.file, record)
    }

    /// Whether a line was cut where reading ends. The last line of a file may lack a line feed.
    fn is_cut(&self, record: &[u8]) -> bool {
        self.file.get_ref().limit() == 0 && !record.ends_with(b"\n")
    }
}

/// Most bytes of a row, which takes up to thirty times as much memory while it is parsed. A longer one is
/// most likely a file of another kind.
const LONGEST: usize = 32 << 20;

/// Most columns of a row.
const MOST_COLUMNS: usize = 200_000;

/// Refuses a row of too many columns.
fn check_columns(count: usize) -> Result<(), DataProblem> {
    if count <= MOST_COLUMNS {
        return Ok(());
    }
    Err(DataProblem::TooManyColumns { count, most: MOST_COLUMNS })
}

/// Appends the next line with its line feed to `record`, which may hold earlier lines of the same row.
/// Returns the line's length; 0 at the end of the file.
fn line(file: &mut impl BufRead, record: &mut Vec<u8>) -> io::Result<Result<usize, DataProblem>> {
    let room = LONGEST.saturating_sub(record.len());
    let count = file.take(room as u64 + 1).read_until(b'\n', record)?;
    Ok(if count > room { Err(DataProblem::TooLong { mebibytes: LONGEST >> 20 }) } else { Ok(count) })
}

impl RowProjection<'_> {
    /// Makes a row of a JSON object.
    pub fn of_object(self, place: RowPlace, mut object: Object) -> DataRow {
        let of_struct = |column: &String| match object.contains_key(column) {
            true => None,
            false => nested(&object, column),
        };
        let within: Vec<Option<Json>> = self.columns.iter().map(of_struct).collect();
        let of_columns = self.columns.iter().zip(&within);
        let missing = of_columns.filter(|(column, within)| within.is_none() && !object.contains_key(*column));
        let missing: Vec<&String> = missing.map(|(column, _)| column).collect();
        let mut present: Vec<String> = Vec::new();
        if !missing.is_empty() {
            present.extend(object.keys().cloned());
            for outer in missing.iter().map(|column| outermost(column)) {
                let members = object.get(outer).and_then(Json::as_object).into_iter().flatten();
                present.extend(members.map(|(inner, _)| format!("{outer}.{inner}")));
            }
        }
        let mut value = |(column, within): (&String, Option<Json>)| match within {
            Some(value) => Some(value),
            None if self.whole => object.get(column).cloned(),
            None => object.shift_remove(column),
        };
        let values = self.columns.iter().zip(within).map(&mut value).collect();
        DataRow { place, values, whole: self.whole.then_some(object), present }
    }
}
