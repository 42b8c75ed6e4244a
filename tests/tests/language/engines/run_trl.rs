//! `mopd run --engine trl` with several processes: the same numbers as of a run without an engine, and the
//! same command goes on after a process was killed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mopd_tests::{mopd, root};
use serde_json::Value;

use super::{metrics, python_of, run, two_jobs};

const LONG: &str = r#"
experiment "long" { seed = 1 }
domain sort { prompts = "data/sort.jsonl", reward = exact_match }
model base = llama { layers = 2, width = 64, heads = 2, context = 48, tokenizer = bytes }
model tuned = sft(base, on: domains) { target = answer, steps = 60, batch = 8, lr = 1e-3 }
"#;

/// The run draws each step, and the teacher follows the student.
const LONG_DRAWN: &str = r#"
use std.opd.mopd_full
experiment "long" { seed = 1 }
domain sort { prompts = "data/sort.jsonl", reward = exact_match }
model base = llama { layers = 2, width = 64, heads = 2, context = 48, tokenizer = bytes }
teacher slow = self.ema(0.9)
route { else -> slow }
model tuned = distill(base) {
  objective = mopd_full, prompts = 8, steps = 60, lr = 1e-3
  rollout   = replay(mix(0.5, sample(n: 1, temperature: 1, max_tokens: 6), data(answer)), capacity: 32, share: 0.5)
}
"#;

#[test]
fn trl_in_several_processes_trains_as_a_run_here() {
    // Two domains in each of three steps of one stage, and two of eight others.
    stages_train_alike("both.mopd", &STAGES, 38);
}

#[test]
fn trl_trains_on_what_the_run_draws_as_a_run_here() {
    stages_train_alike("drawn.mopd", &DRAWN, 62);
}

/// Prints the largest differences of each stage, for the book.
fn stages_train_alike(file: &str, stages: &[&str], metrics_rows: usize) {
    let Some(python) = python_of("trl") else { return };
    let place = tempfile::tempdir().expect("a folder");
    two_jobs(place.path(), |_| 5);
    fs::write(place.path().join("environment.py"), mopd_tests::environment(3)).expect("a file");
    fs::copy(root().join("tests/engines").join(file), place.path().join(file)).expect("a copy");
    let program = |words: &[&str]| run(Command::new(mopd()).current_dir(place.path()).args(words));
    program(&["run", "--predict", "never", "--out", "here", file]);
    let python_text = python.to_str().expect("a path");
    let here = metrics(&python, &place.path().join("here"));
    assert_eq!(here.len(), metrics_rows);
    for processes in ["1", "2", "4"] {
        let run = ["run", "--predict", "never", "--out", processes, file];
        let engine = ["--engine", "trl", "--python", python_text, "--processes", processes];
        let words = [&run[..], &engine].concat();
        let said = program(&words);
        for stage in stages {
            assert!(said.contains(&format!("trl trains {stage} (exact)")), "{said}");
        }
        compare(&here, &metrics(&python, &place.path().join(processes)), processes, stages);
        // The results are found again, and those of a run without the engine are others.
        let again = program(&words);
        let all = stages.len() + 3;
        assert!(again.contains(&format!("{all} stages, {all} of them kept")), "{again}");
    }
}

const STAGES: [&str; 9] =
    ["tuned", "full", "weighted", "jsd_tail", "cold", "own", "adapted", "directed", "written"];
const DRAWN: [&str; 14] = [
    "aided", "delayed", "of_two", "ordered", "thin", "snapped", "mixed", "guided", "drafting", "playing",
    "edited", "refined", "again", "longer",
];

