//! Columns that other tools read, and that nothing reads here: what they say would be lost without a word.

use mopd_plan::PromptFormat;

use crate::error::RowPlace;
use crate::json::Json;
use crate::request::{DatasetRequest, PROMPT};

/// Something in the rows of a source that is most likely a slip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataWarning {
    pub message: String,
    pub help: String,
}

/// The watched columns of a source, with the rows that have something in them.
pub(crate) struct UnreadColumns(Vec<UnreadColumn>);

struct UnreadColumn {
    name: &'static str,
    help: &'static str,
    rows: u64,
    first: RowPlace,
}

const SYSTEM: &str = "put it before the prompt, as a message of the role `system`; `system = \"...\"` of the domain is \
                      one text for all rows";
const TOOLS: &str = "a chat template shows tools: write `format = chat`";
const INPUT: &str = "it belongs to the prompt in Alpaca's layout: write both into one column, such as \
                     instruction + \"\\n\" + input";

impl UnreadColumns {
    /// `columns`: those that are read.
    pub fn new(request: &DatasetRequest, columns: &[String]) -> UnreadColumns {
        let alpaca = request.source.column(PROMPT) == "instruction";
        let watched = match request.format {
            PromptFormat::Chat { .. } => [("system", SYSTEM), ("system_prompt", SYSTEM)].as_slice(),
            PromptFormat::Text => [("tools", TOOLS)].as_slice(),
        };
        let watched = watched.iter().chain([("input", INPUT), ("history", INPUT)].iter().filter(|_| alpaca));
        let unread = |(name, help): &(&'static str, &'static str)| {
            // A program that gets whole rows may read any column.
            let is_read = request.whole || columns.iter().any(|column| column == name);
            (!is_read).then_some(UnreadColumn { name, help, rows: 0, first: RowPlace::File })
        };
        UnreadColumns(watched.filter_map(unread).collect())
    }

    pub fn columns(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|column| column.name)
    }

    /// Notes the values of a row, in the order of the columns.
    pub fn note<'r>(&mut self, place: RowPlace, values: impl Iterator<Item = Option<&'r Json>>) {
        for (column, value) in self.0.iter_mut().zip(values) {
            let says = match value {
                None | Some(Json::Null) => false,
                Some(Json::String(text)) => !text.trim().is_empty(),
                Some(Json::Array(items)) => !items.is_empty(),
                Some(_) => true,
            };
            if says {
                if column.rows == 0 {
                    column.first = place;
                }
                column.rows += 1;
            }
        }
    }

    pub fn warnings(&self, path: &str) -> Vec<DataWarning> {
        let found = self.0.iter().filter(|column| column.rows > 0);
        found
            .map(|UnreadColumn { name, help, rows, first }| {
                let rows = if *rows == 1 { "one row has".to_owned() } else { format!("{rows} rows have") };
                DataWarning {
                    message: format!(
                        "{path}: {rows} text in the column `{name}`, the first in {}, and nothing reads it",
                        first.words()
                    ),
                    help: (*help).to_owned(),
                }
            })
            .collect()
    }
}
