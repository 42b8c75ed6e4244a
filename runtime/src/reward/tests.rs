//! Tests of verifiers: accepted completions, and errors of verifiers. Commands are real processes.

mod built_in;
mod command;
mod http;
mod json_schema;
mod parts;
mod python;
mod unit_tests;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use super::*;

/// A control that nobody stops.
fn uncancellable() -> Control {
    Control::new(std::io::sink())
}

fn record(value: Value) -> Map<String, Value> {
    value.as_object().expect("tests write objects").clone()
}

fn judge_one(verifier: &Verifier, completion: &str, fields: Value) -> f64 {
    let record = record(fields);
    verifier.judge(&[RewardInput { prompt: "p", completion, record: &record }], &uncancellable()).unwrap()[0]
        .reward
}

fn built_in(reward: plan::Reward) -> Verifier {
    Verifier::new(&reward, Path::new(".")).unwrap()
}

/// A command reward whose program is Python text in a folder of its own.
struct Program {
    folder: TempDir,
    verifier: Verifier,
}

/// Defines `requests()`, which yields one request a line, and `reply(...)`.
const PRELUDE: &str = "import json, os, sys, time
def requests():
    for line in sys.stdin:
        yield json.loads(line)
def reply(id, reward):
    print(json.dumps({'id': id, 'reward': reward}), flush=True)
open('starts', 'a').write('x')
starts = len(open('starts').read())
open('pid', 'w').write(str(os.getpid()))
";

impl Program {
    fn new(text: &str, limit: f64, batch: u32) -> Program {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("judge.py"), format!("{PRELUDE}{text}")).unwrap();
        let command = "python3 judge.py".to_owned();
        let reward = plan::Reward::Command {
            command,
            time_limit_seconds: limit,
            batch,
            depends: Vec::new(),
            range: Default::default(),
        };
        let verifier = Verifier::new(&reward, folder.path()).unwrap();
        Program { folder, verifier }
    }

    /// Judges completions `c0`, `c1`, ... of prompts `p0`, `p1`, ...
    fn judge(&self, count: usize) -> Result<Vec<f64>, RewardError> {
        self.judge_until(count, &uncancellable())
    }

    fn judge_until(&self, count: usize, control: &Control) -> Result<Vec<f64>, RewardError> {
        let texts: Vec<_> = (0..count).map(|index| (format!("p{index}"), format!("c{index}"))).collect();
        let record = record(json!({ "prompt": "p", "answer": 3 }));
        let answers: Vec<_> = texts
            .iter()
            .map(|(prompt, completion)| RewardInput { prompt, completion, record: &record })
            .collect();
        Ok(self.verifier.judge(&answers, control)?.into_iter().map(|verdict| verdict.reward).collect())
    }

    fn starts(&self) -> usize {
        fs::read(self.folder.path().join("starts")).map_or(0, |starts| starts.len())
    }

    /// The process's folder under `/proc`; gone once it is dead and collected.
    fn process(&self, name: &str) -> PathBuf {
        let number = fs::read_to_string(self.folder.path().join(name)).unwrap();
        Path::new("/proc").join(number.trim())
    }
}

/// Killed processes that are not our children vanish when the system gets to it.
fn vanishes(process: &Path) -> bool {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        // A zombie that waits for a process other than this one to collect it is dead too.
        let state = fs::read_to_string(process.join("stat")).unwrap_or_default();
        if state.is_empty() || state.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X'])) {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
