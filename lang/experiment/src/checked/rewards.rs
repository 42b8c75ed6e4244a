//! Rewards: the verifiers of completions.

use mopd_ops::Function;
use mopd_ops::interval::{self, ValueInterval};
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
    /// 1 where completion and data field state numbers that differ by at most `tolerance`.
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
    /// Nothing judges the completions of the domain, and nothing reads a reward of them.
    None,
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

/// A reward as a part of keys.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RewardMeaning {
    #[serde(flatten)]
    reward: Reward,
    /// [`RewardFacts::revision`].
    #[serde(skip_serializing_if = "is_first")]
    revision: u32,
}

fn is_first(revision: &u32) -> bool {
    *revision == 0
}

impl RewardMeaning {
    /// The same without paths that only locate files.
    pub fn without_paths(&self) -> RewardMeaning {
        self.reward.without_paths().meaning()
    }
}

/// Properties that every reward has, whatever its kind.
pub struct RewardFacts<'a> {
    /// Its name in the language.
    pub name: &'static str,
    pub values: RewardValues,
    /// The least and the greatest reward that the audit expects. It trusts no program of the author.
    pub bounds: ValueInterval,
    /// Its numbers, by their names in messages. All must be finite.
    pub numbers: Vec<(&'static str, f64)>,
    /// The data fields that it reads.
    pub fields: Vec<RewardField<'a>>,
    /// Whether it gets whole rows of the data, as programs and servers do.
    pub reads_rows: bool,
    /// Whether a function or a server of the author gets several completions at once.
    pub takes_lists: bool,
    /// The programs of the author that judge.
    pub programs: Vec<RewardProgram<'a>>,
    /// The files that the reward itself reads.
    pub files: Vec<&'a str>,
    /// What else its verdicts depend on.
    pub inputs: Vec<ExternalInput>,
    /// Raised whenever a completion may get another verdict than before: it is a part of keys.
    pub revision: u32,
}

/// The values of a reward.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum RewardValues {
    /// 0 or 1. The answer may be a part of the completion.
    Verdict,
    /// 0 or 1. The whole completion is the answer.
    VerdictOnWhole,
    /// Also numbers between.
    Graded(RewardRange),
}

/// A data field that a reward reads.
#[derive(Clone, Copy)]
pub struct RewardField<'a> {
    pub name: &'a str,
    /// Whether it must be a number; otherwise it is read as text.
    pub is_number: bool,
}

/// A program of the author that judges.
pub struct RewardProgram<'a> {
    /// For a function of Python its file, which is located in the same way as the script of a command.
    pub command: &'a str,
    /// The files that it depends on besides its own sources.
    pub depends: &'a [String],
    /// Whether it is a function of Python.
    pub is_function: bool,
}

/// Something that a reward depends on besides the completion, its row and the author's programs.
pub struct ExternalInput {
    /// Its description, for people.
    pub what: String,
    /// What of it may change and is in no key.
    pub unseen: Option<&'static str>,
}

impl<'a> RewardFacts<'a> {
    /// The facts of a rule that reads nothing but the completion.
    fn rule(name: &'static str, values: RewardValues) -> RewardFacts<'a> {
        RewardFacts {
            name,
            values,
            bounds: (0.0, 1.0),
            numbers: Vec::new(),
            fields: Vec::new(),
            reads_rows: false,
            takes_lists: false,
            programs: Vec::new(),
            files: Vec::new(),
            inputs: Vec::new(),
            revision: 0,
        }
    }

    /// The facts of a program or a server of the author.
    fn program(name: &'static str, range: RewardRange, time_limit_seconds: f64) -> RewardFacts<'a> {
        RewardFacts {
            bounds: interval::ANYTHING,
            numbers: vec![(TIME_LIMIT, time_limit_seconds)],
            reads_rows: true,
            ..RewardFacts::rule(name, RewardValues::Graded(range))
        }
    }

    fn combined(name: &'static str, parts: &'a [RewardPart]) -> RewardFacts<'a> {
        let mut all = RewardFacts {
            bounds: (0.0, 0.0),
            ..RewardFacts::rule(name, RewardValues::Graded(RewardRange::Unit))
        };
        for RewardPart { weight, reward, .. } in parts {
            let part = reward.facts();
            if part.values == RewardValues::Graded(RewardRange::Any) {
                all.values = part.values;
            }
            let weighted = Function::Multiply.finite_range(&[part.bounds, (*weight, *weight)]);
            all.bounds = Function::Add.finite_range(&[all.bounds, weighted]);
            all.numbers.push(("weight", *weight));
            all.numbers.extend(part.numbers);
            all.fields.extend(part.fields);
            all.reads_rows |= part.reads_rows;
            all.takes_lists |= part.takes_lists;
            all.programs.extend(part.programs);
            all.files.extend(part.files);
            all.inputs.extend(part.inputs);
            all.revision += part.revision;
        }
        all
    }
}

/// The name of a time limit in messages.
const TIME_LIMIT: &str = "reward's time limit";

fn text(name: &str) -> RewardField<'_> {
    RewardField { name, is_number: false }
}

