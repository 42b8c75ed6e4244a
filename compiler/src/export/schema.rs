//! The settings that released engines accept, recorded from their packages: names, types and defaults.
//! [`record.py`](schemas/record.py) writes the files.

use std::sync::LazyLock;

use serde_json::{Map, Value};

pub static VERL: LazyLock<Value> = LazyLock::new(|| parsed(include_str!("schemas/verl-0.9.1.json")));
pub static TRL: LazyLock<Value> = LazyLock::new(|| parsed(include_str!("schemas/trl-1.16.0.json")));

pub const TRL_SYNCHRONOUS: &str = "trl.trainer.distillation_config.DistillationConfig";

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).expect("a recorded schema is JSON")
}

/// The fields of a class: name, type, default.
pub fn fields<'a>(schema: &'a Value, class: &str) -> &'a Map<String, Value> {
    schema["classes"][class]["fields"].as_object().expect("the class was recorded")
}

/// A complete configuration of an engine, which starts with its defaults.
pub struct Configuration(pub Value);

impl Configuration {
    /// The defaults of `verl`: those of its files, completed by those of its classes.
    pub fn verl() -> Configuration {
        let mut whole = VERL["defaults"].clone();
        complete(&mut whole);
        Configuration(whole)
    }

    /// The defaults of a class of TRL.
    pub fn trl(class: &str) -> Configuration {
        let known = fields(&TRL, class).iter();
        let defaults = known.map(|(name, field)| (name.clone(), field["default"].clone()));
        Configuration(Value::Object(defaults.collect()))
    }

    /// # Panics
    /// If the engine has no such setting. A misspelt setting would have no effect.
    pub fn set(&mut self, path: &str, value: impl Into<Value>) {
        let mut at = &mut self.0;
        for part in path.split('.') {
            at = at.get_mut(part).unwrap_or_else(|| panic!("the engine has no setting `{path}`"));
        }
        *at = value.into();
    }

    /// Adds an entry to a table of the configuration that takes any name.
    pub fn insert(&mut self, path: &str, key: &str, value: Value) {
        let mut at = &mut self.0;
        for part in path.split('.') {
            at = at.get_mut(part).unwrap_or_else(|| panic!("the engine has no setting `{path}`"));
        }
        at.as_object_mut().expect("a table").insert(key.to_owned(), value);
    }
}

/// Fills in the defaults of classes where verl's own files have no value. The configuration then means the
/// same with either reader.
fn complete(value: &mut Value) {
    let Some(table) = value.as_object_mut() else { return };
    if let Some(class) = table.get("_target_").and_then(Value::as_str)
        && let Some(fields) = VERL["classes"][class]["fields"].as_object()
    {
        for (name, field) in fields {
            // These fields are filled in by verl while it runs. A default that was not recorded is an object
            // that the class makes itself.
            let own = ["global_batch_info", "loss_settings"].contains(&name.as_str());
            if let Some(default) = field.get("default").filter(|default| !default.is_null() && !own)
                && !table.contains_key(name)
            {
                table.insert(name.clone(), default.clone());
            }
        }
    }
    table.values_mut().for_each(complete);
}

/// YAML that all readers parse alike: texts are quoted, and numbers have a decimal point before the
/// exponent.
pub fn yaml(value: &Value) -> String {
    let mut text = String::new();
    write(value, 0, &mut text);
    text
}

fn write(value: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                text.push_str(&format!("{indent}{}:", yaml_key(key)));
                below(value, depth, text);
            }
        }
        Value::Array(items) => {
            for item in items {
                text.push_str(&format!("{indent}-"));
                below(item, depth, text);
            }
        }
        scalar => text.push_str(&format!("{indent}{}\n", yaml_scalar(scalar))),
    }
}

fn below(value: &Value, depth: usize, text: &mut String) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            text.push('\n');
            write(value, depth + 1, text);
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            write(value, depth + 1, text);
        }
        scalar => text.push_str(&format!(" {}\n", yaml_scalar(scalar))),
    }
}

/// A key, quoted where YAML 1.1 could read it as something else: `n` and `y` are booleans there.
fn yaml_key(key: &str) -> String {
    let plain = key.len() > 1 && key.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    let word = !["on", "off", "yes", "no", "true", "false", "null"].contains(&key.to_lowercase().as_str());
    if plain && word && !key.starts_with(|first: char| first.is_ascii_digit()) {
        key.to_owned()
    } else {
        Value::String(key.to_owned()).to_string()
    }
}

fn yaml_scalar(value: &Value) -> String {
    match value {
        Value::Number(number) => match number.to_string().split_once('e') {
            Some((digits, exponent)) => {
                let digits = if digits.contains('.') { digits.to_owned() } else { format!("{digits}.0") };
                let sign = if exponent.starts_with(['-', '+']) { "" } else { "+" };
                format!("{digits}e{sign}{exponent}")
            }
            None => number.to_string(),
        },
        Value::Object(_) => "{}".to_owned(),
        Value::Array(_) => "[]".to_owned(),
        other => other.to_string(),
    }
}
