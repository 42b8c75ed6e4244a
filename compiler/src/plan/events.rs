//! What `mopd` and `mopd-worker` say to each other. `mopd` writes one [`Job`] as a line of JSON to the
//! worker's standard input; the worker answers with one [`Event`] a line on standard output. Standard input
//! stays open: other lines are [`WorkerRequest`]s, and its end means that `mopd` is gone, however it ended,
//! so that the worker stops too. A worker that was started with the word [`SERVE`] stays: all lines are
//! requests, and its jobs end one after the other, each with an event that ends a job.

use serde::{Deserialize, Serialize};

use super::Plan;
pub use super::bench::{BenchDivergence, BenchJob, GenerateJob, GenerationRound, GenerationShape, Measure};
use super::deltas::{Delta, DeltaJob};
pub use super::failures::{Failure, FailureKind};
pub use super::floor::{Phase, Rates, StepPart};
use super::results::{ComparedTable, RowDifferences};
pub use super::served::ServeJob;
pub use super::server_reports::{LONGEST_LIST, ServerReport, ServersJob};
use super::why::StageFate;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "snake_case")]
pub enum Job {
    Run(Box<RunJob>),
    /// Say what of a run's files can't be read and which rewards don't answer, and run none: what `mopd
    /// check --files` asks.
    Files(Box<RunJob>),
    /// Ask each server that a plan names who it is and what it answers: what `mopd doctor FILE` asks.
    Servers(Box<ServersJob>),
    /// Say what each stage of a run will take, and run none.
    Predict(Box<RunJob>),
    /// Say what a run would do with each stage, and run none.
    Why(Box<RunJob>),
    Sample(SampleJob),
    /// Hold a model and answer requests about it, until asked to stop.
    Serve(ServeJob),
    /// Hand over tables that a run left.
    Read(ReadJob),
    /// Say how far the tables of runs are apart.
    Compare(CompareJob),
    /// Compare the rows of each of a run's tables.
    Differences(DifferencesJob),
    /// Say how far the weights of two models are apart.
    Delta(DeltaJob),
    /// What `mopd bench divergence` asks.
    Bench(BenchJob),
    /// What `mopd bench generate` asks.
    Generate(GenerateJob),
    /// What `mopd bench distill` asks besides the run itself.
    Floor(Box<FloorJob>),
    /// Answer `Ready` and stop: what `mopd doctor` asks.
    Probe,
}

/// The argument that makes a worker stay.
pub const SERVE: &str = "serve";

/// `$LD_LIBRARY_PATH` as whoever started `mopd` has it, for the programs that a worker starts: its own names
/// libtorch first.
pub const CALLERS_LIBRARY_PATH: &str = "MOPD_LIBRARY_PATH";

/// What a worker is asked. Only one that stays takes jobs this way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum WorkerRequest {
    /// Behind the jobs before it.
    Begin { job: Job },
    /// The job under way ends at the next step with [`Event::Interrupted`]; nothing to say where there is
    /// none.
    Stop,
    /// The same, and the worker ends with it. A job that has nothing to keep yet ends at once.
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
    /// Recompute these stages, by name, and whatever is made from them.
    #[serde(default)]
    pub from: Vec<String>,
    /// Seconds between checkpoints of a stage that trains, 0 for one after every step; what keeps their cost
    /// small where absent.
    #[serde(default)]
    pub checkpoint_every: Option<f64>,
    /// Stages that go on from the checkpoint of another.
    #[serde(default)]
    pub forks: Vec<Fork>,
    /// Stages that run side by side at most; one core each.
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

/// What may be spent on finding out what stages will take, before the first one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Predict {
    Never,
    /// Some seconds, and nothing on stages that take little longer than a trial of them.
    #[default]
    Quick,
    /// Whatever it takes.
    Full,
}

/// A stage that does not begin with its first step: it takes weights, optimiser, step and place in the data
/// from a checkpoint of another stage, one that was edited for example. Its result is kept under a key of its
/// own, which says so, and never taken for that of the stage run as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork {
    pub stage: String,
    pub seed: u64,
    /// Of the other stage, and the number of its steps: what [`Event::Checkpoint`] said.
    pub key: String,
    pub step: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleJob {
    /// A model's folder.
    pub checkpoint: String,
    pub prompts: Vec<SamplePrompt>,
    /// Whether the model's chat template writes the prompts.
    pub chat: bool,
    /// In a chat, the system's message before a prompt that has none.
    pub system: Option<String>,
    /// Completions of each prompt.
    pub n: u32,
    pub temperature: f64,
    /// What the context leaves, where absent.
    pub max_tokens: Option<u32>,
    pub seed: u64,
}

/// What a model is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplePrompt {
    /// In a chat, what the user says.
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

