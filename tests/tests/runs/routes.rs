//! Routes by the data of a prompt, end to end with a real worker.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const WORDS: [&str; 8] = ["ab", "ba", "cad", "dac", "bad", "dab", "abc", "cab"];

/// The rows of a domain: every word, with its difficulty.
fn lines(words: &[&str], more: fn(&str) -> String) -> String {
    words
        .iter()
        .map(|word| format!("{{\"prompt\": \"copy: {word}=\", \"answer\": \"{word}\"{}}}\n", more(word)))
        .collect()
}

fn level(word: &str) -> String {
    format!(", \"niveau\": {}", if word.len() > 2 { 5 } else { 1 })
}

/// Two teachers, with these `domains` and `route`; the student is trained on all data at every step.
fn source(domains: &str, on: &str, route: &str, stage: &str) -> String {
    format!(
        r#"use std.opd.mopd

experiment "routed" {{ seed = 1 }}

domain whole {{ prompts = "whole.jsonl", tests = "whole.jsonl", reward = exact_match, share = 1/2 }}
{domains}

model base  = llama {{ layers = 1, width = 32, heads = 2, context = 24, tokenizer = bytes }}
model start = sft(base, on: whole) {{ target = answer, steps = 12, batch = 8, lr = 5e-3 }}
model brief = sft(start, on: whole) {{ target = answer, steps = 3, batch = 8, lr = 5e-3 }}
model thorough = sft(start, on: whole) {{ target = answer, steps = 9, batch = 8, lr = 5e-3 }}

teacher low  = brief
teacher high = thorough

route {{ {route} }}

objective follow {{
  term follow = live kl(student || teacher)
  reduce      = mean(token) then mean(sequence)
}}

model student = distill(start) {{ domains = [{on}], {stage} }}

compare "t" {{ models = [start, student], on = [whole], samples = 1, temperature = 1.0, max_tokens = 6 }}
"#
    )
}

const ONE: &str = r#"domain copy { prompts = "copy.jsonl", tests = "copy.jsonl", fields = columns(level: niveau), reward = exact_match, share = 1/2 }"#;
const BY_LEVEL: &str = "domain == copy and data.level > 3 -> high, else -> low";
const ON_DATA: &str = "objective = follow, rollout = data(answer), batch = 8, steps = 3, lr = 1e-3";

struct Case {
    folder: TempDir,
}

impl Case {
    fn new(source: &str, rows: &str) -> Case {
        let folder = TempDir::new().expect("a temporary folder");
        fs::write(folder.path().join("routed.mopd"), source).expect("an experiment");
        fs::write(folder.path().join("whole.jsonl"), lines(&WORDS, |_| String::new())).expect("data");
        fs::write(folder.path().join("copy.jsonl"), rows).expect("data");
        Case { folder }
    }

    fn mopd(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(mopd_tests::mopd());
        command.current_dir(self.folder.path()).args(arguments);
        command.stdin(Stdio::null()).output().expect("mopd starts")
    }

    /// The output of a run that succeeds.
    fn run(&self) -> String {
        let output = self.mopd(&["run", "routed.mopd", "--out", "out", "--tensorboard"]);
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    }

    fn refused(&self) -> String {
        let output = self.mopd(&["run", "routed.mopd", "--out", "out"]);
        assert!(!output.status.success(), "{}", said(&output));
        said(&output)
    }

