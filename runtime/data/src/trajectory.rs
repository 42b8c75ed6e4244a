//! Recorded trajectories: conversations of users, tools and an assistant, split into the assistant's turns
//! and the messages before each.

use crate::error::DataProblem;
use crate::json::{Json, describe};
use crate::messages::{self, ChatRole};

/// One of the assistant's turns: its consecutive messages.
pub struct Turn<'a> {
    /// The messages before it; never empty.
    pub before: &'a [Json],
}

/// The assistant's turns of a list of messages; at least one.
pub fn turns<'a>(field: &str, messages: &'a Json) -> Result<Vec<Turn<'a>>, DataProblem> {
    let Json::Array(list) = messages else {
        let wanted = "a list of messages, or its JSON as text";
        return Err(DataProblem::TypeMismatch { field: field.to_owned(), wanted, found: describe(messages) });
    };
    let roles = messages::roles(messages).map_err(DataProblem::messages)?;
    let wrong =
        |problem: &str| DataProblem::Trajectory { field: field.to_owned(), problem: problem.to_owned() };
    let written = |place: usize| roles[place] == ChatRole::Assistant;
    if written(0) {
        return Err(wrong("begins with the assistant, so its first turn has no prompt"));
    }
    let begins = (1..roles.len()).filter(|place| written(*place) && !written(*place - 1));
    // A turn whose messages all have the weight 0 is context.
    let is_trained = |place: &usize| {
        let turn = (*place..roles.len()).take_while(|place| written(*place));
        turn.into_iter().any(|place| messages::is_trained(&list[place]))
    };
    let begins = begins.filter(is_trained);
    let turns: Vec<Turn> = begins.map(|place| Turn { before: &list[..place] }).collect();
    if turns.is_empty() {
        return Err(wrong("has no message with the role `assistant`, so there is no turn to train on"));
    }
    Ok(turns)
}

impl Turn<'_> {
    /// The messages before it as plain text, one per line; a single message is unchanged.
    pub fn text(&self, field: &str) -> Result<String, DataProblem> {
        let mut lines: Vec<&str> = Vec::with_capacity(self.before.len());
        for (message, number) in self.before.iter().zip(1..) {
            match message.as_object().and_then(|message| message.get("content")) {
                Some(Json::String(text)) => lines.push(text),
                _ => {
                    let problem = format!(
                        "has a message {number} whose `content` is not a string, but prompts are plain \
                        text here"
                    );
                    return Err(DataProblem::Trajectory { field: field.to_owned(), problem });
                }
            }
        }
        Ok(lines.join("\n"))
    }
}
