//! Completion of names from outside the file: modules, files, models, fields of the data.

use serde_json::{Value, json};

use super::{GOOD, Workspace, apply, position_of};

/// The labels of the proposals at the end of `part`.
fn completed(workspace: &mut Workspace, name: &str, text: &str, part: &str) -> Vec<(String, Value)> {
    let end = text.find(part).expect("it is there") + part.len();
    let found = workspace.ask("textDocument/completion", name, position_of(text, end), json!({}));
    let items = found["items"].as_array().expect("items").iter();
    items.map(|item| (item["label"].as_str().expect("a label").to_owned(), item.clone())).collect()
}

fn labels(found: &[(String, Value)]) -> Vec<&str> {
    found.iter().map(|(label, _)| label.as_str()).collect()
}

#[test]
fn a_name_of_the_library_comes_with_its_import() {
    let mut workspace = Workspace::new();
    workspace.write("mine.mopd", "pub objective gentle {\n  term t = live kl(student || teacher)\n}\n");
    let text = GOOD.replace("use std.opd.mopd\n", "");
    let diagnostics = workspace.open("a.mopd", &text);
    assert_eq!(diagnostics[0]["code"], "unknown-name", "{diagnostics:?}");
    let found = completed(&mut workspace, "a.mopd", &text, "objective = mopd");
    assert_eq!(labels(&found)[0], "mine");
    let (_, item) = found.iter().find(|(label, _)| label == "mopd").expect("a name of the library");
    let with_import = apply(&text, &item["additionalTextEdits"]);
    assert!(with_import.contains("use std.opd.mopd\n"), "{with_import}");
    assert_eq!(workspace.replace("a.mopd", 2, &with_import), [Value::Null; 0]);
    let (_, own) = found.iter().find(|(label, _)| label == "gentle").expect("a name of the file beside");
    assert!(apply(&text, &own["additionalTextEdits"]).contains("use mine.gentle\n"), "{own}");
}

#[test]
fn files_and_fields_are_read_from_the_folder_of_the_file() {
    let mut workspace = Workspace::new();
    std::fs::create_dir(workspace.path("data")).expect("a folder");
    workspace.write(
        "data/one.jsonl",
        "{\"prompt\": \"a\", \"demonstration\": \"b\", \"no name\": 1}\n{\"level\": 2}\n",
    );
    workspace.write("notes.txt", "");
    let half = GOOD.replace("prompts = \"sort.jsonl\"", "prompts = \"data/\"");
    workspace.open("a.mopd", &half);
    let files = completed(&mut workspace, "a.mopd", &half, "prompts = \"data/");
    assert_eq!(labels(&files), ["one.jsonl"]);
    let whole =
        half.replace("\"data/\"", "\"data/one.jsonl\"").replace("target = demonstration", "target = ");
    workspace.replace("a.mopd", 2, &whole);
    let fields = completed(&mut workspace, "a.mopd", &whole, "target = ");
    assert_eq!(labels(&fields), ["demonstration", "level", "prompt"]);
    // So are the columns of a table.
    workspace.write("data/two.csv", "question,final answer,grade\na,b,1\n");
    let table = whole.replace("one.jsonl", "two.csv");
    workspace.replace("a.mopd", 3, &table);
    let fields = completed(&mut workspace, "a.mopd", &table, "target = ");
    assert_eq!(labels(&fields), ["grade", "question"]);
    let folder = half.replace("\"data/\"", "\"\"");
    workspace.replace("a.mopd", 4, &folder);
    let found = completed(&mut workspace, "a.mopd", &folder, "prompts = \"");
    // The server may have created its cache beside the files by now.
    let entries: Vec<&str> = labels(&found).into_iter().filter(|entry| *entry != "cache/").collect();
    assert_eq!(entries, ["data/"]);
}

#[test]
fn models_of_this_machine_are_proposed() {
    let mut workspace = Workspace::new();
    let model = workspace.path("cache/huggingface/hub/models--org--tiny/snapshots");
    std::fs::create_dir_all(model).expect("a folder");
    let text = "model m = hf(\"o\")\n";
    workspace.open("a.mopd", text);
    let found = completed(&mut workspace, "a.mopd", text, "hf(\"o");
    assert_eq!(labels(&found), ["org/tiny", "cache"]);
    assert_eq!(found[0].1["textEdit"]["newText"], "org/tiny");
}
