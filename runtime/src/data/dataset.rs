//! The rows of a domain: prompts, what is known about them, and where each stands.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use mopd_compiler::keys;
use mopd_compiler::plan::{Column, DataFormula, DataNode, DataSource, PromptFormat};
use serde::Serialize;
use serde_json::{Map, Value};

use super::error::{DataError, Problem, RowPlace};
use super::lists::{Builder, Lists};
use super::numbers::{number, text};
use super::rows::{self, DataRow, Wanted};
use super::{Field, FieldKind, files};
use crate::tokenizer::chat::Conversation;
use crate::tokenizer::json::{Json, Object, describe};

/// The column of prompts, and what stands in for it: a conversation.
const PROMPT: &str = "prompt";
const MESSAGES: &str = "messages";
/// What a template may get to know besides the messages.
const TOOLS: &str = "tools";
const DOCUMENTS: &str = "documents";
const VARIABLES: &str = "chat_template_kwargs";

/// Rows that a core takes at a time.
const BLOCK: usize = 256;

/// What to read.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub source: &'a DataSource,
    pub format: &'a PromptFormat,
    /// Fields that every row must have, besides the prompt.
    pub fields: &'a [Field<'a>],
    /// Whether somebody reads whole rows: a reward command.
    pub whole: bool,
    /// The conditions of the arms of routes: which arm a row takes is kept.
    pub routes: &'a [Vec<DataFormula>],
    /// Numbers of every row that are kept.
    pub numbers: &'a [DataFormula],
    /// A folder to remember hashes of large files in, which need not exist; see [`crate::content::hash`].
    pub notes: Option<&'a Path>,
}

/// Of the hash of rows that are not a whole file. It selects random numbers too, so that whoever raises it
/// raises [`NUMERIC_VERSION`](crate::machine::arithmetic::NUMERIC_VERSION).
const VERSION: u32 = 1;

/// Rows that are not a whole file.
#[derive(Serialize)]
struct DataContent<'a> {
    /// Blake3 of each.
    files: &'a [String],
    columns: &'a [Column],
    filter: &'a Option<DataFormula>,
    limit: &'a Option<u32>,
}

/// The rows of a data source, in the order of its files. Kept as columns of text end to end, of needed fields
/// only.
#[derive(Debug)]
pub struct Dataset {
    /// As the author named it, relative to where the command runs.
    pub path: PathBuf,
    /// Blake3 of the files' content and of what is read of them, in hexadecimal: what the key of a stage
    /// adds for its data.
    pub hash: String,
    files: Vec<PathBuf>,
    /// The number of each file's first row, counted through.
    first: Vec<usize>,
    places: Vec<RowPlace>,
    prompts: Lists<u8>,
    /// Conversations as JSON, `{"messages": ..., "tools": ...}`; empty text where a row is a prompt alone.
    conversations: Option<Lists<u8>>,
    system: Option<String>,
    fields: Vec<(String, Lists<u8>)>,
    /// Whole rows as JSON objects.
    rows: Option<Lists<u8>>,
    /// Of each route that was asked for, by row.
    arms: Vec<(Vec<DataFormula>, Vec<u32>)>,
    /// Of each formula that was asked for, by row.
    numbers: Vec<(DataFormula, Vec<f32>)>,
}

