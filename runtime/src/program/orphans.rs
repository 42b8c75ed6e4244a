//! Processes whose parents have ended. This process adopts those below it, so that a program's processes
//! can't escape by leaving their parent, their group, their session and their environment (`env -i setsid ...
//! &`).
//!
//! An orphan does not say which program started it. It is killed as soon as it is older than every program
//! that runs: none of them can have started it. A program that keeps running may need its own.

use std::fs;
use std::io;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use mopd_kernels::os::{ProcessId, adopt_orphans};

/// How often the children of killed processes, which are orphans then, are looked for.
const ROUNDS: u32 = 50;

/// A child that this process started itself.
struct OwnChild {
    id: u32,
    /// The time of its start, in the system's ticks.
    since: u64,
    /// Whether it is a program of the user.
    is_program: bool,
}

static OWN: Mutex<Vec<OwnChild>> = Mutex::new(Vec::new());
static ADOPTS: AtomicBool = AtomicBool::new(false);

/// From now on this process adopts orphans. For a program whose children are all started by [`spawn`].
pub fn adopt() {
    ADOPTS.store(adopt_orphans(), Ordering::Relaxed);
}

/// Starts a child. It is no orphan until [`ended`].
pub fn spawn(command: &mut Command, is_program: bool) -> io::Result<Child> {
    // Nobody takes the child for an orphan before it is in the list.
    let mut own = own();
    let child = command.spawn()?;
    let since = stat(child.id()).map_or(0, |stat| stat.since);
    own.push(OwnChild { id: child.id(), since, is_program });
    Ok(child)
}

/// Forgets a child that was waited for, and kills the orphans that no running program can have started.
pub(super) fn ended(child: &Child) {
    own().retain(|known| known.id != child.id());
    kill(false);
}

/// Kills all orphans, when no program is needed any more.
pub fn kill_all() {
    kill(true);
}

fn kill(all: bool) {
    if !ADOPTS.load(Ordering::Relaxed) {
        return;
    }
    let own = own();
    let programs = own.iter().filter(|child| child.is_program);
    let oldest = programs.map(|child| child.since).min().filter(|_| !all).unwrap_or(u64::MAX);
    for _ in 0..ROUNDS {
        let orphans = children().into_iter().filter(|(id, _)| own.iter().all(|child| child.id != *id));
        let left: Vec<ProcessId> = orphans
            .filter(|(_, stat)| stat.has_ended || stat.since < oldest)
            .filter_map(|(id, _)| ProcessId::new(id))
            .collect();
        if left.is_empty() {
            return;
        }
        for process in &left {
            process.kill();
            process.reap();
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn own() -> MutexGuard<'static, Vec<OwnChild>> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What `/proc` says about a process.
struct ProcessStat {
    parent: u32,
    has_ended: bool,
    since: u64,
}

fn stat(id: u32) -> Option<ProcessStat> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name before is in parentheses, and may hold any characters.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let has_ended = fields.next()? == "Z";
    let parent = fields.next()?.parse().ok()?;
    Some(ProcessStat { parent, has_ended, since: fields.nth(17)?.parse().ok()? })
}

/// The children of this process; empty if the system has no `/proc`.
fn children() -> Vec<(u32, ProcessStat)> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok());
    let all = ids.filter_map(|id| Some((id, stat(id)?)));
    all.filter(|(_, stat)| stat.parent == std::process::id()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_found_with_the_time_of_its_start() {
        let mut first = Command::new("sleep").arg("60").spawn().unwrap();
        thread::sleep(Duration::from_millis(30));
        let mut second = Command::new("sleep").arg("60").spawn().unwrap();
        let found = children();
        let since =
            |child: &Child| found.iter().find(|(id, _)| *id == child.id()).map(|(_, stat)| stat.since);
        assert!(since(&first).unwrap() < since(&second).unwrap());
        second.kill().unwrap();
        thread::sleep(Duration::from_millis(50));
        assert!(stat(second.id()).unwrap().has_ended);
        for child in [&mut first, &mut second] {
            let _ = child.kill();
            child.wait().unwrap();
        }
        assert!(stat(first.id()).is_none());
    }
}
