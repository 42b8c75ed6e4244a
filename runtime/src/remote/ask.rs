//! Requests with retries. An unreachable or busy server is waited for, for a day at most, and the log says
//! so; a request whose response is invalid, breaks off or does not come is repeated a few times; a permanent
//! failure ends the run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mopd_plan::events::FailureKind;
use mopd_store::random_bytes;

use super::address::Address;
use super::hedge::HedgeLog;
use crate::control::Control;
use crate::failure::{Error, Result, caught};

/// Retries after invalid responses.
const RETRIES: u32 = 5;
/// Retries after responses that broke off or did not come in time.
const CUTS: u32 = 10;
/// The longest time that a request waits for a server that is away.
const WAIT_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// Pause before the first retry; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 200 });
/// Longest pause between two attempts to reach a server.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Interval of checks whether the job is to stop.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Why a request has no usable response.
#[derive(Clone, Debug, PartialEq)]
pub enum ReplyProblem {
    /// The server is unreachable or overloaded: the run waits for it.
    Gone(String),
    /// The response broke off, or did not come in time: the server is waited for, and the request is
    /// repeated a few times.
    Cut(String),
    /// The response is invalid: the request is repeated a few times.
    Faulty(String),
    /// The server has other weights than requested: a run that pushes weights pushes them again.
    Stale(String),
    /// A failure that a retry would not change.
    Lasting { what: String, help: String },
}

impl ReplyProblem {
    pub fn lasting(what: impl Into<String>, help: impl Into<String>) -> ReplyProblem {
        ReplyProblem::Lasting { what: what.into(), help: help.into() }
    }

    fn message_and_help(self) -> (String, String) {
        match self {
            ReplyProblem::Gone(what) => {
                (what, "start the server before the run, and check its `url`".to_owned())
            }
            ReplyProblem::Cut(what) => (
                what,
                "read the server's log, and look for a proxy or a limit that ends long answers".to_owned(),
            ),
            ReplyProblem::Faulty(what) => {
                (what, "read the server's log: nothing was trained on that answer".to_owned())
            }
            ReplyProblem::Stale(what) => {
                (what, "no other run may send weights to this server: use one server for each run".to_owned())
            }
            ReplyProblem::Lasting { what, help } => (what, help),
        }
    }
}

/// Parses and checks a response's body.
type ParseReply<T> = Box<dyn Fn(&[u8]) -> Result<T, ReplyProblem> + Send + Sync>;

/// A request, and the parser of its response.
pub struct ServerRequest<T> {
    /// `None` for a GET request.
    pub body: Option<Vec<u8>>,
    pub path: &'static str,
    pub read: ParseReply<T>,
}

impl<T> ServerRequest<T> {
    /// Sends the request once, without retries.
    pub fn once(&self, address: &Address) -> Result<T, ReplyProblem> {
        let said = match &self.body {
            Some(body) => address.post(self.path, body)?,
            None => address.get(self.path)?,
        };
        (self.read)(&said)
    }
}

/// A server as the recipient of requests.
pub struct Recipient {
    pub address: Address,
    /// Its name in messages: `the teacher's server`.
    pub called: &'static str,
    /// Most requests of a batch in flight.
    pub at_once: usize,
    /// Checks a server that was unreachable or had other weights; `Ok` if requests can go on.
    pub look: ServerCheck,
    /// Present where slow requests are sent a second time.
    pub hedges: Option<Arc<Mutex<HedgeLog>>>,
}

pub type ServerCheck = Box<dyn Fn() -> Result<(), ReplyProblem> + Send + Sync>;

enum ServerEvent<T> {
    /// A request waits for the server.
    Waiting(String),
    Back,
    Answer(usize, Result<T, ReplyProblem>),
    /// A valid response to a hedged request's second copy.
    SecondAnswer(usize, T),
}

/// A request in flight.
struct OpenRequest<T> {
    request: Arc<ServerRequest<T>>,
    began: Instant,
    hedged: bool,
    /// Set when the response to its first copy is not needed any more.
    stop: Arc<AtomicBool>,
}

pub(super) fn failed(called: &str, address: &Address, trouble: ReplyProblem) -> Error {
    let (what, help) = trouble.message_and_help();
    Error::new(FailureKind::Model, format!("{called} {} {what}", address.shown())).help(help)
}

/// Conditions that end waiting: the job stops, or another teacher of the step has failed.
#[derive(Clone, Copy)]
pub struct CancelToken<'a> {
    pub control: &'a Control,
    pub given_up: &'a AtomicBool,
}

