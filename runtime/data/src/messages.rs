//! Lists of messages: what a conversation must have before a template can render it.

use mopd_plan::nearest;

use crate::json::{Json, describe};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChatRole {
    System,
    Developer,
    User,
    Assistant,
    Tool,
}

pub const ROLES: [(&str, ChatRole); 5] = [
    ("system", ChatRole::System),
    ("developer", ChatRole::Developer),
    ("user", ChatRole::User),
    ("assistant", ChatRole::Assistant),
    ("tool", ChatRole::Tool),
];

/// What to write in place of a value that is no list of messages.
pub const HELP: &str = "a conversation is a list such as [{\"role\": \"user\", \"content\": \"2+2?\"}, {\"role\": \
                        \"assistant\", \"content\": \"4\"}]";

/// The roles of a list of messages, each an object with a `role`; at least one.
pub fn roles(messages: &Json) -> Result<Vec<ChatRole>, String> {
    let Json::Array(list) = messages else {
        return Err(format!("a conversation must be a list of messages; found {}", describe(messages)));
    };
    if list.is_empty() {
        return Err("the conversation has no messages".to_owned());
    }
    list.iter().zip(1..).map(|(message, number)| role(number, message)).collect()
}

fn role(number: usize, value: &Json) -> Result<ChatRole, String> {
    let wrong = |problem: String| Err(format!("message {number} {problem}"));
    let Json::Object(fields) = value else {
        return wrong(format!("must be an object; found {}", describe(value)));
    };
    let name = match fields.get("role") {
        Some(Json::String(name)) => name,
        Some(other) => return wrong(format!("has a `role` that is not a string: {}", describe(other))),
        None => return wrong("has no `role`".to_owned()),
    };
    let Some((_, role)) = ROLES.iter().find(|(known, _)| known == name) else {
        let known = ROLES.map(|(known, _)| known);
        let meant =
            nearest(name, known).map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
        return wrong(format!("has the role {name:?}, not one of `{}`{meant}", known.join("`, `")));
    };
    match fields.get("content") {
        None | Some(Json::Null | Json::String(_) | Json::Array(_)) => {}
        Some(other) => {
            return wrong(format!(
                "has a `content` that is neither a string nor a list: {}",
                describe(other)
            ));
        }
    }
    if *role != ChatRole::Assistant && fields.get("content").is_none() {
        return wrong("has no `content`".to_owned());
    }
    Ok(*role)
}
