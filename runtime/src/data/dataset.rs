//! The rows of a domain: prompts, their fields, and the location of each row.

mod collect;

use std::ops::Range;
use std::path::{Path, PathBuf};

use mopd_data::messages::MessageForms;
use mopd_data::{
    DOCUMENTS, DataError, DataProblem, DataWarning, DatasetRequest, MESSAGES, Reach, RowPlace, RowProjection,
    SourceFiles, TOOLS, VARIABLES, files_of,
};
use mopd_plan::keys;
use mopd_plan::{DataFormula, DataSource, FieldColumn, PromptFormat};
use serde::Serialize;
use serde_json::{Map, Value};

use self::collect::RowCollector;
use super::lists::{Builder, Lists};
use crate::tokenizer::chat::Conversation;
use crate::tokenizer::json::{Json, Object, describe};

/// Rows per piece of work of a core.
const BLOCK: usize = 256;

/// Version of the hash of rows that are not a whole file. The hash also selects random numbers, so an
/// increase requires one of [`NUMERIC_VERSION`](crate::machine::arithmetic::NUMERIC_VERSION).
const VERSION: u32 = 1;

/// Hashed description of rows that are not a whole file.
#[derive(Serialize)]
struct DataContent<'a> {
    /// BLAKE3 hash of each file.
    files: &'a [String],
    columns: &'a [FieldColumn],
    filter: &'a Option<DataFormula>,
    limit: &'a Option<u32>,
}

/// Hashed description of rows that are turns of trajectories.
#[derive(Serialize)]
struct TurnsContent<'a> {
    /// The hash of the data with the trajectories.
    data: &'a str,
    trajectory: &'a str,
}

/// Rows whose prompts are too long for one of their readers.
#[derive(Clone, Debug)]
pub struct LongPrompts {
    /// In order.
    pub rows: Vec<usize>,
    /// Most tokens of the others.
    pub most: u32,
    /// The hashes of the readers' tokenizers, sorted; and the day, if a template writes it.
    pub readers: Vec<String>,
}

/// The rows of a data source, in the order of its files, stored by column as texts end to end. Only needed
/// fields are stored.
#[derive(Debug)]
pub struct Dataset {
    /// As the author named it, relative to the command's working folder.
    pub path: PathBuf,
    /// BLAKE3 of the files' content and of the settings by which they are read, in hexadecimal: the part of
    /// a stage's key for its data.
    pub hash: String,
    files: Vec<PathBuf>,
    /// Index of each file's first row among all rows.
    first: Vec<usize>,
    places: Vec<RowPlace>,
    /// Where rows are turns: the first row of each trajectory, and at the end the number of rows.
    trajectories: Option<Vec<usize>>,
    prompts: Lists<u8>,
    /// Conversations as JSON, `{"messages": ..., "tools": ...}`; empty text where a row has a plain prompt.
    conversations: Option<Lists<u8>>,
    system: Option<String>,
    fields: Vec<(String, Lists<u8>)>,
    /// Whole rows as JSON objects.
    rows: Option<Lists<u8>>,
    /// The arms of each requested route, by row.
    arms: Vec<(Vec<DataFormula>, Vec<u32>)>,
    /// The values of each requested formula, by row.
    numbers: Vec<(DataFormula, Vec<f32>)>,
    /// What is most likely a slip in its rows.
    pub warnings: Vec<DataWarning>,
}

impl Dataset {
    /// Reads a data source. Every row must have a prompt and the requested fields; it may have others.
    pub fn read(base: &Path, request: DatasetRequest) -> Result<Dataset, DataError> {
        Dataset::read_without(base, request, None)
    }

