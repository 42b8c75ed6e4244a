//! Environments: a program of the user's that replies to the student's actions, turn by turn. One process
//! plays many episodes side by side; each line has the episode's id. A class of Python is called by a program
//! of ours, which speaks the same protocol.
//!
//! The requests of an episode are kept until it is over. So if the process dies or hangs, a new one gets the
//! same requests again, and must reply the same.

mod error;
mod observation;

pub use error::EnvironmentError;
pub use mopd_data::experts::recorded;
pub use observation::Observation;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::Path;

use mopd_plan::EnvironmentProgram;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::control::Control;
use crate::data::RowPlace;
use crate::program::{self, ChildProcess, ProcessPool, ProcessProblem, ProgramFailure};
use crate::quote::quote;

/// The program that calls a class of Python; also part of the Python package.
const PLAYS: &str = include_str!("../../../tools/python/mopd/environment.py");

/// The environment of one stage.
pub struct Environment {
    pool: ProcessPool,
    /// The way out for invalid output.
    writes: &'static str,
    worker: RefCell<Option<ChildProcess>>,
    /// Whether it gives rewards; `None` until it has replied to an action.
    rewards: Cell<Option<bool>>,
}

/// Where a stage's environments run.
#[derive(Clone, Copy)]
pub enum Environments<'a> {
    /// Their programs run in this folder.
    In(&'a Path),
    /// No environment is started: in a trial, completions are meaningless.
    Untouched,
}

/// The first request of an episode.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Start<'a> {
    pub seed: u64,
    pub domain: &'a str,
    pub prompt: &'a str,
    /// The data line that the prompt came from.
    pub record: &'a Map<String, Value>,
    /// Its file, and its place there.
    #[serde(skip)]
    pub row: (&'a Path, RowPlace),
}

/// The environment's reply to a start or an action.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// Required after an action that does not end the episode.
    pub observation: Option<Observation>,
    pub reward: Option<f64>,
    /// Named numbers beside a reward, which an objective reads as `reward.<name>`.
    pub parts: Vec<(String, f64)>,
    pub done: bool,
}

/// A turn of the student.
#[derive(Clone, Debug, Default)]
pub struct StudentTurn {
    /// Without the token that ends it.
    pub text: String,
    /// In a conversation, the turn as a message, with its tool calls.
    pub message: Option<Value>,
    /// Number of its tool calls.
    pub calls: usize,
    /// Whether it was cut off, and the episode ends with it for that.
    pub truncated: bool,
}

/// One run of a student through the environment.
pub struct Episode<'a> {
    start: Start<'a>,
    /// Whether its prompt is a conversation, which goes on in messages.
    is_chat: bool,
    actions: Vec<StudentTurn>,
    /// Replies to the start and to each action.
    replies: Vec<Reply>,
    /// Its id in the current process.
    id: u64,
    /// Requests sent to the current process, and replies received from it.
    asked: usize,
    heard: usize,
}

/// One line to the environment.
#[derive(Serialize)]
struct Request<'a> {
    id: u64,
    #[serde(flatten)]
    what: EnvironmentMessage<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum EnvironmentMessage<'a> {
    Start(Start<'a>),
    Action {
        action: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<&'a Value>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        truncated: bool,
    },
    /// The episode is not continued; there is no reply.
    End {
        end: bool,
    },
}

