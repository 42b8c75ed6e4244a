//! The user's programs that read and write JSON lines (rewards, environments, edits): how they are started,
//! sent requests, restarted, and reliably ended.

mod descendants;
pub mod once;
pub mod orphans;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mopd_store::programs::python;
use serde::Serialize;
use serde_json::Value;

use crate::control::Control;

pub use self::worker::{ChildProcess, ProcessEnd, Received};

/// How often a wait for an answer checks whether the job is to stop.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What programs that call a user's Python share; also part of the Python package.
const USER_CODE: &str = include_str!("../../../tools/python/mopd/_user_code.py");

/// The processes of one command: as many as the most threads that have used it at once.
pub struct ProcessPool {
    /// The kind of the command in messages, a noun: "reward command".
    what: &'static str,
    /// The command as messages show it.
    pub command: String,
    /// The command that the shell runs.
    started: String,
    pub folder: PathBuf,
    /// Time limit of an answer; the first one of a process includes its start.
    pub limit: Duration,
    /// Processes that no thread is using.
    idle: Mutex<Vec<ChildProcess>>,
    warnings: Mutex<Vec<String>>,
    restarts: AtomicU32,
}

/// Why a process did not answer.
#[derive(Debug)]
pub enum ProcessProblem {
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
    /// It reports an error for the request at this place of the batch.
    Refused {
        why: String,
        place: usize,
    },
}

/// Why a program did not answer, after a restart if that could help.
#[derive(Debug)]
pub enum ProgramFailure {
    Stopped,
    Start { cause: String },
    Ended { how: ProcessEnd, stderr: String },
    TimedOut { stderr: String },
    InvalidOutput { why: String, line: String },
    Refused { why: String, place: usize },
}

/// Why not all of a batch was answered.
pub struct BatchFailure {
    pub failure: ProgramFailure,
    /// How many of the batch were answered.
    pub given: usize,
    /// The first that was not answered; none if no process was sent the batch.
    pub open: Option<usize>,
}

impl BatchFailure {
    /// The request to report: the one that the program refused, else the first without an answer.
    pub fn place(&self) -> Option<usize> {
        match self.failure {
            ProgramFailure::Refused { place, .. } => Some(place),
            _ => self.open,
        }
    }
}

/// One line to a program.
#[derive(Serialize)]
struct Request<'a, T> {
    id: u64,
    /// How many requests of the batch follow.
    left: usize,
    #[serde(flatten)]
    what: &'a T,
}

impl ProcessProblem {
    pub fn invalid(why: impl Into<String>, line: &str) -> ProcessProblem {
        ProcessProblem::InvalidOutput { why: why.into(), line: line.trim_end().to_owned() }
    }
}

impl ProcessPool {
    /// Starts no process yet. None if the limit is not a positive time.
    pub fn new(what: &'static str, command: &str, limit_seconds: f64, folder: &Path) -> Option<ProcessPool> {
        let limit = Duration::try_from_secs_f64(limit_seconds).ok().filter(|limit| !limit.is_zero())?;
        Some(ProcessPool {
            what,
            command: command.to_owned(),
            started: command.to_owned(),
            folder: folder.to_owned(),
            limit,
            idle: Mutex::default(),
            warnings: Mutex::default(),
            restarts: AtomicU32::new(0),
        })
    }

    /// The same pool for a function or class of the user's in a file of Python: `calls` is the text of a
    /// program of ours that calls it. None if a name has a NUL character.
    pub fn calling(self, calls: &str, file: &str, name: &str) -> Option<ProcessPool> {
        let text = format!("{USER_CODE}\n{calls}");
        let words = shlex::try_join([&*python(), "-c", &text, file, name]).ok()?;
        Some(ProcessPool { started: format!("exec {words}"), ..self })
    }

    /// Its name in messages: "reward command `python3 judge.py`".
    pub fn name(&self) -> String {
        format!("{} `{}`", self.what, self.command)
    }

