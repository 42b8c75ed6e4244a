//! The end of everything that programs of the author's start. A group of processes is not enough: a child may
//! leave it (`setsid`), and who kills it may be killed. All processes of a program are told by a variable in
//! their environment, wherever they went; and a guard, a process of its own, sees to those that are left when
//! this process is gone, however it ended.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// In the environment of all processes of such a program.
const VARIABLE: &str = "MOPD_PROGRAM";

/// Ends when its standard input does, which is when the process that started it is gone: then all programs of
/// that process are killed. It is asked to end itself only by that, not by signals to everybody.
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

/// How often new processes of a program are looked for while it is killed: one that is killed may just have
/// started another.
const ROUNDS: u32 = 50;

/// Such a program, to be told from all others, of this process and of others.
#[derive(Debug)]
pub(super) struct DescendantMark(String);

impl DescendantMark {
    /// From here on its processes end with this one. Where no guard can be started, as where there is no
    /// shell, no program can either.
    pub fn new() -> DescendantMark {
        static GUARDED: OnceLock<Option<Child>> = OnceLock::new();
        static COUNT: AtomicU64 = AtomicU64::new(0);
        GUARDED.get_or_init(|| guard().ok());
        DescendantMark(format!("{}.{}", of_this_process(), COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    /// What its processes have in their environment, and hand on to those that they start.
    pub fn variable(&self) -> (&'static str, &str) {
        (VARIABLE, &self.0)
    }

    /// Kills all of its processes that are left.
    pub fn kill(&self) {
        let entry = format!("{VARIABLE}={}", self.0);
        for _ in 0..ROUNDS {
            let left = with_entry(entry.as_bytes());
            if left.is_empty() {
                return;
            }
            left.into_iter().for_each(mopd_kernels::os::kill);
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// No other process has it, also not one that has this one's number later.
fn of_this_process() -> &'static str {
    static MARK: OnceLock<String> = OnceLock::new();
    MARK.get_or_init(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        format!("{}-{since}", std::process::id())
    })
}

fn guard() -> std::io::Result<Child> {
    Command::new("sh")
        .args(["-c", GUARD, "guard", &format!("{VARIABLE}={}", of_this_process())])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

/// The processes that have an entry in their environment. None where the system does not tell.
fn with_entry(entry: &[u8]) -> Vec<i32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|process| process.file_name().to_str()?.parse::<i32>().ok());
    numbers
        .filter(|number| {
            let environment = fs::read(format!("/proc/{number}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|found| found == entry)
        })
        .collect()
}
