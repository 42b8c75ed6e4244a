//! The rows of an export: those that the steps train on, in their order.

use std::path::Path;

use mopd_compiler::export::ExportEngine;
use mopd_compiler::export::stage::{DomainPart, ExportSettings, RowFacts};
use mopd_compiler::plan::{DataFormula, DataSource, ModelId, Plan, PromptFormat, Stage};
use serde_json::{Map, Value, json};

use crate::problem::Problem;

/// The rows of one domain of a stage, as they are, with fields by their names.
pub struct DomainRows {
    rows: Vec<Map<String, Value>>,
    longest_prompt: u32,
}

impl DomainRows {
    pub fn facts(&self) -> RowFacts {
        RowFacts { rows: self.rows.len() as u32, longest_prompt: self.longest_prompt }
    }
}

/// The rows of every domain that a stage is trained on, in the order of its mixture.
pub fn read(plan: &Plan, model: ModelId, base: &Path) -> Result<Vec<DomainRows>, Problem> {
    let Stage::Train(train) = &plan.experiment.model(model).stage else { return Ok(Vec::new()) };
    let domains = train.mixture.iter().map(|share| plan.experiment.domain(share.domain));
    domains.map(|domain| of_source(&domain.prompts, base)).collect()
}

fn of_source(source: &DataSource, base: &Path) -> Result<DomainRows, Problem> {
    let path = base.join(&source.path);
    let is_lines = path.extension().is_some_and(|ending| ending == "jsonl" || ending == "json");
    if !is_lines || source.split.is_some() || source.path.contains('*') {
        let message = format!("`mopd export` reads one file of JSON lines, and `{}` is none", source.path);
        return Err(Problem::usage("not-supported-yet", message)
            .help("convert it: a line per row, with `prompt` and the fields that the reward reads"));
    }
    let unreadable = |error: &std::io::Error| {
        let reason = mopd_store::files::reason(error);
        Problem::usage("can't-read", format!("can't read {}: {reason}", path.display()))
            .help("paths are relative to the folder of the experiment's file")
    };
    let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&error))?;
    let mut rows = Vec::new();
    let mut longest = 0;
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let fault = |what: &str| {
            Problem::usage("wrong-data", format!("{}, line {}: {what}", path.display(), number + 1))
        };
        let mut row: Map<String, Value> =
            serde_json::from_str(line).map_err(|error| fault(&format!("no JSON object: {error}")))?;
        for column in &source.columns {
            if let Some(value) = row.remove(&column.column) {
                row.insert(column.field.clone(), value);
            }
        }
        if source.filter.as_ref().is_some_and(|filter| !holds(filter, &row)) {
            continue;
        }
        let prompt = row.get("prompt").or(row.get("messages"));
        match prompt {
            Some(Value::String(text)) => longest = longest.max(text.len()),
            Some(messages @ Value::Array(_)) => longest = longest.max(messages.to_string().len()),
            _ => return Err(fault("the row has no `prompt`, a text or a list of messages")),
        }
        if row.contains_key("tools") || row.contains_key("documents") {
            return Err(fault("`tools` and `documents` of a conversation are not exported"));
        }
        rows.push(row);
        if source.limit.is_some_and(|limit| rows.len() == limit as usize) {
            break;
        }
    }
    if rows.is_empty() {
        return Err(Problem::usage(
            "wrong-data",
            format!("{} has no row that is trained on", path.display()),
        ));
    }
    Ok(DomainRows { rows, longest_prompt: longest as u32 })
}

/// A row whose condition reads a null is left out.
fn holds(formula: &DataFormula, row: &Map<String, Value>) -> bool {
    let given = |field: &&str| row.get(*field).is_some_and(|value| !value.is_null());
    formula.fields().iter().all(given) && value(formula, row) != 0.0
}

fn value(formula: &DataFormula, row: &Map<String, Value>) -> f64 {
    let number = |field: &str| match row.get(field) {
        Some(Value::Bool(holds)) => f64::from(u8::from(*holds)),
        Some(value) => value.as_f64().unwrap_or(f64::NAN),
        None => f64::NAN,
    };
    formula.value(number, |field, text| row.get(field).and_then(Value::as_str) == Some(text))
}

