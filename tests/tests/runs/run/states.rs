//! States, from the text to the trained weights.

use super::signals::{cut, interrupted_twice, mopd};
use super::{Bench, assert_says, report_page, text};

const HELD: &str = "\
objective held {
  let far    = mean(kl(student || teacher), over: batch)
  state beta = 0.5 then clip(beta * where(far > mean_far, 1.1, 1 / 1.1), 0.001, 4)
  state mean_far = 1 then 0.5 * mean_far + 0.5 * far

  term near = beta * live kl(student || teacher)
  reduce    = mean(token) then mean(sequence)
}";

fn held() -> Bench {
    let bench = Bench::new();
    bench.write("tiny.mopd", &super::source(HELD, "held"));
    bench
}

/// One curve of the student in the report of a run.
pub fn curve(bench: &Bench, out: &str, metric: &str) -> Vec<f64> {
    let page = report_page(bench.folder.path(), out);
    let stages = page["stages"].as_array().expect("stages");
    let student = stages.iter().find(|stage| stage["name"] == "student").expect("the student");
    let mut series = student["series"].as_array().expect("series").iter();
    let own = series.find(|series| series["metric"] == metric).expect("its curve");
    own["mean"].as_array().expect("points").iter().map(|point| point.as_f64().expect("a number")).collect()
}

/// A run that is resumed several times from checkpoints ends with the bits of an uninterrupted one.
#[test]
fn states_are_in_checkpoints_and_in_the_report() {
    let bench = held();
    bench.edit("tiny.mopd", "steps     = 6", "steps     = 120");
    bench.tables("expected", &[]);
    let (student, betas) = (bench.student("expected"), curve(&bench, "expected", "state.beta"));
    assert!(betas[0] == 0.5 && betas.windows(2).all(|pair| pair[0] != pair[1]), "{betas:?}");
    std::fs::remove_dir_all(bench.path(".mopd")).expect("removable");
    interrupted_twice(&bench);
    assert!(bench.student("out") == student, "other weights");
    assert_eq!(curve(&bench, "out", "state.beta"), betas);
}

/// With adapters, several passes and parts of a batch, and another first value trains other weights.
#[test]
fn states_go_with_adapters_and_passes() {
    let bench = held();
    bench.edit(
        "tiny.mopd",
        "  prompts   = 8\n",
        "  prompts   = 8\n  passes = 2\n  adapter = lora(rank: 2, alpha: 4, targets: [attention])\n",
    );
    bench.tables("first", &[]);
    assert_eq!(curve(&bench, "first", "state.beta").len(), 6);
    bench.edit("tiny.mopd", "state beta = 0.5 then", "state beta = 0.6 then");
    bench.tables("other", &[]);
    assert!(bench.student("first") != bench.student("other"));
    bench.edit("tiny.mopd", "where(far > mean_far, 1.1, 1 / 1.1)", "where(far > 0, 1 / (beta - beta), 1)");
    bench.edit("tiny.mopd", "clip(beta *", "max(beta *");
    bench.edit("tiny.mopd", ", 0.001, 4)", ", 0)");
    let said = bench.fails(&["--out", "bad"]);
    assert_says(&said, &["the state `beta` is inf after this step", "step 0"]);
}

/// Two models that learn in turns have states of their own, under one name too.
#[test]
fn each_model_of_a_stage_has_its_own() {
    let bench = held();
    let source = |own: &str| {
        format!(
            r#"
experiment "tiny" {{ seed = 1 }}
domain copy {{ prompts = "copy.jsonl", tests = "copy.test.jsonl", reward = exact_match, share = 1 }}
model base  = llama {{ layers = 1, width = 32, heads = 2, context = 24, tokenizer = bytes }}
model start = sft(base, on: domains) {{ target = answer, steps = 10, batch = 16, lr = 3e-3 }}

objective follow(guide: teacher, first: real) {{
  state beta  = first then 0.9 * beta + 0.1 * mean(guide.entropy, over: batch)
  term follow = beta * live kl(student || guide)
  reduce      = mean(token) then mean(sequence)
}}

model student = train {{
  steps         = 60
  prompts       = 4
  domains       = domains
  lr            = 1e-3
  trains policy = start
  trains guide  = base
  step follow {{ updates = policy, objective = follow(guide, first: {own}), rollout = sample(n: 1, temperature: 1, max_tokens: 6) }}
  step lead {{ updates = guide, objective = follow(policy, first: 2), rollout = sample(n: 1, temperature: 1, max_tokens: 6), every = 2 }}
}}
"#
        )
    };
    bench.write("tiny.mopd", &source("0.5"));
    let run = ["run", "tiny.mopd", "--format", "json", "--out", "out"];
    let output = bench.run(&["--out", "expected"]);
    assert!(output.status.success(), "{}", text(&output));
    let student = bench.student("expected");
    std::fs::remove_dir_all(bench.path(".mopd")).expect("removable");
    cut(mopd(&bench, &run), "\"stage\":\"student\",\"seed\":1,\"step\":21,", "-INT");
    let output = bench.run(&["--out", "out", "--format", "json"]);
    assert!(output.status.success() && text(&output).contains("stage_resumed"), "{}", text(&output));
    assert!(bench.student("out") == student, "other weights");
    bench.write("tiny.mopd", &source("0.75"));
    assert!(bench.run(&["--out", "other"]).status.success());
    assert!(bench.student("other") != student);
}

/// One state per domain determines the domains' shares of the prompts. A stopped and resumed run has the bits
/// of an uninterrupted one.
#[test]
fn shares_follow_states_by_domain() {
    let bench = Bench::new();
    let objective = "\
objective eager {
  state gap  = 1 by domain then 0.8 * gap + 0.2 * mean(kl(student || teacher), over: domain)
  term near  = live kl(student || teacher)
  reduce     = mean(token) then mean(sequence)
}";
    bench.write("tiny.mopd", &super::source(objective, "eager"));
    bench.edit(
        "tiny.mopd",
        "  prompts   = 8\n  steps     = 6",
        "  prompts   = 5\n  steps     = 90\n  shares    = 0.01 + state.gap",
    );
    bench.tables("expected", &[]);
    let student = bench.student("expected");
    let [copy, last] = ["state.gap.copy", "state.gap.last"].map(|state| curve(&bench, "expected", state));
    assert!(copy[0] == 1.0 && last[0] == 1.0 && copy != last, "{copy:?} {last:?}");
    std::fs::remove_dir_all(bench.path(".mopd")).expect("removable");
    interrupted_twice(&bench);
    assert!(bench.student("out") == student, "other weights");
    assert_eq!(curve(&bench, "out", "state.gap.copy"), copy);
    bench.edit("tiny.mopd", "0.01 + state.gap", "0.02 + state.gap");
    bench.tables("other", &[]);
    assert!(bench.student("other") != student);
    bench.edit("tiny.mopd", "0.02 + state.gap", "0 * state.gap");
    let said = bench.fails(&["--out", "bad"]);
    assert_says(
        &said,
        &[
            "the `shares` of all domains add up to 0, so no prompt can be drawn",
            "step 0",
            "add a lower bound",
        ],
    );
}
