//! The job of `mopd doctor FILE` for the servers of an experiment, and its results.

use serde::{Deserialize, Serialize};

use super::events::RunJob;
use super::failures::Failure;
use super::{Answers, Engine};

/// Longer lists of entries are tried only if the experiment needs them.
pub const LONGEST_LIST: u32 = 1024;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServersJob {
    /// The run, of which nothing is executed.
    pub run: RunJob,
    /// Whether to read students, to compare tokenizers and contexts with those of servers. False where one
    /// would have to be downloaded first.
    pub read_models: bool,
}

/// The properties of a server, as found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerReport {
    /// The models whose stages use it.
    pub stages: Vec<String>,
    /// The teacher behind it; `None` where it samples the student's rollouts.
    pub teacher: Option<String>,
    pub engine: Engine,
    /// Without parts that may be secret; `None` where it can't be read.
    pub url: Option<String>,
    /// The model's name in the experiment.
    pub model: String,
    /// Whether it answers the request for its model.
    pub there: bool,
    /// The path of the model that it was started with.
    pub root: Option<String>,
    /// Its name for its weights; with `mopd serve`, a hash of their content.
    pub weights: Option<String>,
    /// Longest sequence, in tokens.
    pub context: Option<u64>,
    /// Its compute dtype, if it reports one.
    pub dtype: Option<String>,
    /// Whether its token ids were compared with the student's, and are the same.
    pub ids_agree: bool,
    /// What the experiment needs for each token of a teacher.
    pub asked: Option<Answers>,
    /// The most that it can return: no list longer than [`LONGEST_LIST`] was tried.
    pub answers: Option<Answers>,
    /// Why it does not return what is needed.
    pub falls_short: Option<Failure>,
    /// Whether a server of rollouts sampled a token on request.
    pub samples: bool,
    /// Other things that a run could not use.
    pub problems: Vec<Failure>,
}

impl ServerReport {
    /// The initial report, for a server of a stage's rollouts or of a teacher.
    pub fn unasked(stage: &str, teacher: Option<&str>, engine: Engine, model: &str) -> ServerReport {
        ServerReport {
            stages: vec![stage.to_owned()],
            teacher: teacher.map(str::to_owned),
            engine,
            url: None,
            model: model.to_owned(),
            there: false,
            root: None,
            weights: None,
            context: None,
            dtype: None,
            ids_agree: false,
            asked: None,
            answers: None,
            falls_short: None,
            samples: false,
            problems: Vec::new(),
        }
    }

    pub fn is_usable(&self) -> bool {
        self.problems.is_empty() && self.falls_short.is_none()
    }
}
