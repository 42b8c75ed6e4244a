//! The vocabulary of a checked experiment: every setting evaluated, every name resolved, every family spelled out.
//!
//! The checker produces an `Experiment<Objective>` whose objectives are typed formulas; the compiler turns those into
//! graphs and keeps the rest as it is. So a setting has one type from the checker to the runtime.

use serde::{Deserialize, Serialize};

use crate::formula::Role;

/// Where in the source a thing was asked for: an index into a table of places, so that a failure at run time can point there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Origin(pub u32);

/// Index into [`Experiment::domains`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DomainId(pub u32);

/// Index into [`Experiment::models`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ModelId(pub u32);

/// One experiment. Models are in topological order: a model's inputs stand before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Experiment<O> {
    pub name: String,
    /// The first seed; a comparison over `n` seeds runs `seed, seed + 1, ...`.
    pub seed: u64,
    /// Folder for results, relative to where the command runs.
    pub out: Option<String>,
    pub domains: Vec<Domain>,
    pub models: Vec<Model<O>>,
    pub comparisons: Vec<Comparison>,
    /// Where values come from, as the author marked them. They change no result.
    pub marks: Vec<MarkedSetting>,
}

impl<O> Experiment<O> {
    pub fn domain(&self, id: DomainId) -> &Domain {
        &self.domains[id.0 as usize]
    }

    pub fn model(&self, id: ModelId) -> &Model<O> {
        &self.models[id.0 as usize]
    }
}

/// A mark on a setting: `lr = 1e-6 @unpublished`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkedSetting {
    /// The model, objective or block that the setting belongs to.
    pub owner: String,
    pub setting: String,
    pub mark: SettingMark,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mark", rename_all = "snake_case")]
pub enum SettingMark {
    /// Nobody published this value: a reproduction can't be mistaken for the original.
    Unpublished { note: Option<String> },
    /// Who published it, and where.
    Source { text: String },
}

/// A source of prompts with its verifier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Domain {
    pub name: String,
    /// JSON lines with a `prompt` field; relative to the source file.
    pub prompts: String,
    /// Held-out prompts for evaluation, the same layout.
    pub tests: Option<String>,
    pub reward: Reward,
    /// Share of prompts where several domains are mixed; the shares of all domains sum to 1.
    pub share: f64,
    pub origin: Origin,
}

/// How a completion is judged. Rewards are in [0, 1].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reward {
    /// 1 where the completion equals the data field.
    ExactMatch { field: String },
    /// 1 where both parse as numbers that differ by at most `tolerance`.
    Numeric { field: String, tolerance: f64 },
    /// 1 where the pattern matches the completion and, if it has a group named `answer`, that group equals the data field.
    Regex { pattern: String, field: String },
    /// A worker process that speaks JSON lines (see the book, "Rewards").
    Command { command: String, time_limit_seconds: f64, batch: u32 },
}

/// Weights: the value of a stage applied to other models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model<O> {
    /// As the author named it: `start`, `expert[sort]`.
    pub name: String,
    pub stage: Stage<O>,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum Stage<O> {
    /// Random weights.
    Initialise(Architecture),
    Train(Box<Train<O>>),
    Merge(Merge),
}

impl<O> Stage<O> {
    /// The models that must exist before this stage can run, without repetition.
    pub fn inputs(&self) -> Vec<ModelId> {
        let mut inputs = match self {
            Stage::Initialise(_) => Vec::new(),
            Stage::Train(train) => {
                std::iter::once(train.start).chain(train.teachers.iter().map(|choice| choice.teacher)).collect()
            }
            Stage::Merge(merge) => merge.base.iter().chain(&merge.models).copied().collect(),
        };
        inputs.sort();
        inputs.dedup();
        inputs
    }
}

