//! `mopd check` and `mopd explain`.

use serde_json::json;

use super::{GOOD, Place, ROWS};

#[test]
fn a_clean_file_is_one_line_on_standard_error() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    let said = place.mopd(&["check", "a.mopd"]).is(0, &[]);
    assert_eq!(said.out, "");
    assert_eq!(said.err, "ok: tiny: 4 models, 1 domain, 1 table\n");
    assert_eq!(place.mopd(&["check", "--format", "json", "a.mopd"]).is(0, &[]).out, "[]\n");
    assert_eq!(place.mopd(&["check", "--format", "short", "a.mopd"]).is(0, &[]).out, "");
}

#[test]
fn a_file_for_other_files_is_clean_too() {
    let place = Place::with(&[("mine.mopd", "pub let lr = 1e-3\n")]);
    place.mopd(&["check", "mine.mopd"]).is(0, &["ok: mine.mopd: no `experiment`"]);
    place.mopd(&["plan", "mine.mopd"]).is(1, &["error[missing-experiment]", "mine.mopd"]);
    place.mopd(&["run", "mine.mopd"]).is(1, &["error[missing-experiment]"]);
}

#[test]
fn plan_without_experiment_names_public_objectives_where_there_are_objectives() {
    let objective = "objective closer {\n  term pull = live kl(student || teacher)\n  reduce    = mean(token, over: batch)\n}\n";
    let public = format!("pub {objective}");
    let place =
        Place::with(&[("mine.mopd", objective), ("public.mopd", &public), ("let.mopd", "pub let a = 1\n")]);
    let hint = "or write `pub objective` to see its normal form";
    place.mopd(&["plan", "mine.mopd"]).is(1, &["error[missing-experiment]", hint]);
    let planned = place.mopd(&["plan", "public.mopd"]).is(0, &[]);
    assert!(planned.out.contains("closer()"), "{planned:?}");
    let without = place.mopd(&["plan", "let.mopd"]).is(1, &["error[missing-experiment]"]);
    assert!(!without.err.contains(hint) && !without.out.contains(hint), "{without:?}");
}

#[test]
fn check_prints_diagnostics_for_people() {
    let place = Place::with(&[("a.mopd", &GOOD.replace("steps     = 2", "stepz     = 2"))]);
    let said = place.mopd(&["check", "a.mopd"]).is(1, &["mopd explain unknown-key", "error"]);
    let first = said.out.lines().next().unwrap_or_default();
    assert!(first.starts_with("error[unknown-key]: ") && first.contains("stepz"), "{said:?}");
    assert!(said.out.contains("a.mopd:19:3") && said.out.contains("steps"), "{said:?}");
    assert!(
        !said.out.contains('\u{1b}') && !said.err.contains('\u{1b}'),
        "no colour without a terminal: {said:?}"
    );
    // The diagnostics also stop other commands on the file; there they are on standard error.
    for command in ["plan", "run"] {
        let said = place.mopd(&[command, "a.mopd"]).is(1, &["error[unknown-key]"]);
        assert_eq!(said.out, "");
    }
}

#[test]
fn a_diagnostic_on_one_line() {
    let place = Place::with(&[("a.mopd", &GOOD.replace("steps     = 2", "stepz     = 2"))]);
    let said = place.mopd(&["check", "--format", "short", "a.mopd"]).is(1, &[]);
    assert!(said.out.lines().any(|line| line.starts_with("a.mopd:19:3: error[unknown-key]: ")), "{said:?}");
}

#[test]
fn check_prints_diagnostics_as_json() {
    let text = GOOD.replace(
        "  objective = mopd(clip_at: 5)\n",
        "  rollout_note = \"日本𝒜\", objectiv = mopd(clip_at: 5)\n",
    );
    let place = Place::with(&[("a.mopd", &text)]);
    let said = place.mopd(&["check", "--format", "json", "a.mopd"]).is(1, &[]);
    let list = said.json();
    let diagnostics = list.as_array().expect("a list");
    let found = diagnostics
        .iter()
        .find(|diagnostic| diagnostic["message"].as_str().is_some_and(|text| text.contains("objectiv`")));
    let found = found.unwrap_or_else(|| panic!("no diagnostic about objectiv: {said:?}"));
    assert_eq!(found["code"], "unknown-key");
    assert_eq!(found["severity"], "error");
    assert_eq!(found["file"], "a.mopd");
    // `  rollout_note = "` is 18 units, 日本 two, 𝒜 two, `", ` three.
    let range = json!({"start": {"line": 15, "character": 25}, "end": {"line": 15, "character": 33}});
    assert_eq!(found["range"], range);
    assert_eq!(found["labels"][0]["range"], range);
    assert_eq!(found["fix"]["replacement"], "objective");
    assert_eq!(found["fix"]["range"], range);
    for field in ["help", "url"] {
        assert!(found.get(field).is_some(), "{field} is missing in {found}");
    }
}

