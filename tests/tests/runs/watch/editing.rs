//! A folder with a tiny experiment, an editor that saves in different ways, and a running `mopd watch`.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

const TEXT: &str = r#"use std.opd.mopd

experiment "tiny" { seed = 1 }

domain copy { prompts = "copy.jsonl", tests = "copy.test.jsonl", reward = exact_match }

model base  = llama { layers = 1, width = 32, heads = 2, context = 24, tokenizer = bytes }
model start = sft(base, on: domains) { target = answer, steps = 5, batch = 8, lr = 3e-3 }

teacher one = start
route { else -> one }

model student = distill(base) {
  objective = mopd(clip_at: 5)
  rollout   = sample(n: 1, temperature: 1.0, max_tokens: 6)
  prompts   = 8
  steps     = 6
  lr        = 1e-3
}

compare "tiny table" { models = [start, student], samples = 1, temperature = 1.0, max_tokens = 6 }
"#;

const JUDGE: &str = r#"import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    print(json.dumps({"id": asked["id"], "reward": 0.5 if asked["completion"] else 0.0}), flush=True)
"#;

/// The ways in which editors save.
#[derive(Clone, Copy, Debug)]
pub enum Save {
    /// The file is overwritten.
    InPlace,
    /// A new file is written beside it and renamed over it.
    Replace,
    /// The old file is renamed to a backup, and a new one is written.
    Backup,
    /// The file is emptied, then written in pieces.
    Truncate,
}

impl Save {
    pub const ALL: [Save; 4] = [Save::InPlace, Save::Replace, Save::Backup, Save::Truncate];
}

pub struct Desk {
    folder: TempDir,
}

