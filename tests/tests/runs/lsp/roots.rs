//! Several folders open at once.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::Client;
use super::{offset, slice};

const USER: &str = "// 𝒜\nuse parts.half\nlet a = half\n";

fn uri(folder: &Path, name: &str) -> String {
    format!("file://{}", folder.join(name).display())
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }
    folder
}

fn open(client: &mut Client, uri: &str, text: &str) -> Vec<Value> {
    let document = json!({ "uri": uri, "languageId": "mopd", "version": 1, "text": text });
    client.notify("textDocument/didOpen", json!({ "textDocument": document }));
    client.diagnostics(uri)
}

fn names(symbols: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = symbols
        .as_array()
        .expect("symbols")
        .iter()
        .map(|symbol| symbol["name"].as_str().expect("a name"))
        .collect();
    names.sort();
    names
}

#[test]
fn each_file_sees_its_own_neighbours_and_each_folder_its_symbols() {
    let one = folder(&[
        ("parts.mopd", "pub let half = 0.5\n"),
        ("deep/er/far_one.mopd", "let far = 1\n"),
        (".mopd/x.mopd", "let hidden_far = 1\n"),
    ]);
    let two =
        folder(&[("parts.mopd", "let half = 0.5\n"), ("more.mopd", "let far_two = 1\nlet broken = (\n")]);
    let cache = folder(&[]);
    let mut client = Client::connect(cache.path());
    let root = |folder: &TempDir| json!({ "uri": uri(folder.path(), ""), "name": "a root" });
    let capabilities = json!({ "workspace": { "workspaceFolders": true } });
    let params = json!({ "processId": null, "rootUri": null, "capabilities": capabilities, "workspaceFolders": [root(&one)] });
    let result = client.request("initialize", params);
    assert_eq!(
        result["capabilities"]["workspace"]["workspaceFolders"],
        json!({ "supported": true, "changeNotifications": true })
    );
    client.notify("initialized", json!({}));
    // The same text beside other files.
    assert_eq!(open(&mut client, &uri(one.path(), "user.mopd"), USER), [Value::Null; 0]);
    let diagnostics = open(&mut client, &uri(two.path(), "user.mopd"), USER);
    assert_eq!(diagnostics[0]["code"], "not-public", "{diagnostics:?}");
    assert_eq!(slice(USER, &diagnostics[0]["range"]), "half");

    let far = |client: &mut Client| {
        let symbols = client.request("workspace/symbol", json!({ "query": "far" }));
        names(&symbols).into_iter().map(str::to_owned).collect::<Vec<String>>()
    };
    assert_eq!(far(&mut client), ["far"]);
    let event = json!({ "event": { "added": [root(&two)], "removed": [] } });
    client.notify("workspace/didChangeWorkspaceFolders", event);
    assert_eq!(far(&mut client), ["far", "far_two"]);
    let event = json!({ "event": { "added": [], "removed": [root(&one)] } });
    client.notify("workspace/didChangeWorkspaceFolders", event);
    assert_eq!(far(&mut client), ["far_two"]);
}

#[test]
fn a_rename_reaches_the_files_of_the_folder_that_are_not_open() {
    let parts = "pub let half = 0.5\n";
    let one = folder(&[("parts.mopd", parts), ("user.mopd", USER), ("other.mopd", "let half = 1\n")]);
    let cache = folder(&[]);
    let mut client = Client::connect(cache.path());
    client.request(
        "initialize",
        json!({ "processId": null, "rootUri": uri(one.path(), ""), "capabilities": {} }),
    );
    client.notify("initialized", json!({}));
    let declared = uri(one.path(), "parts.mopd");
    open(&mut client, &declared, parts);
    let place = json!({ "textDocument": { "uri": declared }, "position": { "line": 0, "character": 9 } });
    let mut ask = place.clone();
    ask["context"] = json!({ "includeDeclaration": true });
    let found = client.request("textDocument/references", ask);
    assert_eq!(found.as_array().map(Vec::len), Some(3), "{found}");
    let mut ask = place;
    ask["newName"] = json!("moiety");
    let edits = client.request("textDocument/rename", ask);
    let changes = edits["changes"].as_object().expect("edits");
    assert_eq!(changes.len(), 2, "{edits}");
    let mut user: Vec<Value> = changes[&uri(one.path(), "user.mopd")].as_array().expect("edits").clone();
    user.sort_by_key(|edit| offset(USER, &edit["range"]["start"]));
    assert_eq!(super::apply(USER, &json!(user)), USER.replace("half", "moiety"));
}

/// Copies of sources that a run stores are neither searched nor renamed.
#[test]
fn the_sources_that_a_run_keeps_are_no_sources() {
    let text = "let only_here = 1\n";
    let files = [
        ("a.mopd", text),
        ("runs/tiny/plan.json", "{}"),
        ("runs/tiny/source.mopd", text),
        ("runs/tiny/modules/parts.mopd", text),
        ("runs/tiny/previous/source.mopd", text),
        ("runs/tiny/mine.mopd", "let also_here = 1\n"),
    ];
    let root = folder(&files);
    let cache = tempfile::tempdir().expect("a temporary folder");
    let mut client = Client::connect(cache.path());
    let folders = json!([{ "uri": format!("file://{}", root.path().display()), "name": "root" }]);
    client.request("initialize", json!({ "capabilities": {}, "workspaceFolders": folders }));
    client.notify("initialized", json!({}));
    let found = client.request("workspace/symbol", json!({ "query": "here" }));
    assert_eq!(names(&found), ["also_here", "only_here"], "{found}");
}
