//! Sources of prompts, and the format in which prompts become a model's input.

use serde::{Deserialize, Serialize};

use super::Origin;
use crate::checked::formula::Formula;

/// File extensions of data files.
pub const DATA_ENDINGS: [&str; 6] = ["parquet", "jsonl", "ndjson", "json", "csv", "tsv"];

/// Rows of data.
#[derive(Clone, Debug, PartialEq)]
pub struct DataSource {
    /// A file, a pattern of files or a folder in the layout of Hugging Face datasets, relative to the source
    /// file; or such a folder on the hub: `organisation/name`, also with a subset behind it.
    pub path: String,
    /// The split, of a folder with several.
    pub split: Option<String>,
    /// The branch, tag or commit on the hub.
    pub revision: Option<String>,
    /// A condition on the data alone; only rows where it holds are read.
    pub filter: Option<Formula>,
    /// The most rows that are read, counted where the filter holds; all where absent.
    pub limit: Option<u32>,
    /// The most tokens of a prompt, as the models read it that train or are judged on it; rows of longer ones
    /// are left out.
    pub max_prompt_tokens: Option<u32>,
    pub origin: Origin,
}

impl DataSource {
    /// A whole file: all of its rows.
    pub fn file(path: impl Into<String>, origin: Origin) -> DataSource {
        DataSource {
            path: path.into(),
            split: None,
            revision: None,
            filter: None,
            limit: None,
            max_prompt_tokens: None,
            origin,
        }
    }
}

/// A field of the data and its column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldColumn {
    pub field: String,
    pub column: String,
    /// A regular expression: the field is what its first group matches in the column's text, or the whole
    /// match where it has no group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
}

/// How a prompt becomes the input of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "format", rename_all = "snake_case")]
pub enum PromptFormat {
    /// The prompt as plain text.
    #[default]
    Text,
    /// A message of a conversation, or the data's own conversation, formatted by the model's own template.
    Chat {
        /// The system message, where the data has none of its own.
        system: Option<String>,
    },
}
