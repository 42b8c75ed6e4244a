//! TRL trains an exported stage, and its steps are those of a run of mopd: the same losses and gradient
//! norms, from the same weights, with greedy decoding in both.

use std::fs;
use std::process::Command;

use mopd_tests::{mopd, root};
use serde_json::Value;

use super::{metrics, python_of, run, sums_and_programs, two_jobs};

const STAGES: [&str; 4] = ["full", "skewed", "rewarded", "cooled"];

#[test]
fn trl_trains_as_mopd_does() {
    let Some(python) = python_of("trl") else { return };
    let place = tempfile::tempdir().expect("a folder");
    two_jobs(place.path(), |_| 5);
    fs::copy(root().join("tests/engines/pair.mopd"), place.path().join("pair.mopd")).expect("a copy");
    let program = |words: &[&str]| run(Command::new(mopd()).current_dir(place.path()).args(words));
    program(&["run", "pair.mopd"]);
    let metrics = metrics(&python, &place.path().join("runs/pair"));
    let check = root().join("tests/engines/check_trl.py");
    for stage in STAGES {
        program(&["export", "--engine", "trl", "--stage", stage, "pair.mopd"]);
        let folder = place.path().join(format!("{stage}-trl"));
        let environment = [("PYTHONPATH", folder.as_os_str()), ("CUDA_VISIBLE_DEVICES", "".as_ref())];
        let mut launch = Command::new("sh");
        launch.arg(folder.join("launch.sh")).env("MOPD_PYTHON", &python).env("CUDA_VISIBLE_DEVICES", "");
        launch.env("MOPD", mopd());
        // One of them in two processes.
        run(launch.env("MOPD_PROCESSES", if stage == STAGES[1] { "2" } else { "1" }));
        if stage == STAGES[0] {
            print!("{}", run(Command::new(&python).arg(&check).arg(&folder).envs(environment)));
        }
        let log = fs::read_to_string(folder.join("log.json")).expect("the log");
        let log: Vec<Value> = serde_json::from_str(&log).expect("rows");
        let theirs: Vec<&Value> = log.iter().filter(|row| row.get("loss").is_some()).collect();
        let ours: Vec<&Value> =
            metrics.iter().filter(|row| row["stage"] == stage && row["domain"] == "sort").collect();
        assert_eq!((ours.len(), theirs.len()), (3, 3), "{stage}");
        for (ours, theirs) in ours.iter().zip(theirs) {
            let number = |row: &Value, name: &str| row[name].as_f64().expect("a number");
            let loss = (number(ours, "loss"), number(theirs, "loss"));
            let norm = (number(ours, "gradient_norm"), number(theirs, "grad_norm"));
            println!(
                "{stage} step {}: loss {} and {}, norm {} and {}",
                ours["step"], loss.0, loss.1, norm.0, norm.1
            );
            assert!((loss.0 - loss.1).abs() < 1e-5 * loss.0.abs().max(1.0), "{stage}: {loss:?}");
            assert!((norm.0 - norm.1).abs() < 1e-4 * norm.0.abs().max(1.0), "{stage}: {norm:?}");
        }
    }
}

/// Two processes of TRL train an exported stage whose rewards are tests.
#[test]
fn trl_trains_on_tests() {
    let Some(python) = python_of("trl") else { return };
    let place = tempfile::tempdir().expect("a folder");
    sums_and_programs(place.path());
    fs::copy(root().join("tests/engines/headline.mopd"), place.path().join("headline.mopd")).expect("a copy");
    let program = |words: &[&str]| run(Command::new(mopd()).current_dir(place.path()).args(words));
    program(&["run", "headline.mopd"]);
    program(&["export", "--engine", "trl", "--stage", "expert[code]", "--out", "code", "headline.mopd"]);
    let folder = place.path().join("code");
    let mut launch = Command::new("sh");
    launch.arg(folder.join("launch.sh")).env("MOPD_PYTHON", &python).env("CUDA_VISIBLE_DEVICES", "");
    let said = run(launch.env("MOPD", mopd()).env("MOPD_PROCESSES", "2"));
    assert!(said.contains("rewards of ") && said.contains(" at http://127.0.0.1:"), "{said}");
    let log = fs::read_to_string(folder.join("log.json")).expect("the log");
    let log: Vec<Value> = serde_json::from_str(&log).expect("rows");
    let norms: Vec<f64> = log.iter().filter_map(|row| row["grad_norm"].as_f64()).collect();
    // Without differences of rewards, there is no gradient.
    assert!(norms.len() == 2 && norms.iter().any(|norm| *norm > 0.0), "{norms:?}");
    println!("gradient norms {norms:?}");
    // Where there is no service, nothing is trained.
    let alone = Command::new(&python).arg(folder.join("train.py")).env("PYTHONPATH", &folder).output();
    let output = alone.expect("Python starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("launch.sh starts it"), "{said}");
}