impl Dataset {
    /// Reads a data source. Every row must have a prompt and the fields that are asked for; it may have any
    /// others.
    pub fn read(base: &Path, request: Request) -> Result<Dataset, DataError> {
        let source = request.source;
        let path = super::beside(base, &source.path);
        let files = files::find(&path, source.split.as_deref())?;
        let mut reading = Reading::new(request);
        let (mut hashes, mut first) = (Vec::new(), Vec::new());
        for file in &files {
            first.push(reading.places.len());
            let wanted = Wanted { columns: &reading.columns.clone(), whole: request.whole };
            hashes.push(rows::read(file, wanted, request.notes, &mut |row| reading.take(row))?);
        }
        if reading.places.is_empty() {
            let problem = if reading.left_out > 0 {
                Problem::AllLeftOut { rows: reading.left_out }
            } else {
                Problem::Empty
            };
            return Err(DataError::of_file(&path, problem));
        }
        let plain = DataSource::file(source.path.clone()) == *source;
        let hash = match hashes.as_slice() {
            [hash] if plain => hash.clone(),
            hashes => {
                let DataSource { path: _, split: _, columns, filter, limit } = source;
                let content = DataContent { files: hashes, columns, filter, limit };
                keys::hash("mopd data", VERSION, &content).to_hex().to_string()
            }
        };
        let files = files.into_iter().map(|file| file.path).collect();
        reading.finish().map(|kept| Dataset { hash, files, first, path: path.clone(), ..kept }).map_err(
            |error| {
                DataError::of_file(
                    &path,
                    Problem::Unreadable { cause: format!("no room to keep its rows: {error}") },
                )
            },
        )
    }

    /// At least one.
    #[expect(clippy::len_without_is_empty, reason = "a dataset has at least one row")]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// The prompt as text: of a conversation, what was said last that is not the assistant's.
    pub fn prompt(&self, row: usize) -> &str {
        self.prompts.text(row)
    }

    /// A field that was asked for, none for others.
    pub fn text(&self, row: usize, field: &str) -> Option<&str> {
        let (_, texts) = self.fields.iter().find(|(name, _)| name == field)?;
        Some(texts.text(row))
    }

    /// Of a route that was asked for, by its conditions, the arm that each row takes: the first that holds,
    /// or the number of conditions where none does. None for other routes.
    pub fn arms(&self, conditions: &[DataFormula]) -> Option<&[u32]> {
        let (_, arms) = self.arms.iter().find(|(known, _)| known == conditions)?;
        Some(arms)
    }

    /// What a formula that was asked for is in each row; none for others.
    pub fn numbers(&self, formula: &DataFormula) -> Option<&[f32]> {
        let (_, numbers) = self.numbers.iter().find(|(known, _)| known == formula)?;
        Some(numbers)
    }

    /// What is known about a row: all of it where that was asked for, the needed fields otherwise.
    pub fn object(&self, row: usize) -> Map<String, Value> {
        match &self.rows {
            Some(rows) => serde_json::from_str(rows.text(row)).expect("an object was written"),
            None => {
                let texts =
                    self.fields.iter().map(|(name, texts)| (name.clone(), Value::from(texts.text(row))));
                std::iter::once((PROMPT.to_owned(), Value::from(self.prompt(row)))).chain(texts).collect()
            }
        }
    }

    /// Whether rows are conversations, or prompts that a model's template makes conversations of.
    pub fn is_chat(&self) -> bool {
        self.conversations.is_some()
    }

    /// The conversation of a row; none where prompts are plain text.
    pub fn conversation(&self, row: usize) -> Option<Conversation> {
        let written = self.conversations.as_ref()?.text(row);
        let system = self.system.as_deref();
        if written.is_empty() {
            return Some(Conversation::question(system, self.prompt(row)));
        }
        let parts = Json::parse(written).expect("an object was written");
        let parts = parts.as_object().expect("an object was written");
        let conversation = match parts.get(MESSAGES) {
            Some(messages) => Conversation::new(messages, system).expect("it was checked when it was read"),
            None => Conversation::question(system, self.prompt(row)),
        };
        Some(with_parts(conversation, parts))
    }

