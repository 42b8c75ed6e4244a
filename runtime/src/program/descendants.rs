//! Ends all processes that the user's programs start. A process group is not enough: a child may leave it
//! (`setsid`), and this process may be killed before it kills the group. So all processes of a program are
//! recognised by a variable in their environment, and a guard, a process of its own, kills those that are
//! left when this process is gone, however it ended. Those without the variable are found as [`orphans`].

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mopd_kernels::os::ProcessId;

use super::orphans;

/// The variable in the environment of all processes of such a program.
const VARIABLE: &str = "MOPD_PROGRAM";

/// The guard. When its standard input ends, because the process that started it is gone, it kills all
/// programs of that process and ends. It ignores signals that are sent to the whole group.
const GUARD: &str = r#"
trap '' INT TERM HUP
while read -r _; do :; done
for again in 1 2 3; do
    for environment in /proc/[0-9]*/environ; do
        if grep -q "$1" "$environment" 2>/dev/null; then
            process="${environment#/proc/}"
            kill -9 "${process%/environ}" 2>/dev/null
        fi
    done
done
"#;

/// How often the kill of a program is repeated: a process may start another one just before it is killed.
const ROUNDS: u32 = 50;

/// Identifies a program's processes among all processes of the machine.
#[derive(Debug)]
pub(super) struct DescendantMark(String);

impl DescendantMark {
    /// Makes a new mark. Processes that carry it end with this process. A failure to start the guard is
    /// ignored: then there is no shell, and no program can be started either.
    pub fn new() -> DescendantMark {
        static GUARDED: OnceLock<Option<Child>> = OnceLock::new();
        static COUNT: AtomicU64 = AtomicU64::new(0);
        GUARDED.get_or_init(|| guard().ok());
        DescendantMark(format!("{}.{}", of_this_process(), COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    /// The variable that the program's processes have in their environment, and their children inherit.
    pub fn variable(&self) -> (&'static str, &str) {
        (VARIABLE, &self.0)
    }

    /// Kills all remaining processes of the program.
    pub fn kill(&self) {
        let entry = format!("{VARIABLE}={}", self.0);
        for _ in 0..ROUNDS {
            let left = with_entry(entry.as_bytes());
            if left.is_empty() {
                return;
            }
            left.into_iter().for_each(ProcessId::kill);
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Unique to this process: a later one with the same process id has another.
fn of_this_process() -> &'static str {
    static MARK: OnceLock<String> = OnceLock::new();
    MARK.get_or_init(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        format!("{}-{since}", std::process::id())
    })
}

fn guard() -> std::io::Result<Child> {
    let mut guard = Command::new("sh");
    guard
        .args(["-c", GUARD, "guard", &format!("{VARIABLE}={}", of_this_process())])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    orphans::spawn(&mut guard, false)
}

/// The ids of processes that have `entry` in their environment. Empty if the system has no `/proc`.
fn with_entry(entry: &[u8]) -> Vec<ProcessId> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok());
    numbers
        .filter(|number| {
            let environment = fs::read(format!("/proc/{number}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|found| found == entry)
        })
        .filter_map(ProcessId::new)
        .collect()
}
