//! Names across files: definitions, references, renames, symbols; diagnostics of imported files.

use std::path::Path;

use serde_json::{Value, json};

use super::{GOOD, Workspace, position, slice};

const LIBRARY: &str =
    "/// Half.\npub let half = 0.5\n\n/// Twice.\npub fn twice(x) = x * 2\n\nlet private = 3\n";
const USER: &str = "// 𝒜\nuse parts.{half, twice}\nlet a = twice(x: half) + half\n";

#[test]
fn definitions_lead_to_other_files_and_into_the_library() {
    let mut workspace =
        Workspace::with_capabilities(json!({ "textDocument": { "definition": { "linkSupport": true } } }));
    workspace.write("parts.mopd", LIBRARY);
    workspace.open("a.mopd", GOOD);
    assert_eq!(workspace.open("user.mopd", USER), [Value::Null; 0]);
    let found = workspace.ask("textDocument/definition", "user.mopd", position(USER, "half", 1), json!({}));
    assert_eq!(found[0]["targetUri"], json!(workspace.uri("parts.mopd")), "{found}");
    assert_eq!(slice(LIBRARY, &found[0]["targetSelectionRange"]), "half");
    assert_eq!(slice(USER, &found[0]["originSelectionRange"]), "half");
    // The standard library lies in the cache folder, as files that any editor can open.
    let found =
        workspace.ask("textDocument/definition", "a.mopd", position(GOOD, "mopd(clip_at", 0), json!({}));
    let uri = found[0]["targetUri"].as_str().expect("an address").to_owned();
    let path = uri.strip_prefix("file://").expect("a file");
    assert!(Path::new(path).starts_with(workspace.path("cache")), "{path}");
    let text = std::fs::read_to_string(path).expect("the file is there");
    assert_eq!(slice(&text, &found[0]["targetSelectionRange"]), "mopd");
    assert!(std::fs::metadata(path).expect("the file is there").permissions().readonly());
    // In the library's file, references to its items are found.
    let document = json!({ "uri": uri, "languageId": "mopd", "version": 1, "text": text });
    workspace.client.notify("textDocument/didOpen", json!({ "textDocument": document }));
    assert_eq!(workspace.client.diagnostics(&uri), [Value::Null; 0]);
    let place = position(&text, "mopd(clip_at", 0);
    let params = json!({ "textDocument": { "uri": uri }, "position": place, "context": { "includeDeclaration": false } });
    let uses = workspace.client.request("textDocument/references", params);
    let of_user = json!(workspace.uri("a.mopd"));
    assert_eq!(
        uses.as_array().expect("places").iter().filter(|place| place["uri"] == of_user).count(),
        2,
        "{uses}"
    );
}

#[test]
fn references_and_highlights_find_every_use() {
    let mut workspace = Workspace::new();
    workspace.write("parts.mopd", LIBRARY);
    workspace.open("user.mopd", USER);
    workspace.open("parts.mopd", LIBRARY);
    let all = json!({ "context": { "includeDeclaration": true } });
    let uses = workspace.ask("textDocument/references", "parts.mopd", position(LIBRARY, "half", 0), all);
    assert_eq!(uses.as_array().expect("places").len(), 4, "{uses}");
    let of_label = workspace.ask(
        "textDocument/references",
        "user.mopd",
        position(USER, "x: half", 0),
        json!({ "context": { "includeDeclaration": false } }),
    );
    assert_eq!(of_label.as_array().expect("places").len(), 2, "{of_label}");
    let marks =
        workspace.ask("textDocument/documentHighlight", "user.mopd", position(USER, "half", 0), json!({}));
    let texts: Vec<&str> =
        marks.as_array().expect("marks").iter().map(|mark| slice(USER, &mark["range"])).collect();
    assert_eq!(texts, ["half"; 3]);
}

