//! Tables as Parquet files.

use std::io::Write;
use std::path::Path;

use crate::files::{WriteError, write_atomically};
use crate::table::{Column, encode};

/// Writes a table.
pub fn write(table: Vec<Column>, path: &Path) -> Result<(), WriteError> {
    // Made in memory first: a run has thousands of rows, not millions, and a failed write stays a plain input
    // or output error.
    let encoded = encode(&[table]);
    write_atomically(path, |file| {
        let bytes = encoded.map_err(std::io::Error::other)?;
        file.write_all(&bytes)
    })
}
