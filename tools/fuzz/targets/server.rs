//! A whole session of the language server, without its pipes: a text, then edits and requests. Every request
//! is answered, none by a panic, and the diagnostics at the end are those of a fresh check.
//!
//! An input is the text, and behind a byte that no text has (255) the steps, parted by the same byte: what to
//! do, where, how far, and the text that comes there.

#![no_main]

use std::str::from_utf8;

use libfuzzer_sys::fuzz_target;
use lsp_server::{Connection, Message, Notification, Request};
use mopd_lang::ide::ENTRY;
use serde_json::{Value, json};

const URI: &str = "file:///nowhere/a.mopd";
const PARTED_BY: u8 = 255;
const INTERNAL_ERROR: i32 = -32603;

/// The requests that are about a place.
const AT_A_PLACE: [&str; 9] = [
    "hover",
    "completion",
    "signatureHelp",
    "definition",
    "documentHighlight",
    "references",
    "prepareRename",
    "rename",
    "onTypeFormatting",
];
/// Those that are about a document or a part of it.
const OF_A_PART: [&str; 10] = [
    "foldingRange",
    "documentSymbol",
    "semanticTokens/full",
    "documentLink",
    "formatting",
    "rangeFormatting",
    "inlayHint",
    "codeAction",
    "selectionRange",
    "unknown",
];

fuzz_target!(|data: &[u8]| {
    let mut parts = data.split(|byte| *byte == PARTED_BY);
    let Some(Ok(text)) = parts.next().map(from_utf8) else { return };
    if data.len() > 1 << 14 {
        return;
    }
    let mut text = text.to_owned();
    let utf8 = data.len() % 2 == 0;
    let (server, client) = Connection::memory();
    let mut asked = 0;
    let send = |message: Message| client.sender.send(message).expect("the server is there");
    let mut ask = |method: &str, params: Value| {
        asked += 1;
        Message::from(Request::new(asked.into(), method.to_owned(), params))
    };
    let tell = |method: &str, params: Value| Message::from(Notification::new(method.to_owned(), params));

    let encoding = if utf8 { "utf-8" } else { "utf-16" };
    send(ask("initialize", json!({ "capabilities": { "general": { "positionEncodings": [encoding] } } })));
    send(tell("initialized", json!({})));
    let document = json!({ "uri": URI, "languageId": "mopd", "version": 1, "text": text });
    send(tell("textDocument/didOpen", json!({ "textDocument": document })));
    for (version, step) in (2..).zip(parts.take(16)) {
        let [what, place, length, new @ ..] = step else { continue };
        let Ok(new) = from_utf8(new) else { continue };
        let start = boundary(&text, usize::from(*place) * (text.len() + 1) / 256);
        let end = boundary(&text, start + usize::from(*length) % 32).max(start);
        let range = json!({ "start": position(&text, start, utf8), "end": position(&text, end, utf8) });
        let options = json!({ "tabSize": 2, "insertSpaces": true });
        match usize::from(*what) {
            what @ 0..64 => {
                let name = AT_A_PLACE[what % AT_A_PLACE.len()];
                let character = if what % 2 == 0 { "}" } else { "\n" };
                let params = json!({
                    "textDocument": { "uri": URI }, "position": range["start"], "context": { "includeDeclaration": true },
                    "newName": new, "ch": character, "options": options,
                });
                // Completion has a context of another form, which may be missing.
                send(ask(
                    &format!("textDocument/{name}"),
                    if name == "completion" { without(params, "context") } else { params },
                ));
            }
            what @ 64..112 => {
                let name = OF_A_PART[what % OF_A_PART.len()];
                let params = json!({
                    "textDocument": { "uri": URI }, "range": range, "positions": [range["start"]], "options": options,
                    "context": { "diagnostics": [] },
                });
                send(ask(&format!("textDocument/{name}"), params));
            }
            112..120 => send(ask("workspace/symbol", json!({ "query": new }))),
            120 => send(tell("$/cancelRequest", json!({ "id": asked_before(version) }))),
            _ => {
                text.replace_range(start..end, new);
                let changes = json!([{ "range": range, "text": new }]);
                let document = json!({ "uri": URI, "version": version });
                send(tell(
                    "textDocument/didChange",
                    json!({ "textDocument": document, "contentChanges": changes }),
                ));
            }
        }
    }
    // Answered only after everything before it has been taken in.
    send(ask("textDocument/foldingRange", json!({ "textDocument": { "uri": URI } })));
    send(ask("shutdown", Value::Null));
    send(tell("exit", Value::Null));

    mopd::talk(&server);
    drop(server);
    let mut answered = 0;
    let mut published = Vec::new();
    for message in client.receiver.try_iter() {
        match message {
            Message::Response(response) => {
                answered += 1;
                if let Err(error) = response.response_result {
                    assert_ne!(error.code, INTERNAL_ERROR, "{}", error.message);
                }
            }
            Message::Notification(notification)
                if notification.method == "textDocument/publishDiagnostics" =>
            {
                published = notification.params["diagnostics"].as_array().expect("a list").clone();
            }
            Message::Notification(_) | Message::Request(_) => {}
        }
    }
    assert_eq!(answered, asked, "requests without an answer");
    let fresh = mopd_fuzz::check(&text);
    let expected: Vec<(Value, Value)> = fresh
        .diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.primary.span.file == ENTRY)
        .map(|diagnostic| {
            (json!(diagnostic.code.name()), position(&text, diagnostic.primary.span.start as usize, utf8))
        })
        .collect();
    let found: Vec<(Value, Value)> = published
        .iter()
        .map(|diagnostic| (diagnostic["code"].clone(), diagnostic["range"]["start"].clone()))
        .collect();
    assert_eq!(found, expected, "{text}");
});

/// Some request, perhaps one that was made.
fn asked_before(version: i32) -> i32 {
    version / 2
}

fn without(mut params: Value, key: &str) -> Value {
    if let Some(params) = params.as_object_mut() {
        params.remove(key);
    }
    params
}

/// No cursor stands inside a character or a line end.
fn boundary(text: &str, at: usize) -> usize {
    let at = text.floor_char_boundary(at);
    if text[at..].starts_with('\n') && text[..at].ends_with('\r') { at - 1 } else { at }
}

/// A line ends with `\n`, `\r\n` or `\r`.
fn position(text: &str, at: usize, utf8: bool) -> Value {
    let before = &text[..at];
    let ends = |(place, character): &(usize, char)| {
        *character == '\n' || *character == '\r' && !text[place + 1..].starts_with('\n')
    };
    let starts: Vec<usize> = before.char_indices().filter(ends).map(|(place, _)| place + 1).collect();
    let line = &before[starts.last().copied().unwrap_or(0)..];
    let column = if utf8 { line.len() } else { line.encode_utf16().count() };
    json!({ "line": starts.len(), "character": column })
}
