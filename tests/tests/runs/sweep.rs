//! A `sweep`, end to end with a real worker.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A sweep over two bounds and two learning rates of the fine-tuned start, and a student of it.
pub const SOURCE: &str = r#"use std.opd.mopd

experiment "tiny" { seed = 1 }

param bound: nats = 5
param rate: real = 1e-3

sweep { rate in [1e-3, 3e-3], bound in [1, 5] }

domain copy { prompts = "copy.jsonl", tests = "copy.jsonl", reward = exact_match, share = 1 }

model base  = llama { layers = 1, width = 32, heads = 2, context = 24, tokenizer = bytes }
model other = sft(base, on: domains) { target = answer, steps = 3, batch = 4, lr = 1e-2 }
model start = sft(base, on: domains) { target = answer, steps = 3, batch = 4, lr = rate }

teacher one = other
route { domain == copy -> one }

model student = distill(start) {
  objective = mopd(clip_at: bound)
  rollout   = sample(n: 1, temperature: 1.0, max_tokens: 6)
  prompts   = 4
  steps     = 3
  lr        = 1e-3
}

compare "t" { models = [other, start, student], samples = 1, temperature = 1.0, max_tokens = 6, seeds = 1 }
"#;

pub fn folder(source: &str) -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    let line = |word: &&str| format!("{{\"prompt\": \"copy: {word}=\", \"answer\": \"{word}\"}}\n");
    let words = ["ab", "ba", "cad", "dac", "bad", "dab", "abc", "cab"];
    fs::write(folder.path().join("copy.jsonl"), words.iter().map(line).collect::<String>()).expect("data");
    fs::write(folder.path().join("tiny.mopd"), source).expect("an experiment");
    folder
}

pub fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(mopd_tests::mopd());
    command.current_dir(folder).args(["run", "tiny.mopd", "--out", "out"]).args(arguments);
    command.stdin(Stdio::null()).output().expect("mopd starts")
}

pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

pub fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

fn plan(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(mopd_tests::mopd());
    command.current_dir(folder).args(["plan", "tiny.mopd"]).args(arguments);
    command.stdin(Stdio::null()).output().expect("mopd starts")
}

/// The file's own values are those of no run here.
#[test]
fn a_plan_is_of_the_runs() {
    let source =
        SOURCE.replace("sweep { rate in [1e-3, 3e-3], bound in [1, 5] }", "sweep { n in [30, 100] }");
    let source = source
        .replace("param bound", "param n: count = 3\nparam bound")
        .replace("  steps     = 3", "  steps     = n");
    let folder = folder(&source);
    let output = plan(folder.path(), &[]);
    assert!(output.status.success(), "{}", said(&output));
    // `other` and `start` train on 12 sequences each, once for both runs.
    let expected = ["the run with n=30", "total of 2 runs: at most 544 sequences"];
    assert!(expected.iter().all(|text| said(&output).contains(text)), "{}", said(&output));
    let alone = plan(folder.path(), &["--set", "n=30"]);
    assert!(said(&alone).contains("total: at most 144 sequences"), "{}", said(&alone));
    let why = plan(folder.path(), &["--why"]);
    let expected = ["run 1 of 2: n=30", "run 2 of 2: n=100"];
    assert!(expected.iter().all(|text| said(&why).contains(text)), "{}", said(&why));
    let predicted = plan(folder.path(), &["--predict"]);
    let said = said(&predicted);
    assert_eq!(said.matches("predicted student:").count(), 2, "{said}");
    assert_eq!(said.matches("predicted start:").count(), 1, "shared by both runs: {said}");
    assert!(said.contains("predicted for all runs: about "), "{said}");
}

/// A plan without the places in its text, where a value of the sweep has one and one of `--set` has none.
fn without_places(plan: &Value) -> Value {
    match plan {
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(name, _)| !["origin", "places"].contains(&name.as_str()));
            fields.map(|(name, value)| (name.clone(), without_places(value))).collect()
        }
        Value::Array(items) => items.iter().map(without_places).collect(),
        single => single.clone(),
    }
}

