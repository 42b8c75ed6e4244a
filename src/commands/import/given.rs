//! Configurations as people have them: YAML, a shell script with Hydra's overrides, Python with keyword
//! arguments.

use std::cell::Cell;
use std::io::ErrorKind;
use std::path::Path;

use mopd_compiler::export::schema::{TRL, VERL};
use mopd_store::regular;
use serde_json::Value;

use super::secrets::without_secrets;
use super::{python, shell, trl};
use crate::host::{decode, reason};
use crate::problem::Problem;

/// Of which program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceTool {
    Verl,
    Trl { class: String },
}

/// What stands behind a key.
#[derive(Clone, Debug, PartialEq)]
pub enum GivenValue {
    Known(Value),
    /// Of a program, of the shell or of the environment: its value is not in the file.
    Expression(String),
}

pub type GivenPairs = Vec<(String, GivenValue)>;

/// What became of a setting while the experiment was put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingUse {
    /// Nobody asked for it: it has no counterpart.
    Unasked,
    /// Somebody asked, and could not read it.
    Unread,
    Used,
}

pub struct GivenSetting {
    /// `actor_rollout_ref.actor.optim.lr`
    pub path: String,
    pub value: GivenValue,
    state: Cell<SettingUse>,
}

impl GivenSetting {
    /// As it was written.
    pub fn shown(&self) -> String {
        beginning(match &self.value {
            GivenValue::Known(Value::String(text)) => text.clone(),
            GivenValue::Known(value) => value.to_string(),
            GivenValue::Expression(text) => text.clone(),
        })
    }

    pub fn text(&self) -> String {
        beginning(match &self.value {
            GivenValue::Known(value) => format!("{} = {value}", self.path),
            GivenValue::Expression(text) if self.path.starts_with('*') => text.clone(),
            GivenValue::Expression(text) => format!("{} = {text}", self.path),
        })
    }

    pub fn state(&self) -> SettingUse {
        self.state.get()
    }

    pub fn is_null(&self) -> bool {
        self.value == GivenValue::Known(Value::Null)
    }
}

pub struct GivenSettings {
    pub origin: SourceTool,
    pub settings: Vec<GivenSetting>,
}

/// Most bytes of a configuration.
const MOST_BYTES: u64 = 1 << 20;
/// Most settings of a configuration.
pub const MOST_SETTINGS: usize = 5_000;
/// Most bytes of a text that a program or a script puts together.
pub const LONGEST_TEXT: usize = 64 << 10;
/// Most characters of a value in a comment.
const LONGEST_SHOWN: usize = 500;

fn read(path: &Path) -> Result<String, Problem> {
    let bytes = regular::read(path, MOST_BYTES).map_err(|error| {
        let problem =
            Problem::usage("unreadable-file", format!("can't read {}: {}", path.display(), reason(&error)));
        match error.kind() {
            ErrorKind::FileTooLarge => {
                problem.help("a configuration has some kilobytes: leave out what is data")
            }
            _ => problem,
        }
    })?;
    decode(&path.display().to_string(), bytes)
}

/// The beginning of a text that may be long.
fn beginning(text: String) -> String {
    match text.char_indices().nth(LONGEST_SHOWN) {
        Some((end, _)) => format!("{} ... ({} bytes)", &text[..end], text.len()),
        None => text,
    }
}

impl GivenSettings {
    pub fn read(path: &Path) -> Result<GivenSettings, Problem> {
        let text = read(path)?;
        let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        let (class, pairs) = match ending.as_str() {
            "yaml" | "yml" | "json" => (None, yaml(path, &text)?),
            "sh" | "bash" => (None, shell::overrides(path, &text)?),
            "py" => python::arguments(path, &text).map(|(class, pairs)| (Some(class), pairs))?,
            _ => {
                let message = format!("{} is not a configuration that `mopd import` reads", path.display());
                return Err(Problem::usage("unknown-configuration", message).help(
                    "it reads .yaml and .json, .py with a TRL configuration, .sh with verl's overrides",
                ));
            }
        };
        if class.is_none() && !pairs.iter().any(|(path, _)| is_known(path)) {
            let message = format!("{} has no settings of verl or TRL", path.display());
            return Err(Problem::usage("unknown-configuration", message).help(
                "a YAML file of settings, `DistillationConfig(...)`, or `python3 -m verl... key=value`",
            ));
        }
        if pairs.len() > MOST_SETTINGS {
            let message = format!(
                "{} has {} settings, more than the {MOST_SETTINGS} that `mopd import` takes",
                path.display(),
                pairs.len()
            );
            return Err(Problem::usage("wrong-configuration", message)
                .help("the configuration of a whole verl has about a thousand: leave out what is data"));
        }
        let settings: Vec<GivenSetting> = interpolated(pairs)
            .into_iter()
            .map(|(path, value)| {
                let value = without_secrets(&path, value);
                GivenSetting { path, value, state: Cell::new(SettingUse::Unasked) }
            })
            .collect();
        let verl = settings.iter().any(|setting| is_of_verl(&setting.path));
        let origin = match class {
            Some(class) => SourceTool::Trl { class },
            None if verl => SourceTool::Verl,
            None => {
                let class = trl_class(&settings);
                refuse_other_trainers(path, class, &settings)?;
                SourceTool::Trl { class: class.to_owned() }
            }
        };
        Ok(GivenSettings { origin, settings })
    }