    fn student(&self) -> Vec<f32> {
        let bytes = fs::read(self.folder.path().join("out/models/student-seed1/model.safetensors"))
            .expect("the student");
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
        bytes[header..]
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes")))
            .collect()
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The student's curves in the report of a run.
fn curves(folder: &Path) -> Value {
    let output = Command::new(mopd_tests::mopd())
        .current_dir(folder)
        .args(["report", "out"])
        .output()
        .expect("mopd starts");
    assert!(output.status.success(), "{}", said(&output));
    let page = fs::read_to_string(folder.join("out/report.html")).expect("a page");
    let data =
        page.split("<script type=\"application/json\" id=\"data\">").nth(1).expect("the page has data");
    let data: Value = serde_json::from_str(data.split("</script>").next().expect("it ends")).expect("JSON");
    let stages = data["stages"].as_array().expect("stages");
    stages.iter().find(|stage| stage["name"] == "student").expect("the student").clone()
}

/// One domain with a column, against the same rows in two domains with a teacher each. Every step is all of
/// the data and the objective a mean over sequences, so both are one computation but for the order of sums.
#[test]
fn a_column_routes_as_domains_do() {
    let one = Case::new(&source(ONE, "copy", BY_LEVEL, ON_DATA), &lines(&WORDS, level));
    one.run();
    let domains = r#"domain long  { prompts = "long.jsonl",  tests = "copy.jsonl", reward = exact_match, share = 3/8 }
domain short { prompts = "short.jsonl", tests = "copy.jsonl", reward = exact_match, share = 1/8 }"#;
    let two = Case::new(
        &source(domains, "long, short", "domain == long -> high, else -> low", ON_DATA),
        &lines(&WORDS, |_| String::new()),
    );
    let (long, short): (Vec<&str>, Vec<&str>) = WORDS.iter().partition(|word| word.len() > 2);
    fs::write(two.folder.path().join("long.jsonl"), lines(&long, |_| String::new())).expect("data");
    fs::write(two.folder.path().join("short.jsonl"), lines(&short, |_| String::new())).expect("data");
    two.run();
    let apart = |other: &Case| {
        let pairs = one.student().into_iter().zip(other.student()).collect::<Vec<_>>();
        pairs.iter().map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    assert!(apart(&two) < 1e-5, "{}", apart(&two));
    // With the teachers exchanged, it is another student.
    let swapped = Case::new(
        &source(ONE, "copy", "domain == copy and data.level > 3 -> low, else -> high", ON_DATA),
        &lines(&WORDS, level),
    );
    swapped.run();
    assert!(apart(&swapped) > 1e-4, "{}", apart(&swapped));

    let student = curves(one.folder.path());
    assert_eq!(student["domains"], serde_json::json!(["copy"]));
    assert_eq!(student["teachers"], serde_json::json!(["high", "low"]));
    let series = student["series"].as_array().expect("series");
    let first = |metric: &str, by: &str| -> BTreeMap<&str, f64> {
        let found = series.iter().filter(|one| one["metric"] == metric && one["by"] == by);
        found
            .map(|one| (one["of"].as_str().expect("a name"), one["mean"][0].as_f64().expect("a number")))
            .collect()
    };
    assert_eq!(first("prompt_share", "teacher"), [("high", 0.75), ("low", 0.25)].into());
    assert_eq!(first("prompt_share", "domain"), [("copy", 1.0)].into());
    let (of_teachers, of_domain, tokens) = (
        first("divergence", "teacher"),
        first("divergence", "domain")["copy"],
        first("token_share", "teacher"),
    );
    let together = of_teachers["high"] * tokens["high"] + of_teachers["low"] * tokens["low"];
    assert!(
        of_teachers["high"] != of_teachers["low"] && (together - of_domain).abs() < 2e-3,
        "{of_teachers:?} {of_domain}"
    );
}

/// Teachers that write, the student's own rollouts, several passes; a second run keeps all of it.
#[test]
fn routed_stages_run_and_are_kept() {
    let student = "objective = mopd(clip_at: 5), rollout = sample(n: 2, temperature: 1.0, max_tokens: 6), \
                   prompts = 4, passes = 2, steps = 4, lr = 1e-3";
    let mut text = source(ONE, "copy", BY_LEVEL, student);
    text += "model copied = sft(start, on: copy) { rollout = from(teacher, sequences: 16, temperature: 1.0, \
             max_tokens: 6), keep = all, batch = 4, steps = 3, lr = 1e-3 }\nmodel pairs = dpo(start, on: \
             copy) { chosen = from(teacher, n: 1, temperature: 1.0, max_tokens: 6), rejected = sample(n: 1, \
             temperature: 1.0, max_tokens: 6), reference = start, beta = 0.5, batch = 4, steps = 2, lr = \
             1e-3 }\ncompare \"more\" { models = [copied, pairs], on = [whole], samples = 1, temperature = \
             1.0, max_tokens = 6 }\n";
    let case = Case::new(&text, &lines(&WORDS, level));
    case.run();
    let weights = case.student();
    case.run();
    assert_eq!(case.student(), weights);
    let results = fs::read(case.folder.path().join("out/results.json")).expect("results");
    let results: Value = serde_json::from_slice(&results).expect("JSON");
    assert_eq!(results["stages"], serde_json::json!([]), "nothing is computed again");

    let plan = said(&case.mopd(&["plan", "routed.mopd"]));
    assert!(plan.contains("copy where data.level > 3 -> high = thorough, copy -> low = brief"), "{plan}");
}

#[test]
fn unreadable_route_field_is_reported_before_the_first_step() {
    let text = source(ONE, "copy", BY_LEVEL, ON_DATA);
    for (more, problem) in [
        (
            (|word| if word == "cad" { ", \"niveau\": null".to_owned() } else { level(word) })
                as fn(&str) -> String,
            "copy.jsonl:3: the field `level` must be a number or a bool; found null",
        ),
        (
            |word| if word == "ba" { ", \"niveau\": \"hard\"".to_owned() } else { level(word) },
            "copy.jsonl:2: the field `level` must be a number or a bool; found the string \"hard\"",
        ),
        (
            |word| if word == "cab" { String::new() } else { level(word) },
            "copy.jsonl:8: the field `niveau` is missing",
        ),
    ] {
        let refused = Case::new(&text, &lines(&WORDS, more)).refused();
        assert!(refused.contains(problem), "{refused}");
        assert!(!refused.contains("panicked"), "{refused}");
    }
}

/// An arm that no row takes is reported, but is no error: other data may have such rows.
#[test]
fn an_arm_that_no_row_takes_is_said() {
    let case = Case::new(
        &source(ONE, "copy", "domain == copy and data.level > 7 -> high, else -> low", ON_DATA),
        &lines(&WORDS, level),
    );
    let said = case.run();
    assert!(
        said.contains("`student`: of the 8 prompts of `copy`, none is routed to `high` by `data.level > 7`"),
        "{said}"
    );
}
