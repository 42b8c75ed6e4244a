//! Rewards: the verifiers of completions.

use regex_syntax::hir::{Capture, Hir, HirKind};
use serde::{Deserialize, Serialize};

use super::commands::without_absolute_paths;

/// The values that an author's reward program may return.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RewardRange {
    /// From 0 to 1.
    #[default]
    Unit,
    /// Any number up to [`MOST_REWARD`].
    Any,
}

/// The largest reward, positive or negative. Advantages are computed in single precision, which ends at 3e38,
/// and statistics of a batch are sums of squares.
pub const MOST_REWARD: f64 = 1e15;

impl RewardRange {
    pub fn is_unit(&self) -> bool {
        *self == RewardRange::Unit
    }

    pub fn has(self, reward: f64) -> bool {
        match self {
            RewardRange::Unit => (0.0..=1.0).contains(&reward),
            RewardRange::Any => reward.abs() <= MOST_REWARD,
        }
    }
}

/// A verifier of completions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reward {
    /// 1 where the completion equals the data field.
    ExactMatch { field: String },
    /// 1 where both parse as numbers that differ by at most `tolerance`.
    Numeric { field: String, tolerance: f64 },
    /// 1 where the pattern matches the completion and, if it has a group named `answer`, that group equals
    /// the data field.
    Regex { pattern: String, field: String },
    /// A worker process that speaks JSON lines (see the book, "Rewards").
    Command {
        command: String,
        time_limit_seconds: f64,
        batch: u32,
        /// Files and folders that the program depends on besides its sources, relative to the source file.
        #[serde(default)]
        depends: Vec<String>,
        #[serde(default, skip_serializing_if = "RewardRange::is_unit")]
        range: RewardRange,
    },
    /// A Python function that gets lists of completions, in a worker process of mopd.
    Python {
        /// Relative to the source file.
        file: String,
        function: String,
        time_limit_seconds: f64,
        batch: u32,
        /// The same for the function.
        #[serde(default)]
        depends: Vec<String>,
        #[serde(default, skip_serializing_if = "RewardRange::is_unit")]
        range: RewardRange,
    },
    /// 1 where the completion is JSON that the schema accepts, a file relative to the source file.
    JsonSchema { schema: String },
    /// 1 where the completion's Python code passes the tests in the data field.
    UnitTests { field: String, time_limit_seconds: f64 },
    /// A server (see the book, "Rewards").
    Http {
        url: Secret,
        time_limit_seconds: f64,
        batch: u32,
        /// The version of the server's behaviour. It only enters keys.
        version: Option<String>,
        #[serde(default, skip_serializing_if = "RewardRange::is_unit")]
        range: RewardRange,
    },
    /// The weighted sum of other rewards. The weights add up to 1.
    Parts { parts: Vec<RewardPart> },
}

/// A text that is written in the file or read from the environment when the run starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Secret {
    Text(String),
    /// The name of a variable.
    Environment(String),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RewardPart {
    /// The name of the part, unique among the parts.
    pub name: String,
    pub weight: f64,
    pub reward: Reward,
}