/// A decoder of the Llama family: RMSNorm, rotary positions, grouped heads, SwiGLU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Architecture {
    pub layers: u32,
    pub width: u32,
    pub heads: u32,
    pub key_value_heads: u32,
    /// Inner width of SwiGLU.
    pub hidden: u32,
    /// Longest sequence, in tokens, prompt and completion together.
    pub context: u32,
    pub tokenizer: Tokenizer,
    /// One matrix for embedding and output.
    pub tied: bool,
    pub rope_theta: f64,
    pub norm_epsilon: f64,
    /// Standard deviation of the initial weights.
    pub initial_deviation: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tokenizer {
    /// 256 bytes, then begin (256), end (257), padding (258).
    Bytes,
}

impl Tokenizer {
    pub fn vocabulary(self) -> u32 {
        match self {
            Tokenizer::Bytes => 259,
        }
    }
}

/// One training loop. SFT, GRPO and distillation differ in where prefixes come from and in the objective.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Train<O> {
    pub recipe: Recipe,
    /// Initial weights.
    pub start: ModelId,
    /// The domains trained on and their shares, which sum to 1.
    pub mixture: Vec<Share>,
    /// Which teacher scores the prompts of which domain; empty where the objective reads no teacher.
    pub teachers: Vec<TeacherChoice>,
    pub prefixes: Prefixes,
    pub objective: O,
    pub optimizer: AdamW,
    pub steps: u32,
    pub learning_rate: Schedule,
}

/// The constructor's name, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recipe {
    Sft,
    Grpo,
    Distill,
}

impl Recipe {
    pub fn name(self) -> &'static str {
        match self {
            Recipe::Sft => "sft",
            Recipe::Grpo => "grpo",
            Recipe::Distill => "distill",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    pub domain: DomainId,
    pub share: f64,
}

/// One arm of a total route, after evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TeacherChoice {
    pub domain: DomainId,
    /// `specialist[sort]`
    pub name: String,
    pub teacher: ModelId,
}

/// Where the tokens that the objective judges come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum Prefixes {
    /// A field of the data; `batch` sequences a step.
    Data { field: String, batch: u32 },
    /// The student's own rollouts, fresh every step: `prompts` prompts, `sampling.n` samples each.
    Student { prompts: u32, sampling: Sampling },
    /// Rollouts of the routed teachers, made once before the first step: `sequences` in all, then `batch` a step.
    Teacher { sequences: u32, keep: Keep, batch: u32, sampling: Sampling },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    All,
    /// Only rollouts with reward 1.
    Correct,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Samples of one prompt: the size of a group.
    pub n: u32,
    /// 0 is greedy.
    pub temperature: f64,
    /// Longest completion, in tokens, the end token included.
    pub max_tokens: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamW {
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
    /// Largest global gradient norm.
    pub clip_norm: f64,
}

/// A run-level number over training time. `progress` is step / steps, from 0 at the first step towards 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "shape", rename_all = "snake_case")]
pub enum Schedule {
    Constant {
        value: f64,
    },
    /// From `from` to `to` over `steps` steps (the whole run where absent), `to` after that.
    Linear {
        from: f64,
        to: f64,
        steps: Option<u32>,
    },
    /// Half a cosine from `from` to `to`, likewise.
    Cosine {
        from: f64,
        to: f64,
        steps: Option<u32>,
    },
    /// Linear from 0 over `steps` steps, then `then`, whose own time starts there.
    Warmup {
        steps: u32,
        then: Box<Schedule>,
    },
}

impl Schedule {
    /// The value at `step` (from 0) of a run of `steps` steps.
    pub fn at(&self, step: u32, steps: u32) -> f64 {
        let fraction = |over: &Option<u32>| (f64::from(step) / f64::from(over.unwrap_or(steps).max(1))).min(1.0);
        match self {
            Schedule::Constant { value } => *value,
            Schedule::Linear { from, to, steps: over } => from + (to - from) * fraction(over),
            Schedule::Cosine { from, to, steps: over } => {
                to + (from - to) * 0.5 * (1.0 + (std::f64::consts::PI * fraction(over)).cos())
            }
            Schedule::Warmup { steps: warmup, then } => {
                if step < *warmup {
                    then.at(0, steps.saturating_sub(*warmup)) * f64::from(step + 1) / f64::from(warmup + 1)
                } else {
                    then.at(step - warmup, steps.saturating_sub(*warmup))
                }
            }
        }
    }