impl<'a> Episode<'a> {
    pub fn new(start: Start<'a>, is_chat: bool) -> Episode<'a> {
        Episode { start, is_chat, actions: Vec::new(), replies: Vec::new(), id: 0, asked: 0, heard: 0 }
    }

    pub fn act(&mut self, action: StudentTurn) {
        self.actions.push(action);
    }

    pub fn last(&self) -> Option<&Reply> {
        self.replies.last()
    }

    /// Whether the environment has ended the episode.
    pub fn done(&self) -> bool {
        self.last().is_some_and(|reply| reply.done)
    }

    /// The sum of the episode's rewards; none if the environment gives none.
    pub fn reward(&self) -> Option<f64> {
        let given = self.replies.iter().filter_map(|reply| reply.reward);
        given.fold(None, |sum, reward| Some(sum.unwrap_or(0.0) + reward))
    }

    /// The reward in each reply to a turn, also to those of an expert.
    pub fn rewards(&self) -> impl Iterator<Item = Option<f64>> {
        self.replies.iter().skip(1).map(|reply| reply.reward)
    }

    /// For each part of the episode's rewards, its name and its sum.
    fn parts(&self) -> Vec<(String, f64)> {
        let mut sums: Vec<(String, f64)> = Vec::new();
        for (name, part) in self.replies.iter().flat_map(|reply| &reply.parts) {
            match sums.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => *sum += part,
                None => sums.push((name.clone(), *part)),
            }
        }
        sums
    }

    /// The episode in messages: its prompt, and the data line.
    pub fn named(&self) -> String {
        let (file, place) = self.start.row;
        format!("{} ({}{place})", quote(self.start.prompt), file.display())
    }

    /// The same with the turn whose reply is next.
    fn named_with_turn(&self) -> String {
        match self.heard {
            0 => format!("{}, before the first turn", self.named()),
            turn => format!("{}, turn {turn}", self.named()),
        }
    }

    fn message(&self, number: usize) -> EnvironmentMessage<'_> {
        match number.checked_sub(1) {
            None => EnvironmentMessage::Start(self.start),
            Some(action) => {
                let StudentTurn { text, message, truncated, .. } = &self.actions[action];
                EnvironmentMessage::Action { action: text, message: message.as_ref(), truncated: *truncated }
            }
        }
    }

    fn requests(&self) -> usize {
        1 + self.actions.len()
    }
}

impl Environment {
    /// Starts no process yet. `base` is the folder that the program runs in. The time limit is for one reply,
    /// counted from the previous reply.
    pub fn new(
        program: &EnvironmentProgram,
        limit_seconds: f64,
        base: &Path,
    ) -> Result<Environment, EnvironmentError> {
        let command = program.to_string();
        let setting = |setting: String| EnvironmentError::Setting { command: command.clone(), setting };
        let pool = ProcessPool::new("environment", &command, limit_seconds, base);
        let pool = pool.ok_or_else(|| setting(format!("a time limit of {limit_seconds} s")))?;
        let (pool, writes) = match program {
            EnvironmentProgram::Command(_) => (Some(pool), error::LINES),
            EnvironmentProgram::Python { file, class } => (pool.calling(PLAYS, file, class), error::RETURNS),
        };
        let pool = pool.ok_or_else(|| setting("a name with a NUL character".to_owned()))?;
        Ok(Environment { pool, writes, worker: RefCell::default(), rewards: Cell::new(None) })
    }

    pub fn take_warnings(&self) -> Vec<String> {
        self.pool.take_warnings()
    }

    /// Waits until every start and action has its reply.
    pub fn answer(&self, episodes: &mut [Episode], control: &Control) -> Result<(), EnvironmentError> {
        // `talk` drops a process that failed, which ends it.
        let mut worker = self.worker.take();
        let answered = self.pool.with_process(&mut worker, |worker| self.exchange(worker, episodes, control));
        self.worker.replace(worker);
        answered.map_err(|failure| self.error(failure, episodes))
    }

    /// Tells the environment that these episodes are not continued, except those that it has ended itself.
    pub fn end(&self, episodes: &[Episode]) {
        let mut lines = Vec::new();
        for episode in episodes.iter().filter(|episode| !episode.done()) {
            write(&mut lines, episode.id, EnvironmentMessage::End { end: true });
        }
        if let Some(worker) = &*self.worker.borrow() {
            worker.send(lines);
        }
    }

