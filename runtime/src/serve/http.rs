//! Requests about a model: limits and routes. No request names a path of the file system except an
//! update, whose path is checked in [`super::update`].

use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::Method;
use axum::response::Response;
use mopd_plan::Dtype;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::access::RequestAccess;
use super::answer_size::{AnswerMemory, AnswerShare};
use super::connections::ConnectionHandle;
use super::engine::{EngineRequest, Limits, ReadRequest, ScoreRequest, ScoredRequest};
use super::metrics::Metrics;
use super::transport::{ReplySender, RequestRefusal, ResponseBody, read_body, response};
use super::update::{self, Updates};
use super::write::WriteRequest;
use super::{ServedModelInfo, sglang, vllm};
use crate::remote::sampling::RolloutBatch;
use crate::remote::{ServerIdentity, own};
use crate::tokenizer::{Token, Tokenizer};

/// Most bytes of a request's body for each token of the most that a request may have, and besides: an id with
/// its mask, or a text.
const BODY: (usize, usize) = (32, 1 << 20);
/// Most bytes of a text for each token: to split a text takes several hundred times its size.
const TEXT: usize = 16;

/// State shared by the request threads and the model's thread.
pub struct Shared {
    pub name: String,
    pub access: RequestAccess,
    pub queue: SyncSender<EngineRequest>,
    pub metrics: Metrics,
    pub about: RwLock<ServedModelInfo>,
    pub tokenizer: Arc<Tokenizer>,
    pub softcap: Option<f64>,
    pub dtype: Dtype,
    pub updates: Option<Updates>,
    pub limits: Limits,
    pub answers: AnswerMemory,
}

impl Shared {
    pub fn about(&self) -> ServedModelInfo {
        self.about.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn identity(&self) -> ServerIdentity {
        let about = self.about();
        ServerIdentity {
            model: self.name.clone(),
            root: None,
            weights: Some(about.content),
            context: Some(self.limits.context),
            tokenizer: Some(self.tokenizer.hash()),
            softcap: self.softcap,
            dtype: Some(self.dtype.name().to_owned()),
        }
    }

    /// Queues a request for the model's thread and waits for its reply. `asked` makes the request.
    pub async fn ask<T>(
        &self,
        asked: impl FnOnce(ReplySender<T>) -> EngineRequest,
    ) -> Result<T, RequestRefusal> {
        let (reply, told) = oneshot::channel();
        self.queue.try_send(asked(reply)).map_err(|error| match error {
            TrySendError::Full(_) => RequestRefusal::new(
                503,
                "too many requests are waiting: try \
                again later",
            ),
            TrySendError::Disconnected(_) => RequestRefusal::shutting_down(),
        })?;
        self.metrics.waiting.inc();
        told.await.unwrap_or_else(|_| Err(RequestRefusal::shutting_down()))
    }

    /// Most bytes of a body.
    fn largest(&self) -> usize {
        self.limits.tokens.saturating_mul(BODY.0).saturating_add(BODY.1)
    }

    /// Checks the size of texts before they are split into tokens.
    pub fn texts_fit<'a>(&self, texts: impl Iterator<Item = &'a str>) -> Result<(), RequestRefusal> {
        let (one, all) = (self.limits.context.min(self.limits.tokens) * TEXT, self.limits.tokens * TEXT);
        let mut sum = 0;
        for text in texts {
            sum += text.len();
            if text.len() > one || sum > all {
                let most = if text.len() > one { one } else { all };
                let message = format!("the texts have {sum} bytes or more; at most {most} are supported");
                return Err(RequestRefusal::new(413, message));
            }
        }
        Ok(())
    }

    /// Scores, with the memory for the answer.
    pub async fn score(&self, score: ScoreRequest) -> Result<(ScoredRequest, AnswerShare), RequestRefusal> {
        let share = self.answers.share(&score, self.tokenizer.vocabulary()).await?;
        let scored = self.ask(|reply| EngineRequest::Read(ReadRequest::Score(score, reply))).await?;
        Ok((scored, share))
    }
}

pub fn router(shared: Arc<Shared>) -> Router {
    let largest = shared.largest();
    Router::new().fallback(answer).layer(DefaultBodyLimit::max(largest)).with_state(shared)
}

/// The known paths; metrics don't count others by name.
const PATHS: [&str; 19] = [
    "/health",
    "/metrics",
    "/v1/models",
    "/v1/completions",
    "/detokenize",
    "/tokenize",
    "/generate",
    "/model_info",
    "/inference/v1/generate",
    "/weight_info",
    "/collective_rpc",
    "/reset_prefix_cache",
    "/update_weight_version",
    "/update_weights_from_disk",
    "/ping",
    own::MODEL,
    own::HIDDEN,
    own::LM_HEAD,
    own::ROLLOUTS,
];

async fn answer(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(connection): ConnectInfo<ConnectionHandle>,
    request: Request,
) -> Response {
    let started = Instant::now();
    let path = PATHS.into_iter().find(|path| *path == request.uri().path()).unwrap_or("other");
    let (status, response) = response(of_request(&shared, path, &connection, request).await);
    shared.metrics.requests.with_label_values(&[path, &status.to_string()]).inc();
    shared.metrics.seconds.with_label_values(&[path]).observe(started.elapsed().as_secs_f64());
    response
}

