//! The rows of an export: for each domain, the rows that the steps of a run train on, with the same share of
//! every step, in another order. They are read as a run reads them.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::path::Path;

use mopd_compiler::export::stage::{DomainPart, ExportSettings, RowFacts};
use mopd_compiler::export::{Export, ExportEngine, reference_of};
use mopd_data::reads::DomainReads;
use mopd_data::{
    DataError, DataProblem, DataRow, DatasetRequest, MESSAGES, Reach, ReadRow, RowOutcome, RowProjection,
    RowReader, SourceFiles,
};
use mopd_plan::views::{Moment, Slot};
use mopd_plan::{
    DataFormula, ExportedRecord, Length, ModelId, Objective, Plan, PromptFormat, Share, Signal, Stage, Train,
    View, quotas,
};
use serde_json::{Map, Value, json};

use crate::problem::Problem;

/// The rows of one domain of a stage.
#[derive(Default)]
pub struct DomainRows {
    rows: Vec<ExportRow>,
    longest_prompt: u32,
}

struct ExportRow {
    /// A text, or the conversation that a rollout starts from.
    prompt: Value,
    /// The arm of the route.
    arm: usize,
    /// The fields that templates show.
    fields: Map<String, Value>,
    /// The numbers that the objective reads, by name.
    numbers: Map<String, Value>,
    record: ExportedRecord,
    /// The record's, over all domains.
    number: usize,
}

impl DomainRows {
    fn add(&mut self, row: ExportRow) {
        let length = row.prompt.as_str().map_or_else(|| row.prompt.to_string().len(), str::len);
        self.longest_prompt = self.longest_prompt.max(length as u32);
        self.rows.push(row);
    }

    pub fn facts(&self) -> RowFacts {
        RowFacts { rows: self.rows.len() as u32, longest_prompt: self.longest_prompt }
    }
}

/// The rows of every domain that a stage is trained on, in the order of its mixture.
pub fn read(plan: &Plan, model: ModelId, base: &Path) -> Result<Vec<DomainRows>, Problem> {
    let Stage::Train(train) = &plan.experiment.model(model).stage else { return Ok(Vec::new()) };
    let unread = |error: DataError| {
        let code =
            if matches!(*error.problem, DataProblem::Missing { .. }) { "can't-read" } else { "wrong-data" };
        Problem::usage(code, error.to_string()).help(error.help())
    };
    let mut number = 0;
    let mut of_domain = |share: &Share| {
        let reads = DomainReads::of(plan, share.domain, &[model]);
        // No engine trains on the turns of trajectories.
        let Some(reads) = reads.prompts else { return Ok(DomainRows::default()) };
        let request = reads.request(None);
        let name = &plan.experiment.domain(share.domain).name;
        let mut rows = DomainRows::default();
        let mut reader = RowReader::new(request);
        let columns = reader.columns().to_vec();
        let wanted = RowProjection { columns: &columns, whole: request.whole };
        let SourceFiles { name: path, files } = mopd_data::files_of(base, request.source)?;
        for file in files {
            let take = &mut |mut row: DataRow| {
                match reader.read(&mut row)? {
                    RowOutcome::Read(read) => {
                        rows.add(export_row(train, name, &request, read, number)?);
                        number += 1;
                    }
                    RowOutcome::LeftOut => {}
                    RowOutcome::Enough => return Ok(ControlFlow::Break(())),
                }
                Ok(ControlFlow::Continue(()))
            };
            mopd_data::read(&file, wanted, Reach::First { bytes: u64::MAX }, take)?;
        }
        if rows.rows.is_empty() {
            let problem = match reader.left_out() {
                0 => DataProblem::Empty,
                rows => DataProblem::AllLeftOut { rows },
            };
            return Err(DataError::of_file(&path, problem));
        }
        Ok(rows)
    };
    train.mixture.iter().map(|share| of_domain(share).map_err(unread)).collect()
}

/// What an export has of a row, of which a request was read. `number` is that of its record.
fn export_row(
    train: &Train<Objective>,
    domain: &str,
    request: &DatasetRequest,
    read: ReadRow,
    number: usize,
) -> Result<ExportRow, DataProblem> {
    let ReadRow { place: _, prompts, texts, arms, numbers, whole } = read;
    let (question, conversation) = prompts.into_iter().next().expect("a row that is no trajectory has one");
    let names: Vec<&str> = request.texts().map(|field| field.name).collect();
    assert_eq!(names.len(), texts.len(), "a text for each field that was asked for");
    let fields: Vec<(&str, &str)> = names.into_iter().zip(texts.iter().map(Cow::as_ref)).collect();
    let of_data = |(_, formula): (Signal, DataFormula)| {
        let at = request.numbers.iter().position(|known| *known == formula)?;
        // In the precision of a run.
        Some((formula.text(), json!(numbers[at] as f32)))
    };
    let record = mopd_data::record(whole.as_deref(), &question, fields.iter().copied());
    Ok(ExportRow {
        prompt: prompt(request.format, &question, &conversation)?,
        arm: arms.first().map_or(0, |arm| *arm as usize),
        fields: fields.iter().map(|(name, text)| ((*name).to_owned(), json!(text))).collect(),
        numbers: train.data_signals().into_iter().filter_map(of_data).collect(),
        record: ExportedRecord { domain: domain.to_owned(), prompt: question, record },
        number,
    })
}

