//! Verifiers, which judge completions. A reward is a number in [0, 1], unless the experiment sets `range:
//! any` for a program.

mod command;
mod error;
mod http;
mod json_schema;
mod unit_tests;

pub use command::OpenedFile;
pub use error::RewardError;

use std::path::Path;
use std::str::FromStr;

use bigdecimal::BigDecimal;
use mopd_plan::{self as plan, RewardRange};
use regex::Regex;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::control::Control;
use crate::data::{self, FieldKind};

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
pub struct Verifier {
    judge: Judge,
}

enum Judge {
    Rule(Rule),
    Command(command::CommandReward),
    JsonSchema(Box<json_schema::JsonSchema>),
    UnitTests(unit_tests::UnitTests),
    Http(http::Http),
    Parts(Vec<Part>),
}

/// One of several verifiers whose rewards are combined.
struct Part {
    name: String,
    weight: f64,
    verifier: Verifier,
}

enum Rule {
    ExactMatch { field: String },
    Numeric { field: String, tolerance: f64 },
    Regex { pattern: Regex, field: String },
}

impl Verifier {
    /// `base` is the folder of the source file, in which commands run. Starts no process.
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
            plan::Reward::Command { command, time_limit_seconds, batch, depends: _, range } => {
                let command =
                    command::CommandReward::new(command, *time_limit_seconds, *batch, *range, base)?;
                return Ok(Verifier { judge: Judge::Command(command) });
            }
            plan::Reward::Python { file, function, time_limit_seconds, batch, depends: _, range } => {
                let limit = *time_limit_seconds;
                let command = command::CommandReward::function(file, function, limit, *batch, *range, base)?;
                return Ok(Verifier { judge: Judge::Command(command) });
            }
            plan::Reward::JsonSchema { schema } => {
                let schema = json_schema::JsonSchema::new(schema, base)?;
                return Ok(Verifier { judge: Judge::JsonSchema(Box::new(schema)) });
            }
            plan::Reward::UnitTests { field, time_limit_seconds } => {
                let tests = unit_tests::UnitTests::new(field, *time_limit_seconds)?;
                return Ok(Verifier { judge: Judge::UnitTests(tests) });
            }
            plan::Reward::Http { url, time_limit_seconds, batch, version: _, range } => {
                let http = http::Http::new(url, *time_limit_seconds, *batch, *range)?;
                return Ok(Verifier { judge: Judge::Http(http) });
            }
            plan::Reward::Parts { parts } => {
                let part = |plan::RewardPart { name, weight, reward }: &plan::RewardPart| {
                    let verifier = Verifier::new(reward, base)?;
                    Ok(Part { name: name.clone(), weight: *weight, verifier })
                };
                let parts = parts.iter().map(part).collect::<Result<_, RewardError>>()?;
                return Ok(Verifier { judge: Judge::Parts(parts) });
            }
        };
        Ok(Verifier { judge: Judge::Rule(rule) })
    }

    /// The names of its parts, if it combines several verifiers.
    pub fn parts(&self) -> Vec<&str> {
        match &self.judge {
            Judge::Parts(parts) => parts.iter().map(|part| part.name.as_str()).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether it calls functions of Python.
    pub fn calls_functions(&self) -> bool {
        match &self.judge {
            Judge::Command(command) => command.is_function(),
            Judge::Parts(parts) => parts.iter().any(|part| part.verifier.calls_functions()),
            Judge::Rule(_) | Judge::JsonSchema(_) | Judge::UnitTests(_) | Judge::Http(_) => false,
        }
    }

    /// The files that its functions of Python opened since the last call.
    pub fn take_opened(&self) -> Vec<OpenedFile> {
        match &self.judge {
            Judge::Command(command) => command.take_opened(),
            Judge::Parts(parts) => parts.iter().flat_map(|part| part.verifier.take_opened()).collect(),
            Judge::Rule(_) | Judge::JsonSchema(_) | Judge::UnitTests(_) | Judge::Http(_) => Vec::new(),
        }
    }

    /// The hash of the schema in this file, if it judges by one.
    pub fn schema_hash(&self, path: &str) -> Option<&str> {
        match &self.judge {
            Judge::JsonSchema(schema) => (schema.path == path).then_some(&*schema.hash),
            Judge::Parts(parts) => parts.iter().find_map(|part| part.verifier.schema_hash(path)),
            Judge::Rule(_) | Judge::Command(_) | Judge::UnitTests(_) | Judge::Http(_) => None,
        }
    }

    /// Judges answers, in order. The records must have the fields of
    /// [`mopd_data::reads::needed`]. Blocks until all
    /// are judged, or the job stops; a command takes at most twice its time limit per batch of its own
    /// size.
    pub fn judge(&self, answers: &[RewardInput], control: &Control) -> Result<Vec<Judgement>, RewardError> {
        match &self.judge {
            Judge::Rule(rule) => {
                answers.iter().map(|answer| Ok(Judgement::from_verdict(rule.accepts(answer)?))).collect()
            }
            Judge::Command(command) => command.judge(answers, control),
            Judge::JsonSchema(schema) => {
                Ok(answers.iter().map(|answer| schema.judge(answer.completion)).collect())
            }
            Judge::UnitTests(tests) => tests.judge(answers, control),
            Judge::Http(http) => http.judge(answers, control),
            Judge::Parts(parts) => {
                let mut of_parts = Vec::with_capacity(parts.len());
                for part in parts {
                    of_parts.push(part.verifier.judge(answers, control)?);
                }
                let of_answer = |answer: usize| {
                    let said = parts.iter().zip(&of_parts).map(|(part, verdicts)| (part, &verdicts[answer]));
                    Judgement::combined(said)
                };
                Ok((0..answers.len()).map(of_answer).collect())
            }
        }
    }

    /// Warnings since the last call, such as restarts of commands.
    pub fn take_warnings(&self) -> Vec<String> {
        match &self.judge {
            Judge::Rule(_) | Judge::JsonSchema(_) | Judge::UnitTests(_) => Vec::new(),
            Judge::Command(command) => command.take_warnings(),
            Judge::Http(http) => http.take_warnings(),
            Judge::Parts(parts) => parts.iter().flat_map(|part| part.verifier.take_warnings()).collect(),
        }
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

    /// The weighted mean of parts. It is divided by the rounded sum of the weights, so that it is 1 where
    /// every part is 1.
    fn combined<'a>(said: impl Iterator<Item = (&'a Part, &'a Judgement)>) -> Judgement {
        let (mut sum, mut weights) = (0.0, 0.0);
        let (mut words, mut parts) = (Vec::new(), Vec::new());
        for (Part { name, weight, .. }, verdict) in said {
            sum += weight * verdict.reward;
            weights += weight;
            words.extend(verdict.feedback.as_ref().map(|words| format!("{name}: {words}")));
            parts.push((name.clone(), verdict.reward));
        }
        let feedback = (!words.is_empty()).then(|| words.join("\n"));
        Judgement { reward: sum / weights, feedback, parts }
    }
}

impl Rule {
    fn accepts(&self, answer: &RewardInput) -> Result<bool, RewardError> {
        let completion = answer.completion;
        Ok(match self {
            Rule::ExactMatch { field } => completion == text(answer, field)?,
            Rule::Numeric { field, tolerance } => {
                let target = text(answer, field)?;
                let number =
                    data::number(&target).ok_or_else(|| missing(answer, field, FieldKind::Number))?;
                data::number(completion).is_some_and(|found| {
                    within([completion, &target], *tolerance)
                        .unwrap_or_else(|| (found - number).abs() <= *tolerance)
                })
            }
            Rule::Regex { pattern, field } if has_group(pattern) => {
                let target = text(answer, field)?;
                let group = plan::Reward::ANSWER_GROUP;
                let found = pattern.captures(completion).and_then(|found| found.name(group));
                found.is_some_and(|group| group.as_str() == target)
            }
            Rule::Regex { pattern, .. } => pattern.is_match(completion),
        })
    }
}

/// Whether two numbers, as [`data::number`] reads them, differ by at most the tolerance. Decimal, because
/// doubles round numbers of 17 digits, and 1.01 - 1 is not 0.01. `None` if it needs too many digits.
fn within(numbers: [&str; 2], tolerance: f64) -> Option<bool> {
    /// Most digits after the point, or zeros before it. Doubles have no digit beyond 1100.
    const PLACES: u64 = 4096;
    let decimal = |text: &str| {
        let number = BigDecimal::from_str(&text.trim().replace(',', "")).ok()?;
        (number.fractional_digit_count().unsigned_abs() <= PLACES).then_some(number)
    };
    let [one, other] = numbers.map(decimal);
    // With the shortest digits, as it is written.
    let tolerance = decimal(&tolerance.to_string())?;
    Some((one? - other?).abs() <= tolerance)
}

fn has_group(pattern: &Regex) -> bool {
    pattern.capture_names().flatten().any(|name| name == plan::Reward::ANSWER_GROUP)
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
