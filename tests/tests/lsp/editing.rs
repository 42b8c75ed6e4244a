//! Long sessions: whatever is typed, the findings are those of a fresh check, and memory stays where it was.

use serde_json::{Value, json};

use super::{GOOD, Workspace, position_of};

/// Numbers that look random and are the same in every run (Steele et al., "Fast splittable pseudorandom number generators", 2014).
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
];

/// One change that an editor could send, and what it makes of the text.
fn edit(random: &mut Random, text: &mut String) -> Value {
    let boundary = |random: &mut Random, text: &str| {
        let mut at = text.floor_char_boundary(random.below(text.len() + 1));
        // No cursor stands between the two halves of a line end.
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
    let range = json!({ "start": position_of(text, start), "end": position_of(text, end) });
    text.replace_range(start..end, new);
    json!({ "range": range, "text": new })
}

/// The memory that a process has in use, in KiB.
fn memory(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn thousands_of_edits_end_in_the_findings_of_a_fresh_check() {
    const EDITS: usize = 4_000;
    let mut workspace = Workspace::new();
    workspace.open("a.mopd", GOOD);
    let uri = workspace.uri("a.mopd");
    let path = workspace.path("a.mopd").display().to_string();
    let mut random = Random(7);
    let mut text = GOOD.to_owned();
    let mut early = None;
    for version in 2..EDITS {
        // Typing sends one change at a time; some editors send several at once. Now and then all is undone.
        let changes: Vec<Value> = match version % 40 {
            0 => {
                text = GOOD.to_owned();
                vec![json!({ "text": GOOD })]
            }
            1..30 => vec![edit(&mut random, &mut text)],
            _ => (0..3).map(|_| edit(&mut random, &mut text)).collect(),
        };
        let document = json!({ "uri": uri, "version": version });
        workspace.client.notify("textDocument/didChange", json!({ "textDocument": document, "contentChanges": changes }));
        let published = workspace.client.findings(&uri);
        if version % 10 == 0 || version > EDITS - 50 {
            let fresh = mopd_tests::check(&path, &text);
            let own = fresh.diagnostics.iter().filter(|finding| finding.primary.span.file == mopd_lang::ide::ENTRY);
            let expected: Vec<(Value, Value, Value)> = own
                .map(|finding| {
                    let span = finding.primary.span;
                    let place = |at: u32| position_of(&text, at as usize);
                    (json!(finding.code.name()), place(span.start), place(span.end))
                })
                .collect();
            let found: Vec<(Value, Value, Value)> = published
                .iter()
                .map(|finding| (finding["code"].clone(), finding["range"]["start"].clone(), finding["range"]["end"].clone()))
                .collect();
            assert_eq!(found, expected, "after {version} edits:\n{text}");
        }
        if version % 97 == 0 {
            // Every feature survives whatever the text is.
            let at = text.floor_char_boundary(random.below(text.len() + 1));
            let place = position_of(&text, at);
            for method in ["hover", "completion", "signatureHelp", "definition", "documentHighlight"] {
                workspace.ask(&format!("textDocument/{method}"), "a.mopd", place.clone(), json!({}));
            }
            for method in ["foldingRange", "documentSymbol", "semanticTokens/full"] {
                workspace.client.request(&format!("textDocument/{method}"), json!({ "textDocument": { "uri": uri } }));
            }
            let options = json!({ "tabSize": 2, "insertSpaces": true });
            workspace.client.request("textDocument/formatting", json!({ "textDocument": { "uri": uri }, "options": options }));
            workspace
                .client
                .request("textDocument/selectionRange", json!({ "textDocument": { "uri": uri }, "positions": [place] }));
        }
        if version == 400 {
            early = memory(workspace.client.process.id());
        }
    }
    // Bounded generously: what must not happen is growth with every edit.
    if let (Some(early), Some(late)) = (early, memory(workspace.client.process.id())) {
        assert!(late < early + 16 * 1024, "{early} KiB became {late} KiB");
    }
}
