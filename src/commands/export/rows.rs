//! The rows of an export: for each domain, the rows that the steps of a run train on, with the same share of
//! every step, in another order.

use std::ops::ControlFlow;
use std::path::Path;

use mopd_compiler::export::ExportEngine;
use mopd_compiler::export::stage::{DomainPart, ExportSettings, RowFacts};
use mopd_data::json::{Json, Object};
use mopd_data::{DataError, DataProblem, DataRow, Reach, RowProjection};
use mopd_plan::views::{Moment, Slot};
use mopd_plan::{
    DataFault, DataFormula, DataSource, DataValue, Domain, Length, ModelId, NullField, Objective, Plan,
    PromptFormat, Reward, RewardPart, Share, Stage, Train, View, number_of_text, quotas,
};
use serde_json::{Map, Value, json};

use crate::problem::Problem;

/// Columns that a chat template may read besides the messages.
const BESIDE_MESSAGES: [&str; 3] = ["tools", "documents", "chat_template_kwargs"];

/// The rows of one domain of a stage.
pub struct DomainRows {
    rows: Vec<ExportRow>,
    longest_prompt: u32,
}

struct ExportRow {
    /// The original row, by the names of its columns.
    columns: Map<String, Value>,
    /// A text, or the conversation that a rollout starts from.
    prompt: Value,
}

impl DomainRows {
    pub fn facts(&self) -> RowFacts {
        RowFacts { rows: self.rows.len() as u32, longest_prompt: self.longest_prompt }
    }
}

/// The rows of every domain that a stage is trained on, in the order of its mixture.
pub fn read(plan: &Plan, model: ModelId, base: &Path) -> Result<Vec<DomainRows>, Problem> {
    let Stage::Train(train) = &plan.experiment.model(model).stage else { return Ok(Vec::new()) };
    let of_domain = |share: &Share| {
        let arms = train.scorers.routed().iter().filter(|choice| choice.domain == share.domain);
        let conditions: Vec<&DataFormula> = arms.map_while(|choice| choice.when.as_ref()).collect();
        of_domain(plan.experiment.domain(share.domain), &conditions, base)
    };
    train.mixture.iter().map(of_domain).collect()
}

