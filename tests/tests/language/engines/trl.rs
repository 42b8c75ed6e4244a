//! TRL trains an exported stage, and its steps are those of a run of mopd: the same losses and gradient
//! norms, from the same weights, with greedy decoding in both.

use std::fs;
use std::process::Command;

use mopd_tests::{mopd, root};
use serde_json::Value;

use super::{metrics, python_of, run, two_jobs};

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