impl<'a> CancelToken<'a> {
    /// For a request without other teachers.
    pub fn new(control: &'a Control) -> CancelToken<'a> {
        static NEVER: AtomicBool = AtomicBool::new(false);
        CancelToken { control, given_up: &NEVER }
    }

    fn check(self) -> Result<()> {
        self.control.check()?;
        if self.given_up.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// Sends all requests, and returns the parsed responses in their order.
pub fn all<T: Send + 'static>(
    server: &Arc<Recipient>,
    requests: Vec<ServerRequest<T>>,
    cancel: CancelToken,
) -> Result<Vec<T>> {
    let mut in_flight = RequestsInFlight::new(server, requests.len(), cancel.control);
    let mut requests = requests.into_iter().enumerate();
    let outcome = loop {
        while in_flight.waiting() < server.at_once
            && let Some((place, request)) = requests.next()
        {
            in_flight.ask(place, request);
        }
        if in_flight.waiting() == 0 {
            break Ok(());
        }
        if let Err(stopped) = cancel.check() {
            break Err(stopped);
        }
        match in_flight.replies.recv_timeout(POLL_INTERVAL) {
            Ok(said) => {
                if let Err(trouble) = in_flight.handle_event(said) {
                    break Err(failed(server.called, &server.address, trouble));
                }
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        in_flight.hedge();
        in_flight.report_slow();
    };
    in_flight.open.values().for_each(|open| open.stop.store(true, Ordering::Relaxed));
    outcome?;
    Ok(in_flight.answers.into_iter().map(|answer| answer.expect("every request has its answer")).collect())
}

/// A batch of requests in progress.
struct RequestsInFlight<'a, T> {
    server: &'a Arc<Recipient>,
    control: &'a Control,
    answers: Vec<Option<T>>,
    /// By index of the request.
    open: BTreeMap<usize, OpenRequest<T>>,
    sender: Sender<ServerEvent<T>>,
    replies: Receiver<ServerEvent<T>>,
    /// Since when the server is unreachable.
    since: Option<Instant>,
    /// Whether the server was always reachable, so that latencies are meaningful.
    calm: bool,
    /// Latency after which a request is sent a second time.
    hedge_after: Option<Duration>,
}

impl<'a, T: Send + 'static> RequestsInFlight<'a, T> {
    fn new(server: &'a Arc<Recipient>, requests: usize, control: &'a Control) -> RequestsInFlight<'a, T> {
        let (sender, replies) = mpsc::channel();
        let hedge_after = server.hedged(|log| {
            log.ask(requests);
            log.hedge_delay()
        });
        RequestsInFlight {
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
        // This thread is not joined: when the job stops, it ends by itself.
        thread::spawn(move || {
            // A panic must be heard of as well, or the run would wait for the answer for ever.
            let answer = caught(|| server.send_with_retries(&request, &sender, &stop));
            let answer = answer.unwrap_or_else(|error| {
                Err(ReplyProblem::lasting(format!("returned a response that mopd can't read: {error}"), ""))
            });
            sender.send(ServerEvent::Answer(place, answer))
        });
    }

    fn handle_event(&mut self, said: ServerEvent<T>) -> Result<(), ReplyProblem> {
        match said {
            // One message, however many requests wait.
            ServerEvent::Waiting(what) if self.since.is_none() => {
                self.calm = false;
                self.since = Some(Instant::now());
                let (called, place) = (self.server.called, self.server.address.shown());
                self.control.warn(format!("{called} {place} {what}; the run waits for it"));
            }
            ServerEvent::Waiting(_) => {}
            ServerEvent::Back => self.back(),
            ServerEvent::Answer(place, answer) => {
                // The response to the second copy may have come first: the slower one is ignored.
                if let Some(open) = self.open.get(&place) {
                    let latency = open.began.elapsed();
                    self.answers[place] = Some(answer?);
                    self.open.remove(&place);
                    self.log_latency(latency);
                }
            }
            ServerEvent::SecondAnswer(place, answer) => {
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

    /// Says once for a server that a response does not come.
    fn report_slow(&self) {
        let waits = |open: &&OpenRequest<T>| open.began.elapsed() > self.server.address.patience();
        let waiting = self.open.values().filter(waits).count();
        if waiting > 0 && self.since.is_none() && self.server.address.is_first_slow() {
            self.control.warn(self.server.address.slow(self.server.called));
        }
    }

    /// Sends a second copy of requests that take longer than 95% of the earlier ones. The second copy is not
    /// retried; the first one is.
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
                // An invalid response is dropped: the first copy reports problems.
                request
                    .once(&server.address)
                    .map(|answer| sender.send(ServerEvent::SecondAnswer(place, answer)))
            });
        }
    }
}

impl Recipient {
    /// Applies a function to the log of hedges, where there is one.
    fn hedged<R>(&self, of: impl FnOnce(&mut HedgeLog) -> R) -> Option<R> {
        let log = self.hedges.as_ref()?;
        Some(of(&mut log.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    fn send_with_retries<T>(
        &self,
        request: &ServerRequest<T>,
        said: &Sender<ServerEvent<T>>,
        stop: &AtomicBool,
    ) -> Result<T, ReplyProblem> {
        let (mut faults, mut cuts, mut gone) = (0, 0, 0);
        let mut away: Option<Instant> = None;
        loop {
            if away.is_some_and(|since| since.elapsed() > WAIT_LIMIT) {
                return Err(waited_long_enough());
            }
            match request.once(&self.address) {
                Ok(answer) => {
                    if gone > 0 {
                        let _ = said.send(ServerEvent::Back);
                    }
                    return Ok(answer);
                }
                Err(ReplyProblem::Faulty(_)) if faults < RETRIES => {
                    pause(faults, stop);
                    faults += 1;
                }
                Err(ReplyProblem::Gone(what)) => {
                    let _ = said.send(ServerEvent::Waiting(what));
                    pause(gone, stop);
                    gone += 1;
                    away = away.or(Some(Instant::now()));
                    self.wait_until_back(&mut gone, said, stop)?;
                }
                Err(ReplyProblem::Cut(what)) if cuts < CUTS => {
                    let _ = said.send(ServerEvent::Waiting(what));
                    pause(cuts, stop);
                    (cuts, gone) = (cuts + 1, gone + 1);
                    self.wait_until_back(&mut gone, said, stop)?;
                }
                Err(ReplyProblem::Stale(_)) if faults < RETRIES => {
                    faults += 1;
                    self.wait_until_back(&mut gone, said, stop)?;
                }
                Err(trouble) => return Err(trouble),
            }
            if stop.load(Ordering::Relaxed) {
                return Err(ReplyProblem::Gone("was not sent: the run is stopping".to_owned()));
            }
        }
    }

    /// Waits until [`Recipient::look`] succeeds: the server is back and has the right weights.
    fn wait_until_back<T>(
        &self,
        gone: &mut u32,
        said: &Sender<ServerEvent<T>>,
        stop: &AtomicBool,
    ) -> Result<(), ReplyProblem> {
        let since = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            match (self.look)() {
                Ok(()) => return Ok(()),
                Err(ReplyProblem::Gone(_) | ReplyProblem::Cut(_) | ReplyProblem::Faulty(_))
                    if since.elapsed() > WAIT_LIMIT =>
                {
                    return Err(waited_long_enough());
                }
                Err(ReplyProblem::Gone(what) | ReplyProblem::Cut(what) | ReplyProblem::Faulty(what)) => {
                    let _ = said.send(ServerEvent::Waiting(what));
                    pause(*gone, stop);
                    *gone = gone.saturating_add(1);
                }
                Err(lasting) => return Err(lasting),
            }
        }
        Ok(())
    }
}

fn waited_long_enough() -> ReplyProblem {
    ReplyProblem::lasting(
        format!("was waited for {} hours, and can't be used yet", WAIT_LIMIT.as_secs() / 3600),
        "start it, and run again: the run continues from its checkpoint",
    )
}

/// Says, while `ask` runs, that it takes long.
fn announced<T>(called: &str, address: &Address, control: &Control, ask: impl FnOnce() -> T) -> T {
    let (running, ended) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if ended.recv_timeout(address.patience()) == Err(RecvTimeoutError::Timeout)
                && address.is_first_slow()
            {
                control.warn(address.slow(called));
            }
        });
        let answer = ask();
        drop(running);
        answer
    })
}