    pub fn setting(&self, path: &str) -> Option<&GivenSetting> {
        self.settings.iter().find(|setting| setting.path == path)
    }

    /// What `parse` makes of a setting. It counts as used only if that succeeds: one that was asked for and
    /// could not be read is reported.
    pub fn parsed<'a, T>(&'a self, path: &str, parse: impl FnOnce(&'a Value) -> Option<T>) -> Option<T> {
        let setting = self.setting(path)?;
        let parsed = match &setting.value {
            GivenValue::Known(Value::Null) | GivenValue::Expression(_) => None,
            GivenValue::Known(value) => parse(value),
        };
        match (&parsed, setting.state.get()) {
            (Some(_), _) => setting.state.set(SettingUse::Used),
            (None, SettingUse::Unasked) => setting.state.set(SettingUse::Unread),
            (None, _) => {}
        }
        parsed
    }

    pub fn number(&self, path: &str) -> Option<f64> {
        self.parsed(path, as_number)
    }

    pub fn text(&self, path: &str) -> Option<String> {
        self.parsed(path, |value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Array(_) | Value::Object(_) => None,
            other => Some(other.to_string()),
        })
    }

    pub fn flag(&self, path: &str) -> Option<bool> {
        self.parsed(path, |value| match value {
            Value::Bool(holds) => Some(*holds),
            Value::String(text) => match text.to_lowercase().as_str() {
                "true" => Some(true),
                "false" => Some(false),
                _ => None,
            },
            _ => None,
        })
    }

    /// One text or several.
    pub fn texts(&self, path: &str) -> Option<Vec<String>> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        self.parsed(path, |value| match value {
            Value::Array(values) => values.iter().map(text).collect(),
            value => text(value).map(|text| vec![text]),
        })
    }

    /// As it was written, for a note: that is all that becomes of it.
    pub fn quoted(&self, path: &str) -> Option<String> {
        let setting = self.setting(path)?;
        setting.state.set(SettingUse::Used);
        (!setting.is_null()).then(|| setting.shown())
    }

    /// Written as null, which the caller gives a meaning.
    pub fn is_null(&self, path: &str) -> bool {
        let null = self.setting(path).filter(|setting| setting.is_null());
        null.inspect(|setting| setting.state.set(SettingUse::Used)).is_some()
    }

    /// The caller has reported it.
    pub fn answered(&self, path: &str) {
        if let Some(setting) = self.setting(path) {
            setting.state.set(SettingUse::Used);
        }
    }

    /// What stands below a path, by the next word.
    pub fn below(&self, path: &str) -> Vec<String> {
        let start = format!("{path}.");
        let mut found: Vec<String> = Vec::new();
        for setting in &self.settings {
            if let Some(rest) = setting.path.strip_prefix(&start) {
                let name = rest.split('.').next().unwrap_or(rest).to_owned();
                if !found.contains(&name) {
                    found.push(name);
                }
            }
        }
        found
    }
}

fn as_number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        // `1e-6` is a text to some readers of YAML.
        Value::String(text) => text.parse().ok().filter(|number: &f64| number.is_finite()),
        _ => None,
    }
}

fn is_of_verl(path: &str) -> bool {
    ["actor_rollout_ref.", "distillation.", "algorithm.", "trainer."]
        .iter()
        .any(|start| path.starts_with(start))
}

