//! `train`: several models that learn in turns, from the text to their folders.

use std::fs;
use std::path::PathBuf;

use super::signals::{cut, mopd};
use super::{Bench, assert_says, text, walk};

/// A leader that follows its expert, and one that follows the leader in every second step.
const PAIR: &str = r#"
experiment "pair" { seed = 1 }

domain copy { prompts = "copy.jsonl", tests = "copy.test.jsonl", reward = exact_match }

model base  = llama { layers = 1, width = 32, heads = 2, context = 24, tokenizer = bytes }
model other = llama { layers = 2, width = 16, heads = 2, context = 24, tokenizer = bytes }
model start = sft(base, on: domains) { target = answer, steps = 20, batch = 16, lr = 3e-3 }

teacher expert = start

objective near(whom: teacher) {
  term follow = live kl(student || whom)
  reduce      = mean(token) then mean(sequence)
}

model student = train {
  steps   = 6
  prompts = 4
  lr      = 1e-3

  trains lead     = base
  trains follower = other

  step teach  { updates = lead, objective = near(expert), rollout = sample(n: 1, temperature: 1, max_tokens: 6) }
  step follow { updates = follower, objective = near(lead), rollout = from(lead, n: 1, temperature: 1, max_tokens: 6), every = 2 }
}

compare "pair" { models = [base, student, student.follower], samples = 2, temperature = 1, max_tokens = 6 }
"#;

fn bench(steps: u32) -> Bench {
    let bench = Bench::new();
    bench.write("tiny.mopd", &PAIR.replace("steps   = 6", &format!("steps   = {steps}")));
    bench
}

fn follower(bench: &Bench, out: &str) -> Vec<u8> {
    fs::read(bench.path(out).join("models/student.follower-seed1/model.safetensors"))
        .expect("the follower's weights")
}

/// Random initialisation needs no trial: a run lacks a predicted total only if a training stage was not
/// tried.
#[test]
fn the_memory_of_a_run_is_predicted_where_all_that_trains_is() {
    let bench = Bench::new();
    let predicted = |out: &str, arguments: &[&str]| {
        bench.tables(out, &[arguments, &["--fresh"]].concat());
        let results = fs::read(bench.path(out).join("results.json")).expect("results.json");
        let results: serde_json::Value = serde_json::from_slice(&results).expect("JSON");
        results["predicted_memory"].as_u64()
    };
    assert!(predicted("full", &["--predict", "full"]).is_some_and(|bytes| bytes > 1 << 20));
    assert_eq!(predicted("never", &["--predict", "never"]), None);
}

/// A stage is tried alone, but takes longer beside others.
#[test]
fn a_predicted_time_says_what_stages_side_by_side_make_of_it() {
    let bench = Bench::new();
    let slowest = |workers: &str| {
        bench.tables("out", &["--predict", "full", "--workers", workers, "--fresh"]);
        let results = fs::read(bench.path("out/results.json")).expect("results.json");
        let results: serde_json::Value = serde_json::from_slice(&results).expect("JSON");
        let stages = results["stages"].as_array().expect("stages").clone();
        let predicted = stages.iter().map(|stage| &stage["predicted"]).filter(|one| !one.is_null());
        let ratios = predicted.map(|one| {
            let number = |value: &serde_json::Value| value.as_f64().expect("a number");
            let (least, most) = (number(&one["range"]["least"]), number(&one["range"]["most"]));
            let seconds = number(&one["seconds"]);
            assert!(0.0 <= least && least <= seconds && seconds <= most, "{one}");
            // The rest of the time is around the steps of the trial.
            let stepping = number(&one["rollout"]) + number(&one["scoring"]) + number(&one["update"]);
            assert!(stepping <= seconds, "{one}");
            most / seconds
        });
        ratios.reduce(f64::min).expect("stages that train")
    };
    assert!(slowest("2") >= 2.0);
    assert!(slowest("1") >= 1.0);
}

