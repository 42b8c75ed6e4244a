//! Tables: the evaluated models, their held-out prompts, and the metrics of their completions.

use std::collections::BTreeSet;
use std::fmt;

pub use mopd_experiment::{Normalized, Row};
use serde::{Deserialize, Serialize};

use super::{DomainId, ModelId, Origin, Sampling};

/// A table: rows of models, columns of held-out prompts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    pub name: String,
    pub rows: Vec<Row>,
    /// Domains first, then benchmarks.
    pub columns: Vec<TableColumn>,
    /// The rows whose scores count as 0 and 1, for `mean_d (s_d - zero_d) / (one_d - zero_d)`.
    pub normalized: Option<Normalized>,
    /// Number of seeds; every model of the table is trained once per seed.
    pub seeds: u32,
    pub origin: Origin,
}

impl Comparison {
    /// The models that the table evaluates, each with the index of its column.
    pub fn evaluations(&self) -> BTreeSet<(ModelId, usize)> {
        let normalized = self.normalized.iter().flat_map(|normalized| [&normalized.zero, &normalized.one]);
        let rows = self.rows.iter().map(|row| &row.models).chain(normalized);
        rows.flat_map(|models| models.iter().copied().zip(0..self.columns.len())).collect()
    }

    /// The metrics of the cells besides the score, each once, in the order of the columns.
    pub fn metrics(&self) -> Vec<Metric> {
        let mut metrics: Vec<Metric> = Vec::new();
        for metric in self.columns.iter().flat_map(|column| &column.metrics) {
            if !metrics.contains(metric) {
                metrics.push(*metric);
            }
        }
        metrics
    }
}

/// The tests of a domain, or of a benchmark, which a plan lists as a domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableColumn {
    pub domain: DomainId,
    /// The settings of the evaluation. A benchmark has its own.
    pub evaluation: Evaluation,
    /// The metrics of the cells besides the score.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<Metric>,
}

/// How a model is judged on held-out prompts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// `n` samples per prompt, whose mean reward is the score. Temperature 0 is greedy, with one sample.
    pub sampling: Sampling,
    /// The most test prompts of a domain, the first ones of the file; all where absent.
    pub prompts: Option<u32>,
}

impl Evaluation {
    pub fn is_greedy(&self) -> bool {
        self.sampling.is_greedy()
    }

    /// The samples per prompt. Greedy completions are all equal, so one is enough.
    pub fn samples(&self) -> u32 {
        if self.is_greedy() { 1 } else { self.sampling.n.max(1) }
    }
}

/// A metric of a cell besides its score: a mean over prompts, or a metric of all completions together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "metric", rename_all = "snake_case")]
pub enum Metric {
    /// The probability that at least one of `k` samples is right, unbiased (arXiv:2107.03374, equation 1).
    PassAt { k: u32 },
    /// The share of different completions among the samples of a prompt.
    Distinct,
    /// Tokens of a completion, the end token included.
    Length,
    /// The expected calibration error of the answers that state a confidence (arXiv:1706.04599, equation 3).
    Ece,
    /// The mean squared difference between confidence and correctness (1 or 0), over the same answers.
    Brier,
    /// The share of answers that state a confidence.
    Stated,
}

impl Metric {
    /// Whether its values are between 0 and 1.
    pub fn is_share(self) -> bool {
        !matches!(self, Metric::Length)
    }
}

/// The name in tables.
impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Metric::PassAt { k } => write!(f, "pass@{k}"),
            Metric::Distinct => f.write_str("distinct"),
            Metric::Length => f.write_str("length"),
            Metric::Ece => f.write_str("ece"),
            Metric::Brier => f.write_str("brier"),
            Metric::Stated => f.write_str("stated"),
        }
    }
}
