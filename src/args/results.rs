//! Commands that read the folders of runs.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::Format;

/// Show a run, or a sweep, as one page for a browser: tables, curves, tokens, the plan, the cost, the source
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd report runs/quickstart
  mopd report runs/quickstart --out quickstart.html
  mopd report runs/a runs/b
  mopd report runs/rates                a sweep: its runs, scores against the swept values
  mopd report --live runs/quickstart    a page that grows with a run in progress

The page needs no network and no other file: it can be sent and kept. The path of the page is the result.")]
pub struct ReportArgs {
    /// The folder of a run or of a sweep, or of several runs for one page
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<PathBuf>,
    /// The page [default: report.html in the folder; of several runs, in this one]
    #[arg(long, value_name = "FILE", conflicts_with = "live")]
    pub out: Option<PathBuf>,
    /// Serve the page of one run or sweep to browsers of this machine, while it is in progress; nothing can
    /// be changed through it. Its address is the result
    #[arg(long)]
    pub live: bool,
    /// The port of that address [default: a free one]
    #[arg(long, value_name = "N", requires = "live")]
    pub port: Option<u16>,
}

/// List runs: folder, state, stage, when, how long, and why they failed
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd ls
  mopd ls experiments/*/runs
  mopd ls --format json | jq 'select(.state == \"failed\") | .folder, .reason'")]
pub struct LsArgs {
    /// Folders to search for runs, with their subfolders
    #[arg(value_name = "DIR", default_value = "runs")]
    pub folders: Vec<PathBuf>,
    /// `json` is one object per line
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
}

/// Show the completions behind a number of a run's table
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd answers runs/quickstart                                     how many of each cell are right
  mopd answers runs/quickstart --row student --domain sort --wrong
  mopd answers runs/quickstart --row student --against start --wrong   what only the student has wrong
  mopd answers runs/quickstart --row student --format json | jq -r .text

Right is a completion with the whole reward, 1. Two rows are compared sample by sample: they answer with the same random \
                        numbers.")]
pub struct AnswersArgs {
    /// The folder of a run
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// The row of the table; without it, a count for each cell
    #[arg(long, value_name = "ROW")]
    pub row: Option<String>,
    /// Another row, shown beside it: with `--wrong` only what it has right, with `--right` only what it has
    /// wrong
    #[arg(long, value_name = "ROW", requires = "row")]
    pub against: Option<String>,
    /// The column of the table [default: all]
    #[arg(long, value_name = "DOMAIN")]
    pub domain: Option<String>,
    /// [default: all]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// The table, where the run has several [default: all]
    #[arg(long, value_name = "NAME")]
    pub table: Option<String>,
    /// Only completions without the whole reward
    #[arg(long)]
    pub wrong: bool,
    /// Only completions with the whole reward
    #[arg(long, conflicts_with = "wrong")]
    pub right: bool,
    /// The most completions, or pairs of them [default: 20; all for `json` and `csv`]
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// `json` is one object per line; `csv` has a line for every completion
    #[arg(long, value_enum, default_value_t = AnswersFormat::Human)]
    pub format: AnswersFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AnswersFormat {
    Human,
    Json,
    Csv,
}

/// Answer a question about runs in SQL, with polars
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd query \"select run, model, domain, mean from tables where metric = 'pass@1'\" runs/quickstart
  mopd query \"select rate, max(mean) from tables join runs using (run) group by rate\" runs/rates
  mopd query \"select * from metrics where stage = 'student'\" runs/a --format parquet --out student.parquet

Tables: runs (every setting and swept value), metrics, samples, answers, rewards, tables. A column with a dot in its name \
is written in double quotes. Of a sweep's folder, all runs are read. No other file is.")]
pub struct QueryArgs {
    /// `select ...`
    #[arg(value_name = "SQL")]
    pub sql: String,
    /// Folders of runs, or of sweeps
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<PathBuf>,
    /// `json` is one object per line; `parquet` needs `--out`
    #[arg(long, value_enum, default_value_t = QueryFormat::Human)]
    pub format: QueryFormat,
    /// The file to write [default: standard output]
    #[arg(long, visible_alias = "output", value_name = "FILE", required_if_eq("format", "parquet"))]
    pub out: Option<PathBuf>,
    /// The Python that has polars [default: MOPD_PYTHON, that of mopd's virtual environment, else python3]
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum QueryFormat {
    Human,
    Csv,
    Json,
    Parquet,
}

impl QueryFormat {
    pub fn name(self) -> &'static str {
        match self {
            QueryFormat::Human => "human",
            QueryFormat::Csv => "csv",
            QueryFormat::Json => "json",
            QueryFormat::Parquet => "parquet",
        }
    }
}

/// Compare runs: differences in meaning, and differences in results with their intervals
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd compare runs/a runs/b
  mopd compare --format latex runs/a runs/b > table.tex
  mopd compare --format csv runs/a runs/b runs/c

Every run is compared with the first one. Which of two is named first decides only the signs.")]
pub struct CompareArgs {
    /// Folders of runs
    #[arg(value_name = "RUN", required = true, num_args = 2..)]
    pub runs: Vec<PathBuf>,
    /// `csv` has a line for every number; `latex` needs the package booktabs
    #[arg(long, value_enum, default_value_t = CompareFormat::Text)]
    pub format: CompareFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompareFormat {
    Text,
    Markdown,
    Csv,
    Latex,
}

/// Compare the weights of two models: what training changed, how sparse the change is, and its rank
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mopd delta runs/a/models/student-seed1                    against the model that its stage began from
  mopd delta tuned --from base                              two folders with config.json and safetensors
  mopd delta runs/a/models/x-seed1 --beside runs/a/models/y-seed1   how far two changes overlap

Entries count as changed where they are another number; where they are another number in bfloat16; and where \
                        they differ by
more than `--beyond`.")]
pub struct DeltaArgs {
    /// The folder of a model
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// The folder of the model before [default: of a run's model, the one that its stage began from]
    #[arg(long, value_name = "MODEL")]
    pub from: Option<PathBuf>,
    /// Another model of the same shape, whose change is compared with this one
    #[arg(long, value_name = "MODEL")]
    pub beside: Option<PathBuf>,
    /// The other model before [default: as for `--from`]
    #[arg(long, value_name = "MODEL", requires = "beside")]
    pub beside_from: Option<PathBuf>,
    /// Entries that differ by more than this count as changed
    #[arg(long, value_name = "NUMBER", default_value_t = 1e-5)]
    pub beyond: f64,
    /// Compute no singular values: of large matrices they take long
    #[arg(long)]
    pub no_ranks: bool,
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
}
