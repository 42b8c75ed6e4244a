//! Long sessions: whatever is typed, the diagnostics are those of a check from scratch, and memory does not
//! grow.
//!
//! `./x test` makes 2,000 random edits, `MOPD_EDITS=100000 ./x test` another number. With `--nocapture` the
//! test prints how long they took, and the server's memory at the beginning and at the end.

use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use super::{GOOD, Workspace, position_of};

/// Pseudorandom numbers, the same in every run (Steele et al., "Fast splittable pseudorandom number
/// generators", 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

const PIECES: &[&str] = &[
    "𝒜",
    "é",
    "✓",
    "\n",
    "\r\n",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    "\"",
    "//",
    "/* ",
    ",",
    "=",
    ".",
    "->",
    "||",
    "live ",
    "model ",
    "let x = 1\n",
    "student.",
    "objective o {\n",
    "use std.",
    "1e999",
    "for d in domains: ",
    " ",
    "@",
    "reduce = mean(token)",
    "([{([{",
    ")}])",
    "}}}",
    "\"𝒜",
    "// allow(unused-domain): é",
    "\u{feff}",
    "domain é { prompts = \"漢\" }\n",
];

/// A position in the negotiated encoding.
fn place(text: &str, at: usize, utf8: bool) -> Value {
    let mut place = position_of(text, at);
    if utf8 {
        place["character"] = json!(at - text[..at].rfind('\n').map_or(0, |at| at + 1));
    }
    place
}

/// Makes one change that an editor could send, and applies it to the text.
fn edit(random: &mut Random, text: &mut String, utf8: bool) -> Value {
    let boundary = |random: &mut Random, text: &str| {
        let mut at = text.floor_char_boundary(random.below(text.len() + 1));
        // A cursor is never between the two characters of a line end.
        if text[at..].starts_with('\n') && text[..at].ends_with('\r') {
            at -= 1;
        }
        at
    };
    let start = boundary(random, text);
    let end = match random.below(3) {
        0 => {
            let mut end = text.floor_char_boundary((start + random.below(30)).min(text.len()));
            if text[end..].starts_with('\n') && text[..end].ends_with('\r') {
                end -= 1;
            }
            end.max(start)
        }
        _ => start,
    };
    let new = PIECES[random.below(PIECES.len())];
    let range = json!({ "start": place(text, start, utf8), "end": place(text, end, utf8) });
    text.replace_range(start..end, new);
    json!({ "range": range, "text": new })
}

/// The memory that a process has in use, in KiB.
fn memory(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Code and range of every diagnostic, as sent to the editor.
type Diagnostics = Vec<(Value, Value, Value)>;

fn published(diagnostics: &[Value]) -> Diagnostics {
    let shown = |diagnostic: &Value| {
        (diagnostic["code"].clone(), diagnostic["range"]["start"].clone(), diagnostic["range"]["end"].clone())
    };
    diagnostics.iter().map(shown).collect()
}

/// The diagnostics of a check from scratch.
fn fresh(path: &str, text: &str, utf8: bool) -> Diagnostics {
    let analysis = mopd_tests::check(path, text);
    let own = analysis
        .diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.primary.span.file == mopd_lang::ide::ENTRY);
    let shown = own.map(|diagnostic| {
        let span = diagnostic.primary.span;
        (
            json!(diagnostic.code.name()),
            place(text, span.start as usize, utf8),
            place(text, span.end as usize, utf8),
        )
    });
    shown.collect()
}

/// Requests every feature; none may fail, whatever the text is.
fn ask_everything(workspace: &mut Workspace, place: &Value) {
    let document = json!({ "uri": workspace.uri("a.mopd") });
    for method in ["hover", "completion", "signatureHelp", "definition", "documentHighlight"] {
        workspace.ask(&format!("textDocument/{method}"), "a.mopd", place.clone(), json!({}));
    }
    workspace.ask(
        "textDocument/references",
        "a.mopd",
        place.clone(),
        json!({ "context": { "includeDeclaration": true } }),
    );
    // Most places have no name that could be changed.
    let rename = json!({ "textDocument": document, "position": place, "newName": "other" });
    let _ = workspace.client.attempt("textDocument/rename", rename);
    for method in ["foldingRange", "documentSymbol", "semanticTokens/full", "documentLink"] {
        workspace.client.request(&format!("textDocument/{method}"), json!({ "textDocument": document }));
    }
    let options = json!({ "tabSize": 2, "insertSpaces": true });
    workspace
        .client
        .request("textDocument/formatting", json!({ "textDocument": document, "options": options }));
    let everything = json!({ "start": { "line": 0, "character": 0 }, "end": place });
    for (method, more) in [("rangeFormatting", json!(options)), ("inlayHint", Value::Null)] {
        let params = json!({ "textDocument": document, "range": everything, "options": more });
        workspace.client.request(&format!("textDocument/{method}"), params);
    }
    let params = json!({ "textDocument": document, "range": everything, "context": { "diagnostics": [] } });
    workspace.client.request("textDocument/codeAction", params);
    for character in ["}", "\n"] {
        workspace.ask(
            "textDocument/onTypeFormatting",
            "a.mopd",
            place.clone(),
            json!({ "ch": character, "options": options }),
        );
    }
    workspace
        .client
        .request("textDocument/selectionRange", json!({ "textDocument": document, "positions": [place] }));
}

