//! Errors of environments.

use std::time::Duration;

use mopd_plan::events::FailureKind;

use crate::failure::Error;
use crate::program::{self, ProcessEnd};
use crate::quote::quote;

/// Help: the output that a program must write.
pub(super) const LINES: &str = "for every line {\"id\": 0, \"seed\": ...} or {\"id\": 0, \"action\": ...} it must write one line {\"id\": 0, \
     \"observation\": \"...\", \"reward\": 0.5, \"done\": false}, and nothing else; messages belong on standard \
     error. With the same seed, the same actions must have the same replies";
/// Help: the values that a class must return.
pub(super) const RETURNS: &str = "`step` returns `observation, reward, done`. The observation is a text, or in a conversation a list of messages of \
     tools and users; it may be None at the end. The reward is a number in every reply, or None in every one. With the \
     same seed, the same turns must have the same replies";

/// An `episode` is its prompt in quotes, with the data line, and the turn if that matters.
///
/// Displays as one line; [`EnvironmentError::help`] has the way out, or the program's standard error.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EnvironmentError {
    #[error("the environment `{command}` cannot work with {setting}")]
    Setting { command: String, setting: String },
    #[error("the environment `{command}` could not be started in {folder}: {cause}")]
    Start { command: String, folder: String, cause: String },
    #[error(
        "the environment `{command}` ended ({how}) before it replied for the prompt {episode}; restarting it \
         did not help"
    )]
    Ended { command: String, how: ProcessEnd, episode: String, stderr: String },
    #[error(
        "the environment `{command}` returned no response within its time limit of {} s for the prompt \
         {episode}; restarting it did not help",
        limit.as_secs_f64()
    )]
    TimedOut { command: String, limit: Duration, episode: String, stderr: String },
    #[error("the environment `{command}` returned invalid output: {why}; the line was {}", quote(line))]
    InvalidOutput { command: String, why: String, line: String, help: &'static str },
    #[error("{message}")]
    Refused { message: String, help: String },
    #[error(
        "the environment `{command}` returned {of} with a sum of {sum} for the prompt {episode}; the sum must \
        be from 0 to 1"
    )]
    Reward { command: String, of: String, sum: f64, episode: String },
    #[error(
        "the environment `{command}` returned a reward without the part `{part}` for the prompt {episode}; the \
        objective reads this part"
    )]
    Part { command: String, part: String, episode: String },
    #[error(
        "the environment `{command}` ended the episode of the prompt {episode} during the expert's turns, \
        before the student's first turn"
    )]
    Over { command: String, episode: String },
    #[error("the environment `{command}` returned an observation without tokens: {}", quote(observation))]
    NoTokens { command: String, observation: String },
    /// The job is to stop.
    #[error("interrupted")]
    Stopped,
}

impl From<EnvironmentError> for Error {
    fn from(error: EnvironmentError) -> Error {
        if error == EnvironmentError::Stopped {
            return Error::Interrupted;
        }
        Error::new(FailureKind::Environment, error.to_string()).help(error.help())
    }
}

impl EnvironmentError {
    /// The way out; more than one line if it quotes the program's own output.
    pub fn help(&self) -> String {
        match self {
            EnvironmentError::Over { .. } => "replay fewer of the expert's turns, such as \
                `expert_turns(all_but: 1)`, or remove the data line"
                .to_owned(),
            EnvironmentError::Refused { help, .. } => help.clone(),
            EnvironmentError::Setting { .. } => "`time_limit` must be more than 0 seconds".to_owned(),
            EnvironmentError::Start { .. } => {
                "commands run by `sh` in the folder of the experiment's file".to_owned()
            }
            EnvironmentError::Ended { how, stderr, .. } => program::how_it_ended(*how, stderr),
            EnvironmentError::TimedOut { stderr, .. } => {
                let words = program::last_words(stderr);
                format!("raise `time_limit`, or check what the environment does with that prompt; {words}")
            }
            EnvironmentError::InvalidOutput { help, .. } => (*help).to_owned(),
            EnvironmentError::Reward { .. } => {
                "the reward of an episode is the sum of those of its replies: scale them".to_owned()
            }
            EnvironmentError::Part { part, .. } => format!(
                "return \"parts\": {{\"{part}\": 0.5}} together with \"reward\", or return no reward: \
                then the domain's reward judges the last turn"
            ),
            EnvironmentError::NoTokens { .. } => "the model's tokenizer makes no tokens of this \
                text"
                .to_owned(),
            EnvironmentError::Stopped => String::new(),
        }
    }
}