impl Desk {
    pub fn new() -> Desk {
        let desk = Desk { folder: TempDir::new().expect("a temporary folder") };
        let line = |word: &&str| format!("{{\"prompt\": \"copy: {word}=\", \"answer\": \"{word}\"}}\n");
        let words = ["ab", "ba", "cad", "dac", "bad", "dab", "abc", "cab"];
        desk.write(Save::InPlace, "copy.jsonl", &words.iter().map(line).collect::<String>());
        desk.write(Save::InPlace, "copy.test.jsonl", &["aab", "bba"].iter().map(line).collect::<String>());
        desk.write(Save::InPlace, "judge.py", JUDGE);
        desk.write(Save::InPlace, "tiny.mopd", TEXT);
        desk
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Whether the file exists.
    pub fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).expect("it is there");
    }

    pub fn write(&self, save: Save, name: &str, text: &str) {
        let path = self.path(name);
        let written = match save {
            Save::InPlace => fs::write(&path, text),
            Save::Replace => {
                let beside = self.path(&format!(".{name}.swp"));
                fs::write(&beside, text).and_then(|()| fs::rename(&beside, &path))
            }
            Save::Backup => {
                let backup = self.path(&format!("{name}~"));
                fs::rename(&path, backup).and_then(|()| fs::write(&path, text))
            }
            Save::Truncate => fs::File::create(&path).and_then(|mut file| {
                for piece in text.as_bytes().chunks(text.len() / 3 + 1) {
                    std::thread::sleep(Duration::from_millis(3));
                    file.write_all(piece)?;
                }
                Ok(())
            }),
        };
        written.unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// Replaces a part of the experiment.
    pub fn edit(&self, save: Save, from: &str, to: &str) {
        let text = self.read("tiny.mopd");
        assert!(text.contains(from), "`{from}` is not in:\n{text}");
        self.write(save, "tiny.mopd", &text.replace(from, to));
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(mopd_tests::mopd());
        command.current_dir(self.folder.path()).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn watch(&self) -> Watching {
        self.watch_with(&[])
    }

    pub fn watch_with(&self, arguments: &[&str]) -> Watching {
        Watching::of(self.command(&[&["watch", "tiny.mopd", "--format", "json"], arguments].concat()))
    }

    pub fn check_only(&self) -> Watching {
        let mut command = self.command(&["watch", "tiny.mopd", "--check", "--format", "json"]);
        command.env("MOPD_WORKER", "/nowhere");
        Watching::of(command)
    }
}

/// A line of output, by its stream.
enum Line {
    Event(Value),
    Said(String),
}

pub struct Watching {
    child: Child,
    lines: Receiver<Line>,
    events: Vec<Value>,
    said: Vec<String>,
    /// Number of messages at the last successful wait for one.
    asked: usize,
    /// Index of the event after the last run that a test has read.
    looked: usize,
}

/// The stages and steps of a run.
#[derive(Debug, Default)]
pub struct Run {
    /// Stages with steps, in order.
    pub started: Vec<String>,
    pub kept: Vec<String>,
    pub resumed: Vec<String>,
    steps: Vec<String>,
}

impl Run {
    pub fn steps(&self, stage: &str) -> usize {
        self.steps.iter().filter(|of| *of == stage).count()
    }
}

impl Watching {
    fn of(mut command: Command) -> Watching {
        let mut child = command.spawn().expect("mopd starts");
        let (sender, lines) = channel();
        let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let events = sender.clone();
        let each = |stream: Box<dyn Read + Send>| BufReader::new(stream).lines().map_while(Result::ok);
        std::thread::spawn(move || {
            for line in each(Box::new(stdout)) {
                let event = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                let _ = events.send(Line::Event(event));
            }
        });
        std::thread::spawn(move || each(Box::new(stderr)).for_each(|line| _ = sender.send(Line::Said(line))));
        Watching { child, lines, events: Vec::new(), said: Vec::new(), asked: 0, looked: 0 }
    }

    /// Reads output for at most `wait`. Returns whether any came.
    fn listen(&mut self, wait: Duration) -> bool {
        match self.lines.recv_timeout(wait) {
            Ok(Line::Event(event)) => self.events.push(event),
            Ok(Line::Said(line)) => self.said.push(line),
            Err(_) => return false,
        }
        true
    }

    fn until<T>(
        &mut self,
        what: &str,
        wait: Duration,
        mut found: impl FnMut(&mut Watching) -> Option<T>,
    ) -> T {
        let since = Instant::now();
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            assert!(
                since.elapsed() < wait,
                "{what} did not come; it said:\n{}\n{:#?}",
                self.text(),
                self.events.last()
            );
            self.listen(Duration::from_millis(50));
        }
    }

    /// All messages, one per line.
    pub fn text(&self) -> String {
        self.said.join("\n")
    }

    pub fn said(&mut self, part: &str) -> bool {
        while self.listen(Duration::from_millis(50)) {}
        self.text().contains(part)
    }

    pub fn wait_for(&mut self, part: &str, wait: Duration) {
        self.until(part, wait, |watching| watching.text().contains(part).then_some(()));
        self.asked = self.said.len();
    }

    /// Waits for a message after those that were already waited for.
    pub fn wait_for_another(&mut self, part: &str, wait: Duration) {
        self.until(part, wait, |watching| {
            watching.said[watching.asked..].join("\n").contains(part).then_some(())
        });
        self.asked = self.said.len();
    }

    /// Waits until all expected output has come.
    pub fn settle(&mut self) {
        let since = Instant::now();
        while since.elapsed() < Duration::from_millis(1500) {
            self.listen(Duration::from_millis(100));
        }
    }

    /// The number of steps of a stage in all runs.
    pub fn steps(&self, stage: &str) -> usize {
        self.events.iter().filter(|event| event["event"] == "step" && event["stage"] == stage).count()
    }

    /// The number of runs that began.
    pub fn runs(&self) -> usize {
        self.events.iter().filter(|event| event["event"] == "ready").count()
    }

    /// The runs of a sweep that began, by their values.
    pub fn members(&self) -> Vec<String> {
        let member = |event: &Value| (event["event"] == "member").then(|| event["values"].to_string());
        self.events.iter().filter_map(member).collect()
    }

    pub fn until_step(&mut self, stage: &str, step: u64, wait: Duration) {
        self.until(&format!("step {step} of {stage}"), wait, |watching| {
            let is_it =
                |event: &Value| event["event"] == "step" && event["stage"] == stage && event["step"] == step;
            watching.events.iter().any(is_it).then_some(())
        });
    }

    /// Waits for the end of the next run after the last one that was read.
    pub fn until_finished(&mut self, wait: Duration) -> Run {
        let from = self.looked;
        let end = self.until("the end of a run", wait, |watching| {
            let end = watching.events[from..].iter().position(|event| event["event"] == "finished");
            end.map(|end| from + end)
        });
        self.looked = end + 1;
        let begun =
            self.events[..end].iter().rposition(|event| event["event"] == "ready").expect("it was begun");
        let mut run = Run::default();
        for event in &self.events[begun..end] {
            let stage = event["stage"].as_str().unwrap_or_default().to_owned();
            match event["event"].as_str() {
                Some("stage_started") if event["steps"] != 0 => run.started.push(stage),
                Some("stage_kept") => run.kept.push(stage),
                Some("stage_resumed") => run.resumed.push(stage),
                Some("step") => run.steps.push(stage),
                _ => {}
            }
        }
        run.started.sort();
        run.kept.sort();
        run
    }

    /// The id of its worker's process.
    pub fn worker(&self) -> Option<u32> {
        mopd_tests::children(self.child.id()).first().copied()
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it is gone");
    }

    /// Sends Ctrl-C and waits for the end.
    pub fn quit(mut self) -> ExitStatus {
        let asked =
            Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().expect("kill runs");
        assert!(asked.success());
        self.child.wait().expect("it ends")
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