/// Each model has its own entry, is found again, and if one is missing, both are computed again.
#[test]
fn all_models_are_published_found_and_made_again() {
    let bench = bench(6);
    let tables = bench.tables("out", &[]);
    let (lead, follow) = (bench.student("out"), follower(&bench, "out"));
    assert_ne!(lead.len(), follow.len());
    let again = bench.run(&["--out", "again", "--format", "json"]);
    let said = text(&again);
    let kept = |name: &str| format!("{{\"event\":\"stage_kept\",\"stage\":\"{name}\"");
    assert!(said.contains(&kept("student")) && said.contains(&kept("student.follower")), "{said}");
    assert!(follower(&bench, "again") == follow);
    // Rerunning one of the models reruns both.
    let anew =
        bench.run(&["--out", "out", "--from", "student.follower", "--format", "json", "--predict=full"]);
    let said = text(&anew);
    assert!(anew.status.success() && !said.contains(&kept("student")), "{said}");
    assert!(said.contains("{\"event\":\"predicted\",\"stage\":\"student\""), "{said}");
    assert!(follower(&bench, "out") == follow && bench.student("out") == lead);
    // Deletes one of the two models from the store.
    let own = |path: &PathBuf| fs::read(path).expect("a file") == follow;
    let entry = walk(&bench.path(".mopd")).into_iter().find(own).expect("it is in the store");
    fs::remove_dir_all(entry.parent().expect("its folder")).expect("removable");
    assert_eq!(bench.tables("out", &[]), tables);
    assert!(follower(&bench, "out") == follow && bench.student("out") == lead);
}

/// A run that was killed or asked to stop, and then resumed, has the same bits of both models.
#[test]
fn a_run_that_was_stopped_ends_with_the_same_bits() {
    let bench = bench(60);
    let expected = bench.tables("expected", &[]);
    let (lead, follow) = (bench.student("expected"), follower(&bench, "expected"));
    fs::remove_dir_all(bench.path(".mopd")).expect("removable");
    for (signal, step) in [("-INT", 5), ("-KILL", 15), ("-TERM", 30)] {
        let moment = format!("\"stage\":\"student\",\"seed\":1,\"step\":{step},");
        let run = ["run", "tiny.mopd", "--format", "json", "--checkpoint-every", "0s", "--out", "out"];
        cut(mopd(&bench, &run), &moment, signal);
    }
    let output = bench.run(&["--out", "out", "--format", "json"]);
    assert!(output.status.success() && text(&output).contains("stage_resumed"), "{}", text(&output));
    assert_eq!(bench.tables("out", &[]), expected);
    assert!(bench.student("out") == lead && follower(&bench, "out") == follow);
}

/// If one of two learners diverges, the step that updates it names it.
#[test]
fn a_model_that_diverges_is_told_from_the_other() {
    let bench = bench(6);
    bench.edit("tiny.mopd", "updates = follower,", "updates = follower, lr = 1e38,");
    let said = bench.fails(&[]);
    assert_says(&said, &["`step follow`: the log-probability of the token taken, of the student", "step 3"]);
    assert_says(&said, &["is not finite for the domain `copy`", ".last-good"]);
    bench.edit("tiny.mopd", "updates = follower, lr = 1e38,", "updates = follower,");
    bench.edit("tiny.mopd", "updates = lead,", "updates = lead, lr = 1e38,");
    assert_says(&bench.fails(&[]), &["`step teach`: the model's logits are not finite while sampling"]);
}

/// Two students cost two students' weights, gradients and moments.
#[test]
fn a_plan_says_what_both_cost() {
    let bench = bench(6);
    let plan = |text: &str| {
        bench.write("tiny.mopd", text);
        let mut command = mopd(&bench, &["plan", "tiny.mopd", "--format", "json"]);
        let output = command.output().expect("mopd starts");
        let plan: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let models = plan["experiment"]["models"].as_array().expect("models").clone();
        let place = models.iter().position(|model| model["name"] == "student").expect("it is there");
        plan["stages"][place]["cost"]["memory"].as_u64().expect("known")
    };
    let alike = PAIR.replace("trains follower = other", "trains follower = base");
    let both = plan(&alike);
    let alone = alike
        .replace("  trains follower = base\n", "")
        .lines()
        .filter(|line| !line.starts_with("  step follow"))
        .collect::<Vec<_>>()
        .join("\n")
        .replace(", student.follower", "");
    assert_eq!(both, 2 * plan(&alone));
}

#[test]
fn unsupported_turns_of_learners_are_refused_by_name() {
    let bench = bench(6);
    let refused = |from: &str, to: &str, said: &[&str]| {
        let text = PAIR.replace(from, to);
        assert_ne!(text, PAIR);
        bench.write("tiny.mopd", &text);
        assert_says(&bench.fails(&[]), said);
    };
    let twice = "step more { updates = lead, objective = near(expert), rollout = sample(n: 1, temperature: 1, max_tokens: 6) }\n  step follow ";
    refused(
        "step follow ",
        twice,
        &["updating `lead` in more than one step of `train` is not supported \
        yet"],
    );
    refused("every = 2", "every = 2, passes = 2", &["several `passes` of a step with `every` above 1"]);
    refused("every = 2", "every = 2, steps = 4", &["a step of `train` with its own length"]);
    let other = "tokenizer = \"other.json\" }\nmodel start";
    refused("tokenizer = bytes }\nmodel start", other, &["other.json"]);
}
