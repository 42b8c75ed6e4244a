//! What `mopd doctor FILE` found of the servers of an experiment.

use serde::{Deserialize, Serialize};

use super::failures::Failure;
use super::{Answers, Engine};

/// The longest list of entries that is tried, unless the experiment needs a longer one.
pub const LONGEST_LIST: u32 = 1024;

/// The properties that a server was found to have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerReport {
    /// The stages that use the server, by their models.
    pub stages: Vec<String>,
    /// The teacher on the server. `None` for a server that samples the student's rollouts.
    pub teacher: Option<String>,
    pub engine: Engine,
    /// The address without parts that may be secret. `None` where it can't be read.
    pub url: Option<String>,
    /// The model's name in the experiment.
    pub model: String,
    /// Whether the server responds to the request for its model.
    pub there: bool,
    /// The path of the model that the server was started with.
    pub root: Option<String>,
    /// The server's name for its weights; with `mopd serve`, a hash of their content.
    pub weights: Option<String>,
    /// Longest sequence, in tokens.
    pub context: Option<u64>,
    /// The server's compute dtype, if it is reported.
    pub dtype: Option<String>,
    /// Whether the server's token ids were compared with the student's, and are equal.
    pub ids_agree: bool,
    /// The output that the experiment needs for each token of a teacher.
    pub asked: Option<Answers>,
    /// The most that the server can return. No list longer than [`LONGEST_LIST`] was tried.
    pub answers: Option<Answers>,
    /// The reason why it does not return what is needed.
    pub falls_short: Option<Failure>,
    /// Whether a server of rollouts sampled a token on request.
    pub samples: bool,
    /// Other properties that a run could not use.
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
