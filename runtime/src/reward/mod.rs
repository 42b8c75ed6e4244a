//! Verifiers, which judge completions. A reward is a number in [0, 1], unless the experiment sets `range:
//! any` for a program.

mod command;
mod error;
mod http;
mod json_schema;
mod parts;
mod rules;
mod unit_tests;
mod unmatched;

pub use command::OpenedFile;
pub use error::RewardError;

use std::path::Path;

use mopd_plan::{self as plan, RewardRange};
use serde::Serialize;
use serde_json::{Map, Value};

use self::command::CommandReward;
use self::http::Http;
use self::json_schema::JsonSchema;
use self::parts::{Part, Parts};
use self::rules::{ExactMatchRule, NoReward, NumericRule, RegexRule};
use self::unit_tests::UnitTests;
use crate::control::Control;
use crate::data::FieldKind;

/// One completion to judge.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RewardInput<'a> {
    pub prompt: &'a str,
    pub completion: &'a str,
    /// The data line that the prompt came from: [`crate::data::Dataset::object`].
    pub record: &'a Map<String, Value>,
}

/// A verifier's judgement of a completion.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// A number in the range of its verifier.
    pub reward: f64,
    /// Feedback as text; commands need not give any.
    pub feedback: Option<String>,
    /// For several verifiers: the reward of each, by its name.
    pub parts: Vec<(String, f64)>,
}

/// The verifier of one domain.
///
/// It may be called from several threads at once. Built-in rewards are pure; tested code runs in a separate
/// process per completion. A command has one process per thread that is inside [`Verifier::judge`] at the
/// same time, started when first needed and kept. A Python verifier works on one batch at a time, so that
/// parallel stages would wait for each other with a single process behind a lock; and if several threads
/// wrote to one process, a crash could not be attributed to a batch.
pub struct Verifier(Box<dyn Judge>);

/// What a kind of reward does, in a file of its own.
trait Judge: Send + Sync {
    /// As [`Verifier::judge`].
    fn judge(&self, answers: &[RewardInput], control: &Control) -> Result<Vec<Judgement>, RewardError>;

    /// The verifiers that it combines.
    fn parts(&self) -> &[Part] {
        &[]
    }

    fn take_warnings(&self) -> Vec<String> {
        self.parts().iter().flat_map(|part| part.verifier.take_warnings()).collect()
    }

    fn take_opened(&self) -> Vec<OpenedFile> {
        self.parts().iter().flat_map(|part| part.verifier.take_opened()).collect()
    }

    /// Whether it judges nothing.
    fn is_none(&self) -> bool {
        false
    }

    fn file_hash(&self, path: &str) -> Option<&str> {
        self.parts().iter().find_map(|part| part.verifier.file_hash(path))
    }
}

impl Verifier {
    /// `base` is the folder of the source file, in which commands run. Starts no process.
    pub fn new(reward: &plan::Reward, base: &Path) -> Result<Verifier, RewardError> {
        Ok(Verifier(match reward {
            plan::Reward::ExactMatch { field } => Box::new(ExactMatchRule { field: field.clone() }),
            plan::Reward::Numeric { field, tolerance } => Box::new(NumericRule::new(field, *tolerance)),
            plan::Reward::Regex { pattern, field } => Box::new(RegexRule::new(pattern, field)?),
            plan::Reward::Command { command, time_limit_seconds, batch, depends: _, range } => {
                Box::new(CommandReward::new(command, *time_limit_seconds, *batch, *range, base)?)
            }
            plan::Reward::Python { file, function, time_limit_seconds, batch, depends: _, range } => {
                let limit = *time_limit_seconds;
                Box::new(CommandReward::function(file, function, limit, *batch, *range, base)?)
            }
            plan::Reward::JsonSchema { schema } => Box::new(JsonSchema::new(schema, base)?),
            plan::Reward::UnitTests { field, time_limit_seconds } => {
                Box::new(UnitTests::new(field, *time_limit_seconds)?)
            }
            plan::Reward::Http { url, time_limit_seconds, batch, version: _, range } => {
                Box::new(Http::new(url, *time_limit_seconds, *batch, *range)?)
            }
            plan::Reward::Parts { parts } => Box::new(Parts::new(parts, base)?),
            plan::Reward::None => Box::new(NoReward),
        }))
    }

    /// Whether the domain has no reward. Then nothing asks for one.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// The names of its parts, if it combines several verifiers.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.parts().iter().map(|part| part.name.as_str())
    }

    /// The files that its functions of Python opened since the last call.
    pub fn take_opened(&self) -> Vec<OpenedFile> {
        self.0.take_opened()
    }

    /// The hash of what it reads in this file, unless that is the hash of the file's bytes.
    pub fn file_hash(&self, path: &str) -> Option<&str> {
        self.0.file_hash(path)
    }

    /// Judges answers, in order. The records must have the fields of
    /// [`mopd_data::reads::needed`]. Blocks until all
    /// are judged, or the job stops; a command takes at most twice its time limit per batch of its own
    /// size.
    pub fn judge(&self, answers: &[RewardInput], control: &Control) -> Result<Vec<Judgement>, RewardError> {
        self.0.judge(answers, control)
    }

    /// Warnings since the last call, such as restarts of commands.
    pub fn take_warnings(&self) -> Vec<String> {
        self.0.take_warnings()
    }
}

/// Parses the reply of a program or a server.
fn verdict(reply: &Value, range: RewardRange) -> Result<Judgement, String> {
    let reward = reply.get("reward").ok_or("no `reward`")?;
    let reward = reward.as_f64().filter(|reward| range.has(*reward)).ok_or(match range {
        RewardRange::Unit => "a `reward` that is not a number from 0 to 1",
        RewardRange::Any => "a `reward` that is not a number from -1e15 to 1e15",
    })?;
    let feedback = match reply.get("feedback") {
        None | Some(Value::Null) => None,
        Some(Value::String(words)) => Some(words.clone()),
        Some(_) => return Err("a `feedback` that is not a text".to_owned()),
    };
    Ok(Judgement { reward, feedback, parts: Vec::new() })
}

impl Judgement {
    /// The judgement of a rule.
    fn from_verdict(accepted: bool) -> Judgement {
        let words = if accepted { "correct" } else { "wrong" };
        let feedback = Some(words.to_owned());
        Judgement { reward: f64::from(u8::from(accepted)), feedback, parts: Vec::new() }
    }
}

fn text<'a>(answer: &RewardInput<'a>, field: &str) -> Result<std::borrow::Cow<'a, str>, RewardError> {
    match answer.record.get(field) {
        Some(Value::String(text)) => Ok(text.into()),
        Some(Value::Number(number)) => Ok(number.to_string().into()),
        _ => Err(missing(answer, field, FieldKind::Text)),
    }
}

fn missing(answer: &RewardInput, field: &str, kind: FieldKind) -> RewardError {
    RewardError::Field { field: field.to_owned(), kind, prompt: answer.prompt.to_owned() }
}

#[cfg(test)]
mod tests;
