//! An expert's turns, recorded in the data.

use serde_json::{Map, Value};

/// The field of a data line with the turns of an expert: a list of texts.
pub const EXPERT_TURNS: &str = "expert_turns";

/// The turns of the expert in their order, or `None` if the field is not a list of texts that are not empty.
pub fn recorded(record: &Map<String, Value>) -> Option<Vec<&str>> {
    let turns = record.get(EXPERT_TURNS)?.as_array()?;
    turns.iter().map(|turn| turn.as_str().filter(|text| !text.is_empty())).collect()
}
