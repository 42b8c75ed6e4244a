//! A process that runs once and reports success by its exit status.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mopd_kernels::os::ProcessId;

use super::descendants::DescendantMark;
use super::orphans;
use crate::control::Control;

/// How often to check whether the process has ended.
const TICK: Duration = Duration::from_millis(2);

/// How a process ended, together with everything that it started.
pub enum Ended {
    By(ExitStatus),
    TimedOut,
    /// The job is to stop.
    Stopped,
}

/// On drop, kills a process's group and all that it started, and reaps the process.
struct RunningProcess {
    child: Child,
    mark: DescendantMark,
}

impl Drop for RunningProcess {
    fn drop(&mut self) {
        if let Some(process) = ProcessId::of(&self.child) {
            // The group that `process_group(0)` made: the child is not reaped yet, or was a moment ago.
            process.kill_group();
        }
        self.mark.kill();
        // It fails only if the child was reaped before.
        let _ = self.child.wait();
        orphans::ended(&self.child);
    }
}

/// Starts a process in a group of its own, and waits for its end. It has no input; its standard error goes to
/// `stderr`, and its standard output is discarded.
pub fn run(mut command: Command, stderr: File, limit: Duration, control: &Control) -> io::Result<Ended> {
    let mark = DescendantMark::new();
    command
        .envs([mark.variable()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .process_group(0);
    let child = orphans::spawn(&mut command, true)?;
    let mut running = RunningProcess { child, mark };
    let deadline = Instant::now().checked_add(limit);
    loop {
        if let Some(status) = running.child.try_wait()? {
            return Ok(Ended::By(status));
        }
        if control.check().is_err() {
            return Ok(Ended::Stopped);
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(Ended::TimedOut);
        }
        thread::sleep(TICK);
    }
}
