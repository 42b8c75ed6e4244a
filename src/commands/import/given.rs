//! Configurations as people have them: YAML, a shell script with Hydra's overrides, Python with keyword
//! arguments.

use std::cell::Cell;
use std::path::Path;

use serde_json::Value;

use crate::problem::Problem;

/// Of which program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceTool {
    Verl,
    Trl { class: String },
}

pub struct GivenSetting {
    /// `actor_rollout_ref.actor.optim.lr`
    pub path: String,
    pub value: Value,
    used: Cell<bool>,
}

impl GivenSetting {
    pub fn text(&self) -> String {
        format!("{} = {}", self.path, self.value)
    }
}

pub struct GivenSettings {
    pub origin: SourceTool,
    pub settings: Vec<GivenSetting>,
}

impl GivenSettings {
    pub fn read(path: &Path) -> Result<GivenSettings, Problem> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let reason = mopd_store::files::reason(&error);
            Problem::usage("unreadable-file", format!("can't read {}: {reason}", path.display()))
        })?;
        let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        let (class, settings) = match ending.as_str() {
            "yaml" | "yml" | "json" => (None, yaml(path, &text)?),
            "sh" | "bash" => (None, overrides(&text)),
            "py" => python(path, &text)?,
            _ => {
                let message = format!("{} is no configuration that `mopd import` reads", path.display());
                return Err(Problem::usage("unknown-configuration", message).help(
                    "it reads .yaml and .json, .py with a TRL configuration, .sh with verl's overrides",
                ));
            }
        };
        let settings: Vec<GivenSetting> = settings
            .into_iter()
            .map(|(path, value)| GivenSetting { path, value, used: Cell::new(false) })
            .collect();
        if settings.is_empty() {
            let message = format!("{} has no settings of verl or TRL", path.display());
            return Err(Problem::usage("unknown-configuration", message).help(
                "a YAML file of settings, `DistillationConfig(...)`, or `python3 -m verl... key=value`",
            ));
        }
        let begins = |start: &str| settings.iter().any(|setting| setting.path.starts_with(start));
        let verl = ["actor_rollout_ref.", "distillation.", "algorithm.", "trainer."]
            .iter()
            .any(|start| begins(start));
        let origin = match class {
            Some(class) => SourceTool::Trl { class },
            None if verl => SourceTool::Verl,
            None => SourceTool::Trl { class: trl_class(&settings).to_owned() },
        };
        Ok(GivenSettings { origin, settings })
    }

    /// The value of a setting, which is then used; null counts as absent.
    pub fn get(&self, path: &str) -> Option<&Value> {
        let setting = self.settings.iter().find(|setting| setting.path == path)?;
        setting.used.set(true);
        (!setting.value.is_null()).then_some(&setting.value)
    }

    pub fn number(&self, path: &str) -> Option<f64> {
        match self.get(path)? {
            Value::Number(number) => number.as_f64(),
            // `1e-6` is a text to some readers of YAML.
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }

    pub fn text(&self, path: &str) -> Option<String> {
        match self.get(path)? {
            Value::String(text) => Some(text.clone()),
            Value::Array(_) | Value::Object(_) => None,
            other => Some(other.to_string()),
        }
    }

    pub fn flag(&self, path: &str) -> Option<bool> {
        match self.get(path)? {
            Value::Bool(holds) => Some(*holds),
            Value::String(text) => match text.to_lowercase().as_str() {
                "true" => Some(true),
                "false" => Some(false),
                _ => None,
            },
            _ => None,
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

    pub fn unused(&self) -> impl Iterator<Item = &GivenSetting> {
        self.settings.iter().filter(|setting| !setting.used.get() && !setting.path.ends_with("_target_"))
    }
}

fn trl_class(settings: &[GivenSetting]) -> &'static str {
    let has = |name: &str| settings.iter().any(|setting| setting.path.split('.').next() == Some(name));
    if has("teacher_server_urls") || has("teacher_top_k") {
        "AsyncDistillationConfig"
    } else if has("lmbda") || has("seq_kd") {
        "GKDConfig"
    } else {
        "DistillationConfig"
    }
}

fn yaml(path: &Path, text: &str) -> Result<Vec<(String, Value)>, Problem> {
    let value: Value = serde_saphyr::from_str(text).map_err(|error| {
        let error = error.to_string();
        let line = error.lines().next().unwrap_or_default().to_owned();
        Problem::usage(
            "wrong-configuration",
            format!("{} is no YAML that can be read: {line}", path.display()),
        )
    })?;
    let mut settings = Vec::new();
    flatten("", &value, &mut settings);
    Ok(settings)
}

fn flatten(path: &str, value: &Value, settings: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, value, settings);
            }
        }
        value => settings.push((path.to_owned(), value.clone())),
    }
}

/// `a.b=c`, `+a.b=c` among the words of a script.
fn overrides(text: &str) -> Vec<(String, Value)> {
    let mut settings = Vec::new();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    for word in words(&lines.collect::<Vec<_>>().join("\n")) {
        let Some((key, value)) = word.split_once('=') else { continue };
        let key = key.trim_start_matches('+');
        let is_path =
            key.contains('.') && key.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if is_path && !key.starts_with(['.', '-']) {
            settings.push((key.to_owned(), scalar(value)));
        }
    }
    settings
}

