//! The command line contract: outputs, streams and exit statuses of every command, on valid and invalid
//! input. A small program stands in for the worker.

mod alone;
mod book;
mod cache;
mod check;
mod cluster;
mod commands;
mod export;
mod format;
mod goldens;
mod import;
mod limits;
mod run;
mod setup;
mod shell;
mod texts;
mod trial;
mod usage;

use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

/// A small valid experiment.
const GOOD: &str = r#"use std.opd.mopd

experiment "tiny" { seed = 1 }

domain sort { prompts = "sort.jsonl", tests = "sort.test.jsonl", reward = exact_match, share = 1 }

model base   = llama { layers = 1, width = 16, heads = 2, context = 32, tokenizer = bytes }
model start  = sft(base, on: domains) { target = demonstration, steps = 2, batch = 2, lr = 1e-3 }
model expert = grpo(start, on: domains) { steps = 2, prompts = 2, samples = 2, max_tokens = 8, lr = 1e-3 }

teacher one = expert

route { domain == sort -> one }

model student = distill(start) {
  objective = mopd(clip_at: 5)
  rollout   = sample(n: 1, temperature: 1.0, max_tokens: 8)
  prompts   = 2
  steps     = 2
  lr        = 1e-3
}

compare "tiny" { models = [start, student], samples = 2, temperature = 1.0, max_tokens = 8, seeds = 1 }
"#;

/// Rows for [`GOOD`].
const ROWS: &str = "{\"prompt\": \"ba\", \"answer\": \"ab\", \"demonstration\": \"ab\"}
{\"prompt\": \"cb\", \"answer\": \"bc\", \"demonstration\": \"bc\"}
";

/// A folder of its own, for one test.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Place {
        Place { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    fn with(files: &[(&str, &str)]) -> Place {
        let place = Place::new();
        for (path, text) in files {
            place.write(path, text);
        }
        if files.iter().any(|(_, text)| text.contains("\"sort.jsonl\"")) {
            for data in ["sort.jsonl", "sort.test.jsonl"] {
                place.write(data, ROWS);
            }
        }
        place
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// `mopd` in this folder, without a worker unless the test names one.
    fn command(&self, arguments: &[&str]) -> Command {
        // Absolute, because the command runs in another folder.
        let program = std::path::absolute(mopd_tests::mopd()).expect("the program has a path");
        let mut command = Command::new(program);
        command.current_dir(self.folder.path()).args(arguments);
        command.env("MOPD_WORKER", self.path("no-such-worker"));
        for name in ["RUST_BACKTRACE", "NO_COLOR"] {
            command.env_remove(name);
        }
        command
    }

    fn mopd(&self, arguments: &[&str]) -> Said {
        Said::of(self.command(arguments).output().expect("mopd starts"))
    }

    /// Writes a Python program in place of the worker. `job` is the job that it got; `say` writes an event.
    fn worker(&self, script: &str) {
        let program = format!("{}{script}\n", WORKER.replace("VERSION", env!("CARGO_PKG_VERSION")));
        self.write("worker", &program);
        use std::os::unix::fs::PermissionsExt;
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(self.path("worker"), executable).expect("permissions");
    }

    fn with_worker(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        command.env("MOPD_WORKER", self.path("worker"));
        command
    }

    fn mopd_with_worker(&self, arguments: &[&str]) -> Said {
        Said::of(self.with_worker(arguments).output().expect("mopd starts"))
    }
}

const WORKER: &str = r#"#!/usr/bin/env python3
import json, os, signal, sys, time

def say(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)

def ready():
    say("ready", versions={"mopd": "VERSION", "libtorch": "2.11.0"}, device="cpu", threads=2)

job = json.loads(sys.stdin.readline())
"#;

/// The output of a command, and its exit status.
#[derive(Debug)]
struct Said {
    out: String,
    err: String,
    status: Option<i32>,
}

impl Said {
    fn of(output: Output) -> Said {
        Said {
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            status: output.status.code(),
        }
    }

    /// Asserts the exit status, and that standard error contains all `parts`. A failure shows all output.
    #[track_caller]
    fn is(self, status: i32, parts: &[&str]) -> Said {
        assert_eq!(self.status, Some(status), "{self:#?}");
        for part in parts {
            assert!(self.err.contains(part), "no {part:?} in {self:#?}");
        }
        assert!(!self.err.contains("bug in mopd"), "{self:#?}");
        self
    }

    #[track_caller]
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}
