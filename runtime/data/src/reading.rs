//! Reads what was requested of rows.

use std::borrow::Cow;
use std::cell::Cell;

use mopd_plan::{DataFault, DataFormula, DataValue, FieldColumn, NullField, PromptFormat};
use regex::Regex;
use serde_json::{Map, Value};

use crate::error::{DataProblem, RowPlace};
use crate::json::{Json, JsonNumber, Object, describe};
use crate::messages::{self, MessageForms};
use crate::numbers::{read, text};
use crate::quote::quote;
use crate::request::{DOCUMENTS, DatasetRequest, Field, FieldKind, MESSAGES, PROMPT, TOOLS, VARIABLES};
use crate::rows::DataRow;
use crate::structs::nested;
use crate::unread::{DataWarning, UnreadColumns};
use crate::{numerals, trajectory};

/// Reads rows, one after the other.
pub struct RowReader<'a> {
    request: DatasetRequest<'a>,
    /// The columns to read, those of needed fields first.
    columns: Vec<String>,
    left_out: u64,
    taken: u64,
    forms: Cell<MessageForms>,
    unread: UnreadColumns,
    /// The fields that are a part of a column, whose values stand behind those of the columns.
    extracted: Vec<ExtractedField<'a>>,
    /// Rows that are left out, by their numbers among those that the filter and the limit leave, in order.
    without: Vec<usize>,
}

/// A field that is a part of a column's text.
struct ExtractedField<'a> {
    field: &'a str,
    /// The position of the column among those that are read.
    column: usize,
    pattern: &'a str,
    compiled: Result<Regex, regex::Error>,
}

impl ExtractedField<'_> {
    /// The field's value for one of the column. `None` where the pattern matches nowhere.
    fn value(&self, column: Option<&Json>) -> Result<Option<Json>, DataProblem> {
        let pattern = self.compiled.as_ref().map_err(|error| DataProblem::LargePattern {
            pattern: self.pattern.to_owned(),
            cause: error.to_string(),
        })?;
        let text = column.and_then(text);
        let groups = text.as_deref().and_then(|text| pattern.captures(text));
        let part = groups.and_then(|groups| groups.get(usize::from(groups.len() > 1)));
        Ok(part.map(|part| Json::String(part.as_str().to_owned())))
    }
}

/// What becomes of a row.
pub enum RowOutcome<'r> {
    Read(ReadRow<'r>),
    /// The filter does not hold.
    LeftOut,
    /// There are enough rows already.
    Enough,
}

/// What was requested of a row.
pub struct ReadRow<'r> {
    pub place: RowPlace,
    /// The prompt as text, and as a conversation in JSON where there is more to it. A trajectory has one for
    /// each of its turns.
    pub prompts: Vec<(String, String)>,
    /// The requested fields with one text per row.
    pub texts: Vec<Cow<'r, str>>,
    /// For each route, the arm.
    pub arms: Vec<u32>,
    /// For each formula, the value.
    pub numbers: Vec<f64>,
    /// The whole row as JSON, if it was requested.
    pub whole: Option<String>,
}

