//! `mopd serve`: a model behind HTTP, for runs on other machines and for clients of the vLLM and SGLang APIs.
//! Some threads read and check requests; one holds the model. Completions of several requests are written
//! together, a token at a time; between two tokens, at most one other request is answered. No number of a
//! reply depends on concurrent requests.
//!
//! And `mopd rewards`: the verifiers of an exported folder behind HTTP, in [`rewards`](mod@rewards).

mod access;
mod answer_size;
mod connections;
mod engine;
mod http;
mod metrics;
mod rewards;
mod settings;
mod sglang;
mod transport;
mod update;
mod vllm;
mod write;

pub use self::rewards::rewards;

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use mopd_plan::events::{Event, FailureKind, ServeJob};

use self::access::{RequestAccess, hosts};
use self::answer_size::AnswerMemory;
use self::engine::{EngineRequest, Limits, ServingEngine};
use self::http::Shared;
use self::metrics::Metrics;
use self::transport::{HttpServer, ReplySender};
use self::update::{Updates, WeightsUpdate};
use self::write::RequestBatcher;
use crate::control::Control;
use crate::failure::{Error, Result};
use crate::machine::device::kind;
use crate::machine::place::Place;
use crate::prepare::load::{LoadedModel, load};
use crate::tokenizer::Tokenizer;

/// Most requests in the queue, and most that are written together; others are told to retry.
const MAX_REQUESTS: usize = 256;
/// How often to check whether the job is to stop.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The server's description of its current model.
#[derive(Clone, Debug)]
pub struct ServedModelInfo {
    /// A hash of its weights, its configuration and its tokenizer.
    pub content: String,
    /// The version name that the last update gave the weights; the hash if there was none.
    pub version: String,
    /// The files that it was read from, as a name.
    pub files: String,
}

fn wrong(message: String, help: &str) -> Error {
    Error::new(FailureKind::Runtime, message).help(help)
}

/// Answers requests until the job is asked to stop.
pub fn serve(job: &ServeJob, place: Place, control: &Control) -> Result<()> {
    let key = job.key.as_deref().map(read_key).transpose()?;
    let listener = listen(&job.address, key.is_some())?;
    let updates = job.updates.as_ref().map(|folder| Updates::within(Path::new(folder))).transpose()?;
    let LoadedModel { weights, content, .. } = load(&job.model, Path::new(&job.base), None)?;
    let context = weights.config.context;
    let limits = Limits { tokens: job.tokens as usize, entries: job.entries, context };
    let tokenizer: Arc<Tokenizer> = weights.tokenizer.clone();
    let about = ServedModelInfo { version: content.clone(), content, files: job.model.name().to_owned() };
    let (queue, waiting) = sync_channel::<EngineRequest>(MAX_REQUESTS);
    let shared = Arc::new(Shared {
        name: job.name.clone(),
        access: RequestAccess {
            hosts: key.is_none().then(|| hosts(&job.address)),
            key: key.map(|key| blake3::hash(key.as_bytes())),
        },
        queue,
        metrics: Metrics::new(),
        about: RwLock::new(about),
        tokenizer,
        softcap: weights.config.logit_softcap,
        dtype: job.dtype,
        updates,
        limits,
        answers: AnswerMemory::new(),
    });
    let engine = ServingEngine::new(weights, place, kind(job.dtype), limits);
    let server = HttpServer::start(listener, http::router(shared.clone()))?;
    control.emit(&Event::Serving {
        url: format!("http://{}", server.address),
        model: job.name.clone(),
        weights: shared.about().content,
        context: context as u32,
    });
    let ended = answer_all(engine, &shared, &waiting, control);
    // Requests that wait are told.
    drop(waiting);
    server.end();
    ended
}

/// Answers queued requests, with one model after the other, until the job is asked to stop.
fn answer_all(
    mut engine: ServingEngine,
    shared: &Shared,
    waiting: &Receiver<EngineRequest>,
    control: &Control,
) -> Result<()> {
    while let Some((update, reply)) = answer_until_update(&engine, shared, waiting, control)? {
        engine = engine.updated(&update, reply, shared);
    }
    Ok(())
}

/// Answers queued requests with the current weights. Returns an update of the weights once all requests
/// before it are answered, or `None` when the queue is closed.
fn answer_until_update(
    engine: &ServingEngine,
    shared: &Shared,
    waiting: &Receiver<EngineRequest>,
    control: &Control,
) -> Result<Option<(WeightsUpdate, ReplySender<()>)>> {
    let (mut batcher, mut update) = (RequestBatcher::new(engine, shared), None);
    loop {
        control.check()?;
        while update.is_none() && batcher.requests() < MAX_REQUESTS {
            let next = if batcher.is_idle() {
                waiting.recv_timeout(POLL_INTERVAL)
            } else {
                waiting.try_recv().map_err(|error| match error {
                    TryRecvError::Empty => RecvTimeoutError::Timeout,
                    TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                })
            };
            let asked = match next {
                Ok(asked) => asked,
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            };
            shared.metrics.waiting.dec();
            if asked.is_abandoned() {
                continue;
            }
            match asked {
                EngineRequest::Read(asked) => {
                    engine.read(asked, shared);
                    // One forward pass per token: a client that keeps the queue full of these does not stop
                    // the completions of others.
                    break;
                }
                EngineRequest::Write(asked) => batcher.add(asked, control),
                EngineRequest::Update(asked, reply) => update = Some((asked, reply)),
            }
        }
        batcher.advance();
        shared.metrics.running.set(batcher.requests() as i64);
        if batcher.is_idle() && update.is_some() {
            return Ok(update);
        }
    }
}

fn read_key(name: &str) -> Result<String> {
    let read = std::env::var(name).ok().map(|key| key.trim().to_owned()).filter(|key| !key.is_empty());
    read.ok_or_else(|| {
        let message =
            format!("the environment variable {name}, which the key of requests is read from, is not set");
        wrong(message, "set it where `mopd serve` is started")
    })
}

fn listen(address: &str, has_key: bool) -> Result<TcpListener> {
    let places: Vec<SocketAddr> = address.to_socket_addrs().map(Iterator::collect).unwrap_or_default();
    let Some(place) = places.first() else {
        return Err(wrong(
            format!("cannot listen at {address}: not an address"),
            "such as 127.0.0.1 and port 8000",
        ));
    };
    if !has_key && !places.iter().all(|place| place.ip().is_loopback()) {
        let message = format!("{address} can be reached from other machines, and requests would need no key");
        return Err(wrong(message, "set a variable such as MOPD_KEY to a secret, and add `--key MOPD_KEY`"));
    }
    let failed = |error: std::io::Error| {
        wrong(format!("cannot listen at {place}: {error}"), "choose another port: `--port 8001`")
    };
    let listener = TcpListener::bind(place).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

#[cfg(test)]
mod tests;
