//! `mopd delta`: compares the weights of a run with those that it started from.

use std::process::Output;

use serde_json::Value;

use super::signals::mopd;
use super::{Bench, assert_says, text};

fn delta(bench: &Bench, arguments: &[&str]) -> Output {
    mopd(bench, &[&["delta"], arguments].concat()).output().expect("mopd starts")
}

fn json(bench: &Bench, arguments: &[&str]) -> Value {
    let output = delta(bench, &[arguments, &["--format", "json"]].concat());
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn a_models_change_is_told_by_parameter_and_group() {
    let bench = Bench::new();
    bench.tables("out", &[]);
    let student = "out/models/student-seed1";
    let found = json(&bench, &[student]);
    let groups = found["groups"].as_array().expect("a list");
    let names: Vec<&str> = groups.iter().filter_map(|group| group["name"].as_str()).collect();
    assert_eq!(names, ["embedding", "attention", "feed_forward", "norm", "all"]);
    let parameters = found["parameters"].as_array().expect("a list");
    let sum = |of: &str| parameters.iter().filter_map(|each| each[of].as_u64()).sum::<u64>();
    let all = &groups[4];
    for of in ["entries", "changed", "changed_in_bfloat16", "changed_beyond"] {
        assert_eq!(all[of].as_u64(), Some(sum(of)), "{of}");
    }
    assert!(all["changed"].as_u64() > Some(0) && all["relative"].as_f64() > Some(0.0));
    let query = parameters.iter().find(|each| each["name"] == "model.layers.0.self_attn.q_proj.weight");
    let rank = &query.expect("a matrix")["rank"];
    assert!(rank["effective"].as_f64() > Some(1.0) && rank["full"] == 32, "{rank}");
    // The stage started from `start`, whose folder the run also wrote.
    let named = json(&bench, &[student, "--from", "out/models/start-seed1"]);
    assert_eq!((&named["groups"], &named["parameters"]), (&found["groups"], &found["parameters"]));
    // Compared beside itself, all changes are shared; compared with itself, nothing has changed.
    let beside = json(&bench, &[student, "--beside", student, "--no-ranks"]);
    let overlap = &beside["groups"][4]["overlap"];
    assert!((overlap["cosine"].as_f64().expect("a number") - 1.0).abs() < 1e-12 && overlap["jaccard"] == 1.0);
    assert!(beside["parameters"][0].get("rank").is_none());
    let same = json(&bench, &[student, "--from", student]);
    assert_eq!(
        (same["groups"][4]["changed"].as_u64(), same["groups"][4]["norm"].as_f64()),
        (Some(0), Some(0.0))
    );
    let table = delta(&bench, &[student]);
    assert_says(
        &text(&table),
        &["weights", "relative", "in bf16", "beyond 1e-5", "99 %", "feed_forward", "all"],
    );
}

/// A student that started from a folder is compared with the model there.
#[test]
fn a_model_that_was_loaded_is_found_where_it_was() {
    let bench = Bench::new();
    bench.tables("out", &[]);
    let text = std::fs::read_to_string(bench.path("tiny.mopd")).expect("an experiment");
    let lines = text.lines().filter(|line| !line.starts_with("model base") && !line.starts_with("param"));
    let loaded = |line: &str| match line.starts_with("model start") {
        true => "model start = hf(\"out/models/start-seed1\")".to_owned(),
        false => line.replace("reward = exact_match", "reward = exact_match, format = text"),
    };
    bench.write("tiny.mopd", &lines.map(|line| loaded(line) + "\n").collect::<String>());
    bench.tables("loaded", &[]);
    let student = "loaded/models/student-seed1";
    let found = json(&bench, &[student]);
    assert_eq!(found["before"], "./out/models/start-seed1");
    let named = json(&bench, &[student, "--from", "out/models/start-seed1"]);
    assert_eq!((&named["groups"], &named["parameters"]), (&found["groups"], &found["parameters"]));
    std::fs::rename(bench.path("out"), bench.path("away")).expect("a folder");
    let output = delta(&bench, &[student]);
    assert_eq!(output.status.code(), Some(2), "{}", super::text(&output));
    assert_says(&super::text(&output), &["started from `start`, which is not found in", "--from FOLDER"]);
}

#[test]
fn weights_that_are_not_finite_are_named() {
    let bench = Bench::new();
    bench.tables("out", &[]);
    let path = bench.path("out/models/student-seed1/model.safetensors");
    let mut file = std::fs::read(&path).expect("weights");
    let end = file.len();
    file[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, file).expect("weights");
    for arguments in [&["out/models/student-seed1"][..], &["out/models/student-seed1", "--no-ranks"]] {
        let output = delta(&bench, arguments);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert_says(&text(&output), &["1 of ", "student-seed1 are not finite", "before training diverged"]);
    }
}

#[test]
fn delta_of_a_stage_without_start_weights_is_refused() {
    let bench = Bench::new();
    bench.tables("out", &[]);
    for (arguments, said) in [
        (&["nowhere"][..], "there is no folder nowhere"),
        (&["out"], "is not in the folder `models` of a run"),
        (&["out/models/student-seed1", "--from", "out"], "cannot read"),
        (&["out/models/student-seed1", "--beyond=-1"], "must be at least 0"),
    ] {
        let output = delta(&bench, arguments);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert_says(&text(&output), &[said]);
    }
}