/// Compares the metrics of a run here with those of an engine.
fn compare(here: &[Value], there: &[Value], processes: &str, stages: &[&str]) {
    assert_eq!(here.len(), there.len());
    let mut furthest: BTreeMap<(&str, &str), f64> = BTreeMap::new();
    for (one, other) in here.iter().zip(there) {
        for name in ["stage", "domain", "teacher", "step", "tokens", "reward"] {
            assert_eq!(one[name], other[name], "{name} of {one} and {other}");
        }
        for (name, tolerance) in [
            ("loss", 1e-6),
            ("gradient_norm", 1e-5),
            ("entropy", 1e-5),
            ("divergence", 1e-5),
            ("learning_rate", 1e-12),
        ] {
            let (Some(mopds), Some(engines)) = (one[name].as_f64(), other[name].as_f64()) else {
                assert_eq!(one[name], other[name], "{name} of {one} and {other}");
                continue;
            };
            let apart = (mopds - engines).abs() / mopds.abs().max(1.0);
            assert!(apart <= tolerance, "{name}: {mopds} and {engines}");
            let stage = one["stage"].as_str().expect("a name");
            let most = furthest.entry((stage, name)).or_default();
            *most = most.max(apart);
        }
    }
    for stage in stages {
        let of = |name: &str| furthest.get(&(*stage, name)).copied().unwrap_or_default();
        println!("{processes} processes, {stage}: loss {:.1e}, norm {:.1e}", of("loss"), of("gradient_norm"));
    }
}

/// The processes that run a program in a folder.
fn processes(folder: &Path, program: &str) -> Vec<u32> {
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    let ids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let runs = |id: &u32| {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains(&*folder.to_string_lossy())
            && line.contains(program)
            && !line.contains("distributed.run")
    };
    ids.filter(runs).collect()
}

#[test]
fn the_same_command_goes_on_after_a_process_was_killed() {
    goes_on_after_a_process_was_killed(LONG);
}

#[test]
fn so_it_does_where_the_run_draws_each_step() {
    goes_on_after_a_process_was_killed(LONG_DRAWN);
}

fn goes_on_after_a_process_was_killed(experiment: &str) {
    let Some(python) = python_of("trl") else { return };
    let place = tempfile::tempdir().expect("a folder");
    let folder = place.path().canonicalize().expect("a path");
    two_jobs(&folder, |_| 5);
    fs::write(folder.join("long.mopd"), experiment).expect("a file");
    let command = || {
        let mut command = Command::new(mopd());
        let words = ["run", "--predict", "never", "--checkpoint-every", "0s", "--out", "out", "long.mopd"];
        command.current_dir(&folder).args(words).args(["--engine", "trl", "--processes", "2", "--python"]);
        command.arg(&python);
        command
    };
    let started = command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("mopd starts");
    let began = Instant::now();
    let checkpoint = || {
        let store = fs::read_dir(folder.join(".mopd/store")).into_iter().flatten().flatten();
        let mut engines = store.map(|entry| entry.path().join("engine/checkpoints/checkpoint-3/record.json"));
        engines.any(|record| record.exists())
    };
    while !checkpoint() {
        assert!(began.elapsed() < Duration::from_secs(300), "no checkpoint");
        thread::sleep(Duration::from_millis(10));
    }
    let workers = processes(&folder, "train.py");
    assert_eq!(workers.len(), 2, "{workers:?}");
    let killed = Command::new("kill").args(["-9", &workers[1].to_string()]).status().expect("kill");
    assert!(killed.success());
    let Output { status, stderr, .. } = started.wait_with_output().expect("mopd ends");
    let said = String::from_utf8_lossy(&stderr);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("was killed (signal 9)") && said.contains("run the same command again"), "{said}");
    assert_eq!(processes(&folder, "train.py"), Vec::<u32>::new());
    let resumed = run(command().args(["--format", "json"]));
    assert!(resumed.contains("\"event\":\"stage_resumed\""), "{resumed}");
    let steps: Vec<u64> = metrics(&python, &folder.join("out"))
        .iter()
        .map(|row| row["step"].as_u64().expect("a step"))
        .collect();
    assert_eq!(steps, (0..60).collect::<Vec<u64>>());
}