/// The words of a shell, quotes taken off.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let (mut quote, mut escaped) = (None, false);
    for letter in text.chars() {
        match (quote, letter) {
            _ if escaped => {
                if letter != '\n' {
                    words.last_mut().expect("one").push(letter);
                }
                escaped = false;
            }
            (None, '\\') | (Some('"'), '\\') => escaped = true,
            (None, '\'' | '"') => quote = Some(letter),
            (Some(open), letter) if open == letter => quote = None,
            (None, letter) if letter.is_whitespace() => words.push(String::new()),
            (_, letter) => words.last_mut().expect("one").push(letter),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn scalar(text: &str) -> Value {
    match text {
        "True" | "true" => Value::Bool(true),
        "False" | "false" => Value::Bool(false),
        "null" | "None" => Value::Null,
        text => serde_json::from_str(text)
            .ok()
            .filter(Value::is_number)
            .or_else(|| text.parse::<f64>().ok().map(Value::from))
            .unwrap_or_else(|| Value::String(text.to_owned())),
    }
}

const CLASSES: [&str; 3] = ["DistillationConfig", "AsyncDistillationConfig", "GKDConfig"];

/// Keyword arguments of a call, in their order.
type Keywords = Vec<(String, Value)>;

/// The keyword arguments of a configuration, and of the trainer those that name models. Only literals are
/// read: what a program computes is not known.
fn python(path: &Path, text: &str) -> Result<(Option<String>, Keywords), Problem> {
    let call = |name: &str| {
        text.match_indices(&format!("{name}(")).map(|(at, _)| at).find(|at| {
            let before = text[..*at].chars().next_back();
            before.is_none_or(|letter| !letter.is_alphanumeric() && letter != '_')
        })
    };
    let Some((class, at)) = CLASSES.iter().find_map(|class| Some((*class, call(class)?))) else {
        let message = format!("{} makes no configuration that `mopd import` knows", path.display());
        return Err(Problem::usage("unknown-configuration", message)
            .help(format!("it looks for a call of {}", CLASSES.join(", "))));
    };
    let mut settings = arguments(&text[at + class.len() + 1..]);
    let trainer = class.replace("Config", "Trainer");
    if let Some(at) = call(&trainer) {
        let of_trainer = arguments(&text[at + trainer.len() + 1..]);
        let names = [("model", "model_name_or_path"), ("teacher_model", "teacher_model_name_or_path")];
        for (name, setting) in names {
            let found = of_trainer.iter().find(|(key, value)| key == name && value.is_string());
            if let Some((_, value)) = found
                && !settings.iter().any(|(key, _)| key == setting)
            {
                settings.push((setting.to_owned(), value.clone()));
            }
        }
    }
    let mut flat = Vec::new();
    for (key, value) in settings {
        flatten(&key, &value, &mut flat);
    }
    Ok((Some(class.to_owned()), flat))
}

/// The keyword arguments behind an opening parenthesis, up to the closing one.
fn arguments(text: &str) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for argument in parts(text) {
        let Some((key, value)) = argument.split_once('=') else { continue };
        let key = key.trim();
        let is_name = !key.is_empty() && key.chars().all(|letter| letter.is_alphanumeric() || letter == '_');
        if is_name && !value.starts_with('=') {
            found.push((key.to_owned(), literal(value.trim())));
        }
    }
    found
}

/// Cut at commas that are in no bracket and no string, comments left out; up to the closing bracket.
fn parts(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let (mut depth, mut quote) = (0u32, None);
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let part = parts.last_mut().expect("one");
        match (quote, letter) {
            (None, '#') => while letters.next_if(|letter| *letter != '\n').is_some() {},
            (None, ')' | ']' | '}') if depth == 0 => break,
            (None, ',') if depth == 0 => parts.push(String::new()),
            (Some(_), '\\') => {
                part.push(letter);
                part.extend(letters.next());
            }
            _ => {
                match (quote, letter) {
                    (None, '\'' | '"') => quote = Some(letter),
                    (Some(open), letter) if open == letter => quote = None,
                    (None, '(' | '[' | '{') => depth += 1,
                    (None, ')' | ']' | '}') => depth -= 1,
                    _ => {}
                }
                part.push(letter);
            }
        }
    }
    parts
}

/// A literal; anything else is a text in brackets, which no setting takes for a value.
fn literal(text: &str) -> Value {
    let plain = text.replace('_', "");
    let inside = |open: char, close: char| text.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
    match text {
        "True" => Value::Bool(true),
        "False" => Value::Bool(false),
        "None" => Value::Null,
        _ => {
            if let Some(text) = inside('"', '"').or_else(|| inside('\'', '\'')) {
                return Value::String(text.replace("\\\"", "\"").replace("\\'", "'"));
            }
            if let Ok(number) = plain.parse::<i64>() {
                return Value::from(number);
            }
            if let Ok(number) = plain.parse::<f64>() {
                return Value::from(number);
            }
            if let Some(items) = inside('[', ']') {
                let items = parts(&format!("{items})"));
                return items
                    .iter()
                    .map(|item| item.trim())
                    .filter(|item| !item.is_empty())
                    .map(literal)
                    .collect();
            }
            if let Some(items) = inside('{', '}') {
                let mut fields = serde_json::Map::new();
                for item in parts(&format!("{items})")) {
                    if let Some((key, value)) = item.split_once(':')
                        && let Value::String(key) = literal(key.trim())
                    {
                        fields.insert(key, literal(value.trim()));
                    }
                }
                return Value::Object(fields);
            }
            Value::Array(vec![Value::String(text.to_owned())])
        }
    }
}
