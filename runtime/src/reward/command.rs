//! Rewards from a program of the author's: batches of JSON lines to worker processes, and their answers.

use std::path::Path;

use super::{RewardError, RewardInput, Verdict, verdict};
use crate::control::Control;
use crate::program::{Failure, Pool, Unanswered, Worker};

pub(super) struct Command {
    pool: Pool,
    batch: usize,
}

impl Command {
    /// The time limit is for one batch, from the moment it is sent.
    pub fn new(command: &str, limit_seconds: f64, batch: u32, folder: &Path) -> Result<Command, RewardError> {
        let setting = |setting: String| RewardError::Setting { command: command.to_owned(), setting };
        let pool = Pool::new("reward command", command, limit_seconds, folder);
        let pool = pool.ok_or_else(|| setting(format!("a time limit of {limit_seconds} s")))?;
        if batch == 0 {
            return Err(setting("batches of 0".to_owned()));
        }
        Ok(Command { pool, batch: batch as usize })
    }

    pub fn judge(&self, answers: &[RewardInput], control: &Control) -> Result<Vec<Verdict>, RewardError> {
        let mut rewards = Vec::with_capacity(answers.len());
        // A process that failed is dropped on the way out of here, which ends it.
        let mut worker = self.pool.take();
        for batch in answers.chunks(self.batch) {
            rewards.extend(self.judge_batch(&mut worker, batch, control)?);
        }
        self.pool.give_back(worker);
        Ok(rewards)
    }

    pub fn take_warnings(&self) -> Vec<String> {
        self.pool.take_warnings()
    }

    fn judge_batch(
        &self,
        worker: &mut Option<Worker>,
        batch: &[RewardInput],
        control: &Control,
    ) -> Result<Vec<Verdict>, RewardError> {
        let outcome = self.pool.batch(worker, batch, "reward", verdict, control);
        let Unanswered { failure, given, open } = match outcome {
            Ok(rewards) => return Ok(rewards),
            Err(unanswered) => unanswered,
        };
        let prompt = open.map_or("", |index| batch[index].prompt).to_owned();
        let (command, limit) = (self.pool.command.clone(), self.pool.limit);
        Err(match failure {
            Failure::Stopped => RewardError::Stopped,
            Failure::Start { cause } => {
                RewardError::Start { command, folder: self.pool.folder.display().to_string(), cause }
            }
            Failure::Ended { how, stderr } => RewardError::Ended { command, how, prompt, stderr },
            Failure::TimedOut { stderr } => {
                RewardError::TimedOut { command, limit, given, asked: batch.len(), prompt, stderr }
            }
            Failure::InvalidOutput { why, line } => RewardError::InvalidOutput { command, why, line },
        })
    }
}
