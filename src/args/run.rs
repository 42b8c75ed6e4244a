//! Commands that run experiments, and those that prepare or move them.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{Format, Overrides, PredictMode, seconds, size};

/// Run an experiment; finished stages are not run again
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd run a.mopd
  mopd run --set seed=2 --out runs/a-2 a.mopd
  mopd run --from student a.mopd        rerun a stage and what depends on it
  mopd run --engine trl --python ENV/bin/python --processes 2 a.mopd
  mopd run --format json a.mopd > events.jsonl

The folder for results holds results.json (the tables), metrics.parquet (every step, by domain and teacher), \
                        models/
(checkpoints), plan.json and source.mopd. Finished stages are kept in .mopd/store and reused by later runs; \
                        an interrupted
stage resumes from its last checkpoint, and ends with the same bits.")]
pub struct RunArgs {
    /// The experiment, a .mopd file; `-` for standard input, whose data lies in the working folder
    pub file: PathBuf,
    #[command(flatten)]
    pub overrides: Overrides,
    /// Folder for results [default: what the experiment says, else runs/NAME]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Rerun every stage, even those that are finished
    #[arg(long)]
    pub fresh: bool,
    /// Rerun this stage and what depends on it; the name of a family means all of its members. May be given
    /// several times
    #[arg(long, value_name = "STAGE", conflicts_with = "fresh")]
    pub from: Vec<String>,
    /// Check whether the run could begin: everything that it reads except the weights of models, its rewards,
    /// which are called once, and the folders that it writes to. Report what would run and where the results
    /// would go, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Resume from stored stages and checkpoints. A run always does; this option reports if there are none
    #[arg(long, conflicts_with_all = ["fresh", "from"])]
    pub resume: bool,
    /// Interval of checkpoints of a stage that trains: `30s`, `10min`, `1h`; `0s` is after every step
    /// [default: every minute, or less often if that would cost more than 2% of the time]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub checkpoint_every: Option<f64>,
    /// Largest number of stages that run in parallel, one core each [default: as many as the machine has room
    /// for]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub workers: Option<u32>,
    /// The engine that trains stages, where it can: `trl`, with TRL's trainer. All else happens here
    #[arg(long, value_enum, value_name = "ENGINE", conflicts_with = "workers")]
    pub engine: Option<EngineName>,
    /// Processes of the engine that train each stage together, on this machine: on GPUs, one each
    #[arg(long, value_name = "N", default_value_t = 1, requires = "engine", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..=64))]
    pub processes: u32,
    /// The Python with the engine [default: $MOPD_PYTHON, else python3]
    #[arg(long, value_name = "PATH", requires = "engine")]
    pub python: Option<PathBuf>,
    /// How long to measure the time and memory of stages before the first one starts: `never`; `quick`, half
    /// a minute at most, without stages as short as their trial; `full`, all stages
    #[arg(long, value_enum, value_name = "HOW", default_value_t = PredictMode::Quick)]
    pub predict: PredictMode,
    /// Interval of the lines about running stages, if standard error is not a terminal
    /// [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub log_every: Option<f64>,
    /// Also write event files for TensorBoard while stages train, to tensorboard/ in the folder for results
    #[arg(long)]
    pub tensorboard: bool,
    /// A program that gets each event of the run as a line of JSON on its standard input, for an experiment
    /// tracker: `python3 -m mopd.track wandb`, `python3 -m mopd.track mlflow`, or your own
    #[arg(long, value_name = "COMMAND")]
    pub tracker: Option<String>,
    /// `json` writes the worker's events to standard output, one per line
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
}

/// Check at every save, and rerun only what the edit changed
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd watch a.mopd
  mopd watch --check a.mopd             diagnostics and the meaning of an edit; nothing runs
  mopd watch --format json a.mopd | jq 'select(.event == \"step\")'

A save that does not change the meaning changes nothing. One that does stops the active run at its next step \
and continues
with the new text; finished stages are kept. The runs of a `sweep` execute one after the other. On an error \
in the file
the last valid run continues. Modules, data files, tokenizers and reward programs are watched like the file \
itself.")]
pub struct WatchArgs {
    /// The experiment, a .mopd file
    pub file: PathBuf,
    #[command(flatten)]
    pub overrides: Overrides,
    /// Folder for results [default: what the experiment says, else runs/NAME]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Check and compare only; run nothing
    #[arg(long)]
    pub check: bool,
    /// A running stage resumes from its last checkpoint if an edit changed only its objective, its learning
    /// rate, its optimizer's settings or its length; its origin is written beside its result
    #[arg(long, conflicts_with = "check")]
    pub fork: bool,
    /// Interval of checkpoints, as in `mopd run`
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub checkpoint_every: Option<f64>,
    /// Largest number of stages that run in parallel, one core each [default: as many as the machine has room
    /// for]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub workers: Option<u32>,
    /// Print lines instead of the terminal view
    #[arg(long)]
    pub plain: bool,
    /// `json` writes events to standard output, one per line
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
}

