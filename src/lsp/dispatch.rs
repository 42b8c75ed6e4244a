//! Dispatches messages to functions, and converts their failures to responses.

use std::panic::{AssertUnwindSafe, catch_unwind};

use lsp_server::{ErrorCode, Message, Notification, Request, Response};
use lsp_types::{
    DidChangeTextDocumentParams, DidChangeWatchedFilesParams, DidChangeWorkspaceFoldersParams,
    DidCloseTextDocumentParams, DidOpenTextDocumentParams, DidSaveTextDocumentParams,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::requests;
use super::session::Session;

/// Why a request has no result.
#[derive(Debug)]
pub struct RequestError {
    pub code: ErrorCode,
    pub message: String,
}

impl RequestError {
    /// The request is valid, but can't be fulfilled.
    pub fn refused(message: impl Into<String>) -> RequestError {
        RequestError { code: ErrorCode::RequestFailed, message: message.into() }
    }
}

pub fn respond(session: &Session, request: Request) -> Response {
    let Request { id, method, params } = request;
    let result = guarded(&method, || match method.as_str() {
        "textDocument/codeAction" => call(session, params, requests::code_actions::handle),
        "textDocument/completion" => call(session, params, requests::completion::handle),
        "textDocument/definition" => call(session, params, requests::definition::handle),
        "textDocument/documentHighlight" => call(session, params, requests::highlight::handle),
        "textDocument/documentLink" => call(session, params, requests::links::handle),
        "textDocument/documentSymbol" => call(session, params, requests::document_symbols::handle),
        "textDocument/codeLens" => call(session, params, requests::code_lens::handle),
        "textDocument/foldingRange" => call(session, params, requests::folding::handle),
        "textDocument/formatting" => call(session, params, requests::formatting::handle),
        "textDocument/onTypeFormatting" => call(session, params, requests::formatting::on_type),
        "textDocument/rangeFormatting" => call(session, params, requests::formatting::range),
        "textDocument/hover" => call(session, params, requests::hover::handle),
        "textDocument/inlayHint" => call(session, params, requests::inlay_hints::handle),
        "textDocument/prepareRename" => call(session, params, requests::rename::prepare),
        "textDocument/references" => call(session, params, requests::references::handle),
        "textDocument/rename" => call(session, params, requests::rename::handle),
        "textDocument/selectionRange" => call(session, params, requests::selection::handle),
        "textDocument/semanticTokens/full" => call(session, params, requests::semantic_tokens::handle),
        "textDocument/signatureHelp" => call(session, params, requests::signature::handle),
        "workspace/symbol" => call(session, params, requests::workspace_symbols::handle),
        _ => Err(RequestError {
            code: ErrorCode::MethodNotFound,
            message: format!("mopd does not support `{method}`"),
        }),
    });
    match result {
        Ok(value) => Response::new_ok(id, value),
        Err(failure) => Response::new_err(id, failure.code as i32, failure.message),
    }
}

fn call<P: DeserializeOwned, R: Serialize>(
    session: &Session,
    params: Value,
    handle: fn(&Session, P) -> Result<R, RequestError>,
) -> Result<Value, RequestError> {
    let params = serde_json::from_value(params)
        .map_err(|error| RequestError { code: ErrorCode::InvalidParams, message: error.to_string() })?;
    let result = handle(session, params)?;
    serde_json::to_value(result)
        .map_err(|error| RequestError { code: ErrorCode::InternalError, message: error.to_string() })
}

/// A panic is a bug of ours: the request fails, but the server continues. Requests only read the session, so
/// no state is left half changed.
fn guarded(
    method: &str,
    handle: impl FnOnce() -> Result<Value, RequestError>,
) -> Result<Value, RequestError> {
    catch_unwind(AssertUnwindSafe(handle)).unwrap_or_else(|_| {
        let message = format!("a bug in mopd: answering `{method}` failed; the log of the server says more");
        Err(RequestError { code: ErrorCode::InternalError, message })
    })
}

/// Handles a notification of the editor; returns messages about invalid ones. Unknown notifications are
/// ignored, as the protocol requires.
pub fn take(session: &mut Session, notification: Notification) -> Vec<Message> {
    let Notification { method, params } = notification;
    let taken = match method.as_str() {
        "textDocument/didOpen" => read(params).map(|params: DidOpenTextDocumentParams| {
            let document = params.text_document;
            session.open(document.uri, document.version, document.text);
        }),
        "textDocument/didChange" => read(params).map(|params: DidChangeTextDocumentParams| {
            session.change(&params.text_document.uri, params.text_document.version, params.content_changes);
        }),
        "textDocument/didClose" => {
            read(params).map(|params: DidCloseTextDocumentParams| session.close(&params.text_document.uri))
        }
        "textDocument/didSave" => {
            read(params).map(|params: DidSaveTextDocumentParams| session.saved(&params.text_document.uri))
        }
        "workspace/didChangeWorkspaceFolders" => {
            read(params).map(|params: DidChangeWorkspaceFoldersParams| {
                session.change_roots(
                    params.event.added.into_iter().map(|folder| folder.uri).collect(),
                    &params.event.removed.into_iter().map(|folder| folder.uri).collect::<Vec<_>>(),
                );
            })
        }
        "workspace/didChangeWatchedFiles" => read(params).map(|params: DidChangeWatchedFilesParams| {
            for change in &params.changes {
                session.changed_on_disk(&change.uri);
            }
        }),
        _ => Ok(()),
    };
    let log = |error: String| {
        let message = format!("`{method}` can't be read: {error}");
        Notification::new("window/logMessage".to_owned(), json!({ "type": 1, "message": message })).into()
    };
    taken.err().map(log).into_iter().collect()
}

fn read<P: DeserializeOwned>(params: Value) -> Result<P, String> {
    serde_json::from_value(params).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_response() {
        let failure = guarded("textDocument/hover", || panic!("on purpose")).expect_err("it failed");
        assert_eq!(failure.code as i32, ErrorCode::InternalError as i32);
        assert!(failure.message.contains("textDocument/hover"), "{}", failure.message);
    }
}
