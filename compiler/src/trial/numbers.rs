//! The given numbers of a trial, as JSON.

use std::collections::BTreeMap;

use mopd_experiment::formula::Axis;
use mopd_expr::batch::{Domains, Layout, TokenPartition};
use serde::{Deserialize, Serialize};

use crate::audit::normalised;

/// The largest accepted deviation of a sum of probabilities from 1, since people write 0.333.
const SUM: f64 = 5e-3;

/// A batch: prompts with their completions.
#[derive(Clone, Debug, Deserialize)]
pub struct TrialNumbers {
    /// The steps before this one: what they leave in states, `ema(...)` and `previous(...)`, this one begins
    /// with.
    #[serde(default)]
    pub earlier: Vec<EarlierStep>,
    /// The step, from 0.
    #[serde(default)]
    pub step: u32,
    #[serde(default = "one")]
    pub steps: u32,
    /// Values for the objective's parameters, by name: numbers, or texts in the language.
    #[serde(default)]
    pub arguments: BTreeMap<String, serde_json::Value>,
    /// The terms that are trained on these completions, if terms have completions of their own.
    #[serde(default)]
    pub terms: Vec<String>,
    /// The entries that the vocabularies of student and teacher share, counted from 0. `None` where not
    /// given.
    pub matched: Option<Vec<usize>>,
    pub prompts: Vec<TrialPrompt>,
    /// The expected results: see [`super::differences`].
    #[serde(default)]
    pub expected: BTreeMap<String, serde_json::Value>,
    /// How far a result in double precision may be from the expected one, relative to the largest number of
    /// its list. In single precision it is 1e-5 at least.
    #[serde(default = "usual_tolerance")]
    pub tolerance: f64,
    /// Numbers of the run, by name.
    #[serde(flatten)]
    pub given: GivenNumbers,
}

/// A step before the one that is tried.
#[derive(Clone, Debug, Deserialize)]
pub struct EarlierStep {
    pub prompts: Vec<TrialPrompt>,
    /// Numbers of the run, by name.
    #[serde(flatten)]
    pub given: GivenNumbers,
}

#[derive(Clone, Debug, Deserialize)]
pub struct TrialPrompt {
    #[serde(default)]
    pub domain: String,
    pub completions: Vec<TrialCompletion>,
    /// Numbers of the prompt, by name.
    #[serde(flatten)]
    pub given: GivenNumbers,
}

#[derive(Clone, Debug, Deserialize)]
pub struct TrialCompletion {
    /// The vocabulary entry of each token.
    pub tokens: Option<Vec<usize>>,
    /// The number of tokens of each turn.
    pub turns: Option<Vec<usize>>,
    /// Numbers of the completion and of its tokens, and distributions of roles, by name.
    #[serde(flatten)]
    pub given: GivenNumbers,
}

pub type GivenNumbers = BTreeMap<String, serde_json::Value>;

/// The position of a token, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TokenPlace {
    pub prompt: usize,
    pub completion: usize,
    pub token: usize,
}

fn one() -> u32 {
    1
}

fn usual_tolerance() -> f64 {
    super::expected::TOLERANCE
}

impl TrialNumbers {
    /// The `arguments` as settings of an objective's parameters: `mopd.clip_at`, `5`.
    pub fn settings(&self, objective: &str) -> Vec<(String, String)> {
        let text =
            |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        self.arguments.iter().map(|(name, value)| (format!("{objective}.{name}"), text(value))).collect()
    }

    /// The numbers of the steps before, in order.
    ///
    /// # Errors
    /// More steps than there are before `step`.
    pub(super) fn earlier_steps(&self) -> Result<Vec<TrialNumbers>, Vec<String>> {
        let count = self.earlier.len() as u32;
        let Some(first) = self.step.checked_sub(count) else {
            let fault = format!("`earlier` has {count} steps, and `step` is {}: it counts from 0", self.step);
            return Err(vec![fault]);
        };
        let steps = (first..).zip(&self.earlier).map(|(step, EarlierStep { prompts, given })| TrialNumbers {
            step,
            earlier: Vec::new(),
            prompts: prompts.clone(),
            given: given.clone(),
            ..self.clone()
        });
        Ok(steps.collect())
    }

    /// The completions in order, with their names for messages.
    pub fn completions(&self) -> impl Iterator<Item = (String, &TrialCompletion)> {
        self.prompts.iter().enumerate().flat_map(|(prompt, of)| {
            of.completions.iter().enumerate().map(move |(completion, of)| {
                (format!("prompt {}, completion {}", prompt + 1, completion + 1), of)
            })
        })
    }

    /// The domains of the prompts, each once.
    pub(super) fn domains(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for prompt in &self.prompts {
            if !names.contains(&prompt.domain.as_str()) {
                names.push(&prompt.domain);
            }
        }
        names
    }

