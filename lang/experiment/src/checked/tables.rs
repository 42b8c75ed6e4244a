//! Comparisons and benchmarks.

use serde::{Deserialize, Serialize};

use super::{
    BatchSize, BenchmarkId, DomainId, FieldColumn, Keep, Length, ModelId, Origin, PromptFormat, Reward,
    Rollout, TokensOf, Train,
};

/// A table: rows of models, columns of domains and benchmarks.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    pub name: String,
    pub rows: Vec<Row>,
    /// Columns judged on the domains' own tests.
    pub domains: Vec<DomainId>,
    /// Columns judged on benchmarks.
    pub benchmarks: Vec<BenchmarkId>,
    /// The rows whose scores count as 0 and 1, for `mean_d (s_d - zero_d) / (one_d - zero_d)`.
    pub normalized: Option<Normalized>,
    /// Number of seeds; every model of the table is trained once per seed.
    pub seeds: u32,
    pub evaluation: Evaluation,
    pub metrics: Vec<Metric>,
    /// The budget that all rows must share.
    pub budget: Option<Budget>,
    pub origin: Origin,
}

/// One row. Each member of a family is in its own domain's column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub label: String,
    /// One model per column, in the order of the comparison's.
    pub models: Vec<ModelId>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Normalized {
    /// One model per column.
    pub zero: Vec<ModelId>,
    pub one: Vec<ModelId>,
}

/// How a model is judged on held-out prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Samples of each prompt: the score is their mean reward.
    pub samples: u32,
    /// 0 is greedy, one sample.
    pub temperature: f64,
    pub max_tokens: u32,
    /// The mass of nucleus (top-p) sampling.
    pub top_p: Option<f64>,
    /// The number of most probable entries that can be drawn.
    pub top_k: Option<u32>,
    /// A completion ends after the first of these texts.
    pub stop: Vec<String>,
    /// The most test prompts of a domain, the first ones of the file; all where absent.
    pub prompts: Option<u32>,
}

/// Held-out prompts with a verifier of their own.
#[derive(Clone, Debug, PartialEq)]
pub struct Benchmark {
    pub name: String,
    pub prompts: String,
    /// Columns of fields with other names.
    pub columns: Vec<FieldColumn>,
    /// `None` where the file does not set one.
    pub format: Option<PromptFormat>,
    pub reward: Reward,
    pub evaluation: Evaluation,
    pub metrics: Vec<Metric>,
    pub origin: Origin,
}

/// One number of a table's cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// The chance that at least one of `k` samples is right, unbiased (arXiv:2107.03374).
    PassAt(u32),
    /// The share of different completions among the samples of a prompt.
    Distinct,
    /// Mean number of completion tokens.
    Length,
    /// The agreement between stated confidences and how often answers are right.
    Calibration,
    /// Mean entropy of the next-token distribution.
    Entropy,
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Metric::PassAt(k) => write!(f, "pass_at({k})"),
            Metric::Distinct => f.write_str("distinct"),
            Metric::Length => f.write_str("length"),
            Metric::Calibration => f.write_str("calibration"),
            Metric::Entropy => f.write_str("entropy"),
        }
    }
}

/// The cost that must be equal for all rows of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    pub unit: BudgetUnit,
    /// Whether the training of teachers counts as well.
    pub teachers_charged: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetUnit {
    Steps,
    Sequences,
    Tokens,
}

impl BudgetUnit {
    /// The cost of a training loop that runs every `every` steps of its stage; `None` where it is known only
    /// at run time.
    pub fn spent(self, train: &Train, every: u32) -> Option<u64> {
        let Length::Steps(steps) = train.length else { return None };
        let steps = u64::from(steps.div_ceil(every));
        match self {
            BudgetUnit::Steps => Some(steps),
            BudgetUnit::Sequences => Some(steps * sequences(train)?),
            BudgetUnit::Tokens => None,
        }
    }
}

/// Sequences of a step. `None` where their number or kind varies, or further ones are written for them.
fn sequences(train: &Train) -> Option<u64> {
    let Rollout { source, edits, .. } = &train.rollout;
    let plain = match source.facts().tokens {
        TokensOf::Student(_) | TokensOf::By(..) | TokensOf::Data => true,
        TokensOf::Open
        | TokensOf::OfModel
        | TokensOf::Inside
        | TokensOf::Earlier
        | TokensOf::Mixture(_)
        | TokensOf::Changed(_) => false,
    };
    let whole = edits.is_empty() && train.keep == Keep::All && train.filter.is_none();
    // A priority draws completions of more prompts to choose from.
    let whole = whole && train.priority.is_none();
    // Mini-batches of different sizes: the number of sequences of a step varies.
    let equal = train.groups().is_multiple_of(train.options.mini_batches.max(1));
    (plain && whole && equal && train.parts().len() == 1).then(|| {
        let batch = match train.size {
            BatchSize::Prompts(prompts) => u64::from(prompts) * u64::from(train.rollout.group()),
            BatchSize::Sequences(sequences) => u64::from(sequences),
        };
        batch / u64::from(train.options.mini_batches.max(1))
    })
}