    fn exchange(
        &self,
        worker: &mut ChildProcess,
        episodes: &mut [Episode],
        control: &Control,
    ) -> Result<(), ProcessProblem> {
        if worker.is_new() {
            episodes.iter_mut().for_each(|episode| (episode.asked, episode.heard) = (0, 0));
        }
        let mut lines = Vec::new();
        let mut waiting: HashMap<u64, usize> = HashMap::new();
        for (index, episode) in episodes.iter_mut().enumerate() {
            // A new process need not know of an episode that is over.
            if episode.done() {
                continue;
            }
            if episode.asked == 0 {
                episode.id = worker.reserve(1);
            }
            for number in episode.asked..episode.requests() {
                write(&mut lines, episode.id, episode.message(number));
            }
            episode.asked = episode.requests();
            waiting.insert(episode.id, index);
        }
        let mut deadline = self.pool.deadline();
        worker.send(lines);
        while episodes.iter().any(|episode| episode.heard < episode.asked) {
            let line = program::line(worker, deadline, control)?;
            deadline = self.pool.deadline();
            let invalid = |why: &str| ProcessProblem::invalid(why, &line);
            let (id, reply) = program::reply(&line)?;
            let index = waiting.get(&id).ok_or_else(|| invalid("an `id` that no request has"))?;
            let episode = &mut episodes[*index];
            if episode.heard == episode.asked {
                let prompt = episode.named();
                return Err(invalid(&format!("a second reply for one request, for the prompt {prompt}")));
            }
            let turn = episode.named_with_turn();
            let invalid = |why: &str| invalid(&format!("{why}, for the prompt {turn}"));
            program::refused(&reply, &line, *index)?;
            let reply = self.reply(&reply, episode).map_err(|why| invalid(&why))?;
            match episode.replies.get(episode.heard) {
                Some(before) if *before != reply => {
                    return Err(invalid(
                        "the reply differs from the one before the restart, for the same actions and the \
                        same seed",
                    ));
                }
                Some(_) => {}
                None => episode.replies.push(reply),
            }
            episode.heard += 1;
        }
        Ok(())
    }

    /// Parses the next reply of an episode.
    fn reply(&self, reply: &Value, episode: &Episode) -> Result<Reply, String> {
        let given = |name: &str| reply.get(name).filter(|value| !value.is_null());
        let action = episode.heard.checked_sub(1).map(|action| &episode.actions[action]);
        let calls = action.map_or(0, |action| action.calls);
        let observation = match episode.is_chat {
            true => Observation::of_chat(given("observation"), given("messages"), calls)?,
            false => Observation::of_text(given("observation"), given("messages"))?,
        };
        let reward = match given("reward") {
            None => None,
            Some(reward) => {
                Some(reward.as_f64().ok_or_else(|| "a `reward` that is not a number".to_owned())?)
            }
        };
        let parts = match given("parts") {
            None => Vec::new(),
            Some(Value::Object(parts)) if reward.is_some() => {
                let number = |(name, part): (&String, &Value)| Some((name.clone(), part.as_f64()?));
                let parts: Option<Vec<_>> = parts.iter().map(number).collect();
                parts.ok_or("`parts` that are not an object of numbers")?
            }
            Some(Value::Object(_)) => return Err("`parts` without a `reward`".to_owned()),
            Some(_) => return Err("`parts` that are not an object of numbers".to_owned()),
        };
        let done = match given("done") {
            None => false,
            Some(Value::Bool(done)) => *done,
            Some(_) => return Err("a `done` that is not true or false".to_owned()),
        };
        if action.is_none() {
            return match (reward, done) {
                (Some(_), _) => Err("a `reward` before the first action".to_owned()),
                (_, true) => Err("`done` before the first action".to_owned()),
                (None, false) => Ok(Reply { observation, reward, parts, done }),
            };
        }
        let goes_on = action.is_some_and(|action| !action.truncated);
        if observation.is_none() && goes_on && !done {
            return Err("no `observation`, although the episode is not `done`".to_owned());
        }
        match self.rewards.get() {
            Some(true) if reward.is_none() => {
                Err("no `reward`, although earlier episodes had one".to_owned())
            }
            Some(false) if reward.is_some() => {
                Err("a `reward`, although earlier episodes had none".to_owned())
            }
            _ => {
                self.rewards.set(Some(reward.is_some()));
                Ok(Reply { observation, reward, parts, done })
            }
        }
    }

