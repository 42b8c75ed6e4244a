//! Rewards by tests: a process runs the completion's Python code, and another one, the judge, runs the tests
//! of its data line.
//!
//! A process with limits is not a sandbox: the code may read and write what its user may.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use mopd_store::regular;

use super::{Judge, Judgement, RewardError, RewardInput, text};
use crate::control::Control;
use crate::program::once::{self, Ended};

/// Limit of a process's virtual memory, in KiB.
const MEMORY: u64 = 2 << 20;
/// Limit of the size of a file that it writes, in blocks of 512 bytes.
const FILE: u64 = 64 << 11;
/// Bytes of its output that are read, and how much of that becomes feedback.
const MAX_OUTPUT: u64 = 256 << 10;
const MAX_EXCERPT: usize = 500;

/// The judge, which starts the process of the completion's code. Its exit status is the verdict: the code
/// runs in no process that could report it.
const JUDGE: &str = include_str!("judge.py");
/// Makes the judge a module of its own, so that the code and the tests find an empty `__main__`.
const START: &str = r#"
def run(source):
    import types
    del globals()["run"]
    judge = types.ModuleType("judge")
    # `unittest` leaves frames of modules with `__unittest` out of what it prints.
    vars(judge).update(__file__="<judge>", __unittest=True)
    exec(compile(source, "<judge>", "exec", dont_inherit=True), vars(judge))
    judge.main(globals())
run(__import__("sys").argv.pop())
"#;

pub(super) struct UnitTests {
    field: String,
    limit: Duration,
}

impl UnitTests {
    /// Checks now that Python can be run, not at the first completion.
    pub fn new(field: &str, limit_seconds: f64) -> Result<UnitTests, RewardError> {
        let limit = Duration::try_from_secs_f64(limit_seconds).ok().filter(|limit| !limit.is_zero());
        let limit = limit.ok_or_else(|| RewardError::Described {
            message: format!("the tests of a reward cannot work with a time limit of {limit_seconds} s"),
            help: "`time_limit` must be more than 0 seconds".to_owned(),
        })?;
        let found = Command::new("python3")
            .args(["-c", "import json, linecache, struct, traceback"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let cause = match found {
            Ok(status) if status.success() => return Ok(UnitTests { field: field.to_owned(), limit }),
            Ok(status) => status.to_string(),
            Err(error) => mopd_store::files::reason(&error),
        };
        Err(RewardError::Described {
            message: format!("the tests of a reward need `python3`, which could not be started: {cause}"),
            help: "install Python 3, or make `python3` one of the programs of PATH".to_owned(),
        })
    }

    fn run(&self, answer: &RewardInput, control: &Control) -> Result<Judgement, RewardError> {
        let tests = text(answer, &self.field)?;
        let _turn = ProcessSlot::wait();
        if control.check().is_err() {
            return Err(RewardError::Stopped);
        }
        let failed = |error: io::Error| RewardError::Described {
            message: format!("the tests of a reward could not be run: {}", mopd_store::files::reason(&error)),
            help:
                "the folder for temporary files must be writable, and the system must have room for processes"
                    .to_owned(),
        };
        let folder = tempfile::tempdir().map_err(failed)?;
        let (place, work) = (folder.path(), folder.path().join("work"));
        fs::create_dir(&work).map_err(failed)?;
        fs::write(place.join("solution.py"), code(answer.completion)).map_err(failed)?;
        fs::write(place.join("tests.py"), tests.as_bytes()).map_err(failed)?;
        let said = place.join("said");
        let stderr = File::create_new(&said).map_err(failed)?;
        let ended = once::run(self.command(&work), stderr, self.limit, control).map_err(failed)?;
        let passed = match ended {
            Ended::Stopped => return Err(RewardError::Stopped),
            Ended::TimedOut => {
                return Ok(wrong(format!("it did not end within {} s", self.limit.as_secs_f64())));
            }
            Ended::By(status) => status.success(),
        };
        if passed {
            return Ok(Judgement::from_verdict(true));
        }
        let said = regular::read(&said, MAX_OUTPUT).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let said = said.trim();
        let start = said.char_indices().rev().nth(MAX_EXCERPT - 1).map_or(0, |(at, _)| at);
        Ok(match &said[start..] {
            "" => wrong("it ended before the last line of the tests".to_owned()),
            last => wrong(last.to_owned()),
        })
    }

    /// As `python3 -I`, without environment variables or packages of the user, but with fixed hashes of
    /// strings, so that the same completion has the same reward.
    fn command(&self, folder: &Path) -> Command {
        let seconds = self.limit.as_secs().saturating_add(2);
        let limits = format!(
            "ulimit -c 0; ulimit -v {MEMORY}; ulimit -f {FILE}; ulimit -t {seconds}; \
             exec python3 -s -B -c \"$1\" \"$2\""
        );
        let mut command = Command::new("sh");
        command.args(["-c", &limits, "sh", START, JUDGE]).current_dir(folder).env_clear();
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        let folder = folder.as_os_str();
        command
            .envs([("HOME", folder), ("TMPDIR", folder)])
            .envs([("PYTHONHASHSEED", "0"), ("PYTHONIOENCODING", "utf-8"), ("LANG", "C.UTF-8")])
            // One thread per process, since there is one process per core.
            .envs([("OMP_NUM_THREADS", "1"), ("OPENBLAS_NUM_THREADS", "1"), ("MKL_NUM_THREADS", "1")]);
        command
    }
}

impl Judge for UnitTests {
    /// Runs at most one process per core at a time, over all stages.
    fn judge(&self, answers: &[RewardInput], control: &Control) -> Result<Vec<Judgement>, RewardError> {
        let next = AtomicUsize::new(0);
        let work = || -> Result<Vec<(usize, Judgement)>, RewardError> {
            let mut own = Vec::new();
            loop {
                let place = next.fetch_add(1, Ordering::Relaxed);
                let Some(answer) = answers.get(place) else { return Ok(own) };
                own.push((place, self.run(answer, control)?));
            }
        };
        let threads = cores().min(answers.len());
        let mut verdicts: Vec<Option<Judgement>> = vec![None; answers.len()];
        thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            for worker in workers {
                for (place, verdict) in worker.join().expect("no panic for any completion")? {
                    verdicts[place] = Some(verdict);
                }
            }
            Ok(())
        })?;
        Ok(verdicts.into_iter().map(|verdict| verdict.expect("each place was taken once")).collect())
    }
}

fn wrong(words: String) -> Judgement {
    Judgement { feedback: Some(words), ..Judgement::from_verdict(false) }
}

/// The content of the last Python code fence, or the whole text. An unclosed fence ends with the text.
fn code(completion: &str) -> String {
    let mut found: Option<String> = None;
    let mut open: Option<String> = None;
    for line in completion.split_inclusive('\n') {
        let fence = line.trim().strip_prefix("```");
        match (&mut open, fence) {
            (Some(_), Some("")) => found = open.take(),
            (Some(inside), _) => inside.push_str(line),
            (None, Some(language)) if matches!(language.trim(), "python" | "python3" | "py") => {
                open = Some(String::new());
            }
            (None, _) => {}
        }
    }
    open.or(found).unwrap_or_else(|| completion.to_owned())
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// A slot for one of the processes that may run at the same time.
struct ProcessSlot;

static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

impl ProcessSlot {
    fn wait() -> ProcessSlot {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        while *running >= cores() {
            running = ENDED.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
        *running += 1;
        ProcessSlot
    }
}

impl Drop for ProcessSlot {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}
