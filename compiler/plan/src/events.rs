//! The protocol between `mopd` and `mopd-worker`. `mopd` writes one [`Job`] as a line of JSON to the worker's
//! standard input; the worker writes one [`Event`] per line to standard output. Standard input stays open:
//! further lines are [`WorkerRequest`]s, and its end means that `mopd` has ended for any reason, so the
//! worker stops, too. A worker that was started with the argument [`SERVE`] stays: all lines are requests,
//! and its jobs run one after the other, each with a final event.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use super::bench::{BenchDivergence, BenchJob, GenerateJob, GenerationRound, GenerationShape, Measure};
use super::deltas::{Delta, DeltaJob};
pub use super::failures::{Failure, FailureKind};
use super::results::{ComparedTable, PrivateStage, RowDifferences};
pub use super::results::{Fork, Prediction, TimeRange, Versions};
pub use super::roofline::{MachineRates, Phase, StepPart};
pub use super::served::{RewardsJob, ServeJob};
pub use super::server_reports::{LONGEST_LIST, ServerReport};
use super::why::StageFate;
use super::{EngineJob, Plan, PretrainedSource};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "snake_case")]
pub enum Job {
    Run(Box<RunJob>),
    /// Checks a run's files and rewards, and reports those that can't be read or do not respond. Runs
    /// nothing. For `mopd check --files`.
    Files(Box<RunJob>),
    /// Requests the model and the capabilities of each server of a plan. For `mopd doctor FILE`.
    Servers(Box<ServersJob>),
    /// Predicts the cost of each stage of a run. Runs nothing.
    Predict(Box<RunJob>),
    /// Reports what a run would do with each stage. Runs nothing.
    Why(Box<RunJob>),
    Sample(SampleJob),
    /// Writes the whole model of a folder with an adapter. For `mopd export --merged`.
    Merged(MergedJob),
    /// Loads a model and serves requests until it is stopped.
    Serve(ServeJob),
    /// Judges the completions of an exported folder until it is stopped.
    Rewards(RewardsJob),
    /// Returns tables of a finished run.
    Read(ReadJob),
    /// Compares the tables of several runs.
    Compare(CompareJob),
    /// Compares the rows of each table of a run.
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

/// The job of `mopd export --merged`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergedJob {
    /// A folder with an adapter.
    pub folder: String,
    /// The folder to write.
    pub out: String,
}

/// The argument with which a worker stays for several jobs.
pub const SERVE: &str = "serve";

/// The variable with the caller's `$LD_LIBRARY_PATH`, for programs that a worker starts: in the worker's own
/// one, libtorch comes first.
pub const CALLERS_LIBRARY_PATH: &str = "MOPD_LIBRARY_PATH";

/// A request to a worker. Only one that was started with [`SERVE`] takes jobs this way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum WorkerRequest {
    /// Queues a job after those before it.
    Begin { job: Job },
    /// Ends the current job at the next step with [`Event::Interrupted`]. No effect if there is none.
    Stop,
    /// Like `Stop`, then ends the worker. A job without results to store ends at once.
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
    /// Whether to recompute every stage, even if the store has it.
    pub fresh: bool,
    /// Stages to recompute, by name, with all that depend on them.
    #[serde(default)]
    pub from: Vec<String>,
    /// Seconds between checkpoints of a training stage; 0 for a checkpoint after every step. If absent, an
    /// interval that keeps their cost small.
    #[serde(default)]
    pub checkpoint_every: Option<f64>,
    /// Stages that start from the checkpoint of another stage.
    #[serde(default)]
    pub forks: Vec<Fork>,
    /// The most stages that run in parallel, each on one core.
    pub workers: Option<u32>,
    /// The engine that trains stages in place of the worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineJob>,
    #[serde(default)]
    pub predict: Predict,
}

/// The time to spend on predictions before the first stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Predict {
    Never,
    /// Some seconds, but none for stages that take little longer than a trial of them.
    #[default]
    Quick,
    /// All the time that is needed.
    Full,
}

/// The job of `mopd doctor FILE` for the servers of an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServersJob {
    /// The run. Nothing of it is executed.
    pub run: RunJob,
    /// Whether to read students, to compare tokenizers and contexts with those of servers. False if one would
    /// have to be downloaded first.
    pub read_models: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleJob {
    pub model: PretrainedSource,
    pub prompts: Vec<SamplePrompt>,
    /// Whether the model's chat template formats the prompts.
    pub chat: bool,
    /// The system message before a prompt without one, in a chat.
    pub system: Option<String>,
    /// Completions of each prompt.
    pub n: u32,
    pub temperature: f64,
    /// The most tokens of a completion; the rest of the context where absent.
    pub max_tokens: Option<u32>,
    pub seed: u64,
}