impl Reward {
    /// Its name in the language.
    pub fn name(&self) -> &'static str {
        match self {
            Reward::ExactMatch { .. } => "exact_match",
            Reward::Numeric { .. } => "numeric",
            Reward::Regex { .. } => "regex",
            Reward::Command { .. } => "command",
            Reward::Python { .. } => "python",
            Reward::JsonSchema { .. } => "json_schema",
            Reward::UnitTests { .. } => "unit_tests",
            Reward::Http { .. } => "http",
            Reward::Parts { .. } => "parts",
        }
    }

    /// The name of the group of a pattern that must equal the data field.
    pub const ANSWER_GROUP: &'static str = "answer";

    /// Whether a validated pattern has that group. Only then is the data field read.
    pub fn has_answer_group(pattern: &str) -> bool {
        fn has(part: &Hir) -> bool {
            match part.kind() {
                HirKind::Capture(Capture { name, sub, .. }) => {
                    name.as_deref() == Some(Reward::ANSWER_GROUP) || has(sub)
                }
                HirKind::Repetition(repetition) => has(&repetition.sub),
                HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().any(has),
                HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) | HirKind::Look(_) => false,
            }
        }
        regex_syntax::parse(pattern).is_ok_and(|pattern| has(&pattern))
    }

    /// The reward without paths that only locate files.
    pub fn without_paths(&self) -> Reward {
        let mut reward = self.clone();
        match &mut reward {
            Reward::Command { command: program, depends, .. }
            | Reward::Python { file: program, depends, .. } => {
                *program = without_absolute_paths(program);
                depends.clear();
            }
            Reward::Parts { parts } => {
                parts.iter_mut().for_each(|part| part.reward = part.reward.without_paths());
            }
            Reward::JsonSchema { schema } => schema.clear(),
            Reward::ExactMatch { .. }
            | Reward::Numeric { .. }
            | Reward::Regex { .. }
            | Reward::UnitTests { .. }
            | Reward::Http { .. } => {}
        }
        reward
    }

    /// Whether the reward is always 0 or 1, so that its mean is a share (pass@1).
    pub fn is_verdict(&self) -> bool {
        match self {
            Reward::ExactMatch { .. }
            | Reward::Numeric { .. }
            | Reward::Regex { .. }
            | Reward::JsonSchema { .. }
            | Reward::UnitTests { .. } => true,
            Reward::Command { .. } | Reward::Python { .. } | Reward::Http { .. } | Reward::Parts { .. } => {
                false
            }
        }
    }

    /// The range of its values.
    pub fn range(&self) -> RewardRange {
        match self {
            Reward::Command { range, .. } | Reward::Python { range, .. } | Reward::Http { range, .. } => {
                *range
            }
            Reward::Parts { parts } if parts.iter().any(|part| !part.reward.range().is_unit()) => {
                RewardRange::Any
            }
            _ => RewardRange::Unit,
        }
    }

    /// The programs that judge, each with its dependencies besides its own sources.
    pub fn commands(&self) -> Vec<(&str, &[String])> {
        match self {
            Reward::Command { command, depends, .. } => vec![(command, depends)],
            // The file is located in the same way as the script of a command.
            Reward::Python { file, depends, .. } => vec![(file, depends)],
            Reward::Parts { parts } => parts.iter().flat_map(|part| part.reward.commands()).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether one of [`Reward::commands`] is the file of a function of Python.
    pub fn is_function(&self, command: &str) -> bool {
        match self {
            Reward::Python { file, .. } => file == command,
            Reward::Parts { parts } => parts.iter().any(|part| part.reward.is_function(command)),
            _ => false,
        }
    }

    /// Descriptions of what may change its verdicts and is in no key, besides what its programs depend on.
    pub fn unseen(&self) -> Vec<&'static str> {
        match self {
            Reward::UnitTests { .. } => vec!["the version and packages of `python3`, which runs the tests"],
            Reward::Http { .. } => vec!["the responses of its server"],
            Reward::Parts { parts } => parts.iter().flat_map(|part| part.reward.unseen()).collect(),
            _ => Vec::new(),
        }
    }

    /// The files that the reward itself reads.
    pub fn files(&self) -> Vec<&str> {
        match self {
            Reward::JsonSchema { schema } => vec![schema],
            Reward::Python { file, .. } => vec![file],
            Reward::Parts { parts } => parts.iter().flat_map(|part| part.reward.files()).collect(),
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_a_pattern_is_found_and_not_what_is_written_like_it() {
        for pattern in ["(?<answer>a)", "x(?P<answer>[0-9]+)?$", "(a|(?i:b(?<answer>c){1,2}))+"] {
            assert!(Reward::has_answer_group(pattern), "{pattern}");
        }
        for pattern in ["answer", r"\(?<answer>", "[(?<answer>]", "(?<answers>a)", "(answer)"] {
            assert!(!Reward::has_answer_group(pattern), "{pattern}");
        }
    }
}
