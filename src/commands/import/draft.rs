//! An experiment as it is put together, and what did not come over.

use std::path::Path;

use super::secrets::is_invisible;
use crate::host;

/// The parts of a file, each as it is written.
#[derive(Default)]
pub struct Draft {
    /// Of which program and release.
    pub from: String,
    pub name: String,
    pub settings: Vec<String>,
    pub uses: Vec<String>,
    pub domains: Vec<String>,
    pub models: Vec<String>,
    pub teachers: Vec<String>,
    pub arms: Vec<String>,
    pub objective: Vec<String>,
    /// Settings of the stage, in order.
    pub stage: Vec<(String, String)>,
    /// `distill` or `grpo`, and what it starts from.
    pub recipe: String,
    /// What is to be looked at, in sentences.
    pub notes: Vec<String>,
    /// A setting as it was given, and why it has no counterpart.
    pub left_out: Vec<(String, String)>,
}

impl Draft {
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        self.stage.push((key.to_owned(), value.into()));
    }

    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    pub fn leave(&mut self, setting: impl Into<String>, why: impl Into<String>) {
        self.left_out.push((setting.into(), why.into()));
    }

    /// A number of `setting` if the language takes it. Another is a comment, and `otherwise` is written.
    pub fn within(&mut self, setting: &str, value: f64, otherwise: f64, (takes, why): Takes) -> f64 {
        if takes(value) {
            return value;
        }
        self.leave(
            format!("{setting} = {}", number(value)),
            format!("{why}; written as {}", number(otherwise)),
        );
        otherwise
    }

    pub fn text(&self, file: &Path) -> String {
        let file = file.file_name().unwrap_or_default().to_string_lossy();
        let mut text = format!("//! From {}, {}, by `mopd import`.\n", comment(&file), self.from);
        for note in &self.notes {
            text += &format!("// {}\n", comment(note));
        }
        if !self.left_out.is_empty() {
            text += "//\n// What did not come over:\n";
        }
        for (setting, why) in &self.left_out {
            text += &format!("//   {}: {}\n", comment(setting), comment(why));
        }
        let block = |lines: &[String]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        text += "\n";
        text += &block(&self.uses);
        let name = quoted(&self.name);
        let name = if name.trim_matches([' ', '"']).is_empty() { "\"imported\"" } else { &name };
        text += &format!("\nexperiment {name} {{ {} }}\n\n", self.settings.join(", "));
        let share = match self.domains.len() {
            0 | 1 => String::new(),
            several => format!(", share = 1/{several}"),
        };
        for domain in &self.domains {
            text += &format!("{}{share} }}\n", domain.trim_end_matches(" }"));
        }
        text += "\n";
        text += &block(&self.models);
        text += "\n";
        text += &block(&self.teachers);
        if !self.arms.is_empty() {
            text += &format!("\nroute {{\n{}}}\n", block(&self.arms));
        }
        text += &format!("\n{}\n", block(&self.objective));
        text += &format!("model student = {} {{\n", self.recipe);
        for (key, value) in &self.stage {
            text += &format!("  {key} = {value}\n");
        }
        text += "}\n";
        text
    }
}