/// A prompt for a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplePrompt {
    /// A text; in a chat, the user's message.
    Prompt(String),
    /// A line of data as JSON text, for a chat. As text, it keeps the order of members and the digits of
    /// numbers, which templates show.
    Line(String),
}

/// Reads Parquet files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadJob {
    pub files: Vec<String>,
    /// The rows to read.
    #[serde(default)]
    pub rows: RowFilter,
}

/// Values by column: a row is read if each of these columns has one of the values there. Numbers are written
/// in decimal.
pub type RowFilter = BTreeMap<String, Vec<String>>;

/// Compares the first run with each of the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompareJob {
    /// The folders of the runs.
    pub runs: Vec<String>,
}

/// Compares the rows of each table of a run, prompt by prompt and seed by seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DifferencesJob {
    /// The run's folder.
    pub run: String,
}

/// Measures the rates of this machine, and counts the work of a step of the plan's distillation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FloorJob {
    /// The run. Its folder of results and its `fresh` are ignored, since nothing runs.
    pub run: RunJob,
    /// The mean tokens of a completion; the maximum where absent.
    pub completion: Option<f64>,
}

/// A row of `metrics.parquet`: its columns, without those that are null.
pub type MetricsRow = serde_json::Map<String, serde_json::Value>;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The first event of every job.
    Ready {
        versions: Versions,
        device: String,
        threads: u32,
    },
    /// The total work, for progress: the number of stages, each once per seed, and how many of them are in
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
    /// The state of a stage after this many steps has been stored under the stage's key. Sent from time to
    /// time, and before [`Event::Interrupted`].
    Checkpoint {
        stage: String,
        seed: u64,
        key: String,
        step: u32,
    },
    /// Another run computes this result. This run waits for it, and meanwhile works on other stages.
    Waiting {
        what: String,
    },
    /// The stage's result was taken from the store.
    StageKept {
        stage: String,
        seed: u64,
    },
    /// Sent after each step. `metric` is the recipe's main metric.
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
        /// The rows of this step in `metrics.parquet`, for all models that were trained in it.
        rows: Vec<MetricsRow>,
    },
    /// The privacy loss of a private stage; in a [`Job::Predict`], before all predictions.
    Private(PrivateStage),
    /// Sent before [`Event::StageFinished`] if scores of frozen models are stored: how many sequences were
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
        /// Peak resident memory of the worker while the stage ran, in bytes. `None` where the system does not
        /// report it, or where other stages ran in parallel.
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
    /// The time that trials of stages took. `short` are stages without a trial, because it would take about
    /// as long; `late` are stages for which no time was left.
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
        /// The names of the tables that have this score.
        #[serde(default)]
        tables: Vec<String>,
    },
    /// The next run of a [`CompareJob`], after the first.
    Compared {
        tables: Vec<ComparedTable>,
    },
    /// The result of a [`DifferencesJob`].
    Differences {
        tables: Vec<RowDifferences>,
    },
    /// The next parameter of a [`DeltaJob`]; after the parameters the groups, then the total.
    Delta {
        delta: Delta,
    },
    /// The next file of a [`ReadJob`].
    Table {
        file: String,
        columns: Vec<ReadColumn>,
    },
    /// A [`ServeJob`] accepts requests from now on.
    Serving {
        /// `http://127.0.0.1:8000`
        url: String,
        model: String,
        /// A hash of the weights.
        weights: String,
        context: u32,
    },
    /// A [`RewardsJob`] accepts requests from now on.
    ServingRewards {
        /// `http://127.0.0.1:41234`
        url: String,
    },
    /// Sent several times a second while the completions of a prompt are generated: their tokens so far, and
    /// the maximum. A single completion is streamed: `text` continues the text sent before.
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
    /// Peak memory of the measured part of a [`BenchJob`], in bytes, beyond its inputs. `None` where the
    /// system does not report it.
    MeasuredMemory {
        bytes: Option<u64>,
    },
    /// Seconds of each run of a [`BenchJob`], and the largest difference of values and of gradients, relative
    /// to the largest of the plain version.
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
        rates: MachineRates,
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
    /// The job ends with exit status 1. Finished stages are stored.
    Failed(Failure),
    /// The job ends with exit status 130. Finished stages and the checkpoints of running ones are stored.
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

/// Statistics of one domain in a step. `None` for numbers that the stage does not have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DomainStep {
    pub domain: String,
    /// The teachers that the domain's prompts of this step were routed to.
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
    /// The same as in [`DomainStep`].
    pub divergence: Option<f64>,
}

/// A column of a table, one value per row. `None` for values that are missing or not finite.
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
