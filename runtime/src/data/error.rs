//! What can be wrong with a data file, in words that lead to the line.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use mopd_compiler::nearest;

use super::files::ENDINGS;
use mopd_compiler::plan::events::FailureKind;

use crate::failure::Error;
use crate::quote::quote;
use crate::tokenizer::chat::ChatError;

/// A data file that cannot be used. Displays as `FILE:LINE: what is wrong`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataError {
    pub file: PathBuf,
    pub place: RowPlace,
    pub problem: Box<Problem>,
}

/// Where in a file. Displays as what follows the file's name: `:12`, or `, row 12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowPlace {
    /// All of it.
    File,
    /// Of text, from 1.
    Line(u32),
    /// Of a table without lines, from 1.
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
    /// Within a sentence.
    pub fn words(self) -> String {
        match self {
            RowPlace::File => "the file".to_owned(),
            RowPlace::Line(line) => format!("line {line}"),
            RowPlace::Row(row) => format!("row {row}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// With a file of the same folder that may have been meant.
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
    MissingField {
        field: String,
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
    Chat {
        error: Box<ChatError>,
    },
    /// A recorded trajectory without turns to write.
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
    ColumnTwice {
        column: String,
    },
    CellCount {
        found: usize,
        header: usize,
    },
    /// A filter that holds nowhere.
    AllLeftOut {
        rows: u64,
    },
    Pattern {
        cause: String,
    },
    NoMatch,
    /// A folder without data files.
    NoData,
    /// A split of something that is no folder.
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
}

impl std::error::Error for DataError {}

impl fmt::Display for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}: {}", self.file.display(), self.place, self.problem)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Missing { .. } => write!(f, "there is no such file"),
            Problem::Unreadable { cause } => write!(f, "cannot read the file: {cause}"),
            Problem::TooLong { mebibytes } => write!(f, "a row of more than {mebibytes} MiB"),
            Problem::Empty => write!(f, "the file has no lines"),
            Problem::NotUtf8 { column, byte, .. } => {
                write!(f, "not UTF-8 text: byte 0x{byte:02X} at column {column}")
            }
            Problem::NotJson { cause, column, line } => {
                write!(f, "not JSON: {cause} at column {column} of {line}")
            }
            Problem::NotAnObject { found } => write!(f, "not a JSON object: found {found}"),
            Problem::MissingField { field, present, .. } if present.is_empty() => {
                write!(f, "the field `{field}` is missing; the object is empty")
            }
            Problem::MissingField { field, present, .. } => {
                write!(f, "the field `{field}` is missing; found `{}`", present.join("`, `"))
            }
            Problem::TypeMismatch { field, wanted, found } => {
                write!(f, "the field `{field}` must be {wanted}; found {found}")
            }
            Problem::Conversation { field } => {
                write!(f, "the field `{field}` is a list of messages, but prompts are plain text")
            }
            Problem::Chat { error } => error.fmt(f),
            Problem::Trajectory { field, problem } => write!(f, "the trajectory in `{field}` {problem}"),
            Problem::NoTokens => write!(f, "the prompt is empty, and the tokenizer begins it with no token"),
            Problem::Compressed => write!(f, "the file is compressed"),
            Problem::NotParquet { cause } => write!(f, "not a parquet file that can be read: {cause}"),
            Problem::ColumnKind { column, kind } => {
                write!(f, "the column `{column}` has values of the type {kind}, which cannot be read")
            }
            Problem::OpenQuote => write!(f, "a quote is opened and never closed"),
            Problem::ColumnTwice { column } => write!(f, "two columns have the name `{column}`"),
            Problem::CellCount { found, header } => {
                write!(f, "the row has {found} cells, the header {header}")
            }
            Problem::AllLeftOut { rows } => write!(f, "the filter holds in none of its {rows} rows"),
            Problem::Pattern { cause } => write!(f, "not a pattern of file names: {cause}"),
            Problem::NoMatch => write!(f, "no file matches the pattern"),
            Problem::NoData => write!(f, "the folder has no data files"),
            Problem::NoSplits { split } => write!(f, "a file has no splits, but `{split}` is asked for"),
            Problem::NoSuchSplit { split, present, .. } => {
                write!(f, "there is no split `{split}`; found `{}`", present.join("`, `"))
            }
            Problem::ManySplits { present } => {
                write!(f, "the folder has the splits `{}`", present.join("`, `"))
            }
        }
    }
}

impl From<DataError> for Error {
    fn from(error: DataError) -> Error {
        Error::new(FailureKind::Data, error.to_string()).help(error.help())
    }
}

impl DataError {
    pub fn new(file: &Path, place: RowPlace, problem: Problem) -> DataError {
        DataError { file: file.to_owned(), place, problem: Box::new(problem) }
    }

    pub(super) fn of_file(file: &Path, problem: Problem) -> DataError {
        DataError::new(file, RowPlace::File, problem)
    }