fn of_domain(domain: &Domain, conditions: &[&DataFormula], base: &Path) -> Result<DomainRows, Problem> {
    let source = &domain.prompts;
    let path = mopd_data::path_as_written(base, &source.path);
    let mut rows = Vec::new();
    let mut longest = 0;
    let unread = |error: &DataError| {
        let code =
            if matches!(*error.problem, DataProblem::Missing { .. }) { "can't-read" } else { "wrong-data" };
        Problem::usage(code, error.to_string()).help(error.help())
    };
    let mut take = |row: DataRow| -> Result<Option<ExportRow>, String> {
        let columns = columns_of(row.whole.unwrap_or_default())?;
        if let Some(filter) = &source.filter
            && !holds(filter, NullField::Unknown, source, &columns)?
        {
            return Ok(None);
        }
        for condition in conditions {
            if holds(condition, NullField::Fault, source, &columns)? {
                break;
            }
        }
        for (field, kind) in needed(&domain.reward) {
            text_of(field, kind, source, &columns)?;
        }
        let prompt = prompt(&domain.format, source, &columns)?;
        longest = longest.max(prompt.as_str().map_or_else(|| prompt.to_string().len(), str::len));
        Ok(Some(ExportRow { columns, prompt }))
    };
    let mut wrong = None;
    let whole = RowProjection { columns: &[], whole: true };
    for file in mopd_data::find(&path, source.split.as_deref()).map_err(|error| unread(&error))? {
        let read = mopd_data::read(&file, whole, Reach::First { bytes: u64::MAX }, &mut |row| {
            let place = row.place;
            match take(row) {
                Ok(row) => rows.extend(row),
                Err(what) => {
                    let message = format!("{}, {}: {what}", file.path.display(), place.words());
                    wrong = Some(Problem::usage("wrong-data", message));
                }
            }
            let enough = source.limit.is_some_and(|limit| rows.len() >= limit as usize);
            Ok(if enough || wrong.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        read.map_err(|error| unread(&error))?;
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        if source.limit.is_some_and(|limit| rows.len() >= limit as usize) {
            break;
        }
    }
    if rows.is_empty() {
        return Err(Problem::usage("wrong-data", format!("{} has no row to train on", path.display())));
    }
    Ok(DomainRows { rows, longest_prompt: longest as u32 })
}

/// The columns of a row. A number keeps its digits.
fn columns_of(row: Object) -> Result<Map<String, Value>, String> {
    let column = |(name, value): (String, Json)| {
        let value = serde_json::from_str(&value.to_string()).map_err(|error| error.to_string())?;
        Ok((name, value))
    };
    row.into_iter().map(column).collect()
}

/// The prompt in its original form.
fn prompt(format: &PromptFormat, source: &DataSource, columns: &Map<String, Value>) -> Result<Value, String> {
    let value = |field: &str| columns.get(source.column(field));
    let given = value("prompt").or_else(|| value("messages"));
    let given = match (format, given) {
        (PromptFormat::Text, Some(Value::Array(_))) => {
            let what = "the prompt is a list of messages, but prompts are plain text";
            return Err(format!("{what}: write `format = chat` in the domain"));
        }
        (_, Some(given @ (Value::String(_) | Value::Array(_)))) => given.clone(),
        _ => return Err("the row has no `prompt`, a text or a list of messages".to_owned()),
    };
    let PromptFormat::Chat { system } = format else { return Ok(given) };
    if let Some(beside) =
        BESIDE_MESSAGES.iter().find(|name| value(name).is_some_and(|value| !value.is_null()))
    {
        return Err(format!("`{beside}` of a conversation is not exported"));
    }
    Ok(conversation(given, system.as_deref()))
}

/// Whether a formula holds in a row, by the rules of a run.
fn holds(
    formula: &DataFormula,
    null: NullField,
    source: &DataSource,
    columns: &Map<String, Value>,
) -> Result<bool, String> {
    let value = |field: &str| columns.get(source.column(field)).map(read_value);
    formula.holds(null, value).map_err(|fault| match fault {
        DataFault::Missing { field } => missing(field, source, columns),
        DataFault::Mismatch { field, wanted } => mismatch(field, wanted, source, columns),
    })
}

fn read_value(value: &Value) -> DataValue<'_> {
    match value {
        Value::Null => DataValue::Null,
        Value::Bool(truth) => DataValue::Bool(*truth),
        Value::String(text) => DataValue::Text(text.into()),
        Value::Number(number) => DataValue::Text(number.to_string().into()),
        Value::Array(_) | Value::Object(_) => DataValue::Other,
    }
}

fn missing(field: &str, source: &DataSource, columns: &Map<String, Value>) -> String {
    let present: Vec<&str> = columns.keys().map(String::as_str).collect();
    format!("the field `{}` is missing; found `{}`", source.column(field), present.join("`, `"))
}

fn mismatch(field: &str, wanted: &str, source: &DataSource, columns: &Map<String, Value>) -> String {
    let found = columns.get(source.column(field)).map(Value::to_string).unwrap_or_default();
    format!("the field `{field}` must be {wanted}; found {found}")
}

/// The type of the field that a verifier compares with a completion.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TargetKind {
    Text,
    Number,
}

/// The fields that exportable verifiers read.
fn needed(reward: &Reward) -> Vec<(&str, TargetKind)> {
    match reward {
        Reward::ExactMatch { field } => vec![(field, TargetKind::Text)],
        Reward::Numeric { field, .. } => vec![(field, TargetKind::Number)],
        Reward::Regex { pattern, field } => {
            let reads = Reward::has_answer_group(pattern);
            reads.then_some((field.as_str(), TargetKind::Text)).into_iter().collect()
        }
        Reward::Parts { parts } => {
            parts.iter().flat_map(|RewardPart { reward, .. }| needed(reward)).collect()
        }
        _ => Vec::new(),
    }
}

fn text_of(
    field: &str,
    kind: TargetKind,
    source: &DataSource,
    columns: &Map<String, Value>,
) -> Result<(), String> {
    let value = columns.get(source.column(field)).ok_or_else(|| missing(field, source, columns))?;
    match (read_value(value), kind) {
        (DataValue::Text(text), TargetKind::Number) if number_of_text(&text).is_none() => {
            Err(mismatch(field, "a number", source, columns))
        }
        (DataValue::Text(_), _) => Ok(()),
        _ => Err(mismatch(field, "a string or a number", source, columns)),
    }
}

/// The rows of all batches, one per line.
pub fn lines(
    engine: ExportEngine,
    settings: &ExportSettings,
    rows: &[DomainRows],
    messages: bool,
) -> Result<String, Problem> {
    let batches = settings.batches().unwrap_or(0);
    let mut order = DomainOrder::new(settings, rows);
    let mut text = String::new();
    let mut group = 0u64;
    let steps = settings.steps.unwrap_or(0);
    for batch in 0..batches {
        let moment = Moment::Step { step: batch * settings.train.updates_per_batch(), steps, learned: None };
        for (domain, row) in order.step(settings.groups) {
            let part = &settings.domains[domain];
            let line = line(engine, settings, part, &rows[domain].rows[row], messages, group, moment)?;
            text += &line.to_string();
            text.push('\n');
            group += 1;
        }
    }
    if group == 0 {
        return Err(Problem::usage(
            "wrong-data",
            "there are fewer rows than a batch has, so no step would be trained",
        ));
    }
    Ok(text)
}

fn line(
    engine: ExportEngine,
    settings: &ExportSettings,
    part: &DomainPart,
    row: &ExportRow,
    messages: bool,
    group: u64,
    moment: Moment,
) -> Result<Value, Problem> {
    let Domain { name: domain, prompts: source, reward, .. } = part.domain;
    let prompt = match &row.prompt {
        Value::String(text) if messages => json!([{"role": "user", "content": text}]),
        prompt => prompt.clone(),
    };
    // Errors of the conditions were reported when the row was read.
    let takes = |when: &DataFormula| holds(when, NullField::Fault, source, &row.columns).unwrap_or(false);
    let arm = part.arms.iter().find(|arm| arm.when.as_ref().is_none_or(takes));
    let exported = arm.map(|arm| &settings.teachers[arm.teacher]);
    let teacher = exported.map(|teacher| teacher.key.as_str());
    let shown = exported.and_then(|teacher| teacher.sees.as_ref());
    let shown = shown.map(|view| seen(view, moment, source, row)).transpose();
    let shown = shown.map_err(|what| Problem::usage("wrong-data", format!("{}: {what}", source.path)))?;
    let mut whole: Map<String, Value> = source.renamed(row.columns.clone()).into_iter().collect();
    // A column that is renamed can also be read by its own name.
    for (field, _) in needed(reward) {
        if let Some(value) = row.columns.get(source.column(field)) {
            whole.insert(field.to_owned(), value.clone());
        }
    }
    let whole = Value::Object(whole).to_string();
    Ok(match engine {
        ExportEngine::Verl => json!({
            "data_source": domain,
            "teacher": teacher,
            "prompt": prompt,
            "reward_model": {"style": "rule", "ground_truth": whole},
            "extra_info": {"index": group, "shown": shown},
        }),
        ExportEngine::Trl => json!({
            "prompt": prompt,
            "teacher": teacher,
            "domain": domain,
            "group": group,
            "row": whole,
        }),
    })
}

/// What a teacher with a template reads in place of a row's prompt, as messages.
fn seen(view: &View, moment: Moment, source: &DataSource, row: &ExportRow) -> Result<Value, String> {
    let ExportRow { columns, prompt } = row;
    let conversation = prompt.as_array();
    let last = match conversation {
        Some(messages) => messages.last().and_then(|message| message["content"].as_str()),
        None => prompt.as_str(),
    };
    let prompt = last.ok_or("the last message is not a text")?;
    let mut fields: Map<String, Value> = Map::new();
    for field in view.fields() {
        text_of(field, TargetKind::Text, source, columns)?;
        let value = columns.get(source.column(field)).map(read_value);
        let Some(DataValue::Text(text)) = value else { return Err(missing(field, source, columns)) };
        fields.insert(field.to_owned(), json!(text));
    }
    let slot = |slot: &Slot| match slot {
        Slot::Prompt => prompt,
        Slot::Data(field) => fields.get(field).and_then(Value::as_str).unwrap_or_default(),
        // Such a template is refused.
        _ => "",
    };
    let text = view.filled(moment, slot, &[]);
    let Some(messages) = conversation else { return Ok(json!([{"role": "user", "content": text}])) };
    let mut messages = messages.clone();
    let asked = messages.pop().map_or_else(|| json!("user"), |message| message["role"].clone());
    if view.has_prompt() {
        messages.push(json!({"role": asked, "content": text}));
    } else {
        messages.retain(|message| message["role"] == "system");
        messages.push(json!({"role": "user", "content": text}));
    }
    Ok(Value::Array(messages))
}

/// A rollout gets the conversation without its trailing assistant messages.
fn conversation(prompt: Value, system: Option<&str>) -> Value {
    let system = system.map(|text| json!({"role": "system", "content": text}));
    match prompt {
        Value::Array(mut messages) => {
            while messages.last().is_some_and(|last| last["role"] == "assistant") {
                messages.pop();
            }
            let own = messages.first().is_some_and(|first| first["role"] == "system");
            let system = system.filter(|_| !own);
            Value::Array(system.into_iter().chain(messages).collect())
        }
        text => Value::Array(system.into_iter().chain([json!({"role": "user", "content": text})]).collect()),
    }
}

/// The order of rows: every step keeps to the shares to within a row, rounding is carried over to the next
/// step, and no row of a domain comes twice before each has come once. A stage that trains in epochs visits
/// each row once per epoch: its shares are proportional to the rows.
struct DomainOrder {
    domains: Vec<DomainQueue>,
    drawn: u64,
    seed: u64,
}

struct DomainQueue {
    /// Its share of the total, normalised.
    share: f64,
    size: usize,
    drawn: u64,
    left: Vec<usize>,
}

impl DomainOrder {
    fn new(settings: &ExportSettings, rows: &[DomainRows]) -> DomainOrder {
        let sizes = rows.iter().map(|of| of.rows.len());
        let shares: Vec<f64> = shares(settings.train, sizes.clone());
        let turn = |(share, size)| DomainQueue { share, size, drawn: 0, left: Vec::new() };
        DomainOrder {
            domains: shares.into_iter().zip(sizes).map(turn).collect(),
            drawn: 0,
            seed: settings.seed,
        }
    }

    /// The domain and the row of each prompt of the next step.
    fn step(&mut self, groups: u32) -> Vec<(usize, usize)> {
        let after = self.drawn + u64::from(groups);
        let owed = |turn: &DomainQueue| turn.share * after as f64 - turn.drawn as f64;
        let counts = quotas(&mut self.domains.iter().map(owed).collect::<Vec<_>>(), groups);
        self.drawn = after;
        let mut found = Vec::with_capacity(groups as usize);
        for (at, (turn, count)) in self.domains.iter_mut().zip(counts).enumerate() {
            for _ in 0..count {
                if turn.left.is_empty() {
                    let pass = turn.drawn / turn.size as u64;
                    turn.left = shuffled(turn.size, [self.seed, at as u64, pass]);
                }
                found.extend(turn.left.pop().map(|row| (at, row)));
                turn.drawn += 1;
            }
        }
        found
    }
}

/// The shares of the domains, as in a run.
fn shares(train: &Train<Objective>, sizes: impl Iterator<Item = usize>) -> Vec<f64> {
    let shares: Vec<f64> = match train.length {
        Length::Steps(_) => train.mixture.iter().map(|of| of.share).collect(),
        Length::Epochs(_) => sizes.map(|size| size as f64).collect(),
    };
    let whole: f64 = shares.iter().sum();
    shares.into_iter().map(|share| share / whole).collect()
}

/// A pseudorandom permutation of the numbers below `size`, from the key (Fisher and Yates; SplitMix64).
fn shuffled(size: usize, key: [u64; 3]) -> Vec<usize> {
    let mut state = key.iter().fold(0u64, |state, part| mix(state ^ part));
    let mut order: Vec<usize> = (0..size).collect();
    for last in (1..size).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        order.swap(last, (mix(state) % (last as u64 + 1)) as usize);
    }
    order
}

fn mix(state: u64) -> u64 {
    let mut x = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
