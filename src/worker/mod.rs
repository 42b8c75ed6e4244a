//! Finds, starts and reads `mopd-worker`, the program that links libtorch. Its death at any time does not end
//! `mopd`.

pub mod interrupts;
pub mod killed;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mopd_plan::events::{CALLERS_LIBRARY_PATH, Event, Failure, Job, SERVE, WorkerRequest};
use serde::Serialize;

use self::interrupts::Interrupts;
use crate::host::reason;
use crate::libtorch::{self, FoundLibtorch, LIBRARY_PATH};
use crate::output;
use crate::problem::Problem;

const NAME: &str = "mopd-worker";

/// `$MOPD_WORKER` if it is set, otherwise next to this program, otherwise on the PATH.
pub fn find() -> Result<PathBuf, Problem> {
    if let Some(named) = std::env::var_os("MOPD_WORKER").filter(|value| !value.is_empty()) {
        let path = PathBuf::from(named);
        return match path.is_file() {
            true => Ok(path),
            false => Err(missing(&format!("$MOPD_WORKER is {}, which is not a file", path.display()))),
        };
    }
    let file = format!("{NAME}{}", std::env::consts::EXE_SUFFIX);
    let beside = std::env::current_exe().ok().and_then(|program| program.parent().map(Path::to_owned));
    let searched = std::env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(std::env::split_paths(&searched))
        .map(|folder| folder.join(&file))
        .find(|path| path.is_file())
        .ok_or_else(|| missing(&format!("{NAME} is neither next to mopd nor on the PATH")))
}

fn missing(why: &str) -> Problem {
    Problem::usage("no-worker", format!("{why}: it is needed for training and sampling")).help(
        "install mopd again, whose package has it (with cargo: the package `mopd-runtime`), or build it with \
         `./x build` in a checkout of mopd, which fetches libtorch too,\nor set MOPD_WORKER to a mopd-worker \
         that is built already",
    )
}

/// A started worker.
pub struct Worker {
    child: Arc<Mutex<Child>>,
    /// The channel for further requests; a worker whose channel is closed stops.
    requests: Requests,
    lines: BufReader<ChildStdout>,
    /// Closed when all of its standard error has been forwarded.
    heard: Receiver<()>,
}

/// How long to wait for the last output of a worker that has ended: a program that it started may keep the
/// pipe open forever.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// One line from the worker.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerMessage {
    Event(Event),
    /// A line that is not an event: a library or a program that it started wrote to its standard output.
    Text(String),
}

/// Ends the worker at once; can be called from any thread.
#[derive(Clone)]
pub struct Kill(Arc<Mutex<Child>>);

impl Kill {
    pub fn kill(&self) {
        let mut child = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have ended already.
        let _ = child.kill();
    }
}

const CUBLAS_WORKSPACE: &str = "CUBLAS_WORKSPACE_CONFIG";
const OPENMP_STACK: &str = "OMP_STACKSIZE";

impl Worker {
    /// Starts the worker on a job. A thread sends its standard error line by line to `says`.
    pub fn start(job: &Job, says: impl Fn(&str) + Send + 'static) -> Result<Worker, Problem> {
        let worker = Worker::spawn(&[], says)?;
        worker.requests.line(job)?;
        Ok(worker)
    }

    /// Starts a worker that stays until it is asked to end.
    pub fn start_server(says: impl Fn(&str) + Send + 'static) -> Result<Worker, Problem> {
        Worker::spawn(&[SERVE], says)
    }

