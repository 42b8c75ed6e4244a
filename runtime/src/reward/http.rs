//! Rewards from a server of the author, which gets completions as JSON lists and returns lists of numbers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use mopd_plan::{RewardRange, Secret};
use serde_json::Value;
use ureq::http::{StatusCode, Uri};
use ureq::{Agent, Error};

use super::{Judge, Judgement, RewardError, RewardInput, verdict};
use crate::control::Control;
use crate::failure::{self, caught};
use crate::http::{self, HttpFailure};
use crate::quote::quote;

/// Most requests of one call in flight.
const IN_FLIGHT: usize = 4;
/// Retries after a failed or broken connection, or if the server is busy.
const RETRIES: u32 = 4;
/// Pause before the first retry; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(300);
/// Interval of checks whether the job is to stop.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Largest response, in bytes.
const LONGEST: u64 = 64 << 20;

pub(super) struct Http {
    server: Arc<Server>,
    batch: usize,
}

struct Server {
    agent: Agent,
    uri: Uri,
    limit: Duration,
    range: RewardRange,
    warnings: Mutex<Vec<String>>,
}

/// Why a request has no usable response.
enum RewardRequestError {
    /// A transient problem.
    Passing {
        what: String,
        help: &'static str,
    },
    Lasting {
        what: String,
        help: String,
    },
}

impl Http {
    /// Sends no request yet. The time limit applies to one batch.
    pub fn new(
        url: &Secret,
        limit_seconds: f64,
        batch: u32,
        range: RewardRange,
    ) -> Result<Http, RewardError> {
        let (text, from) = match url {
            Secret::Text(text) => (text.clone(), "the reward's URL".to_owned()),
            Secret::Environment(name) => {
                let unset = |_| RewardError::Described {
                    message: format!(
                        "the environment variable {name}, which a reward takes its URL from, is not set"
                    ),
                    help: format!("set it: {name}=http://localhost:8000/judge mopd run ..."),
                };
                (std::env::var(name).map_err(unset)?, format!("the environment variable {name}"))
            }
        };
        let served = |uri: &Uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|host| !host.is_empty())
        };
        // The message does not repeat the text, which may contain a password.
        let uri = text.trim().parse().ok().filter(served).ok_or_else(|| RewardError::Described {
            message: format!("{from} is not the address of a server"),
            help: "it looks like http://localhost:8000/judge".to_owned(),
        })?;
        let setting = |setting: String| RewardError::Described {
            message: format!("the reward server {} cannot be asked with {setting}", shown(&uri)),
            help: "`time_limit` must be more than 0 seconds and `batch` at least 1".to_owned(),
        };
        let limit = Duration::try_from_secs_f64(limit_seconds).ok().filter(|limit| !limit.is_zero());
        let limit = limit.ok_or_else(|| setting(format!("a time limit of {limit_seconds} s")))?;
        if batch == 0 {
            return Err(setting("batches of 0".to_owned()));
        }
        let config = Agent::config_builder()
            // A redirect would send completions to an address that they are not meant for.
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_global(Some(limit))
            .user_agent(concat!("mopd/", env!("CARGO_PKG_VERSION")));
        let server = Server { agent: config.build().into(), uri, limit, range, warnings: Mutex::default() };
        Ok(Http { server: Arc::new(server), batch: batch as usize })
    }
}

