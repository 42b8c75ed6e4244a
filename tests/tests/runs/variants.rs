//! The files of `tests/variants`: `check` looks at every variant, a plan has what they share once, a run
//! trains it once, and one table has them all. And lines that each change one file in one place.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use mopd_ops::testing::Extent;
use mopd_tests::root;
use serde_json::Value;
use tempfile::TempDir;

struct File {
    name: &'static str,
    /// Runs of its sweep.
    runs: usize,
    /// Stages of each run.
    stages: usize,
    /// Stages that differ, over all runs.
    distinct: usize,
    rows: usize,
}

const FILES: &[File] = &[
    // `tuned[mine]` is `tuned[dr]` in other words.
    File { name: "advantages", runs: 1, stages: 9, distinct: 8, rows: 7 },
    // `bound[usual]` is `student` in other words.
    File { name: "bounds", runs: 1, stages: 9, distinct: 8, rows: 6 },
    // Of each of six runs, only the student differs.
    File { name: "budgets", runs: 6, stages: 5, distinct: 10, rows: 8 },
    File { name: "divergences", runs: 1, stages: 11, distinct: 11, rows: 10 },
    File { name: "grid", runs: 16, stages: 4, distinct: 19, rows: 18 },
    File { name: "rates", runs: 1, stages: 15, distinct: 15, rows: 12 },
    File { name: "sources", runs: 1, stages: 10, distinct: 10, rows: 7 },
    // 40 students.
    File { name: "specialists", runs: 1, stages: 43, distinct: 43, rows: 10 },
    File { name: "starts", runs: 1, stages: 12, distinct: 12, rows: 7 },
    File { name: "teachers", runs: 1, stages: 12, distinct: 12, rows: 8 },
];

/// A folder with the data of five tasks.
fn folder() -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    let words = ["ab", "ba", "cad", "dac", "bad", "dab", "abc", "cab", "aab", "bba", "ccd", "dda"];
    type Answer = fn(&str) -> String;
    let tasks: [(&str, Answer); 5] = [
        ("copy", |word| word.to_owned()),
        ("last", |word| word[word.len() - 1..].to_owned()),
        ("first", |word| word[..1].to_owned()),
        ("reverse", |word| word.chars().rev().collect()),
        ("double", |word| word.repeat(2)),
    ];
    for (task, answer) in tasks {
        let line =
            |word: &&str| format!("{{\"prompt\": \"{task}: {word}=\", \"answer\": \"{}\"}}\n", answer(word));
        for (file, words) in
            [(format!("{task}.jsonl"), &words[..8]), (format!("{task}.test.jsonl"), &words[8..])]
        {
            fs::write(folder.path().join(file), words.iter().map(line).collect::<String>()).expect("data");
        }
    }
    folder
}

fn copy(from: &str, folder: &Path) {
    fs::copy(root().join("tests/variants").join(from), folder.join("file.mopd")).expect("a file");
}