    fn spawn(arguments: &[&str], says: impl Fn(&str) + Send + 'static) -> Result<Worker, Problem> {
        let path = find()?;
        killed::begin();
        let failed = |what: &str, error: std::io::Error| {
            Problem::run("worker-failed", format!("{} {what}: {}", path.display(), reason(&error)))
        };
        output::detail(&format!("worker {}\n", path.display()));
        let mut command = Command::new(&path);
        if let Some(libtorch) = libtorch::find()?.libtorch {
            let before = std::env::var_os(LIBRARY_PATH);
            output::detail(&format!("libtorch {} ({})\n", libtorch.folder.display(), libtorch.source.text()));
            if let Some(searched) = libtorch.library_path(before.as_deref()) {
                command.env(LIBRARY_PATH, searched).env(CALLERS_LIBRARY_PATH, before.unwrap_or_default());
            }
        }
        // Threads of OpenMP have the stack that the system gives to programs, which may be hardly any.
        if std::env::var_os(OPENMP_STACK).is_none() {
            command.env(OPENMP_STACK, "8M");
        }
        // Without its own workspace cuBLAS sums in varying order; it reads this once, when a GPU is opened.
        if Path::new("/dev/nvidia0").exists() && std::env::var_os(CUBLAS_WORKSPACE).is_none() {
            command.env(CUBLAS_WORKSPACE, ":4096:8");
        }
        let mut child = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed("can't be started", error))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
            return Err(Problem::run("worker-failed", format!("{} has no standard streams", path.display())));
        };
        let (hearing, heard) = channel::<()>();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stderr);
            while let Some(line) = next_line(&mut lines) {
                says(&line);
            }
            drop(hearing);
        });
        let requests = Requests::to(stdin);
        Ok(Worker { child: Arc::new(Mutex::new(child)), requests, lines: BufReader::new(stdout), heard })
    }

    pub fn requests(&self) -> Requests {
        self.requests.clone()
    }

    pub fn killer(&self) -> Kill {
        Kill(Arc::clone(&self.child))
    }

    /// The next line; `None` when the worker has closed its output.
    pub fn next(&mut self) -> Result<Option<WorkerMessage>, Problem> {
        let Some(line) = next_line(&mut self.lines) else { return Ok(None) };
        match serde_json::from_str(&line) {
            Ok(event) => Ok(Some(WorkerMessage::Event(event))),
            Err(error) if line.starts_with("{\"event\"") => {
                self.killer().kill();
                Err(Problem::run(
                    "worker-protocol",
                    format!("the worker sent an event that mopd does not know: {error}"),
                )
                .help(format!(
                    "mopd {} and mopd-worker must come from one build; build both with `./x build`",
                    env!("CARGO_PKG_VERSION")
                )))
            }
            Err(_) => Ok(Some(WorkerMessage::Text(output::printable(&line)))),
        }
    }

    /// Calls `heard` with each line until the worker ends, and with `None` after each `pause` without one.
    pub fn each(
        &mut self,
        pause: Duration,
        mut heard: impl FnMut(Option<WorkerMessage>) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let (say, said) = channel();
        std::thread::scope(|scope| {
            // Dropped after an error of `heard`: then the reading thread stops at the next line.
            let said = said;
            scope.spawn(move || {
                while let Some(line) = self.next().transpose() {
                    let last = line.is_err();
                    if say.send(line).is_err() || last {
                        return;
                    }
                }
            });
            loop {
                match said.recv_timeout(pause) {
                    Ok(line) => heard(Some(line?))?,
                    Err(RecvTimeoutError::Timeout) => heard(None)?,
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
            }
        })
    }

    /// Waits until the worker has ended.
    pub fn wait(self) -> Result<ExitStatus, Problem> {
        loop {
            // Polls instead of waiting, so that a second Ctrl-C can take the lock and kill it.
            let status = self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait();
            match status {
                Ok(Some(status)) => {
                    // The wait is over either way: nothing is ever sent.
                    let _ = self.heard.recv_timeout(LAST_WORDS);
                    return Ok(status);
                }
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => {
                    return Err(Problem::run(
                        "worker-failed",
                        format!("cannot wait for the worker: {}", reason(&error)),
                    ));
                }
            }
        }
    }
}

/// Runs a job without progress in a worker, and returns its exit status. Events go to `heard`, other output
/// to standard error; `failed` names the problem, to which the failure's help is added.
pub fn ask(
    job: &Job,
    failed: impl Fn(&Failure) -> Problem,
    mut heard: impl FnMut(Event),
) -> Result<ExitStatus, Problem> {
    attend(job, failed, |_, event| {
        event.into_iter().for_each(&mut heard);
        Ok(())
    })
}

/// The same, where `heard` may end the worker by its channel, and gets `None` after each pause without an
/// event.
pub fn attend(
    job: &Job,
    failed: impl Fn(&Failure) -> Problem,
    mut heard: impl FnMut(&Requests, Option<Event>) -> Result<(), Problem>,
) -> Result<ExitStatus, Problem> {
    const PAUSE: Duration = Duration::from_millis(50);
    let interrupts = Interrupts::handled();
    let mut worker = Worker::start(job, |line| output::error(&format!("{}\n", output::printable(line))))?;
    let forwarding = interrupts.end_with(&worker);
    let (requests, mut failure) = (worker.requests(), None);
    worker.each(PAUSE, |said| {
        match said {
            Some(WorkerMessage::Event(Event::Failed(found))) => failure = Some(found),
            Some(WorkerMessage::Event(Event::Warning { message })) => {
                output::error(&format!("warning: {}\n", output::printable(&message)))
            }
            Some(WorkerMessage::Text(text)) => output::error(&format!("{text}\n")),
            Some(WorkerMessage::Event(event)) => return heard(&requests, Some(event)),
            None => return heard(&requests, None),
        }
        Ok(())
    })?;
    drop(requests);
    let status = worker.wait()?;
    drop(forwarding);
    if interrupts.any() {
        return Err(Problem::interrupted());
    }
    let Some(failure) = failure else { return Ok(status) };
    let problem = failed(&failure);
    Err(match failure.help {
        Some(help) => problem.help(help),
        None => problem,
    })
}

