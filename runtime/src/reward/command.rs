//! Rewards from a program of the author's: batches of JSON lines to worker processes, and their answers.

use std::path::Path;

use serde::Serialize;

use super::{RewardError, RewardInput};
use crate::control::Control;
use crate::program::{self, Failure, Pool, Trouble, Worker};

pub(super) struct Command {
    pool: Pool,
    batch: usize,
}

/// One line to the command.
#[derive(Serialize)]
struct CommandRequest<'a> {
    id: u64,
    #[serde(flatten)]
    answer: RewardInput<'a>,
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

    pub fn judge(&self, answers: &[RewardInput], control: &Control) -> Result<Vec<f64>, RewardError> {
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

    /// A batch that a process did not survive, or did not finish in time, goes to a fresh one once.
    fn judge_batch(
        &self,
        worker: &mut Option<Worker>,
        batch: &[RewardInput],
        control: &Control,
    ) -> Result<Vec<f64>, RewardError> {
        let mut rewards = Vec::new();
        let outcome = self.pool.talk(worker, |worker| {
            rewards = vec![None; batch.len()];
            self.exchange(worker, batch, &mut rewards, control)
        });
        let Err(failure) = outcome else { return Ok(rewards.into_iter().flatten().collect()) };
        let given = rewards.iter().flatten().count();
        let open = rewards.iter().position(Option::is_none).map_or("", |index| batch[index].prompt);
        let (command, prompt, limit) = (self.pool.command.clone(), open.to_owned(), self.pool.limit);
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

    /// Sends a batch, whole, and waits until every answer has its reward.
    fn exchange(
        &self,
        worker: &mut Worker,
        batch: &[RewardInput],
        rewards: &mut [Option<f64>],
        control: &Control,
    ) -> Result<(), Trouble> {
        // Identifiers never repeat in the life of a process, so that an answer given twice is not taken for
        // the next batch's.
        let first = worker.reserve(batch.len() as u64);
        let mut lines = Vec::new();
        for (id, answer) in (first..).zip(batch) {
            serde_json::to_writer(&mut lines, &CommandRequest { id, answer: *answer })
                .expect("text and JSON values are JSON");
            lines.push(b'\n');
        }
        let deadline = self.pool.deadline();
        worker.send(lines);
        while rewards.contains(&None) {
            let line = program::line(worker, deadline, control)?;
            let invalid = |why: &str| Trouble::invalid(why, &line);
            let (id, reply) = program::reply(&line)?;
            let place = id.checked_sub(first).and_then(|place| rewards.get_mut(usize::try_from(place).ok()?));
            let place = place.ok_or_else(|| invalid("an `id` that was not asked"))?;
            if place.is_some() {
                return Err(invalid("a second reward for one `id`"));
            }
            let reward = reply.get("reward").ok_or_else(|| invalid("no `reward`"))?;
            let reward = reward.as_f64().filter(|reward| (0.0..=1.0).contains(reward));
            *place = Some(reward.ok_or_else(|| invalid("a `reward` that is not a number from 0 to 1"))?);
        }
        Ok(())
    }
}
