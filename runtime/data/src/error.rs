//! Errors of data files, with messages that name the line.

mod help;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use mopd_plan::nearest_file;
use mopd_store::files::names_beside;

use crate::json::JsonNumber;
use crate::messages;
use crate::quote::quote;
use crate::structs::nearest_column;

/// A data file that cannot be used. Displays as `FILE:LINE: what is wrong`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataError {
    pub file: PathBuf,
    pub place: RowPlace,
    pub problem: Box<DataProblem>,
}

/// A place in a file. Displays as the text after the file's name: `:12`, or `, row 12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowPlace {
    /// The whole file.
    File,
    /// A line of text, from 1.
    Line(u32),
    /// A row of a table without lines, from 1.
    Row(u32),
}

impl fmt::Display for RowPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RowPlace::File => Ok(()),
            RowPlace::Line(line) => write!(f, ":{line}"),
            RowPlace::Row(row) => write!(f, ", row {row}"),
        }
    }
}

impl RowPlace {
    /// For use within a sentence.
    pub fn words(self) -> String {
        match self {
            RowPlace::File => "the file".to_owned(),
            RowPlace::Line(line) => format!("line {line}"),
            RowPlace::Row(row) => format!("row {row}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataProblem {
    /// `meant` is a file of the same folder with a similar name.
    Missing {
        meant: Option<String>,
        folder_missing: bool,
    },
    Unreadable {
        cause: String,
    },
    /// A row of the file.
    TooLong {
        mebibytes: usize,
    },
    Empty,
    NotUtf8 {
        /// From 1.
        column: usize,
        byte: u8,
        utf16: bool,
    },
    NotJson {
        cause: String,
        /// From 1, in bytes.
        column: usize,
        line: String,
    },
    NotAnObject {
        found: String,
    },
    /// `field` is the column. `read_as`: the field that the domain's `fields` reads from it.
    MissingField {
        field: String,
        read_as: Option<String>,
        meant: Option<String>,
        present: Vec<String>,
    },
    TypeMismatch {
        field: String,
        wanted: &'static str,
        found: String,
    },
    /// A list of messages where a plain prompt was expected.
    Conversation {
        field: String,
    },
    /// A conversation that can't become tokens.
    Chat {
        problem: String,
        help: Option<String>,
    },
    /// A recorded trajectory without turns of the assistant.
    Trajectory {
        field: String,
        problem: String,
    },
    /// A prompt of no tokens.
    NoTokens,
    Compressed,
    NotParquet {
        cause: String,
    },
    /// A column of values that cannot be read.
    ColumnKind {
        column: String,
        kind: String,
    },
    OpenQuote,
    /// A JSON list whose elements are not separated by commas, or which has no end.
    OpenList,
    /// Carriage returns instead of line feeds: the whole file is one line, the header.
    CarriageReturns,
    ColumnTwice {
        column: String,
    },
    CellCount {
        found: usize,
        header: usize,
    },
    /// A filter that leaves out all rows.
    AllLeftOut {
        rows: u64,
    },
    /// No row has a prompt of at most so many tokens.
    AllTooLong {
        rows: u64,
        most: u32,
    },
    Pattern {
        cause: String,
    },
    NoMatch,
    /// A pattern that goes through more entries of folders than it may.
    PatternTooWide {
        most: usize,
    },
    /// A row with more columns than it may have.
    TooManyColumns {
        count: usize,
        most: usize,
    },
    /// A folder without data files.
    NoData,
    /// A split was requested, but the path is not a folder.
    NoSplits {
        split: String,
    },
    NoSuchSplit {
        split: String,
        meant: Option<String>,
        present: Vec<String>,
    },
    ManySplits {
        present: Vec<String>,
    },
    /// Folders inside the folder have splits of their own.
    Subsets {
        wanted: Option<String>,
        /// Paths, each with its splits; at least one.
        subsets: Vec<(String, Vec<String>)>,
    },
    /// Files whose names say that there are more of them.
    PartsMissing {
        split: String,
        here: usize,
        parts: usize,
    },
    /// A field that is a part of a column's text, where it has no such part.
    NotInText {
        field: String,
        pattern: String,
        /// In quotes.
        text: String,
    },
    /// A regular expression that takes too much memory.
    LargePattern {
        pattern: String,
        cause: String,
    },
    /// A data set of the hub that is not in its cache.
    NotFetched {
        revision: String,
    },
    /// A revision of a file or folder.
    NoRevision {
        revision: String,
    },
    /// Files of one split, in two layouts: most likely the same rows twice.
    TwoLayouts {
        split: String,
        files: [String; 2],
    },
    /// A number whose digits would change where its value is passed on.
    RewrittenNumber {
        field: String,
        number: String,
    },
}

impl std::error::Error for DataError {}

impl fmt::Display for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}: {}", self.file.display(), self.place, self.problem)
    }
}

