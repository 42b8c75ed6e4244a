//! HTTP, whatever is asked: a server that listens, bodies within a limit, replies and refusals.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, FailedToBufferBody};
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::Response;
use mopd_plan::events::FailureKind;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::connections::{ConnectionHandle, Connections};
use crate::failure::{Error, Result};

/// Time limit for a body to arrive.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the last replies may take.
const LAST_REPLIES: Duration = Duration::from_secs(2);

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestRefusal {
    pub status: u16,
    pub message: String,
}

impl RequestRefusal {
    pub fn new(status: u16, message: impl Into<String>) -> RequestRefusal {
        RequestRefusal { status, message: message.into() }
    }

    pub fn bad(message: impl Into<String>) -> RequestRefusal {
        RequestRefusal::new(400, message)
    }

    pub fn internal(message: impl Into<String>) -> RequestRefusal {
        RequestRefusal::new(500, message)
    }

    pub fn shutting_down() -> RequestRefusal {
        RequestRefusal::new(503, "the server is shutting down")
    }
}

/// The channel for the reply to a request.
pub type ReplySender<T> = oneshot::Sender<Result<T, RequestRefusal>>;

pub enum ResponseBody {
    Json(Value),
    /// JSON that was written already.
    Written(Bytes),
    Text(String),
    Bytes(Vec<u8>),
}

/// The status of a reply, and the reply.
pub fn response(reply: Result<ResponseBody, RequestRefusal>) -> (u16, Response) {
    let (status, kind, body) = match reply {
        Ok(ResponseBody::Json(value)) => (200, "application/json", Body::from(value.to_string())),
        Ok(ResponseBody::Written(bytes)) => (200, "application/json", Body::from(bytes)),
        Ok(ResponseBody::Text(text)) => (200, "text/plain; version=0.0.4", Body::from(text)),
        Ok(ResponseBody::Bytes(bytes)) => (200, "application/octet-stream", Body::from(bytes)),
        Err(RequestRefusal { status, message }) => {
            let said = json!({ "error": { "message": message, "code": status } });
            (status, "application/json", Body::from(said.to_string()))
        }
    };
    let response = Response::builder()
        .status(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
        .header(CONTENT_TYPE, kind)
        .body(body)
        .expect("a status, a header and a body make a response");
    (status, response)
}

/// The body of a request, of at most so many bytes. `raise` names the setting of the limit, if there is one.
pub async fn read_body(largest: usize, raise: &str, request: Request) -> Result<Bytes, RequestRefusal> {
    let too_long = || RequestRefusal::new(413, format!("the body is larger than {largest} bytes{raise}"));
    let said =
        request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if said.is_some_and(|length| length > largest as u64) {
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

/// A server on threads of its own, which ends when it is dropped.
pub struct HttpServer {
    pub address: SocketAddr,
    runtime: Runtime,
    serving: JoinHandle<()>,
    end: oneshot::Sender<()>,
}

impl HttpServer {
    pub fn start(listener: TcpListener, router: Router) -> Result<HttpServer> {
        let failed = |message: String, help: &str| Error::new(FailureKind::Runtime, message).help(help);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| {
                failed(format!("no thread for requests: {error}"), "free memory or processes")
            })?;
        let address = listener.local_addr().map_err(|error| failed(error.to_string(), "try another port"))?;
        let router = router.into_make_service_with_connect_info::<ConnectionHandle>();
        let (end, ended) = oneshot::channel::<()>();
        let serving = runtime.spawn(async move {
            if let Ok(listener) = tokio::net::TcpListener::from_std(listener) {
                let ended = async move { drop(ended.await) };
                let serving = axum::serve(Connections::new(listener), router);
                let _ = serving.with_graceful_shutdown(ended).await;
            }
        });
        Ok(HttpServer { address, runtime, serving, end })
    }

    /// Takes no more requests, and ends when those that are answered have their replies.
    pub fn end(self) {
        drop(self.end);
        let _ = self.runtime.block_on(async { timeout(LAST_REPLIES, self.serving).await });
        self.runtime.shutdown_background();
    }
}