/// List and verify the store of results, and remove what no run needs
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd cache list
  mopd cache verify
  mopd cache prune --older-than 30d --dry-run
  mopd cache prune --keep-under 10GiB

What a run needs is never pruned as long as its folder of results exists: to release a run, delete that \
                        folder, then prune.")]
pub struct CacheArgs {
    #[command(subcommand)]
    pub action: CacheAction,
    /// The store [default: .mopd/store]
    #[arg(long, global = true, value_name = "DIR")]
    pub store: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum CacheAction {
    /// List the entries: size, last use, and the runs that need them
    List {
        /// `json` is one object per line
        #[arg(long, value_enum, default_value_t = Format::Human)]
        format: Format,
    },
    /// Read everything and name damaged entries; exit status 1 if there are any
    Verify,
    /// Remove results and checkpoints that no kept run needs
    #[command(group(
        clap::ArgGroup::new("what").required(true).multiple(true).args(["older_than", "keep_under", "dry_run"])
    ))]
    Prune {
        /// Remove what was not used for this long: `12h`, `30d`
        #[arg(long, value_name = "TIME", value_parser = seconds)]
        older_than: Option<f64>,
        /// Remove the least recently used until the store takes at most this much: `500MiB`, `10GiB`
        #[arg(long, value_name = "SIZE", value_parser = size)]
        keep_under: Option<u64>,
        /// Only list what would be removed; alone, all that no kept run needs
        #[arg(long)]
        dry_run: bool,
    },
}

/// Export a run, or a stage of an experiment, for another program
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd export --tensorboard runs/quickstart && tensorboard --logdir runs/quickstart/tensorboard
  mopd export --merged runs/a/models/expert-seed1 --out whole     base and adapter as one model
  mopd export a.mopd                                   which engines can train which stages
  mopd export --engine verl a.mopd                     a stage, in the folder STAGE-verl
  mopd export --engine trl a.mopd --stage student --out with-trl
  mopd export --engine verl a.mopd --report            only what is exact, approximate or refused

An engine's files are written where nothing of the stage is refused; exit status 1 says that something is.")]
pub struct ExportArgs {
    /// Event files: a series for every stage and seed
    #[arg(long)]
    pub tensorboard: bool,
    /// The whole model of a folder with an adapter: a stage's, or one that PEFT wrote
    #[arg(long, conflicts_with_all = ["tensorboard", "engine"])]
    pub merged: bool,
    /// The engine: `verl` (0.9.1) or `trl` (1.16.0)
    #[arg(long, value_name = "NAME", conflicts_with = "tensorboard")]
    pub engine: Option<EngineName>,
    /// The folder of a run; with `--merged`, that of a model; else an experiment
    #[arg(value_name = "RUN|MODEL|FILE")]
    pub path: PathBuf,
    /// The stage [default: the first distillation with a route, else the last stage that trains]
    #[arg(long, value_name = "NAME", requires = "engine")]
    pub stage: Option<String>,
    /// Write no files: only the report of coverage
    #[arg(long, requires = "engine")]
    pub report: bool,
    /// Format of the report
    #[arg(long, value_enum, default_value_t = Format::Human, requires = "engine")]
    pub format: Format,
    /// The folder for the files [default: tensorboard in the run's folder; STAGE-ENGINE]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub overrides: Overrides,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EngineName {
    Verl,
    Trl,
}

/// Import a configuration of verl or TRL as an experiment
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd import distill.yaml > distill.mopd && mopd check distill.mopd
  mopd import run_verl.sh --out math.mopd       overrides of `python3 -m verl.trainer.main_ppo a.b=c ...`
  mopd import train.py --out math.mopd          literal arguments of DistillationConfig(...) and its like