    /// Takes an idle process, if there is one.
    pub fn take(&self) -> Option<ChildProcess> {
        locked(&self.idle).pop()
    }

    /// Returns a process to the pool after use. A process that failed is dropped instead, which ends it.
    pub fn put_back(&self, worker: Option<ChildProcess>) {
        locked(&self.idle).extend(worker);
    }

    /// Warnings since the last call, about restarts.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *locked(&self.warnings))
    }

    /// Calls `with` on a process. If the process dies or does not answer in time, calls it once more on a new
    /// one.
    pub fn with_process<T>(
        &self,
        slot: &mut Option<ChildProcess>,
        mut with: impl FnMut(&mut ChildProcess) -> Result<T, ProcessProblem>,
    ) -> Result<T, ProgramFailure> {
        let name = self.name();
        let mut restarted = false;
        loop {
            let mut worker = match slot.take() {
                Some(worker) => worker,
                None => ChildProcess::start(&self.started, &self.folder)
                    .map_err(|error| ProgramFailure::Start { cause: error.to_string() })?,
            };
            let trouble = match with(&mut worker) {
                Ok(answer) => {
                    *slot = Some(worker);
                    return Ok(answer);
                }
                Err(trouble) => trouble,
            };
            let (warning, failure) = match trouble {
                ProcessProblem::Stopped => {
                    worker.kill();
                    return Err(ProgramFailure::Stopped);
                }
                ProcessProblem::InvalidOutput { why, line } => {
                    return Err(ProgramFailure::InvalidOutput { why, line });
                }
                ProcessProblem::Refused { why, place } => return Err(ProgramFailure::Refused { why, place }),
                ProcessProblem::Ended => {
                    let (how, stderr) = worker.post_mortem();
                    let warning = format!("the {name} ended ({how}) and was restarted");
                    (warning, ProgramFailure::Ended { how, stderr })
                }
                ProcessProblem::TimedOut => {
                    let (seconds, stderr) = (self.limit.as_secs_f64(), worker.kill());
                    let warning =
                        format!("the {name} took longer than its limit of {seconds} s and was restarted");
                    (warning, ProgramFailure::TimedOut { stderr })
                }
            };
            if restarted {
                return Err(failure);
            }
            restarted = true;
            let times = self.restarts.fetch_add(1, Ordering::Relaxed) + 1;
            // Not every time: a program that always needs a restart would fill the log.
            if times.is_power_of_two() {
                let warning = if times > 1 { format!("{warning} ({times} times so far)") } else { warning };
                locked(&self.warnings).push(warning);
            }
        }
    }

    /// Gets an answer to each request of a batch. `what` is a noun for an answer; `read` parses a reply or
    /// says what is wrong with it. If the process dies or misses the time limit, the batch goes once more to
    /// a new one.
    pub fn batch<R: Serialize, T>(
        &self,
        slot: &mut Option<ChildProcess>,
        batch: &[R],
        what: &str,
        read: impl Fn(&Value) -> Result<T, String>,
        control: &Control,
    ) -> Result<Vec<T>, BatchFailure> {
        let mut answers: Vec<Option<T>> = Vec::new();
        let outcome = self.with_process(slot, |worker| {
            answers = batch.iter().map(|_| None).collect();
            self.exchange(worker, batch, &mut answers, what, &read, control)
        });
        match outcome {
            Ok(()) => Ok(answers.into_iter().flatten().collect()),
            Err(failure) => Err(BatchFailure {
                failure,
                given: answers.iter().flatten().count(),
                open: answers.iter().position(Option::is_none),
            }),
        }
    }

    /// Sends a whole batch and waits until all of it is answered.
    fn exchange<R: Serialize, T>(
        &self,
        worker: &mut ChildProcess,
        batch: &[R],
        answers: &mut [Option<T>],
        what: &str,
        read: &impl Fn(&Value) -> Result<T, String>,
        control: &Control,
    ) -> Result<(), ProcessProblem> {
        // Ids never repeat in the life of a process, so a duplicate answer is not taken for one of the next
        // batch.
        let first = worker.reserve(batch.len() as u64);
        let mut lines = Vec::new();
        for ((id, what), left) in (first..).zip(batch).zip((0..batch.len()).rev()) {
            let request = Request { id, left, what };
            serde_json::to_writer(&mut lines, &request).expect("text and JSON values are JSON");
            lines.push(b'\n');
        }
        let deadline = self.deadline();
        worker.send(lines);
        while answers.iter().any(Option::is_none) {
            let line = line(worker, deadline, control)?;
            let invalid = |why: &str| ProcessProblem::invalid(why, &line);
            let (id, reply) = reply(&line)?;
            let place = id.checked_sub(first).and_then(|place| usize::try_from(place).ok());
            let place = place.filter(|place| *place < answers.len());
            let place = place.ok_or_else(|| invalid("an `id` that no request has"))?;
            if answers[place].is_some() {
                return Err(invalid(&format!("a second {what} for one `id`")));
            }
            refused(&reply, &line, place)?;
            answers[place] = Some(read(&reply).map_err(|why| invalid(&why))?);
        }
        Ok(())
    }

    /// The deadline of an answer to a request sent now; none if it is too far away to represent.
    pub fn deadline(&self) -> Option<Instant> {
        Instant::now().checked_add(self.limit)
    }
}

