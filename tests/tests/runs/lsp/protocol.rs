//! The protocol itself: initialization, errors, positions, cancellation, shutdown.

use serde_json::{Value, json};

use super::client::Client;
use super::{GOOD, Workspace};

#[test]
fn advertised_capabilities_are_answered_and_no_others() {
    let mut workspace = Workspace::new();
    let capabilities = workspace.client.capabilities.clone();
    assert_eq!(capabilities["positionEncoding"], "utf-16");
    assert_eq!(capabilities["textDocumentSync"]["change"], 2);
    for absent in
        ["documentColorProvider", "implementationProvider", "typeDefinitionProvider", "callHierarchyProvider"]
    {
        assert!(capabilities.get(absent).is_none(), "{absent}");
    }
    workspace.open("a.mopd", GOOD);
    let error = workspace.client.attempt("textDocument/implementation", json!({})).expect_err("not there");
    assert_eq!(error["code"], -32601, "{error}");
    let error =
        workspace.client.attempt("textDocument/hover", json!({ "position": 1 })).expect_err("nonsense");
    assert_eq!(error["code"], -32602, "{error}");
    let unknown =
        json!({ "textDocument": { "uri": "file:///no.mopd" }, "position": { "line": 0, "character": 0 } });
    let error = workspace.client.attempt("textDocument/hover", unknown).expect_err("not open");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("is not open")), "{error}");
    // Unknown notifications are ignored; invalid ones are logged.
    workspace.client.notify("$/setTrace", json!({ "value": "off" }));
    workspace.client.notify("textDocument/didChange", json!({ "wrong": true }));
    let place = json!({ "line": 9999, "character": 9999 });
    assert_eq!(workspace.ask("textDocument/hover", "a.mopd", place, json!({})), Value::Null);
    assert_eq!(workspace.client.unasked[0]["method"], "window/logMessage");
}

#[test]
fn positions_can_be_utf8_offsets() {
    let mut workspace =
        Workspace::with_capabilities(json!({ "general": { "positionEncodings": ["utf-8", "utf-16"] } }));
    assert_eq!(workspace.client.capabilities["positionEncoding"], "utf-8");
    let diagnostics = workspace.open("a.mopd", "let a = \"é𝒜\" + b\n");
    let place =
        diagnostics.iter().find(|diagnostic| diagnostic["code"] == "unknown-name").expect("a diagnostic");
    assert_eq!(place["range"]["start"], json!({ "line": 0, "character": "let a = \"é𝒜\" + ".len() }));
    // A change after characters of several bytes is applied at the right place.
    let uri = workspace.uri("a.mopd");
    let column = "let a = \"é".len();
    let range =
        json!({ "start": { "line": 0, "character": column }, "end": { "line": 0, "character": column + 4 } });
    let changes = json!([{ "range": range, "text": "x" }, { "range": null, "text": "let a = 1\n" }]);
    workspace.client.notify(
        "textDocument/didChange",
        json!({ "textDocument": { "uri": uri, "version": 2 }, "contentChanges": changes }),
    );
    assert_eq!(workspace.client.diagnostics(&uri), [Value::Null; 0]);
}

#[test]
fn the_server_ends_when_it_is_told_to() {
    let mut workspace = Workspace::new();
    workspace.open("a.mopd", GOOD);
    assert_eq!(workspace.client.request("shutdown", Value::Null), Value::Null);
    let error = workspace.client.attempt("textDocument/hover", json!({})).expect_err("it is shut down");
    assert_eq!(error["code"], -32600);
    workspace.client.notify("exit", Value::Null);
    assert_eq!(workspace.client.status(), Some(0));
    // The client leaves without `shutdown`, or closes the pipe.
    let mut workspace = Workspace::new();
    workspace.client.notify("exit", Value::Null);
    assert_eq!(workspace.client.status(), Some(1));
    let mut workspace = Workspace::new();
    workspace.client.hang_up();
    assert_eq!(workspace.client.status(), Some(1));
}

#[test]
fn nothing_comes_before_the_handshake() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut client = Client::connect(folder.path());
    let error = client.attempt("textDocument/hover", json!({})).expect_err("too early");
    assert_eq!(error["code"], -32002);
    client.request("initialize", json!({ "capabilities": {} }));
    let error = client.attempt("initialize", json!({ "capabilities": {} })).expect_err("once is enough");
    assert_eq!(error["code"], -32600);
    let mut garbled = Client::connect(folder.path());
    garbled.send_raw("Content-Length: 3\r\n\r\n{{{");
    assert_eq!(garbled.status(), Some(2));
}

#[test]
fn a_cancelled_request_is_answered_all_the_same() {
    let mut workspace = Workspace::new();
    workspace.open("a.mopd", GOOD);
    let uri = workspace.uri("a.mopd");
    let ids: Vec<i64> = (0..50)
        .map(|_| {
            let id = workspace
                .client
                .begin("textDocument/semanticTokens/full", json!({ "textDocument": { "uri": uri } }));
            workspace.client.notify("$/cancelRequest", json!({ "id": id }));
            id
        })
        .collect();
    for id in ids {
        // The request may have been answered before it was cancelled; if not, the error has that code.
        if let Err(error) = workspace.client.response(id) {
            assert_eq!(error["code"], -32800, "{error}");
        }
    }
    assert_ne!(workspace.client.request("workspace/symbol", json!({ "query": "longest" })), json!([]));
}

#[test]
fn a_client_that_can_is_asked_to_watch_files() {
    let mut workspace = Workspace::with_capabilities(
        json!({ "workspace": { "didChangeWatchedFiles": { "dynamicRegistration": true } } }),
    );
    workspace.open("a.mopd", GOOD);
    assert_eq!(workspace.client.unasked[0]["method"], "client/registerCapability");
}