impl<'a> RowReader<'a> {
    pub fn new(request: DatasetRequest<'a>) -> RowReader<'a> {
        let mut columns: Vec<String> = Vec::new();
        let source = request.source;
        let formulas = source.filter.iter().chain(request.routes.iter().flatten()).chain(request.numbers);
        let chat = [PROMPT, MESSAGES, TOOLS, DOCUMENTS, VARIABLES];
        let chat = if request.format == &PromptFormat::Text { &chat[..2] } else { &chat };
        let chat = if request.trajectory().is_some() { &chat[2..] } else { chat };
        let fields = request.fields.iter().map(|field| field.name);
        for field in fields.chain(formulas.flat_map(DataFormula::fields)).chain(chat.iter().copied()) {
            let column = source.column(field);
            if !columns.iter().any(|known| known == column) {
                columns.push(column.to_owned());
            }
        }
        let mut extracted = Vec::new();
        for FieldColumn { field, column, pattern } in &source.columns {
            let Some(pattern) = pattern else { continue };
            let position = columns.iter().position(|known| known == column).unwrap_or_else(|| {
                columns.push(column.clone());
                columns.len() - 1
            });
            extracted.push(ExtractedField {
                field,
                column: position,
                pattern,
                compiled: Regex::new(pattern),
            });
        }
        let unread = UnreadColumns::new(&request, &columns);
        columns.extend(unread.columns().map(str::to_owned));
        RowReader {
            request,
            columns,
            left_out: 0,
            taken: 0,
            forms: Cell::default(),
            unread,
            extracted,
            without: Vec::new(),
        }
    }

    /// What the messages of the rows so far have that is a part of the data's hash.
    pub fn forms(&self) -> MessageForms {
        self.forms.get()
    }

    /// What is most likely a slip in the rows so far.
    pub fn warnings(&self) -> Vec<DataWarning> {
        self.unread.warnings(&self.request.source.path)
    }

    /// The same without some rows, by their numbers among those that it would read, in order.
    pub fn without(self, rows: Vec<usize>) -> RowReader<'a> {
        RowReader { without: rows, ..self }
    }

    /// The columns to read.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The rows so far for which the filter does not hold.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Whether the source's limit is reached.
    pub fn has_enough(&self) -> bool {
        self.request.source.limit.is_some_and(|limit| self.taken >= u64::from(limit))
    }