    /// Smallest and largest value of a run of `steps` steps.
    pub fn range(&self, steps: u32) -> (f64, f64) {
        (0..steps.max(1))
            .map(|step| self.at(step, steps))
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
    }
}

/// Weights computed from weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Merge {
    pub method: MergeMethod,
    /// The common ancestor that differences are taken from.
    pub base: Option<ModelId>,
    pub models: Vec<ModelId>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum MergeMethod {
    /// The mean of the weights.
    Average,
    /// base + scale * sum of (model - base) (arXiv:2212.04089).
    TaskArithmetic { scale: f64 },
    /// Trim to the `density` largest changes, elect a sign, average what agrees (arXiv:2306.01708).
    Ties { scale: f64, density: f64 },
    /// Drop a fraction of the changes at random, rescale the rest by 1 / (1 - drop) (arXiv:2311.03099).
    Dare { scale: f64, drop: f64 },
}

impl MergeMethod {
    pub fn name(&self) -> &'static str {
        match self {
            MergeMethod::Average => "average",
            MergeMethod::TaskArithmetic { .. } => "task_arithmetic",
            MergeMethod::Ties { .. } => "ties",
            MergeMethod::Dare { .. } => "dare",
        }
    }
}

/// A table: rows of models, columns of domains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    pub name: String,
    pub rows: Vec<Row>,
    /// Columns.
    pub domains: Vec<DomainId>,
    /// The rows that score 0 and 1, for `mean_d (s_d - zero_d) / (one_d - zero_d)`.
    pub normalized: Option<Normalized>,
    /// Number of seeds; every model of the table is trained once per seed.
    pub seeds: u32,
    pub evaluation: Evaluation,
    pub origin: Origin,
}

/// One row. A family puts each member in its own domain's column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub label: String,
    /// One model per column, in the order of [`Comparison::domains`].
    pub models: Vec<ModelId>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Normalized {
    /// One model per column.
    pub zero: Vec<ModelId>,
    pub one: Vec<ModelId>,
}

/// How a model is judged on held-out prompts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// `n` samples a prompt; pass@1 is their mean reward. Temperature 0 is greedy, one sample.
    pub sampling: Sampling,
    /// At most this many test prompts a domain, the first ones of the file; all where absent.
    pub prompts: Option<u32>,
}

/// What a checked objective is, before it becomes a graph. See [`crate::formula`].
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    pub name: String,
    pub terms: Vec<Term>,
    /// Per-token mask; tokens where it is false take no part in any reduction.
    pub select: Option<crate::formula::Formula>,
    /// Multiplies every term.
    pub weight: Option<crate::formula::Formula>,
    /// `mean(token) then mean(sequence)`: from the token axis to a single number.
    pub reduce: Vec<ReduceStep>,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    pub name: String,
    pub value: crate::formula::Formula,
    pub origin: Origin,
}

/// One step of a `reduce`: collapses `from` (the axis so far) to the next coarser one named, or to the batch.
#[derive(Clone, Debug, PartialEq)]
pub struct ReduceStep {
    pub operation: crate::formula::Reduction,
    /// The axis whose elements are put together: `token` in `mean(token)`.
    pub elements: crate::formula::Axis,
    /// The axis that is left: `sequence` after `mean(token)`, `batch` after `mean(token, over: batch)`.
    pub over: crate::formula::Axis,
}

/// The roles that some formula of the objective reads, besides the student.
pub fn reads_role(objective: &Objective, role: Role) -> bool {
    let formulas = objective.terms.iter().map(|term| &term.value).chain(&objective.select).chain(&objective.weight);
    formulas.into_iter().any(|formula| formula.reads(role))
}
