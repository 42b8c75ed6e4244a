//! Tables with custom columns and metrics, from the text to the results of a run.

use std::fs;

use serde_json::Value;

use super::{Bench, text};

/// A model that copies three letters, and one that was never trained, on the domain's tests and on a
/// benchmark.
const TABLE: &str = r#"
experiment "columns" { seed = 1 }

domain copy { prompts = "copy.jsonl", tests = "copy.test.jsonl", reward = exact_match }

eval last { prompts = "last.test.jsonl", reward = exact_match, samples = 4, temperature = 0.5, max_tokens = 4, metrics = [pass_at(4)] }

model base  = llama { layers = 1, width = 32, heads = 2, context = 24, tokenizer = bytes }
model start = sft(base, on: domains) { target = answer, steps = 20, batch = 16, lr = 3e-3 }

compare "columns" { models = [base, start], on = [copy, last], samples = 3, temperature = 1, max_tokens = 6, metrics = [distinct, length] }
"#;

#[test]
fn a_benchmark_is_a_column_and_metrics_are_tables() {
    let bench = Bench::new();
    bench.write("tiny.mopd", TABLE);
    let output = bench.run(&["--out", "out"]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains(
            "3 samples a prompt at temperature 1 (copy), 4 samples a prompt at temperature 0.5 (last)"
        ),
        "{said}"
    );
    for metric in ["columns, distinct:", "columns, length:", "columns, pass@4:"] {
        assert!(said.contains(metric), "{said}");
    }
    let read = |name: &str| fs::read(bench.path("out").join(name)).expect(name);
    let results: Value = serde_json::from_slice(&read("results.json")).expect("JSON");
    let table = &results["tables"][0];
    assert_eq!(table["domains"], serde_json::json!(["copy", "last"]));
    assert_eq!(table["metrics"], serde_json::json!(["distinct", "length", "pass@4"]));
    let number = |value: &Value| value.as_f64().expect("a number");
    for row in table["rows"].as_array().expect("rows") {
        let of = |metric: &str, domain: &str| &row["metrics"][metric][domain];
        assert!(of("pass@4", "copy").is_null(), "only the benchmark asks for it: {row}");
        // pass@4 is at least the score of a single sample.
        assert!(number(&of("pass@4", "last")["mean"]) >= number(&row["scores"]["last"]["mean"]), "{row}");
        for domain in ["copy", "last"] {
            let longest = if domain == "copy" { 6.0 } else { 4.0 };
            assert!((1.0..=longest).contains(&number(&of("length", domain)["mean"])), "{row}");
        }
        // Three samples have one, two or three different texts.
        let distinct = number(&of("distinct", "copy")["mean"]);
        assert!((1.0 / 3.0..=1.0).contains(&distinct), "{row}");
        assert_eq!(of("length", "last")["n"], 4);
    }
    // Another metric of the same answers reads them from the store.
    bench.edit("tiny.mopd", "metrics = [distinct, length]", "metrics = [pass_at(3)]");
    let again = bench.run(&["--out", "again", "--format", "json"]);
    let said = text(&again);
    assert!(again.status.success() && !said.contains("\"event\":\"stage_started\""), "{said}");
    let results: Value =
        serde_json::from_slice(&fs::read(bench.path("again/results.json")).expect("results.json"))
            .expect("JSON");
    let after = &results["tables"][0];
    assert_eq!(after["metrics"], serde_json::json!(["pass@3", "pass@4"]));
    for (before, after) in table["rows"].as_array().unwrap().iter().zip(after["rows"].as_array().unwrap()) {
        assert_eq!(before["scores"], after["scores"]);
    }
}

/// A model that learns to answer everything with 7 and to be 80% sure of it, where three of four answers are
/// 7; and one that was never trained and states nothing.
const SURE: &str = r#"
experiment "sure" { seed = 1 }

domain sure { prompts = "sure.jsonl", tests = "sure.test.jsonl", reward = regex("^(?<answer>[0-9]) Confidence") }

model base  = llama { layers = 1, width = 32, heads = 2, context = 32, tokenizer = bytes }
model start = sft(base, on: domains) { target = demonstration, steps = 150, batch = 8, lr = 3e-3 }

compare "sure" { models = [base, start], samples = 1, temperature = 0, max_tokens = 20, metrics = [calibration] }
"#;

#[test]
fn table_measures_calibration_of_stated_confidences() {
    let bench = Bench::new();
    bench.write("tiny.mopd", SURE);
    let line = |prompt: char, answer: u32| {
        format!(
            "{{\"prompt\": \"{prompt}=\", \"answer\": \"{answer}\", \"demonstration\": \"7 Confidence: 0.8\"}}\n"
        )
    };
    bench.write("sure.jsonl", &"abcdefgh".chars().map(|prompt| line(prompt, 7)).collect::<String>());
    let tests = [('i', 7), ('j', 7), ('k', 8), ('l', 7)].map(|(prompt, answer)| line(prompt, answer));
    bench.write("sure.test.jsonl", &tests.concat());
    let output = bench.run(&["--out", "out"]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("no `calibration` of `base` on `sure`"), "{said}");
    let results = fs::read(bench.path("out/results.json")).expect("results.json");
    let results: Value = serde_json::from_slice(&results).expect("JSON");
    let table = &results["tables"][0];
    assert_eq!(table["metrics"], serde_json::json!(["ece", "brier", "stated"]));
    let of = |row: usize, metric: &str| table["rows"][row]["metrics"][metric]["sure"]["mean"].as_f64();
    assert_eq!((of(0, "ece"), of(0, "brier"), of(0, "stated")), (None, None, Some(0.0)));
    assert_eq!(of(1, "stated"), Some(1.0));
    // |3/4 - 0.8|, and (3 * 0.2^2 + 0.8^2) / 4.
    for (metric, wanted) in [("ece", 0.05), ("brier", 0.19)] {
        let found = of(1, metric).expect("a number");
        assert!((found - wanted).abs() < 1e-12, "{metric}: {found}");
    }
}
