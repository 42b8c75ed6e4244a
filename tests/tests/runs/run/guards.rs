//! Guards, from the text to the report: known failures of the literature, each with the guard for it.

use serde_json::Value;

use super::{Bench, assert_says, text};

const TEXT: &str = r#"
experiment "guards" { seed = 1 }

domain short { prompts = "last.jsonl", tests = "last.test.jsonl", reward = exact_match, share = 1/2 }
domain long  { prompts = "long.jsonl", tests = "last.test.jsonl", reward = exact_match, share = 1/2 }

model base = llama { layers = 1, width = 32, heads = 2, context = 40, tokenizer = bytes }

objective imitate {
  term nll = -live student.logp
  reduce   = mean(token, over: batch)
}

// The entropy collapses, and the short answers have few of the tokens.
model start = sft(base, on: domains) {
  target    = answer
  objective = imitate
  steps     = 30
  batch     = 16
  lr        = 1e-2
  guards    = [
    warn(entropy < 0.8 * initial(entropy), for: 3 steps),
    warn(token_share < 0.25, on: short),
  ]
}

teacher far = start
route { else -> far }

objective follow {
  term pull = live kl(student || teacher)
  reduce    = mean(token) then mean(sequence)
}

// The teacher is far away when the stage begins.
model student = distill(base) {
  objective = follow
  rollout   = sample(n: 1, temperature: 1.0, max_tokens: 6)
  prompts   = 4
  steps     = 3
  lr        = 1e-4
  guards    = [warn(initial(divergence) > 0.04)]
}

objective endless {
  term on = live student.end_logp
  reduce  = mean(token) then mean(sequence)
}

// Completions get longer and longer, and are cut off.
model looping = distill(start) {
  objective = endless
  rollout   = sample(n: 1, temperature: 1.0, max_tokens: 12)
  prompts   = 8
  steps     = 12
  lr        = 1e-2
  guards    = [warn(length > 1.2 * initial(length) and truncated > 0.5)]
}

objective stale {
  term policy = -min(
    exp(live student.logp - sampler.logp) * zscore(reward, over: batch, deviation: population),
    clip(exp(live student.logp - sampler.logp), 0.9999, 1.0001) * zscore(reward, over: batch, deviation: population),
  )
  reduce = mean(token) then mean(sequence)
}

// Many updates from one batch: most ratios are at their bounds.
model greedy = grpo(start, on: domains) {
  objective  = stale
  prompts    = 8
  samples    = 4
  max_tokens = 6
  passes     = 4
  steps      = 4
  lr         = 1e-2
  guards     = [lower_lr(clipped_fraction > 0.75, by: 0.5)]
}

compare "table" { models = [student, looping, greedy], samples = 1, temperature = 1.0, max_tokens = 4 }
"#;

fn bench() -> Bench {
    let bench = Bench::new();
    let line =
        |word: &str| format!("{{\"prompt\": \"long: {word}=\", \"answer\": \"{}\"}}\n", word.repeat(7));
    bench.write("long.jsonl", &["ab", "ba", "cad", "dac", "bad", "dab", "abc", "cab"].map(line).concat());
    bench.write("tiny.mopd", TEXT);
    bench
}

fn results(bench: &Bench, out: &str) -> Value {
    let file = bench.path(out).join("results.json");
    serde_json::from_slice(&std::fs::read(file).expect("results.json")).expect("JSON")
}

/// Each guard detects its failure; a run that finds all stages in the store reports the same.
#[test]
fn guards_detect_their_failures() {
    let bench = bench();
    let output = bench.run(&["--out", "first"]);
    assert!(output.status.success(), "{}", text(&output));
    let said = results(&bench, "first")["guards"].clone();
    let acted = |stage: &str, guard: &str| {
        let acted = said.as_array().expect("a list").iter();
        let mut steps = acted.filter(|acted| acted["stage"] == stage && acted["guard"] == guard);
        steps.next().unwrap_or_else(|| panic!("{stage}, {guard}: {said:#}"))["step"].as_u64().expect("a step")
    };
    assert!(acted("start", "warn(entropy < 0.8 * initial(entropy), for: 3 steps)") >= 3);
    assert_eq!(acted("start", "warn(token_share < 0.25, on: short)"), 0);
    assert_eq!(acted("student", "warn(initial(divergence) > 0.04)"), 0);
    assert!(acted("looping", "warn(length > 1.2 * initial(length) and truncated > 0.5)") > 0);
    assert!(acted("greedy", "lower_lr(clipped_fraction > 0.75, by: 0.5)") > 0, "the first pass is on-policy");
    assert_says(
        &text(&output),
        &["`student` (seed 1), step 0: `initial(divergence) > 0.04` holds (initial(divergence) = "],
    );
    let again = bench.run(&["--out", "second"]);
    assert!(again.status.success(), "{}", text(&again));
    assert_eq!(results(&bench, "second")["guards"], said);
    // Another guard makes no other stage, as long as it does not stop the stage.
    bench.edit("tiny.mopd", "warn(initial(divergence) > 0.04)", "stop(initial(divergence) > 400)");
    let other = bench.run(&["--out", "third"]);
    assert_says(&text(&other), &["student"]);
    assert_eq!(results(&bench, "third")["stages"].as_array().map(Vec::len), Some(0), "{}", text(&other));
}

/// A stage that a guard stops has no result; a run without the guard resumes from its checkpoint.
#[test]
fn a_stopped_stage_goes_on_from_its_checkpoint() {
    let bench = bench();
    bench.edit("tiny.mopd", "warn(initial(divergence) > 0.04)", "stop(divergence > 0.04, for: 2 steps)");
    let said = [
        "error[guard]",
        "a guard stopped `student`: `divergence > 0.04` has held for 2 steps in a row (divergence = ",
        "its checkpoint is kept: if the guard is changed or removed, the next run resumes from it",
        "tiny.mopd:",
    ];
    for _ in 0..2 {
        assert_says(&bench.fails(&["--out", "guarded"]), &said);
    }
    bench.edit("tiny.mopd", "stop(divergence > 0.04, for: 2 steps)", "");
    let output = bench.run(&["--out", "free"]);
    assert!(output.status.success(), "{}", text(&output));
    let weights = bench.student("free");
    let output = bench.run(&["--out", "fresh", "--fresh"]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(weights == bench.student("fresh"));
    // The guard also stops a stage whose result is in the store.
    bench.edit("tiny.mopd", "guards    = []", "guards    = [stop(divergence > 0.04, for: 2 steps)]");
    assert_says(
        &bench.fails(&["--out", "again"]),
        &["a guard stopped `student`", "its result is in the store"],
    );
}