    pub fn read<'r>(&mut self, row: &'r mut DataRow) -> Result<RowOutcome<'r>, DataProblem> {
        if self.has_enough() {
            return Ok(RowOutcome::Enough);
        }
        let object = row.whole.take();
        for field in &self.extracted {
            let value = field.value(row.values[field.column].as_ref())?;
            row.values.push(value);
        }
        let row: &'r DataRow = row;
        if let Some(filter) = &self.request.source.filter
            && !self.holds(filter, row, NullField::Unknown)?
        {
            self.left_out += 1;
            return Ok(RowOutcome::LeftOut);
        }
        let whole = object.map(|object| self.whole(object, row)).transpose()?;
        let arms = self.request.routes.iter().map(|conditions| self.arm(conditions, row));
        let arms: Vec<u32> = arms.collect::<Result<_, _>>()?;
        let numbers = self.request.numbers.iter().map(|formula| self.number(formula, row));
        let numbers: Vec<f64> = numbers.collect::<Result<_, _>>()?;
        let prompts = match self.request.trajectory() {
            None => vec![self.prompt(row)?],
            Some(field) => self.turns(field, row)?,
        };
        let texts = self.request.texts().map(|field| self.text(field, row));
        let texts: Vec<Cow<str>> = texts.collect::<Result<_, _>>()?;
        let number = self.taken as usize;
        self.taken += 1;
        if self.without.binary_search(&number).is_ok() {
            self.left_out += 1;
            return Ok(RowOutcome::LeftOut);
        }
        let watched = self.columns.len() - self.unread.columns().count();
        let watched = &row.values[watched..self.columns.len()];
        self.unread.note(row.place, watched.iter().map(Option::as_ref));
        Ok(RowOutcome::Read(ReadRow { place: row.place, prompts, texts, arms, numbers, whole }))
    }

    /// The value of a row's field, if it has the field.
    fn value<'r>(&self, row: &'r DataRow, field: &str) -> Option<&'r Json> {
        if let Some(extracted) = self.extracted.iter().position(|extracted| extracted.field == field) {
            return row.values[self.columns.len() + extracted].as_ref();
        }
        let column = self.request.source.column(field);
        row.values[self.columns.iter().position(|known| known == column)?].as_ref()
    }

    /// The text of a field.
    fn text<'r>(&self, field: &Field, row: &'r DataRow) -> Result<Cow<'r, str>, DataProblem> {
        let value = self.value(row, field.name).ok_or_else(|| self.missing(field.name, row))?;
        let wrong = |wanted| DataProblem::TypeMismatch {
            field: field.name.to_owned(),
            wanted,
            found: describe(value),
        };
        if let (Json::Array(_), PromptFormat::Chat { .. }) = (value, self.request.format) {
            return self.answer(field.name, value, row).map(Cow::Owned);
        }
        let text = text(value).ok_or_else(|| wrong("a string or a number"))?;
        if field.kind == FieldKind::Number && numerals::whole(&text).is_none() {
            return Err(wrong("a number"));
        }
        Ok(text)
    }

    /// The text of a field that is a list of messages: the assistant's answer to the prompt, which may stand
    /// before it.
    fn answer(&self, field: &str, value: &Json, row: &DataRow) -> Result<String, DataProblem> {
        let wrong = |problem: String| DataProblem::Chat {
            problem: format!("the field `{field}`: {problem}"),
            help: Some(
                "write the answer as a string, or as a list such as [{\"role\": \"assistant\", \"content\": \
                 \"4\"}], which may have the messages of the prompt before it"
                    .to_owned(),
            ),
        };
        let messages = messages::in_our_layout(value);
        let answered = messages::answered(&messages).map_err(wrong)?;
        self.note(answered.before);
        let (_, prompt) = self.asked(row)?;
        let is_prompt = match &*prompt {
            Json::Array(prompt) => answered.before == prompt,
            Json::String(prompt) => {
                let content =
                    |message: &Json| message.as_object()?.get("content")?.as_str().map(str::to_owned);
                answered.before.len() == 1 && content(&answered.before[0]).as_ref() == Some(prompt)
            }
            _ => false,
        };
        if !answered.before.is_empty() && !is_prompt {
            return Err(wrong("the messages before the answer are not those of the prompt".to_owned()));
        }
        Ok(answered.text.into_owned())
    }

    /// The prompt and the name of its field: a text or a list of messages. Of rows that have none, it is what
    /// stands before the answer in the first field that is a list of messages.
    fn asked<'r>(&self, row: &'r DataRow) -> Result<(&'a str, Cow<'r, Json>), DataProblem> {
        if let Some(found) =
            [PROMPT, MESSAGES].into_iter().find_map(|field| Some((field, self.value(row, field)?)))
        {
            return Ok((found.0, messages::in_our_layout(found.1)));
        }
        let chat = self.request.format != &PromptFormat::Text;
        let fields = self.request.texts().filter(|_| chat);
        let lists = fields.filter_map(|field| Some((field.name, self.value(row, field.name)?)));
        for (field, list) in lists.filter(|(_, value)| matches!(value, Json::Array(_))) {
            let list = messages::in_our_layout(list);
            if let Ok(answered) = messages::answered(&list)
                && !answered.before.is_empty()
            {
                return Ok((field, Cow::Owned(Json::Array(answered.before.to_vec()))));
            }
        }
        Err(self.missing(PROMPT, row))
    }

    fn note(&self, messages: &[Json]) {
        self.forms.set(self.forms.get().or(MessageForms::of(messages)));
    }

    /// A whole row as JSON, with the field names that the domain gives.
    fn whole(&self, object: Object, row: &DataRow) -> Result<String, DataProblem> {
        let source = self.request.source;
        let of_structs = source.columns.iter().filter(|column| !object.contains_key(&column.column));
        let of_structs = of_structs.filter_map(|of| Some((of.field.clone(), nested(&object, &of.column)?)));
        let of_structs: Vec<(String, Json)> = of_structs.collect();
        let mut object: Object = source.renamed(object).into_iter().chain(of_structs).collect();
        for ExtractedField { field, .. } in &self.extracted {
            match self.value(row, field) {
                Some(value) => object.insert((*field).to_owned(), value.clone()),
                None => object.shift_remove(*field),
            };
        }
        for (field, value) in &object {
            // The program that reads the row gets a number's value. A field of a reward is its text, or the
            // decimal number.
            let needed = self.request.texts().find(|needed| needed.name == field);
            let keeps = |number: &JsonNumber| match needed.map(|needed| needed.kind) {
                Some(FieldKind::Number) => number.is_exact(),
                Some(_) => !number.is_rewritten(),
                None => true,
            };
            match value {
                Json::Number(number) if !keeps(number) => {
                    return Err(DataProblem::rewritten(field, number));
                }
                value => readable(field, value)?,
            }
        }
        Ok(Json::Object(object).to_string())
    }

    /// A prompt, with its conversation, for each turn of a trajectory.
    fn turns(&self, field: &str, row: &DataRow) -> Result<Vec<(String, String)>, DataProblem> {
        let value = self.value(row, field).ok_or_else(|| self.missing(field, row))?;
        // Tables have no columns of free structure, so lists of messages may be JSON text.
        let parsed = if let Json::String(text) = value { Json::parse(text).ok() } else { None };
        let messages = messages::in_our_layout(parsed.as_ref().unwrap_or(value));
        let turns = trajectory::turns(field, &messages)?;
        readable(field, &messages)?;
        self.note(messages.as_array().unwrap_or_default());
        if self.request.format == &PromptFormat::Text {
            return turns.iter().map(|turn| Ok((turn.text(field)?, String::new()))).collect();
        }
        let parts = self.parts(row)?;
        let conversation = |turn: &trajectory::Turn| {
            let mut parts = parts.clone();
            let question = last_question(turn.before);
            parts.insert(MESSAGES.to_owned(), Json::Array(turn.before.to_vec()));
            (question, Json::Object(parts).to_string())
        };
        Ok(turns.iter().map(conversation).collect())
    }

    fn missing(&self, field: &str, row: &DataRow) -> DataProblem {
        if let Some(extracted) = self.extracted.iter().find(|extracted| extracted.field == field)
            && let Some(value) = &row.values[extracted.column]
        {
            let text = text(value).map_or_else(|| describe(value), |text| quote(&text));
            let pattern = extracted.pattern.to_owned();
            return DataProblem::NotInText { field: field.to_owned(), pattern, text };
        }
        let column = self.request.source.column(field);
        let read_as = (column != field).then(|| field.to_owned());
        DataProblem::missing(column, row.present.iter().map(String::as_str)).read_as(read_as)
    }

    /// The index of the first condition that holds. Fields of later conditions may be missing.
    fn arm(&self, conditions: &[DataFormula], row: &DataRow) -> Result<u32, DataProblem> {
        for (arm, condition) in conditions.iter().enumerate() {
            if self.holds(condition, row, NullField::Fault)? {
                return Ok(arm as u32);
            }
        }
        Ok(conditions.len() as u32)
    }

    fn holds(&self, formula: &DataFormula, row: &DataRow, null: NullField) -> Result<bool, DataProblem> {
        // A column without that part is to a filter like one that is null.
        let without_part = |field: &str| {
            let extracted = self.extracted.iter().find(|extracted| extracted.field == field)?;
            row.values[extracted.column].as_ref().filter(|_| null == NullField::Unknown)?;
            Some(DataValue::Null)
        };
        let value = |field: &str| self.value(row, field).map(read).or_else(|| without_part(field));
        formula.holds(null, value).map_err(|fault| self.fault(fault, row))
    }

    fn number(&self, formula: &DataFormula, row: &DataRow) -> Result<f64, DataProblem> {
        let value = |field: &str| self.value(row, field).map(read);
        formula.of_row(NullField::Fault, value).map_err(|fault| self.fault(fault, row))
    }

    fn fault(&self, fault: DataFault, row: &DataRow) -> DataProblem {
        match fault {
            DataFault::Missing { field } => self.missing(field, row),
            DataFault::Mismatch { field, wanted } => DataProblem::TypeMismatch {
                field: field.to_owned(),
                wanted,
                found: self.value(row, field).map(describe).unwrap_or_default(),
            },
        }
    }

    /// The fields besides the messages that a template reads.
    fn parts(&self, row: &DataRow) -> Result<Object, DataProblem> {
        let mut parts = Object::default();
        for name in [TOOLS, DOCUMENTS, VARIABLES] {
            if let Some(value) = self.value(row, name).filter(|value| !value.is_null()) {
                // Tables have no columns of free structure, so schemas are often JSON text.
                let value = match value {
                    Json::String(text) => {
                        Json::parse(text).map_err(|error| DataProblem::not_json(text, &error))?
                    }
                    value => value.clone(),
                };
                let (fits, wanted) = match name {
                    VARIABLES => (matches!(value, Json::Object(_)), "an object"),
                    _ => (matches!(value, Json::Array(_)), "a list"),
                };
                if !fits {
                    return Err(DataProblem::TypeMismatch {
                        field: name.to_owned(),
                        wanted,
                        found: describe(&value),
                    });
                }
                readable(name, &value)?;
                parts.insert(name.to_owned(), value);
            }
        }
        Ok(parts)
    }

    /// The prompt as text, and as a conversation where there is more to it.
    fn prompt(&self, row: &DataRow) -> Result<(String, String), DataProblem> {
        let (field, asked) = self.asked(row)?;
        let value = &*asked;
        let wrong =
            |wanted| DataProblem::TypeMismatch { field: field.to_owned(), wanted, found: describe(value) };
        if self.request.format == &PromptFormat::Text {
            return match value {
                Json::String(prompt) => Ok((prompt.clone(), String::new())),
                Json::Array(_) => Err(DataProblem::Conversation { field: field.to_owned() }),
                _ => Err(wrong("a string")),
            };
        }
        let mut parts = self.parts(row)?;
        let prompt = match value {
            Json::String(prompt) => prompt.clone(),
            Json::Array(messages) => {
                messages::roles(value).map_err(DataProblem::messages)?;
                readable(field, value)?;
                self.note(messages);
                parts.insert(MESSAGES.to_owned(), value.clone());
                last_question(messages)
            }
            _ => return Err(wrong("a string or a list of messages")),
        };
        Ok((prompt, if parts.is_empty() { String::new() } else { Json::Object(parts).to_string() }))
    }
}