impl Judge for Http {
    fn judge(&self, answers: &[RewardInput], control: &Control) -> Result<Vec<Judgement>, RewardError> {
        let batches: Vec<&[RewardInput]> = answers.chunks(self.batch).collect();
        let mut verdicts: Vec<Vec<Judgement>> = vec![Vec::new(); batches.len()];
        let (answered, replies) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let (mut asked, mut open) = (0, 0);
        let outcome = loop {
            while open < IN_FLIGHT && asked < batches.len() {
                let body = serde_json::to_vec(batches[asked]).expect("text and JSON values are JSON");
                let (server, answered, stop) = (self.server.clone(), answered.clone(), stop.clone());
                let (place, count) = (asked, batches[asked].len());
                // In a thread, so that this one can check whether the job is to stop. The thread is not
                // joined then: it ends by itself within its time limit.
                thread::spawn(move || {
                    // A panic must be heard of as well, or the run would wait for the answer for ever.
                    let said = caught(|| server.ask(&body, count, &stop));
                    answered.send((place, said.unwrap_or_else(|error| Err(server.unreadable(&error)))))
                });
                (asked, open) = (asked + 1, open + 1);
            }
            if open == 0 {
                break Ok(());
            }
            if control.check().is_err() {
                break Err(RewardError::Stopped);
            }
            match replies.recv_timeout(POLL_INTERVAL) {
                Ok((place, Ok(said))) => {
                    verdicts[place] = said;
                    open -= 1;
                }
                Ok((_, Err(error))) => break Err(error),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        };
        stop.store(true, Ordering::Relaxed);
        outcome?;
        Ok(verdicts.into_iter().flatten().collect())
    }

    fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.server.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Server {
    /// Judges a batch: one judgement per completion. Transient problems are retried.
    fn ask(&self, body: &[u8], count: usize, stop: &AtomicBool) -> Result<Vec<Judgement>, RewardError> {
        let mut attempt = 0;
        loop {
            let (what, help) = match self.post(body).and_then(|said| verdicts(&said, count, self.range)) {
                Ok(verdicts) => return Ok(verdicts),
                Err(RewardRequestError::Lasting { what, help }) => (what, help),
                Err(RewardRequestError::Passing { what, .. })
                    if attempt < RETRIES && !stop.load(Ordering::Relaxed) =>
                {
                    let warning =
                        format!("the reward server {} {what}; the request was sent again", shown(&self.uri));
                    self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(warning);
                    thread::sleep(PAUSE * 2_u32.pow(attempt));
                    attempt += 1;
                    continue;
                }
                Err(RewardRequestError::Passing { what, help }) => {
                    (format!("{what}; {attempt} retries did not help"), help.to_owned())
                }
            };
            return Err(RewardError::Described {
                message: format!("the reward server {} {what}", shown(&self.uri)),
                help,
            });
        }
    }

    fn unreadable(&self, error: &failure::Error) -> RewardError {
        RewardError::Described {
            message: format!(
                "the reward server {} returned a response that mopd can't read: {error}",
                shown(&self.uri)
            ),
            help: ANSWER.to_owned(),
        }
    }

    fn post(&self, body: &[u8]) -> Result<Vec<u8>, RewardRequestError> {
        let request = self.agent.post(&self.uri).header("Content-Type", "application/json");
        let response = request.send(body).map_err(|error| self.lost(&error))?;
        let (status, what) = match http::body(response, LONGEST, "answered") {
            Ok(body) => return Ok(body),
            Err(HttpFailure::Lost(error)) => return Err(self.lost(&error)),
            Err(HttpFailure::Status(status, what)) => (status, what),
        };
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(RewardRequestError::Passing {
                what,
                help: "read the server's message about the request",
            });
        }
        let help = if status.is_redirection() {
            "redirects are not followed: write the address that it redirects to"
        } else {
            "check the path of the URL, and read the server's message about the request"
        };
        Err(RewardRequestError::Lasting { what, help: help.to_owned() })
    }

    fn lost(&self, error: &Error) -> RewardRequestError {
        match error {
            Error::Timeout(_) => RewardRequestError::Lasting {
                what: format!("returned no response within its time limit of {} s", self.limit.as_secs_f64()),
                help: "raise `time_limit`, or lower `batch`".to_owned(),
            },
            // The error's own text repeats the address, which may contain a password.
            Error::BadUri(_) | Error::Http(_) => RewardRequestError::Lasting {
                what: "has an address that is not valid".to_owned(),
                help: "it looks like http://localhost:8000/judge".to_owned(),
            },
            Error::BodyExceedsLimit(limit) => RewardRequestError::Lasting {
                what: format!("answered with more than {} MiB", limit >> 20),
                help: ANSWER.to_owned(),
            },
            Error::Protocol(error) => RewardRequestError::Lasting {
                what: format!("does not speak HTTP: {error}"),
                help: "check the port of the URL, and whether it is http or https".to_owned(),
            },
            other => RewardRequestError::Passing {
                what: format!("could not be reached: {other}"),
                help: "start the server before the run, and check the host and port of the URL",
            },
        }
    }
}

const ANSWER: &str = "to a list [{\"prompt\": ..., \"completion\": ..., \"record\": {...}}, ...] it must answer \
                      with a list of as many numbers from 0 to 1, in the same order, [0.5, 1], or of objects \
                      {\"reward\": 0.5, \"feedback\": \"...\"}; any number where the experiment says `range: \
                      any`";

/// Parses the judgements of `count` completions from a response.
fn verdicts(said: &[u8], count: usize, range: RewardRange) -> Result<Vec<Judgement>, RewardRequestError> {
    let wrong = |why: String| RewardRequestError::Lasting {
        what: format!(
            "returned an invalid response: {why}; the response was {}",
            quote(String::from_utf8_lossy(said).trim())
        ),
        help: ANSWER.to_owned(),
    };
    let list: Value = serde_json::from_slice(said).map_err(|_| wrong("not JSON".to_owned()))?;
    let Value::Array(list) = list else { return Err(wrong("not a list".to_owned())) };
    if list.len() != count {
        return Err(wrong(format!("{} rewards for {count} completions", list.len())));
    }
    let of = |(place, reply): (usize, &Value)| {
        let said = match reply {
            Value::Object(_) => verdict(reply, range),
            number => verdict(&serde_json::json!({ "reward": number }), range),
        };
        said.map_err(|why| wrong(format!("{why} at place {place}")))
    };
    list.iter().enumerate().map(of).collect()
}

/// The address for messages, without its secret parts.
fn shown(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or_default();
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{}", uri.path())
}
