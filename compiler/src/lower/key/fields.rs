//! The fields of a training loop in a key.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

/// The order of the fields in the text of a key, which the hash depends on. Others follow, by name.
const ORDER: &[&str] = &[
    "recipe",
    "start",
    "mixture",
    "sees",
    "teachers",
    "references",
    "scorers",
    "panels",
    "feedback",
    "prefixes",
    "programs",
    "passes",
    "mini_batches",
    "filter",
    "curriculum",
    "shares",
    "objective",
    "own_data",
    "trainable",
    "optimizer",
    "private",
    "length",
    "learning_rate",
    "ema",
    "guards",
    "extrapolation",
    "validation",
    "alignment",
    "micro_batch",
    "checkpointing",
];

/// A JSON object, with the text of each field.
#[derive(Default)]
pub(super) struct KeyFields(BTreeMap<String, Box<RawValue>>);

impl KeyFields {
    pub fn add(&mut self, name: &str, value: &impl Serialize) {
        self.0.insert(name.to_owned(), to_raw_value(value).expect("a meaning is plain data"));
    }

    /// A field that is left out where there is no value.
    pub fn add_some(&mut self, name: &str, value: Option<impl Serialize>) {
        value.iter().for_each(|value| self.add(name, value));
    }

    /// A field that is left out where the list is empty.
    pub fn add_list(&mut self, name: &str, values: impl Iterator<Item = impl Serialize>) {
        let values: Vec<_> = values.collect();
        self.add_some(name, Some(values).filter(|values| !values.is_empty()));
    }

    /// Each field of a struct.
    pub fn add_fields(&mut self, fields: &impl Serialize) {
        let text = serde_json::to_string(fields).expect("a meaning is plain data");
        let fields: BTreeMap<String, Box<RawValue>> =
            serde_json::from_str(&text).expect("a struct is written as an object");
        self.0.extend(fields);
    }

    /// Another value for a field, or none.
    pub fn replace(&mut self, name: &str, value: Option<impl Serialize>) {
        self.remove(name);
        self.add_some(name, value);
    }

    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }
}

impl Serialize for KeyFields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rank = |name: &str| ORDER.iter().position(|known| *known == name).unwrap_or(ORDER.len());
        let mut fields: Vec<_> = self.0.iter().collect();
        fields.sort_by_key(|(name, _)| rank(name));
        serializer.collect_map(fields)
    }
}
