//! One child process with its pipes: lines in, lines out, the end of its standard error, and a reliable end.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mopd_kernels::os::ProcessId;
use mopd_plan::events::CALLERS_LIBRARY_PATH;

use super::descendants::DescendantMark;
use super::orphans;

/// Bytes of a line; a longer one is cut here, and then is not valid JSON.
const LONGEST_LINE: u64 = 1 << 20;
/// Lines read ahead; beyond that the process blocks, so that one that floods its output can't fill our
/// memory.
const LINES_AHEAD: usize = 64;
/// How much of the end of standard error is kept.
const STDERR_BYTES: usize = 8 << 10;
const STDERR_LINES: usize = 5;
/// How long a process may take to end by itself after its input was closed.
const GRACE: Duration = Duration::from_secs(2);

/// A child process that leads its own process group. Dropping it closes its input, gives it a moment to end,
/// then kills what is left of the group and of all that it started, and reaps the child. If this process is
/// itself killed, its guard does the same ([`DescendantMark`]).
pub struct ChildProcess {
    child: Child,
    mark: DescendantMark,
    /// Dropping it closes the child's standard input.
    requests: Option<Sender<Vec<u8>>>,
    lines: Receiver<Vec<u8>>,
    stderr: Arc<Mutex<VecDeque<u8>>>,
    /// Disconnected when standard error is closed.
    stderr_open: Receiver<()>,
    next_id: u64,
    killed: bool,
}

pub enum Received {
    /// A line with its line end.
    Line(Vec<u8>),
    /// Standard output is closed, most likely because the process ended.
    Closed,
    TimedOut,
}

impl ChildProcess {
    /// Starts `sh -c command` in a folder.
    pub fn start(command: &str, folder: &Path) -> io::Result<ChildProcess> {
        let mark = DescendantMark::new();
        let mut shell = Command::new("sh");
        // Restore the user's library path: the program's Python may have its own torch, not our libtorch.
        match std::env::var_os(CALLERS_LIBRARY_PATH) {
            Some(theirs) if theirs.is_empty() => shell.env_remove("LD_LIBRARY_PATH"),
            Some(theirs) => shell.env("LD_LIBRARY_PATH", theirs),
            None => &mut shell,
        };
        shell
            .args(["-c", command])
            .current_dir(folder)
            .envs([mark.variable()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own: it can be killed with all its children, and Ctrl-C at the terminal
            // reaches only us.
            .process_group(0);
        let mut child = orphans::spawn(&mut shell, true)?;
        let (requests, to_write) = mpsc::channel();
        let (line_read, lines) = mpsc::sync_channel(LINES_AHEAD);
        let (stderr_ends, stderr_open) = mpsc::channel();
        let stderr = Arc::default();
        // A pipe holds little. With a thread for each pipe, a process may answer before it has read all,
        // write much to standard error, or read nothing at all, and the thread that waits for it can still
        // time out.
        if let Some(pipe) = child.stdin.take() {
            thread::spawn(move || write_requests(pipe, &to_write));
        }
        if let Some(pipe) = child.stdout.take() {
            thread::spawn(move || read_lines(pipe, &line_read));
        }
        if let Some(pipe) = child.stderr.take() {
            let kept = Arc::clone(&stderr);
            thread::spawn(move || keep_last(pipe, &kept, stderr_ends));
        }
        Ok(ChildProcess {
            child,
            mark,
            requests: Some(requests),
            lines,
            stderr,
            stderr_open,
            next_id: 0,
            killed: false,
        })
    }

    /// Whether no id was used yet.
    pub fn is_new(&self) -> bool {
        self.next_id == 0
    }

    /// Reserves `count` unused ids and returns the first.
    pub fn reserve(&mut self, count: u64) -> u64 {
        let first = self.next_id;
        self.next_id += count;
        first
    }

    /// Never blocks. If the process no longer reads, the wait for its answers fails.
    pub fn send(&self, lines: Vec<u8>) {
        if let Some(requests) = &self.requests {
            // The thread is gone after a failed write: the process closed its input.
            let _ = requests.send(lines);
        }
    }

    /// Waits for a line until `deadline`, or for ever if there is none.
    pub fn receive(&self, deadline: Option<Instant>) -> Received {
        let received = match deadline {
            Some(deadline) => self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())),
            None => self.lines.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match received {
            Ok(line) => Received::Line(line),
            Err(RecvTimeoutError::Timeout) => Received::TimedOut,
            Err(RecvTimeoutError::Disconnected) => Received::Closed,
        }
    }

    /// For a process whose output is closed: how it ended, and the last lines of its standard error.
    pub fn post_mortem(mut self) -> (ProcessEnd, String) {
        let how = self.wait(GRACE).map_or(ProcessEnd::OutputClosed, ProcessEnd::Status);
        (how, self.kill())
    }

    /// Kills the process at once; returns the last lines of its standard error.
    pub fn kill(mut self) -> String {
        self.kill_group();
        // The last output may still be in the pipe, which closes with the last process that holds it.
        let _ = self.stderr_open.recv_timeout(GRACE);
        let kept =
            self.stderr.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect::<Vec<_>>();
        let text = String::from_utf8_lossy(&kept);
        let lines: Vec<_> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(STDERR_LINES)..].join("\n")
    }

