//! Rewards from a program of the author's: batches of JSON lines to worker processes, and their answers.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use super::worker::{Received, Worker};
use super::{RewardError, RewardInput};
use crate::control::Control;

/// How often whoever waits for an answer looks whether the job is to stop.
const LOOK: Duration = Duration::from_millis(100);

/// The processes of one command: as many as threads have been judging at once.
pub(super) struct Pool {
    command: String,
    folder: PathBuf,
    /// For one batch, from the moment it is sent; the first batch of a process includes its start.
    limit: Duration,
    batch: usize,
    /// Processes that nobody is waiting for.
    idle: Mutex<Vec<Worker>>,
    warnings: Mutex<Vec<String>>,
}

/// One line to the command.
#[derive(Serialize)]
struct CommandRequest<'a> {
    id: u64,
    #[serde(flatten)]
    answer: RewardInput<'a>,
}

/// Why a batch came back without all its rewards.
enum CommandTrouble {
    /// The job is to stop.
    Stopped,
    /// The process is gone.
    Ended,
    TimedOut,
    /// Its answer cannot be right, and would not be after a restart.
    InvalidOutput {
        why: String,
        line: String,
    },
}

impl Pool {
    pub fn new(command: &str, limit_seconds: f64, batch: u32, folder: &Path) -> Result<Pool, RewardError> {
        let setting = |setting: String| RewardError::Setting { command: command.to_owned(), setting };
        let limit = Duration::try_from_secs_f64(limit_seconds).ok().filter(|limit| !limit.is_zero());
        let limit = limit.ok_or_else(|| setting(format!("a time limit of {limit_seconds} s")))?;
        if batch == 0 {
            return Err(setting("batches of 0".to_owned()));
        }
        Ok(Pool {
            command: command.to_owned(),
            folder: folder.to_owned(),
            limit,
            batch: batch as usize,
            idle: Mutex::default(),
            warnings: Mutex::default(),
        })
    }

    pub fn judge(&self, answers: &[RewardInput], control: &Control) -> Result<Vec<f64>, RewardError> {
        let mut rewards = Vec::with_capacity(answers.len());
        // A process that failed is dropped on the way out of here, which ends it.
        let mut worker = locked(&self.idle).pop();
        for batch in answers.chunks(self.batch) {
            rewards.extend(self.judge_batch(&mut worker, batch, control)?);
        }
        locked(&self.idle).extend(worker);
        Ok(rewards)
    }

    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *locked(&self.warnings))
    }

    /// A batch that a process did not survive, or did not finish in time, goes to a fresh one once.
    fn judge_batch(
        &self,
        slot: &mut Option<Worker>,
        batch: &[RewardInput],
        control: &Control,
    ) -> Result<Vec<f64>, RewardError> {
        let mut restarted = false;
        loop {
            let mut worker = match slot.take() {
                Some(worker) => worker,
                None => Worker::start(&self.command, &self.folder).map_err(|error| RewardError::Start {
                    command: self.command.clone(),
                    folder: self.folder.display().to_string(),
                    cause: error.to_string(),
                })?,
            };
            let mut rewards = vec![None; batch.len()];
            let trouble = match self.exchange(&mut worker, batch, &mut rewards, control) {
                Ok(()) => {
                    *slot = Some(worker);
                    return Ok(rewards.into_iter().flatten().collect());
                }
                Err(trouble) => trouble,
            };
            let given = rewards.iter().flatten().count();
            let open = rewards.iter().position(Option::is_none).map_or("", |index| batch[index].prompt);
            let command = self.command.clone();
            let (warning, error) = match trouble {
                CommandTrouble::Stopped => {
                    worker.kill();
                    return Err(RewardError::Stopped);
                }
                CommandTrouble::InvalidOutput { why, line } => {
                    return Err(RewardError::InvalidOutput { command, why, line });
                }
                CommandTrouble::Ended => {
                    let (how, stderr) = worker.post_mortem();
                    let warning = format!("the reward command `{command}` ended ({how}) and was restarted");
                    (warning, RewardError::Ended { command, how, prompt: open.to_owned(), stderr })
                }
                CommandTrouble::TimedOut => {
                    let (limit, stderr) = (self.limit, worker.kill());
                    let seconds = limit.as_secs_f64();
                    let warning = format!(
                        "the reward command `{command}` took longer than its limit of {seconds} s and was \
                         restarted"
                    );
                    let (asked, prompt) = (batch.len(), open.to_owned());
                    (warning, RewardError::TimedOut { command, limit, given, asked, prompt, stderr })
                }
            };
            if restarted {
                return Err(error);
            }
            restarted = true;
            locked(&self.warnings).push(warning);
        }
    }

    /// Sends a batch, whole, and waits until every answer has its reward.
    fn exchange(
        &self,
        worker: &mut Worker,
        batch: &[RewardInput],
        rewards: &mut [Option<f64>],
        control: &Control,
    ) -> Result<(), CommandTrouble> {
        // Identifiers never repeat in the life of a process, so that an answer given twice is not taken for
        // the next batch's.
        let first = worker.reserve(batch.len() as u64);
        let mut lines = Vec::new();
        for (id, answer) in (first..).zip(batch) {
            serde_json::to_writer(&mut lines, &CommandRequest { id, answer: *answer })
                .expect("text and JSON values are JSON");
            lines.push(b'\n');
        }
        let deadline = Instant::now().checked_add(self.limit);
        worker.send(lines);
        while rewards.contains(&None) {
            if control.check().is_err() {
                return Err(CommandTrouble::Stopped);
            }
            let next_look = Instant::now() + LOOK;
            let line = match worker
                .receive(Some(deadline.map_or(next_look, |deadline| deadline.min(next_look))))
            {
                Received::Line(line) => String::from_utf8_lossy(&line).into_owned(),
                Received::Closed => return Err(CommandTrouble::Ended),
                Received::TimedOut if deadline.is_none_or(|deadline| Instant::now() < deadline) => continue,
                Received::TimedOut => return Err(CommandTrouble::TimedOut),
            };
            let invalid = |why: &str| CommandTrouble::InvalidOutput {
                why: why.to_owned(),
                line: line.trim_end().to_owned(),
            };
            let reply: Value = serde_json::from_str(&line).map_err(|_| invalid("not JSON"))?;
            let id = reply
                .get("id")
                .and_then(Value::as_u64)
                .ok_or_else(|| invalid("no `id` that is a whole number"))?;
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

/// What the locks guard is a list that is whole between any two operations, so a thread that panicked left it
/// usable.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
