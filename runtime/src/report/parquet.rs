//! Tables as Parquet files.

use std::io::{self, Write};
use std::path::Path;

use parquet::errors::ParquetError;

use crate::files::{WriteError, write_atomically};
use crate::table::{Column, encode};

/// Writes a table.
pub fn write(table: Vec<Column>, path: &Path) -> Result<(), WriteError> {
    write_encoded(&encode(&[table]).map_err(|error| failed(path, error))?, path)
}

/// Writes a file that was encoded in memory first, so that a failed write is a plain I/O error.
pub fn write_encoded(encoded: &[u8], path: &Path) -> Result<(), WriteError> {
    write_atomically(path, |file| file.write_all(encoded))
}

/// A table that could not be encoded.
pub fn failed(path: &Path, error: ParquetError) -> WriteError {
    WriteError { path: path.to_owned(), source: io::Error::other(error) }
}
