//! Prompts and their answers: files of JSON lines, the byte tokenizer, and the order in which prompts are drawn.

mod error;
pub mod mixture;
pub mod tokenizer;

pub use error::{DataError, Problem, quote};
pub use mixture::Mixture;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use self::tokenizer::Tokenizer;

/// One data file, whole, in the order of its lines.
#[derive(Clone, Debug)]
pub struct Dataset {
    pub path: PathBuf,
    /// At least one.
    pub records: Vec<Record>,
    /// Blake3 of the file's bytes, in hexadecimal: what the key of a stage adds for its data.
    pub hash: String,
}

/// One line: a prompt and what is known about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// From 1.
    pub line: u32,
    pub prompt: String,
    /// The whole object, `prompt` included.
    pub fields: Map<String, Value>,
}

/// A field that every line must have, besides `prompt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    pub name: &'a str,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string, or a number, which is read as its text.
    Text,
    /// A number, or a string that [`number`] can read.
    Number,
}

impl<'a> Field<'a> {
    pub fn text(name: &'a str) -> Field<'a> {
        Field { name, kind: Kind::Text }
    }

    pub fn number(name: &'a str) -> Field<'a> {
        Field { name, kind: Kind::Number }
    }
}

impl Record {
    /// A field as text; none where it is absent, or neither a string nor a number. Fields that [`Dataset::load`] was asked
    /// for are always there.
    pub fn text(&self, field: &str) -> Option<Cow<'_, str>> {
        text(self.fields.get(field)?)
    }
}

/// A string as it is, a number as it is written in JSON; none for anything else.
pub fn text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        _ => None,
    }
}

/// Reads a number as people write it: white space around it and commas between groups of three digits do not count.
/// None for anything else, `inf` and `nan` included.
pub fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    if !text.contains(',') {
        // Rust's parser also knows the words "inf" and "nan".
        return text.parse().ok().filter(|number: &f64| number.is_finite());
    }
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (whole, fraction) = unsigned.split_once('.').map_or((unsigned, None), |(whole, rest)| (whole, Some(rest)));
    let mut groups = whole.split(',');
    let first = groups.next().is_some_and(|group| digits(group) && group.len() <= 3);
    let rest = groups.all(|group| digits(group) && group.len() == 3);
    (first && rest && fraction.is_none_or(digits)).then(|| text.replace(',', "").parse().ok()).flatten()
}

impl Dataset {
    /// Reads a file of JSON lines. Every line must be an object with a string `prompt` and the fields in `needed`; it may
    /// have any others. Blank lines, a byte-order mark and carriage returns before a line's end are skipped.
    pub fn load(path: &Path, needed: &[Field]) -> Result<Dataset, DataError> {
        let failed = |line, problem| DataError { file: path.to_owned(), line, problem: Box::new(problem) };
        let bytes = fs::read(path).map_err(|error| failed(None, Problem::unreadable(path, &error)))?;
        let hash = blake3::hash(&bytes).to_hex().to_string();
        let content = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
        let mut records = Vec::new();
        for (index, line) in content.split(|byte| *byte == b'\n').enumerate() {
            let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            records.push(record(line, number, needed).map_err(|problem| failed(Some(number), problem))?);
        }
        if records.is_empty() {
            return Err(failed(None, Problem::Empty));
        }
        Ok(Dataset { path: path.to_owned(), records, hash })
    }

    /// The line whose prompt takes the most tokens.
    pub fn longest_prompt(&self, tokenizer: &Tokenizer) -> Longest<'_> {
        self.longest(None, |record| tokenizer.prompt(&record.prompt).len())
    }

    /// The line whose prompt and `field`, ended, take the most tokens: the longest sequence of fine-tuning on that field.
    pub fn longest_example(&self, field: &str, tokenizer: &Tokenizer) -> Longest<'_> {
        self.longest(Some(field.to_owned()), |record| {
            let target = record.text(field).map_or(0, |text| tokenizer.completion(&text).len());
            tokenizer.prompt(&record.prompt).len() + target
        })
    }

    fn longest(&self, target: Option<String>, tokens: impl Fn(&Record) -> usize) -> Longest<'_> {
        let lengths = self.records.iter().map(|record| (tokens(record), record));
        // The first of equals: `max_by_key` takes the last.
        let (tokens, record) = lengths.rev().max_by_key(|(tokens, _)| *tokens).expect("a dataset has at least one record");
        Longest { file: &self.path, line: record.line, target, tokens: u32::try_from(tokens).unwrap_or(u32::MAX) }
    }
}

