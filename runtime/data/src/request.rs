//! What is read of the rows of a data source.

use std::path::Path;

use mopd_plan::{DataFormula, DataSource, PromptFormat};

/// The column of prompts, and the column of conversations that may replace it.
pub const PROMPT: &str = "prompt";
pub const MESSAGES: &str = "messages";
/// Columns that a template may read besides the messages.
pub const TOOLS: &str = "tools";
pub const DOCUMENTS: &str = "documents";
pub const VARIABLES: &str = "chat_template_kwargs";

/// A field that every row must have, besides the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    pub name: &'a str,
    pub kind: FieldKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// A string, or a number, which is read as its text.
    Text,
    /// A number, or a string that [`crate::numerals::whole`] can read.
    Number,
    /// A list of messages. Each of the assistant's turns becomes a row, whose prompt is the conversation
    /// before it; the file's own prompt is not read. At most one field has this kind.
    Trajectory,
}

impl<'a> Field<'a> {
    pub fn text(name: &'a str) -> Field<'a> {
        Field { name, kind: FieldKind::Text }
    }

    pub fn number(name: &'a str) -> Field<'a> {
        Field { name, kind: FieldKind::Number }
    }

    pub fn trajectory(name: &'a str) -> Field<'a> {
        Field { name, kind: FieldKind::Trajectory }
    }
}

/// A request to read a dataset.
#[derive(Clone, Copy, Debug)]
pub struct DatasetRequest<'a> {
    pub source: &'a DataSource,
    pub format: &'a PromptFormat,
    /// Fields that every row must have, besides the prompt.
    pub fields: &'a [Field<'a>],
    /// Whether whole rows are kept, for a reward command.
    pub whole: bool,
    /// The conditions of the arms of routes; the arm of each row is kept.
    pub routes: &'a [Vec<DataFormula>],
    /// Formulas whose value is kept for every row.
    pub numbers: &'a [DataFormula],
    /// A folder for remembered hashes of large files, which need not exist; see
    /// [`mopd_store::content::hash`].
    pub notes: Option<&'a Path>,
}

impl<'a> DatasetRequest<'a> {
    /// The field whose turns are the rows.
    pub fn trajectory(&self) -> Option<&'a str> {
        let mut fields = self.fields.iter();
        fields.find(|field| field.kind == FieldKind::Trajectory).map(|field| field.name)
    }

    /// The other fields, with one text per row.
    pub fn texts(&self) -> impl Iterator<Item = &'a Field<'a>> + use<'a> {
        self.fields.iter().filter(|field| field.kind != FieldKind::Trajectory)
    }
}
