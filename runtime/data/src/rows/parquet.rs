//! Parquet files: the wanted columns only, row by row.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use mopd_store::{content, regular};
use parquet::basic::{ConvertedType, LogicalType, TimeUnit, Type as Physical};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use parquet::schema::types::{ColumnDescriptor, Type};
use serde_json::Number;

use super::{Reach, ReadFile, RowProjection, RowVisitor, check_columns};
use crate::error::{DataError, DataProblem, RowPlace};
use crate::json::{Json, Object};
use crate::structs::outermost;

pub fn read(
    path: &Path,
    wanted: RowProjection,
    reach: Reach,
    take: &mut RowVisitor,
) -> Result<ReadFile, DataError> {
    let of_file = |problem| DataError::of_file(path, problem);
    let unreadable = |error: io::Error| of_file(DataProblem::unreadable(path, &error));
    let refused =
        |error: ParquetError| of_file(DataProblem::NotParquet { cause: first_line(&error.to_string()) });
    // The hash may be remembered: of a large file, only a few columns and rows may be read.
    let hash = match reach {
        Reach::End { notes: Some(notes) } => Some(content::hash(path, notes)),
        Reach::End { notes: None } => Some(content::hash_anew(path)),
        Reach::First { .. } => None,
    };
    let hash = hash.transpose().map_err(unreadable)?;
    let reader = open(path)?;
    let schema = reader.metadata().file_metadata().schema_descr_ptr();
    let present: Vec<String> =
        schema.root_schema().get_fields().iter().map(|field| field.name().to_owned()).collect();
    check_columns(schema.num_columns().max(present.len())).map_err(of_file)?;
    let is_read = |name: &str| {
        wanted.whole || wanted.columns.iter().any(|column| column == name || outermost(column) == name)
    };
    for column in schema.columns() {
        let name = &column.path().parts()[0];
        if let Some(kind) = unsupported(column).filter(|_| is_read(name)) {
            return Err(of_file(DataProblem::ColumnKind { column: name.clone(), kind }));
        }
    }
    let read = schema.root_schema().get_fields().iter().filter(|field| is_read(field.name()));
    let read: Vec<Arc<Type>> = read.cloned().collect();
    let mut rows = match read.is_empty() {
        // The file has none of the wanted columns, but its rows still count.
        true => None,
        false => Some(
            guarded(|| {
                let projection = Type::group_type_builder(schema.root_schema().name()).with_fields(read);
                reader.get_row_iter(Some(projection.build()?))
            })
            .map_err(refused)?,
        ),
    };
    for index in 0..reader.metadata().file_metadata().num_rows() {
        let place = RowPlace::Row(u32::try_from(index + 1).unwrap_or(u32::MAX));
        let object = match &mut rows {
            None => Object::default(),
            Some(rows) => match guarded(|| rows.next().transpose()).map_err(refused)? {
                Some(row) => object(row),
                None => return Err(refused(ParquetError::EOF("rows are missing".to_owned()))),
            },
        };
        let failed = |problem| DataError::new(path, place, problem);
        let mut row = wanted.of_object(place, object);
        if !row.present.is_empty() || rows.is_none() {
            // Of the columns, only those that are wanted are in the object.
            row.present.retain(|column| !present.contains(column));
            row.present.splice(..0, present.iter().cloned());
        }
        if take(row).map_err(failed)? == ControlFlow::Break(()) {
            return Ok(ReadFile { hash, whole: false });
        }
    }
    Ok(ReadFile { hash, whole: true })
}

/// The names of its columns.
pub fn columns(path: &Path) -> Result<Vec<String>, DataError> {
    let schema = open(path)?.metadata().file_metadata().schema_descr_ptr();
    Ok(schema.root_schema().get_fields().iter().map(|field| field.name().to_owned()).collect())
}

/// The number of its rows.
pub fn count(path: &Path) -> Result<u64, DataError> {
    Ok(u64::try_from(open(path)?.metadata().file_metadata().num_rows()).unwrap_or(0))
}

fn open(path: &Path) -> Result<SerializedFileReader<File>, DataError> {
    let file = regular::open(path)
        .map_err(|error| DataError::of_file(path, DataProblem::unreadable(path, &error)))?;
    guarded(|| SerializedFileReader::new(file)).map_err(|error| {
        DataError::of_file(path, DataProblem::NotParquet { cause: first_line(&error.to_string()) })
    })
}

/// Damaged files can make the reader panic, which becomes an error about the file.
fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(ParquetError::General("the file is damaged".to_owned())))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn object(row: Row) -> Object {
    row.into_columns().into_iter().map(|(name, value)| (name, json(value))).collect()
}

/// Converts a value to JSON. Null members of structs are dropped: a column of structs has the members of all
/// its rows, so null means that a row has no such member.
fn json(value: Field) -> Json {
    let whole = |number: Number| Json::Number(number.into());
    let float = |number: f64| Number::from_f64(number).map_or(Json::Null, whole);
    match value {
        Field::Null => Json::Null,
        Field::Bool(truth) => Json::Bool(truth),
        Field::Str(text) => Json::String(text),
        // Text from writers that only use the newer annotation.
        Field::Bytes(text) => Json::String(String::from_utf8_lossy(text.data()).into_owned()),
        Field::Byte(number) => whole(number.into()),
        Field::Short(number) => whole(number.into()),
        Field::Int(number) => whole(number.into()),
        Field::Long(number) => whole(number.into()),
        Field::UByte(number) => whole(number.into()),
        Field::UShort(number) => whole(number.into()),
        Field::UInt(number) => whole(number.into()),
        Field::ULong(number) => whole(number.into()),
        // With the shortest digits: 0.1, not 0.10000000149011612.
        Field::Float(number) => number.to_string().parse().map_or(Json::Null, float),
        Field::Float16(number) => number.to_string().parse().map_or(Json::Null, float),
        Field::Double(number) => float(number),
        Field::ListInternal(list) => Json::Array(list.elements().iter().cloned().map(json).collect()),
        Field::Group(row) => {
            let members = row.into_columns().into_iter().filter(|(_, member)| *member != Field::Null);
            Json::Object(members.map(|(name, member)| (name, json(member))).collect())
        }
        Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_)
        | Field::Decimal(_)
        | Field::MapInternal(_) => Json::String(value.to_string()),
    }
}

/// The name of a column's type if it can't be read; `None` if it can.
fn unsupported(column: &ColumnDescriptor) -> Option<String> {
    let logical = column.logical_type_ref();
    let text = matches!(logical, Some(LogicalType::String | LogicalType::Enum | LogicalType::Json))
        || matches!(column.converted_type(), ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON);
    match (column.physical_type(), logical) {
        (_, Some(LogicalType::Decimal(_))) => Some("Decimal".to_owned()),
        (_, Some(LogicalType::Time(_))) => Some("Time".to_owned()),
        (_, Some(LogicalType::Timestamp(of))) if of.unit == TimeUnit::NANOS => {
            Some("Timestamp(Nanosecond)".to_owned())
        }
        (Physical::BYTE_ARRAY, _) if !text => Some("Binary".to_owned()),
        (Physical::FIXED_LEN_BYTE_ARRAY, logical) if logical != Some(&LogicalType::Float16) => {
            Some("FixedSizeBinary".to_owned())
        }
        _ => None,
    }
}