/// Whether an engine has a setting of this name, its scripts' arguments among them.
fn is_known(path: &str) -> bool {
    let first = path.split('.').next().unwrap_or(path);
    let scripts = ["model_name_or_path", "dataset_name", "use_peft", "lora_r"];
    let classes = TRL["classes"].as_object().into_iter().flatten();
    (path.contains('.') && VERL["defaults"].get(first).is_some())
        || scripts.contains(&first)
        || classes.into_iter().any(|(_, class)| class["fields"].get(first).is_some())
}

fn trl_class(settings: &[GivenSetting]) -> &'static str {
    let has = |name: &str| settings.iter().any(|setting| setting.path.split('.').next() == Some(name));
    if has("teacher_server_urls") || has("teacher_top_k") {
        "AsyncDistillationConfig"
    } else if has("lmbda") || has("seq_kd") || has("max_new_tokens") {
        "GKDConfig"
    } else {
        "DistillationConfig"
    }
}

/// A file for another trainer of TRL shares most settings with these, with another meaning: `beta` of GRPO is
/// no part of a divergence between teacher and student.
fn refuse_other_trainers(path: &Path, class: &str, settings: &[GivenSetting]) -> Result<(), Problem> {
    let others: Vec<(&String, Vec<&str>)> = (TRL["other_trainers"].as_object().into_iter().flatten())
        .map(|(trainer, names)| {
            (trainer, names.as_array().into_iter().flatten().filter_map(Value::as_str).collect())
        })
        .collect();
    let foreign: Vec<&str> = settings
        .iter()
        .map(|setting| setting.path.split('.').next().unwrap_or(&setting.path))
        .filter(|name| trl::default(class, name).is_none())
        .filter(|name| others.iter().any(|(_, names)| names.contains(name)))
        .collect();
    if foreign.is_empty() {
        return Ok(());
    }
    // Of the trainers with most of these settings: scripts have arguments of their own.
    let having = |names: &[&str]| foreign.iter().filter(|name| names.contains(name)).count();
    let most = others.iter().map(|(_, names)| having(names)).max();
    let trainers = others.iter().filter(|(_, names)| Some(having(names)) == most).map(|(trainer, _)| trainer);
    let message = format!(
        "{} is for another trainer of TRL, such as {}: `{class}` has no {}",
        path.display(),
        trainers.take(3).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
        foreign.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
    );
    Err(Problem::usage("unknown-configuration", message).help(
        "`mopd import` reads DistillationConfig, AsyncDistillationConfig and GKDConfig; if the file is for \
         one of them, remove these settings",
    ))
}

fn yaml(path: &Path, text: &str) -> Result<GivenPairs, Problem> {
    let value: Value = serde_saphyr::from_str(text).map_err(|error| {
        let error = error.to_string();
        let line = error.lines().next().unwrap_or_default().to_owned();
        Problem::usage("wrong-configuration", format!("cannot parse {} as YAML: {line}", path.display()))
    })?;
    if !value.is_object() {
        let message = format!("{} is not a mapping of settings", path.display());
        return Err(
            Problem::usage("wrong-configuration", message).help("lines such as `learning_rate: 1e-6`")
        );
    }
    let mut settings = Vec::new();
    flatten("", &value, &mut settings);
    Ok(settings)
}

pub fn flatten(path: &str, value: &Value, settings: &mut GivenPairs) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, value, settings);
            }
        }
        value => settings.push((path.to_owned(), GivenValue::Known(value.clone()))),
    }
}

/// OmegaConf's `${data.train_batch_size}` is the value of another setting, if the file has it. What else it
/// interpolates is not known here.
fn interpolated(pairs: GivenPairs) -> GivenPairs {
    let value = |pairs: &GivenPairs, written: &GivenValue| -> GivenValue {
        let mut found = written.clone();
        // A chain of references ends, or is a circle.
        for _ in 0..8 {
            let GivenValue::Known(Value::String(text)) = &found else { return found };
            if !text.contains("${") {
                return found;
            }
            let path = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
            let Some((_, next)) = path.and_then(|path| pairs.iter().find(|(key, _)| key == path)) else {
                break;
            };
            found = next.clone();
        }
        match written {
            GivenValue::Known(Value::String(text)) => GivenValue::Expression(text.clone()),
            other => other.clone(),
        }
    };
    pairs.iter().map(|(path, written)| (path.clone(), value(&pairs, written))).collect()
}
