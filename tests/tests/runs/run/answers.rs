//! The completions behind a table: from a number that hides what was forgotten to the texts.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{Bench, assert_says, report_page, text};

/// A start that knows the capitals, and an expert that knows the units and teaches both.
const FORGETS: &str = r#"
use std.opd.mopd_top_k

experiment "forgets" { seed = 1 }

domain capitals { prompts = "capitals.jsonl", tests = "capitals.jsonl", reward = exact_match, share = 1/2 }
domain units    { prompts = "units.jsonl", tests = "units.jsonl", reward = exact_match, share = 1/2 }

model base   = llama { layers = 1, width = 32, heads = 2, context = 24, tokenizer = bytes }
model start  = sft(base, on: capitals) { target = answer, steps = 150, batch = 20, lr = 1e-2 }
model expert = sft(base, on: units) { target = answer, steps = 150, batch = 20, lr = 1e-2 }

teacher specialist = expert
route { for d in domains: domain == d -> specialist }

model student = distill(start) {
  objective = mopd_top_k(k: 64)
  rollout   = sample(n: 1, temperature: 1.0, max_tokens: 4)
  prompts   = 16
  steps     = 60
  lr        = 1e-2
}

compare "forgets" {
  models      = [start, expert, student]
  samples     = 1
  temperature = 0
  max_tokens  = 4
}
"#;

fn bench() -> Bench {
    let bench = Bench::new();
    let letters = "abcdefghijklmnopqrst";
    let file = |name: &str, answer: &dyn Fn(usize) -> String| -> String {
        let line = |(index, letter): (usize, char)| {
            json!({ "prompt": format!("{name} {letter}="), "answer": answer(index) }).to_string() + "\n"
        };
        letters.chars().enumerate().map(line).collect()
    };
    let capital = |index: usize| letters.chars().nth((index * 7 + 3) % 20).expect("a letter").to_string();
    bench.write("capitals.jsonl", &file("capital", &capital));
    bench.write("units.jsonl", &file("unit", &|index| ((index * 3 + 1) % 10).to_string()));
    bench.write("tiny.mopd", FORGETS);
    bench
}

