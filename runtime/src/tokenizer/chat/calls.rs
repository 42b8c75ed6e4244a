//! Tool calls in what a model wrote. Templates write calls, but nothing says how to read one. So the form is
//! found out: the template renders a call with known names and values, and the texts around these are the
//! form. Two forms are known: a JSON object, and names and values between tags.

use serde_json::json;

use super::{ChatTemplate, Conversation};
use crate::tokenizer::json::{Json, Object};

/// A call that the assistant wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    pub name: String,
    pub arguments: Object,
}

/// How a template writes calls. Its texts have no white space at their ends: models vary it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallForm {
    /// The text before a call; empty where a call is the whole message.
    opening: String,
    body: CallBody,
    /// The text after it.
    closing: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum CallBody {
    /// An object with the name and the arguments under these keys; several are divided by commas.
    Json { name: String, arguments: String },
    /// A name and the text after it; then for each argument the texts before its name, between name and
    /// value, and after the value.
    Tagged { after_name: String, before: String, between: String, after: String },
}

/// Names and values that no template has of its own.
const CONTENT: &str = "mopd-content-7d1f";
const NAME: &str = "mopd_name_7d1f";
const ARGUMENTS: [[&str; 2]; 2] =
    [["mopd_first_7d1f", "mopd-value-7d1f"], ["mopd_second_7d1f", "mopd-other-7d1f"]];

impl CallForm {
    /// The form of a template; `None` where it writes no calls, or in a way that is not known.
    pub(super) fn learn(template: &ChatTemplate) -> Option<CallForm> {
        let [none, one, two] = [0, 1, 2].map(|arguments| written_call(template, &ARGUMENTS[..arguments]));
        let one = one?;
        CallForm::json(&one).or_else(|| CallForm::tagged(&none?, &one, &two?))
    }

    fn json(text: &str) -> Option<CallForm> {
        let objects = text.match_indices('{').map(|(start, _)| start);
        objects.take(16).find_map(|start| {
            let (object, length) = object(&text[start..])?;
            let name = object.iter().find(|(_, value)| value.as_str() == Some(NAME))?.0;
            let has_argument =
                |value: &Json| arguments(value).is_some_and(|of| of.contains_key(ARGUMENTS[0][0]));
            let arguments = object.iter().find(|(_, value)| has_argument(value))?.0;
            Some(CallForm {
                opening: text[..start].trim().to_owned(),
                body: CallBody::Json { name: name.clone(), arguments: arguments.clone() },
                closing: text[start + length..].trim().to_owned(),
            })
        })
    }

    fn tagged(none: &str, one: &str, two: &str) -> Option<CallForm> {
        let [[argument, value], [second, _]] = ARGUMENTS;
        let (opening, rest) = one.split_once(NAME)?;
        let (before, rest) = rest.split_once(argument)?;
        let (between, end) = rest.split_once(value)?;
        let (_, after_first) = two.split_once(value)?;
        let (separator, _) = after_first.split_once(second)?;
        let (_, without) = none.split_once(NAME)?;
        // What follows the name in every call; the rest of `before` opens an argument.
        let after_name = common_start(before, without);
        let before = &before[after_name.len()..];
        let after = separator.strip_suffix(before)?;
        let closing = end.strip_prefix(after)?;
        let form = CallForm {
            opening: opening.trim().to_owned(),
            body: CallBody::Tagged {
                after_name: after_name.trim().to_owned(),
                before: before.trim().to_owned(),
                between: between.trim().to_owned(),
                after: after.trim().to_owned(),
            },
            closing: closing.trim().to_owned(),
        };
        // Without these texts, no end of a name or of a value could be found.
        let CallBody::Tagged { before, between, after, .. } = &form.body else { return None };
        let delimited = [&form.opening, before, between, after].into_iter().all(|text| !text.is_empty());
        delimited.then_some(form)
    }

    /// What the assistant said besides calls, and its calls in their order. A text that only begins like a
    /// call is said.
    pub fn parse(&self, text: &str) -> (String, Vec<ToolCall>) {
        let (mut said, mut calls, mut rest) = (String::new(), Vec::new(), text);
        while let Some(start) = self.start(rest) {
            let begun = start + self.opening.len();
            match self.calls(&rest[begun..]) {
                Some((found, length)) => {
                    said.push_str(&rest[..start]);
                    calls.extend(found);
                    rest = &rest[begun + length..];
                }
                None if self.opening.is_empty() => break,
                None => {
                    said.push_str(&rest[..begun]);
                    rest = &rest[begun..];
                }
            }
        }
        said.push_str(rest);
        let said = if calls.is_empty() { said } else { said.trim().to_owned() };
        (said, calls)
    }

    fn start(&self, text: &str) -> Option<usize> {
        match self.opening.as_str() {
            "" => text.starts_with('{').then_some(0),
            opening => text.find(opening),
        }
    }