What has no counterpart is a comment with the reason.")]
pub struct ImportArgs {
    /// YAML or JSON; a shell script with verl's overrides; Python that makes a configuration of TRL
    pub file: PathBuf,
    /// The file to write [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Evaluate models on files of prompts: the table of a `compare`, without an experiment
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd eval runs/quickstart/models/student-seed1 --on sort.test.jsonl --reward exact_match --max-tokens 16
  mopd eval models/base models/tuned --on gsm8k.jsonl --reward 'numeric' --chat --samples 8 --metric 'pass_at(8)'
  mopd eval models/tuned --on held.jsonl --reward judge.py:score --fields prompt=question

Paths are relative to the folder where the command runs. Completions are computed once and kept in .mopd/store, as \
                        those of a run.")]
pub struct EvalArgs {
    /// Folders under models/ of a run or as `save_pretrained` writes them, GGUF files, names on the hub
    #[arg(required = true, value_name = "CHECKPOINT")]
    pub checkpoints: Vec<String>,
    /// JSON lines with prompts, a column of the table each
    #[arg(long, required = true, value_name = "FILE")]
    pub on: Vec<String>,
    /// How a completion is judged, as an experiment has it: `exact_match`, `numeric`,
    /// `python("judge.py:score")`, which `judge.py:score` is short for
    #[arg(long, value_name = "REWARD")]
    pub reward: String,
    /// Fields whose columns have other names: `prompt=question,answer=solution`
    #[arg(long, value_name = "FIELD=COLUMN,...")]
    pub fields: Option<String>,
    /// Completions of each prompt
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub samples: u32,
    /// 0 is greedy decoding [default: 0 with one sample, 1 with several]
    #[arg(long, value_parser = temperature)]
    pub temperature: Option<f64>,
    /// Longest completion, in tokens
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,
    /// A further metric of the table, as in an experiment: `pass_at(8)`, `length`, `distinct`
    #[arg(long, value_name = "METRIC")]
    pub metric: Vec<String>,
    /// Format prompts with the model's chat template, as a user's message
    #[arg(long)]
    pub chat: bool,
    /// System message
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,
    /// Seed of the random numbers
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Folder for results: results.json, rewards.parquet, answers.parquet
    #[arg(long, value_name = "DIR", default_value = "runs/eval")]
    pub out: String,
    /// `json` writes the worker's events to standard output, one per line
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
}

/// Sample completions of prompts from a checkpoint
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd sample runs/quickstart/models/student-seed1 --prompt 'sort dacb='
  mopd sample models/Qwen3-0.6B --chat --system 'Answer with one number.' --prompt '17 + 25?'
  mopd sample models/Qwen3-0.6B --chat --prompt - < question.txt
  mopd sample runs/a/models/student-seed1 --prompts test.jsonl --format json > completions.jsonl

A line of FILE is an object with `prompt`, or in a chat with `messages`; other fields are left alone. What is drawn \
                        for a prompt
depends on its text and the seed, not on the others.")]
pub struct SampleArgs {
    /// A folder under models/ of a run, one as `save_pretrained` writes it, a GGUF file, or a name on the hub
    pub checkpoint: PathBuf,
    /// The prompt; `-` for all of standard input
    #[arg(long, value_name = "TEXT", required_unless_present = "prompts", conflicts_with = "prompts")]
    pub prompt: Option<String>,
    /// JSON lines with a prompt each; `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
    /// Format prompts with the model's chat template, as a user's message
    #[arg(long)]
    pub chat: bool,
    /// System message, before prompts that have none
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,
    /// Number of completions of each prompt
    #[arg(short, long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub n: u32,
    /// 0 is greedy decoding
    #[arg(long, default_value_t = 1.0, value_parser = temperature, allow_negative_numbers = true)]
    pub temperature: f64,
    /// Longest completion, in tokens [default: what the model's context allows]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: Option<u32>,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
}

fn temperature(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err("expected a number that is 0 or more".to_owned()),
    }
}

/// Download libtorch, where there is none that the worker can use
#[derive(Debug, Args)]
#[command(after_help = "\
What is looked for, in this order: the folder that LIBTORCH names; the torch of the Python that installed mopd, where \
                        it has the
right version; what an earlier `mopd setup` downloaded. Where there is none, the libraries for the processor are \
                        downloaded with
pip, or with a GPU all of torch and NVIDIA's libraries, into ~/.cache/mopd (or $XDG_CACHE_HOME/mopd, or $MOPD_CACHE) and compared with the checksums that mopd has. \
                        Prints the folder.")]
pub struct SetupArgs {
    /// Include CUDA, some 5 GB, even if no GPU is found here
    #[arg(long)]
    pub cuda: bool,
}

/// Show versions, device and memory of this machine, what is missing, and an experiment's servers
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Experiment whose servers are probed: their identities and what they support; `-` for standard input
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Also check the Python with an engine for `mopd run --engine`, or for an exported folder
    #[arg(long, value_enum, value_name = "ENGINE")]
    pub engine: Option<EngineName>,
    /// The Python with the engine [default: $MOPD_PYTHON, else python3]
    #[arg(long, value_name = "PATH", requires = "engine")]
    pub python: Option<PathBuf>,

    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
}