/// The rows of all steps, one a line.
pub fn lines(
    engine: ExportEngine,
    settings: &ExportSettings,
    rows: &[DomainRows],
    messages: bool,
) -> Result<String, Problem> {
    let steps = settings.steps.unwrap_or(0);
    let mut order = Order::new(settings, rows);
    let mut text = String::new();
    let mut group = 0u64;
    for _ in 0..steps {
        for (domain, row) in order.step(settings.groups) {
            let part = &settings.domains[domain];
            let line = line(engine, settings, part, &rows[domain].rows[row], (messages, group));
            text += &line.to_string();
            text.push('\n');
            group += 1;
        }
    }
    if group == 0 {
        return Err(Problem::usage(
            "wrong-data",
            "the rows make no whole batch, so no step would be trained",
        ));
    }
    Ok(text)
}

fn line(
    engine: ExportEngine,
    settings: &ExportSettings,
    part: &DomainPart,
    row: &Map<String, Value>,
    (messages, group): (bool, u64),
) -> Value {
    let domain = &part.domain.name;
    let prompt = row.get("messages").or(row.get("prompt")).cloned().unwrap_or_default();
    let prompt = match (&part.domain.format, prompt) {
        (PromptFormat::Chat { system }, prompt) => conversation(prompt, system.as_deref()),
        (PromptFormat::Text, Value::String(text)) if messages => json!([{"role": "user", "content": text}]),
        (PromptFormat::Text, prompt) => prompt,
    };
    let arm = part.arms.iter().find(|arm| arm.when.as_ref().is_none_or(|when| value(when, row) != 0.0));
    let teacher = arm.map(|arm| settings.teachers[arm.teacher].key.as_str());
    let whole = Value::Object(row.clone()).to_string();
    match engine {
        ExportEngine::Verl => json!({
            "data_source": domain,
            "teacher": teacher,
            "prompt": prompt,
            "reward_model": {"style": "rule", "ground_truth": whole},
            "extra_info": {"index": group},
        }),
        ExportEngine::Trl => json!({
            "prompt": prompt,
            "teacher": teacher,
            "domain": domain,
            "group": group,
            "row": whole,
        }),
    }
}

/// A rollout gets the conversation without the assistant's last messages.
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

/// Which rows come: every step keeps to the shares to within a row, what rounding gave or took is carried
/// over, and no row of a domain comes twice before each has come once.
struct Order {
    domains: Vec<Turn>,
    drawn: u64,
    seed: u64,
}

struct Turn {
    share: f64,
    size: usize,
    drawn: u64,
    left: Vec<usize>,
}

impl Order {
    fn new(settings: &ExportSettings, rows: &[DomainRows]) -> Order {
        let turn = |(part, rows): (&DomainPart, &DomainRows)| Turn {
            share: part.share,
            size: rows.rows.len(),
            drawn: 0,
            left: Vec::new(),
        };
        Order {
            domains: settings.domains.iter().zip(rows).map(turn).collect(),
            drawn: 0,
            seed: settings.seed,
        }
    }

    /// The domain and the row of each prompt of the next step.
    fn step(&mut self, groups: u32) -> Vec<(usize, usize)> {
        let after = self.drawn + u64::from(groups);
        let owed = |turn: &Turn| turn.share * after as f64 - turn.drawn as f64;
        let mut counts: Vec<u64> =
            self.domains.iter().map(|turn| owed(turn).max(0.0).floor() as u64).collect();
        while counts.iter().sum::<u64>() < u64::from(groups) {
            let rest = |at: usize| owed(&self.domains[at]) - counts[at] as f64;
            let most = (0..counts.len()).max_by(|a, b| rest(*a).total_cmp(&rest(*b)).then(b.cmp(a)));
            counts[most.expect("a stage has a domain")] += 1;
        }
        while counts.iter().sum::<u64>() > u64::from(groups) {
            let least = (0..counts.len()).filter(|at| counts[*at] > 0).min_by(|a, b| {
                let rest = |at: usize| owed(&self.domains[at]) - counts[at] as f64;
                rest(*a).total_cmp(&rest(*b))
            });
            counts[least.expect("one has too many")] -= 1;
        }
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

/// The numbers below `size` in an order that the key decides (Fisher and Yates; SplitMix64).
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