fn mopd(bench: &Bench, arguments: &[&str]) -> (String, String) {
    let mut command = Command::new(mopd_tests::mopd());
    command.current_dir(bench.folder.path()).args(arguments).stdin(Stdio::null());
    let output = command.output().expect("mopd starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// The lines of `--format json`.
fn lines(bench: &Bench, arguments: &[&str]) -> Vec<Value> {
    let (lines, said) = mopd(bench, &[&["answers"], arguments, &["--format", "json"]].concat());
    assert_eq!(said, "", "{arguments:?}");
    lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

#[test]
fn a_forgotten_domain_is_said_first_and_its_texts_open() {
    let bench = bench();
    let output = bench.run(&["--out", "out"]);
    assert!(output.status.success(), "{}", text(&output));
    // The last lines of the run.
    let said = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = said.lines().rev().take(2).collect();
    assert!(last[1].starts_with("student is below start on capitals ("), "{said}");
    let command = "mopd answers out --row student --against start --domain capitals --wrong";
    assert_eq!(last[0], format!("to read what was lost: {command}"));
    // Every completion of every cell, with the rewards of the table.
    let results: Value =
        serde_json::from_slice(&fs::read(bench.path("out/results.json")).expect("results")).expect("JSON");
    let all = lines(&bench, &["out"]);
    assert_eq!(all.len(), 3 * 2 * 20);
    for row in results["tables"][0]["rows"].as_array().expect("rows") {
        for domain in ["capitals", "units"] {
            let of_cell: Vec<&Value> =
                all.iter().filter(|one| one["row"] == row["model"] && one["domain"] == domain).collect();
            let mean = of_cell.iter().map(|one| number(&one["reward"])).sum::<f64>() / 20.0;
            assert!((mean - number(&row["scores"][domain]["mean"])).abs() < 1e-9, "{row}");
            let prompts: Vec<u64> = of_cell.iter().map(|one| one["prompt"].as_u64().expect("it")).collect();
            assert_eq!(prompts, (0..20).collect::<Vec<u64>>(), "each prompt once, in order");
        }
    }
    assert_eq!((&all[0]["prompt_text"], &all[0]["feedback"]), (&"capital a=".into(), &"correct".into()));
    // From the number to the texts: what the student has wrong and its start right.
    let of = |row: &str, right: bool| -> BTreeMap<u64, Value> {
        let is = |one: &&Value| {
            one["row"] == row && one["domain"] == "capitals" && (one["reward"] == 1.0) == right
        };
        all.iter().filter(is).map(|one| (one["prompt"].as_u64().expect("it"), one.clone())).collect()
    };
    let (known, lost) = (of("start", true), of("student", false));
    let both: Vec<u64> = known.keys().filter(|prompt| lost.contains_key(prompt)).copied().collect();
    assert!(both.len() >= 10, "{} of {} are lost", both.len(), known.len());
    let pairs = lines(&bench, &command.split(' ').skip(2).collect::<Vec<_>>());
    let found: Vec<(&Value, u64)> =
        pairs.iter().map(|one| (&one["row"], one["prompt"].as_u64().expect("it"))).collect();
    let (start, student) = (json!("start"), json!("student"));
    assert_eq!(
        found,
        both.iter().flat_map(|prompt| [(&start, *prompt), (&student, *prompt)]).collect::<Vec<_>>()
    );
    let (shown, _) = mopd(&bench, &command.split(' ').skip(1).collect::<Vec<_>>());
    assert_says(
        &shown,
        &[&format!("student on capitals, seed 1: {} completions wrong where start is right", both.len())],
    );
    let text = known[&both[0]]["text"].as_str().expect("a text").to_owned();
    assert_says(&shown, &[&format!("start 1 {text} ("), "student 0 ", "feedback: wrong"]);
    let (csv, _) = mopd(&bench, &["answers", "out", "--row", "expert", "--format", "csv"]);
    assert_eq!(csv.lines().count(), 1 + 40, "{csv}");
    let (counts, _) = mopd(&bench, &["answers", "out"]);
    assert_says(&counts, &[&format!("| student | {} of 20 |", 20 - lost.len())]);

    // The page says the same, and has the same texts.
    let data = report_page(bench.folder.path(), "out");
    let page = fs::read_to_string(bench.path("out/report.html")).expect("the page");
    let top = page.split("class=\"headline\">").nth(1).expect("a headline");
    assert!(top.starts_with("<a href=\"#stage-3\">student</a> is below <a href="), "{}", &top[..200]);
    assert!(page.contains("<a href=\"#answers-0-2-0\""), "a cell opens its texts");
    let column = &data["tables"][0]["answers"]["columns"][0];
    assert_eq!((&column["total"], column["prompts"].as_array().map(Vec::len)), (&20.into(), Some(20)));
    let shown = column["rows"][2][both[0] as usize].as_array().expect("the student's completion");
    assert_eq!(shown[1], lost[&both[0]]["text"]);
}

#[test]
fn names_that_no_table_has_are_refused() {
    let bench = Bench::new();
    bench.tables("out", &[]);
    for (arguments, parts) in [
        (&["--row", "studnet"][..], ["no row `studnet`", "did you mean `--row 'student'`?"]),
        (&["--row", "student", "--against", "stat"], ["no row `stat`", "`--against 'start'`"]),
        (&["--domain", "cpoy"], ["no domain `cpoy`", "`--domain 'copy'`"]),
        (&["--seed", "7"], ["no seed 7", "there are 1"]),
        (&["--table", "other"], ["no table `other`", "there are tiny table"]),
    ] {
        let (shown, said) = mopd(&bench, &[&["answers", "out"], arguments].concat());
        assert_eq!(shown, "");
        assert_says(&said, &parts);
    }
    fs::remove_file(bench.path("out/answers.parquet")).expect("it is there");
    assert_says(&mopd(&bench, &["answers", "out"]).1, &["an earlier version of mopd made it"]);
    fs::remove_file(bench.path("out/results.json")).expect("it is there");
    assert_says(&mopd(&bench, &["answers", "out"]).1, &["is not finished"]);
}

/// Scores of an earlier version stay as they are, and what is missing is said.
#[test]
fn scores_that_were_stored_without_texts_stay_valid() {
    let bench = Bench::new();
    let before = bench.tables("out", &[]);
    let mut without = 0;
    for entry in fs::read_dir(bench.path(".mopd/store")).expect("the store").flatten() {
        let file = entry.path().join("completions.parquet");
        let sums = entry.path().join("checksums.json");
        let Ok(mut known) =
            fs::read(&sums).map(|bytes| serde_json::from_slice::<Value>(&bytes).expect("JSON"))
        else {
            continue;
        };
        if known["about"] == "student on copy, seed 1" {
            fs::remove_file(file).expect("it is there");
            known["files"].as_object_mut().expect("files").remove("completions.parquet");
            fs::write(sums, known.to_string()).expect("writing");
            without += 1;
        }
    }
    assert_eq!(without, 1);
    let again = bench.run(&["--out", "again"]);
    let said = text(&again);
    assert!(again.status.success(), "{said}");
    assert_says(&said, &["has no completions of student on copy, seed 1: an earlier version of mopd stored"]);
    let results: Value =
        serde_json::from_slice(&fs::read(bench.path("again/results.json")).expect("results")).expect("JSON");
    assert_eq!(results["tables"], before);
    let (shown, said) = mopd(&bench, &["answers", "again", "--row", "student", "--domain", "copy"]);
    assert_says(&said, &["warning: there are no completions of student on copy, seed 1"]);
    assert_says(&shown, &["no completion is there"]);
    // The others are there as before, each once.
    let others = |out: &str| lines(&bench, &[out, "--row", "start"]);
    assert!(others("again").len() == 2 * 4 * 2 && others("again") == others("out"));
    // On the page, the number leads to its stage.
    report_page(bench.folder.path(), "again");
    let page = fs::read_to_string(bench.path("again/report.html")).expect("the page");
    assert!(page.contains("an earlier version of mopd stored 1 number without completions"));
    assert!(page.contains("#answers-0-2-1\"") && !page.contains("#answers-0-2-0\""));
}

/// A run that is killed between two evaluations has every completion once.
#[test]
fn a_killed_run_loses_no_completion_and_has_none_twice() {
    let (whole, cut) = (Bench::new(), Bench::new());
    whole.tables("out", &[]);
    let mut child = cut.command(&["--out", "out", "--format", "json"]).spawn().expect("mopd starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("\"event\":\"evaluated\"")), "it ended early");
    child.kill().expect("it is ours");
    child.wait().expect("it ends");
    drop(lines);
    assert!(!cut.path("out/answers.parquet").exists());
    cut.tables("out", &[]);
    let file = |bench: &Bench| fs::read(bench.path("out/answers.parquet")).expect("the completions");
    assert!(file(&cut) == file(&whole));
}

/// The completions of a verifier with parts, of a model outside of an experiment.
#[test]
fn an_evaluation_has_its_completions_too() {
    let bench = Bench::new();
    bench.tables("out", &[]);
    let eval = [
        "eval",
        "out/models/student-seed1",
        "--on",
        "copy.test.jsonl",
        "--samples",
        "3",
        "--max-tokens",
        "6",
        "--reward",
        "parts(right: exact_match, letters: regex(\"[a-d]+\"), weights: [0.75, 0.25])",
        "--out",
        "evaluated",
    ];
    let (shown, said) = mopd(&bench, &eval);
    assert!(shown.contains("| student_seed1 |"), "{shown}{said}");
    let found = lines(&bench, &["evaluated", "--row", "student_seed1"]);
    assert_eq!(found.len(), 4 * 3);
    for one in found {
        let (right, letters) = (number(&one["parts"]["right"]), number(&one["parts"]["letters"]));
        assert!((number(&one["reward"]) - (0.75 * right + 0.25 * letters)).abs() < 1e-9, "{one}");
        assert!(one["tokens"].as_u64().is_some_and(|tokens| (1..=6).contains(&tokens)), "{one}");
    }
}