    /// # Errors
    /// A batch without tokens, lists of different lengths, or turns whose lengths do not add up.
    pub(super) fn layout(&self) -> Result<Layout, Vec<String>> {
        let mut faults = Vec::new();
        let (mut sequence_of_token, mut of_token, mut parent) = (Vec::new(), Vec::new(), Vec::new());
        for (sequence, (place, completion)) in self.completions().enumerate() {
            let tokens = match completion.len() {
                Ok(tokens) => tokens,
                Err(fault) => {
                    faults.push(format!("{place}: {fault}"));
                    continue;
                }
            };
            let turns = completion.turns.clone().unwrap_or_else(|| vec![tokens]);
            if turns.iter().sum::<usize>() != tokens || turns.contains(&0) {
                faults
                    .push(format!("{place}: `turns` must be lengths above 0 that add up to {tokens} tokens"));
            }
            sequence_of_token.extend(std::iter::repeat_n(sequence as u32, tokens));
            for turn in turns {
                of_token.extend(std::iter::repeat_n(parent.len() as u32, turn));
                parent.push(sequence as u32);
            }
        }
        if self.completions().next().is_none() {
            faults.push("there is no completion: give `prompts`, each with `completions`".into());
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let groups = self.prompts.iter().enumerate();
        let group_of_sequence =
            groups.flat_map(|(group, prompt)| std::iter::repeat_n(group as u32, prompt.completions.len()));
        let names = self.domains();
        let place = |domain: &str| names.iter().position(|name| *name == domain).expect("all are listed");
        let of_group = self.prompts.iter().map(|prompt| place(&prompt.domain) as u32).collect();
        let turns = self.completions().any(|(_, completion)| completion.turns.is_some());
        Ok(Layout {
            sequence_of_token,
            group_of_sequence: group_of_sequence.collect(),
            groups: self.prompts.len() as u32,
            domains: Some(Domains { of_group, count: names.len() as u32 }),
            turns: turns.then_some(TokenPartition { of_token, parent }),
            blocks: None,
        })
    }

    pub(super) fn places(&self) -> Vec<TokenPlace> {
        let mut places = Vec::new();
        for (prompt, of) in self.prompts.iter().enumerate() {
            for (completion, of) in of.completions.iter().enumerate() {
                let tokens = 1..=of.len().unwrap_or(0);
                places.extend(tokens.map(|token| TokenPlace {
                    prompt: prompt + 1,
                    completion: completion + 1,
                    token,
                }));
            }
        }
        places
    }

    /// A number by name, one value per element of its axis. `None` where it is not given. Numbers of blocks
    /// are given per token.
    ///
    /// With `may_lack`, `null` stands for a missing value, which becomes NaN.
    ///
    /// # Errors
    /// A value of the wrong type, or values for some elements only.
    pub(super) fn numbers(&self, name: &str, axis: Axis, may_lack: bool) -> Result<Option<Vec<f64>>, String> {
        let number = |value: &serde_json::Value| {
            if may_lack && value.is_null() { Ok(f64::NAN) } else { number(value) }
        };
        let mut found = Vec::new();
        let (mut given, mut missing) = (false, None);
        let mut one = |place: &str, of: &GivenNumbers, tokens: Option<usize>| -> Result<(), String> {
            let Some(value) = of.get(name) else {
                missing.get_or_insert(place.to_owned());
                return Ok(());
            };
            given = true;
            found.extend(
                match tokens {
                    Some(tokens) => list(value, tokens),
                    None => number(value).map(|number| vec![number]),
                }
                .map_err(|fault| format!("{place}: `{name}` {fault}"))?,
            );
            Ok(())
        };
        match axis {
            Axis::Token | Axis::Block => {
                for (place, completion) in self.completions() {
                    one(&place, &completion.given, Some(completion.len().unwrap_or(0)))?;
                }
            }
            Axis::Turn => {
                for (place, completion) in self.completions() {
                    let turns = completion.turns.as_ref().map_or(1, Vec::len);
                    one(&place, &completion.given, Some(turns))?;
                }
            }
            Axis::Sequence => {
                for (place, completion) in self.completions() {
                    one(&place, &completion.given, None)?;
                }
            }
            Axis::Group => {
                for (prompt, of) in self.prompts.iter().enumerate() {
                    one(&format!("prompt {}", prompt + 1), &of.given, None)?;
                }
            }
            Axis::Run | Axis::Batch => one("the file", &self.given, None)?,
            Axis::Domain | Axis::Vocab => {}
        }
        match missing {
            Some(place) if given => Err(format!(
                "{place}: `{name}` is missing, but other completions have \
                it"
            )),
            Some(_) => Ok(None),
            None => Ok(given.then_some(found)),
        }
    }

    /// A role's log-probabilities of every entry, by token. `None` where they are not given.
    ///
    /// # Errors
    /// Values that are no distribution, or distributions for some completions only.
    pub(super) fn distributions(&self, role: &str) -> Result<Option<Vec<Vec<f64>>>, String> {
        let (mut found, mut missing) = (Vec::new(), None);
        for (place, completion) in self.completions() {
            let Some(value) = completion.given.get(role) else {
                missing.get_or_insert(place);
                continue;
            };
            // `"sampler": "student"`: the same as another role.
            let value = match value.as_str() {
                Some(other) => {
                    completion.given.get(other).filter(|value| !value.is_string()).ok_or_else(|| {
                        format!("{place}: `{role}` refers to `{other}`, whose distributions are not given")
                    })?
                }
                None => value,
            };
            let rows = distributions(value).map_err(|fault| format!("{place}: `{role}` {fault}"))?;
            let tokens = completion.len().unwrap_or(0);
            if rows.len() != tokens {
                return Err(format!(
                    "{place}: `{role}` has {} distributions for {tokens} tokens",
                    rows.len()
                ));
            }
            found.extend(rows);
        }
        match missing {
            Some(place) if !found.is_empty() => {
                Err(format!("{place}: `{role}` is missing, but other completions have it"))
            }
            Some(_) => Ok(None),
            None => Ok(Some(found)),
        }
    }

    /// The vocabulary entry of each token. `None` where not given.
    pub(super) fn tokens(&self) -> Option<Vec<usize>> {
        self.completions()
            .map(|(_, completion)| completion.tokens.clone())
            .collect::<Option<Vec<_>>>()
            .map(|tokens| tokens.concat())
    }

    /// All names under which numbers are given.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        let prompts = self.prompts.iter().flat_map(|prompt| prompt.given.keys());
        self.given.keys().chain(prompts).chain(self.completions().flat_map(|(_, of)| of.given.keys()))
    }
}

