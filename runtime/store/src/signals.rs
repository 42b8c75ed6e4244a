//! Signals that ask a program to end (Ctrl-C, `kill`, `docker stop`, a scheduler's time limit, a closed
//! terminal), SIGXFSZ, which would end it, and SIGWINCH, the terminal's new size.

use std::io;
use std::process::Child;
use std::sync::Arc;
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH, SIGXFSZ};
use signal_hook::iterator::Signals;

/// Calls `heard` for each such signal, on a separate thread. A SIGHUP ignored under `nohup` stays ignored.
///
/// # Errors
/// If the system refuses a handler.
pub fn on_termination(heard: impl FnMut() + Send + 'static) -> io::Result<()> {
    let signals = Signals::new([SIGINT, SIGTERM])?;
    if !is_ignored(SIGHUP) {
        signals.add_signal(SIGHUP)?;
    }
    on_each(signals, "signals", heard)
}

/// Asks a child to end.
pub fn terminate(child: &Child) {
    // It may have ended already.
    let _ = kill_process(Pid::from_child(child), Signal::TERM);
}

/// Calls `heard` whenever the terminal's size has changed, on a separate thread.
///
/// # Errors
/// If the system refuses a handler.
pub fn on_resize(heard: impl FnMut() + Send + 'static) -> io::Result<()> {
    on_each(Signals::new([SIGWINCH])?, "resizes", heard)
}

fn on_each(mut signals: Signals, thread: &str, mut heard: impl FnMut() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(thread.to_owned()).spawn(move || {
        for _ in signals.forever() {
            heard();
        }
    })?;
    Ok(())
}

/// Makes a write beyond the limit of file sizes (`ulimit -f`) an error, like one to a full disk. Otherwise
/// the system would end the process without a message.
///
/// # Errors
/// If the system refuses a handler.
pub fn ignore_sigxfsz() -> io::Result<()> {
    // The flag is not read: the write that caused the signal fails.
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map(drop)
}

/// Whether this program was started with a signal ignored; false where the system does not report it.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored(&status).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// Parses `SigIgn: 0000000000001001`: a bit per signal, the first signal's is the lowest.
fn ignored(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_parsed_from_the_mask() {
        assert_eq!(ignored("Name:\tmopd\nSigIgn:\t0000000000001001\nSigCgt:\t0\n"), Some(0x1001));
        assert_eq!(ignored("Name:\tmopd\n"), None);
    }
}