    fn error(&self, failure: ProgramFailure, episodes: &[Episode]) -> EnvironmentError {
        let open = episodes.iter().find(|episode| episode.heard < episode.requests() && !episode.done());
        let episode = open.map(Episode::named_with_turn).unwrap_or_default();
        let (command, limit) = (self.pool.command.clone(), self.pool.limit);
        match failure {
            ProgramFailure::Stopped => EnvironmentError::Stopped,
            ProgramFailure::Start { cause } => {
                let folder = self.pool.folder.display().to_string();
                EnvironmentError::Start { command, folder, cause }
            }
            ProgramFailure::Ended { how, stderr } => {
                EnvironmentError::Ended { command, how, episode, stderr }
            }
            ProgramFailure::TimedOut { stderr } => {
                EnvironmentError::TimedOut { command, limit, episode, stderr }
            }
            ProgramFailure::InvalidOutput { why, line } => {
                EnvironmentError::InvalidOutput { command, why, line, help: self.writes }
            }
            ProgramFailure::Refused { why, place } => {
                let (message, help) = program::refusal(
                    &format!("the environment `{command}`"),
                    &episodes[place].named_with_turn(),
                    &why,
                );
                EnvironmentError::Refused { message, help }
            }
        }
    }

    /// The reward of an episode that is over: from 0 to 1, as all rewards are.
    pub fn reward(&self, episode: &Episode) -> Result<Option<f64>, EnvironmentError> {
        episode.reward().map(|sum| self.bounded(episode, "rewards", sum)).transpose()
    }

    /// The parts of the reward of an episode that is over, each from 0 to 1. It is an error if a part that
    /// the objective reads (`read`) is missing.
    pub fn reward_parts(
        &self,
        episode: &Episode,
        read: &[String],
    ) -> Result<Vec<(String, f64)>, EnvironmentError> {
        let parts = episode.parts();
        if let Some(part) = read.iter().find(|part| parts.iter().all(|(name, _)| name != *part)) {
            return Err(EnvironmentError::Part {
                command: self.pool.command.clone(),
                part: part.clone(),
                episode: episode.named(),
            });
        }
        let bounded = |(name, sum): (String, f64)| {
            let sum = self.bounded(episode, &format!("parts `{name}` of rewards"), sum)?;
            Ok((name, sum))
        };
        parts.into_iter().map(bounded).collect()
    }

    fn bounded(&self, episode: &Episode, of: &str, sum: f64) -> Result<f64, EnvironmentError> {
        // Rounding: 0.7 + 0.2 + 0.1 is less than 1 in floats, but only a reward of 1 counts as `correct`.
        const ROUNDING: f64 = 1e-9;
        if let Some(whole) = [0.0f64, 1.0].into_iter().find(|whole| (sum - whole).abs() <= ROUNDING) {
            return Ok(whole);
        }
        if (0.0..=1.0).contains(&sum) {
            return Ok(sum);
        }
        let (command, episode) = (self.pool.command.clone(), episode.named());
        Err(EnvironmentError::Reward { command, of: of.to_owned(), sum, episode })
    }
}

fn write(lines: &mut Vec<u8>, id: u64, what: EnvironmentMessage) {
    serde_json::to_writer(&mut *lines, &Request { id, what }).expect("text and JSON values are JSON");
    lines.push(b'\n');
}

#[cfg(test)]
mod tests;
