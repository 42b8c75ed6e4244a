//! Asking with patience. A server that is gone, or that is busy, is waited for as long as it takes, and the
//! log says so; an answer that can't be used is asked for again a few times; what will not change ends the
//! run.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use mopd_compiler::plan::events::FailureKind;

use super::address::Address;
use crate::control::Control;
use crate::failure::{Error, Result};

/// After an answer that can't be used.
const RETRIES: u32 = 5;
/// Before the first of them; each waits twice as long as the one before.
const PAUSE: Duration = Duration::from_millis(200);
/// Between two looks at a server that is gone.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How often it is looked whether the job is to stop.
const LOOK: Duration = Duration::from_millis(50);

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq)]
pub enum ReplyProblem {
    /// Nobody is there, or too many ask: it is waited for.
    Gone(String),
    /// What came can't be used. It is asked for again a few times.
    Faulty(String),
    /// It has other weights than those that are asked: whoever may give it these does.
    Stale(String),
    /// Asking again would not help.
    Lasting { what: String, help: String },
}

impl ReplyProblem {
    pub fn lasting(what: impl Into<String>, help: impl Into<String>) -> ReplyProblem {
        ReplyProblem::Lasting { what: what.into(), help: help.into() }
    }

    fn what(self) -> (String, String) {
        match self {
            ReplyProblem::Gone(what) => {
                (what, "start the server before the run, and look at its `url`".to_owned())
            }
            ReplyProblem::Faulty(what) => {
                (what, "look at the server's log: nothing was trained on that answer".to_owned())
            }
            ReplyProblem::Stale(what) => (
                what,
                "nobody else may give it weights while this run does: let each have its own".to_owned(),
            ),
            ReplyProblem::Lasting { what, help } => (what, help),
        }
    }
}

/// What makes an answer of what a server said.
type ParseReply<T> = Box<dyn Fn(&[u8]) -> Result<T, ReplyProblem> + Send>;

/// What is sent, and what makes numbers of the answer or says what is wrong with it.
pub struct ServerRequest<T> {
    /// None where nothing is sent along.
    pub body: Option<Vec<u8>>,
    pub path: &'static str,
    pub read: ParseReply<T>,
}

impl<T> ServerRequest<T> {
    /// Asks without patience.
    pub fn once(&self, address: &Address) -> Result<T, ReplyProblem> {
        let said = match &self.body {
            Some(body) => address.post(self.path, body)?,
            None => address.get(self.path)?,
        };
        (self.read)(&said)
    }
}

/// Who is asked.
pub struct Recipient {
    pub address: Address,
    /// As people are told: `the teacher's server`.
    pub called: &'static str,
    /// Requests of a batch that wait for their answers.
    pub at_once: usize,
    /// Looks at who is there, where nobody was or somebody with other weights: whether it can be asked now.
    pub look: LookAgain,
}

pub type LookAgain = Box<dyn Fn() -> Result<(), ReplyProblem> + Send + Sync>;

enum Said<T> {
    /// Of a request: it is waited for.
    Waiting(String),
    Back,
    Answer(usize, Result<T, ReplyProblem>),
}

pub(super) fn failed(called: &str, address: &Address, trouble: ReplyProblem) -> Error {
    let (what, help) = trouble.what();
    Error::new(FailureKind::Model, format!("{called} {} {what}", address.shown())).help(help)
}

/// What ends waiting: the job, or another teacher of the step that can't answer.
#[derive(Clone, Copy)]
pub struct Patience<'a> {
    pub control: &'a Control,
    pub given_up: &'a AtomicBool,
}