impl Reward {
    /// All that is true of a reward of its kind. Other code matches on no kind; it asks these facts.
    pub fn facts(&self) -> RewardFacts<'_> {
        use RewardValues::{Verdict, VerdictOnWhole};
        match self {
            Reward::ExactMatch { field } => {
                RewardFacts { fields: vec![text(field)], ..RewardFacts::rule("exact_match", VerdictOnWhole) }
            }
            Reward::Numeric { field, tolerance } => RewardFacts {
                numbers: vec![("tolerance", *tolerance)],
                fields: vec![RewardField { name: field, is_number: true }],
                revision: 1,
                ..RewardFacts::rule("numeric", VerdictOnWhole)
            },
            Reward::Regex { pattern, field } => RewardFacts {
                fields: Reward::has_answer_group(pattern).then(|| text(field)).into_iter().collect(),
                ..RewardFacts::rule("regex", Verdict)
            },
            Reward::Command { command, time_limit_seconds, batch: _, depends, range } => RewardFacts {
                programs: vec![RewardProgram { command, depends, is_function: false }],
                ..RewardFacts::program("command", *range, *time_limit_seconds)
            },
            Reward::Python { file, function: _, time_limit_seconds, batch, depends, range } => RewardFacts {
                takes_lists: *batch > 1,
                programs: vec![RewardProgram { command: file, depends, is_function: true }],
                files: vec![file],
                ..RewardFacts::program("python", *range, *time_limit_seconds)
            },
            Reward::JsonSchema { schema } => RewardFacts {
                files: vec![schema],
                inputs: vec![ExternalInput { what: format!("the JSON Schema {schema}"), unseen: None }],
                ..RewardFacts::rule("json_schema", Verdict)
            },
            Reward::UnitTests { field, time_limit_seconds } => RewardFacts {
                numbers: vec![(TIME_LIMIT, *time_limit_seconds)],
                fields: vec![text(field)],
                inputs: vec![ExternalInput {
                    what: "tests".to_owned(),
                    unseen: Some("the version and packages of `python3`, which runs the tests"),
                }],
                ..RewardFacts::rule("unit_tests", Verdict)
            },
            Reward::Http { url: _, time_limit_seconds, batch, version, range } => RewardFacts {
                takes_lists: *batch > 1,
                inputs: vec![ExternalInput {
                    what: match version {
                        Some(version) => format!("a server of version {version:?}"),
                        None => "a server".to_owned(),
                    },
                    unseen: Some("the responses of its server"),
                }],
                ..RewardFacts::program("http", *range, *time_limit_seconds)
            },
            Reward::Parts { parts } => RewardFacts::combined("parts", parts),
            Reward::None => RewardFacts::rule("none", Verdict),
        }
    }

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        *self == Reward::None
    }

    /// The rewards that it combines.
    pub fn parts(&self) -> &[RewardPart] {
        match self {
            Reward::Parts { parts } => parts,
            _ => &[],
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
            | Reward::Http { .. }
            | Reward::None => {}
        }
        reward
    }

    /// The reward as a part of keys.
    pub fn meaning(self) -> RewardMeaning {
        RewardMeaning { revision: self.facts().revision, reward: self }
    }

    /// Whether the reward is always 0 or 1, so that its mean is a share (pass@1).
    pub fn is_verdict(&self) -> bool {
        !matches!(self.facts().values, RewardValues::Graded(_))
    }

    /// The range of its values.
    pub fn range(&self) -> RewardRange {
        match self.facts().values {
            RewardValues::Verdict | RewardValues::VerdictOnWhole => RewardRange::Unit,
            RewardValues::Graded(range) => range,
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

    /// A rule whose verdicts have changed has other keys than before, alone and as a part; others keep
    /// theirs.
    #[test]
    fn a_revision_is_a_part_of_keys() {
        let text = |reward: &Reward| serde_json::to_string(&reward.clone().meaning()).unwrap();
        let exact = Reward::ExactMatch { field: "answer".to_owned() };
        assert_eq!(text(&exact), serde_json::to_string(&exact).unwrap());
        let numeric = Reward::Numeric { field: "answer".to_owned(), tolerance: 0.0 };
        assert_eq!(
            text(&numeric),
            "{\"kind\":\"numeric\",\"field\":\"answer\",\"tolerance\":0.0,\"revision\":1}"
        );
        let part = |reward: &Reward| RewardPart { name: "a".to_owned(), weight: 1.0, reward: reward.clone() };
        let parts = |reward| text(&Reward::Parts { parts: vec![part(reward)] });
        assert!(parts(&numeric).ends_with("\"revision\":1}") && !parts(&exact).contains("revision"));
    }
}