async fn of_request(
    shared: &Shared,
    path: &str,
    connection: &ConnectionHandle,
    request: Request,
) -> Result<ResponseBody, RequestRefusal> {
    shared.access.is_no_web_page(&request)?;
    if path == "/health" || path == "/ping" {
        return Ok(ResponseBody::Text(String::new()));
    }
    if !shared.access.may(&request) {
        return Err(RequestRefusal::new(401, "requests need a key: `Authorization: Bearer ...`"));
    }
    let method = request.method().clone();
    let body = read_body(shared.largest(), " (`--max-request-tokens`)", request).await?;
    let _running = connection.run();
    let get = || {
        if method == Method::GET {
            Ok(())
        } else {
            Err(RequestRefusal::new(405, "this path supports only GET"))
        }
    };
    let posted = || -> Result<Value, RequestRefusal> {
        if method != Method::POST {
            return Err(RequestRefusal::new(405, "this path supports only POST"));
        }
        serde_json::from_slice(&body)
            .map_err(|error| RequestRefusal::bad(format!("the body is not JSON: {error}")))
    };
    match path {
        "/metrics" => get().map(|()| ResponseBody::Text(shared.metrics.text())),
        "/v1/models" => get().map(|()| ResponseBody::Json(models(shared))),
        "/model_info" => get().map(|()| ResponseBody::Json(model_info(shared))),
        own::MODEL => {
            get()?;
            Ok(ResponseBody::Json(serde_json::to_value(shared.identity()).expect("it is plain data")))
        }
        own::LM_HEAD => {
            get()?;
            let lm_head = |reply| EngineRequest::Read(ReadRequest::LmHead(reply));
            shared.ask(lm_head).await.map(ResponseBody::Bytes)
        }
        own::HIDDEN => {
            let batch: own::SentBatch = serde_json::from_value(posted()?).map_err(|error| {
                RequestRefusal::bad(format!("the body is not a batch of sequences: {error}"))
            })?;
            let body = body.to_vec();
            let hidden = |reply| EngineRequest::Read(ReadRequest::Hidden { batch, body, reply });
            shared.ask(hidden).await.map(ResponseBody::Bytes)
        }
        own::ROLLOUTS => {
            let batch: RolloutBatch = serde_json::from_value(posted()?).map_err(|error| {
                RequestRefusal::bad(format!(
                    "the body is not a batch of prompts: \
                    {error}"
                ))
            })?;
            let body = body.to_vec();
            let rollouts = |reply| EngineRequest::Write(WriteRequest::Rollouts { batch, body, reply });
            shared.ask(rollouts).await.map(ResponseBody::Bytes)
        }
        "/v1/completions" => vllm::completions(shared, &posted()?).await.map(ResponseBody::Written),
        "/generate" => sglang::generate(shared, &posted()?).await.map(ResponseBody::Written),
        "/tokenize" => tokenize(shared, &posted()?),
        "/detokenize" => detokenize(shared, &posted()?),
        "/update_weights_from_disk" => update::of_sglang(shared, &posted()?).await.map(ResponseBody::Json),
        "/collective_rpc" => update::of_vllm(shared, &posted()?).await.map(ResponseBody::Json),
        "/inference/v1/generate" => vllm::generate(shared, &posted()?).await.map(ResponseBody::Json),
        "/weight_info" => {
            get().map(|()| ResponseBody::Json(json!({ "weight_version": shared.about().version })))
        }
        "/update_weight_version" => update::version_of_vllm(shared, &posted()?).await.map(ResponseBody::Json),
        // There is no prefix cache to reset.
        "/reset_prefix_cache" => Ok(ResponseBody::Json(json!({ "success": true }))),
        _ => Err(RequestRefusal::new(404, "unknown path")),
    }
}

fn models(shared: &Shared) -> Value {
    let about = shared.about();
    json!({ "object": "list", "data": [{
        "id": shared.name,
        "object": "model",
        "created": 0,
        "owned_by": "mopd",
        // Engines put the model's path here; a hash of the content is more precise.
        "root": about.content,
        "parent": null,
        "max_model_len": shared.limits.context,
    }] })
}

fn model_info(shared: &Shared) -> Value {
    let about = shared.about();
    json!({
        "model_path": about.files,
        "served_model_name": shared.name,
        "tokenizer_path": about.files,
        "is_generation": true,
        "weight_version": about.version,
    })
}

/// Parses a list of token ids; an id outside the vocabulary is refused.
pub fn ids(shared: &Shared, value: &Value) -> Result<Vec<Token>, RequestRefusal> {
    let list = value.as_array().ok_or_else(|| {
        RequestRefusal::bad(
            "token ids must be a list of \
        numbers",
        )
    })?;
    let entries = shared.tokenizer.vocabulary() as i64;
    let id = |value: &Value| {
        let id = value.as_i64().filter(|id| (0..entries).contains(id));
        id.ok_or_else(|| {
            RequestRefusal::bad(format!("{value} is not a token id: ids go from 0 to {}", entries - 1))
        })
    };
    list.iter().map(id).collect()
}

fn tokenize(shared: &Shared, asked: &Value) -> Result<ResponseBody, RequestRefusal> {
    let text = asked["prompt"].as_str().ok_or_else(|| {
        RequestRefusal::bad(
            "`prompt` must be a \
        string",
        )
    })?;
    shared.texts_fit(std::iter::once(text))?;
    let special = asked["add_special_tokens"].as_bool().unwrap_or(true);
    let tokens = if special { shared.tokenizer.prompt(text) } else { shared.tokenizer.encode(text) };
    let tokens = tokens.map_err(|error| RequestRefusal::bad(error.to_string()))?;
    let (count, context) = (tokens.len(), shared.limits.context);
    Ok(ResponseBody::Json(json!({ "tokens": tokens, "count": count, "max_model_len": context })))
}

/// The reply has the field names of both engines.
fn detokenize(shared: &Shared, asked: &Value) -> Result<ResponseBody, RequestRefusal> {
    let ids = ids(shared, &asked["tokens"])?;
    let text = shared.tokenizer.as_read(&ids).map_err(|error| RequestRefusal::bad(error.to_string()))?;
    Ok(ResponseBody::Json(json!({ "prompt": text, "text": text })))
}
