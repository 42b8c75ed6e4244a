//! Every setting of a run by name, for tables of runs and for trackers.

use mopd_plan::Plan;
use mopd_plan::difference::settings;
use serde_json::{Map, Value};

/// The settings of the plan, then the values that were set from outside, with `--set` or by a sweep. What is
/// written as a number or a truth value is one.
pub fn run_settings<'a>(
    plan: &Plan,
    set: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Map<String, Value> {
    let set = set.into_iter().map(|(name, text)| (name.clone(), Value::String(text.clone())));
    settings(plan).into_iter().chain(set).map(|(name, value)| (name, parsed(value))).collect()
}

fn parsed(value: Value) -> Value {
    let read = value.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
    read.filter(|read| read.is_number() || read.is_boolean()).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_texts_are_numbers() {
        let read =
            ["1e-3", "7", "true", "null", "1e-3 -> 0", "[1]", ""].map(|text| parsed(Value::from(text)));
        let expected: Value = serde_json::json!([1e-3, 7, true, "null", "1e-3 -> 0", "[1]", ""]);
        assert_eq!(Value::from(read.to_vec()), expected);
    }
}