#[test]
fn a_diagnostic_for_code_review() {
    let place = Place::with(&[("a.mopd", &GOOD.replace("steps     = 2", "stepz     = 2"))]);
    let log = place.mopd(&["check", "--format", "sarif", "a.mopd"]).is(1, &[]).json();
    assert_eq!(log["version"], "2.1.0");
    let run = &log["runs"][0];
    assert_eq!(run["columnKind"], "utf16CodeUnits");
    assert_eq!(run["tool"]["driver"]["rules"][0]["id"], "unknown-key");
    let [found] = run["results"].as_array().expect("a list").as_slice() else {
        panic!("one diagnostic: {run}")
    };
    assert_eq!((&found["ruleId"], &found["level"]), (&json!("unknown-key"), &json!("error")));
    let region = json!({"startLine": 19, "startColumn": 3, "endLine": 19, "endColumn": 8});
    let place_of = json!({"artifactLocation": {"uri": "a.mopd"}, "region": region});
    assert_eq!(found["locations"][0]["physicalLocation"], place_of);
    let change = &found["fixes"][0]["artifactChanges"][0]["replacements"][0];
    assert_eq!(change, &json!({"deletedRegion": region, "insertedContent": {"text": "steps"}}));

    let clean =
        Place::with(&[("a.mopd", GOOD)]).mopd(&["check", "--format", "sarif", "a.mopd"]).is(0, &[]).json();
    assert_eq!(clean["runs"][0]["results"], json!([]));
}

/// In SARIF a path is a URI reference: `#`, `%`, blanks and letters beyond ASCII are percent-encoded.
#[test]
fn a_path_for_code_review() {
    let name = "two runs/50% #1 \u{e9}.mopd";
    let place = Place::with(&[(name, &GOOD.replace("steps     = 2", "stepz     = 2"))]);
    let log = place.mopd(&["check", "--format", "sarif", name]).is(1, &[]).json();
    let found = &log["runs"][0]["results"][0];
    let expected = json!({"uri": "two%20runs/50%25%20%231%20%C3%A9.mopd"});
    assert_eq!(found["locations"][0]["physicalLocation"]["artifactLocation"], expected);
    assert_eq!(found["fixes"][0]["artifactChanges"][0]["artifactLocation"], expected);
}

#[test]
fn a_diagnostic_at_the_end_of_the_file_is_drawn() {
    let place = Place::with(&[("a.mopd", "experiment \"x\" {\n")]);
    let said = place.mopd(&["check", "a.mopd"]).is(1, &[]);
    assert!(said.out.contains("a.mopd:1:"), "{said:?}");
    let place = Place::with(&[("a.mopd", "")]);
    place.mopd(&["plan", "a.mopd"]).is(1, &["error[missing-experiment]", "a.mopd is empty"]);
}

#[test]
fn a_sibling_module_is_found_next_to_the_file() {
    let place = Place::with(&[
        (
            "sub/a.mopd",
            &GOOD
                .replace("use std.opd.mopd\n", "use std.opd.mopd\nuse mine.rate\n")
                .replace("lr        = 1e-3", "lr = rate"),
        ),
        ("sub/mine.mopd", "pub let rate = 1e-3\n"),
        ("sub/sort.jsonl", ROWS),
        ("sub/sort.test.jsonl", ROWS),
    ]);
    place.mopd(&["check", "sub/a.mopd"]).is(0, &["ok: tiny"]);
    std::fs::remove_file(place.path("sub/mine.mopd")).expect("it is there");
    let said = place.mopd(&["check", "sub/a.mopd"]).is(1, &[]);
    assert!(said.out.contains("error[unknown-module]"), "{said:?}");
    std::fs::write(place.path("sub/mine.mopd"), b"\xff").expect("a file");
    place.mopd(&["check", "sub/a.mopd"]).is(2, &["error[not-text]", "mine.mopd"]);
}