/// The channel of requests to a worker. When the last sender is dropped, the worker's standard input ends.
#[derive(Clone)]
pub struct Requests(Sender<Vec<u8>>);

impl Requests {
    /// A thread writes: if the worker writes before it has read everything, both sides would block otherwise.
    fn to(mut input: ChildStdin) -> Requests {
        let (requests, texts) = channel::<Vec<u8>>();
        std::thread::spawn(move || {
            for text in texts {
                if input.write_all(&text).and_then(|()| input.flush()).is_err() {
                    break;
                }
            }
        });
        Requests(requests)
    }

    /// Sends a request. A worker that has ended does not get it; its reader notices that.
    pub fn send(&self, request: &WorkerRequest) -> Result<(), Problem> {
        self.line(request)
    }

    fn line(&self, message: &impl Serialize) -> Result<(), Problem> {
        let mut line = in_writing(message)?;
        line.push(b'\n');
        // The thread is gone only if the worker no longer reads.
        let _ = self.0.send(line);
        Ok(())
    }
}

fn in_writing(message: &impl Serialize) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(message).map_err(|error| {
        Problem::run("worker-failed", format!("cannot serialize the plan for the worker: {error}"))
    })
}

/// A line without its end; invalid UTF-8 is replaced. Empty lines are skipped.
fn next_line(stream: &mut impl BufRead) -> Option<String> {
    loop {
        let mut bytes = Vec::new();
        // An error on a pipe means that the other side is closed.
        if stream.read_until(b'\n', &mut bytes).unwrap_or(0) == 0 {
            return None;
        }
        let line = String::from_utf8_lossy(&bytes);
        let line = line.trim_end();
        if !line.is_empty() {
            return Some(line.to_owned());
        }
    }
}

/// The problem of a worker that ended without a final event.
pub fn death(status: ExitStatus) -> Problem {
    let problem = |message: &str| Problem::run("worker-died", message);
    match status.signal() {
        Some(9) => killed::somewhere(),
        Some(signal) => {
            let meaning = match signal {
                4 => ", an instruction that this processor does not have",
                6 => ", an abort",
                // A bus error: mapped memory no longer exists.
                7 | 10 => {
                    ", a memory fault in a library or driver, or a model's file that was shortened while it \
                     was read: write a new one and rename it over the old one"
                }
                11 => ", a memory fault in a library or driver",
                15 => ", a request to stop",
                _ => "",
            };
            problem(&format!("the worker was killed by signal {signal}{meaning}")).help(
                "run the command again: finished stages are kept. If it fails again, `mopd doctor` may \
                show the reason",
            )
        }
        // The exit status of the dynamic linker for missing libraries, after it has named one.
        None if status.code() == Some(127) => {
            Problem::run("no-libtorch", "the worker can't load its libraries (exit status 127)")
                .help(without_libtorch())
        }
        None => {
            let code = status.code().map_or_else(|| "none".to_owned(), |code| code.to_string());
            problem(&format!("the worker exited without reporting a result (exit status {code})"))
                .help("its output above may show the reason; `mopd doctor` checks the installation")
        }
    }
}

fn without_libtorch() -> String {
    match libtorch::find().unwrap_or_default() {
        FoundLibtorch { libtorch: Some(found), .. } => format!(
            "libtorch is in {} ({}); the line above names what is missing beside it",
            found.folder.display(),
            found.source.text()
        ),
        FoundLibtorch { ignored: Some(ignored), .. } => format!("{ignored}.\n{}", libtorch::how_to_get()),
        _ => libtorch::how_to_get(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_out_of_any_bytes() {
        let mut stream = std::io::Cursor::new(b"one\r\n\n\xff two\nthree".to_vec());
        let lines: Vec<String> = std::iter::from_fn(|| next_line(&mut stream)).collect();
        assert_eq!(lines, ["one", "\u{fffd} two", "three"]);
    }
}
