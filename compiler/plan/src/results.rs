//! `results.json`: the tables of a run. Other programs read this file, so fields are only ever added.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    pub schema: u32,
    pub experiment: String,
    /// Hash of the plan.
    pub plan: String,
    /// Hash of the keys and names of all results, which covers the content of files, too; of a sweep, those
    /// of its members, separated by commas. `None` in files of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<String>,
    /// Stages that resumed from the checkpoint of another version of the text: results that the text alone
    /// does not give.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forks: Vec<Fork>,
    pub seeds: Vec<u64>,
    pub versions: Versions,
    /// `cpu`, `cuda:0`. Like `data`, `None` in files of older versions.
    #[serde(default)]
    pub device: Option<String>,
    #[serde(default)]
    pub data: Vec<DataHash>,
    /// The files of the domains' rewards, if there are any. `None` in files of older versions.
    #[serde(default)]
    pub rewards: Option<Vec<RewardFiles>>,
    pub tables: Vec<Table>,
    /// Every stage that this run computed, in the order in which the stages ended.
    #[serde(default)]
    pub stages: Vec<StageRecord>,
    /// Actions of guards, including those of stages from the store.
    #[serde(default)]
    pub guards: Vec<GuardActed>,
    /// The privacy loss of private stages, including those from the store.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub private: Vec<PrivateStage>,
    /// Wall time of the run in seconds, without stages from the store.
    pub seconds: f64,
    /// The part of `seconds` before the first stage: opening models and data, trials of stages.
    #[serde(default)]
    pub before_stages: f64,
    /// Peak resident memory of the worker, in bytes.
    pub peak_memory: u64,
    /// The predicted memory of the stages that ran in parallel at the peak. `None` where nothing was
    /// predicted.
    #[serde(default)]
    pub predicted_memory: Option<u64>,
}

/// A data source of a domain, as it was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataHash {
    pub domain: String,
    /// `prompts`, `tests` or `validation`.
    pub part: String,
    pub path: String,
    /// Blake3 of the files' content and of the settings that select rows from it.
    pub hash: String,
}

/// The files of a domain's reward: sources of its program, a schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewardFiles {
    pub domain: String,
    pub files: Vec<FileHash>,
}

/// A file's name, independent of the folder of the experiment, and Blake3 of its content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileHash {
    pub name: String,
    pub hash: String,
}

impl FileHash {
    /// The names of files that are in only one of two lists, or whose content differs.
    pub fn changed(before: &[FileHash], after: &[FileHash]) -> Vec<String> {
        let [before, after] = [before, after].map(|files| files.iter().collect::<BTreeSet<_>>());
        let names: BTreeSet<&String> = before.symmetric_difference(&after).map(|file| &file.name).collect();
        names.into_iter().cloned().collect()
    }
}

/// The measured and the predicted cost of a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    pub stage: String,
    pub seed: u64,
    pub seconds: f64,
    /// Peak resident memory of the worker during the stage, in bytes. `None` where others ran in parallel.
    pub peak_memory: Option<u64>,
    /// `None` for stages without training.
    pub predicted: Option<Prediction>,
    /// `None` where no scores are stored.
    #[serde(default)]
    pub scores_found: Option<ScoresFound>,
}

/// An action of a guard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuardActed {
    pub stage: String,
    pub seed: u64,
    /// The step after which it acted.
    pub step: u32,
    /// The guard's text: `warn(entropy < 0.1, for: 10 steps)`.
    pub guard: String,
    /// The numbers that the condition read: `entropy = 0.082`.
    pub numbers: String,
}

/// The privacy loss of a private stage with one seed, and the settings that determine it: the numbers that a
/// report on privacy states. The losses of several stages and seeds on the same rows add up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrivateStage {
    pub stage: String,
    pub seed: u64,
    /// The largest norm of a row's gradient.
    pub clip: f64,
    /// Standard deviation of the noise, as a multiple of the clip.
    pub noise_multiplier: f64,
    /// Probability that a step's batch contains a row; the largest one, if domains differ.
    pub sampling_rate: f64,
    pub steps: u32,
    /// Epsilon after the last step. At most the budget, because the noise is rounded up to thousandths.
    pub epsilon: f64,
    pub delta: f64,
    /// The epsilon that the program allows.
    pub budget: f64,
    /// `None` where each prompt occurs in one row only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies: Option<RowCopies>,
}

/// Rows of a private stage whose prompt occurs in other rows, too, of any of its domains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowCopies {
    pub rows: u64,
    /// The number of rows with the prompt whose loss is largest; `epsilon` is their total.
    pub most: u32,
    pub epsilon: f64,
}

/// The use of stored scores of frozen models: how many of a stage's sequences were found in the store,
/// counted each time they were used, and how many were used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScoresFound {
    pub found: u64,
    pub of: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    pub name: String,
    /// `pass@1` if all rewards are verdicts (0 or 1 by their type), otherwise `mean reward`; with `greedy`
    /// before it if decoding was greedy.
    pub metric: String,
    /// The kind of the intervals. `None` in files of older versions, and where the runs of a sweep differ.
    #[serde(default)]
    pub intervals: Option<Intervals>,
    /// Samples per prompt of the first column (in the tables of a sweep: of its first run); see
    /// [`Score::samples`].
    pub samples: u32,
    /// The columns, including benchmarks.
    pub domains: Vec<String>,
    /// The metrics of cells besides the score, in order: `pass@8`, `length`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<String>,
    pub rows: Vec<TableRow>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableRow {
    pub model: String,
    /// The scores by domain.
    pub scores: BTreeMap<String, Score>,
    /// `mean_d (s_d - zero_d) / (one_d - zero_d)`, with its interval.
    pub normalized: Option<Interval>,
    /// The normalized score of each seed, in the order of [`Results::seeds`].
    pub normalized_by_seed: Vec<f64>,
    /// Population standard deviation over domains of the per-domain normalized score.
    pub spread: Option<f64>,
    /// Metrics by name and domain. A benchmark may have other metrics than the rest of the table.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, BTreeMap<String, Score>>,
}