#[test]
fn a_rename_reaches_the_open_importers_and_leaves_the_meaning() {
    let mut workspace = Workspace::new();
    workspace.write("parts.mopd", LIBRARY);
    workspace.open("user.mopd", USER);
    workspace.open("parts.mopd", LIBRARY);
    let prepared =
        workspace.ask("textDocument/prepareRename", "user.mopd", position(USER, "half", 1), json!({}));
    assert_eq!(prepared["placeholder"], "half");
    assert_eq!(slice(USER, &prepared["range"]), "half");
    let edits = workspace.ask(
        "textDocument/rename",
        "user.mopd",
        position(USER, "half", 1),
        json!({ "newName": "moiety" }),
    );
    let mut renamed = Vec::new();
    for (name, text) in [("user.mopd", USER), ("parts.mopd", LIBRARY)] {
        let mut places: Vec<Value> = edits["changes"][workspace.uri(name)].as_array().expect("edits").clone();
        places.sort_by_key(|edit| std::cmp::Reverse(super::offset(text, &edit["range"]["start"])));
        let mut new = text.to_owned();
        for edit in places {
            let (start, end) =
                (super::offset(text, &edit["range"]["start"]), super::offset(text, &edit["range"]["end"]));
            new.replace_range(start..end, edit["newText"].as_str().expect("a text"));
        }
        assert_eq!(new, text.replace("half", "moiety"));
        renamed.push(new);
    }
    workspace.replace("parts.mopd", 2, &renamed[1]);
    // Between the two edits, the importer's import is an error, and the uses of the imported name are not
    // reported as well.
    let user = workspace.uri("user.mopd");
    assert_eq!(workspace.client.diagnostics(&user).len(), 1);
    assert_eq!(workspace.replace("user.mopd", 2, &renamed[0]), [Value::Null; 0]);
}

#[test]
fn a_rename_that_would_change_the_meaning_is_refused_in_words() {
    let mut workspace = Workspace::new();
    workspace.open("a.mopd", GOOD);
    let uri = workspace.uri("a.mopd");
    let mut refused = |place: Value, new: &str| {
        let params = json!({ "textDocument": { "uri": uri }, "position": place, "newName": new });
        let error = workspace.client.attempt("textDocument/rename", params).expect_err("refused");
        assert_eq!(error["code"], -32803, "{error}");
        error["message"].as_str().expect("a message").to_owned()
    };
    let longest = position(GOOD, "longest", 0);
    assert!(refused(longest.clone(), "sort").contains("declared already"));
    assert!(refused(longest.clone(), "live").contains("word of the language"));
    assert!(refused(longest, "2x").contains("no name"));
    assert!(refused(position(GOOD, "mopd(clip_at", 0), "other").contains("standard library"));
    assert!(refused(position(GOOD, "llama", 0), "other").contains("part of the language"));
}

#[test]
fn rename_of_a_template_parameter_refuses_names_of_slots() {
    const TEXT: &str = "template hint(note: text) = \"{prompt} {note} {demonstration}\"\n";
    let mut workspace = Workspace::new();
    assert_eq!(workspace.open("a.mopd", TEXT), [Value::Null; 0]);
    let uri = workspace.uri("a.mopd");
    for slot in ["prompt", "draft", "group", "demonstration"] {
        let params =
            json!({ "textDocument": { "uri": uri }, "position": position(TEXT, "note", 0), "newName": slot });
        let error = workspace.client.attempt("textDocument/rename", params).expect_err("refused");
        assert!(
            error["message"].as_str().is_some_and(|message| message.contains("slot of the template")),
            "{error}"
        );
    }
    let edits = workspace.ask(
        "textDocument/rename",
        "a.mopd",
        position(TEXT, "note", 0),
        json!({ "newName": "remark" }),
    );
    assert_eq!(edits["changes"][&uri].as_array().expect("edits").len(), 2, "{edits}");
}

#[test]
fn rename_of_a_term_changes_where_its_loss_is_read() {
    const TEXT: &str = "objective o {\n  state level = 0 then 0.9 * level + 0.1 * loss.pull\n  \
                        term pull = level * live kl(student || teacher)\n  reduce = mean(token) then mean(sequence)\n}\n";
    let mut workspace = Workspace::new();
    workspace.open("a.mopd", TEXT);
    let uri = workspace.uri("a.mopd");
    for nth in [0, 1] {
        let edits = workspace.ask(
            "textDocument/rename",
            "a.mopd",
            position(TEXT, "pull", nth),
            json!({ "newName": "follow" }),
        );
        assert_eq!(edits["changes"][&uri].as_array().expect("edits").len(), 2, "{edits}");
    }
}

