use std::collections::BTreeMap;

use mopd_plan::results::Score;
use serde_json::json;

use super::*;

const TEXT: &str = r#"
use std.opd.mopd
experiment "forgets" { seed = 1 }
domain capitals { prompts = "c.jsonl", tests = "c.jsonl", reward = exact_match, share = 1/2 }
domain units    { prompts = "u.jsonl", tests = "u.jsonl", reward = exact_match, share = 1/2 }
model base  = llama { layers = 1, width = 32, heads = 2, context = 24, tokenizer = bytes }
model start = sft(base, on: domains) { target = answer, steps = 20, batch = 16, lr = 1e-3 }
model expert[d in domains] = grpo(start, on: d) { steps = 4, prompts = 4, samples = 4, max_tokens = 6, lr = 1e-3 }
teacher specialist[d in domains] = expert[d]
route { for d in domains: domain == d -> specialist[d] }
model student = distill(start) {
  objective = mopd(clip_at: 5)
  rollout   = sample(n: 1, temperature: 1.0, max_tokens: 6)
  prompts   = 8
  steps     = 4
  lr        = 1e-3
}
compare "both" {
  models      = [start, expert, student]
  score       = normalized(zero: start, one: expert)
  samples     = 1
  temperature = 1.0
  max_tokens  = 6
}
"#;

fn plan() -> Plan {
    let entry = mopd_lang::source::SourceFile { path: "forgets.mopd".into(), text: TEXT.into() };
    let analysis = mopd_lang::analyse(entry, &crate::host::standard);
    let experiment = analysis.experiment.as_ref().expect("it is sound");
    mopd_compiler::compile(experiment, &analysis.origins, &analysis.sources, false).expect("it can run")
}

fn around(mean: f64, half: f64) -> Interval {
    Interval { mean, low: mean - half, high: mean + half }
}

/// The scores of start, expert and student on both domains; every interval of a score or a difference has
/// this half width, that of the student's normalized score another.
struct Case {
    scores: [[f64; 2]; 3],
    half: f64,
    normalized: Interval,
}

fn said(case: &Case) -> (String, String, Vec<String>) {
    let names = ["start", "expert", "student"];
    let mean = |row: usize| (case.scores[row][0] + case.scores[row][1]) / 2.0;
    let score = |mean: f64| Score {
        mean,
        low: mean - case.half,
        high: mean + case.half,
        n: 20,
        samples: None,
        by_seed: vec![mean],
    };
    let normalized = [around(0.0, 0.0), around(1.0, 0.0), case.normalized.clone()];
    let row = |row: usize| {
        let [capitals, units] = case.scores[row].map(score);
        json!({
            "model": names[row], "scores": BTreeMap::from([("capitals", capitals), ("units", units)]),
            "normalized": normalized[row], "normalized_by_seed": [normalized[row].mean], "spread": 0.0,
        })
    };
    let results: Results = serde_json::from_value(json!({
        "schema": 1, "experiment": "forgets", "plan": "", "seeds": [1],
        "versions": { "mopd": "0", "libtorch": "0" }, "seconds": 1.0, "peak_memory": 1,
        "tables": [{ "name": "both", "metric": "pass@1", "intervals": "prompts", "samples": 1,
                     "domains": ["capitals", "units"], "rows": (0..3).map(row).collect::<Vec<_>>() }],
    }))
    .expect("results");
    let pair = |first: usize, second: usize| {
        let change = |column: usize| case.scores[second][column] - case.scores[first][column];
        let all = [change(0), change(1), mean(second) - mean(first), 0.0];
        let differences = all.into_iter().map(|mean| Some(around(mean, case.half))).collect();
        RowPair { first: first as u32, second: second as u32, differences }
    };
    let found = RowDifferences {
        table: "both".to_owned(),
        means: (0..3).map(|row| Some(around(mean(row), case.half))).collect(),
        one_prompt: Vec::new(),
        pairs: vec![pair(0, 1), pair(0, 2), pair(1, 2)],
    };
    let plan = plan();
    let headline = headline(&plan, &results, &[found]).expect("a headline");
    let losses = headline.losses.iter().map(|loss| format!("{} {} {}", loss.row, loss.start, loss.domain));
    (headline.to_string(), headline.note.clone(), losses.collect())
}

