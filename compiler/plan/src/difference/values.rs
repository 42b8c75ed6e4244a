//! Settings as JSON values, compared field by field.

use mopd_experiment::formula::text;
use serde_json::Value;

use super::SettingChange;

/// The longest value that is written whole, in characters.
const LONGEST: usize = 60;

/// Groups of settings that exist in the plan and not in the language. They are not part of names.
const SILENT: &[&str] = &["rollout", "length", "trainable", "execution", "optimizer", "evaluation", "merge"];

/// The differences of two values, each named by its path.
pub fn changes(before: &Value, after: &Value) -> Vec<SettingChange> {
    let mut found = Vec::new();
    collect(Some(before), Some(after), &mut Vec::new(), &mut found);
    found
}

fn collect(
    before: Option<&Value>,
    after: Option<&Value>,
    path: &mut Vec<String>,
    found: &mut Vec<SettingChange>,
) {
    if before == after {
        return;
    }
    match (before, after) {
        // Enums have a tag, which is a text. If the tags differ, fields are not compared.
        (Some(Value::Object(old)), Some(Value::Object(new))) if same_alternative(old, new) => {
            let both = old.keys().chain(new.keys().filter(|key| !old.contains_key(*key)));
            for key in both {
                path.push(key.clone());
                collect(old.get(key), new.get(key), path, found);
                path.pop();
            }
        }
        _ => found.push(SettingChange {
            what: name(path),
            before: before.and_then(one_line),
            after: after.and_then(one_line),
        }),
    }
}

/// The names of the tags of the plan's enums.
const TAGS: &[&str] = &["kind", "stage", "from", "trains", "method", "schedule", "source", "steps", "epochs"];

fn same_alternative(old: &serde_json::Map<String, Value>, new: &serde_json::Map<String, Value>) -> bool {
    TAGS.iter().all(|tag| match (old.get(*tag), new.get(*tag)) {
        (Some(Value::String(old)), Some(Value::String(new))) => old == new,
        (old, new) => old.is_some() == new.is_some(),
    })
}

pub fn name(path: &[String]) -> String {
    let said: Vec<&str> = path.iter().map(String::as_str).filter(|part| !SILENT.contains(part)).collect();
    let said = if said.is_empty() { path.iter().map(String::as_str).collect() } else { said };
    match said.is_empty() {
        true => "kind".to_owned(),
        false => said.join("."),
    }
}

/// The numbers, truth values and texts in a value, with their paths; lists as texts.
pub fn leaves(value: &Value) -> Vec<(Vec<String>, Value)> {
    match value {
        Value::Null => Vec::new(),
        Value::Array(_) => plain(value).map(|text| (Vec::new(), Value::String(text))).into_iter().collect(),
        Value::Object(fields) => {
            let below = |(name, value): (&String, &Value)| {
                let found = leaves(value).into_iter();
                let name = name.clone();
                found.map(move |(path, leaf)| ([vec![name.clone()], path].concat(), leaf))
            };
            fields.iter().flat_map(below).collect()
        }
        single => vec![(Vec::new(), single.clone())],
    }
}

/// A value on one line; `None` for null.
fn one_line(value: &Value) -> Option<String> {
    let text = plain(value)?;
    Some(match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    })
}

fn plain(value: &Value) -> Option<String> {
    let listed = |parts: Vec<String>| if parts.is_empty() { None } else { Some(parts.join(", ")) };
    match value {
        Value::Null => None,
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Number(number) => {
            Some(number.as_f64().filter(|_| number.is_f64()).map_or(number.to_string(), text::number))
        }
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => listed(items.iter().filter_map(plain).collect()),
        Value::Object(fields) => listed(
            fields
                .iter()
                .filter_map(|(key, value)| {
                    let value = plain(value)?;
                    Some(if TAGS[..5].contains(&key.as_str()) { value } else { format!("{key} {value}") })
                })
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(before: Value, after: Value) -> Vec<String> {
        changes(&before, &after).iter().map(SettingChange::to_string).collect()
    }

    #[test]
    fn fields_are_named_by_their_path() {
        let before = json!({
            "length": { "steps": 160 },
            "reward": { "kind": "numeric", "tolerance": 0.5 },
            "ema": null,
        });
        let after = json!({
            "length": { "steps": 200 },
            "reward": { "kind": "numeric", "tolerance": 1e-6 },
            "ema": 0.99,
        });
        assert_eq!(
            said(before.clone(), after),
            ["ema none -> 0.99", "steps 160 -> 200", "reward.tolerance 0.5 -> 1e-6"]
        );
        assert!(said(before.clone(), before).is_empty());
    }

    #[test]
    fn leaves_are_single_values() {
        let value = json!({ "length": { "steps": 160 }, "ema": null, "parts": ["a", "b"], "shuffle": false });
        let leaves: Vec<_> = leaves(&value).into_iter().map(|(path, leaf)| (name(&path), leaf)).collect();
        let expected = [("steps", json!(160)), ("parts", json!("a, b")), ("shuffle", json!(false))];
        assert_eq!(leaves, expected.map(|(name, leaf)| (name.to_owned(), leaf)));
    }

    #[test]
    fn another_alternative_is_said_as_a_whole() {
        let before = json!({ "reward": { "kind": "exact_match", "field": "answer" } });
        let after = json!({ "reward": { "kind": "numeric", "field": "answer", "tolerance": 0.0 } });
        assert_eq!(
            said(before, after),
            ["reward field answer, exact_match -> field answer, numeric, tolerance 0"]
        );
        assert_eq!(
            said(json!({ "length": { "steps": 5 } }), json!({ "length": { "epochs": 2 } })),
            ["length steps 5 -> epochs 2"]
        );
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        let before = json!({ "system": "ä".repeat(100) });
        let [change] = &changes(&before, &json!({ "system": null }))[..] else { panic!("one change") };
        assert_eq!(change.before.as_ref().map(|text| text.chars().count()), Some(LONGEST + 3));
        assert_eq!(change.after, None);
    }
}
