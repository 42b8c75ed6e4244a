//! JSON whose objects keep the order of their members: models are trained on schemas of functions in the
//! order in which people write them, and templates preserve that order.

use std::cell::Cell;
use std::fmt;
use std::str::FromStr;

use bigdecimal::BigDecimal;
use indexmap::IndexMap;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::Number;

use crate::quote::quote;

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Json {
    Null,
    Bool(bool),
    Number(JsonNumber),
    String(String),
    Array(Vec<Json>),
    Object(Object),
}

/// Members in order. Of two with the same name, the last value counts, at the position of the first.
pub type Object = IndexMap<String, Json>;

/// A number. Displays as it was written: `1.50` is 1.5, and an integer may have more digits than a double.
/// Serialises as the double or the 64-bit integer that other readers of JSON make of it.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonNumber {
    value: Number,
    /// Where it differs from the value's usual text.
    written: Option<Box<str>>,
}

impl JsonNumber {
    /// Whether its text differs from that of its value.
    pub fn is_rewritten(&self) -> bool {
        self.written.is_some()
    }

    /// Whether its value is the decimal number that is written.
    pub fn is_exact(&self) -> bool {
        // Comparing writes out all places, of which doubles need 1100.
        let is_short = |number: &BigDecimal| number.fractional_digit_count().unsigned_abs() <= 4096;
        let decimal = |text: &str| BigDecimal::from_str(text).ok().filter(is_short);
        let Some(written) = &self.written else { return true };
        decimal(written).is_some_and(|written| decimal(&self.value.to_string()) == Some(written))
    }

    /// Whether it is an integer that 64 bits do not hold, so that its value is another number.
    fn is_too_long(&self) -> bool {
        self.written.as_ref().is_some_and(|written| is_long_integer(written))
    }
}

impl From<Number> for JsonNumber {
    fn from(value: Number) -> JsonNumber {
        JsonNumber { value, written: None }
    }
}

impl fmt::Display for JsonNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.written {
            Some(written) => f.write_str(written),
            None => self.value.fmt(f),
        }
    }
}

impl Serialize for JsonNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl Json {
    pub fn parse(text: &str) -> Result<Json, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let numbers = NumberTexts { text, at: Cell::new(0), passed: Cell::new(0) };
        let json = JsonVisitor(Some(&numbers)).deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(json)
    }

    /// The first number that loses digits where other programs read it.
    pub fn long_number(&self) -> Option<&JsonNumber> {
        match self {
            Json::Number(number) => Some(number).filter(|number| number.is_too_long()),
            Json::Array(items) => items.iter().find_map(Json::long_number),
            Json::Object(members) => members.values().find_map(Json::long_number),
            Json::Null | Json::Bool(_) | Json::String(_) => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Json::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_array(&self) -> Option<&[Json]> {
        match self {
            Json::Array(list) => Some(list),
            _ => None,
        }
    }

    pub fn as_object(&self) -> Option<&Object> {
        match self {
            Json::Object(object) => Some(object),
            _ => None,
        }
    }

    pub fn is_null(&self) -> bool {
        *self == Json::Null
    }
}

/// Displays on one line.
impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl From<serde_json::Value> for Json {
    fn from(value: serde_json::Value) -> Json {
        match value {
            serde_json::Value::Null => Json::Null,
            serde_json::Value::Bool(value) => Json::Bool(value),
            serde_json::Value::Number(number) => Json::Number(number.into()),
            serde_json::Value::String(text) => Json::String(text),
            serde_json::Value::Array(items) => Json::Array(items.into_iter().map(Json::from).collect()),
            serde_json::Value::Object(members) => {
                Json::Object(members.into_iter().map(|(name, value)| (name, Json::from(value))).collect())
            }
        }
    }
}

/// The numbers of a JSON text as they are written, in their order.
struct NumberTexts<'t> {
    text: &'t str,
    /// Behind the last number that was taken.
    at: Cell<usize>,
    /// The numbers since then.
    passed: Cell<usize>,
}

impl<'t> NumberTexts<'t> {
    /// Passes a number whose text is not needed.
    fn pass(&self) {
        self.passed.set(self.passed.get() + 1);
    }

    /// The next number. The text is valid JSON up to its end.
    fn next(&self) -> &'t str {
        let bytes = self.text.as_bytes();
        let mut at = self.at.get();
        for _ in 0..=self.passed.take() {
            let mut quoted = false;
            while at < bytes.len() && (quoted || !matches!(bytes[at], b'-' | b'0'..=b'9')) {
                quoted ^= bytes[at] == b'"';
                // What a backslash escapes is passed with it.
                at += 1 + usize::from(quoted && bytes[at] == b'\\');
            }
            let end = |byte: &u8| !matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
            let rest = bytes.get(at..).unwrap_or_default();
            let length = rest.iter().position(end).unwrap_or(rest.len());
            self.at.set(at);
            at += length;
        }
        let start = self.at.replace(at);
        self.text.get(start..at).unwrap_or_default()
    }
}