/// The next line that a process writes.
pub fn line(
    worker: &ChildProcess,
    deadline: Option<Instant>,
    control: &Control,
) -> Result<String, ProcessProblem> {
    loop {
        if control.check().is_err() {
            return Err(ProcessProblem::Stopped);
        }
        let next_look = Instant::now() + POLL_INTERVAL;
        match worker.receive(Some(deadline.map_or(next_look, |deadline| deadline.min(next_look)))) {
            Received::Line(line) => return Ok(String::from_utf8_lossy(&line).into_owned()),
            Received::Closed => return Err(ProcessProblem::Ended),
            Received::TimedOut if deadline.is_none_or(|deadline| Instant::now() < deadline) => {}
            Received::TimedOut => return Err(ProcessProblem::TimedOut),
        }
    }
}

/// Parses a line: the id of the request that it answers, and the reply.
pub fn reply(line: &str) -> Result<(u64, Value), ProcessProblem> {
    let reply: Value = serde_json::from_str(line).map_err(|_| ProcessProblem::invalid("not JSON", line))?;
    let id = reply.get("id").and_then(Value::as_u64);
    let id = id.ok_or_else(|| ProcessProblem::invalid("no `id` that is a whole number", line))?;
    Ok((id, reply))
}

/// Returns [`ProcessProblem::Refused`] if a reply has an `error` in place of an answer.
pub fn refused(reply: &Value, line: &str, place: usize) -> Result<(), ProcessProblem> {
    match reply.get("error") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(why)) => Err(ProcessProblem::Refused { why: why.clone(), place }),
        Some(_) => Err(ProcessProblem::invalid("an `error` that is not a text", line)),
    }
}

/// The message and the help for a program's own error `why`: the first of its lines, and the others.
pub fn refusal(program: &str, prompt: &str, why: &str) -> (String, String) {
    let (first, others) = why.trim().split_once('\n').unwrap_or((why.trim(), ""));
    (format!("{program} failed for the prompt {prompt}: {first}"), others.to_owned())
}

/// The help text for a process that ended.
pub fn how_it_ended(how: ProcessEnd, stderr: &str) -> String {
    if how.is_not_found() && stderr.is_empty() {
        return "exit status 127 means that the shell did not find the program".to_owned();
    }
    last_words(stderr)
}

pub fn last_words(stderr: &str) -> String {
    if stderr.is_empty() {
        return "it wrote nothing to its standard error".to_owned();
    }
    format!("the last lines of its standard error:\n{stderr}")
}

/// Ignores poisoning: the lists behind these locks are valid between any two operations, so a thread that
/// panicked left them usable.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
