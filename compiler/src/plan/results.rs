//! `results.json`: the tables of a run. Others read this file, so fields are only ever added.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::events::{Prediction, Versions};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    pub schema: u32,
    pub experiment: String,
    /// Hash of the plan.
    pub plan: String,
    pub seeds: Vec<u64>,
    pub versions: Versions,
    /// `cpu`, `cuda:0`; none in files of before, and so the data.
    #[serde(default)]
    pub device: Option<String>,
    #[serde(default)]
    pub data: Vec<DataHash>,
    /// What the rewards of domains are made of, where files are among it; none in files of before.
    #[serde(default)]
    pub rewards: Option<Vec<RewardFiles>>,
    pub tables: Vec<Table>,
    /// Of every stage that this run computed, in the order in which they ended.
    #[serde(default)]
    pub stages: Vec<StageRecord>,
    /// What guards of stages did, those of stages from the store among them.
    #[serde(default)]
    pub guards: Vec<GuardActed>,
    /// Wall time of the run, in seconds, stages taken from the store not counted.
    pub seconds: f64,
    /// Of that, what passed before the first stage: models and data were opened, stages tried.
    #[serde(default)]
    pub before_stages: f64,
    /// Peak resident memory of the worker, in bytes.
    pub peak_memory: u64,
    /// What was expected of the stages that ran side by side where this was most; none where nothing was
    /// predicted.
    #[serde(default)]
    pub predicted_memory: Option<u64>,
}

/// The data of a domain as it was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataHash {
    pub domain: String,
    /// `prompts`, `tests` or `validation`.
    pub part: String,
    pub path: String,
    /// Blake3 of the files' content and of what is read of them.
    pub hash: String,
}

/// The files that the reward of a domain is made of: sources of its program, a schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewardFiles {
    pub domain: String,
    pub files: Vec<FileHash>,
}

/// A file by its name, which does not depend on where the experiment lies, and Blake3 of its content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileHash {
    pub name: String,
    pub hash: String,
}

impl FileHash {
    /// The names of files that only one of two lists has, or that hold something else there.
    pub fn changed(before: &[FileHash], after: &[FileHash]) -> Vec<String> {
        let [before, after] = [before, after].map(|files| files.iter().collect::<BTreeSet<_>>());
        let names: BTreeSet<&String> = before.symmetric_difference(&after).map(|file| &file.name).collect();
        names.into_iter().cloned().collect()
    }
}

/// What a stage took, and what was expected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    pub stage: String,
    pub seed: u64,
    pub seconds: f64,
    /// Most resident memory of the worker while it ran, in bytes; none where others ran beside it.
    pub peak_memory: Option<u64>,
    /// None of stages that train nothing.
    pub predicted: Option<Prediction>,
    /// None where none are kept.
    #[serde(default)]
    pub scores_found: Option<ScoresFound>,
}

/// A guard of a stage that acted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuardActed {
    pub stage: String,
    pub seed: u64,
    /// After which it did.
    pub step: u32,
    /// As it would be written: `warn(entropy < 0.1, for: 10 steps)`.
    pub guard: String,
    /// What it had read: `entropy = 0.082`.
    pub numbers: String,
}

/// What frozen models say of a stage's data: of how many sequences it was in the store, each time one came,
/// and how many came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScoresFound {
    pub found: u64,
    pub of: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    pub name: String,
    /// `pass@1` where all rewards are verdicts, 0 or 1 by their type, else `mean reward`; `greedy` before it
    /// where the most probable token was taken.
    pub metric: String,
    /// What intervals speak of; none in files of before, and where the runs of a sweep differ in it.
    #[serde(default)]
    pub intervals: Option<Intervals>,
    /// Samples per prompt, of the first column, and in the tables of a sweep of its first run; see
    /// [`Score::samples`].
    pub samples: u32,
    /// The columns, benchmarks among them.
    pub domains: Vec<String>,
    /// What cells show beside their score, in order: `pass@8`, `length`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<String>,
    pub rows: Vec<TableRow>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableRow {
    pub model: String,
    /// By domain.
    pub scores: BTreeMap<String, Score>,
    /// `mean_d (s_d - zero_d) / (one_d - zero_d)`, with its interval.
    pub normalized: Option<Interval>,
    /// The same, one per seed, in the order of [`Results::seeds`].
    pub normalized_by_seed: Vec<f64>,
    /// Population standard deviation over domains of the per-domain normalized score.
    pub spread: Option<f64>,
    /// By metric and domain; a benchmark may have others than the rest of the table.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, BTreeMap<String, Score>>,
}

/// Mean over test prompts, samples and seeds, with a 95% interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
    /// Test prompts.
    pub n: u32,
    /// Samples per prompt; none in files of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<u32>,
    /// The mean of every seed, in the order of [`Results::seeds`].
    #[serde(default)]
    pub by_seed: Vec<f64>,
}

/// Whose chance an interval holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intervals {
    /// One seed says nothing of how other seeds would have done.
    Prompts,
    PromptsAndSeeds,
}

impl Intervals {
    pub fn of(seeds: usize) -> Intervals {
        if seeds > 1 { Intervals::PromptsAndSeeds } else { Intervals::Prompts }
    }

    /// `95% interval ...`
    pub fn name(self) -> &'static str {
        match self {
            Intervals::Prompts => "over prompts alone: there is one seed",
            Intervals::PromptsAndSeeds => "over prompts and seeds",
        }
    }
}

/// A table that two runs have in common, as far as they do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComparedTable {
    pub name: String,
    /// Those that both have, in the order of the first run.
    pub domains: Vec<String>,
    pub rows: Vec<ComparedRow>,
    /// Whether both trained with the same seeds: then they are compared seed by seed.
    pub same_seeds: bool,
    /// One of them has a single seed: how other seeds would have done is not in the intervals.
    #[serde(default)]
    pub one_seed: bool,
    /// Domains whose test prompts are not the same in both: there nothing is paired.
    pub other_tests: Vec<String>,
    /// Domains that are judged by another reward in the two: a difference there is none of the models alone.
    #[serde(default)]
    pub other_rewards: Vec<String>,
    /// Rows that the other run does not have.
    pub only_before: Vec<String>,
    pub only_after: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComparedRow {
    pub model: String,
    /// One per domain, then the mean over them, then the normalized score; none of what one run does not
    /// have.
    pub cells: Vec<Option<ComparedCell>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComparedCell {
    pub before: f64,
    pub after: f64,
    /// `after - before`, with its 95% interval.
    pub difference: Interval,
}

/// The rows of a run's own table: by how much each differs from each, and their means over all columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowDifferences {
    /// The table's name.
    pub table: String,
    /// One per row, in their order: the mean over the columns; none of a row that was not evaluated.
    pub means: Vec<Option<Interval>>,
    pub pairs: Vec<RowPair>,
}

/// Two rows of a table, the earlier one first. Prompts and seeds are paired.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowPair {
    pub first: u32,
    pub second: u32,
    /// `second - first`: one per column, then of the mean over them, then of the normalized score.
    pub differences: Vec<Option<Interval>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}