/// Which numbers the language takes, and why no others.
type Takes = (fn(f64) -> bool, &'static str);

pub const SEED: Takes = (
    |seed| (0.0..=f64::from(u32::MAX)).contains(&seed) && seed.fract() == 0.0,
    "a seed is a whole number from 0 to 4294967295",
);
pub const COUNT: Takes =
    (|count| count >= 1.0 && count.fract() == 0.0, "a count is a whole number, 1 or more");
pub const TEMPERATURE: Takes = (
    |temperature| (1e-30..1e30).contains(&temperature),
    "a greedy rollout has no distribution to learn from",
);
pub const DIVISOR: Takes = (|divisor| (1e-30..1e30).contains(&divisor), "logits are divided by it");
pub const DECAY: Takes = (|decay| (0.0..1.0).contains(&decay), "a decay rate is 0 or more, and less than 1");
pub const FRACTION: Takes = (|share| (0.0..=1.0).contains(&share), "it is a fraction, from 0 to 1");
pub const PROBABILITY: Takes = (|share| share > 0.0 && share <= 1.0, "nothing would be drawn");
pub const RATE: Takes = (|rate| rate > 0.0, "nothing would be learnt");
pub const EPSILON: Takes = (|epsilon| epsilon >= 1.2e-38, "single precision has no such number");
pub const POSITIVE: Takes = (|value| value > 0.0, "it is above 0");
pub const NOT_NEGATIVE: Takes = (|value| value >= 0.0, "it is 0 or more");

/// A norm that no gradient reaches: nothing is clipped. Without a norm `adamw` clips at 1.
pub const NO_CLIP: &str = "1e9";

/// The matrices of a model that LoRA's `target_modules` name, as `lora` names them.
pub fn targets(modules: &[String]) -> Option<String> {
    let known = [
        ("all-linear", "attention, feed_forward"),
        ("q_proj", "query"),
        ("k_proj", "key"),
        ("v_proj", "value"),
        ("o_proj", "output"),
        ("gate_proj", "gate"),
        ("up_proj", "up"),
        ("down_proj", "down"),
    ];
    let one = |module: &String| known.iter().find(|(name, _)| *name == module).map(|(_, target)| *target);
    let found: Option<Vec<&str>> = modules.iter().map(one).collect();
    let found = found.filter(|found| !found.is_empty())?;
    Some(format!("[{}]", found.join(", ")))
}

/// On one line, without invisible characters.
fn comment(text: &str) -> String {
    text.chars().map(|letter| if is_invisible(letter) { ' ' } else { letter }).collect()
}

pub fn quoted(text: &str) -> String {
    format!("\"{}\"", comment(text).replace('\\', "\\\\").replace('"', "\\\""))
}

/// As an author writes it: `1e-6`, not `0.000001`.
pub fn number(value: f64) -> String {
    // A product of two written numbers has digits of rounding behind the fifteenth.
    let value: f64 = format!("{value:.14e}").parse().unwrap_or(value);
    if value != 0.0 && (value.abs() < 1e-3 || value.abs() >= 1e7) {
        format!("{value:e}")
    } else {
        format!("{value}")
    }
}

/// One word, unlike those before.
pub fn word(name: &str, taken: &[String]) -> String {
    let letter =
        |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '_' };
    let last = name.rsplit('/').next().unwrap_or(name);
    let mut word: String = last.chars().map(letter).collect::<String>().trim_matches('_').to_owned();
    if word.is_empty() || word.starts_with(|first: char| first.is_ascii_digit()) {
        word = format!("d{word}");
    }
    let mut found = word.clone();
    let mut next = 2;
    while taken.contains(&found) || !is_free(&found) {
        found = format!("{word}_{next}");
        next += 1;
    }
    found
}

/// Whether a domain may be called so: words of the language may not.
fn is_free(name: &str) -> bool {
    let text = format!("domain {name} {{ prompts = \"a\", reward = exact_match }}\n");
    host::analyse_text(Path::new("name.mopd"), &text).is_ok_and(|analysis| !analysis.has_errors())
}

/// What is said of the origins of teachers.
pub const ORIGIN: &str = "`origin` says whether a teacher descends from the student's model. Where it does under another \
                          name, write `same`.";
/// Where variables of a chat template are said.
pub const TEMPLATE_VARIABLES: &str = "`enable_thinking: false` is said where the model is loaded, `hf(\"...\", \
                                      enable_thinking: false)`; other variables are said by the data, in a column \
                                      `chat_template_kwargs`";

/// The origin of a teacher, as far as names tell.
pub fn origin(student: Option<String>, teacher: &str) -> &'static str {
    if student.as_deref() == Some(teacher) { "same" } else { "foreign" }
}