/// Mean over test prompts, samples and seeds, with a 95% interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
    /// The number of test prompts.
    pub n: u32,
    /// Samples per prompt; `None` in files of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<u32>,
    /// The mean of every seed, in the order of [`Results::seeds`].
    #[serde(default)]
    pub by_seed: Vec<f64>,
}

/// The randomness that an interval includes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intervals {
    /// Only prompts: a single seed does not show the variation between seeds.
    Prompts,
    PromptsAndSeeds,
}

impl Intervals {
    pub fn for_seeds(seeds: usize) -> Intervals {
        if seeds > 1 { Intervals::PromptsAndSeeds } else { Intervals::Prompts }
    }

    /// The text after `95% interval`.
    pub fn name(self) -> &'static str {
        match self {
            Intervals::Prompts => "over prompts alone: there is one seed",
            Intervals::PromptsAndSeeds => "over prompts and seeds",
        }
    }
}

/// A table that two runs have in common, with its common rows and columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComparedTable {
    pub name: String,
    /// The domains that both have, in the order of the first run.
    pub domains: Vec<String>,
    pub rows: Vec<ComparedRow>,
    /// Whether both have the same seeds, so that they are compared seed by seed.
    pub same_seeds: bool,
    /// The number of seeds of the first run and of the second. With a single one, intervals do not include
    /// the variation between seeds.
    #[serde(default)]
    pub seeds: [u32; 2],
    /// Domains whose test prompts differ, so that their prompts are not paired.
    pub other_tests: Vec<String>,
    /// Domains whose rewards differ, so that a difference may not come from the models.
    #[serde(default)]
    pub other_rewards: Vec<String>,
    /// Domains whose completions are sampled differently, such as at another temperature, so that a
    /// difference may not come from the models.
    #[serde(default)]
    pub other_sampling: Vec<String>,
    /// Domains with a single test prompt and rewards without bounds: an interval can't cover other prompts.
    #[serde(default)]
    pub one_prompt: Vec<String>,
    /// Rows that only the first run has.
    pub only_before: Vec<String>,
    pub only_after: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComparedRow {
    pub model: String,
    /// One per domain, then the mean over domains, then the normalized score. `None` where one run lacks it.
    pub cells: Vec<Option<ComparedCell>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComparedCell {
    pub before: f64,
    pub after: f64,
    /// `after - before`, with its 95% interval.
    pub difference: Interval,
}

/// The rows of a run's own table: the difference of each pair, and the mean of each row over all columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowDifferences {
    /// The table's name.
    pub table: String,
    /// The mean over the columns of each row, in order. `None` for a row that was not evaluated.
    pub means: Vec<Option<Interval>>,
    /// Columns with a single test prompt and rewards without bounds: an interval can't cover other prompts.
    #[serde(default)]
    pub one_prompt: Vec<String>,
    pub pairs: Vec<RowPair>,
}

/// Two rows of a table, the earlier one first. Prompts and seeds are paired.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowPair {
    pub first: u32,
    pub second: u32,
    /// `second - first`: one per column, then the mean over columns, then the normalized score.
    pub differences: Vec<Option<Interval>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}

/// A stage that does not begin at its first step: it takes weights, optimizer state, step and data position
/// from the checkpoint of another stage, such as a stage before an edit. Its result has a key of its own, and
/// is never used as the result of the stage as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork {
    pub stage: String,
    pub seed: u64,
    /// The key and the step of the other stage's checkpoint, which an event reports when it is written.
    pub key: String,
    pub step: u32,
}

impl Fork {
    /// The origin of the stage's result, in a few words.
    pub fn described(&self) -> String {
        let Fork { stage, seed, step, .. } = self;
        format!("`{stage}`, seed {seed}, resumed from step {step} of another text")
    }
}

/// The predicted cost of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Seconds of the whole stage if nothing runs in parallel, without rewards by programs.
    pub seconds: f64,
    /// The parts of these seconds: rollouts; forward passes of all models; gradients and updates. The rest
    /// comes before the first step and after the last one.
    pub rollout: f64,
    pub scoring: f64,
    pub update: f64,
    /// Peak resident memory of the worker during the stage, in bytes, if nothing runs in parallel.
    pub memory: u64,
    /// The part of `memory` that the worker also uses while nothing runs, in bytes.
    #[serde(default)]
    pub resting: u64,
    /// The range of `seconds`, from the spread of the tried steps, the time they waited for a core, and the
    /// stages that may run in parallel. `None` in results of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<TimeRange>,
}

/// A range of seconds, from the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimeRange {
    pub least: f64,
    pub most: f64,
}

impl Prediction {
    /// The range, or just `seconds` where no range was recorded.
    pub fn range(&self) -> TimeRange {
        self.range.unwrap_or(TimeRange { least: self.seconds, most: self.seconds })
    }
}

impl TimeRange {
    /// The range of the sum, for two in sequence.
    pub fn plus(self, then: TimeRange) -> TimeRange {
        TimeRange { least: self.least + then.least, most: self.most + then.most }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    pub mopd: String,
    pub libtorch: String,
}
