//! The protocol between `mopd` and `mopd-worker`. `mopd` writes one [`Job`] as a line of JSON to the worker's
//! standard input; the worker writes one [`Event`] per line to standard output. Standard input stays open:
//! further lines are [`WorkerRequest`]s, and its end means that `mopd` has ended, in whatever way, so the
//! worker stops too. A worker that was started with the argument [`SERVE`] stays: all lines are requests, and
//! its jobs end one after the other, each with a final event.

use serde::{Deserialize, Serialize};

use super::Plan;
pub use super::bench::{BenchDivergence, BenchJob, GenerateJob, GenerationRound, GenerationShape, Measure};
use super::deltas::{Delta, DeltaJob};
pub use super::failures::{Failure, FailureKind};
pub use super::floor::{Phase, Rates, StepPart};
use super::results::{ComparedTable, PrivateStage, RowDifferences};
pub use super::served::ServeJob;
pub use super::server_reports::{LONGEST_LIST, ServerReport, ServersJob};
use super::why::StageFate;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "snake_case")]
pub enum Job {
    Run(Box<RunJob>),
    /// Checks a run's files and rewards and reports those that can't be read or do not answer; runs nothing.
    /// For `mopd check --files`.
    Files(Box<RunJob>),
    /// Asks each server of a plan for its model and capabilities. For `mopd doctor FILE`.
    Servers(Box<ServersJob>),
    /// Predicts what each stage of a run will take; runs nothing.
    Predict(Box<RunJob>),
    /// Reports what a run would do with each stage; runs nothing.
    Why(Box<RunJob>),
    Sample(SampleJob),
    /// Loads a model and answers requests about it, until asked to stop.
    Serve(ServeJob),
    /// Returns tables of a finished run.
    Read(ReadJob),
    /// Compares the tables of several runs.
    Compare(CompareJob),
    /// Compare the rows of each of a run's tables.
    Differences(DifferencesJob),
    /// Compares the weights of two models.
    Delta(DeltaJob),
    /// For `mopd bench divergence`.
    Bench(BenchJob),
    /// For `mopd bench generate`.
    Generate(GenerateJob),
    /// For `mopd bench distill`, besides the run itself.
    Floor(Box<FloorJob>),
    /// Sends `Ready` and stops. For `mopd doctor`.
    Probe,
}

/// The argument with which a worker stays for several jobs.
pub const SERVE: &str = "serve";

/// The caller's `$LD_LIBRARY_PATH`, for the programs that a worker starts: the worker's own one has libtorch
/// first.
pub const CALLERS_LIBRARY_PATH: &str = "MOPD_LIBRARY_PATH";

/// A request to a worker. Only one that was started with [`SERVE`] takes jobs this way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum WorkerRequest {
    /// Queues a job after those before it.
    Begin { job: Job },
    /// The current job ends at the next step with [`Event::Interrupted`]; no effect where there is none.
    Stop,
    /// Like `Stop`, and then the worker ends. A job without results to keep ends at once.
    End,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunJob {
    pub plan: Plan,
    /// Folder that data paths and reward commands are relative to: the source file's.
    pub base: String,
    /// Content-addressed store of finished stages.
    pub store: String,
    /// Folder for results.
    pub out: String,
    /// Recompute every stage even if the store has it.
    pub fresh: bool,
    /// Recompute these stages, by name, and those that depend on them.
    #[serde(default)]
    pub from: Vec<String>,
    /// Seconds between checkpoints of a training stage; 0 for one after every step. Where absent, an interval
    /// that keeps their cost small.
    #[serde(default)]
    pub checkpoint_every: Option<f64>,
    /// Stages that start from the checkpoint of another one.
    #[serde(default)]
    pub forks: Vec<Fork>,
    /// The most stages that run in parallel; one core each.
    pub workers: Option<u32>,
    /// Processes that train each stage together.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub processes: u32,
    #[serde(default)]
    pub predict: Predict,
}

fn one() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_one(number: &u32) -> bool {
    *number == 1
}

/// How much time may be spent before the first stage on predicting what stages will take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Predict {
    Never,
    /// Some seconds, and none for stages that take little longer than a trial of them.
    #[default]
    Quick,
    /// As long as it takes.
    Full,
}

/// A stage that does not begin at its first step: it takes weights, optimizer state, step and data position
/// from a checkpoint of another stage, for example of one that was edited. Its result is stored under a key
/// of its own, and is never used as the result of the stage run as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork {
    pub stage: String,
    pub seed: u64,
    /// The key and the step of the other stage's checkpoint, from [`Event::Checkpoint`].
    pub key: String,
    pub step: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleJob {
    /// A model's folder.
    pub checkpoint: String,
    pub prompts: Vec<SamplePrompt>,
    /// Whether the model's chat template formats the prompts.
    pub chat: bool,
    /// In a chat, the system message before a prompt that has none.
    pub system: Option<String>,
    /// Completions of each prompt.
    pub n: u32,
    pub temperature: f64,
    /// The rest of the context, where absent.
    pub max_tokens: Option<u32>,
    pub seed: u64,
}

