//! An expert's turns, recorded in the data.

use serde_json::{Map, Value};

use crate::error::DataProblem;
use crate::quote::quote;

/// The field of a data line with the turns of an expert: a list of texts.
pub const EXPERT_TURNS: &str = "expert_turns";

/// The turns of the expert in their order, or `None` if the field is not a list of texts that are not empty.
pub fn recorded(record: &Map<String, Value>) -> Option<Vec<&str>> {
    let turns = record.get(EXPERT_TURNS)?.as_array()?;
    turns.iter().map(|turn| turn.as_str().filter(|text| !text.is_empty())).collect()
}

/// A whole row.
pub(crate) fn record(row: &str) -> Map<String, Value> {
    serde_json::from_str(row).expect("an object was written")
}

/// Checks that a row has the turns of an expert.
pub fn check(record: &Map<String, Value>) -> Result<(), DataProblem> {
    if recorded(record).is_some() {
        return Ok(());
    }
    let field = EXPERT_TURNS;
    Err(match record.get(field) {
        None => DataProblem::missing(field, record.keys().map(String::as_str)),
        Some(found) => DataProblem::TypeMismatch {
            field: field.to_owned(),
            wanted: "a list of texts, none of them empty, one for each turn of the expert",
            found: quote(&found.to_string()),
        },
    })
}
