//! Hands tables that a run left to `mopd`, which has no reader of its own.

use std::fs::File;
use std::path::Path;

use mopd_compiler::plan::events::{Column, ColumnValues, Event, FailureKind, ReadJob};
use polars::prelude::{DataFrame, DataType, ParquetReader, PolarsResult, SerReader};

use crate::control::Control;
use crate::failure::{Error, Result};

/// Answers with one [`Event::Table`] a file.
pub fn read(job: &ReadJob, control: &Control) -> Result<()> {
    for file in &job.files {
        control.check()?;
        control.emit(&Event::Table { file: file.clone(), columns: columns(Path::new(file))? });
    }
    Ok(())
}

/// The columns of a file that hold whole numbers, numbers, truth values or text; others are left out.
pub fn columns(path: &Path) -> Result<Vec<Column>> {
    let failed = |error: String| {
        Error::new(FailureKind::Data, format!("can't read {}: {error}", path.display()))
            .help("`mopd run` writes it anew; stages that are kept are not run again")
    };
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    let table = ParquetReader::new(file).finish().map_err(|error| failed(error.to_string()))?;
    every(&table).map_err(|error| failed(error.to_string()))
}

fn every(table: &DataFrame) -> PolarsResult<Vec<Column>> {
    let mut found = Vec::with_capacity(table.width());
    for column in table.columns() {
        let values = match column.dtype() {
            DataType::UInt32 | DataType::UInt64 => ColumnValues::Wholes(column.cast(&DataType::UInt64)?.u64()?.iter().collect()),
            kind if kind.is_primitive_numeric() => {
                let numbers = column.cast(&DataType::Float64)?;
                ColumnValues::Numbers(numbers.f64()?.iter().map(|value| value.filter(|value| value.is_finite())).collect())
            }
            DataType::Boolean => ColumnValues::Truths(column.bool()?.iter().collect()),
            DataType::String => ColumnValues::Texts(column.str()?.iter().map(|text| text.map(str::to_owned)).collect()),
            _ => continue,
        };
        found.push(Column { name: column.name().to_string(), values });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::rewards::{PromptReward, write};

    #[test]
    fn a_table_is_handed_over_column_by_column() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rewards.parquet");
        let row = PromptReward {
            table: "t".into(),
            model: "m".into(),
            domain: "d".into(),
            seed: u64::MAX,
            tests: "h".into(),
            prompt: 0,
            reward: f64::NAN,
        };
        write(&[row.clone(), PromptReward { reward: 0.5, ..row }], &path).unwrap();
        let columns = columns(&path).unwrap();
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["table", "model", "domain", "seed", "tests", "prompt", "reward"]);
        assert_eq!(columns[3].values, ColumnValues::Wholes(vec![Some(u64::MAX); 2]));
        assert_eq!(columns[6].values, ColumnValues::Numbers(vec![None, Some(0.5)]));
    }

    #[test]
    fn what_is_no_table_is_said_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.parquet");
        for content in [None, Some("PAR1 but no more"), Some("")] {
            if let Some(content) = content {
                std::fs::write(&path, content).unwrap();
            }
            let error = columns(&path).unwrap_err().to_string();
            assert!(error.starts_with("can't read ") && error.contains("metrics.parquet: "), "{error}");
        }
    }
}
