//! Programs of the author's that read JSON lines and write JSON lines: rewards, environments, edits. How one
//! is started, asked, restarted, and ended for sure.

mod descendants;
pub mod once;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::control::Control;

pub use self::worker::ChildProcess;
use self::worker::Received;

/// How often whoever waits for an answer looks whether the job is to stop.
const LOOK: Duration = Duration::from_millis(100);

/// The processes of one command: as many as threads have been talking to it at once.
pub struct ProcessPool {
    /// What it is for, a noun.
    what: &'static str,
    /// As people call it.
    pub command: String,
    /// As the shell starts it.
    started: String,
    pub folder: PathBuf,
    /// For an answer; the first one of a process includes its start.
    pub limit: Duration,
    /// Processes that nobody is waiting for.
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
    /// It says itself that it cannot answer the request at this place of the batch.
    Refused {
        why: String,
        place: usize,
    },
}

/// Why a program did not answer, though it was restarted where that may help.
#[derive(Debug)]
pub enum ProgramFailure {
    Stopped,
    Start { cause: String },
    Ended { how: String, stderr: String },
    TimedOut { stderr: String },
    InvalidOutput { why: String, line: String },
    Refused { why: String, place: usize },
}

/// Why not all of a batch was answered.
pub struct Unanswered {
    pub failure: ProgramFailure,
    /// How much of it was.
    pub given: usize,
    /// The first that was not; none where no process was asked.
    pub open: Option<usize>,
}

impl Unanswered {
    /// The one that stands for it: what the program refused, else the first without an answer.
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
    /// How many of the batch follow.
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
    /// None where the limit is no time. No process is started yet.
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

    /// The same program, where the shell starts it with other words than people call it by.
    pub fn started_by(self, started: String) -> ProcessPool {
        ProcessPool { started, ..self }
    }

    /// With what it is for: "reward command `python3 judge.py`".
    pub fn name(&self) -> String {
        format!("{} `{}`", self.what, self.command)
    }

    /// A process that waits, where there is one.
    pub fn take(&self) -> Option<ChildProcess> {
        locked(&self.idle).pop()
    }

    /// What [`ProcessPool::take`] took, after use. A process that failed is dropped instead, which ends it.
    pub fn put_back(&self, worker: Option<ChildProcess>) {
        locked(&self.idle).extend(worker);
    }

    /// What happened since the last call that the author should know though the run goes on: restarts.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *locked(&self.warnings))
    }

    /// Talks to a process. Where it does not survive that, or does not answer in time, a fresh one is talked
    /// to once.
    pub fn talk<T>(
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
            // A program that always needs it would fill the log.
            if times.is_power_of_two() {
                let warning = if times > 1 { format!("{warning} ({times} times so far)") } else { warning };
                locked(&self.warnings).push(warning);
            }
        }
    }

    /// Asks for an answer to each of a batch, `what` it is a noun, which `read` takes from a reply or says
    /// what is wrong with it. A batch that a process did not survive, or did not finish in time, goes to a
    /// fresh one once.
    pub fn batch<R: Serialize, T>(
        &self,
        slot: &mut Option<ChildProcess>,
        batch: &[R],
        what: &str,
        read: impl Fn(&Value) -> Result<T, String>,
        control: &Control,
    ) -> Result<Vec<T>, Unanswered> {
        let mut answers: Vec<Option<T>> = Vec::new();
        let outcome = self.talk(slot, |worker| {
            answers = batch.iter().map(|_| None).collect();
            self.exchange(worker, batch, &mut answers, (what, &read), control)
        });
        match outcome {
            Ok(()) => Ok(answers.into_iter().flatten().collect()),
            Err(failure) => Err(Unanswered {
                failure,
                given: answers.iter().flatten().count(),
                open: answers.iter().position(Option::is_none),
            }),
        }
    }

    /// Sends a batch, whole, and waits until all of it is answered.
    fn exchange<R: Serialize, T>(
        &self,
        worker: &mut ChildProcess,
        batch: &[R],
        answers: &mut [Option<T>],
        (what, read): (&str, &impl Fn(&Value) -> Result<T, String>),
        control: &Control,
    ) -> Result<(), ProcessProblem> {
        // Identifiers never repeat in the life of a process, so that an answer given twice is not taken for
        // the next batch's.
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
            let place = place.ok_or_else(|| invalid("an `id` that was not asked"))?;
            if answers[place].is_some() {
                return Err(invalid(&format!("a second {what} for one `id`")));
            }
            refused(&reply, &line, place)?;
            answers[place] = Some(read(&reply).map_err(|why| invalid(&why))?);
        }
        Ok(())
    }

    /// When an answer to what is asked now is late; never where that is too far away.
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
        let next_look = Instant::now() + LOOK;
        match worker.receive(Some(deadline.map_or(next_look, |deadline| deadline.min(next_look)))) {
            Received::Line(line) => return Ok(String::from_utf8_lossy(&line).into_owned()),
            Received::Closed => return Err(ProcessProblem::Ended),
            Received::TimedOut if deadline.is_none_or(|deadline| Instant::now() < deadline) => {}
            Received::TimedOut => return Err(ProcessProblem::TimedOut),
        }
    }
}

/// What a line says, and the identifier of what it answers.
pub fn reply(line: &str) -> Result<(u64, Value), ProcessProblem> {
    let reply: Value = serde_json::from_str(line).map_err(|_| ProcessProblem::invalid("not JSON", line))?;
    let id = reply.get("id").and_then(Value::as_u64);
    let id = id.ok_or_else(|| ProcessProblem::invalid("no `id` that is a whole number", line))?;
    Ok((id, reply))
}

/// Whether a reply, on a line, has an `error` in place of an answer.
pub fn refused(reply: &Value, line: &str, place: usize) -> Result<(), ProcessProblem> {
    match reply.get("error") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(why)) => Err(ProcessProblem::Refused { why: why.clone(), place }),
        Some(_) => Err(ProcessProblem::invalid("an `error` that is not a text", line)),
    }
}

/// The message and the help where a program says why it does not answer: the first of its lines, and the
/// others.
pub fn refusal(program: &str, prompt: &str, why: &str) -> (String, String) {
    let (first, others) = why.trim().split_once('\n').unwrap_or((why.trim(), ""));
    (format!("{program} failed for the prompt {prompt}: {first}"), others.to_owned())
}

/// What is worth knowing of a process that ended.
pub fn how_it_ended(how: &str, stderr: &str) -> String {
    if how == "exit status 127" && stderr.is_empty() {
        return "exit status 127 is the shell's way to say that it did not find the program".to_owned();
    }
    last_words(stderr)
}

pub fn last_words(stderr: &str) -> String {
    if stderr.is_empty() {
        return "it wrote nothing to its standard error".to_owned();
    }
    format!("the last lines of its standard error:\n{stderr}")
}

/// What the locks guard is a list that is whole between any two operations, so a thread that panicked left it
/// usable.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