fn mopd(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(mopd_tests::mopd());
    command.current_dir(folder).args(arguments).stdin(Stdio::null()).output().expect("mopd starts")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn json(text: &[u8]) -> Value {
    serde_json::from_slice(text).expect("JSON")
}

/// The keys of the stages of each run.
fn planned(folder: &Path, name: &str) -> Vec<Vec<String>> {
    let output = mopd(folder, &["plan", "file.mopd", "--format", "json"]);
    assert!(output.status.success(), "{name}: {}", said(&output));
    let plan = json(&output.stdout);
    let runs = match plan["runs"].as_array() {
        Some(runs) => runs.iter().map(|run| &run["plan"]).collect(),
        None => vec![&plan],
    };
    let keys = |run: &&Value| {
        let stages = run["stages"].as_array().expect("stages").iter();
        stages.map(|stage| stage["key"].as_str().expect("a key").to_owned()).collect()
    };
    runs.iter().map(keys).collect()
}

/// All members of every file are checked, and nothing is said of them; the plan counts what they share once.
#[test]
fn variants_are_checked_and_planned() {
    let folder = folder();
    for File { name, runs, stages, distinct, .. } in FILES {
        copy(&format!("{name}.mopd"), folder.path());
        let output = mopd(folder.path(), &["check", "file.mopd"]);
        assert!(output.status.success() && !said(&output).contains("warning"), "{name}: {}", said(&output));
        let keys = planned(folder.path(), name);
        assert!(keys.len() == *runs && keys.iter().all(|run| run.len() == *stages), "{name}: {keys:?}");
        let all: BTreeSet<&String> = keys.iter().flatten().collect();
        assert_eq!(all.len(), *distinct, "{name}");
    }
}

/// Whether these are a mean and the ends of its interval, in order.
fn in_order(mean: &Value, low: &Value, high: &Value) -> bool {
    let [low, mean, high] = [low, mean, high].map(|number| number.as_f64().expect("a number"));
    low <= mean && mean <= high
}

/// A run trains each stage once, and its one table has every variant, with intervals; the page of a run has
/// the intervals of the differences between rows, over the same prompts.
#[test]
fn variants_run_into_one_table() {
    for File { name, runs, distinct, rows, .. } in
        Extent::from_environment().one_of(1, FILES.iter().collect())
    {
        let folder = folder();
        copy(&format!("{name}.mopd"), folder.path());
        let output = mopd(
            folder.path(),
            &["run", "file.mopd", "--out", "out", "--predict", "never", "--format", "json"],
        );
        assert!(output.status.success(), "{name}: {}", said(&output));
        let events = String::from_utf8_lossy(&output.stdout);
        let trained = events.lines().filter(|line| line.contains("\"event\":\"stage_finished\"")).count();
        assert_eq!(trained, *distinct, "{name}: {events}");
        let results = json(&fs::read(folder.path().join("out/results.json")).expect("results"));
        let [table] = &results["tables"].as_array().expect("tables")[..] else { panic!("{name}: one table") };
        let found = table["rows"].as_array().expect("rows");
        assert_eq!(found.len(), *rows, "{name}");
        for row in found {
            let scores = row["scores"].as_object().expect("scores");
            assert!(!scores.is_empty());
            assert!(
                scores.values().all(|score| in_order(&score["mean"], &score["low"], &score["high"])),
                "{row}"
            );
        }
        if *runs > 1 {
            continue;
        }
        let output = mopd(folder.path(), &["report", "out"]);
        assert!(output.status.success(), "{name}: {}", said(&output));
        let page = fs::read_to_string(folder.path().join("out/report.html")).expect("the page");
        let data =
            page.split("<script type=\"application/json\" id=\"data\">").nth(1).expect("the page has data");
        let data = json(data.split("</script>").next().expect("it ends").as_bytes());
        let paired = data["tables"][0]["references"].as_array().expect("differences");
        let first = paired[0]["rows"].as_array().expect("the differences from the first row");
        assert_eq!(first.len(), *rows, "{name}");
        for difference in first[1..].iter().flat_map(|row| row.as_array().expect("columns")) {
            assert!(in_order(&difference[0], &difference[1], &difference[2]), "{difference}");
        }
    }
}

/// Each line of `lines.txt` changes one thing of a file of 78 lines: all are planned, and two of them run;
/// all, in the longer tier.
#[test]
fn lines_that_change_one_thing_run() {
    let base = fs::read_to_string(root().join("tests/variants/ablations/base.mopd")).expect("the file");
    assert_eq!(base.lines().count(), 78);
    let lines = fs::read_to_string(root().join("tests/variants/ablations/lines.txt")).expect("the lines");
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines.len(), 13);
    let folder = folder();
    copy("ablations/base.mopd", folder.path());
    let keys = planned(folder.path(), "base").concat();
    for line in &lines {
        let output = mopd(folder.path(), &["plan", "file.mopd", "--set", line, "--format", "json"]);
        assert!(output.status.success(), "{line}: {}", said(&output));
        let plan = json(&output.stdout);
        let stages = plan["stages"].as_array().expect("stages").iter();
        let new =
            stages.filter(|stage| !keys.contains(&stage["key"].as_str().expect("a key").to_owned())).count();
        assert!(new > 0, "{line}: nothing is trained anew");
    }
    let extent = Extent::from_environment();
    let halves: Vec<&[&str]> = lines.chunks(2).collect();
    for line in extent.one_of(2, halves).concat() {
        let out = format!("out{}", line.len());
        let arguments =
            ["run", "file.mopd", "--set", line, "--out", &out, "--predict", "never", "--format", "json"];
        let output = mopd(folder.path(), &arguments);
        assert!(output.status.success(), "{line}: {}", said(&output));
        assert!(String::from_utf8_lossy(&output.stdout).contains("\"event\":\"stage_finished\""), "{line}");
    }
}

/// A domain without a reward is trained on, and its rows have none; a table of it is refused.
#[test]
fn a_domain_without_a_reward_is_trained_on() {
    let folder = folder();
    let base = fs::read_to_string(root().join("tests/variants/bounds.mopd")).expect("the file");
    let notes =
        "domain first { prompts = \"first.jsonl\", tests = \"first.test.jsonl\", share = 1/3 }\n\nmodel base";
    let student = "route { for d in [copy, last]: domain == d -> specialist[d], else -> specialist[copy] }\n\nmodel student";
    let source = base
        .replacen("model base", notes, 1)
        .replace("share   = 1/2", "share   = 1/3")
        .replace("expert[d in domains]", "expert[d in [copy, last]]")
        .replace("specialist[d in domains]", "specialist[d in [copy, last]]")
        .replace("route { for d in domains: domain == d -> specialist[d] }\n\nmodel student", student)
        .replace("models = [start, student, bound, wide]", "models = [start, student], on = [copy, last]");
    fs::write(folder.path().join("file.mopd"), &source).expect("the file");
    let output = mopd(folder.path(), &["run", "file.mopd", "--out", "out", "--predict", "never"]);
    assert!(output.status.success(), "{}", said(&output));
    let output = mopd(folder.path(), &["report", "out"]);
    assert!(output.status.success(), "{}", said(&output));
    let page = fs::read_to_string(folder.path().join("out/report.html")).expect("the page");
    let data =
        page.split("<script type=\"application/json\" id=\"data\">").nth(1).expect("the page has data");
    let data = json(data.split("</script>").next().expect("it ends").as_bytes());
    let stages = data["stages"].as_array().expect("stages");
    let student = stages.iter().find(|stage| stage["name"] == "student").expect("the student");
    let of = |metric: &str| {
        let series = student["series"].as_array().expect("series").iter();
        let domains = series.filter(|series| series["metric"] == metric && series["by"] == "domain");
        domains.map(|series| series["of"].as_str().expect("a domain").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((of("reward"), of("length").len()), (vec!["copy".to_owned(), "last".to_owned()], 3));
    let output = mopd(folder.path(), &["check", "file.mopd", "--set", "bounds.on=domains"]);
    assert!(
        !output.status.success() && said(&output).contains("the domain `first` has no reward"),
        "{}",
        said(&output)
    );
}
