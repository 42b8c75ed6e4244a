//! Rewards from a program of the author: batches of JSON lines go to worker processes, which reply. A
//! function of the author is called in the same way, by a program of mopd.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use mopd_plan::RewardRange;
use serde_json::Value;

use super::{Judge, Judgement, RewardError, RewardInput, verdict};
use crate::control::Control;
use crate::program::{self, BatchFailure, ChildProcess, ProcessPool, ProgramFailure};
use crate::quote::quote;

/// The program that calls a function for each batch of requests; also part of the Python package.
const CALLS: &str = include_str!("../../../tools/python/mopd/reward.py");

/// Help: the output that a program must write.
const COMMAND: &str = "for every line {\"id\": 0, \"prompt\": ..., \"completion\": ..., \"record\": {...}} it must \
                       write one line {\"id\": 0, \"reward\": 0.5} with a reward from 0 to 1, or with any number \
                       where the experiment says `range: any`, and nothing else; messages belong on standard \
                       error";
/// Help: the value that a function must return.
const FUNCTION: &str = "the function gets a list of completions and returns a list with a number for each: from 0 \
                        to 1, or any number where the experiment says `range: any`";

pub(super) struct CommandReward {
    pool: ProcessPool,
    batch: usize,
    range: RewardRange,
    /// Whether it is a function of Python: a failure concerns a whole batch, and replies say what it opened.
    whole: bool,
    opened: Mutex<Vec<OpenedFile>>,
}

/// A file that a function of Python opened.
#[derive(Debug, PartialEq)]
pub struct OpenedFile {
    pub path: PathBuf,
    /// Opened for writing.
    pub written: bool,
}

impl CommandReward {
    /// The time limit applies to one batch, from the moment it is sent.
    pub fn new(
        command: &str,
        limit_seconds: f64,
        batch: u32,
        range: RewardRange,
        folder: &Path,
    ) -> Result<CommandReward, RewardError> {
        CommandReward::of("reward command", command, limit_seconds, batch, range, folder)
    }

    /// `judge.py:score`
    pub fn function(
        file: &str,
        function: &str,
        limit_seconds: f64,
        batch: u32,
        range: RewardRange,
        folder: &Path,
    ) -> Result<CommandReward, RewardError> {
        let name = format!("{file}:{function}");
        let CommandReward { pool, batch, .. } =
            CommandReward::of("reward function", &name, limit_seconds, batch, range, folder)?;
        let pool = pool.calling(CALLS, file, function).ok_or_else(|| {
            let setting = "a name with a NUL character".to_owned();
            RewardError::Setting { program: format!("reward function `{name}`"), setting }
        })?;
        Ok(CommandReward { pool, batch, range, whole: true, opened: Mutex::default() })
    }

    fn of(
        what: &'static str,
        name: &str,
        limit_seconds: f64,
        batch: u32,
        range: RewardRange,
        folder: &Path,
    ) -> Result<CommandReward, RewardError> {
        let setting = |setting: String| RewardError::Setting { program: format!("{what} `{name}`"), setting };
        let pool = ProcessPool::new(what, name, limit_seconds, folder);
        let pool = pool.ok_or_else(|| setting(format!("a time limit of {limit_seconds} s")))?;
        if batch == 0 {
            return Err(setting("batches of 0".to_owned()));
        }
        Ok(CommandReward { pool, batch: batch as usize, range, whole: false, opened: Mutex::default() })
    }

    /// Notes the files that a function's reply names.
    fn note_opened(&self, reply: &Value) {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        for (field, written) in [("opened", false), ("written", true)] {
            let paths = reply.get(field).and_then(Value::as_array).into_iter().flatten();
            let paths = paths.filter_map(Value::as_str);
            opened.extend(paths.map(|path| OpenedFile { path: path.into(), written }));
        }
    }

    fn judge_batch(
        &self,
        worker: &mut Option<ChildProcess>,
        batch: &[RewardInput],
        control: &Control,
    ) -> Result<Vec<Judgement>, RewardError> {
        let read = |reply: &Value| {
            if self.whole {
                self.note_opened(reply);
            }
            verdict(reply, self.range)
        };
        let outcome = self.pool.batch(worker, batch, "reward", read, control);
        let unanswered = match outcome {
            Ok(rewards) => return Ok(rewards),
            Err(unanswered) => unanswered,
        };
        let prompt = unanswered.place().map_or("", |index| batch[index].prompt).to_owned();
        let BatchFailure { failure, given, .. } = unanswered;
        let (program, limit) = (self.pool.name(), self.pool.limit);
        Err(match failure {
            ProgramFailure::Stopped => RewardError::Stopped,
            ProgramFailure::Start { cause } => {
                RewardError::Start { program, folder: self.pool.folder.display().to_string(), cause }
            }
            ProgramFailure::Ended { how, stderr } => RewardError::Ended { program, how, prompt, stderr },
            ProgramFailure::TimedOut { stderr } => {
                RewardError::TimedOut { program, limit, given, asked: batch.len(), prompt, stderr }
            }
            ProgramFailure::InvalidOutput { why, line } => {
                let help = if self.whole { FUNCTION } else { COMMAND };
                RewardError::InvalidOutput { program, why, line, help }
            }
            ProgramFailure::Refused { why, .. } => {
                let prompt = match batch.len() - 1 {
                    1 if self.whole => format!("{} and another", quote(&prompt)),
                    others @ 2.. if self.whole => format!("{} and {others} others", quote(&prompt)),
                    _ => quote(&prompt),
                };
                let (message, help) = program::refusal(&format!("the {program}"), &prompt, &why);
                RewardError::Described { message, help }
            }
        })
    }
}

impl Judge for CommandReward {
    fn judge(&self, answers: &[RewardInput], control: &Control) -> Result<Vec<Judgement>, RewardError> {
        let mut rewards = Vec::with_capacity(answers.len());
        // On an error, the worker is dropped, which ends its process.
        let mut worker = self.pool.take();
        for batch in answers.chunks(self.batch) {
            rewards.extend(self.judge_batch(&mut worker, batch, control)?);
        }
        self.pool.put_back(worker);
        Ok(rewards)
    }

    fn take_opened(&self) -> Vec<OpenedFile> {
        std::mem::take(&mut *self.opened.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn take_warnings(&self) -> Vec<String> {
        self.pool.take_warnings()
    }
}
