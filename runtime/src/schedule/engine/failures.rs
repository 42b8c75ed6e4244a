//! What made a program of an engine fail, from the end of its log.

use std::path::Path;

use mopd_plan::EngineJob;
use mopd_plan::events::FailureKind;

use crate::failure::Error;

const AGAIN: &str = "run the same command again: finished stages are kept, and this one goes on from its last \
    checkpoint";

/// The error of a program that ended before its last step. `after` is the last reported step.
pub fn of_program(engine: &EngineJob, stage: &str, log: &str, after: Option<u32>, place: &Path) -> Error {
    let when = after.map_or_else(|| "before its first step".to_owned(), |step| format!("after step {step}"));
    let (kind, what, help) = match cause(log) {
        Cause::Memory(line) => (
            FailureKind::Memory,
            format!("ran out of memory: {line}"),
            "lower `micro_batch` of the stage, or give it more processes: each then has fewer rows"
                .to_owned(),
        ),
        Cause::Killed { rank, signal } => {
            let of = format!("process {rank} of {} was killed (signal {signal})", engine.processes);
            let memory = if signal == 9 { "; if memory ran out, lower `micro_batch`" } else { "" };
            (FailureKind::Runtime, of, format!("{AGAIN}{memory}"))
        }
        Cause::Raised(line) => {
            (FailureKind::Runtime, format!("failed: {line}"), format!("its output is in {}", place.display()))
        }
        Cause::Unknown => (
            FailureKind::Runtime,
            "ended".to_owned(),
            format!("{AGAIN}; its output is in {}", place.display()),
        ),
    };
    Error::new(kind, format!("`{stage}`: {} {what}, {when}", engine.name)).help(help)
}

#[derive(Debug, PartialEq)]
enum Cause<'l> {
    Memory(&'l str),
    Killed {
        rank: u32,
        signal: u32,
    },
    /// The last exception.
    Raised(&'l str),
    Unknown,
}

fn cause(log: &str) -> Cause<'_> {
    // Lines of a process begin with its rank.
    fn own(line: &str) -> &str {
        let line = line.trim();
        let ranked = line.strip_prefix("[rank").and_then(|rest| rest.split_once("]: "));
        ranked.map_or(line, |(_, text)| text)
    }
    let raised = log.lines().rev().map(own).find(|line| {
        let name = line.split([':', ' ']).next().unwrap_or_default();
        (name.ends_with("Error") || name.ends_with("Exception"))
            && line.contains(": ")
            && !name.ends_with("ChildFailedError")
    });
    if let Some(line) = raised
        && ["out of memory", "OutOfMemoryError", "can't allocate memory"]
            .iter()
            .any(|sign| line.contains(sign))
    {
        return Cause::Memory(line);
    }
    // The other processes fail in consequence, often with an exception of their own.
    killed(log).unwrap_or_else(|| raised.map_or(Cause::Unknown, Cause::Raised))
}

/// The first process that a signal ended, by the summary of torch's launcher.
fn killed(log: &str) -> Option<Cause<'_>> {
    let (_, summary) = log.rsplit_once("Root Cause")?;
    let field = |name: &str| {
        let line = summary.lines().find(|line| line.trim_start().starts_with(name))?;
        line.split_once(':')?.1.split_whitespace().next()
    };
    let signal = field("exitcode")?.strip_prefix('-')?.parse().ok()?;
    Some(Cause::Killed { rank: field("rank")?.parse().ok()?, signal })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUMMARY: &str = "\
torch.distributed.elastic.multiprocessing.errors.ChildFailedError: 
============================================================
train.py FAILED
------------------------------------------------------------
Failures:
  <NO_OTHER_FAILURES>
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-30_02:00:00
  host      : here
  rank      : 1 (local_rank: 1)
  exitcode  : CODE (pid: 17)
  error_file: <N/A>
  traceback : Signal 9 (SIGKILL) received by PID 17
";

    #[test]
    fn a_lost_process_is_named_before_what_others_raise() {
        let log =
            format!("[rank0]: RuntimeError: Connection closed by peer\n{}", SUMMARY.replace("CODE", "-9"));
        assert_eq!(cause(&log), Cause::Killed { rank: 1, signal: 9 });
        let log = format!("[rank1]: ValueError: no teacher\n{}", SUMMARY.replace("CODE", "1"));
        assert_eq!(cause(&log), Cause::Raised("ValueError: no teacher"));
        let oom = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB";
        assert_eq!(cause(&format!("[rank0]: {oom}\n{}", SUMMARY.replace("CODE", "1"))), Cause::Memory(oom));
        assert_eq!(cause("loading\n"), Cause::Unknown);
    }
}
