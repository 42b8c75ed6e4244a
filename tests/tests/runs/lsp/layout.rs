//! Formatting: of a document, of a selection, and while typing.

use serde_json::{Value, json};

use super::{Workspace, apply, offset, position, position_of};

fn options() -> Value {
    json!({ "tabSize": 2, "insertSpaces": true })
}

#[test]
fn a_document_is_laid_out_as_the_formatter_does() {
    let mut workspace = Workspace::new();
    let careless =
        "let   é =  1\r\nlet longer=2 // 𝒜\r\nmodel m = f( \"𝒜  b\" ){\r\na=1 ,\r\n\r\n\r\n b=[ 1,2 ]}";
    workspace.open("a.mopd", careless);
    let ask = json!({ "textDocument": { "uri": workspace.uri("a.mopd") }, "options": options() });
    let edits = workspace.client.request("textDocument/formatting", ask);
    let formatted = mopd_lang::fmt::format(careless).text;
    assert_eq!(apply(careless, &edits), formatted);
    // Edits leave unchanged text alone, so that cursors stay in place.
    let at = careless.find("𝒜  b").expect("it is there");
    let touched = |edit: &&Value| {
        offset(careless, &edit["range"]["start"]) <= at && at < offset(careless, &edit["range"]["end"])
    };
    assert_eq!(edits.as_array().expect("edits").iter().find(touched), None);
    workspace.open("b.mopd", &formatted);
    let ask = json!({ "textDocument": { "uri": workspace.uri("b.mopd") }, "options": options() });
    assert_eq!(workspace.client.request("textDocument/formatting", ask), json!([]));
}

#[test]
fn a_selection_is_laid_out_and_the_rest_left_alone() {
    let mut workspace = Workspace::new();
    let text = "let  a=1 // 𝒜\nmodel m = f {\n   b=\"𝒜\"\n     c=2\n}\nlet  d=3\n";
    workspace.open("a.mopd", text);
    let uri = workspace.uri("a.mopd");
    let mut select = |from: Value, to: Value| {
        let range = json!({ "start": from, "end": to });
        let params = json!({ "textDocument": { "uri": uri }, "range": range, "options": options() });
        apply(text, &workspace.client.request("textDocument/rangeFormatting", params))
    };
    let whole_line = select(json!({ "line": 2, "character": 0 }), json!({ "line": 3, "character": 0 }));
    assert_eq!(whole_line, "let  a=1 // 𝒜\nmodel m = f {\n  b = \"𝒜\"\n     c=2\n}\nlet  d=3\n");
    let two = select(position(text, "c=2", 0), position(text, "d=3", 0));
    assert_eq!(two, "let  a=1 // 𝒜\nmodel m = f {\n   b=\"𝒜\"\n  c = 2\n}\nlet d = 3\n");
    let all = select(position_of(text, 0), position_of(text, text.len()));
    assert_eq!(all, mopd_lang::fmt::format(text).text);
}

#[test]
fn a_block_is_laid_out_when_it_is_closed_and_a_line_when_it_is_ended() {
    let mut workspace = Workspace::new();
    let text = "let  a=1\nmodel m = f {\n   b=\"𝒜\"\n   \n     c=2\n}\nlet  d=3\n";
    workspace.open("a.mopd", text);
    let uri = workspace.uri("a.mopd");
    let mut typed = |text: &str, at: usize, character: &str| {
        let document = json!({ "uri": uri });
        let params = json!({ "textDocument": document, "position": position_of(text, at), "ch": character, "options": options() });
        apply(text, &workspace.client.request("textDocument/onTypeFormatting", params))
    };
    let close = text.find('}').expect("it is there") + 1;
    assert_eq!(typed(text, close, "}"), "let  a=1\nmodel m = f {\n  b = \"𝒜\"\n\n  c = 2\n}\nlet  d=3\n");
    // The line of the cursor is not changed, because the editor has just indented it.
    let line = text.find("   \n").expect("it is there") + 3;
    assert_eq!(typed(text, line, "\n"), "let  a=1\nmodel m = f {\n  b = \"𝒜\"\n   \n     c=2\n}\nlet  d=3\n");
    assert_eq!(typed(text, close, ";"), text);
    assert_eq!(typed(text, 0, "\n"), text);
    // Text that does not parse yet is not changed.
    let half = "model m = f( {\n   b=1\n}";
    workspace.replace("a.mopd", 2, half);
    let position = position_of(half, half.len());
    let params =
        json!({ "textDocument": { "uri": uri }, "position": position, "ch": "}", "options": options() });
    assert_eq!(workspace.client.request("textDocument/onTypeFormatting", params), json!([]));
}