impl fmt::Display for DataProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DataProblem::Missing { .. } => write!(f, "there is no such file"),
            DataProblem::Unreadable { cause } => write!(f, "cannot read the file: {cause}"),
            DataProblem::TooLong { mebibytes } => write!(f, "a row of more than {mebibytes} MiB"),
            DataProblem::Empty => write!(f, "the file has no lines"),
            DataProblem::NotUtf8 { column, byte, .. } => {
                write!(f, "not UTF-8 text: byte 0x{byte:02X} at column {column}")
            }
            DataProblem::NotJson { cause, column, line } => {
                write!(f, "not JSON: {cause} at column {column} of {line}")
            }
            DataProblem::NotAnObject { found } => write!(f, "not a JSON object: found {found}"),
            DataProblem::MissingField { field, present, .. } if present.is_empty() => {
                write!(f, "the field `{field}` is missing; the object is empty")
            }
            DataProblem::MissingField { field, present, .. } => {
                write!(f, "the field `{field}` is missing; found `{}`", present.join("`, `"))
            }
            DataProblem::TypeMismatch { field, wanted, found } => {
                write!(f, "the field `{field}` must be {wanted}; found {found}")
            }
            DataProblem::Conversation { field } => {
                write!(f, "the field `{field}` is a list of messages, but prompts are plain text")
            }
            DataProblem::Chat { problem, .. } => f.write_str(problem),
            DataProblem::Trajectory { field, problem } => write!(f, "the trajectory in `{field}` {problem}"),
            DataProblem::NoTokens => {
                write!(f, "the prompt is empty, and the tokenizer adds no token at its beginning")
            }
            DataProblem::Compressed => write!(f, "the file is compressed"),
            DataProblem::NotParquet { cause } => write!(f, "not a parquet file that can be read: {cause}"),
            DataProblem::ColumnKind { column, kind } => {
                write!(f, "the column `{column}` has values of the type {kind}, which cannot be read")
            }
            DataProblem::CarriageReturns => {
                write!(f, "its lines end with a carriage return (CR) alone, without a line feed")
            }
            DataProblem::OpenQuote => write!(f, "a quote is opened and never closed"),
            DataProblem::OpenList => {
                write!(f, "the list of rows is not continued here by a comma, or ended by `]`")
            }
            DataProblem::ColumnTwice { column } => write!(f, "two columns have the name `{column}`"),
            DataProblem::CellCount { found, header } => {
                write!(f, "the row has {found} cells, the header {header}")
            }
            DataProblem::AllLeftOut { rows } => write!(f, "the filter holds in none of its {rows} rows"),
            DataProblem::AllTooLong { rows, most } => {
                write!(f, "each of its {rows} prompts has more than {most} tokens")
            }
            DataProblem::Pattern { cause } => write!(f, "not a pattern of file names: {cause}"),
            DataProblem::NoMatch => write!(f, "no file matches the pattern"),
            DataProblem::PatternTooWide { most } => {
                write!(f, "the pattern goes through more than {most} files and folders")
            }
            DataProblem::TooManyColumns { count, most } => {
                write!(f, "the row has {count} columns, more than the {most} that a row may have")
            }
            DataProblem::NoData => write!(f, "the folder has no data files"),
            DataProblem::NoSplits { split } => write!(
                f,
                "a file has no splits, but the split `{split}` \
                is requested"
            ),
            DataProblem::NoSuchSplit { split, present, .. } => {
                write!(f, "there is no split `{split}`; found `{}`", present.join("`, `"))
            }
            DataProblem::ManySplits { present } => {
                write!(f, "the folder has the splits `{}`", present.join("`, `"))
            }
            DataProblem::Subsets { wanted, subsets } => {
                let named = |(name, _): &&(String, Vec<String>)| Some(name) == wanted.as_ref();
                if let Some((name, splits)) = subsets.iter().find(named) {
                    return write!(f, "`{name}` is a subset with the splits `{}`", splits.join("`, `"));
                }
                if let Some(wanted) = wanted {
                    write!(f, "there is no split `{wanted}`; ")?;
                }
                let names: Vec<&str> = subsets.iter().map(|(name, _)| name.as_str()).collect();
                write!(f, "the folder has the subsets `{}`", names.join("`, `"))
            }
            DataProblem::PartsMissing { split, here, parts } => {
                write!(f, "the split `{split}` has {parts} parts by their names, of which {here} are here")
            }
            DataProblem::NotInText { field, pattern, text } => {
                write!(f, "the field `{field}`: {pattern:?} matches nothing in {text}")
            }
            DataProblem::LargePattern { pattern, cause } => write!(f, "{pattern:?} can't be used: {cause}"),
            DataProblem::NotFetched { revision } => {
                write!(f, "revision {revision} of this data set of the hub is not in the cache, or not whole")
            }
            DataProblem::NoRevision { revision } => {
                write!(f, "the revision `{revision}` is requested of what is on this machine")
            }
            DataProblem::TwoLayouts { split, files: [one, other] } => {
                write!(f, "the split `{split}` has files of two layouts: `{one}` and `{other}`")
            }
            DataProblem::RewrittenNumber { field, number } => {
                write!(f, "the field `{field}` has the number {number}, which does not keep its digits")
            }
        }
    }
}

