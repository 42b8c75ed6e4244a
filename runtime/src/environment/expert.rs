//! What an expert did, as the data has it.

use serde_json::{Map, Value};

/// The field of a data line with the turns of an expert: a list of texts.
pub const EXPERT_TURNS: &str = "expert_turns";

/// The turns of the expert, the first one first; none where the field is something else than a list of texts,
/// none of them empty.
pub fn recorded(record: &Map<String, Value>) -> Option<Vec<&str>> {
    let turns = record.get(EXPERT_TURNS)?.as_array()?;
    turns.iter().map(|turn| turn.as_str().filter(|text| !text.is_empty())).collect()
}