    /// The calls at the beginning of a text, and the length of what they take; `None` where it has none.
    fn calls(&self, text: &str) -> Option<(Vec<ToolCall>, usize)> {
        let mut cursor = Cursor { text, at: 0 };
        let calls = match &self.body {
            CallBody::Json { name, arguments } => json_calls(&mut cursor, name, arguments)?,
            CallBody::Tagged { .. } => vec![self.tagged_call(&mut cursor)?],
        };
        // A model that stops early leaves the end out.
        cursor.skip(&self.closing);
        let whole = self.opening.is_empty() && !cursor.rest().trim().is_empty();
        (!whole).then_some((calls, cursor.at))
    }

    fn tagged_call(&self, cursor: &mut Cursor) -> Option<ToolCall> {
        let CallBody::Tagged { after_name, before, between, after } = &self.body else { return None };
        let name = match after_name.as_str() {
            "" => cursor.until_line_or(before),
            after_name => cursor.until(after_name)?,
        };
        let name = name.trim().to_owned();
        let mut arguments = Object::new();
        while cursor.skip(before) {
            let argument = cursor.until(between)?.trim().to_owned();
            let value = cursor.until(after)?;
            let value = value.strip_prefix('\n').unwrap_or(value);
            let value = value.strip_suffix('\n').unwrap_or(value);
            arguments.insert(argument, plain_value(value));
        }
        (!name.is_empty()).then_some(ToolCall { name, arguments })
    }
}

/// A value between tags: JSON, unless it is a text.
fn plain_value(text: &str) -> Json {
    match Json::parse(text) {
        Ok(Json::String(_)) | Err(_) => Json::String(text.to_owned()),
        Ok(value) => value,
    }
}

fn json_calls(cursor: &mut Cursor, name: &str, arguments: &str) -> Option<Vec<ToolCall>> {
    let mut calls = Vec::new();
    loop {
        cursor.skip_spaces();
        let (object, length) = object(cursor.rest())?;
        let called = object.get(name)?.as_str()?.to_owned();
        let arguments = match object.get(arguments) {
            Some(value) => self::arguments(value)?,
            None => Object::new(),
        };
        calls.push(ToolCall { name: called, arguments });
        cursor.at += length;
        if !cursor.skip(",") {
            return Some(calls);
        }
    }
}

/// Arguments as an object, or as the text of one.
fn arguments(value: &Json) -> Option<Object> {
    match value {
        Json::Object(arguments) => Some(arguments.clone()),
        Json::String(text) => Json::parse(text).ok()?.as_object().cloned(),
        _ => None,
    }
}

/// The object at the beginning of a text, and its length.
fn object(text: &str) -> Option<(Object, usize)> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
    values.next()?.ok()?;
    let length = values.byte_offset();
    let object = Json::parse(&text[..length]).ok()?.as_object()?.clone();
    Some((object, length))
}

fn common_start<'t>(one: &'t str, other: &str) -> &'t str {
    let same = one.char_indices().zip(other.chars()).take_while(|((_, a), b)| a == b);
    let length = same.last().map_or(0, |((start, a), _)| start + a.len_utf8());
    &one[..length]
}

/// What a template writes of a call within the assistant's message.
fn written_call(template: &ChatTemplate, arguments: &[[&str; 2]]) -> Option<String> {
    let values: Object = arguments
        .iter()
        .map(|[name, value]| ((*name).to_owned(), Json::String((*value).to_owned())))
        .collect();
    let user = json!({ "role": "user", "content": "a" });
    let mut asked = Conversation::new(&Json::from(json!([user])), None).ok()?;
    let before = template.render(&asked, 1, true).ok()?;
    asked.push_assistant(CONTENT, &[ToolCall { name: NAME.to_owned(), arguments: values }]);
    let text = template.render(&asked, 2, false).ok()?;
    let start = match text.find(CONTENT) {
        Some(start) => start + CONTENT.len(),
        None => common_start(&text, &before).len(),
    };
    let closing = super::response::closing(template, &asked);
    Some(text[start..].strip_suffix(closing.as_str()).unwrap_or(&text[start..]).to_owned())
}

/// Reads a text from its beginning. White space before what is looked for is skipped.
struct Cursor<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Cursor<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn skip_spaces(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    /// Whether the text goes on with `expected`, which is then read.
    fn skip(&mut self, expected: &str) -> bool {
        let rest = self.rest().trim_start();
        if expected.is_empty() || !rest.starts_with(expected) {
            return expected.is_empty();
        }
        self.skip_spaces();
        self.at += expected.len();
        true
    }

    /// The text up to `end`, which is read too.
    fn until(&mut self, end: &str) -> Option<&'t str> {
        let (found, _) = self.rest().split_once(end)?;
        self.at += found.len() + end.len();
        Some(found)
    }

    /// The text up to the end of the line or up to `end`, which is not read.
    fn until_line_or(&mut self, end: &str) -> &'t str {
        let rest = self.rest();
        let length = [rest.find('\n'), rest.find(end)].into_iter().flatten().min().unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }
}