/// A prompt for a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplePrompt {
    /// In a chat, the user's message.
    Prompt(String),
    /// A list of messages, for a chat.
    Messages(serde_json::Value),
}

/// Read Parquet files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadJob {
    pub files: Vec<String>,
}

/// Compare the first run with each of the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompareJob {
    /// Folders.
    pub runs: Vec<String>,
}

/// Compare the rows of each of a run's tables, prompt by prompt and seed by seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DifferencesJob {
    /// The run's folder.
    pub run: String,
}

/// Measures what this machine can do, and counts what a step of the plan's distillation needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FloorJob {
    /// Its results and its `fresh` are ignored: nothing runs.
    pub run: RunJob,
    /// The mean tokens of a completion; the most possible where absent.
    pub completion: Option<f64>,
}

/// A row of `metrics.parquet`: its columns, without those that are null.
pub type MetricsRow = serde_json::Map<String, serde_json::Value>;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// First event of every job.
    Ready {
        versions: Versions,
        device: String,
        threads: u32,
    },
    /// The whole amount of work, to show progress: stages, each once per seed, and how many of them are in
    /// the store.
    Started {
        tasks: u32,
        kept: u32,
    },
    StageStarted {
        stage: String,
        seed: u64,
        steps: u32,
    },
    /// Follows [`Event::StageStarted`] if an earlier run ended after this many steps of the stage.
    StageResumed {
        stage: String,
        seed: u64,
        step: u32,
    },
    /// The state of a stage after this many steps is in the store, under the stage's key. Sent from time to
    /// time, and before [`Event::Interrupted`].
    Checkpoint {
        stage: String,
        seed: u64,
        key: String,
        step: u32,
    },
    /// Another run computes this result; this run waits for it, and works on other stages meanwhile.
    Waiting {
        what: String,
    },
    /// Taken from the store.
    StageKept {
        stage: String,
        seed: u64,
    },
    /// After each step. `metric` is the main metric of this recipe.
    Step {
        stage: String,
        seed: u64,
        step: u32,
        steps: u32,
        metric: String,
        value: f64,
        /// The number of completion tokens that are trained on, over all sequences.
        tokens: u64,
        seconds: Seconds,
        /// The loss of the whole step, over all domains.
        loss: f64,
        domains: Vec<DomainStep>,
        /// The rows of this step in `metrics.parquet`, for all models that it trained.
        rows: Vec<MetricsRow>,
    },
    /// What a private stage will tell of its data; in a [`Job::Predict`], before all predictions.
    Private(PrivateStage),
    /// Before [`Event::StageFinished`], where scores by frozen models are stored: how many sequences were
    /// found in the store, counted each time they were used in this run, and how many were used.
    ScoresFound {
        stage: String,
        seed: u64,
        found: u64,
        of: u64,
    },
    StageFinished {
        stage: String,
        seed: u64,
        seconds: f64,
        /// Peak resident memory of the worker while the stage ran, in bytes; `None` where the system does not
        /// tell, or where other stages ran in parallel.
        peak_memory: Option<u64>,
    },
    /// The predicted cost of a training stage, measured before anything runs.
    Predicted {
        stage: String,
        seed: u64,
        prediction: Prediction,
    },
    /// The next stage of a [`Job::Why`].
    Fate {
        fate: StageFate,
    },
    /// The time that trials of stages took. `short`: stages left out because a trial would take about as
    /// long; `late`: stages for which no time was left.
    PredictionEnded {
        seconds: f64,
        short: u32,
        late: u32,
    },
    Evaluated {
        model: String,
        seed: u64,
        domain: String,
        score: f64,
    },
    /// The next run of a [`CompareJob`], after the first.
    Compared {
        tables: Vec<ComparedTable>,
    },
    /// The result of a [`DifferencesJob`].
    Differences {
        tables: Vec<RowDifferences>,
    },
    /// The next parameter of a [`DeltaJob`]; after these the groups, then the total.
    Delta {
        delta: Delta,
    },
    /// The next file of a [`ReadJob`].
    Table {
        file: String,
        columns: Vec<ReadColumn>,
    },
    /// A [`ServeJob`] takes requests from now on.
    Serving {
        /// `http://127.0.0.1:8000`
        url: String,
        model: String,
        /// A hash of the weights.
        weights: String,
        context: u32,
    },
    /// While the completions of a prompt are generated, several times a second: their tokens so far, and the
    /// most they may have. A single completion is streamed: `text` continues the text sent before.
    SampleWritten {
        prompt: u32,
        tokens: u32,
        most: u32,
        text: String,
    },
    /// One completion of a [`SampleJob`].
    Sample {
        /// The index of its prompt.
        prompt: u32,
        text: String,
        tokens: u32,
        finished: bool,
        logp: f64,
    },
    /// Peak memory of the measured part of a [`BenchJob`], in bytes, beyond its inputs; `None` where the
    /// system does not tell.
    MeasuredMemory {
        bytes: Option<u64>,
    },
    /// Seconds of each run of a [`BenchJob`], and the largest difference of values and of gradients, each
    /// relative to the largest of the plain version.
    MeasuredTime {
        plain: Vec<f64>,
        chunked: Vec<f64>,
        value_difference: f64,
        gradient_difference: f64,
    },
    /// One round of a shape of a [`GenerateJob`].
    MeasuredGeneration(GenerationRound),
    /// The result of a [`FloorJob`].
    MeasuredFloor {
        rates: Rates,
        /// The phases of a step, in order.
        phases: Vec<Phase>,
        /// The mean tokens of a prompt.
        prompt: f64,
        /// The CPU cores of the stage.
        threads: u32,
    },
    Warning {
        message: String,
    },
    /// The next problem found by a [`Job::Files`] or a [`Job::Servers`].
    Refused(Failure),
    /// The next server of a [`Job::Servers`].
    ServerFound {
        report: Box<ServerReport>,
    },
    /// The job ends with exit status 1; finished stages are kept.
    Failed(Failure),
    /// The job ends with exit status 130; finished stages and the checkpoints of running stages are kept.
    Interrupted {
        finished: u32,
        tasks: u32,
    },
    /// The job ends with exit status 0.
    Finished {
        seconds: f64,
        peak_memory: u64,
    },
}

