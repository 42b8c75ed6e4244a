//! Tables as Parquet files.

use std::io::Write;
use std::path::Path;

use polars::prelude::{DataFrame, ParquetWriter, PolarsResult};

use crate::files::{WriteError, write_atomically};

/// Writes a table, a column per field of what its rows were, with its name; what a row lacks is null.
pub fn write(table: PolarsResult<DataFrame>, path: &Path) -> Result<(), WriteError> {
    // Made in memory first: a run has thousands of rows, not millions, and a failed write stays a plain input
    // or output error.
    let mut bytes = Vec::new();
    let encoded = table.and_then(|mut table| ParquetWriter::new(&mut bytes).finish(&mut table));
    write_atomically(path, |file| {
        encoded.map_err(std::io::Error::other)?;
        file.write_all(&bytes)
    })
}

/// A table of a list of structs: one column per field that is named, with the field's name.
macro_rules! table {
    ($rows:expr; $($field:ident),* $(,)?) => {{
        let rows = $rows;
        polars::prelude::DataFrame::new(
            rows.len(),
            vec![$(polars::prelude::Column::new(
                stringify!($field).into(),
                rows.iter().map(|row| row.$field.clone()).collect::<Vec<_>>(),
            )),*],
        )
    }};
}
pub(super) use table;