/// Measure what this machine can do, and count what a step of the plan's distillation asks of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FloorJob {
    /// Its results and its `fresh` are not looked at: nothing runs.
    pub run: RunJob,
    /// Tokens of a completion, on average; as many as may be where absent.
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
    /// The whole work list, so that progress can be shown: stages, each once per seed, and how many of them
    /// the store has.
    Started {
        tasks: u32,
        kept: u32,
    },
    StageStarted {
        stage: String,
        seed: u64,
        steps: u32,
    },
    /// Follows [`Event::StageStarted`] where so many steps were done before, in a run that ended early.
    StageResumed {
        stage: String,
        seed: u64,
        step: u32,
    },
    /// All that a stage needs to go on after so many steps is in the store, under the stage's key. Said from
    /// time to time, and before [`Event::Interrupted`].
    Checkpoint {
        stage: String,
        seed: u64,
        key: String,
        step: u32,
    },
    /// Another run computes this result; this one waits for it and does something else meanwhile.
    Waiting {
        what: String,
    },
    /// Taken from the store.
    StageKept {
        stage: String,
        seed: u64,
    },
    /// After each step. `metric` is the number that matters for this recipe.
    Step {
        stage: String,
        seed: u64,
        step: u32,
        steps: u32,
        metric: String,
        value: f64,
        /// Completion tokens that are trained on, of all sequences together.
        tokens: u64,
        seconds: Seconds,
        /// Of the whole step, all domains together.
        loss: f64,
        domains: Vec<DomainStep>,
        /// The step in `metrics.parquet`, of all models that it trained.
        rows: Vec<MetricsRow>,
    },
    /// Before [`Event::StageFinished`], of a stage where what frozen models say of its data is kept: of how
    /// many sequences it was in the store, each time one came in this run, and how many came.
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
        /// Most resident memory of the worker while the stage ran, in bytes; none where the system does not
        /// tell, or where other stages ran beside it.
        peak_memory: Option<u64>,
    },
    /// What a stage that trains will take, measured before anything runs.
    Predicted {
        stage: String,
        seed: u64,
        prediction: Prediction,
    },
    /// The next stage of a [`Job::Why`].
    Fate {
        fate: StageFate,
    },
    /// Stages were tried for so long. `short`: those left out since a trial would take about as long; `late`:
    /// those that no time was left for.
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
    /// What a [`DifferencesJob`] asked for.
    Differences {
        tables: Vec<RowDifferences>,
    },
    /// The next parameter of a [`DeltaJob`]; then the next group, and all.
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
    /// While the completions of a prompt are written, several times a second: their tokens so far, and how
    /// many they may have. A single completion is told as it comes: `text` follows what was told before.
    SampleWritten {
        prompt: u32,
        tokens: u32,
        most: u32,
        text: String,
    },
    /// One completion of a [`SampleJob`].
    Sample {
        /// The place of its prompt.
        prompt: u32,
        text: String,
        tokens: u32,
        finished: bool,
        logp: f64,
    },
    /// Most memory that the measured part of a [`BenchJob`] held, in bytes, beyond what it was given; none
    /// where the system does not tell.
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
    /// What a [`FloorJob`] asked for.
    MeasuredFloor {
        rates: Rates,
        /// What a step does, one after the other.
        phases: Vec<Phase>,
        /// Tokens of a prompt, on average.
        prompt: f64,
        /// Cores that the stage has.
        threads: u32,
    },
    Warning {
        message: String,
    },
    /// The next thing of a [`Job::Files`] or a [`Job::Servers`] that a run could not use.
    Refused(Failure),
    /// The next server of a [`Job::Servers`].
    ServerFound {
        report: Box<ServerReport>,
    },
    /// The job ends here, exit status 1; finished stages are kept.
    Failed(Failure),
    /// The job ends here, exit status 130; finished stages are kept, and checkpoints of those that were at
    /// work.
    Interrupted {
        finished: u32,
        tasks: u32,
    },
    /// The job ends here, exit status 0.
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
    /// Forward passes of all models, and everything that the objective reads.
    pub scoring: f64,
    /// Gradient and update.
    pub update: f64,
}

impl Seconds {
    pub fn sum(&self) -> f64 {
        self.rollout + self.scoring + self.update
    }
}

/// What a step did to one domain. Numbers that the stage does not have are absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DomainStep {
    pub domain: String,
    /// Those that its prompts of this step are routed to.
    pub teachers: Vec<TeacherStep>,
    /// Mean over completion tokens of log p_student - log p_teacher, in nats.
    pub divergence: Option<f64>,
    /// Mean reward of the completions, in [0, 1].
    pub reward: Option<f64>,
}

/// What a step did to the prompts of a domain that one teacher judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TeacherStep {
    pub teacher: String,
    /// As for the domain.
    pub divergence: Option<f64>,
}

/// A column of a table, one value per row; what is absent or no finite number is none.
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

/// What a stage takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Seconds of the whole stage, where nothing runs beside it and no reward is asked of a program.
    pub seconds: f64,
    /// Of them: rollouts; forward passes of all models; gradients and updates. The rest comes before the
    /// first step and after the last one.
    pub rollout: f64,
    pub scoring: f64,
    pub update: f64,
    /// Most resident memory of the worker while the stage runs, in bytes, where nothing runs beside it.
    pub memory: u64,
    /// Of that, what the worker holds also while nothing runs, in bytes.
    #[serde(default)]
    pub resting: u64,
    /// What `seconds` may turn out as, by how unlike the tried steps were, how long they waited for a core
    /// and what may run beside the stage. None in results of versions that did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<TimeRange>,
}

/// The fewest and the most seconds that something may take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimeRange {
    pub least: f64,
    pub most: f64,
}

impl Prediction {
    /// The seconds alone where no range was said.
    pub fn range(&self) -> TimeRange {
        self.range.unwrap_or(TimeRange { least: self.seconds, most: self.seconds })
    }
}

impl TimeRange {
    /// Of one after the other.
    pub fn plus(self, then: TimeRange) -> TimeRange {
        TimeRange { least: self.least + then.least, most: self.most + then.most }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    pub mopd: String,
    pub libtorch: String,
}
