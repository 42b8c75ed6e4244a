//! Verifiers: how a completion is judged. A reward is a number in [0, 1].

mod command;
mod error;

pub use error::RewardError;

use std::path::Path;

use mopd_compiler::plan;
use regex::Regex;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::control::Control;
use crate::data::{self, Field, FieldKind};

/// One completion to judge.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RewardInput<'a> {
    pub prompt: &'a str,
    pub completion: &'a str,
    /// The data line that the prompt came from: [`crate::data::Dataset::object`].
    pub record: &'a Map<String, Value>,
}

/// What a verifier says of a completion.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// In [0, 1].
    pub reward: f64,
    /// In words; a command need not say any.
    pub feedback: Option<String>,
}

/// The verifier of one domain.
///
/// It may be called from several threads at once. Built-in rewards are pure. A command has one process per
/// thread that is inside [`Verifier::judge`] at the same time, started when first needed and kept: a verifier
/// written in Python works on one batch at a time, so one process behind a lock would make stages that run
/// side by side wait for each other, and a process that several threads wrote to could not say whose batch it
/// crashed on.
pub struct Verifier {
    judge: Judge,
}

enum Judge {
    Rule(Rule),
    Command(command::Command),
}

enum Rule {
    ExactMatch { field: String },
    Numeric { field: String, tolerance: f64 },
    Regex { pattern: Regex, field: String },
}

/// The group of a pattern that must equal the data field.
const GROUP: &str = "answer";

impl Verifier {
    /// `base` is the folder that a command runs in: the source file's. No process is started yet.
    pub fn new(reward: &plan::Reward, base: &Path) -> Result<Verifier, RewardError> {
        let rule = match reward {
            plan::Reward::ExactMatch { field } => Rule::ExactMatch { field: field.clone() },
            plan::Reward::Numeric { field, tolerance } => {
                Rule::Numeric { field: field.clone(), tolerance: *tolerance }
            }
            plan::Reward::Regex { pattern, field } => {
                let compiled = Regex::new(pattern).map_err(|error| RewardError::Pattern {
                    pattern: pattern.clone(),
                    cause: error.to_string(),
                })?;
                Rule::Regex { pattern: compiled, field: field.clone() }
            }
            plan::Reward::Command { command, time_limit_seconds, batch, depends: _ } => {
                let command = command::Command::new(command, *time_limit_seconds, *batch, base)?;
                return Ok(Verifier { judge: Judge::Command(command) });
            }
        };
        Ok(Verifier { judge: Judge::Rule(rule) })
    }

    /// The field that every line of the domain's data must have, for [`crate::data::Dataset::read`].
    pub fn needed(&self) -> Option<Field<'_>> {
        let Judge::Rule(rule) = &self.judge else { return None };
        match rule {
            Rule::ExactMatch { field } => Some(Field::text(field)),
            Rule::Numeric { field, .. } => Some(Field::number(field)),
            Rule::Regex { pattern, field } => has_group(pattern).then_some(Field::text(field)),
        }
    }

    /// Whether it reads whole rows: a command gets them.
    pub fn reads_rows(&self) -> bool {
        matches!(self.judge, Judge::Command(_))
    }

    /// One verdict per answer, in order. The records must have the field that
    /// [`Verifier::needed`] names. Blocks until all are judged, or until the job is to stop; a command
    /// takes at most twice its time limit per batch of its own size.
    pub fn judge(&self, answers: &[RewardInput], control: &Control) -> Result<Vec<Verdict>, RewardError> {
        match &self.judge {
            Judge::Rule(rule) => {
                answers.iter().map(|answer| Ok(Verdict::of(rule.accepts(answer)?))).collect()
            }
            Judge::Command(command) => command.judge(answers, control),
        }
    }

    /// What happened since the last call that the author should know though the run goes on: restarts of the
    /// command.
    pub fn take_warnings(&self) -> Vec<String> {
        match &self.judge {
            Judge::Rule(_) => Vec::new(),
            Judge::Command(command) => command.take_warnings(),
        }
    }
}

impl Verdict {
    /// Of a rule.
    fn of(accepted: bool) -> Verdict {
        let words = if accepted { "correct" } else { "wrong" };
        Verdict { reward: f64::from(u8::from(accepted)), feedback: Some(words.to_owned()) }
    }
}

impl Rule {
    fn accepts(&self, answer: &RewardInput) -> Result<bool, RewardError> {
        let completion = answer.completion;
        Ok(match self {
            Rule::ExactMatch { field } => completion == text(answer, field)?,
            Rule::Numeric { field, tolerance } => {
                let target = text(answer, field)?;
                let target =
                    data::number(&target).ok_or_else(|| missing(answer, field, FieldKind::Number))?;
                data::number(completion).is_some_and(|number| (number - target).abs() <= *tolerance)
            }
            Rule::Regex { pattern, field } if has_group(pattern) => {
                let target = text(answer, field)?;
                let found = pattern.captures(completion).and_then(|found| found.name(GROUP));
                found.is_some_and(|group| group.as_str() == target)
            }
            Rule::Regex { pattern, .. } => pattern.is_match(completion),
        })
    }
}

fn has_group(pattern: &Regex) -> bool {
    pattern.capture_names().flatten().any(|name| name == GROUP)
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