fn record(line: &[u8], number: u32, needed: &[Field]) -> Result<Record, Problem> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let line = std::str::from_utf8(line).map_err(|error| Problem::not_utf8(line, &error))?;
    let value: Value = serde_json::from_str(line).map_err(|error| Problem::not_json(line, &error))?;
    let Value::Object(fields) = value else {
        return Err(Problem::NotAnObject { found: error::describe(&value) });
    };
    let find = |name: &str| fields.get(name).ok_or_else(|| Problem::missing(name, fields.keys().map(String::as_str)));
    let wrong = |name: &str, value, wanted| Problem::WrongKind { field: name.to_owned(), wanted, found: error::describe(value) };
    let prompt = match find("prompt")? {
        Value::String(prompt) => prompt.clone(),
        other => return Err(wrong("prompt", other, "a string")),
    };
    for field in needed {
        let value = find(field.name)?;
        let text = text(value).ok_or_else(|| wrong(field.name, value, "a string or a number"))?;
        if field.kind == Kind::Number && self::number(&text).is_none() {
            return Err(wrong(field.name, value, "a number"));
        }
    }
    Ok(Record { line: number, prompt, fields })
}

/// The longest sequence of a file, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Longest<'a> {
    pub file: &'a Path,
    pub line: u32,
    /// The field trained on, where it counts too.
    pub target: Option<String>,
    pub tokens: u32,
}

impl Longest<'_> {
    /// Whether the sequence, with `completion` tokens more, fits a model's context.
    pub fn fits(&self, completion: u32, context: u32) -> Result<(), ContextError> {
        let needed = self.tokens.saturating_add(completion);
        if needed <= context {
            return Ok(());
        }
        let target = self.target.clone();
        Err(ContextError { file: self.file.to_owned(), line: self.line, target, tokens: self.tokens, completion, context })
    }
}

/// A sequence that no run could hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextError {
    file: PathBuf,
    line: u32,
    target: Option<String>,
    tokens: u32,
    completion: u32,
    context: u32,
}

impl std::error::Error for ContextError {}

impl fmt::Display for ContextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ContextError { file, line, target, tokens, completion, context } = self;
        write!(f, "{}:{line}: ", file.display())?;
        match target {
            Some(field) => write!(f, "prompt and `{field}` take {tokens} tokens")?,
            None => write!(f, "the prompt takes {tokens} tokens")?,
        }
        if *completion > 0 {
            write!(f, " and its completion up to {completion}")?;
        }
        write!(f, ", the model's context is {context}")
    }
}

impl ContextError {
    pub fn help(&self) -> String {
        let needed = self.tokens.saturating_add(self.completion);
        let room = self.context.saturating_sub(self.tokens);
        if self.completion > 0 && room > 0 {
            format!("set `context = {needed}` or more, or `max_tokens = {room}` or less, or shorten the line")
        } else {
            format!("set `context = {needed}` or more, or shorten the line")
        }
    }
}

/// Test prompts that are also trained on. Not an error: the author may mean it, but no score should be read without knowing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// Test lines whose prompt is in the training file.
    pub prompts: u32,
    pub tests: PathBuf,
    pub train: PathBuf,
    /// The first of them: its line in the tests, and in the training file.
    pub first: (u32, u32),
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (test, train) = self.first;
        let (number, verb) = if self.prompts == 1 { ("prompt", "is") } else { ("prompts", "are") };
        write!(f, "{}: {} test {number} {verb} trained on too, ", self.tests.display(), self.prompts)?;
        write!(f, "the first at line {test} (line {train} of {})", self.train.display())
    }
}

/// The test prompts that stand in the training file, if there are any.
pub fn overlap(train: &Dataset, tests: &Dataset) -> Option<Overlap> {
    let mut known = HashMap::new();
    for record in &train.records {
        known.entry(record.prompt.as_str()).or_insert(record.line);
    }
    let shared = tests.records.iter().filter_map(|record| Some((record.line, *known.get(record.prompt.as_str())?)));
    let shared: Vec<_> = shared.collect();
    let first = *shared.first()?;
    Some(Overlap { prompts: shared.len() as u32, tests: tests.path.clone(), train: train.path.clone(), first })
}

#[cfg(test)]
mod tests;