/// Every run is there with its values, also one that can't run; each plan is that of its values alone.
#[test]
fn a_plan_as_json_has_every_run() {
    let folder = folder(SOURCE);
    let planned = |arguments: &[&str]| {
        let output = plan(folder.path(), &[&["--format", "json"], arguments].concat());
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice::<Value>(&output.stdout).expect("one JSON document")
    };
    let all = planned(&[]);
    let runs = all["runs"].as_array().expect("runs");
    let values: Vec<&Value> = runs.iter().map(|run| &run["values"]).collect();
    let expected = [(1.0, 0.001), (5.0, 0.001), (1.0, 0.003), (5.0, 0.003)];
    assert!(values.into_iter().eq(&expected.map(|(bound, rate)| json!({ "bound": bound, "rate": rate }))));
    for (run, (bound, rate)) in runs.iter().zip(expected) {
        let set = [format!("bound={bound}"), format!("rate={rate}")];
        let single = planned(&["--set", &set[0], "--set", &set[1]]);
        assert_eq!(without_places(&run["plan"]), without_places(&single), "a run by itself is a plan");
    }
    assert_eq!(planned(&["--set", "bound=1"])["runs"].as_array().map(Vec::len), Some(2));
    let source = SOURCE.replace("rate in [1e-3, 3e-3]", "rate in [1e-3, -1]");
    fs::write(folder.path().join("tiny.mopd"), &source).expect("an experiment");
    let output = plan(folder.path(), &["--format", "json"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let partly: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    let valid: Vec<bool> =
        partly["runs"].as_array().expect("runs").iter().map(|run| run["plan"].is_object()).collect();
    assert_eq!(valid, [true, true, false, false]);
    assert!(said(&output).contains("can't run: rate=-1,bound=1; rate=-1,bound=5"), "{}", said(&output));
    // The file's own values are those of no run.
    fs::write(folder.path().join("tiny.mopd"), source.replace("[1e-3, -1]", "[-2, -1]")).expect("written");
    let output = plan(folder.path(), &["--format", "json"]);
    assert!(output.status.code() == Some(1) && output.stdout.is_empty(), "{}", said(&output));
}

/// `check` looks at every run, whatever the file says itself, and says a finding once.
#[test]
fn every_run_is_checked() {
    let source =
        SOURCE.replace("rate in [1e-3, 3e-3], bound in [1, 5]", "rate in [-1, 1e-3], bound in [1, 5]");
    let folder = folder(&source.replace("param rate: real = 1e-3", "param rate: real = -7"));
    let check = |arguments: &[&str]| {
        let mut command = Command::new(mopd_tests::mopd());
        command.current_dir(folder.path()).arg("check").args(arguments).arg("tiny.mopd");
        command.stdin(Stdio::null()).output().expect("mopd starts")
    };
    let output = check(&[]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.matches("error[out-of-range]").count(), 1, "{text}");
    assert!(
        text.contains("with `rate` = -1; it is so in 2 of 4 runs") && !text.contains("bound` ="),
        "{text}"
    );
    let output = plan(folder.path(), &[]);
    let text = said(&output);
    assert_eq!(text.matches("error[out-of-range]").count(), 1, "{text}");
    assert!(text.contains("can't run: rate=-1,bound=1; rate=-1,bound=5"), "{text}");
    // A hundred runs of a small file.
    let values: Vec<String> = (1..=100).map(|value| format!("{value}e-4")).collect();
    let many = source.replace(
        "sweep { rate in [-1, 1e-3], bound in [1, 5] }",
        &format!("sweep {{ rate in [{}] }}", values.join(", ")),
    );
    fs::write(folder.path().join("tiny.mopd"), many).expect("an experiment");
    let output = check(&[]);
    assert!(output.status.success(), "{}", said(&output));
}

/// A run of a sweep that can't fit is found before the first one begins.
#[test]
fn the_largest_run_is_checked_first() {
    let source =
        SOURCE.replace("sweep { rate in [1e-3, 3e-3], bound in [1, 5] }", "sweep { size in [32, 524288] }");
    let source = source
        .replace("param bound", "param size: count = 32\nparam bound")
        .replace("width = 32", "width = size");
    let folder = folder(&source);
    for arguments in [&["--dry-run"][..], &[]] {
        let output = run(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("`base` cannot fit in memory"), "{}", said(&output));
        assert!(!said(&output).contains("run 1 of 2"), "{}", said(&output));
    }
    // One of them fits, and a check is of the files, whatever the machine.
    let output = run(folder.path(), &["--dry-run", "--set", "size=32"]);
    assert!(output.status.success(), "{}", said(&output));
    let mut check = Command::new(mopd_tests::mopd());
    let large = source.replace("param size: count = 32", "param size: count = 524288");
    fs::write(folder.path().join("large.mopd"), large).expect("an experiment");
    check.current_dir(folder.path()).args(["check", "--files", "large.mopd"]);
    let output = check.stdin(Stdio::null()).output().expect("mopd starts");
    assert!(!said(&output).contains("memory"), "{}", said(&output));
}

#[test]
fn sweep_computes_shared_stages_once() {
    let folder = folder(SOURCE);
    let output = run(folder.path(), &["--format", "json"]);
    assert!(output.status.success(), "{}", said(&output));
    let events: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let count = |stage: &str| {
        let made =
            events.iter().filter(|event| event["event"] == "stage_finished" && event["stage"] == stage);
        made.count()
    };
    // Two learning rates and two bounds.
    assert_eq!(["base", "other", "start", "student"].map(count), [1, 1, 2, 4]);
    assert_eq!(events.iter().filter(|event| event["event"] == "member").count(), 4);
    let list = read(&folder.path().join("out/sweep.json"));
    assert_eq!(list["members"][1]["values"], serde_json::json!({ "rate": 0.001, "bound": 5.0 }));
    let rows = |results: &Value| {
        let rows = results["tables"][0]["rows"].as_array().expect("rows").iter();
        rows.map(|row| row["model"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    let together = rows(&read(&folder.path().join("out/results.json")));
    assert_eq!(together[0], "other");
    assert!(together.iter().filter(|model| model.starts_with("student [")).count() == 4, "{together:?}");
    assert_eq!(
        rows(&read(&folder.path().join("out/rate=0.001,bound=1/results.json"))),
        ["other", "start", "student"]
    );

    // Run again, nothing is computed. A value from outside leaves one axis. With `--tensorboard` every member
    // has event files.
    let output = run(folder.path(), &["--set", "rate=1e-3", "--tensorboard"]);
    for member in ["bound=1", "bound=5"] {
        let series = folder.path().join("out").join(member).join("tensorboard/student-seed1");
        assert!(series.is_dir(), "{}", said(&output));
    }
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains("run 2 of 2: bound=5") && said(&output).contains("2 of 2 runs"),
        "{}",
        said(&output)
    );
}

/// Merged tables never stand beside members of other data, and are not lost.
#[test]
fn a_sweep_with_a_failed_member_shows_no_merged_tables_of_other_data() {
    let folder = folder(&SOURCE.replace("rate in [1e-3, 3e-3], ", ""));
    let path = |name: &str| folder.path().join("out").join(name);
    let state = || {
        let mut command = Command::new(mopd_tests::mopd());
        command.current_dir(folder.path()).args(["ls", "out"]);
        String::from_utf8(command.output().expect("mopd starts").stdout).expect("text")
    };
    assert!(run(folder.path(), &[]).status.success());
    assert!(run(folder.path(), &[]).status.success());
    let before = fs::read(path("results.json")).expect("results");
    assert!(!path("previous").exists() && state().contains("finished, 2 of 2 runs"), "{}", state());
    let data = fs::read_to_string(folder.path().join("copy.jsonl")).expect("data");
    fs::write(folder.path().join("copy.jsonl"), data.replace("\"cad\"", "\"dad\"")).expect("data");
    // The first member ends well; the folder of the second can't be written to.
    fs::remove_dir_all(path("bound=5")).expect("removable");
    fs::write(path("bound=5"), "").expect("a file in place of a folder");
    assert!(!run(folder.path(), &[]).status.success());
    assert!(fs::read(path("previous/results.json")).expect("results") == before);
    // Those of the member that ran, on the new data.
    assert!(fs::read(path("results.json")).expect("results") != before);
    assert!(state().contains("unfinished, 1 of 2 runs"), "{}", state());
}

#[test]
fn a_member_that_fails_leaves_the_others_alone() {
    // With this rate, weights overflow.
    let folder = folder(&SOURCE.replace("rate in [1e-3, 3e-3], bound in [1, 5]", "rate in [1e30, 1e-3]"));
    let output = run(folder.path(), &[]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("failed: rate=1000000000000000000000000000000"), "{}", said(&output));
    assert!(
        folder.path().join("out/rate=0.001/results.json").is_file()
            && folder.path().join("out/results.json").is_file()
    );
    let list = read(&folder.path().join("out/sweep.json"));
    assert_eq!(
        (&list["members"][0]["good"], &list["members"][1]["good"]),
        (&Value::Bool(false), &Value::Bool(true))
    );
}

#[test]
fn values_that_the_file_can_not_take_are_named_before_anything_runs() {
    let source = SOURCE
        .replace("param rate: real = 1e-3\n", "param many: count = 3\n")
        .replace("rate in [1e-3, 3e-3], bound in [1, 5]", "bound in [1, 5], many in [0, 2]")
        .replace("batch = 4, lr = rate", "batch = 4, lr = 1e-3")
        .replace("  steps     = 3\n", "  steps     = many\n");
    let folder = folder(&source);
    let output = run(folder.path(), &[]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let said = said(&output);
    // A diagnostic that two members share is printed once.
    assert_eq!(said.matches("error[out-of-range]").count(), 1, "{said}");
    let (refused, begun) =
        (said.find("can't run: bound=1,many=0; bound=5,many=0"), said.find("run 2 of 4: bound=1,many=2"));
    assert!(refused.is_some() && refused < begun, "{said}");
    assert!(
        said.contains("2 of 4 runs, results in out")
            && said.contains("failed: bound=1,many=0; bound=5,many=0"),
        "{said}"
    );
    // If no member can run, none is started.
    fs::write(folder.path().join("tiny.mopd"), source.replace("many in [0, 2]", "many in [0]"))
        .expect("an edit");
    let output = run(folder.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!String::from_utf8_lossy(&output.stderr).contains("run 1 of"), "{output:?}");
}

/// The folder of a member has one writer, too: the sweep, or a run that got it first.
#[test]
fn a_member_that_runs_holds_its_own_folder() {
    let place = folder(&SOURCE.replace("  steps     = 3\n", "  steps     = 2000\n"));
    let own = "out/rate=0.001,bound=1";
    let single = ["--set", "rate=1e-3", "--set", "bound=1", "--out", own];
    let command = |arguments: &[&str]| {
        let mut command = Command::new(mopd_tests::mopd());
        command.current_dir(place.path()).args(["run", "tiny.mopd", "--format", "json"]);
        command
            .args(["--predict", "never"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    };
    let started = |arguments: &[&str]| {
        let mut child = command(arguments).spawn().expect("mopd starts");
        let out = child.stdout.take().expect("a pipe");
        let mut lines = BufReader::new(out).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("\"stage\":\"student\"")), "it ended early");
        std::thread::spawn(move || lines.for_each(drop));
        child
    };
    let mut sweep = started(&["--out", "out"]);
    let refused = command(&single).output().expect("mopd starts");
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).contains("folder-in-use"), "{}", said(&refused));
    sweep.kill().expect("it is ours");
    sweep.wait().expect("it ends");
    // The sweep goes on with its other members.
    let mut first = started(&single);
    fs::write(place.path().join("tiny.mopd"), SOURCE).expect("an experiment");
    let sweep = command(&["--out", "out"]).output().expect("mopd starts");
    first.kill().expect("it is ours");
    first.wait().expect("it ends");
    assert_eq!(sweep.status.code(), Some(1), "{}", said(&sweep));
    let all = said(&sweep);
    assert!(all.contains(&format!("another run writes to {own}")), "{all}");
    assert!(all.contains("3 of 4 runs") && all.contains("failed: rate=0.001,bound=1"), "{all}");
}

/// Objectives, and schedules in place of numbers, by the names that the sweep gives them.
#[test]
fn a_sweep_is_over_values_of_any_kind() {
    let source = SOURCE
        .replace("param bound: nats = 5", "param how: objective = mopd")
        .replace("bound in [1, 5]", "how in { tight: mopd(clip_at: 1), loose: mopd(clip_at: 5) }")
        .replace("rate in [1e-3, 3e-3]", "rate in { flat: 1e-3, falling: linear(1e-3 -> 1e-4) }")
        .replace("objective = mopd(clip_at: bound)", "objective = how");
    let folder = folder(&source);
    let folder = folder.path();
    let output = run(folder, &["--predict", "never"]);
    assert!(output.status.success(), "{}", said(&output));
    let sweep = read(&folder.join("out/sweep.json"));
    let values = |run: usize| sweep["members"][run]["values"].clone();
    assert_eq!(values(0), json!({"rate": "flat", "how": "tight"}));
    assert_eq!(values(3), json!({"rate": "falling", "how": "loose"}));
    let student = |run: &str| {
        let model = folder.join(format!("out/{run}/models/student-seed1/model.safetensors"));
        fs::read(&model).unwrap_or_else(|error| panic!("{}: {error}", model.display()))
    };
    assert_ne!(student("rate=flat,how=tight"), student("rate=falling,how=tight"));
    // One of them, by its names, is already there.
    let chosen = ["--set", "rate=falling", "--set", "how=loose", "--format", "json"];
    let output = run(folder, &chosen);
    assert!(output.status.success() && !said(&output).contains("stage_started"), "{}", said(&output));
}
