//! Tables of rows as Parquet files, a column per field.

use std::borrow::Cow;
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::errors::Result;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

/// A column of a table: the values that are not null, and for each row a level: 1 for a value, 0 for null.
pub struct Column {
    pub name: Cow<'static, str>,
    pub levels: Vec<i16>,
    pub cells: Cells,
}

/// Values in Parquet's physical types; unsigned integers are stored as annotated signed ones.
pub enum Cells {
    UInt32(Vec<i32>),
    UInt64(Vec<i64>),
    Int64(Vec<i64>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    Bool(Vec<bool>),
    Text(Vec<ByteArray>),
}

/// A type that a row can have in a column.
pub trait Cell: Sized {
    /// The levels and the values of a [`Column`].
    fn cells(cells: impl Iterator<Item = Self>) -> (Vec<i16>, Cells);
}

macro_rules! cells {
    ($($kind:ident: $type:ty => $convert:expr;)*) => {$(
        impl Cell for Option<$type> {
            fn cells(cells: impl Iterator<Item = Self>) -> (Vec<i16>, Cells) {
                let (mut levels, mut values) = (Vec::new(), Vec::new());
                for cell in cells {
                    levels.push(i16::from(cell.is_some()));
                    values.extend(cell.map($convert));
                }
                (levels, Cells::$kind(values))
            }
        }

        impl Cell for $type {
            fn cells(cells: impl Iterator<Item = Self>) -> (Vec<i16>, Cells) {
                <Option<$type>>::cells(cells.map(Some))
            }
        }
    )*};
}

cells! {
    UInt32: u32 => |number| number as i32;
    UInt64: u64 => |number| number as i64;
    Int64: i64 => |number| number;
    Float: f32 => |number| number;
    Double: f64 => |number| number;
    Bool: bool => |truth| truth;
    Text: String => |text| ByteArray::from(text.into_bytes());
    Text: &'static str => ByteArray::from;
}

impl Column {
    pub fn new<C: Cell>(name: impl Into<Cow<'static, str>>, cells: impl Iterator<Item = C>) -> Column {
        let (levels, cells) = C::cells(cells);
        Column { name: name.into(), levels, cells }
    }

    /// This column's declaration in a Parquet schema.
    fn declared(&self) -> String {
        let (kind, annotation) = match self.cells {
            Cells::UInt32(_) => ("int32", " (INTEGER(32,false))"),
            Cells::UInt64(_) => ("int64", " (INTEGER(64,false))"),
            Cells::Int64(_) => ("int64", ""),
            Cells::Float(_) => ("float", ""),
            Cells::Double(_) => ("double", ""),
            Cells::Bool(_) => ("boolean", ""),
            Cells::Text(_) => ("binary", " (STRING)"),
        };
        format!("optional {kind} {}{annotation};", self.name)
    }
}

/// The columns of a list of structs: one for each named field, under the field's name.
macro_rules! table {
    ($rows:expr; $($field:ident),* $(,)?) => {{
        let rows = $rows;
        vec![$($crate::table::Column::new(
            stringify!($field),
            rows.iter().map(|row| row.$field.clone()),
        )),*]
    }};
}
pub(crate) use table;

/// Writes a Parquet file in memory, row group by row group.
pub struct TableWriter(SerializedFileWriter<Vec<u8>>);

impl TableWriter {
    /// `columns` gives the names and types of every group; their values are ignored.
    pub fn new(columns: &[Column]) -> Result<TableWriter> {
        let declared: Vec<String> = columns.iter().map(Column::declared).collect();
        let schema = parse_message_type(&format!("message table {{ {} }}", declared.join(" ")))?;
        let compression = Compression::ZSTD(ZstdLevel::default());
        let properties = WriterProperties::builder().set_compression(compression).build();
        Ok(TableWriter(SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(properties))?))
    }

    /// Appends a row group, unless it has no rows.
    pub fn push(&mut self, group: &[Column]) -> Result<()> {
        if group.iter().all(|column| column.levels.is_empty()) {
            return Ok(());
        }
        let mut rows = self.0.next_row_group()?;
        for Column { levels, cells, .. } in group {
            let mut column = rows.next_column()?.expect("a column for each of the schema");
            let levels = Some(levels.as_slice());
            match (column.untyped(), cells) {
                (ColumnWriter::Int32ColumnWriter(writer), Cells::UInt32(values)) => {
                    writer.write_batch(values, levels, None)?
                }
                (ColumnWriter::Int64ColumnWriter(writer), Cells::UInt64(values) | Cells::Int64(values)) => {
                    writer.write_batch(values, levels, None)?
                }
                (ColumnWriter::FloatColumnWriter(writer), Cells::Float(values)) => {
                    writer.write_batch(values, levels, None)?
                }
                (ColumnWriter::DoubleColumnWriter(writer), Cells::Double(values)) => {
                    writer.write_batch(values, levels, None)?
                }
                (ColumnWriter::BoolColumnWriter(writer), Cells::Bool(values)) => {
                    writer.write_batch(values, levels, None)?
                }
                (ColumnWriter::ByteArrayColumnWriter(writer), Cells::Text(values)) => {
                    writer.write_batch(values, levels, None)?
                }
                _ => unreachable!("all groups have the columns of the schema"),
            };
            column.close()?;
        }
        rows.close()?;
        Ok(())
    }

    pub fn finish(self) -> Result<Vec<u8>> {
        self.0.into_inner()
    }
}

/// Encodes a Parquet file; all row groups have the same columns.
pub fn encode(groups: &[Vec<Column>]) -> Result<Vec<u8>> {
    let mut file = TableWriter::new(groups.first().map_or(&[][..], Vec::as_slice))?;
    groups.iter().try_for_each(|group| file.push(group))?;
    file.finish()
}
