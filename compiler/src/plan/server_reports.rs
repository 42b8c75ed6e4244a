//! What `mopd doctor FILE` asks of the servers that an experiment names, and what it is told.

use serde::{Deserialize, Serialize};

use super::events::RunJob;
use super::failures::Failure;
use super::{Answers, Engine};

/// Longer lists of entries are not asked for, unless the experiment does.
pub const LONGEST_LIST: u32 = 1024;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServersJob {
    /// Nothing of it runs.
    pub run: RunJob,
    /// Whether students are read, whose tokenizers and contexts servers are compared with. They are not where
    /// one would have to be fetched first.
    pub read_models: bool,
}

/// What a server was found to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerReport {
    /// The models whose stages ask it.
    pub stages: Vec<String>,
    /// The teacher that is behind it; none where it samples the student's rollouts.
    pub teacher: Option<String>,
    pub engine: Engine,
    /// Without what may be secret; none where it can't be read.
    pub url: Option<String>,
    /// As the experiment names it.
    pub model: String,
    /// Whether it says who it is.
    pub there: bool,
    /// The files that it was started with.
    pub root: Option<String>,
    /// What it calls its weights; of `mopd serve`, a hash of their content.
    pub weights: Option<String>,
    /// Longest sequence, in tokens.
    pub context: Option<u64>,
    /// What it computes in, where it says so.
    pub dtype: Option<String>,
    /// Its ids were compared with the student's, and mean the same.
    pub ids_agree: bool,
    /// What the experiment asks of each token of a teacher.
    pub asked: Option<Answers>,
    /// The most that it was found to answer: no list longer than [`LONGEST_LIST`] was asked for.
    pub answers: Option<Answers>,
    /// Why it does not answer what is asked.
    pub falls_short: Option<Failure>,
    /// One of rollouts sampled a token when it was asked to.
    pub samples: bool,
    /// Whatever else a run could not use.
    pub problems: Vec<Failure>,
}

impl ServerReport {
    /// Before it was asked, by a stage for its rollouts or for a teacher.
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