/// What a verifier gets of a row: all of it, if whole rows were requested, else the prompt and the requested
/// fields.
pub fn record<'t>(
    whole: Option<&str>,
    prompt: &'t str,
    fields: impl Iterator<Item = (&'t str, &'t str)>,
) -> Map<String, Value> {
    match whole {
        Some(whole) => serde_json::from_str(whole).expect("an object was written"),
        None => std::iter::once((PROMPT, prompt))
            .chain(fields)
            .map(|(name, text)| (name.to_owned(), Value::from(text)))
            .collect(),
    }
}

/// Refuses a value with a number that programs and templates would read as another one.
fn readable(field: &str, value: &Json) -> Result<(), DataProblem> {
    value.long_number().map_or(Ok(()), |number| Err(DataProblem::rewritten(field, number)))
}

/// The text of the last message that is not the assistant's.
fn last_question(messages: &[Json]) -> String {
    let asked = messages.iter().rev().find(|message| {
        message.as_object().and_then(|message| message.get("role")?.as_str()) != Some("assistant")
    });
    match asked.and_then(|message| message.as_object()?.get("content")) {
        Some(Json::String(text)) => text.clone(),
        Some(Json::Null) | None => String::new(),
        Some(parts) => messages::text_of(parts).map_or_else(|| parts.to_string(), Cow::into_owned),
    }
}
