//! Typed access to a JSON object, with errors that name the key.

use serde_json::{Map, Value};

#[derive(Clone, Copy)]
pub(super) struct ConfigKeys<'a>(&'a Map<String, Value>);

impl<'a> ConfigKeys<'a> {
    pub fn new(json: &'a Value) -> Result<ConfigKeys<'a>, String> {
        json.as_object().map(ConfigKeys).ok_or_else(|| "not a JSON object".to_owned())
    }

    pub fn of(keys: &'a Map<String, Value>) -> ConfigKeys<'a> {
        ConfigKeys(keys)
    }

    pub fn to_map(self) -> Map<String, Value> {
        self.0.clone()
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The value unless it is absent or null.
    pub fn present(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is missing. A key with the value null is not.
    pub fn absent(&self, key: &str) -> bool {
        !self.0.contains_key(key)
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        take: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, String> {
        match self.present(key) {
            None => Ok(None),
            Some(value) => take(value)
                .map(Some)
                .ok_or_else(|| format!("`{key}` must be {expected}, not {}", shortened(&value.to_string()))),
        }
    }

    pub fn size(&self, key: &str) -> Result<Option<usize>, String> {
        self.typed(key, "a whole number from 0", |value| {
            value.as_u64().and_then(|number| usize::try_from(number).ok())
        })
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>, String> {
        self.typed(key, "a number", |value| value.as_f64().filter(|number| number.is_finite()))
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>, String> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>, String> {
        self.typed(key, "a string", Value::as_str)
    }

    pub fn array(&self, key: &str) -> Result<Option<&'a [Value]>, String> {
        self.typed(key, "a list", |value| value.as_array().map(Vec::as_slice))
    }

    /// A list with one element per layer.
    pub fn list(&self, key: &str, layers: usize) -> Result<Option<&'a [Value]>, String> {
        match self.array(key)? {
            // transformers reads by index and accepts a longer list.
            Some(list) if list.len() < layers => {
                Err(format!("`{key}` has {} elements, but there are {layers} layers", list.len()))
            }
            list => Ok(list.map(|list| &list[..layers])),
        }
    }

    /// For each layer, whether `layer_types` has the first of two kinds.
    pub fn layer_types(
        &self,
        layers: usize,
        [first, second]: [&str; 2],
    ) -> Result<Option<Vec<bool>>, String> {
        let is_first = |kind: &Value| match kind.as_str() {
            Some(kind) if kind == first => Ok(true),
            Some(kind) if kind == second => Ok(false),
            _ => Err(format!("`layer_types` has {kind}; supported are `{first}` and `{second}`")),
        };
        let types = self.list("layer_types", layers)?;
        types.map(|types| types.iter().map(is_first).collect()).transpose()
    }

    pub fn nested(&self, key: &str) -> Result<ConfigKeys<'a>, String> {
        let nested = self.typed(key, "an object", Value::as_object)?;
        nested.map(ConfigKeys).ok_or_else(|| format!("`{key}` is missing"))
    }
}

fn shortened(text: &str) -> String {
    let mut characters = text.chars();
    let start: String = characters.by_ref().take(60).collect();
    if characters.next().is_some() { format!("{start}...") } else { start }
}
