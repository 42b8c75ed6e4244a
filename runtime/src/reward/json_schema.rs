//! Rewards by a JSON Schema in a file.

use std::error::Error;
use std::path::Path;

use jsonschema::{PatternOptions, Retrieve, Uri, Validator};
use mopd_plan::keys;
use mopd_store::files::reason;
use mopd_store::regular;
use serde_json::Value;

use super::{Judge, Judgement, RewardError, RewardInput};
use crate::control::Control;
use crate::tokenizer::json::long_integer;

/// Largest file of a schema, in bytes.
const LARGEST: u64 = 16 << 20;
/// Increased whenever the same value has another hash.
const VERSION: u32 = 1;
/// Default URI of the schema.
const ADDRESS: &str = "schema:///";
/// Most characters of feedback.
const MAX_EXCERPT: usize = 300;

pub(super) struct JsonSchema {
    validator: Validator,
    /// As the author wrote it.
    path: String,
    /// Of the schema's value: neither white space nor the order of keys changes what it accepts.
    hash: String,
}

/// A retriever that fails: a schema must be one file, because only its content is part of keys.
struct RefusingRetriever;

impl Retrieve for RefusingRetriever {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn Error + Send + Sync>> {
        let named = uri.as_str().trim_start_matches(ADDRESS);
        Err(format!(
            "`$ref` to another file or address ({named}) is not supported: copy its target into `$defs`"
        )
        .into())
    }
}

impl JsonSchema {
    /// `base` is the folder of the source file.
    pub fn new(path: &str, base: &Path) -> Result<JsonSchema, RewardError> {
        let wrong = |cause: String| RewardError::Described {
            message: format!("{path} is not a JSON Schema that can be used: {cause}"),
            help:
                "it must be a JSON Schema in one file; look-around and back-references of patterns are not \
                   supported"
                    .to_owned(),
        };
        let text = regular::read(&base.join(path), LARGEST).map_err(|error| RewardError::Described {
            message: format!("the JSON Schema {path} can't be read: {}", reason(&error)),
            help: "paths are relative to the folder of the experiment's file".to_owned(),
        })?;
        let schema: Value = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        // Compared as doubles, two such integers may be equal.
        if let Some(number) = std::str::from_utf8(&text).ok().and_then(long_integer) {
            return Err(wrong(format!(
                "the integer {number} has more than 64 bits, so it cannot be compared"
            )));
        }
        let options = jsonschema::options()
            // Matching takes time linear in the text, as in the reward `regex`.
            .with_pattern_options(PatternOptions::regex())
            // With this base, references to other files reach the retriever.
            .with_base_uri(ADDRESS)
            .with_retriever(RefusingRetriever);
        let validator = options.build(&schema).map_err(|error| {
            let mut causes = vec![error.to_string()];
            let mut source = error.source();
            while let Some(deeper) = source {
                if !causes.iter().any(|cause| cause.contains(&deeper.to_string())) {
                    causes.push(deeper.to_string());
                }
                source = deeper.source();
            }
            let cause = causes.join(": ");
            match error.instance_path().as_str() {
                "" => wrong(cause),
                place => wrong(format!("{cause}, at `{place}`")),
            }
        })?;
        let hash = keys::hash("mopd schema", VERSION, &schema).to_hex().to_string();
        Ok(JsonSchema { validator, path: path.to_owned(), hash })
    }

    fn verdict(&self, completion: &str) -> Judgement {
        let words = match serde_json::from_str::<Value>(json_of(completion)) {
            Err(error) => Some(format!("not JSON: {error}")),
            Ok(value) => self.validator.validate(&value).err().map(|error| {
                let place = error.instance_path().as_str();
                if place.is_empty() { error.to_string() } else { format!("{place}: {error}") }
            }),
        };
        match words {
            None => Judgement::from_verdict(true),
            Some(words) => {
                let words = words.chars().take(MAX_EXCERPT).collect();
                Judgement { feedback: Some(words), ..Judgement::from_verdict(false) }
            }
        }
    }
}

impl Judge for JsonSchema {
    fn judge(&self, answers: &[RewardInput], _: &Control) -> Result<Vec<Judgement>, RewardError> {
        Ok(answers.iter().map(|answer| self.verdict(answer.completion)).collect())
    }

    fn file_hash(&self, path: &str) -> Option<&str> {
        (self.path == path).then_some(&*self.hash)
    }
}

/// The completion without surrounding white space and without a code fence around the whole.
fn json_of(completion: &str) -> &str {
    let text = completion.trim();
    let fenced = || {
        let (language, inside) = text.strip_prefix("```")?.strip_suffix("```")?.split_once('\n')?;
        matches!(language.trim(), "" | "json").then_some(inside)
    };
    fenced().unwrap_or(text)
}