#[test]
fn a_byte_order_mark_is_no_text() {
    let place = Place::with(&[("a.mopd", &format!("\u{feff}{GOOD}"))]);
    place.mopd(&["check", "a.mopd"]).is(0, &["ok: tiny"]);
}

#[test]
fn checking_does_not_start_the_worker() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    place.worker("open('mark', 'w')\nready()");
    place.mopd_with_worker(&["check", "a.mopd"]).is(0, &[]);
    place.mopd_with_worker(&["plan", "a.mopd"]).is(0, &[]);
    place.mopd_with_worker(&["explain", "syntax"]).is(0, &[]);
    assert!(!place.path("mark").exists());
    // Shows that the marker does appear if the worker is started, so that this test can fail.
    place.mopd_with_worker(&["doctor"]);
    assert!(place.path("mark").exists());
}

#[test]
fn why_a_file_was_not_checked_is_in_the_list() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    std::fs::write(place.path("latin.mopd"), b"// caf\xe9\n").expect("a file");
    let said = place
        .mopd(&["check", "--format", "json", "a.mopd", "none.mopd", "latin.mopd"])
        .is(2, &["error[unreadable-file]"]);
    let list = said.json();
    let found: Vec<(&str, &str, &str)> = list
        .as_array()
        .expect("a list")
        .iter()
        .map(|diagnostic| {
            let text = |key: &str| diagnostic[key].as_str().expect("a text");
            (text("code"), text("severity"), text("file"))
        })
        .collect();
    assert_eq!(found, [("unreadable-file", "error", "none.mopd"), ("not-text", "error", "latin.mopd")]);
    assert!(
        list[0]["message"].as_str().is_some_and(|message| message.contains("can't read none.mopd")),
        "{said:?}"
    );
    assert_eq!(list[0]["range"]["start"], json!({"line": 0, "character": 0}));
    let said = place.mopd(&["check", "--format", "sarif", "none.mopd"]).is(2, &[]);
    let result = &said.json()["runs"][0]["results"][0];
    assert_eq!(
        (&result["ruleId"], &result["level"]),
        (&json!("unreadable-file"), &json!("error")),
        "{said:?}"
    );
}

#[test]
fn a_path_that_leads_to_nothing_is_found_where_there_are_files() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    place.mopd(&["check", "a.mopd"]).is(0, &["ok: tiny"]);
    std::fs::remove_file(place.path("sort.test.jsonl")).expect("it was there");
    // A run would read it.
    let said = place.mopd(&["check", "--format", "short", "a.mopd"]).is(1, &[]);
    assert!(
        said.out.starts_with("a.mopd:5:")
            && said.out.contains("error[missing-file]: there is no ./sort.test.jsonl"),
        "{said:?}"
    );
    let silent = GOOD.replace("domain sort", "// allow(missing-file): on the cluster\ndomain sort");
    place.write("a.mopd", &silent);
    place.mopd(&["check", "a.mopd"]).is(0, &["ok: tiny"]);
    place.write("a.mopd", &GOOD.replace("sort.test.jsonl", "test/*.jsonl"));
    let said = place.mopd(&["check", "a.mopd"]).is(1, &[]);
    assert!(said.out.contains("test/*.jsonl: no file matches the pattern"), "{said:?}");
    // No table has the tests as a column, so no run reads them.
    let unread = GOOD.replace("sort.test.jsonl", "none.jsonl");
    place.write("a.mopd", unread.split("compare").next().expect("a part"));
    let said = place.mopd(&["check", "a.mopd"]).is(0, &["1 warning"]);
    assert!(said.out.contains("warning[missing-file]"), "{said:?}");
}