#[test]
fn a_share_of_the_gain_is_said_with_its_interval() {
    let case = Case {
        scores: [[0.5, 0.4], [0.9, 0.8], [0.88, 0.79]],
        half: 0.03,
        normalized: Interval { mean: 0.96, low: 0.9, high: 1.02 },
    };
    let (text, note, losses) = said(&case);
    assert_eq!(text, "student keeps 96% [90, 102] of what expert gains over start.");
    assert_eq!(
        note,
        "both: normalized pass@1, mean over 2 domains; 95% intervals over prompts alone: there is one seed."
    );
    assert!(losses.is_empty());
}

/// The student of the capitals: the mean says 104%, and 15 of 20 capitals became 5.
#[test]
fn a_domain_that_was_forgotten_is_said_first() {
    let case = Case {
        scores: [[0.75, 0.05], [0.8, 0.9], [0.25, 1.0]],
        half: 0.2,
        normalized: Interval { mean: 1.04, low: 0.8, high: 1.3 },
    };
    let (text, _, losses) = said(&case);
    assert_eq!(
        text,
        "student is below start on capitals (0.75 → 0.25, −0.50 [−0.70, −0.30]). student keeps 104% [80, 130] of \
         what expert gains over start; farthest from that mean: capitals with 0.25 (start 0.75, expert 0.80)."
    );
    assert_eq!(losses, ["student start capitals"]);
}

#[test]
fn a_share_that_is_wider_than_its_scale_is_not_said() {
    let case = Case {
        scores: [[0.75, 0.05], [0.8, 0.9], [0.7, 0.9]],
        half: 0.2,
        normalized: Interval { mean: 1.04, low: -3.0, high: 5.0 },
    };
    let (text, note, losses) = said(&case);
    assert_eq!(
        text,
        "student has 0.80 [0.60, 1.00]; farthest from that mean: capitals with 0.70; best: expert 0.85 [0.65, \
         1.05], a difference of +0.05 [−0.15, +0.25]; below start, which may be chance, on capitals (−0.05 \
         [−0.25, +0.15])."
    );
    assert!(note.ends_with("no share of the gain, because its interval is wider than the gain."), "{note}");
    assert!(losses.is_empty(), "the interval of the difference contains 0");
}

#[test]
fn a_difference_is_the_same_from_either_side() {
    let of = Interval { mean: 0.25, low: -0.5, high: 1.0 };
    let pair = RowPair { first: 0, second: 2, differences: vec![Some(of.clone()), None] };
    let found =
        RowDifferences { table: "t".into(), means: vec![None; 3], one_prompt: Vec::new(), pairs: vec![pair] };
    assert_eq!(difference(&found, 2, 0), Some(vec![Some(of), None]));
    let turned = Interval { mean: -0.25, low: -1.0, high: 0.5 };
    assert_eq!(difference(&found, 0, 2), Some(vec![Some(turned), None]));
    assert_eq!(difference(&found, 1, 2), None);
}

#[test]
fn intervals_are_short() {
    let interval = |mean, low, high| Interval { mean, low, high };
    assert_eq!(percent(&interval(0.996, 0.97, 1.02)), "100% [97, 102]");
    assert_eq!(percent(&interval(-0.001, -0.2, 0.2)), "0% [\u{2212}20, 20]");
    assert_eq!(points(&interval(0.04, -0.012, 0.09)), "+4 points [\u{2212}1, +9]");
    assert_eq!(fraction(&interval(0.5, 0.25, 0.75)), "0.50 [0.25, 0.75]");
    assert_eq!(signed(&interval(-0.001, -0.25, 0.25)), "+0.00 [\u{2212}0.25, +0.25]");
}