/// A request before the run starts: retried a few times, even if the server is unreachable.
pub fn a_few_times<T>(
    called: &str,
    address: &Address,
    control: &Control,
    ask: impl Fn() -> Result<T, ReplyProblem>,
) -> Result<T> {
    let mut attempt = 0;
    loop {
        control.check()?;
        match announced(called, address, control, &ask) {
            Ok(answer) => return Ok(answer),
            Err(ReplyProblem::Gone(_) | ReplyProblem::Cut(_) | ReplyProblem::Faulty(_))
                if attempt < RETRIES =>
            {
                pause(attempt, &AtomicBool::new(false));
                attempt += 1;
            }
            Err(trouble) => return Err(failed(called, address, trouble)),
        }
    }
}

/// Sleeps with exponential backoff and jitter, so that not all requests come back at once.
fn pause(attempt: u32, stop: &AtomicBool) {
    let longest = PAUSE.saturating_mul(1 << attempt.min(10)).min(LONGEST_PAUSE);
    let jitter = u16::from_le_bytes(random_bytes()) % 1000;
    let pause = longest.mul_f64(0.5 + f64::from(jitter) / 2000.0);
    let until = Instant::now() + pause;
    while !stop.load(Ordering::Relaxed) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        thread::sleep(left.min(POLL_INTERVAL));
    }
}

#[cfg(test)]
mod tests;
