use std::collections::BTreeMap;

use mopd_plan::results::{Intervals, Score, Table, TableRow};
use mopd_plan::{Comparison, Row};

use super::*;

#[test]
fn run_name_lists_its_values() {
    let member = SweepRun {
        values: vec![("clip_at".to_owned(), SweptTo::Number(5.0)), ("lr".to_owned(), SweptTo::Number(3e-4))],
        compiled: None,
    };
    assert_eq!(member.name(), "clip_at=5,lr=0.0003");
    assert_eq!(member.out(Path::new("runs/a")), Path::new("runs/a/clip_at=5,lr=0.0003"));
    let single = SweepRun { values: Vec::new(), compiled: None };
    assert_eq!(single.out(Path::new("runs/a")), Path::new("runs/a"));
}

const TEXT: &str = r#"experiment "tiny" { seed = 1 }
param n: count = 2
sweep { n in [2, 8] }
domain copy { prompts = "copy.jsonl", tests = "copy.jsonl", reward = numeric(tolerance: 0) }
model base  = llama { layers = 1, width = 32, heads = 2, context = 24, tokenizer = bytes }
model start = sft(base, on: domains) { target = answer, steps = 3, batch = 4, lr = 1e-2 }
model other = sft(base, on: domains) { target = answer, steps = n, batch = 4, lr = 1e-2 }
compare "t" { models = [base, start], samples = 2, temperature = 1, max_tokens = 4 }
"#;

/// So that a member can be run again alone.
#[test]
fn a_member_knows_its_values() {
    let (sweep, _) = swept(&[]);
    let set: Vec<_> = sweep.compiled().map(|(_, compiled)| compiled.set.clone()).collect();
    assert_eq!(set, ["2", "8"].map(|n| vec![("n".to_owned(), n.to_owned())]));
}

/// The members of the text with these changes, and example results of each: scores 0, 1, ... by member.
fn swept(changes: &[(&str, &str)]) -> (Sweep, Vec<Option<Results>>) {
    let mut text = TEXT.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tiny.mopd");
    std::fs::write(&file, text).expect("a file");
    let checked = check(&file, &[], &mut |_| ()).expect("it can be read");
    let sweep = checked.sweep.unwrap_or_else(|| panic!("{:?}", checked.analysis.diagnostics));
    let left = |(member, place): (&SweepRun, u32)| Some(left(&member.compiled.as_ref()?.plan, place));
    let results = sweep.members.iter().zip(0..).map(left).collect();
    (sweep, results)
}

fn left(plan: &Plan, place: u32) -> Results {
    let Comparison { name, rows, columns, seeds, .. } = &plan.experiment.comparisons[0];
    let mean = f64::from(place);
    let score = Score { mean, low: mean, high: mean, n: 20, samples: None, by_seed: vec![mean] };
    let metrics: Vec<String> = columns[0].metrics.iter().map(ToString::to_string).collect();
    let scores = BTreeMap::from([("copy".to_owned(), score)]);
    let row = |row: &Row| TableRow {
        model: row.label.clone(),
        scores: scores.clone(),
        normalized: None,
        normalized_by_seed: Vec::new(),
        spread: None,
        metrics: metrics.iter().map(|metric| (metric.clone(), scores.clone())).collect(),
    };
    let greedy = columns[0].evaluation.is_greedy();
    let table = Table {
        name: name.clone(),
        metric: if greedy { "greedy" } else { "pass@1" }.to_owned(),
        intervals: Some(Intervals::for_seeds(*seeds as usize)),
        samples: columns[0].evaluation.samples(),
        domains: vec!["copy".to_owned()],
        metrics: metrics.clone(),
        rows: rows.iter().map(row).collect(),
    };
    let first = plan.experiment.seed;
    let whole = json!({
        "schema": 1, "experiment": "tiny", "plan": plan.hash, "tables": [table], "seconds": 1.0,
        "seeds": (first..first + u64::from(*seeds)).collect::<Vec<_>>(), "peak_memory": 1,
        "versions": { "mopd": "0", "libtorch": "0" },
    });
    serde_json::from_value(whole).expect("results")
}