    /// A list for every row, made on all cores.
    pub fn lists<E: From<DataError> + Send>(
        &self,
        make: impl Fn(usize) -> Result<Vec<i64>, E> + Sync,
    ) -> Result<Lists<i64>, E> {
        let full = |error: std::io::Error| {
            E::from(DataError::of_file(
                &self.path,
                Problem::Unreadable { cause: format!("no room for its tokens: {error}") },
            ))
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut lists = Builder::default();
        // In parts, so that not all lists are held twice.
        for start in (0..self.len()).step_by(BLOCK * cores) {
            let block = |core: usize| {
                let first = start + core * BLOCK;
                (first.min(self.len())..(first + BLOCK).min(self.len()))
                    .map(&make)
                    .collect::<Result<Vec<_>, E>>()
            };
            let blocks: Vec<Result<Vec<Vec<i64>>, E>> = if self.len() <= BLOCK {
                vec![block(0)]
            } else {
                std::thread::scope(|scope| {
                    let block = &block;
                    let threads: Vec<_> = (0..cores).map(|core| scope.spawn(move || block(core))).collect();
                    let join = |thread: std::thread::ScopedJoinHandle<_>| {
                        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                    };
                    threads.into_iter().map(join).collect()
                })
            };
            for block in blocks {
                for list in block? {
                    lists.push(&list).map_err(full)?;
                }
            }
        }
        lists.finish().map_err(full)
    }

    /// The file of a row, and where it stands there.
    pub fn place(&self, row: usize) -> (&Path, RowPlace) {
        let file = self.first.partition_point(|first| *first <= row) - 1;
        (&self.files[file], self.places[row])
    }

    /// An error about a row.
    pub fn error(&self, row: usize, problem: Problem) -> DataError {
        let (file, place) = self.place(row);
        DataError::new(file, place, problem)
    }
}

fn with_parts(conversation: Conversation, parts: &Object) -> Conversation {
    let part = |name: &str| parts.get(name).unwrap_or(&Json::Null);
    let conversation = conversation.with_tools(part(TOOLS)).with_documents(part(DOCUMENTS));
    match parts.get(VARIABLES) {
        Some(Json::Object(variables)) => conversation.with_variables(variables),
        _ => conversation,
    }
}

/// A dataset while it is read.
struct Reading<'a> {
    request: Request<'a>,
    /// The columns to read, those of needed fields first.
    columns: Vec<String>,
    left_out: u64,
    places: Vec<RowPlace>,
    prompts: Builder<u8>,
    conversations: Builder<u8>,
    fields: Vec<Builder<u8>>,
    rows: Builder<u8>,
    /// Of each route.
    arms: Vec<Vec<u32>>,
    /// Of each formula.
    numbers: Vec<Vec<f32>>,
}

/// What a formula makes of a field that is null.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Null {
    /// Nothing holds of it.
    Unknown,
    /// The row is at fault.
    Fault,
}