/// Whether a number is in integer notation and not in the range of 64-bit integers.
fn is_long_integer(number: &str) -> bool {
    number.trim_start_matches('-').bytes().all(|byte| byte.is_ascii_digit())
        && number.parse::<i64>().is_err()
        && number.parse::<u64>().is_err()
}

/// The first integer of a valid JSON text that 64 bits do not hold.
pub fn long_integer(text: &str) -> Option<String> {
    Some(Json::parse(text).ok()?.long_number()?.to_string())
}

/// With the texts of the numbers, if they are to be kept.
#[derive(Clone, Copy)]
struct JsonVisitor<'t>(Option<&'t NumberTexts<'t>>);

impl JsonVisitor<'_> {
    fn integer<E>(self, number: impl Into<Number>) -> Result<Json, E> {
        // Its text is always that of the value.
        self.0.inspect(|texts| texts.pass());
        Ok(Json::Number(JsonNumber::from(number.into())))
    }
}

impl<'de> DeserializeSeed<'de> for JsonVisitor<'_> {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for JsonVisitor<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json, E> {
        self.integer(number)
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
        self.integer(number)
    }

    fn visit_f64<E>(self, number: f64) -> Result<Json, E> {
        let written = self.0.map(NumberTexts::next);
        let Some(value) = Number::from_f64(number) else { return Ok(Json::Null) };
        let written = written.filter(|written| *written != value.to_string()).map(Box::from);
        Ok(Json::Number(JsonNumber { value, written }))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Json, E> {
        Ok(Json::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Json::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let mut object = Object::new();
        while let Some(name) = members.next_key()? {
            object.insert(name, members.next_value_seed(self)?);
        }
        Ok(Json::Object(object))
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(JsonVisitor(None))
    }
}

/// Describes a JSON value for messages: its type, and its value if that is short.
pub fn describe(value: &Json) -> String {
    match value {
        Json::Null => "null".to_owned(),
        Json::Bool(value) => format!("the bool {value}"),
        Json::Number(number) => format!("the number {number}"),
        Json::String(text) => format!("the string {}", quote(text)),
        Json::Array(items) => format!("a list of {}", items.len()),
        Json::Object(_) => "an object".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_objects_keep_member_order() {
        let text = r#"{"z":1,"a":[{"y":null,"b":1.5}],"m":{"k":true,"c":-7},"z2":"\"é\""}"#;
        let json = Json::parse(text).unwrap();
        assert_eq!(json.to_string(), text);
        assert!(json.as_object().unwrap().keys().eq(["z", "a", "m", "z2"]));
        assert_eq!(Json::parse(" 1.5 ").unwrap().to_string(), "1.5");
        assert!(Json::parse("1 2").is_err());
        // Of two members with one name, the last counts at the place of the first.
        assert_eq!(Json::parse(r#"{"a":1,"b":2,"a":3}"#).unwrap().to_string(), r#"{"a":3,"b":2}"#);
    }

    #[test]
    fn numbers_keep_their_text() {
        let text = r#"{"a\\": [1, -2, "3.0 \" 4.0", 1.50, {"5.0": 1e2, "b": -0.10}],
            "c": 123456789012345678901234567890,
            "d": 18446744073709551615, "a": 0.5, "e": 2.50, "e": 1.0e-7}"#;
        let json = Json::parse(text).unwrap();
        fn numbers(json: &Json, found: &mut Vec<String>) {
            match json {
                Json::Number(number) => found.push(number.to_string()),
                Json::Array(items) => items.iter().for_each(|item| numbers(item, found)),
                Json::Object(members) => members.values().for_each(|member| numbers(member, found)),
                _ => {}
            }
        }
        let mut found = Vec::new();
        numbers(&json, &mut found);
        let wanted = [
            "1",
            "-2",
            "1.50",
            "1e2",
            "-0.10",
            "123456789012345678901234567890",
            "18446744073709551615",
            "0.5",
            "1.0e-7",
        ];
        assert_eq!(found, wanted);
        assert_eq!(json.long_number().map(ToString::to_string).as_deref(), Some(wanted[5]));
        assert_eq!(long_integer(r#"[18446744073709551615, -9223372036854775808, 1e30, "1e"]"#), None);
        assert_eq!(long_integer("[-9223372036854775809]").as_deref(), Some("-9223372036854775809"));
        // Other readers get the value.
        assert_eq!(Json::parse("[1.50]").unwrap().to_string(), "[1.5]");
    }
}