/// The merged tables, and the names of their rows.
fn merged((sweep, results): &(Sweep, Vec<Option<Results>>)) -> (String, Vec<String>) {
    let folder = tempfile::tempdir().expect("a folder");
    let all = sweep.combined(folder.path(), results).expect("a folder to write to").results;
    let all = all.expect("one ended well");
    let rows = all.tables[0].rows.iter().map(|row| row.model.clone()).collect();
    (sweep.table(&all, Style::PLAIN), rows)
}

#[test]
fn a_row_is_there_once_where_nothing_of_it_can_differ() {
    let (text, rows) = merged(&swept(&[("[base, start]", "[base, start, other]")]));
    assert_eq!(rows, ["base", "start", "other [n=2]", "other [n=8]"]);
    let caption = "t: pass@1, 2 samples a prompt at temperature 1, 20 prompts, seed 1; mean [95% \
                   interval over prompts alone: there is one seed]\n";
    assert!(text.starts_with(caption), "{text}");
    // The same rows, but a score of 1 is that of another model.
    let score = ("max_tokens = 4", "max_tokens = 4, score = normalized(zero: start, one: other)");
    let (_, rows) = merged(&swept(&[score]));
    assert_eq!(rows, ["base [n=2]", "base [n=8]", "start [n=2]", "start [n=8]"]);
}

#[test]
fn another_reward_is_another_number() {
    let mut swept =
        swept(&[("tolerance: 0", "tolerance: n"), ("n: count", "n: real"), ("steps = n", "steps = 4")]);
    let (_, rows) = merged(&swept);
    assert_eq!(rows, ["base [n=2]", "base [n=8]", "start [n=2]", "start [n=8]"]);
    // A failed member is left out.
    swept.1[0] = None;
    let (text, rows) = merged(&swept);
    assert!(rows == ["base", "start"] && !text.contains("n="), "{text}");
}

#[test]
fn other_samples_and_metrics_are_told_by_member() {
    let (text, rows) = merged(&swept(&[("samples = 2", "samples = n, metrics = [pass_at(n)]")]));
    assert_eq!(rows, ["base [n=2]", "base [n=8]", "start [n=2]", "start [n=8]"]);
    let caption = "t: pass@1, 2 samples a prompt at temperature 1 [n=2], 8 samples a prompt at \
                   temperature 1 [n=8], 20 prompts, seed 1; mean";
    assert!(text.starts_with(caption), "{text}");
    assert!(text.contains("t, pass@2:") && text.contains("t, pass@8:"), "{text}");
    let greedy = [
        ("samples = 2, temperature = 1", "samples = 1, temperature = n"),
        ("in [2, 8]", "in [0, 1]"),
        ("n: count", "n: real"),
        ("steps = n", "steps = 4"),
    ];
    let (text, _) = merged(&swept(&greedy));
    assert!(text.starts_with("t: greedy [n=0], pass@1 [n=1], 1 sample a prompt"), "{text}");
}

#[test]
fn other_seeds_are_told_by_member() {
    let swept = swept(&[("samples = 2", "samples = 2, seeds = n"), ("in [2, 8]", "in [1, 3]")]);
    let (text, rows) = merged(&swept);
    assert_eq!(rows, ["base [n=1]", "base [n=3]", "start [n=1]", "start [n=3]"]);
    assert!(
        text.contains(
            "seed 1 [n=1], seeds 1, 2, 3 [n=3]; mean [95% interval over prompts alone: there is one seed \
             [n=1], over prompts and seeds [n=3]]"
        ),
        "{text}"
    );
    let good: Vec<_> = (swept.0.compiled().zip(&swept.1))
        .map(|((member, compiled), results)| FinishedRun {
            name: member.name(),
            plan: &compiled.plan,
            results: results.as_ref().expect("good"),
        })
        .collect();
    let all = super::merged(&good).expect("two members");
    assert_eq!((all.seeds, all.tables[0].intervals), (vec![1, 2, 3], None));
}

#[test]
fn another_first_seed_is_another_number() {
    let (text, rows) = merged(&swept(&[("seed = 1", "seed = n")]));
    assert!(rows.len() == 4 && text.contains("seed 2 [n=2], seed 8 [n=8]"), "{text}");
}