impl<'a> Reading<'a> {
    fn new(request: Request<'a>) -> Reading<'a> {
        let mut columns: Vec<String> = Vec::new();
        let source = request.source;
        let formulas = source.filter.iter().chain(request.routes.iter().flatten()).chain(request.numbers);
        let chat = [PROMPT, MESSAGES, TOOLS, DOCUMENTS, VARIABLES];
        let chat = if request.format == &PromptFormat::Text { &chat[..2] } else { &chat };
        let fields = request.fields.iter().map(|field| field.name);
        for field in fields.chain(formulas.flat_map(DataFormula::fields)).chain(chat.iter().copied()) {
            let column = source.column(field);
            if !columns.iter().any(|known| known == column) {
                columns.push(column.to_owned());
            }
        }
        let fields = request.fields.iter().map(|_| Builder::default()).collect();
        let [prompts, conversations, rows] = [Builder::default(), Builder::default(), Builder::default()];
        let arms = request.routes.iter().map(|_| Vec::new()).collect();
        let numbers = request.numbers.iter().map(|_| Vec::new()).collect();
        Reading {
            request,
            columns,
            left_out: 0,
            places: Vec::new(),
            prompts,
            conversations,
            fields,
            rows,
            arms,
            numbers,
        }
    }

    fn finish(self) -> std::io::Result<Dataset> {
        let chat = match self.request.format {
            PromptFormat::Text => None,
            PromptFormat::Chat { system } => Some(system.clone()),
        };
        let names = self.request.fields.iter().map(|field| field.name.to_owned());
        let fields = names.zip(self.fields).map(|(name, texts)| Ok((name, texts.finish()?)));
        Ok(Dataset {
            path: PathBuf::new(),
            hash: String::new(),
            files: Vec::new(),
            first: Vec::new(),
            places: self.places,
            prompts: self.prompts.finish()?,
            conversations: if chat.is_some() { Some(self.conversations.finish()?) } else { None },
            system: chat.flatten(),
            fields: fields.collect::<std::io::Result<_>>()?,
            rows: if self.request.whole { Some(self.rows.finish()?) } else { None },
            arms: self.request.routes.iter().cloned().zip(self.arms).collect(),
            numbers: self.request.numbers.iter().cloned().zip(self.numbers).collect(),
        })
    }

    /// Whether the row has a field that is not null.
    fn value<'r>(&self, row: &'r DataRow, field: &str) -> Option<&'r Json> {
        let column = self.request.source.column(field);
        row.values[self.columns.iter().position(|known| known == column)?].as_ref()
    }

    fn take(&mut self, mut row: DataRow) -> Result<ControlFlow<()>, Problem> {
        let source = self.request.source;
        if source.limit.is_some_and(|limit| self.places.len() >= limit as usize) {
            return Ok(ControlFlow::Break(()));
        }
        if let Some(filter) = &source.filter
            && !self.holds(filter, &row, Null::Unknown)?
        {
            self.left_out += 1;
            return Ok(ControlFlow::Continue(()));
        }
        for (index, conditions) in self.request.routes.iter().enumerate() {
            let arm = self.arm(conditions, &row)?;
            self.arms[index].push(arm);
        }
        for (index, formula) in self.request.numbers.iter().enumerate() {
            let number = self.number(formula, &row, Null::Fault)? as f32;
            self.numbers[index].push(number);
        }
        let (prompt, conversation) = self.prompt(&row)?;
        for (index, field) in self.request.fields.iter().enumerate() {
            let value = self.value(&row, field.name).ok_or_else(|| self.missing(field.name, &row))?;
            let wrong = |wanted| Problem::TypeMismatch {
                field: field.name.to_owned(),
                wanted,
                found: describe(value),
            };
            let text = text(value).ok_or_else(|| wrong("a string or a number"))?;
            if field.kind == FieldKind::Number && number(&text).is_none() {
                return Err(wrong("a number"));
            }
            keep(&mut self.fields[index], &text)?;
        }
        keep(&mut self.prompts, &prompt)?;
        keep(&mut self.conversations, &conversation)?;
        if let Some(mut object) = row.whole.take() {
            for column in &source.columns {
                if let Some(value) = object.shift_remove(&column.column) {
                    object.insert(column.field.clone(), value);
                }
            }
            keep(&mut self.rows, &Json::Object(object).to_string())?;
        }
        self.places.push(row.place);
        Ok(ControlFlow::Continue(()))
    }

    fn missing(&self, field: &str, row: &DataRow) -> Problem {
        Problem::missing(self.request.source.column(field), row.present.iter().map(String::as_str))
    }

    /// The first arm that holds. What only later ones read may be missing.
    fn arm(&self, conditions: &[DataFormula], row: &DataRow) -> Result<u32, Problem> {
        for (arm, condition) in conditions.iter().enumerate() {
            if self.holds(condition, row, Null::Fault)? {
                return Ok(arm as u32);
            }
        }
        Ok(conditions.len() as u32)
    }

    /// Whether the row is one of those that the author means; NaN is not true.
    fn holds(&self, formula: &DataFormula, row: &DataRow, null: Null) -> Result<bool, Problem> {
        let value = self.number(formula, row, null)?;
        Ok(value != 0.0 && !value.is_nan())
    }

    fn number(&self, formula: &DataFormula, row: &DataRow, null: Null) -> Result<f64, Problem> {
        for node in &formula.nodes {
            let (field, wanted): (_, &'static str) = match node {
                DataNode::Field { field } => (field, "a number or a bool"),
                DataNode::FieldIs { field, .. } => (field, "a string"),
                _ => continue,
            };
            let value = self.value(row, field).ok_or_else(|| self.missing(field, row))?;
            let fits = match node {
                DataNode::Field { .. } => matches!(value, Json::Bool(_)) || as_number(value).is_some(),
                _ => text(value).is_some(),
            };
            let unknown = value.is_null() && null == Null::Unknown;
            if !fits && !unknown {
                return Err(Problem::TypeMismatch { field: field.clone(), wanted, found: describe(value) });
            }
        }
        let numeric = |field: &str| match self.value(row, field) {
            Some(Json::Bool(truth)) => f64::from(u8::from(*truth)),
            value => value.and_then(as_number).unwrap_or(f64::NAN),
        };
        let is = |field: &str, wanted: &str| {
            self.value(row, field).and_then(text).is_some_and(|text| text == wanted)
        };
        Ok(formula.value(numeric, is))
    }

    /// The prompt as text, and as a conversation where there is more to it.
    fn prompt(&self, row: &DataRow) -> Result<(String, String), Problem> {
        let (field, value) = [PROMPT, MESSAGES]
            .into_iter()
            .find_map(|field| Some((field, self.value(row, field)?)))
            .ok_or_else(|| self.missing(PROMPT, row))?;
        let system = match self.request.format {
            PromptFormat::Chat { system } => Some(system),
            PromptFormat::Text => None,
        };
        let wrong =
            |wanted| Problem::TypeMismatch { field: field.to_owned(), wanted, found: describe(value) };
        let Some(system) = system else {
            return match value {
                Json::String(prompt) => Ok((prompt.clone(), String::new())),
                Json::Array(_) => Err(Problem::Conversation { field: field.to_owned() }),
                _ => Err(wrong("a string")),
            };
        };
        let mut parts = Object::default();
        for name in [TOOLS, DOCUMENTS, VARIABLES] {
            if let Some(value) = self.value(row, name).filter(|value| !value.is_null()) {
                // Tables have no lists of any structure, so schemas are often kept as JSON text.
                let value = match value {
                    Json::String(text) => {
                        Json::parse(text).map_err(|error| Problem::not_json(text, &error))?
                    }
                    value => value.clone(),
                };
                let (fits, wanted) = match name {
                    VARIABLES => (matches!(value, Json::Object(_)), "an object"),
                    _ => (matches!(value, Json::Array(_)), "a list"),
                };
                if !fits {
                    return Err(Problem::TypeMismatch {
                        field: name.to_owned(),
                        wanted,
                        found: describe(&value),
                    });
                }
                parts.insert(name.to_owned(), value);
            }
        }
        let prompt = match value {
            Json::String(prompt) => prompt.clone(),
            Json::Array(messages) => {
                Conversation::new(value, system.as_deref())
                    .map_err(|error| Problem::Chat { error: Box::new(error) })?;
                parts.insert(MESSAGES.to_owned(), value.clone());
                last_question(messages)
            }
            _ => return Err(wrong("a string or a list of messages")),
        };
        Ok((prompt, if parts.is_empty() { String::new() } else { Json::Object(parts).to_string() }))
    }
}

/// What was said last that is not the assistant's.
fn last_question(messages: &[Json]) -> String {
    let asked = messages.iter().rev().find(|message| {
        message.as_object().and_then(|message| message.get("role")?.as_str()) != Some("assistant")
    });
    match asked.and_then(|message| message.as_object()?.get("content")) {
        Some(Json::String(text)) => text.clone(),
        Some(Json::Null) | None => String::new(),
        Some(parts) => parts.to_string(),
    }
}

fn as_number(value: &Json) -> Option<f64> {
    text(value).and_then(|text| number(&text))
}

fn keep(texts: &mut Builder<u8>, text: &str) -> Result<(), Problem> {
    texts
        .push(text.as_bytes())
        .map_err(|error| Problem::Unreadable { cause: format!("no room to keep its rows: {error}") })
}
