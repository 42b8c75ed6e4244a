//! Features that an editor shows: diagnostics, hover, completion, signatures, hints, colours, fixes, folds.

use serde_json::{Value, json};

use super::{Client, GOOD, Workspace, position, position_of, slice};

fn messages(diagnostics: &[Value]) -> Vec<&str> {
    diagnostics.iter().map(|diagnostic| diagnostic["message"].as_str().expect("a message")).collect()
}

fn labels(completion: &Value) -> Vec<&str> {
    completion["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|item| item["label"].as_str().expect("a label"))
        .collect()
}

#[test]
fn diagnostics_come_as_the_text_changes_and_go_when_it_is_right() {
    let mut workspace = Workspace::with_capabilities(
        json!({ "textDocument": { "publishDiagnostics": { "relatedInformation": true } } }),
    );
    assert_eq!(workspace.open("a.mopd", GOOD), [Value::Null; 0]);
    let wrong = GOOD
        .replace("reduce = mean(token)", "/* 𝒜 */ reduce = mean(token)")
        .replace("clip_at: 5", "clipat: 5");
    let diagnostics = workspace.replace("a.mopd", 2, &wrong);
    assert_eq!(diagnostics.len(), 2, "{diagnostics:?}");
    assert_eq!(diagnostics[0]["code"], "foreign-syntax");
    assert_eq!(diagnostics[1]["code"], "unknown-argument");
    assert_eq!((&diagnostics[1]["severity"], &diagnostics[1]["source"]), (&json!(1), &json!("mopd")));
    assert_eq!(slice(&wrong, &diagnostics[1]["range"]), "clipat");
    assert!(messages(&diagnostics)[1].contains("did you mean `clip_at`?"), "{diagnostics:?}");
    let related = &diagnostics[1]["relatedInformation"][0];
    assert!(related["location"]["uri"].as_str().is_some_and(|uri| uri.ends_with("/opd.mopd")), "{related}");
    assert_eq!(workspace.replace("a.mopd", 3, GOOD), [Value::Null; 0]);
    // A closed file has no diagnostics.
    workspace.replace("a.mopd", 4, &wrong);
    let uri = workspace.uri("a.mopd");
    workspace.client.notify("textDocument/didClose", json!({ "textDocument": { "uri": uri } }));
    assert_eq!(workspace.client.diagnostics(&uri), [Value::Null; 0]);
}

/// An audit takes longer than a keystroke may. Its diagnostics stay while the objective is the same.
#[test]
fn gradients_are_audited_when_a_file_is_opened_or_saved() {
    let objective = "objective own {\n  let later = reward_to_go(kl(student || teacher), discount: 0, over: \
                     sequence)\n  term pull = later * live student.logp\n  reduce = mean(token, over: \
                     batch)\n}\n";
    let right = format!(
        "{}\n{}",
        GOOD.replace("mopd(clip_at: 5)", "own").replace("use std.opd.mopd\n", ""),
        objective.replace("discount: 0", "discount: 1")
    );
    let wrong = right.replace("discount: 1", "discount: 0");
    let mut workspace = Workspace::new();
    let zero_gradient = |diagnostics: &[Value], text: &str| {
        let [diagnostic] = diagnostics else { panic!("{diagnostics:?}") };
        assert_eq!(diagnostic["code"], "zero-gradient");
        assert_eq!(slice(text, &diagnostic["range"]), "later * live student.logp");
    };
    zero_gradient(&workspace.open("a.mopd", &wrong), &wrong);
    assert_eq!(workspace.replace("a.mopd", 2, &right), [Value::Null; 0]);
    zero_gradient(&workspace.replace("a.mopd", 3, &wrong), &wrong);
    let edits = [
        format!("// A note.\n{wrong}"),
        wrong.replace("  term pull", "  // A note.\n  term pull"),
        wrong.replace("seed = 1", "seed = 2"),
    ];
    for (nth, edited) in edits.iter().enumerate() {
        zero_gradient(&workspace.replace("a.mopd", 4 + nth as i64, edited), edited);
    }
    let other = wrong.replace("later * live", "2 * later * live");
    assert_eq!(workspace.replace("a.mopd", 7, &other), [Value::Null; 0]);
    let uri = workspace.uri("a.mopd");
    workspace.client.notify("textDocument/didSave", json!({ "textDocument": { "uri": uri } }));
    assert_eq!(workspace.client.diagnostics(&uri).len(), 1);
}

/// Edits of other files leave the audit of a file.
#[test]
fn audit_diagnostics_survive_edits_of_other_files() {
    let wrong = "use parts.{half}\nobjective own {\n  let later = reward_to_go(kl(student || teacher), discount: \
                 0, over: sequence)\n  term pull = half * later * live student.logp\n  reduce = mean(token, over: \
                 batch)\n}\n";
    let wrong =
        format!("{wrong}{}", GOOD.replace("mopd(clip_at: 5)", "own").replace("use std.opd.mopd\n", ""));
    let mut workspace = Workspace::new();
    workspace.write("parts.mopd", "pub let half = 0.5\n");
    let found =
        |diagnostics: &[Value]| diagnostics.iter().any(|diagnostic| diagnostic["code"] == "zero-gradient");
    let first = workspace.open("a.mopd", &wrong);
    assert!(found(&first), "{first:?}");
    let (own, parts) = (workspace.uri("a.mopd"), workspace.uri("parts.mopd"));
    let stays = |workspace: &mut Workspace, what: &str| {
        workspace.client.request("textDocument/documentSymbol", json!({ "textDocument": { "uri": own } }));
        let news = workspace.client.news(&own);
        assert!(news.as_deref().is_none_or(found), "{what}: {news:?}");
    };
    let event = json!({ "changes": [{ "uri": own, "type": 2 }, { "uri": parts, "type": 2 }] });
    workspace.client.notify("workspace/didChangeWatchedFiles", event);
    stays(&mut workspace, "saved");
    workspace.open("parts.mopd", "pub let half = 0.5\n");
    stays(&mut workspace, "its import is opened");
    let change = json!({ "uri": parts, "version": 2 });
    let text = json!([{ "text": "pub let half = 0.25\n" }]);
    let change = json!({ "textDocument": change, "contentChanges": text });
    workspace.client.notify("textDocument/didChange", change);
    stays(&mut workspace, "its import is edited");
    workspace.client.notify("textDocument/didClose", json!({ "textDocument": { "uri": parts } }));
    stays(&mut workspace, "its import is closed");
}

/// Whether a file exists is checked when the text is opened or saved.
#[test]
fn paths_that_lead_to_nothing_are_said() {
    let mut workspace = Workspace::new();
    workspace.write("a.mopd", GOOD);
    let found = workspace.open("a.mopd", GOOD);
    assert!(found.iter().all(|diagnostic| diagnostic["code"] == "missing-file"), "{found:?}");
    let missing: Vec<&str> = found.iter().map(|diagnostic| slice(GOOD, &diagnostic["range"])).collect();
    assert_eq!(missing, ["\"sort.jsonl\"", "\"sort.test.jsonl\""]);
    let rows = "{\"prompt\": \"a\", \"answer\": \"b\", \"demonstrations\": \"b\"}\n".repeat(4);
    workspace.write("sort.jsonl", &rows);
    workspace.write("sort.test.jsonl", &rows);
    let uri = workspace.uri("a.mopd");
    workspace.client.notify("textDocument/didSave", json!({ "textDocument": { "uri": uri } }));
    // The columns of the files are compared with what is read of them.
    let found = workspace.client.diagnostics(&uri);
    let read: Vec<_> =
        found.iter().map(|found| (found["code"].as_str(), slice(GOOD, &found["range"]))).collect();
    assert_eq!(read, [(Some("data-mismatch"), "demonstration")]);
    workspace.write("sort.jsonl", &rows.replace("demonstrations", "demonstration"));
    workspace.client.notify("textDocument/didSave", json!({ "textDocument": { "uri": uri } }));
    assert_eq!(workspace.client.diagnostics(&uri), [Value::Null; 0]);
}

#[test]
fn hover_explains_names_and_settings() {
    let mut workspace = Workspace::new();
    workspace.open("a.mopd", GOOD);
    let cases = [
        ("longest, seeds", "let longest = 8", "How long a completion may get."),
        ("gap * live", "let gap", "nats[token]"),
        ("mopd(clip_at", "objective mopd(clip_at: nats = 5)", "From `std.opd`."),
        ("clip_at", "clip_at: nats = 5", "Parameter of objective `mopd`."),
        (
            "mopd(clip_at",
            "Gradient, by `mopd audit`",
            "- `distill` follows 1.00 * grad KL(student || teacher)",
        ),
        ("prompts   = 2", "must be set", "Prompts per step"),
    ];
    for (place, first, second) in cases {
        let hover = workspace.ask("textDocument/hover", "a.mopd", position(GOOD, place, 0), json!({}));
        let text = hover["contents"]["value"].as_str().unwrap_or_else(|| panic!("{place}: {hover}"));
        assert!(text.contains(first) && text.contains(second), "{place}: {text}");
        assert!(place.starts_with(slice(GOOD, &hover["range"])), "{hover}");
    }
    assert_eq!(
        workspace.ask("textDocument/hover", "a.mopd", json!({ "line": 0, "character": 4 }), json!({})),
        Value::Null
    );
}

#[test]
fn completion_works_in_half_typed_text() {
    let mut workspace = Workspace::new();
    workspace.write("mine.mopd", "//! My own.\n\n/// Half.\npub let half = 0.5\nlet hidden = 1\n");
    let half = "// 𝒜𝒜 é\nuse std.opd.mopd\nuse \nmodel student = distill(start) {\n  objective = m\n  \
                rollout = sample(n: 1, tem\n  ste\n\nobjective o {\n  let gap = (student.lo\n";
    workspace.open("a.mopd", half);
    let mut at = |part: &str| {
        let end = half.find(part).expect("it is there") + part.len();
        let place = position_of(half, end);
        workspace.ask("textDocument/completion", "a.mopd", place, json!({}))
    };
    let imports = at("mopd\nuse ");
    assert_eq!(labels(&imports), ["mine", "std"]);
    let keys = at("\n  ste");
    assert!(labels(&keys).contains(&"steps") && !labels(&keys).contains(&"objective"), "{keys}");
    let item =
        keys["items"].as_array().expect("items").iter().find(|item| item["label"] == "steps").expect("steps");
    assert_eq!(item["textEdit"]["newText"], "steps = ");
    assert_eq!(slice(half, &item["textEdit"]["range"]), "ste");
    assert!(labels(&at("n: 1, tem")).contains(&"temperature:"));
    let objectives = at("objective = m");
    assert!(labels(&objectives).contains(&"mopd"), "{objectives}");
    let mut parts = mopd_lang::check::vocabulary::PARTS.iter().map(|part| part.name).collect::<Vec<_>>();
    parts.sort_unstable();
    assert_eq!(labels(&at("student.lo")), parts);
}

#[test]
fn an_import_is_completed_from_the_library_and_the_files_beside() {
    let mut workspace = Workspace::new();
    workspace.write("mine.mopd", "//! My own.\n\n/// Half.\npub let half = 0.5\nlet hidden = 1\n");
    let text = "use \nuse mine.\nuse std.opd.{\n";
    workspace.open("a.mopd", text);
    let mut at = |line: u64, character: u64| {
        workspace.ask(
            "textDocument/completion",
            "a.mopd",
            json!({ "line": line, "character": character }),
            json!({}),
        )
    };
    let modules = at(0, 4);
    assert!(labels(&modules).contains(&"std") && labels(&modules).contains(&"mine"), "{modules}");
    let own = at(1, 9);
    assert_eq!(labels(&own), ["half"]);
    assert_eq!(own["items"][0]["documentation"]["value"], "Half.");
    let library = at(2, 13);
    assert!(labels(&library).contains(&"mopd_top_k"), "{library}");
}

#[test]
fn signatures_name_the_argument_at_hand() {
    let mut workspace = Workspace::new();
    let text = GOOD.replace("mopd(clip_at: 5)", "mopd(");
    workspace.open("a.mopd", &text);
    let mut place = position(&text, "mopd(\n", 0);
    place["character"] = json!(place["character"].as_u64().expect("a column") + 5);
    let help = workspace.ask("textDocument/signatureHelp", "a.mopd", place, json!({}));
    assert_eq!(help["signatures"][0]["label"], "mopd(clip_at: nats = 5)", "{help}");
    assert_eq!(help["signatures"][0]["parameters"][0]["label"], json!([5, 22]));
    assert_eq!(help["activeParameter"], 0);
    assert!(
        help["signatures"][0]["documentation"]["value"]
            .as_str()
            .is_some_and(|doc| doc.contains("2606.30406")),
        "{help}"
    );
    let outside = workspace.ask(
        "textDocument/signatureHelp",
        "a.mopd",
        json!({ "line": 0, "character": 0 }),
        json!({}),
    );
    assert_eq!(outside, Value::Null);
}

#[test]
fn hints_show_unit_and_axis() {
    let mut workspace = Workspace::new();
    workspace.open("a.mopd", GOOD);
    let uri = workspace.uri("a.mopd");
    let all = json!({ "start": { "line": 0, "character": 0 }, "end": { "line": 99, "character": 0 } });
    let hints = workspace
        .client
        .request("textDocument/inlayHint", json!({ "textDocument": { "uri": uri }, "range": all }));
    let labels: Vec<&Value> = hints.as_array().expect("hints").iter().map(|hint| &hint["label"]).collect();
    assert_eq!(labels, [&json!(": nats"), &json!("per token"), &json!("number[token]")], "{hints}");
    let position = &hints[0]["position"];
    let edit = json!([{ "range": { "start": position, "end": position }, "newText": ": nats" }]);
    assert_eq!([&hints[0]["textEdits"], &hints[1]["textEdits"]], [&edit, &Value::Null], "{hints}");
    let first = json!({ "start": { "line": 0, "character": 0 }, "end": { "line": 1, "character": 0 } });
    let none = workspace
        .client
        .request("textDocument/inlayHint", json!({ "textDocument": { "uri": uri }, "range": first }));
    assert_eq!(none, json!([]));
}

#[test]
fn colours_follow_the_legend_and_count_utf16() {
    let mut workspace = Workspace::new();
    workspace.open("a.mopd", GOOD);
    let uri = workspace.uri("a.mopd");
    let legend = workspace.client.capabilities["semanticTokensProvider"]["legend"]["tokenTypes"].clone();
    let tokens = workspace
        .client
        .request("textDocument/semanticTokens/full", json!({ "textDocument": { "uri": uri } }));
    let numbers: Vec<u64> = tokens["data"]
        .as_array()
        .expect("data")
        .iter()
        .map(|number| number.as_u64().expect("whole"))
        .collect();
    let (mut line, mut column) = (0, 0);
    let mut seen = Vec::new();
    for token in numbers.chunks(5) {
        line += token[0];
        column = if token[0] == 0 { column + token[1] } else { token[1] };
        let range = json!({ "start": { "line": line, "character": column }, "end": { "line": line, "character": column + token[2] } });
        seen.push((slice(GOOD, &range), legend[token[3] as usize].as_str().expect("a type"), token[4]));
    }
    for expected in [
        ("// é ✓ 𝒜", "comment", 0),
        ("\"tiny 𝒜\"", "string", 0),
        ("llama", "function", 2),
        ("bytes", "enumMember", 2),
        ("longest", "variable", 1),
        ("mopd", "class", 2),
        ("objective", "keyword", 0),
        ("/// How long a completion may get.", "comment", 4),
    ] {
        assert!(seen.contains(&expected), "{expected:?} is missing from {seen:?}");
    }
}

#[test]
fn folds_and_selections_follow_the_brackets() {
    let mut workspace = Workspace::new();
    workspace.open("a.mopd", GOOD);
    let uri = workspace.uri("a.mopd");
    let folds =
        workspace.client.request("textDocument/foldingRange", json!({ "textDocument": { "uri": uri } }));
    let line = GOOD[..GOOD.find("objective mine").expect("it is there")].matches('\n').count();
    let mine = folds
        .as_array()
        .expect("folds")
        .iter()
        .find(|fold| fold["startLine"] == json!(line))
        .expect("a fold");
    assert_eq!((&mine["endLine"], &mine["kind"]), (&json!(line + 3), &json!("region")));
    let positions = [position(GOOD, "longest)", 0), position(GOOD, "𝒜", 2)];
    let params = json!({ "textDocument": { "uri": uri }, "positions": positions });
    let selections = workspace.client.request("textDocument/selectionRange", params);
    let mut innermost = &selections[0];
    let mut texts = Vec::new();
    while !innermost.is_null() {
        texts.push(slice(GOOD, &innermost["range"]));
        innermost = &innermost["parent"];
    }
    assert_eq!(texts[0], "longest");
    assert!(texts[1].starts_with("n: 1") && texts.last() == Some(&GOOD), "{texts:?}");
    assert_eq!(slice(GOOD, &selections[1]["range"]), "\"𝒜\"");
}

#[test]
fn words_that_name_nothing_are_explained() {
    let mut workspace = Workspace::new();
    workspace.open("a.mopd", GOOD);
    for (place, words) in [
        ("live student", "gradient flows through"),
        ("route {", "Which teacher scores"),
        ("objective mine", "What a stage minimises"),
        ("compare \"", "A table"),
        ("then mean", "What comes after"),
    ] {
        let hover = workspace.ask("textDocument/hover", "a.mopd", position(GOOD, place, 0), json!({}));
        let text = hover["contents"]["value"].as_str().unwrap_or_else(|| panic!("{place}: {hover}"));
        assert!(text.contains(words), "{place}: {text}");
        assert!(place.starts_with(slice(GOOD, &hover["range"])), "{hover}");
    }
    // There is no hover in a text or a comment.
    let text = format!("{GOOD}// live\nlet a = \"live\"\n");
    workspace.replace("a.mopd", 2, &text);
    for place in ["live\n", "live\""] {
        let hover = workspace.ask("textDocument/hover", "a.mopd", position(&text, place, 0), json!({}));
        assert_eq!(hover, Value::Null, "{place:?}");
    }
}

#[test]
fn the_code_of_a_diagnostic_leads_to_its_page() {
    let wrong = GOOD.replace("clip_at: 5", "clipat: 5");
    let supports = json!({ "textDocument": { "publishDiagnostics": { "codeDescriptionSupport": true } } });
    let mut workspace = Workspace::with_capabilities(supports);
    let diagnostics = workspace.open("a.mopd", &wrong);
    let page = diagnostics[0]["codeDescription"]["href"].as_str().expect("a page");
    let file = page.strip_prefix("file://").expect("a file");
    let text = std::fs::read_to_string(file).expect("it is there");
    assert!(file.ends_with("/unknown-argument.md") && text.starts_with("# "), "{text}");
    // An editor that does not support such links gets none.
    let diagnostics = Workspace::new().open("a.mopd", &wrong);
    assert_eq!(diagnostics[0]["codeDescription"], Value::Null);
}

#[test]
fn declarations_are_offered_whole() {
    let supports =
        json!({ "textDocument": { "completion": { "completionItem": { "snippetSupport": true } } } });
    let offered = |capabilities: Value| {
        let mut workspace = Workspace::with_capabilities(capabilities);
        let text = format!("{GOOD}\ngr");
        workspace.open("a.mopd", &text);
        let at = position_of(&text, text.len());
        let completion = workspace.ask("textDocument/completion", "a.mopd", at, json!({}));
        let items = completion["items"].as_array().expect("items");
        items.iter().find(|item| item["detail"] == "Specialists").cloned()
    };
    let item = offered(supports).expect("a snippet");
    assert_eq!(
        (&item["insertTextFormat"], &item["kind"], &item["filterText"]),
        (&2.into(), &15.into(), &"grpo".into())
    );
    assert!(
        item["textEdit"]["newText"]
            .as_str()
            .is_some_and(|text| text.contains("= grpo(${3:start}, on: d) {\n"))
    );
    assert_eq!(offered(json!({})), None);
}

/// Code lenses compare with the plan in the folder of the last run.
#[test]
fn lines_above_declarations_tell_what_reruns() {
    let mut workspace = Workspace::new();
    workspace.write("a.mopd", GOOD);
    workspace.open("a.mopd", GOOD);
    let titles = |workspace: &mut Workspace| -> Vec<String> {
        let params = json!({ "textDocument": { "uri": workspace.uri("a.mopd") } });
        let lenses = workspace.client.request("textDocument/codeLens", params);
        let of = |lens: &Value| {
            assert_eq!(lens["command"]["command"], "", "an editor without our commands gets texts");
            lens["command"]["title"].as_str().expect("a title").to_owned()
        };
        lenses.as_array().expect("a list").iter().map(of).collect()
    };
    assert_eq!(titles(&mut workspace), ["not run yet"]);
    // A run that was killed at once leaves its plan and its text.
    let out = workspace.path("runs/tiny 𝒜");
    std::fs::create_dir_all(&out).expect("a folder");
    let mut plan = std::process::Command::new(mopd_tests::mopd());
    plan.current_dir(workspace.folder.path()).args(["plan", "--format", "json", "a.mopd"]);
    let plan = plan.output().expect("mopd starts");
    assert!(plan.status.success(), "{}", String::from_utf8_lossy(&plan.stderr));
    std::fs::write(out.join("plan.json"), plan.stdout).expect("a plan");
    std::fs::write(out.join("source.mopd"), GOOD).expect("a text");
    let same = titles(&mut workspace);
    assert_eq!(same[0], "nothing to rerun, 4 stages kept, against runs/tiny 𝒜, which is not finished");
    assert_eq!(
        same[1..],
        ["unchanged since runs/tiny 𝒜", "unchanged since runs/tiny 𝒜", "unchanged since runs/tiny 𝒜"]
    );
    let edited = GOOD.replace("grpo(start, on: domains) { steps = 2", "grpo(start, on: domains) { steps = 3");
    workspace.replace("a.mopd", 2, &edited);
    let after = titles(&mut workspace);
    assert!(after[0].starts_with("2 of 4 stages rerun, 2 kept"), "{after:?}");
    assert_eq!(after[1], "unchanged since runs/tiny 𝒜");
    assert_eq!(after[2], "reruns: steps 2 -> 3");
    assert_eq!(after[3], "reruns: what it is made from changed");
    let hover = workspace.ask("textDocument/hover", "a.mopd", position(&edited, "expert =", 0), json!({}));
    let text = hover["contents"]["value"].as_str().expect("a text");
    assert!(
        text.contains("sequences") && text.contains("Key `") && text.contains("reruns: steps 2 -> 3"),
        "{text}"
    );
}

/// A model that is a row of a table can be run alone, with what it needs: the options are those of
/// `mopd run`.
#[test]
fn a_row_of_a_table_can_be_run_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut client = Client::connect(&folder.path().join("cache"));
    let options = json!({ "commands": true });
    let initialize =
        json!({ "processId": null, "rootUri": null, "capabilities": {}, "initializationOptions": options });
    client.request("initialize", initialize);
    client.notify("initialized", json!({}));
    let mut workspace = Workspace { folder, client };
    workspace.write("a.mopd", GOOD);
    workspace.open("a.mopd", GOOD);
    let params = json!({ "textDocument": { "uri": workspace.uri("a.mopd") } });
    let lenses = workspace.client.request("textDocument/codeLens", params);
    let lenses = lenses.as_array().expect("a list").iter();
    let alone: Vec<&Value> =
        lenses.map(|lens| &lens["command"]).filter(|command| command["title"] == "run alone").collect();
    let options: Vec<&Value> = alone.iter().map(|command| &command["arguments"][1]).collect();
    let of = |name: &str| json!(["--set", format!("𝒜.models=[{name}]"), "--out", format!("runs/{name}")]);
    assert_eq!(options, [&of("start"), &of("student")], "{alone:?}");
    let options = of("start");
    let options = options.as_array().expect("options").iter().map(|option| option.as_str().expect("a text"));
    let mut plan = std::process::Command::new(mopd_tests::mopd());
    plan.current_dir(workspace.folder.path()).args(["plan", "a.mopd"]).args(options.take(2));
    let plan = plan.output().expect("mopd starts");
    let said = String::from_utf8_lossy(&plan.stdout);
    assert!(plan.status.success() && said.contains("not trained"), "{said}");
}