#[test]
fn diagnostics_follow_imports_of_open_files() {
    let mut workspace = Workspace::new();
    workspace.write("parts.mopd", LIBRARY);
    assert_eq!(workspace.open("user.mopd", USER), [Value::Null; 0]);
    let user = workspace.uri("user.mopd");
    // The editor's text counts, not the text on disk.
    workspace.open("parts.mopd", LIBRARY);
    workspace.replace("parts.mopd", 2, &LIBRARY.replace("pub let half", "let half"));
    let diagnostics = workspace.client.diagnostics(&user);
    assert_eq!(diagnostics[0]["code"], "not-public", "{diagnostics:?}");
    // An error in the imported file is reported there, and not in the importer.
    let broken = workspace.replace("parts.mopd", 3, &LIBRARY.replace("x * 2", "y * 2"));
    assert_eq!(broken[0]["code"], "unknown-name");
    assert_eq!(workspace.client.diagnostics(&user), [Value::Null; 0]);
    workspace.replace("parts.mopd", 4, LIBRARY);
    // After the file is closed, the text on disk counts again, and its changes are noticed.
    workspace.write("parts.mopd", "pub let other = 1\n");
    let parts = workspace.uri("parts.mopd");
    workspace.client.notify("textDocument/didClose", json!({ "textDocument": { "uri": parts } }));
    assert_eq!(workspace.client.diagnostics(&user)[0]["code"], "unknown-name");
    workspace.write("parts.mopd", LIBRARY);
    let event = json!({ "changes": [{ "uri": parts, "type": 2 }] });
    workspace.client.notify("workspace/didChangeWatchedFiles", event);
    assert_eq!(workspace.client.diagnostics(&user), [Value::Null; 0]);
    // An error in a file that is not open is reported at its import.
    workspace.write("parts.mopd", &LIBRARY.replace("x * 2", "y * 2"));
    workspace.client.notify("textDocument/didSave", json!({ "textDocument": { "uri": parts } }));
    let diagnostics = workspace.client.diagnostics(&user);
    assert!(
        diagnostics[0]["message"].as_str().is_some_and(|text| text.contains("parts.mopd")),
        "{diagnostics:?}"
    );
    assert_eq!(slice(USER, &diagnostics[0]["range"]), "parts");
}

#[test]
fn symbols_of_a_file_and_of_everything_open() {
    let mut workspace = Workspace::with_capabilities(
        json!({ "textDocument": { "documentSymbol": { "hierarchicalDocumentSymbolSupport": true } } }),
    );
    workspace.open("a.mopd", GOOD);
    let uri = workspace.uri("a.mopd");
    let symbols =
        workspace.client.request("textDocument/documentSymbol", json!({ "textDocument": { "uri": uri } }));
    let named = |symbols: &Value| -> Vec<String> {
        symbols
            .as_array()
            .expect("symbols")
            .iter()
            .map(|symbol| symbol["name"].as_str().expect("a name").to_owned())
            .collect()
    };
    assert_eq!(named(&symbols)[..3], ["tiny 𝒜", "sort", "base"].map(str::to_owned));
    let mine =
        symbols.as_array().expect("symbols").iter().find(|symbol| symbol["name"] == "mine").expect("mine");
    assert_eq!(named(&mine["children"]), ["gap", "distill"]);
    assert_eq!(slice(GOOD, &mine["selectionRange"]), "mine");
    assert!(slice(GOOD, &mine["range"]).starts_with("objective mine {"));
    let found = workspace.client.request("workspace/symbol", json!({ "query": "mtopk" }));
    assert_eq!(named(&found), ["mopd_top_k"]);
    // Clients without support for nested symbols get a flat list.
    let mut plain = Workspace::new();
    plain.open("a.mopd", GOOD);
    let uri = plain.uri("a.mopd");
    let flat = plain.client.request("textDocument/documentSymbol", json!({ "textDocument": { "uri": uri } }));
    assert_eq!(flat[1]["location"]["uri"], json!(uri));
}