impl<'a> Patience<'a> {
    /// Of whoever asks alone.
    pub fn of(control: &'a Control) -> Patience<'a> {
        static NEVER: AtomicBool = AtomicBool::new(false);
        Patience { control, given_up: &NEVER }
    }

    fn check(self) -> Result<()> {
        self.control.check()?;
        if self.given_up.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// Answers in the order of the requests.
pub fn all<T: Send + 'static>(
    server: &Arc<Recipient>,
    requests: Vec<ServerRequest<T>>,
    patience: Patience,
) -> Result<Vec<T>> {
    let control = patience.control;
    let mut answers: Vec<Option<T>> = requests.iter().map(|_| None).collect();
    let (sender, replies) = mpsc::channel();
    let stop = Arc::new(AtomicBool::new(false));
    let mut requests = requests.into_iter().enumerate();
    let (mut open, mut since): (usize, Option<Instant>) = (0, None);
    let outcome = loop {
        while open < server.at_once
            && let Some((place, request)) = requests.next()
        {
            let (server, sender, stop) = (server.clone(), sender.clone(), stop.clone());
            // Where the job is to stop, nobody waits for what is under way: it ends by itself.
            thread::spawn(move || {
                let answer = server.patiently(&request, &sender, &stop);
                sender.send(Said::Answer(place, answer))
            });
            open += 1;
        }
        if open == 0 {
            break Ok(());
        }
        if let Err(stopped) = patience.check() {
            break Err(stopped);
        }
        match replies.recv_timeout(LOOK) {
            Ok(Said::Waiting(what)) => {
                // One line, however many requests wait.
                if since.is_none() {
                    since = Some(Instant::now());
                    let (called, place) = (server.called, server.address.shown());
                    control.warn(format!("{called} {place} {what}; the run waits for it"));
                }
            }
            Ok(Said::Back) => {
                if let Some(since) = since.take() {
                    let (called, place) = (server.called, server.address.shown());
                    let seconds = since.elapsed().as_secs_f64();
                    control.warn(format!(
                        "{called} {place} answers again after {seconds:.1} s; the run goes on"
                    ));
                }
            }
            Ok(Said::Answer(place, Ok(answer))) => {
                answers[place] = Some(answer);
                open -= 1;
            }
            Ok(Said::Answer(_, Err(trouble))) => break Err(failed(server.called, &server.address, trouble)),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    };
    stop.store(true, Ordering::Relaxed);
    outcome?;
    Ok(answers.into_iter().map(|answer| answer.expect("every request has its answer")).collect())
}

impl Recipient {
    fn patiently<T>(
        &self,
        request: &ServerRequest<T>,
        said: &Sender<Said<T>>,
        stop: &AtomicBool,
    ) -> Result<T, ReplyProblem> {
        let (mut faults, mut gone) = (0, 0);
        loop {
            match request.once(&self.address) {
                Ok(answer) => {
                    if gone > 0 {
                        let _ = said.send(Said::Back);
                    }
                    return Ok(answer);
                }
                Err(ReplyProblem::Faulty(_)) if faults < RETRIES => {
                    pause(faults, stop);
                    faults += 1;
                }
                Err(ReplyProblem::Gone(what)) => {
                    let _ = said.send(Said::Waiting(what));
                    pause(gone, stop);
                    gone += 1;
                    self.wait_until_back(&mut gone, said, stop)?;
                }
                Err(ReplyProblem::Stale(_)) if faults < RETRIES => {
                    faults += 1;
                    self.wait_until_back(&mut gone, said, stop)?;
                }
                Err(trouble) => return Err(trouble),
            }
            if stop.load(Ordering::Relaxed) {
                return Err(ReplyProblem::Gone("was not asked any more".to_owned()));
            }
        }
    }

    /// Whoever comes back may be another one.
    fn wait_until_back<T>(
        &self,
        gone: &mut u32,
        said: &Sender<Said<T>>,
        stop: &AtomicBool,
    ) -> Result<(), ReplyProblem> {
        while !stop.load(Ordering::Relaxed) {
            match (self.look)() {
                Ok(()) => return Ok(()),
                Err(ReplyProblem::Gone(what) | ReplyProblem::Faulty(what)) => {
                    let _ = said.send(Said::Waiting(what));
                    pause(*gone, stop);
                    *gone = gone.saturating_add(1);
                }
                Err(lasting) => return Err(lasting),
            }
        }
        Ok(())
    }
}

/// Before anything runs nobody waits for a server that was never there.
pub fn a_few_times<T>(
    called: &str,
    address: &Address,
    control: &Control,
    ask: impl Fn() -> Result<T, ReplyProblem>,
) -> Result<T> {
    let mut attempt = 0;
    loop {
        control.check()?;
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(ReplyProblem::Gone(_) | ReplyProblem::Faulty(_)) if attempt < RETRIES => {
                pause(attempt, &AtomicBool::new(false));
                attempt += 1;
            }
            Err(trouble) => return Err(failed(called, address, trouble)),
        }
    }
}

/// Longer each time, and not as long as others wait, so that not all come back at once.
fn pause(attempt: u32, stop: &AtomicBool) {
    let longest = PAUSE.saturating_mul(1 << attempt.min(10)).min(LONGEST_PAUSE);
    let jitter = RandomState::new().hash_one(attempt) % 1000;
    let pause = longest.mul_f64(0.5 + jitter as f64 / 2000.0);
    let until = Instant::now() + pause;
    while !stop.load(Ordering::Relaxed) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        thread::sleep(left.min(LOOK));
    }
}
