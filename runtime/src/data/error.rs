//! What can be wrong with a data file, in words that lead to the line.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use mopd_compiler::nearest;
use serde_json::Value;

/// A data file that cannot be used. Displays as `FILE:LINE: what is wrong`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataError {
    pub file: PathBuf,
    /// From 1; absent where the file as a whole is at fault.
    pub line: Option<u32>,
    pub problem: Box<Problem>,
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
    WrongKind {
        field: String,
        wanted: &'static str,
        found: String,
    },
}

impl std::error::Error for DataError {}

impl fmt::Display for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file.display(), self.problem),
            None => write!(f, "{}: {}", self.file.display(), self.problem),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Missing { .. } => write!(f, "there is no such file"),
            Problem::Unreadable { cause } => write!(f, "cannot read the file: {cause}"),
            Problem::Empty => write!(f, "the file has no lines"),
            Problem::NotUtf8 { column, byte, .. } => write!(f, "not UTF-8 text: byte 0x{byte:02X} at column {column}"),
            Problem::NotJson { cause, column, line } => write!(f, "not JSON: {cause} at column {column} of {line}"),
            Problem::NotAnObject { found } => write!(f, "not a JSON object: found {found}"),
            Problem::MissingField { field, present, .. } if present.is_empty() => {
                write!(f, "the field `{field}` is missing; the object is empty")
            }
            Problem::MissingField { field, present, .. } => {
                write!(f, "the field `{field}` is missing; found `{}`", present.join("`, `"))
            }
            Problem::WrongKind { field, wanted, found } => write!(f, "the field `{field}` must be {wanted}; found {found}"),
        }
    }
}

impl DataError {
    /// The way out.
    pub fn help(&self) -> String {
        match &*self.problem {
            Problem::Missing { meant: Some(meant), .. } => format!("did you mean `{meant}`?"),
            Problem::Missing { folder_missing: true, .. } => {
                "its folder does not exist either; paths are relative to the experiment's file".to_owned()
            }
            Problem::Missing { .. } => "paths are relative to the experiment's file".to_owned(),
            Problem::Unreadable { .. } => "it must be a text file that you may read, with one JSON object a line".to_owned(),
            Problem::Empty => "write one JSON object a line, such as {\"prompt\": \"2+2=\", \"answer\": \"4\"}".to_owned(),
            Problem::NotUtf8 { utf16: true, .. } => "it looks like UTF-16: save the file as UTF-8".to_owned(),
            Problem::NotUtf8 { .. } => "save the file as UTF-8".to_owned(),
            Problem::NotJson { .. } => "each line must be one whole JSON object; write line breaks inside text as \\n".to_owned(),
            Problem::NotAnObject { .. } => {
                "each line must be one whole JSON object, such as {\"prompt\": \"2+2=\", \"answer\": \"4\"}".to_owned()
            }
            Problem::MissingField { meant: Some(meant), .. } => format!("did you mean `{meant}`?"),
            Problem::MissingField { field, .. } => format!("every line needs `{field}`"),
            Problem::WrongKind { field, wanted, .. } => format!("write `{field}` as {wanted}"),
        }
    }
}

impl Problem {
    pub(super) fn unreadable(path: &Path, error: &io::Error) -> Problem {
        if error.kind() != io::ErrorKind::NotFound {
            return Problem::Unreadable { cause: error.to_string() };
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

    pub(super) fn missing<'a>(field: &str, present: impl Iterator<Item = &'a str>) -> Problem {
        let present: Vec<_> = present.map(str::to_owned).collect();
        let meant = nearest(field, present.iter().map(String::as_str)).map(str::to_owned);
        Problem::MissingField { field: field.to_owned(), meant, present }
    }
}

/// A JSON value in a few words: its kind, and what it is if that is short.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("the truth value {value}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the string {}", quote(text)),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// Text for the middle of a message: on one line, quoted, its middle left out if it is long.
pub fn quote(text: &str) -> String {
    const SHOWN: usize = 80;
    if text.chars().count() <= SHOWN {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(SHOWN * 3 / 4).collect();
    let end: String = text.chars().skip(text.chars().count() - SHOWN / 4).collect();
    format!("{:?}", format!("{start} ... {end}"))
}
