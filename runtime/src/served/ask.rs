//! Asking with patience. A server that is gone, or that is busy, is waited for as long as it takes, and the
//! log says so; an answer that can't be used is asked for again a few times; what will not change ends the
//! run.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mopd_compiler::plan::events::FailureKind;

use super::address::Address;
use super::hedge::HedgeLog;
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
type ParseReply<T> = Box<dyn Fn(&[u8]) -> Result<T, ReplyProblem> + Send + Sync>;

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
    /// Of one whose slowest answers are asked for a second time.
    pub hedges: Option<Arc<Mutex<HedgeLog>>>,
}

pub type LookAgain = Box<dyn Fn() -> Result<(), ReplyProblem> + Send + Sync>;

enum Said<T> {
    /// Of a request: it is waited for.
    Waiting(String),
    Back,
    Answer(usize, Result<T, ReplyProblem>),
    /// A good one to a request that was sent a second time.
    SecondAnswer(usize, T),
}

/// A request that waits for its answer.
struct OpenRequest<T> {
    request: Arc<ServerRequest<T>>,
    began: Instant,
    hedged: bool,
    /// Nobody waits for the first answer any more.
    stop: Arc<AtomicBool>,
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
    let mut asking = Asking::new(server, requests.len(), patience.control);
    let mut requests = requests.into_iter().enumerate();
    let outcome = loop {
        while asking.waiting() < server.at_once
            && let Some((place, request)) = requests.next()
        {
            asking.ask(place, request);
        }
        if asking.waiting() == 0 {
            break Ok(());
        }
        if let Err(stopped) = patience.check() {
            break Err(stopped);
        }
        match asking.replies.recv_timeout(LOOK) {
            Ok(said) => {
                if let Err(trouble) = asking.hear(said) {
                    break Err(failed(server.called, &server.address, trouble));
                }
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        asking.hedge();
    };
    asking.open.values().for_each(|open| open.stop.store(true, Ordering::Relaxed));
    outcome?;
    Ok(asking.answers.into_iter().map(|answer| answer.expect("every request has its answer")).collect())
}

/// Requests of a batch under way.
struct Asking<'a, T> {
    server: &'a Arc<Recipient>,
    control: &'a Control,
    answers: Vec<Option<T>>,
    /// By place.
    open: BTreeMap<usize, OpenRequest<T>>,
    sender: Sender<Said<T>>,
    replies: Receiver<Said<T>>,
    /// Since when nobody is there.
    since: Option<Instant>,
    /// Somebody was there all the time: how long answers took says something.
    calm: bool,
    /// After so long a request is sent a second time.
    hedge_after: Option<Duration>,
}

impl<'a, T: Send + 'static> Asking<'a, T> {
    fn new(server: &'a Arc<Recipient>, requests: usize, control: &'a Control) -> Asking<'a, T> {
        let (sender, replies) = mpsc::channel();
        let hedge_after = server.hedged(|log| {
            log.ask(requests);
            log.patience()
        });
        Asking {
            server,
            control,
            answers: (0..requests).map(|_| None).collect(),
            open: BTreeMap::new(),
            sender,
            replies,
            since: None,
            calm: true,
            hedge_after: hedge_after.flatten(),
        }
    }

    fn waiting(&self) -> usize {
        self.open.len()
    }

    fn ask(&mut self, place: usize, request: ServerRequest<T>) {
        let (request, stop) = (Arc::new(request), Arc::new(AtomicBool::new(false)));
        let open = OpenRequest {
            request: request.clone(),
            began: Instant::now(),
            hedged: false,
            stop: stop.clone(),
        };
        self.open.insert(place, open);
        let (server, sender) = (self.server.clone(), self.sender.clone());
        // Where the job is to stop, nobody waits for what is under way: it ends by itself.
        thread::spawn(move || {
            let answer = server.patiently(&request, &sender, &stop);
            sender.send(Said::Answer(place, answer))
        });
    }

    fn hear(&mut self, said: Said<T>) -> Result<(), ReplyProblem> {
        match said {
            // One line, however many requests wait.
            Said::Waiting(what) if self.since.is_none() => {
                self.calm = false;
                self.since = Some(Instant::now());
                let (called, place) = (self.server.called, self.server.address.shown());
                self.control.warn(format!("{called} {place} {what}; the run waits for it"));
            }
            Said::Waiting(_) => {}
            Said::Back => self.back(),
            Said::Answer(place, answer) => {
                // The second answer may have been first: whoever was slower is not looked at.
                if let Some(open) = self.open.get(&place) {
                    let latency = open.began.elapsed();
                    self.answers[place] = Some(answer?);
                    self.open.remove(&place);
                    self.log_latency(latency);
                }
            }
            Said::SecondAnswer(place, answer) => {
                if let Some(open) = self.open.remove(&place) {
                    open.stop.store(true, Ordering::Relaxed);
                    self.answers[place] = Some(answer);
                    self.back();
                    self.log_latency(open.began.elapsed());
                    self.server.hedged(HedgeLog::second_was_first);
                }
            }
        }
        Ok(())
    }

    fn log_latency(&self, latency: Duration) {
        if self.calm {
            self.server.hedged(|log| log.answered(latency));
        }
    }

    fn back(&mut self) {
        if let Some(since) = self.since.take() {
            let (called, place) = (self.server.called, self.server.address.shown());
            let seconds = since.elapsed().as_secs_f64();
            self.control
                .warn(format!("{called} {place} answers again after {seconds:.1} s; the run goes on"));
        }
    }

    /// Sends a second time what takes longer than nearly all before. That is asked once: the first goes on
    /// with patience.
    fn hedge(&mut self) {
        let Some(after) = self.hedge_after.filter(|_| self.since.is_none()) else { return };
        for (place, open) in &mut self.open {
            let late = !open.hedged && open.began.elapsed() > after;
            if !late || self.server.hedged(HedgeLog::hedge) != Some(true) {
                continue;
            }
            open.hedged = true;
            let (place, request) = (*place, open.request.clone());
            let (server, sender) = (self.server.clone(), self.sender.clone());
            thread::spawn(move || {
                // A bad answer is none: the first one says what is wrong.
                request.once(&server.address).map(|answer| sender.send(Said::SecondAnswer(place, answer)))
            });
        }
    }
}

impl Recipient {
    /// What the log of hedges says to this, where there is one.
    fn hedged<R>(&self, of: impl FnOnce(&mut HedgeLog) -> R) -> Option<R> {
        let log = self.hedges.as_ref()?;
        Some(of(&mut log.lock().unwrap_or_else(PoisonError::into_inner)))
    }

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