/// Wall time of a step, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    /// Rollouts and their rewards.
    pub rollout: f64,
    /// Forward passes of all models, and all other inputs of the objective.
    pub scoring: f64,
    /// Gradient and update.
    pub update: f64,
}

impl Seconds {
    pub fn sum(&self) -> f64 {
        self.rollout + self.scoring + self.update
    }
}

/// Statistics of one domain in a step. Numbers that the stage does not have are absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DomainStep {
    pub domain: String,
    /// The teachers that its prompts of this step are routed to.
    pub teachers: Vec<TeacherStep>,
    /// Mean over completion tokens of log p_student - log p_teacher, in nats.
    pub divergence: Option<f64>,
    /// Mean reward of the completions, in [0, 1].
    pub reward: Option<f64>,
}

/// Statistics of a domain's prompts that one teacher scored in a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TeacherStep {
    pub teacher: String,
    /// As in [`DomainStep`].
    pub divergence: Option<f64>,
}

/// A column of a table, one value per row; `None` for a missing value and for one that is not finite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadColumn {
    pub name: String,
    pub values: ColumnValues,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnValues {
    Wholes(Vec<Option<u64>>),
    Numbers(Vec<Option<f64>>),
    Truths(Vec<Option<bool>>),
    Texts(Vec<Option<String>>),
}

/// The predicted cost of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Seconds of the whole stage, if nothing runs in parallel, without rewards by programs.
    pub seconds: f64,
    /// The parts of these seconds: rollouts; forward passes of all models; gradients and updates. The rest is
    /// before the first step and after the last one.
    pub rollout: f64,
    pub scoring: f64,
    pub update: f64,
    /// Peak resident memory of the worker during the stage, in bytes, if nothing runs in parallel.
    pub memory: u64,
    /// The part of this that the worker also holds while nothing runs, in bytes.
    #[serde(default)]
    pub resting: u64,
    /// The range of `seconds`, from the spread of the tried steps, the time they waited for a core, and the
    /// stages that may run in parallel. `None` in results of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<TimeRange>,
}

/// The least and the most seconds that something may take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimeRange {
    pub least: f64,
    pub most: f64,
}

impl Prediction {
    /// The range; just `seconds` where no range was recorded.
    pub fn range(&self) -> TimeRange {
        self.range.unwrap_or(TimeRange { least: self.seconds, most: self.seconds })
    }
}

impl TimeRange {
    /// The range of two, one after the other.
    pub fn plus(self, then: TimeRange) -> TimeRange {
        TimeRange { least: self.least + then.least, most: self.most + then.most }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    pub mopd: String,
    pub libtorch: String,
}