fn edits_end_in_the_diagnostics_of_a_fresh_check(edits: usize, seed: u64, utf8: bool) {
    let encodings = if utf8 { json!(["utf-8"]) } else { json!(["utf-16"]) };
    let mut workspace =
        Workspace::with_capabilities(json!({ "general": { "positionEncodings": encodings } }));
    workspace.open("a.mopd", GOOD);
    let uri = workspace.uri("a.mopd");
    let path = workspace.path("a.mopd").display().to_string();
    let mut random = Random(seed);
    let mut text = GOOD.to_owned();
    let started = Instant::now();
    let (mut early, mut made, mut version) = (None, 0, 1);
    while made < edits {
        version += 1;
        // Typing sends one change at a time; some editors send several. Now and then the text is reset.
        let changes: Vec<Value> = match version % 40 {
            0 => {
                text = GOOD.to_owned();
                vec![json!({ "text": GOOD })]
            }
            1..30 => vec![edit(&mut random, &mut text, utf8)],
            _ => (0..3).map(|_| edit(&mut random, &mut text, utf8)).collect(),
        };
        made += changes.len();
        let document = json!({ "uri": uri, "version": version });
        workspace
            .client
            .notify("textDocument/didChange", json!({ "textDocument": document, "contentChanges": changes }));
        let diagnostics = workspace.client.diagnostics(&uri);
        if version % 10 == 0 || made + 100 > edits {
            assert_eq!(published(&diagnostics), fresh(&path, &text, utf8), "after {made} edits:\n{text}");
        }
        if version % 97 == 0 {
            let at = text.floor_char_boundary(random.below(text.len() + 1));
            ask_everything(&mut workspace, &place(&text, at, utf8));
        }
        if version == 400 {
            early = memory(workspace.client.process.id());
        }
    }
    let late = memory(workspace.client.process.id());
    println!(
        "{made} edits, {:.1} s; memory: {early:?} KiB after 400 changes, {late:?} KiB at the end",
        started.elapsed().as_secs_f64()
    );
    // The server's text after all edits is the edited text: its diagnostics are those of the text sent as a
    // whole, and of `mopd check`.
    let edited = workspace.replace("a.mopd", version + 1, &text);
    assert_eq!(published(&edited), fresh(&path, &text, utf8));
    workspace.write("a.mopd", &text);
    let checked = Command::new(mopd_tests::mopd())
        .args(["check", "--format", "json", &path])
        .output()
        .expect("mopd starts");
    let checked: Vec<Value> = serde_json::from_slice(&checked.stdout).expect("a list of diagnostics");
    let code = |diagnostics: &[Value]| {
        diagnostics.iter().map(|diagnostic| diagnostic["code"].clone()).collect::<Vec<Value>>()
    };
    assert_eq!(code(&checked), code(&edited));
    // A generous bound: memory must not grow with every edit.
    if let (Some(early), Some(late)) = (early, late) {
        assert!(late < early + 16 * 1024, "{early} KiB became {late} KiB");
    }
}

#[test]
fn random_edits_end_in_the_diagnostics_of_a_fresh_check() {
    let edits = match std::env::var("MOPD_EDITS") {
        Ok(number) => number.parse().expect("MOPD_EDITS is a number"),
        Err(_) => 2_000,
    };
    // With both encodings of columns.
    for (seed, utf8) in [(7, false), (8, true)] {
        edits_end_in_the_diagnostics_of_a_fresh_check(edits / 2, seed, utf8);
    }
}
