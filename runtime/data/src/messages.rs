//! Lists of messages: what a conversation must have before a template can render it, and the layouts in which
//! other tools write one.

use std::borrow::Cow;

use mopd_plan::nearest;
use serde::Serialize;

use crate::json::{Json, Object, describe};

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
    match fields.get(WEIGHT).filter(|weight| !weight.is_null()).map(Json::to_string).as_deref() {
        None | Some("0" | "0.0") => {}
        Some("1" | "1.0") if *role == ChatRole::Assistant => {}
        Some("1" | "1.0") => {
            return wrong(format!("has the `{WEIGHT}` 1, but only the assistant's messages are trained on"));
        }
        Some(weight) => {
            return wrong(format!("has the `{WEIGHT}` {weight}: a message is trained on, 1, or not, 0"));
        }
    }
    Ok(*role)
}

/// The key of a message that says whether it is trained on, in data for the interface of OpenAI.
const WEIGHT: &str = "weight";
/// Keys for a model's reasoning in messages; templates read the first.
pub const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Whether a message may be trained on.
pub fn is_trained(message: &Json) -> bool {
    let weight = message.as_object().and_then(|message| message.get(WEIGHT)).map(Json::to_string);
    !matches!(weight.as_deref(), Some("0" | "0.0"))
}

/// A list of messages in our layout, where it has that of ShareGPT: `{"from": "human", "value": "2+2?"}`.
pub fn in_our_layout(messages: &Json) -> Cow<'_, Json> {
    let is_other = |message: &Json| {
        message.as_object().is_some_and(|fields| {
            fields.contains_key("from") && fields.contains_key("value") && !fields.contains_key("role")
        })
    };
    match messages {
        Json::Array(list) if !list.is_empty() && list.iter().all(is_other) => {
            Cow::Owned(Json::Array(list.iter().filter_map(Json::as_object).map(translated).collect()))
        }
        _ => Cow::Borrowed(messages),
    }
}

fn translated(message: &Object) -> Json {
    let role = |name: &str| {
        match name {
            "human" => "user",
            "gpt" | "chatgpt" => "assistant",
            "observation" | "function_response" => "tool",
            // A name of ours, or one that is refused by its name.
            _ => return name.to_owned(),
        }
        .to_owned()
    };
    let member = |(name, value): (&String, &Json)| match (name.as_str(), value) {
        ("from", Json::String(from)) => ("role".to_owned(), Json::String(role(from))),
        ("from", other) => ("role".to_owned(), other.clone()),
        ("value", text) => ("content".to_owned(), text.clone()),
        _ => (name.clone(), value.clone()),
    };
    Json::Object(message.iter().map(member).collect())
}

/// The text of a content; `None` where it has parts that are no text.
pub fn text_of(content: &Json) -> Option<Cow<'_, str>> {
    match content {
        Json::String(text) => Some(Cow::Borrowed(text)),
        Json::Array(parts) => {
            let text = |part: &Json| {
                let part = part.as_object()?;
                let is_text = part.get("type").is_none_or(|kind| kind.as_str() == Some("text"));
                part.get("text").filter(|_| is_text)?.as_str().map(str::to_owned)
            };
            parts.iter().map(text).collect::<Option<String>>().map(Cow::Owned)
        }
        _ => None,
    }
}

/// A recorded answer, with the conversation before it.
pub struct Answered<'a> {
    pub before: &'a [Json],
    pub text: Cow<'a, str>,
}

/// Splits a list of messages that ends with the assistant's answer.
pub fn answered(messages: &Json) -> Result<Answered<'_>, String> {
    let roles = roles(messages)?;
    let Some((last, before)) = messages.as_array().and_then(<[Json]>::split_last) else {
        return Err("the conversation has no messages".to_owned());
    };
    let fields = last.as_object().filter(|_| roles.last() == Some(&ChatRole::Assistant));
    let fields = fields.ok_or("the last message is not the assistant's")?;
    // A field is one text.
    for name in ["tool_calls", "function_call"].iter().chain(&REASONING) {
        let empty = |value: &Json| value.is_null() || matches!(value, Json::Array(list) if list.is_empty());
        if fields.get(*name).is_some_and(|value| !empty(value)) {
            return Err(format!(
                "the assistant's message has `{name}`, which a field of answers can't have; train on `messages` instead"
            ));
        }
    }
    let text = fields.get("content").and_then(text_of);
    Ok(Answered { before, text: text.ok_or("the assistant's message has no text as its `content`")? })
}

/// What older versions did not read of messages. Where rows have any of it, it is a part of the data's hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MessageForms {
    /// Arguments of tool calls as JSON text.
    pub text_arguments: bool,
    /// Contents as lists of parts.
    pub parts: bool,
    /// Messages that are not trained on.
    pub weights: bool,
}

impl MessageForms {
    pub fn of(messages: &[Json]) -> MessageForms {
        let mut forms = MessageForms::default();
        for message in messages {
            forms.text_arguments |= has_text_arguments(message);
            forms.parts |=
                message.as_object().is_some_and(|of| matches!(of.get("content"), Some(Json::Array(_))));
            forms.weights |= !is_trained(message);
        }
        forms
    }

    pub fn or(self, other: MessageForms) -> MessageForms {
        MessageForms {
            text_arguments: self.text_arguments || other.text_arguments,
            parts: self.parts || other.parts,
            weights: self.weights || other.weights,
        }
    }
}

/// The members `arguments` of a message's tool calls.
fn arguments(message: &Json) -> impl Iterator<Item = &Json> {
    let calls = message.as_object().and_then(|message| message.get("tool_calls")?.as_array());
    calls.unwrap_or_default().iter().filter_map(|call| {
        let call = call.as_object()?;
        call.get("function").and_then(Json::as_object).unwrap_or(call).get("arguments")
    })
}

fn has_text_arguments(message: &Json) -> bool {
    arguments(message).any(|value| value.as_str().and_then(mapping).is_some())
}

/// The object that a text is as JSON.
fn mapping(text: &str) -> Option<Json> {
    Json::parse(text).ok().filter(|value| value.as_object().is_some())
}

/// The message with the arguments of its tool calls as objects.
pub fn with_mappings(message: &mut Json) {
    let Json::Object(fields) = message else { return };
    let Some(Json::Array(calls)) = fields.get_mut("tool_calls") else { return };
    for call in calls {
        let Json::Object(call) = call else { continue };
        let function = match call.contains_key("function") {
            true => call.get_mut("function"),
            false => None,
        };
        let members = match function {
            Some(Json::Object(function)) => function,
            Some(_) => continue,
            None => call,
        };
        if let Some(arguments) = members.get_mut("arguments")
            && let Some(object) = arguments.as_str().and_then(mapping)
        {
            *arguments = object;
        }
    }
}

/// The message with its content as one text, where it is a list of texts.
pub fn with_text(message: &mut Json) {
    let Json::Object(fields) = message else { return };
    if let Some(content @ Json::Array(_)) = fields.get_mut("content")
        && let Some(text) = text_of(content).map(Cow::into_owned)
    {
        *content = Json::String(text);
    }
}
