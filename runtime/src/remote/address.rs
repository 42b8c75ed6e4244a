//! A server's address, and single requests to it.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mopd_plan::Secret;
use mopd_plan::events::FailureKind;
use ureq::http::{StatusCode, Uri};
use ureq::{Agent, Error as HttpError};

use super::ask::ReplyProblem;
use crate::failure::{Error, Result};
use crate::http::{self, HttpFailure};

/// Largest response in bytes: whole distributions of a hundred tokens of a large vocabulary, as JSON.
const LONGEST: u64 = 1 << 30;

/// The longest time without a response that the log does not mention.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub struct Address {
    agent: Agent,
    /// Without a trailing slash.
    base: String,
    shown: String,
    /// `Bearer ...`
    authorization: Option<String>,
    limit: Duration,
    /// Whether the log says already that a response takes long.
    slow: Arc<AtomicBool>,
}

impl Address {
    /// `key` is the name of an environment variable.
    pub fn new(url: &Secret, key: Option<&str>, limit: Duration) -> Result<Address> {
        let failed = |message: String, help: &str| Error::new(FailureKind::Model, message).help(help);
        let variable = |name: &str, what: &str| {
            let read = std::env::var(name).ok().filter(|value| !value.trim().is_empty());
            read.ok_or_else(|| {
                let message = format!(
                    "the environment variable {name}, which a server's {what} is read from, is not set"
                );
                failed(message, "set it where the run is started")
            })
        };
        let (text, from) = match url {
            Secret::Text(text) => (text.clone(), "the `url` of a server".to_owned()),
            Secret::Environment(name) => {
                (variable(name, "address")?, format!("the environment variable {name}"))
            }
        };
        let uri: Option<Uri> = text.trim().trim_end_matches('/').parse().ok();
        let is_server = |uri: &Uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|host| !host.is_empty())
        };
        // The message does not repeat the text, which may contain a password.
        let uri = uri.filter(is_server).ok_or_else(|| {
            failed(format!("{from} is not the address of a server"), "it looks like http://localhost:8000")
        })?;
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') || uri.query().is_some() {
            return Err(failed(
                format!("{from} has more parts than the address of a server"),
                "an address must not contain a password: pass the server's key as `key: \
                env(\"TEACHER_KEY\")`",
            ));
        }
        let base = format!("{}://{authority}{}", uri.scheme_str().unwrap_or_default(), uri.path());
        let base = base.trim_end_matches('/').to_owned();
        let authorization = key.map(|name| variable(name, "key")).transpose()?;
        let authorization = authorization.map(|key| format!("Bearer {}", key.trim()));
        let config = Agent::config_builder()
            // A redirect would send completions to an address that they are not meant for.
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_global(Some(limit))
            .user_agent(concat!("mopd/", env!("CARGO_PKG_VERSION")));
        Ok(Address {
            agent: config.build().into(),
            shown: base.clone(),
            base,
            authorization,
            limit,
            slow: Arc::default(),
        })
    }

    pub fn shown(&self) -> String {
        self.shown.clone()
    }

    /// Time without a response after which the log says so.
    pub fn patience(&self) -> Duration {
        PATIENCE.min(self.limit / 2)
    }

    /// Whether this is the first slow response of the server: the log says it once.
    pub fn is_first_slow(&self) -> bool {
        !self.slow.swap(true, Ordering::Relaxed)
    }

    /// The message about a slow response.
    pub fn slow(&self, called: &str) -> String {
        format!(
            "{called} {} has not answered for {:.0} s; each request is waited for up to {:.0} s (this is said \
            once)",
            self.shown,
            self.patience().as_secs_f64(),
            self.limit.as_secs_f64()
        )
    }

    pub fn get(&self, path: &str) -> Result<Vec<u8>, ReplyProblem> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        self.read(request.call(), path)
    }

    pub fn post(&self, path: &str, body: &[u8]) -> Result<Vec<u8>, ReplyProblem> {
        let mut request =
            self.agent.post(format!("{}{path}", self.base)).header("Content-Type", "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        self.read(request.send(body), path)
    }

    fn read(
        &self,
        response: Result<ureq::http::Response<ureq::Body>, HttpError>,
        path: &str,
    ) -> Result<Vec<u8>, ReplyProblem> {
        let response = response.map_err(|error| self.lost(&error, false))?;
        let (status, what) = match http::body(response, LONGEST, &format!("answered {path}")) {
            Ok(body) => return Ok(body),
            Err(HttpFailure::Lost(error)) => return Err(self.lost(&error, true)),
            Err(HttpFailure::Status(status, what)) => (status, what),
        };
        Err(match status {
            // The server behind a proxy is down, or overloaded.
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => ReplyProblem::Gone(what),
            StatusCode::CONFLICT => ReplyProblem::Stale(what),
            _ if status.is_server_error() => ReplyProblem::Faulty(what),
            StatusCode::UNAUTHORIZED => ReplyProblem::lasting(
                what,
                "set `key: env(\"TEACHER_KEY\")` to the variable with the server's key, and check its \
                value",
            ),
            StatusCode::FORBIDDEN => ReplyProblem::lasting(
                what,
                "follow the server's message; if it requires a key, set `key: env(\"TEACHER_KEY\")` to \
                the variable with the key",
            ),
            StatusCode::NOT_FOUND => {
                ReplyProblem::lasting(what, "check the `engine`, and the `url`: it ends before `/v1`")
            }
            _ => ReplyProblem::lasting(what, "read the server's message about the request"),
        })
    }

    /// Why there is no response, or only a part of one if its body was being read.
    fn lost(&self, error: &HttpError, in_body: bool) -> ReplyProblem {
        let broken = |error: &std::io::Error| {
            let kinds = [
                ErrorKind::UnexpectedEof,
                ErrorKind::ConnectionReset,
                ErrorKind::ConnectionAborted,
                ErrorKind::BrokenPipe,
            ];
            kinds.contains(&error.kind())
        };
        match error {
            HttpError::Timeout(_) => {
                let whole = if in_body { "complete " } else { "" };
                let limit = self.limit.as_secs_f64();
                ReplyProblem::Cut(format!("returned no {whole}response within {limit} s"))
            }
            HttpError::BodyExceedsLimit(limit) => ReplyProblem::lasting(
                format!("answered with more than {} MiB", limit >> 20),
                "lower `micro_batch`, or request less: `answers: top_k(20)`",
            ),
            HttpError::Protocol(error) => ReplyProblem::Faulty(format!("does not speak HTTP: {error}")),
            HttpError::BadUri(_) | HttpError::Http(_) => {
                ReplyProblem::lasting("cannot be reached", "check its `url`")
            }
            other if in_body => ReplyProblem::Cut(format!("broke off its answer: {other}")),
            HttpError::Io(error) if broken(error) => {
                ReplyProblem::Cut(format!("closed the connection without an answer: {error}"))
            }
            other => ReplyProblem::Gone(format!("could not be reached: {other}")),
        }
    }
}
