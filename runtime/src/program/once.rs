//! A process that runs once and reports success by its exit status.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::descendants::DescendantMark;
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
struct Running {
    child: Child,
    mark: DescendantMark,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(group) = i32::try_from(self.child.id()) {
            // The group that `process_group(0)` made: the child is not reaped yet, or was a moment ago.
            mopd_kernels::os::kill(-group);
        }
        self.mark.kill();
        // It fails only if the child was reaped before.
        let _ = self.child.wait();
    }
}

/// Starts a process in a group of its own, writes `input` to it, which must fit into a pipe's buffer, and
/// waits for its end. Its standard error goes to `stderr`; its standard output is discarded.
pub fn run(
    mut command: Command,
    input: &[u8],
    stderr: File,
    limit: Duration,
    control: &Control,
) -> io::Result<Ended> {
    let mark = DescendantMark::new();
    let child = command
        .envs([mark.variable()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(stderr)
        .process_group(0)
        .spawn()?;
    let mut running = Running { child, mark };
    if let Some(mut pipe) = running.child.stdin.take() {
        // The write fails if the process has ended already.
        let _ = pipe.write_all(input);
    }
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