/// The prompt as a text, or as the conversation that a rollout starts from.
fn prompt(format: &PromptFormat, question: &str, conversation: &str) -> Result<Value, DataProblem> {
    let PromptFormat::Chat { system } = format else { return Ok(json!(question)) };
    let mut parts: Map<String, Value> = match conversation {
        "" => Map::new(),
        parts => serde_json::from_str(parts).expect("an object was written"),
    };
    let messages = parts.remove(MESSAGES).unwrap_or_else(|| json!(question));
    match parts.keys().next() {
        None => Ok(self::conversation(messages, system.as_deref())),
        Some(beside) => Err(DataProblem::Chat {
            problem: format!("`{beside}` of a conversation is not exported"),
            help: Some("engines pass only messages to a chat template: leave it out".to_owned()),
        }),
    }
}

/// The records of all rows, one per line, in the order of their numbers.
pub fn records(rows: &[DomainRows]) -> String {
    let all = rows.iter().flat_map(|of| &of.rows);
    let line = |row: &ExportRow| serde_json::to_string(&row.record).expect("it is plain data") + "\n";
    all.map(line).collect()
}

/// The rows of all batches, one per line.
pub fn lines(
    engine: ExportEngine,
    settings: &ExportSettings,
    rows: &[DomainRows],
    export: &Export,
) -> Result<String, Problem> {
    let batches = settings.batches().unwrap_or(0);
    let mut order = DomainOrder::new(settings, rows);
    let mut text = String::new();
    let mut group = 0u64;
    let steps = settings.steps.unwrap_or(0);
    for batch in 0..batches {
        let moment =
            Moment::Step { step: batch * settings.train.options.updates_per_batch(), steps, learned: None };
        for (domain, row) in order.step(settings.groups) {
            let part = &settings.domains[domain];
            let line = line(engine, settings, part, &rows[domain].rows[row], export, group, moment)?;
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
    export: &Export,
    group: u64,
    moment: Moment,
) -> Result<Value, Problem> {
    let domain = part.domain;
    let prompt = match &row.prompt {
        Value::String(text) if export.messages => json!([{"role": "user", "content": text}]),
        prompt => prompt.clone(),
    };
    let exported = part.arms.get(row.arm).map(|teacher| &settings.teachers[*teacher]);
    let teacher = exported.map(|teacher| teacher.key.as_str());
    let shown = exported.and_then(|teacher| teacher.sees.as_ref());
    let shown = shown.map(|view| seen(view, moment, row)).transpose();
    let shown =
        shown.map_err(|what| Problem::usage("wrong-data", format!("{}: {what}", domain.prompts.path)))?;
    let (mut line, beside) = match engine {
        ExportEngine::Verl => {
            let mut beside = json!({"index": group, "shown": shown});
            if !row.numbers.is_empty() {
                beside["numbers"] = json!(row.numbers);
            }
            // verl requires the entry of a reward model, which our function does not read.
            let reward_model = json!({"style": "rule", "ground_truth": ""});
            let line = json!({
                "data_source": domain.name,
                "teacher": teacher,
                "prompt": prompt,
                "reward_model": reward_model,
                "extra_info": beside,
            });
            (line, "/extra_info")
        }
        ExportEngine::Trl => {
            let shown = shown.map(|shown| match &row.prompt {
                Value::String(_) => shown[0]["content"].clone(),
                _ => shown,
            });
            let mut line = json!({
                "prompt": prompt,
                "models": models_of(settings, &domain.name, teacher),
                "shown": {"teacher": shown},
                "domain": domain.name,
                "group": group,
            });
            if !row.numbers.is_empty() {
                line["numbers"] = json!(row.numbers);
            }
            (line, "")
        }
    };
    if export.judged {
        line.pointer_mut(beside).expect("it was written")["record"] = json!(row.number);
    }
    Ok(line)
}

/// The name of the model that has each role for the prompts of a domain.
fn models_of(settings: &ExportSettings, domain: &str, teacher: Option<&str>) -> Value {
    let mut models = json!({"teacher": teacher});
    if settings.reference.is_some() {
        models["reference"] = json!("reference");
    } else if settings.references.iter().any(|(of, _)| of == domain) {
        models["reference"] = json!(reference_of(domain));
    }
    for of in settings.beside.iter().filter(|of| of.domain == domain) {
        models[of.role.name()] = json!(of.teacher.key);
    }
    models
}

/// What a teacher with a template reads in place of a row's prompt, as messages.
fn seen(view: &View, moment: Moment, row: &ExportRow) -> Result<Value, &'static str> {
    let conversation = row.prompt.as_array();
    let last = match conversation {
        Some(messages) => messages.last().and_then(|message| message["content"].as_str()),
        None => row.prompt.as_str(),
    };
    let prompt = last.ok_or("the last message is not a text")?;
    let slot = |slot: &Slot| match slot {
        Slot::Prompt => prompt,
        Slot::Data(field) => row.fields.get(field).and_then(Value::as_str).unwrap_or_default(),
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