    /// The same without the rows whose prompts are too long.
    pub fn read_without(
        base: &Path,
        request: DatasetRequest,
        without: Option<LongPrompts>,
    ) -> Result<Dataset, DataError> {
        let source = request.source;
        let SourceFiles { name: path, files } = files_of(base, source)?;
        let rows = without.as_ref().map(|long| long.rows.clone()).unwrap_or_default();
        let mut reading = RowCollector::new(request).without(rows);
        let (mut hashes, mut first) = (Vec::new(), Vec::new());
        for file in &files {
            first.push(reading.places.len());
            let wanted = RowProjection { columns: &reading.columns(), whole: request.whole };
            let reach = Reach::End { notes: request.notes };
            let read = mopd_data::read(file, wanted, reach, &mut |row| reading.take(row))?;
            hashes.push(read.hash.expect("a file that is read to its end has a hash"));
        }
        if reading.places.is_empty() {
            let problem = match (reading.left_out(), &without) {
                (rows, Some(long)) => DataProblem::AllTooLong { rows, most: long.most },
                (0, None) => DataProblem::Empty,
                (rows, None) => DataProblem::AllLeftOut { rows },
            };
            return Err(DataError::of_file(&path, problem));
        }
        // Neither a limit of tokens, which is in the hash below, nor a revision changes the files' content.
        let any = DataSource { max_prompt_tokens: None, revision: None, ..source.clone() };
        let plain = DataSource::file(source.path.clone()) == any;
        let hash = match hashes.as_slice() {
            [hash] if plain => hash.clone(),
            hashes => {
                // Rows that are left out for their length are in the hash below.
                let DataSource {
                    path: _,
                    split: _,
                    revision: _,
                    columns,
                    filter,
                    limit,
                    max_prompt_tokens: _,
                } = source;
                let content = DataContent { files: hashes, columns, filter, limit };
                keys::hash("mopd data", VERSION, &content).to_hex().to_string()
            }
        };
        let hash = match request.trajectory() {
            None => hash,
            Some(trajectory) => {
                let content = TurnsContent { data: &hash, trajectory };
                keys::hash("mopd turns", VERSION, &content).to_hex().to_string()
            }
        };
        // Only where rows have what older versions did not read: the hashes of other data stay the same.
        let hash = match reading.forms() {
            forms if forms == MessageForms::default() => hash,
            forms => keys::hash("mopd messages", VERSION, &(hash, forms)).to_hex().to_string(),
        };
        let hash = match &without {
            Some(LongPrompts { most, readers, rows: _ }) => {
                keys::hash("mopd shorter prompts", VERSION, &(hash, most, readers)).to_hex().to_string()
            }
            None => hash,
        };
        let files = files.into_iter().map(|file| file.path).collect();
        reading.finish().map(|kept| Dataset { hash, files, first, path: path.clone(), ..kept }).map_err(
            |error| {
                DataError::of_file(
                    &path,
                    DataProblem::Unreadable { cause: format!("no room to keep its rows: {error}") },
                )
            },
        )
    }

    /// Number of rows; at least one.
    #[expect(clippy::len_without_is_empty, reason = "a dataset has at least one row")]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Number of units that can be drawn: rows, or trajectories where rows are turns.
    pub fn draws(&self) -> usize {
        self.trajectories.as_ref().map_or(self.len(), |first| first.len() - 1)
    }

    /// The rows of a unit, in order.
    pub fn of_draw(&self, draw: usize) -> Range<usize> {
        self.trajectories.as_ref().map_or(draw..draw + 1, |first| first[draw]..first[draw + 1])
    }

    /// The prompt as text; for a conversation, its last message that is not the assistant's.
    pub fn prompt(&self, row: usize) -> &str {
        self.prompts.text(row)
    }

    /// A requested field; `None` for others.
    pub fn text(&self, row: usize, field: &str) -> Option<&str> {
        let (_, texts) = self.fields.iter().find(|(name, _)| name == field)?;
        Some(texts.text(row))
    }