/// A missing file of a reward function, and a model name that no repository can have.
#[test]
fn rewards_and_folders_of_models_are_looked_for_too() {
    let judged = GOOD
        .replace("reward = exact_match", "format = text, reward = python(\"juge.py:score\")")
        .replace("model base   = llama", "model other  = hf(\"./models/smal-135m\")\nmodel base   = llama")
        .replace("[start, student]", "[start, student, other]");
    let place = Place::with(&[("a.mopd", &judged), ("judge.py", "")]);
    for data in ["sort.jsonl", "sort.test.jsonl"] {
        place.write(data, ROWS);
    }
    place.write("models/small-135m/config.json", "{}");
    let said = place.mopd(&["check", "a.mopd"]).is(1, &["2 errors"]);
    for part in [
        "there is no ./juge.py",
        "did you mean `judge.py`?",
        "there is no ././models/smal-135m",
        "did you mean `./models/small-135m`?",
    ] {
        assert!(said.out.contains(part), "no {part:?} in {said:#?}");
    }
    // The name is also a valid name of a repository on the hub.
    place.write("a.mopd", &judged.replace("./models/smal-135m", "models/smal-135m"));
    let said = place.mopd(&["check", "a.mopd"]).is(1, &["1 error"]);
    assert!(!said.out.contains("smal-135m\n"), "{said:#?}");
}

#[test]
fn explain_knows_codes_of_runs() {
    let place = Place::new();
    for (code, word) in [
        ("non-finite", "learning rate"),
        ("error[worker-died]:", "memory"),
        ("unreadable_file", "does not exist"),
    ] {
        let said = place.mopd(&["explain", code]).is(0, &[]);
        assert!(said.out.contains(word), "{said:?}");
    }
    assert!(place.mopd(&["explain", "cant-write"]).is(0, &[]).out.contains("no permission"));
    place.mopd(&["explain", "non-finit"]).is(2, &["did you mean `mopd explain non-finite`?"]);
    let all = place.mopd(&["explain", "--all"]).is(0, &[]);
    assert!(all.out.lines().any(|line| line.starts_with("non-finite ")), "{all:?}");
}

#[test]
fn a_code_is_explained() {
    let place = Place::new();
    let page = place.mopd(&["explain", "unit-mismatch"]).is(0, &[]);
    assert!(page.out.contains("incompatible units") && page.err.is_empty(), "{page:?}");
    assert_eq!(place.mopd(&["explain", "error[unit-mismatch]:"]).is(0, &[]).out, page.out);
    place.mopd(&["explain", "unit-mismach"]).is(2, &["did you mean `mopd explain unit-mismatch`?"]);
    place.mopd(&["explain", "nonsense-of-its-own"]).is(2, &["mopd explain --all"]);
    place.mopd(&["explain"]).is(2, &[]);
    let all = place.mopd(&["explain", "--all"]).is(0, &[]);
    assert!(
        all.out
            .lines()
            .any(|line| line.starts_with("unit-mismatch ") && line.contains("measure different things")),
        "{all:?}"
    );
}

#[test]
fn certain_fixes_are_applied_in_place_to_every_file_that_is_named() {
    let foreign = GOOD.replace("steps     = 2", "num_steps = 2");
    let quotes = foreign.replace('\n', "\r\n");
    let likely = GOOD.replace("steps     = 2", "stepz     = 2");
    let place =
        Place::with(&[("a.mopd", &foreign), ("b.mopd", &quotes), ("c.mopd", GOOD), ("d.mopd", &likely)]);
    let said = place
        .mopd(&["check", "--fix", "a.mopd", "b.mopd", "c.mopd"])
        .is(0, &["fixed: a.mopd: 1 fix", "fixed: b.mopd: 1 fix"]);
    assert!(!said.err.contains("c.mopd"), "{said:?}");
    assert_eq!(place.read("a.mopd"), GOOD.replace("steps     = 2", "steps = 2"));
    assert_eq!(place.read("b.mopd"), GOOD.replace("steps     = 2", "steps = 2").replace('\n', "\r\n"));
    assert_eq!(place.read("c.mopd"), GOOD);
    // Fixes that are not certain are reported, and left to the author.
    let said = place.mopd(&["check", "--fix", "d.mopd"]).is(1, &["1 error"]);
    assert!(said.out.contains("did you mean `steps`?"), "{said:?}");
    assert_eq!(place.read("d.mopd"), likely);
}