    /// Waits for the process to end by itself.
    fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(2)),
                _ => return None,
            }
        }
    }

    fn kill_group(&mut self) {
        if std::mem::replace(&mut self.killed, true) {
            return;
        }
        if let Some(process) = ProcessId::of(&self.child) {
            // The group that `process_group(0)` made: the child is not reaped yet, or was a moment ago, and
            // the system assigns process ids in turn, so the id is not reused yet.
            process.kill_group();
        }
        self.mark.kill();
        // Reaps the child: no zombie. It fails only if that was done before.
        let _ = self.child.wait();
        orphans::ended(&self.child);
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        self.requests = None;
        self.wait(GRACE);
        self.kill_group();
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessEnd {
    Status(ExitStatus),
    /// It closed its output and runs on.
    OutputClosed,
}

impl ProcessEnd {
    /// Whether the shell did not find the program.
    pub fn is_not_found(self) -> bool {
        matches!(self, ProcessEnd::Status(status) if status.code() == Some(127))
    }
}

impl fmt::Display for ProcessEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProcessEnd::OutputClosed => f.write_str("its standard output was closed"),
            ProcessEnd::Status(status) => match (status.code(), status.signal()) {
                (Some(code), _) => write!(f, "exit status {code}"),
                (None, Some(signal)) => write!(f, "killed by signal {signal}"),
                (None, None) => write!(f, "{status}"),
            },
        }
    }
}

fn write_requests(mut pipe: ChildStdin, requests: &Receiver<Vec<u8>>) {
    while let Ok(lines) = requests.recv() {
        if pipe.write_all(&lines).and_then(|()| pipe.flush()).is_err() {
            return;
        }
    }
}

fn read_lines(pipe: ChildStdout, lines: &SyncSender<Vec<u8>>) {
    let mut pipe = BufReader::new(pipe);
    loop {
        let mut line = Vec::new();
        let read = (&mut pipe).take(LONGEST_LINE).read_until(b'\n', &mut line);
        // Text without a line end at the end of output was cut short by a crash and is not an answer.
        let whole = line.ends_with(b"\n") || line.len() as u64 == LONGEST_LINE;
        // Nothing after a cut line is an answer, so stop reading; the process finds its output closed.
        let cut = !line.ends_with(b"\n");
        if read.is_err() || !whole || lines.send(line).is_err() || cut {
            return;
        }
    }
}

fn keep_last(mut pipe: ChildStderr, kept: &Mutex<VecDeque<u8>>, _ends: Sender<()>) {
    let mut chunk = [0; 4096];
    while let Ok(read @ 1..) = pipe.read(&mut chunk) {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(&chunk[..read]);
        let excess = kept.len().saturating_sub(STDERR_BYTES);
        kept.drain(..excess);
    }
}
