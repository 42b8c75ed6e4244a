//! `mopd rewards`: judges the completions of an exported folder for the program that trains it.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, absolute};
use std::process::{Child, Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

use mopd_plan::events::{Event, Job, RewardsJob, WorkerRequest};
use mopd_store::signals::terminate;

use crate::args::RewardsArgs;
use crate::host;
use crate::output::{self, printable};
use crate::problem::{CommandStatus, Problem};
use crate::worker;

/// How long a program may take to end by itself: a terminal's Ctrl-C reaches it too, and a request that fails
/// may be what ends it.
const BY_ITSELF: Duration = Duration::from_secs(3);
/// How long it may take once it is asked to.
const ASKED: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

pub fn rewards(arguments: &RewardsArgs) -> Result<CommandStatus, Problem> {
    let folder = absolute(&arguments.folder).unwrap_or_else(|_| arguments.folder.clone());
    let job = Job::Rewards(RewardsJob { folder: host::as_text(&folder)? });
    let mut launch = None;
    let served = worker::attend(
        &job,
        |failure| failure.into(),
        |requests, event| {
            if let Some(Event::ServingRewards { url }) = event {
                output::note(&format!(
                    "rewards of {} at {url}\n",
                    printable(&arguments.folder.display().to_string())
                ));
                launch = Launch::of(&arguments.command);
            }
            if launch.as_mut().is_some_and(Launch::is_over) {
                requests.send(&WorkerRequest::End)?;
            }
            Ok(())
        },
    );
    let problem = || served.and_then(|status| Err(worker::death(status)));
    match launch {
        None => problem(),
        Some(Launch::Failed(problem)) => Err(problem),
        Some(Launch::Ended(status)) => Ok(CommandStatus::Program(code(status))),
        Some(Launch::Running(child)) => {
            stop(child);
            problem()
        }
    }
}

/// The program that asks for rewards.
enum Launch {
    Running(Child),
    Ended(ExitStatus),
    /// It did not start, or can't be waited for.
    Failed(Problem),
}

impl Launch {
    /// `None` where there is no program.
    fn of(command: &[OsString]) -> Option<Launch> {
        let (program, arguments) = command.split_first()?;
        let shown = Path::new(program).display();
        Some(match Command::new(program).args(arguments).spawn() {
            Ok(child) => Launch::Running(child),
            Err(error) => {
                let message = format!("can't start {shown}: {}", host::reason(&error));
                Launch::Failed(Problem::usage("no-program", message))
            }
        })
    }

    fn is_over(&mut self) -> bool {
        let Launch::Running(child) = self else { return true };
        match child.try_wait() {
            Ok(None) => return false,
            Ok(Some(status)) => *self = Launch::Ended(status),
            Err(error) => {
                let message = format!("can't wait for the program: {}", host::reason(&error));
                *self = Launch::Failed(Problem::run("no-program", message));
            }
        }
        true
    }
}

/// Ends a program whose rewards can't be computed any more.
fn stop(mut child: Child) {
    if !ends_within(&mut child, BY_ITSELF) {
        terminate(&child);
        if !ends_within(&mut child, ASKED) {
            // It may have ended just now.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn ends_within(child: &mut Child, limit: Duration) -> bool {
    let began = Instant::now();
    while matches!(child.try_wait(), Ok(None)) {
        if began.elapsed() > limit {
            return false;
        }
        sleep(PAUSE);
    }
    true
}

/// The exit status, as shells report it.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