/// The columns of the data are compared with whatever reads them, at the place that names the field.
#[test]
fn fields_that_the_data_lacks_are_found_where_they_are_named() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    let refused = |program: &str, line: usize, parts: &[&str]| {
        place.write("a.mopd", program);
        let said = place.mopd(&["check", "--format", "short", "a.mopd"]).is(1, &[]);
        assert!(said.out.starts_with(&format!("a.mopd:{line}:")), "{said:?}");
        for part in parts {
            assert!(said.out.contains(part), "no {part:?} in {said:?}");
        }
    };
    let misspelt = GOOD.replace("target = demonstration", "target = demonstrations");
    refused(&misspelt, 8, &["error[data-mismatch]", "sort.jsonl:1: the field `demonstrations` is missing"]);
    // A near name is a possible fix.
    let said = place.mopd(&["check", "a.mopd"]).is(1, &[]);
    assert!(said.out.contains("did you mean `demonstration`?"), "{said:?}");
    refused(&GOOD.replace("exact_match", "exact_match(answr)"), 5, &["`answr` is missing"]);
    refused(&GOOD.replace("exact_match", "numeric(answer, tolerance: 0.1)"), 5, &["must be a number"]);
    let renamed =
        GOOD.replace("reward = exact_match", "fields = columns(answer: result), reward = exact_match");
    refused(&renamed, 5, &["the field `result` is missing"]);
    let weighted = GOOD.replace("use std.opd.mopd\n", "").replace("mopd(clip_at: 5)", "own")
        + "objective own {\n  weight = data.levle\n  term pull = live kl(student || teacher)\n  reduce = \
           mean(token) then mean(sequence)\n}\n";
    place.write("sort.jsonl", &ROWS.replace("\"prompt\"", "\"level\": 1, \"prompt\""));
    refused(&weighted, 24, &["the field `levle` is missing"]);
    let tokenizer = mopd_tests::root().join("tests/reference/text/qwen3/tokenizer.json");
    let chat = GOOD
        .replace("reward = exact", "format = chat, reward = exact")
        .replace("tokenizer = bytes", &format!("tokenizer = {:?}", tokenizer.display().to_string()));
    place.write("sort.jsonl", &ROWS.replace("\"ba\"", "[{\"role\": \"usr\", \"content\": \"ba\"}]"));
    refused(&chat, 5, &["message 1 has the role \"usr\"", "did you mean `user`?"]);
    std::fs::create_dir(place.path("folder")).expect("a folder");
    refused(&GOOD.replace("\"sort.jsonl\"", "\"folder\""), 5, &["the folder has no data files"]);
    place.write("sort.jsonl", &ROWS.replace("{\"prompt\": \"cb\"", "{\"prompt\": cb"));
    refused(GOOD, 5, &["sort.jsonl:2: not JSON"]);
    place.write("sort.jsonl", &ROWS.lines().take(1).map(|line| format!("{line}\n")).collect::<String>());
    place.write("a.mopd", GOOD);
    let said = place.mopd(&["check", "a.mopd"]).is(0, &["3 warnings"]);
    assert!(said.out.contains("`student`: `prompts = 2` in a step, but its data has one row"), "{said:?}");
    // Of a long file, the first rows are read, and that is said.
    place.write("sort.jsonl", &ROWS.repeat(15_000));
    place
        .mopd(&["check", "a.mopd"])
        .is(0, &["ok: tiny", "note: only the first 20000 rows of sort.jsonl were read"]);
}

/// What no error shows is a warning.
#[test]
fn columns_that_nothing_reads_are_warned_of() {
    let place = Place::with(&[("a.mopd", GOOD)]);
    place.write("sort.jsonl", &ROWS.replace("{\"prompt\": \"cb\"", "{\"tools\": [{}], \"prompt\": \"cb\""));
    let said = place.mopd(&["check", "a.mopd"]).is(0, &["1 warning"]);
    let warning =
        "sort.jsonl: one row has text in the column `tools`, the first in line 2, and nothing reads it";
    assert!(said.out.contains(&format!("warning[data-mismatch]: {warning}")), "{said:?}");
    assert!(said.out.contains("help: a chat template shows tools: write `format = chat`"), "{said:?}");
}
