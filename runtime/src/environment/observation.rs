//! What an environment says between two turns of the student.

use std::fmt;

use mopd_data::json::{Json, describe};
use mopd_data::messages::{self, ChatRole};
use serde_json::{Value, json};

#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// Not empty.
    Text(String),
    /// In a conversation: at least one message, of users and tools.
    Messages(Json),
}

impl Observation {
    /// Of an episode whose prompt is plain text.
    pub(super) fn of_text(
        text: Option<&Value>,
        messages: Option<&Value>,
    ) -> Result<Option<Observation>, String> {
        match messages {
            Some(_) => Err("`messages`, although the prompt is plain text".to_owned()),
            None => Ok(observed(text)?.map(|text| Observation::Text(text.to_owned()))),
        }
    }

    /// Of an episode in a conversation. A text is the message of the tool, where the student called one, and
    /// of the user otherwise.
    pub(super) fn of_chat(
        text: Option<&Value>,
        messages: Option<&Value>,
        calls: usize,
    ) -> Result<Option<Observation>, String> {
        let messages = match (observed(text)?, messages) {
            (None, None) => return Ok(None),
            (None, Some(messages)) => Json::from(messages.clone()),
            (Some(_), Some(_)) => return Err("both an `observation` and `messages`".to_owned()),
            (Some(_), None) if calls > 1 => {
                return Err(format!(
                    "one `observation` for {calls} tool calls: reply with `messages`, one for each"
                ));
            }
            (Some(text), None) => {
                let role = if calls == 1 { "tool" } else { "user" };
                Json::from(json!([{ "role": role, "content": text }]))
            }
        };
        let roles = messages::roles(&messages)?;
        if roles.contains(&ChatRole::Assistant) {
            return Err("a message with the role `assistant`, whose turns the student writes".to_owned());
        }
        Ok(Some(Observation::Messages(messages)))
    }
}

fn observed(text: Option<&Value>) -> Result<Option<&str>, String> {
    match text {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(other) => {
            Err(format!("an `observation` that is not a text, but {}", describe(&Json::from(other.clone()))))
        }
    }
}

/// As in a message about it.
impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Observation::Text(text) => f.write_str(text),
            Observation::Messages(messages) => messages.fmt(f),
        }
    }
}
