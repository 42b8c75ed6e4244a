//! Tests of the language server over its real protocol: every feature, half-typed text, positions, errors,
//! long sessions.

mod actions;
mod client;
mod editing;
mod features;
mod layout;
mod links;
mod names;
mod outside;
mod protocol;
mod roots;

use std::path::PathBuf;

use client::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A small valid experiment. The comment puts characters of two, three and four bytes before everything
/// else.
const GOOD: &str = r#"// é ✓ 𝒜
use std.opd.mopd

experiment "tiny 𝒜" { seed = 1 }

domain sort { prompts = "sort.jsonl", tests = "sort.test.jsonl", reward = exact_match, share = 1 }

model base   = llama { layers = 1, width = 16, heads = 2, context = 32, tokenizer = bytes }
model start  = sft(base, on: domains) { target = demonstration, steps = 2, batch = 2, lr = 1e-3 }
model expert = grpo(start, on: domains) { steps = 2, prompts = 2, samples = 2, max_tokens = 8, lr = 1e-3 }

teacher one = expert

route { domain == sort -> one }

/// How long a completion may get.
let longest = 8

objective mine {
  let gap = teacher.logp - student.logp
  term distill = -gap * live student.logp
  reduce = mean(token) then mean(sequence)
}

model student = distill(start) {
  objective = mopd(clip_at: 5)
  rollout   = sample(n: 1, temperature: 1.0, max_tokens: longest)
  prompts   = 2
  steps     = 2
  lr        = 1e-3
}

compare "𝒜" { models = [start, student], samples = 2, temperature = 1.0, max_tokens = longest, seeds = 1 }
"#;

/// A folder of files, and a server with some of them open.
struct Workspace {
    folder: TempDir,
    client: Client,
}

impl Workspace {
    fn new() -> Workspace {
        Workspace::with_capabilities(json!({}))
    }

    fn with_capabilities(capabilities: Value) -> Workspace {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let client = Client::start(&folder.path().join("cache"), capabilities);
        Workspace { folder, client }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn uri(&self, name: &str) -> String {
        format!("file://{}", self.path(name).display())
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("a file");
    }

    /// Opens a file and returns its diagnostics.
    fn open(&mut self, name: &str, text: &str) -> Vec<Value> {
        let uri = self.uri(name);
        let document = json!({ "uri": uri, "languageId": "mopd", "version": 1, "text": text });
        self.client.notify("textDocument/didOpen", json!({ "textDocument": document }));
        self.client.diagnostics(&uri)
    }

    /// Replaces the whole text and returns the new diagnostics.
    fn replace(&mut self, name: &str, version: i64, text: &str) -> Vec<Value> {
        let uri = self.uri(name);
        let document = json!({ "uri": uri, "version": version });
        self.client.notify(
            "textDocument/didChange",
            json!({ "textDocument": document, "contentChanges": [{ "text": text }] }),
        );
        self.client.diagnostics(&uri)
    }

    /// Sends a request about a position in a file; `more` has further parameters.
    fn ask(&mut self, method: &str, name: &str, position: Value, more: Value) -> Value {
        let mut params = json!({ "textDocument": { "uri": self.uri(name) }, "position": position });
        for (key, value) in more.as_object().cloned().unwrap_or_default() {
            params[key] = value;
        }
        self.client.request(method, params)
    }
}

/// The position right before the `nth` occurrence of a text, counted from 0, in UTF-16 units.
fn position(text: &str, part: &str, nth: usize) -> Value {
    let (at, _) = text.match_indices(part).nth(nth).unwrap_or_else(|| panic!("no {part:?}"));
    position_of(text, at)
}

fn position_of(text: &str, at: usize) -> Value {
    let line_start = text[..at].rfind('\n').map_or(0, |at| at + 1);
    json!({ "line": text[..at].matches('\n').count(), "character": text[line_start..at].encode_utf16().count() })
}

/// The text of a range of UTF-16 positions.
fn slice<'a>(text: &'a str, range: &Value) -> &'a str {
    &text[offset(text, &range["start"])..offset(text, &range["end"])]
}

fn offset(text: &str, position: &Value) -> usize {
    let line = position["line"].as_u64().expect("a line") as usize;
    let column = position["character"].as_u64().expect("a column") as usize;
    let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let mut units = 0;
    let within = text[start..].char_indices().find(|(_, character)| {
        let here = units == column;
        units += character.len_utf16();
        here
    });
    within.map_or(text.len(), |(at, _)| start + at)
}

/// The text after the edits of a response, which are sorted and all relative to the text before.
fn apply(text: &str, edits: &Value) -> String {
    let mut new = text.to_owned();
    for edit in edits.as_array().expect("edits").iter().rev() {
        let (start, end) = (offset(text, &edit["range"]["start"]), offset(text, &edit["range"]["end"]));
        new.replace_range(start..end, edit["newText"].as_str().expect("a text"));
    }
    new
}
