//! HTTP requests: authorization, limits and routes. No request names a path of the file system except an
//! update, whose path is checked in [`super::update`].

use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, FailedToBufferBody};
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use mopd_plan::Dtype;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::engine::{EngineRequest, Limits, ReadRequest, ReplySender, RequestRefusal};
use super::metrics::Metrics;
use super::update::{self, Updates};
use super::write::WriteRequest;
use super::{ServedModelInfo, sglang, vllm};
use crate::remote::sampling::RolloutBatch;
use crate::remote::{ServerIdentity, own};
use crate::tokenizer::{Token, Tokenizer};

/// Most bytes of a request's body: ids as text take several bytes each.
const LARGEST: usize = 64 << 20;
/// Time limit for a body to arrive.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// State shared by the request threads and the model's thread.
pub struct Shared {
    pub name: String,
    /// Hash of the API key, so that the comparison takes constant time.
    pub key: Option<blake3::Hash>,
    pub queue: SyncSender<EngineRequest>,
    pub metrics: Metrics,
    pub about: RwLock<ServedModelInfo>,
    pub tokenizer: Arc<Tokenizer>,
    pub softcap: Option<f64>,
    pub dtype: Dtype,
    pub updates: Option<Updates>,
    pub limits: Limits,
}

pub enum ResponseBody {
    Json(Value),
    Text(String),
    Bytes(Vec<u8>),
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
            TrySendError::Disconnected(_) => RequestRefusal::new(503, "the server is shutting down"),
        })?;
        self.metrics.waiting.inc();
        told.await.unwrap_or_else(|_| Err(RequestRefusal::new(503, "the server is shutting down")))
    }

    fn may(&self, request: &Request) -> bool {
        let Some(key) = &self.key else { return true };
        let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
        given.is_some_and(|given| blake3::hash(given.as_bytes()) == *key)
    }
}

pub fn router(shared: Arc<Shared>) -> Router {
    Router::new().fallback(answer).layer(DefaultBodyLimit::max(LARGEST)).with_state(shared)
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

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let started = Instant::now();
    let path = PATHS.into_iter().find(|path| *path == request.uri().path()).unwrap_or("other");
    let (status, kind, body) = match of_request(&shared, path, request).await {
        Ok(ResponseBody::Json(value)) => (200, "application/json", Body::from(value.to_string())),
        Ok(ResponseBody::Text(text)) => (200, "text/plain; version=0.0.4", Body::from(text)),
        Ok(ResponseBody::Bytes(bytes)) => (200, "application/octet-stream", Body::from(bytes)),
        Err(RequestRefusal { status, message }) => {
            let said = json!({ "error": { "message": message, "code": status } });
            (status, "application/json", Body::from(said.to_string()))
        }
    };
    shared.metrics.requests.with_label_values(&[path, &status.to_string()]).inc();
    shared.metrics.seconds.with_label_values(&[path]).observe(started.elapsed().as_secs_f64());
    Response::builder()
        .status(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
        .header(CONTENT_TYPE, kind)
        .body(body)
        .expect("a status, a header and a body make a response")
}

async fn of_request(shared: &Shared, path: &str, request: Request) -> Result<ResponseBody, RequestRefusal> {
    if path == "/health" || path == "/ping" {
        return Ok(ResponseBody::Text(String::new()));
    }
    if !shared.may(&request) {
        return Err(RequestRefusal::new(401, "requests need a key: `Authorization: Bearer ...`"));
    }
    let method = request.method().clone();
    let body = read(request).await?;
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
        "/v1/completions" => vllm::completions(shared, &posted()?).await.map(ResponseBody::Json),
        "/generate" => sglang::generate(shared, &posted()?).await.map(ResponseBody::Json),
        "/tokenize" => tokenize(shared, &posted()?),
        "/detokenize" => detokenize(shared, &posted()?),
        "/update_weights_from_disk" => update::of_sglang(shared, &posted()?).await.map(ResponseBody::Json),
        "/collective_rpc" => update::of_vllm(shared, &posted()?).await.map(ResponseBody::Json),
        "/inference/v1/generate" => vllm::generate(shared, &posted()?).await.map(ResponseBody::Json),
        "/weight_info" => {
            get().map(|()| ResponseBody::Json(json!({ "weight_version": shared.about().version })))
        }
        "/update_weight_version" => update::version_of_vllm(shared, &posted()?).map(ResponseBody::Json),
        // There is no prefix cache to reset.
        "/reset_prefix_cache" => Ok(ResponseBody::Json(json!({ "success": true }))),
        _ => Err(RequestRefusal::new(404, "unknown path")),
    }
}

async fn read(request: Request) -> Result<Bytes, RequestRefusal> {
    let too_long = || RequestRefusal::new(413, format!("the body is larger than {} MiB", LARGEST >> 20));
    let said =
        request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if said.is_some_and(|length| length > LARGEST as u64) {
        return Err(too_long());
    }
    match timeout(REQUEST_TIMEOUT, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)))) => {
            Err(too_long())
        }
        Ok(Err(error)) => Err(RequestRefusal::bad(format!("the body cannot be read: {error}"))),
        Err(_) => Err(RequestRefusal::new(408, "the body did not arrive in full")),
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
