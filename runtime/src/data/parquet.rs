//! Parquet files, by polars: the wanted columns only, a row group at a time.

use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use mopd_store::regular;
use polars::prelude::{AnyValue, ArrowDataType, Column, DataFrame, ParquetReader, PolarsError, SerReader};
use serde_json::Number;

use super::error::{DataError, Problem, RowPlace};
use super::rows::{DataRow, Take, Wanted};
use crate::content;
use crate::tokenizer::json::{Json, Object};

/// Bytes of a row group, uncompressed, that are read at once; larger ones are read in slices.
const SLICE: usize = 128 << 20;

pub fn read(path: &Path, wanted: Wanted, notes: Option<&Path>, take: &mut Take) -> Result<String, DataError> {
    let of_file = |problem| DataError::of_file(path, problem);
    let unreadable = |error: io::Error| of_file(Problem::unreadable(path, &error));
    let refused = |error: PolarsError| of_file(Problem::NotParquet { cause: first_line(&error.to_string()) });
    let open = || regular::open(path).map_err(unreadable);
    // Of a large file a few columns and rows may be all that is read.
    let hash = match notes {
        Some(notes) => content::hash(path, notes),
        None => content::hash_anew(path),
    };
    let hash = hash.map_err(unreadable)?;

    let mut reader = ParquetReader::new(open()?);
    let (schema, metadata) =
        guarded(|| Ok((reader.schema()?, reader.get_metadata()?.clone()))).map_err(refused)?;
    let present: Vec<String> = schema.iter_names().map(|name| name.to_string()).collect();
    let read: Vec<String> =
        present.iter().filter(|name| wanted.whole || wanted.columns.contains(name)).cloned().collect();
    for name in &read {
        let dtype = schema.get(name).map(|field| field.dtype());
        if let Some(kind) = dtype.and_then(unsupported) {
            return Err(of_file(Problem::ColumnKind { column: name.clone(), kind }));
        }
    }
    let complete = wanted.columns.iter().all(|column| read.contains(column));
    let present = if complete { Vec::new() } else { present };
    let mut first = 0;
    for group in &metadata.row_groups {
        let rows = group.num_rows();
        let step = (rows * SLICE / group.total_byte_size().max(1)).clamp(1, rows.max(1));
        for start in (0..rows).step_by(step) {
            let count = step.min(rows - start);
            let mut slice = ParquetReader::new(open()?).with_slice(Some((first + start, count)));
            slice.set_metadata(metadata.clone());
            // Without a column to read there still are rows, whose fields are missing.
            let frame = if read.is_empty() {
                DataFrame::empty()
            } else {
                guarded(|| slice.with_columns(Some(read.clone())).finish()).map_err(refused)?
            };
            for index in 0..count {
                let place = RowPlace::Row(u32::try_from(first + start + index + 1).unwrap_or(u32::MAX));
                let failed = |problem| DataError::new(path, place, problem);
                let row = row(&frame, index, place, wanted, &present).map_err(failed)?;
                if take(row).map_err(failed)? == ControlFlow::Break(()) {
                    return Ok(hash);
                }
            }
        }
        first += rows;
    }
    Ok(hash)
}

/// Damaged files can make the reader panic; that is the file's fault and said as such.
fn guarded<T>(read: impl FnOnce() -> Result<T, PolarsError>) -> Result<T, PolarsError> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(PolarsError::ComputeError("the file is damaged".into())))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn row(
    frame: &DataFrame,
    index: usize,
    place: RowPlace,
    wanted: Wanted,
    present: &[String],
) -> Result<DataRow, Problem> {
    let member = |column: &Column| {
        let value = column
            .get(index)
            .map_err(|error| Problem::NotParquet { cause: first_line(&error.to_string()) })?;
        Ok((column.name().to_string(), json(&value)))
    };
    let object = frame.columns().iter().map(member).collect::<Result<Object, Problem>>()?;
    let row = wanted.of_object(place, object);
    Ok(DataRow { present: present.to_vec(), ..row })
}

/// A value as JSON. Structs lose members that are null: a column of structs has the members of all its rows,
/// so null there says that a row has no such member.
fn json(value: &AnyValue) -> Json {
    let series =
        |series: &polars::prelude::Series| Json::Array(series.iter().map(|item| json(&item)).collect());
    match value {
        AnyValue::Null => Json::Null,
        AnyValue::Boolean(value) => Json::Bool(*value),
        AnyValue::String(text) => Json::String((*text).to_owned()),
        AnyValue::StringOwned(text) => Json::String(text.to_string()),
        AnyValue::Int32(number) => Json::Number((*number).into()),
        AnyValue::Int64(number) => Json::Number((*number).into()),
        AnyValue::UInt32(number) => Json::Number((*number).into()),
        AnyValue::UInt64(number) => Json::Number((*number).into()),
        // As it is written: 0.1, not 0.10000000149011612.
        AnyValue::Float32(number) => {
            number.to_string().parse().ok().and_then(Number::from_f64).map_or(Json::Null, Json::Number)
        }
        AnyValue::Float64(number) => Number::from_f64(*number).map_or(Json::Null, Json::Number),
        AnyValue::List(items) => series(items),
        AnyValue::Struct(..) | AnyValue::StructOwned(_) => {
            let owned = value.clone().into_static();
            let AnyValue::StructOwned(parts) = &owned else { return Json::Object(Object::default()) };
            let members = parts.0.iter().zip(&parts.1).filter(|(item, _)| !matches!(item, AnyValue::Null));
            Json::Object(members.map(|(item, field)| (field.name().to_string(), json(item))).collect())
        }
        other => Json::String(other.to_string()),
    }
}

/// The name of a kind of values that cannot be read; none where it can.
fn unsupported(kind: &ArrowDataType) -> Option<String> {
    use ArrowDataType as Kind;
    match kind {
        Kind::Null
        | Kind::Boolean
        | Kind::Int32
        | Kind::Int64
        | Kind::UInt32
        | Kind::UInt64
        | Kind::Float32
        | Kind::Float64
        | Kind::Utf8
        | Kind::LargeUtf8
        | Kind::Utf8View
        | Kind::Date32
        | Kind::Timestamp(..) => None,
        Kind::List(item) | Kind::LargeList(item) => unsupported(item.dtype()),
        Kind::Struct(fields) => fields.iter().find_map(|field| unsupported(field.dtype())),
        other => Some(format!("{other:?}")),
    }
}
