//! Signals that ask a program to end: Ctrl-C, `kill`, `docker stop`, a scheduler's time limit, a terminal
//! that was closed; and one that would end it.

use std::io;
use std::sync::Arc;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

/// Calls `heard` for each of them, on a thread of its own. What `nohup` has a program ignore stays ignored.
///
/// # Errors
/// Where the system takes no handler.
pub fn on_termination(mut heard: impl FnMut() + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    if !is_ignored(SIGHUP) {
        signals.add_signal(SIGHUP)?;
    }
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for _ in signals.forever() {
            heard();
        }
    })?;
    Ok(())
}

/// From here on a write beyond the largest file that this process may write (`ulimit -f`) is an error as one
/// to a full disk is. Otherwise the system ends the process, which then says nothing.
///
/// # Errors
/// Where the system takes no handler.
pub fn survive_large_files() -> io::Result<()> {
    // Nobody looks at it: the write that the signal stands for fails.
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map(drop)
}

/// Whether whoever started this program has it ignore a signal. Where the system does not tell, no.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored(&status).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// `SigIgn: 0000000000001001`: a bit for each signal, the first one's last.
fn ignored(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_read_from_a_mask() {
        assert_eq!(ignored("Name:\tmopd\nSigIgn:\t0000000000001001\nSigCgt:\t0\n"), Some(0x1001));
        assert_eq!(ignored("Name:\tmopd\n"), None);
    }
}