impl TrialCompletion {
    /// The number of tokens, which is the length of every list that is given per token.
    fn len(&self) -> Result<usize, String> {
        let lists = self.given.iter().filter_map(|(name, value)| {
            let rows = value.as_array().or_else(|| value.get("logits")?.as_array())?;
            // A list with one number per turn has another length.
            let per_turn = self.turns.as_ref().is_some_and(|turns| turns.len() == rows.len());
            (!per_turn || rows.iter().any(|row| row.is_array())).then_some((name.as_str(), rows.len()))
        });
        let tokens = self.tokens.as_ref().map(|tokens| ("tokens", tokens.len()));
        let turns = self.turns.as_ref().map(|turns| ("turns", turns.iter().sum()));
        let mut known = tokens.into_iter().chain(turns).chain(lists);
        let Some((first, length)) = known.next() else {
            return Err("its number of tokens is not known: give `tokens`, or a list per token".into());
        };
        if let Some((other, differs)) = known.find(|(_, other)| *other != length) {
            return Err(format!("`{first}` is for {length} tokens, `{other}` for {differs}"));
        }
        match length {
            0 => Err("it has no token".into()),
            _ => Ok(length),
        }
    }
}

fn number(value: &serde_json::Value) -> Result<f64, String> {
    match value {
        serde_json::Value::Bool(truth) => Ok(f64::from(u8::from(*truth))),
        value => value.as_f64().ok_or_else(|| format!("must be a number, found {}", kind(value))),
    }
}

fn list(value: &serde_json::Value, tokens: usize) -> Result<Vec<f64>, String> {
    let rows = value.as_array().ok_or_else(|| format!("must be a list of numbers, found {}", kind(value)))?;
    if rows.len() != tokens {
        return Err(format!("has {} numbers where {tokens} are needed", rows.len()));
    }
    rows.iter().map(number).collect()
}

/// Reads probabilities, or logits as `{"logits": ...}`.
fn distributions(value: &serde_json::Value) -> Result<Vec<Vec<f64>>, String> {
    let logits = value.get("logits");
    let rows = logits.unwrap_or(value).as_array();
    let rows = rows.ok_or("must be a list of distributions, or {\"logits\": ...} of them")?;
    let mut found: Vec<Vec<f64>> = Vec::with_capacity(rows.len());
    for (token, row) in rows.iter().enumerate() {
        let token = token + 1;
        let entries =
            row.as_array().ok_or_else(|| format!("must have a list of entries for token {token}"))?;
        let row: Vec<f64> = entries.iter().map(number).collect::<Result<_, _>>()?;
        if row.is_empty() || found.first().is_some_and(|first| first.len() != row.len()) {
            return Err(format!("has {} entries for token {token}, but another number elsewhere", row.len()));
        }
        let sum: f64 = row.iter().sum();
        if logits.is_none() && (row.iter().any(|p| *p < 0.0) || (sum - 1.0).abs() > SUM) {
            return Err(format!(
                "is not a distribution for token {token}: its probabilities add up to {sum}. Write logits \
                as {{\"logits\": [...]}}"
            ));
        }
        found.push(match logits {
            Some(_) => normalised(&row),
            None => row.iter().map(|p| (p / sum).ln()).collect(),
        });
    }
    Ok(found)
}

fn kind(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "a bool",
        serde_json::Value::Number(_) => "a number",
        serde_json::Value::String(_) => "a text",
        serde_json::Value::Array(_) => "a list",
        serde_json::Value::Object(_) => "an object",
    }
}
