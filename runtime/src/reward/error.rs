//! Why completions could not be judged.

use std::time::Duration;

use mopd_plan::events::FailureKind;

use crate::data::FieldKind;
use crate::failure::Error;
use crate::program::{self, ProcessEnd};
use crate::quote::quote;

/// Displays as one line; [`RewardError::help`] has advice, or the standard error of a command.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RewardError {
    #[error("the domain has no `reward`")]
    None,
    #[error("the data has no {} `{field}` for the prompt {}", kind_name(*kind), quote(prompt))]
    Field { field: String, kind: FieldKind, prompt: String },
    /// `program` is the kind of program and its name: a command or a function.
    #[error("the {program} cannot work with {setting}")]
    Setting { program: String, setting: String },
    #[error("the {program} could not be started in {folder}: {cause}")]
    Start { program: String, folder: String, cause: String },
    #[error(
        "the {program} ended ({how}) before it judged the prompt {}; restarting it did not \
         help",
        quote(prompt)
    )]
    Ended { program: String, how: ProcessEnd, prompt: String, stderr: String },
    #[error(
        "the {program} returned {given} of {asked} rewards within its time limit of {} s; restarting it \
        did not help; the first prompt without a reward is {}",
        limit.as_secs_f64(),
        quote(prompt)
    )]
    TimedOut { program: String, limit: Duration, given: usize, asked: usize, prompt: String, stderr: String },
    /// The job is to stop.
    #[error("interrupted")]
    Stopped,
    /// A failure that is described where its kind of reward is.
    #[error("{message}")]
    Described { message: String, help: String },
    #[error("the {program} returned invalid output: {why}; the line was {}", quote(line))]
    InvalidOutput { program: String, why: String, line: String, help: &'static str },
}

fn kind_name(kind: FieldKind) -> &'static str {
    match kind {
        FieldKind::Text => "text",
        FieldKind::Number => "number",
        FieldKind::Trajectory => "list of messages",
    }
}

impl From<RewardError> for Error {
    fn from(error: RewardError) -> Error {
        if error == RewardError::Stopped {
            return Error::Interrupted;
        }
        Error::new(FailureKind::Reward, error.to_string()).help(error.help())
    }
}

impl RewardError {
    /// Advice; several lines where it includes a command's output.
    pub fn help(&self) -> String {
        match self {
            RewardError::Field { field, .. } => format!("every line of the domain's data needs `{field}`"),
            RewardError::Described { help, .. } => help.clone(),
            RewardError::Setting { .. } => {
                "`time_limit` must be more than 0 seconds and `batch` at least 1".to_owned()
            }
            RewardError::Start { .. } => {
                "commands run by `sh` in the folder of the experiment's file".to_owned()
            }
            RewardError::Ended { how, stderr, .. } => program::how_it_ended(*how, stderr),
            RewardError::None => "add `reward = ...` to the domain".to_owned(),
            RewardError::Stopped => String::new(),
            RewardError::TimedOut { stderr, .. } => {
                format!(
                    "raise `time_limit`, lower `batch`, or check what the program does with that prompt; \
                    {}",
                    program::last_words(stderr)
                )
            }
            RewardError::InvalidOutput { help, .. } => (*help).to_owned(),
        }
    }
}