    /// The way out.
    pub fn help(&self) -> String {
        match &*self.problem {
            Problem::Missing { meant: Some(meant), .. } => format!("did you mean `{meant}`?"),
            Problem::Missing { folder_missing: true, .. } => {
                "its folder does not exist either; paths are relative to the experiment's file".to_owned()
            }
            Problem::Missing { .. } => "paths are relative to the experiment's file".to_owned(),
            Problem::Unreadable { .. } => {
                "it must be a text file that you may read, with one JSON object a line".to_owned()
            }
            Problem::TooLong { .. } => "each row stands on a line of its own; a quote that is never closed \
                                        makes one of all"
                .to_owned(),
            Problem::Empty => {
                "write one JSON object a line, such as {\"prompt\": \"2+2=\", \"answer\": \"4\"}".to_owned()
            }
            Problem::NotUtf8 { utf16: true, .. } => "it looks like UTF-16: save the file as UTF-8".to_owned(),
            Problem::NotUtf8 { .. } => "save the file as UTF-8".to_owned(),
            Problem::NotJson { .. } => {
                "each line must be one whole JSON object; write line breaks inside text as \\n".to_owned()
            }
            Problem::NotAnObject { .. } => "each line must be one whole JSON object, such as {\"prompt\": \
                                            \"2+2=\", \"answer\": \"4\"}"
                .to_owned(),
            Problem::MissingField { meant: Some(meant), .. } => format!("did you mean `{meant}`?"),
            Problem::MissingField { field, .. } => format!("every line needs `{field}`"),
            Problem::TypeMismatch { field, wanted, .. } => format!("write `{field}` as {wanted}"),
            Problem::Conversation { .. } => "write `format = chat` in the domain".to_owned(),
            Problem::Chat { error } => error.help().unwrap_or_else(|| "change the row".to_owned()),
            Problem::Trajectory { .. } => "leave the row out, or write the trajectory as a list such as \
                                           [{\"role\": \"user\", \"content\": \"2+2?\"}, {\"role\": \
                                           \"assistant\", \"content\": \"4\"}]; messages with other content need \
                                           `format = chat` in the domain"
                .to_owned(),
            Problem::NoTokens => "leave the row out, or write a prompt".to_owned(),
            Problem::Compressed => {
                "unpack it first, or save it as parquet, which is compressed by itself".to_owned()
            }
            Problem::NotParquet { .. } => "write it again with the program that made it".to_owned(),
            Problem::ColumnKind { column, .. } => {
                format!("save `{column}` as text, 64-bit numbers, bools, or lists or structs of them")
            }
            Problem::OpenQuote => "close it, or double the quotes that are part of the text".to_owned(),
            Problem::ColumnTwice { .. } => "give each column a name of its own in the first line".to_owned(),
            Problem::CellCount { .. } => "put text with separators or line breaks between quotes".to_owned(),
            Problem::AllLeftOut { .. } => "change the domain's `filter`".to_owned(),
            Problem::Pattern { .. } | Problem::NoMatch => {
                "paths are relative to the experiment's file".to_owned()
            }
            Problem::NoData => format!("it must have files that end in .{}", ENDINGS.join(", .")),
            Problem::NoSplits { .. } => "leave `split` out, or name the folder".to_owned(),
            Problem::NoSuchSplit { meant: Some(meant), .. } => format!("did you mean `{meant}`?"),
            Problem::NoSuchSplit { .. } => "choose one of them".to_owned(),
            Problem::ManySplits { present } => {
                format!("choose one, such as dataset(\"...\", split: \"{}\")", present[0])
            }
        }
    }
}

impl Problem {
    pub(super) fn unreadable(path: &Path, error: &io::Error) -> Problem {
        if error.kind() != io::ErrorKind::NotFound {
            return Problem::Unreadable { cause: mopd_store::files::reason(error) };
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let Ok(entries) = folder.read_dir() else {
            return Problem::Missing { meant: None, folder_missing: true };
        };
        let mut files: Vec<_> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .collect();
        files.sort();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let meant = nearest(&name, files.iter().map(String::as_str));
        let meant = meant.map(|meant| path.with_file_name(meant).display().to_string());
        Problem::Missing { meant, folder_missing: false }
    }

    pub(super) fn not_utf8(line: &[u8], error: &std::str::Utf8Error) -> Problem {
        let place = error.valid_up_to();
        // UTF-16 starts with FF FE or FE FF, neither of which UTF-8 has anywhere.
        let utf16 = line.starts_with(b"\xFF\xFE") || line.starts_with(b"\xFE\xFF");
        Problem::NotUtf8 { column: place + 1, byte: line[place], utf16 }
    }

    pub(super) fn not_json(line: &str, error: &serde_json::Error) -> Problem {
        let cause = error.to_string();
        // The parser saw one line only: its "at line 1" would contradict ours.
        let cause = cause.split(" at line ").next().unwrap_or(&cause).to_owned();
        Problem::NotJson { cause, column: error.column(), line: quote(line) }
    }

    pub fn missing<'a>(field: &str, present: impl Iterator<Item = &'a str>) -> Problem {
        let present: Vec<_> = present.map(str::to_owned).collect();
        let meant = nearest(field, present.iter().map(String::as_str)).map(str::to_owned);
        Problem::MissingField { field: field.to_owned(), meant, present }
    }
}