    /// The arm that each row takes, for a requested route, which is identified by its conditions: the first
    /// condition that holds, or the number of conditions if none does. `None` for other routes.
    pub fn arms(&self, conditions: &[DataFormula]) -> Option<&[u32]> {
        let (_, arms) = self.arms.iter().find(|(known, _)| known == conditions)?;
        Some(arms)
    }

    /// The value of a requested formula in each row; `None` for others.
    pub fn numbers(&self, formula: &DataFormula) -> Option<&[f32]> {
        let (_, numbers) = self.numbers.iter().find(|(known, _)| known == formula)?;
        Some(numbers)
    }

    /// The fields of a row: all of them if whole rows were requested, else the needed ones.
    pub fn object(&self, row: usize) -> Map<String, Value> {
        let fields = self.fields.iter().map(|(name, texts)| (name.as_str(), texts.text(row)));
        mopd_data::record(self.rows.as_ref().map(|rows| rows.text(row)), self.prompt(row), fields)
    }

    /// All that is read of a row as text: its prompt or its messages as JSON, and the requested fields.
    pub fn texts(&self, row: usize) -> impl Iterator<Item = &str> {
        let conversation = self.conversations.as_ref().map(|conversations| conversations.text(row));
        let fields = self.fields.iter().map(move |(_, texts)| texts.text(row));
        std::iter::once(self.prompt(row)).chain(conversation).chain(fields)
    }

    /// Whether rows are conversations, or prompts that a model's template turns into conversations.
    pub fn is_chat(&self) -> bool {
        self.conversations.is_some()
    }

    /// The conversation of a row; `None` where prompts are plain text.
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

    /// A list for every row, computed on all cores.
    pub fn lists<E: From<DataError> + Send>(
        &self,
        make: impl Fn(usize) -> Result<Vec<i64>, E> + Sync,
    ) -> Result<Lists<i64>, E> {
        let full = |error: std::io::Error| {
            E::from(DataError::of_file(
                &self.path,
                DataProblem::Unreadable { cause: format!("no room for its tokens: {error}") },
            ))
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut lists = Builder::default();
        // In parts, so that not all lists are in memory twice.
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

    /// The file of a row, and its place in the file.
    pub fn place(&self, row: usize) -> (&Path, RowPlace) {
        let file = self.first.partition_point(|first| *first <= row) - 1;
        (&self.files[file], self.places[row])
    }

    /// An error about a row.
    pub fn error(&self, row: usize, problem: DataProblem) -> DataError {
        let (file, place) = self.place(row);
        DataError::new(file, place, problem)
    }
}

/// The conversation of one line of JSON: its prompt or messages, tools, documents and variables of the
/// template.
pub fn conversation(line: &str, system: Option<&str>) -> Result<Conversation, DataProblem> {
    let source = DataSource::file("");
    let format = PromptFormat::Chat { system: system.map(str::to_owned) };
    let mut reading = RowCollector::new(DatasetRequest {
        source: &source,
        format: &format,
        fields: &[],
        whole: false,
        routes: &[],
        numbers: &[],
        notes: None,
    });
    let object = match Json::parse(line).map_err(|error| DataProblem::not_json(line, &error))? {
        Json::Object(object) => object,
        other => return Err(DataProblem::NotAnObject { found: describe(&other) }),
    };
    let wanted = RowProjection { columns: &reading.columns(), whole: false };
    let _ = reading.take(wanted.of_object(RowPlace::File, object))?;
    let read = reading.finish().map_err(|error| DataProblem::Unreadable { cause: error.to_string() })?;
    Ok(read.conversation(0).expect("the format is chat"))
}

fn with_parts(conversation: Conversation, parts: &Object) -> Conversation {
    let part = |name: &str| parts.get(name).unwrap_or(&Json::Null);
    let conversation = conversation.with_tools(part(TOOLS)).with_documents(part(DOCUMENTS));
    match parts.get(VARIABLES) {
        Some(Json::Object(variables)) => conversation.with_variables(variables),
        _ => conversation,
    }
}
