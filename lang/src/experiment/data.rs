//! Where prompts come from and how they become a model's input.

use serde::{Deserialize, Serialize};

use super::Origin;
use crate::experiment::formula::Formula;

/// Endings of the names of data files.
pub const DATA_ENDINGS: [&str; 6] = ["parquet", "jsonl", "ndjson", "json", "csv", "tsv"];

/// Rows of data.
#[derive(Clone, Debug, PartialEq)]
pub struct DataSource {
    /// A file, a pattern of files or a folder in the layout of Hugging Face datasets; relative to the source
    /// file.
    pub path: String,
    /// Of a folder with several.
    pub split: Option<String>,
    /// Rows are read where it holds; decided by the data.
    pub filter: Option<Formula>,
    /// Only the first so many rows, of those where the filter holds.
    pub limit: Option<u32>,
    pub origin: Origin,
}

/// A field of the data and the column that it stands in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldColumn {
    pub field: String,
    pub column: String,
}

/// How a prompt becomes the input of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "format", rename_all = "snake_case")]
pub enum PromptFormat {
    /// As it is.
    #[default]
    Text,
    /// As a message of a conversation, or as the conversation that the data has, by the model's own template.
    Chat {
        /// The first message, where the data has none of its own.
        system: Option<String>,
    },
}
