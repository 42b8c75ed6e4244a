//! Rows of data files: which files a source names, what a plan reads of each row, and what is wrong with it.
//! The checker, the editor and the runtime read data by the same code, so that they refuse the same.

#![forbid(unsafe_code)]

mod compressed;
mod error;
pub mod experts;
mod files;
pub mod json;
mod located;
mod look;
pub mod messages;
mod numbers;
pub mod numerals;
mod patterns;
pub mod quote;
mod reading;
pub mod reads;
mod request;
mod rows;
mod structs;
mod trajectory;
mod unread;
pub mod zip;

pub use error::{DataError, DataProblem, RowPlace};
pub use files::{DataFile, path_as_written};
pub use located::{HubDataset, SourceFiles, files_of};
pub use look::{Extent, Look, columns, look};
pub use reading::{ReadRow, RowOutcome, RowReader, record};
pub use request::{DOCUMENTS, DatasetRequest, Field, FieldKind, MESSAGES, PROMPT, TOOLS, VARIABLES};
pub use rows::{DataRow, Reach, ReadFile, RowProjection, RowVisitor, read};
pub use unread::DataWarning;
