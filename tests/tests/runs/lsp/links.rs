//! Document links: files and other things outside the text that it names.

use serde_json::{Value, json};

use super::{Workspace, slice};

#[test]
fn files_scripts_modules_and_papers_are_links() {
    let mut workspace = Workspace::new();
    let text = "// 𝒜 arXiv:2606.30406, not 2606.30407\nuse std.opd.mopd\nuse parts.half\ndomain sort { \
                prompts = \"data/sort é.jsonl\", tests = \"data/missing.jsonl\", reward = command(\"python3 \
                verify.py 3\") }\ndomain rest { prompts = \"data\", reward = exact_match }\n";
    std::fs::create_dir(workspace.path("data")).expect("a folder");
    workspace.write("data/sort é.jsonl", "{}\n");
    workspace.write("verify.py", "pass\n");
    workspace.write("parts.mopd", "pub let half = 0.5\n");
    workspace.open("a.mopd", text);
    let uri = workspace.uri("a.mopd");
    let links =
        workspace.client.request("textDocument/documentLink", json!({ "textDocument": { "uri": uri } }));
    let shown: Vec<(&str, &str)> = links
        .as_array()
        .expect("links")
        .iter()
        .map(|link| (slice(text, &link["range"]), link["target"].as_str().expect("an address")))
        .collect();
    let [paper, library, module, data, script] = shown.as_slice() else { panic!("{shown:?}") };
    assert_eq!(*paper, ("arXiv:2606.30406", "https://arxiv.org/abs/2606.30406"));
    assert!(library.0 == "std.opd" && library.1.ends_with("/opd.mopd"), "{library:?}");
    assert_eq!(*module, ("parts", workspace.uri("parts.mopd").as_str()));
    assert_eq!(data.0, "data/sort é.jsonl");
    assert!(data.1.ends_with("/data/sort%20%C3%A9.jsonl"), "{data:?}");
    assert_eq!(*script, ("verify.py", workspace.uri("verify.py").as_str()));
    // An incomplete file has links too.
    workspace.replace("a.mopd", 2, "model m = {{ ( \"verify.py");
    assert_eq!(
        workspace.client.request("textDocument/documentLink", json!({ "textDocument": { "uri": uri } })),
        json!([])
    );
    workspace.replace("a.mopd", 3, "model m = {{ ( \"verify.py\"");
    let links =
        workspace.client.request("textDocument/documentLink", json!({ "textDocument": { "uri": uri } }));
    assert_eq!(links.as_array().map(Vec::len), Some(1), "{links}");
    assert_ne!(links[0]["target"], Value::Null);
}