impl DataError {
    pub fn new(file: &Path, place: RowPlace, problem: DataProblem) -> DataError {
        DataError { file: file.to_owned(), place, problem: Box::new(problem) }
    }

    pub fn of_file(file: &Path, problem: DataProblem) -> DataError {
        DataError::new(file, RowPlace::File, problem)
    }

    /// The field that a row lacks, if that is the problem.
    pub fn missing_field(&self) -> Option<&str> {
        match &*self.problem {
            DataProblem::MissingField { field, .. } => Some(field),
            _ => None,
        }
    }
}

/// The name of a similar file in the folder of a missing one, if any.
fn similar_file(path: &Path) -> Option<String> {
    let beside = names_beside(path)?;
    let name = path.file_name()?.to_string_lossy();
    nearest_file(&name, beside.iter().map(String::as_str)).map(str::to_owned)
}

impl DataProblem {
    /// A value that is no list of messages.
    pub(crate) fn messages(problem: String) -> DataProblem {
        DataProblem::Chat { problem, help: Some(messages::HELP.to_owned()) }
    }

    pub(crate) fn unreadable(path: &Path, error: &io::Error) -> DataProblem {
        if error.kind() != io::ErrorKind::NotFound {
            return DataProblem::Unreadable { cause: mopd_store::files::reason(error) };
        }
        let meant = similar_file(path).map(|meant| path.with_file_name(meant).display().to_string());
        DataProblem::Missing { meant, folder_missing: names_beside(path).is_none() }
    }

    pub(crate) fn rewritten(field: &str, number: &JsonNumber) -> DataProblem {
        DataProblem::RewrittenNumber { field: field.to_owned(), number: number.to_string() }
    }

    pub(crate) fn not_utf8(line: &[u8], error: &std::str::Utf8Error) -> DataProblem {
        let place = error.valid_up_to();
        // UTF-16 starts with FF FE or FE FF, bytes that never occur in UTF-8.
        let utf16 = line.starts_with(b"\xFF\xFE") || line.starts_with(b"\xFE\xFF");
        DataProblem::NotUtf8 { column: place + 1, byte: line[place], utf16 }
    }

    pub fn not_json(line: &str, error: &serde_json::Error) -> DataProblem {
        let cause = error.to_string();
        // The parser saw one line only, so its "at line 1" would contradict the real line number.
        let cause = cause.split(" at line ").next().unwrap_or(&cause).to_owned();
        DataProblem::NotJson { cause, column: error.column(), line: quote(line) }
    }

    /// Where a field of another name is read from the column that is missing.
    pub(crate) fn read_as(mut self, name: Option<String>) -> DataProblem {
        if let DataProblem::MissingField { read_as, .. } = &mut self {
            *read_as = name;
        }
        self
    }

    pub fn missing<'a>(field: &str, present: impl Iterator<Item = &'a str>) -> DataProblem {
        let present: Vec<_> = present.map(str::to_owned).collect();
        let meant = nearest_column(field, &present);
        DataProblem::MissingField { field: field.to_owned(), read_as: None, meant, present }
    }
}
