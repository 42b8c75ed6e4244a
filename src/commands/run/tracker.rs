//! `--tracker COMMAND`: a program that gets a line of JSON for each event of a run, and sends it to an
//! experiment tracker.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use mopd_plan::events::Event;
use serde_json::{Value, json};

use crate::commands::Compiled;
use crate::commands::export::scalars;
use crate::host::reason;
use crate::metrics::LearnerTurns;
use crate::output::printable;
use crate::problem::Problem;
use crate::progress::{ProgressPrinter, utc};
use crate::run_settings::run_settings;
use crate::sweep_folder::SweepFolder;

/// The `PATH` with the folder of this program in front, if that is in a virtual environment of Python: that
/// Python has the module `mopd.track`, whether or not the environment is active.
fn path_of_environment() -> Option<OsString> {
    let program = std::env::current_exe().ok()?;
    let folder = program.parent()?;
    if !folder.parent()?.join("pyvenv.cfg").is_file() {
        return None;
    }
    let known = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(std::iter::once(folder.to_owned()).chain(std::env::split_paths(&known))).ok()
}

/// The sweep that a run belongs to: what its runs have in common, and the name of this one; null without one.
fn sweep(out: &Path) -> Value {
    let (Some(folder), Some(name)) = (out.parent(), out.file_name().map(|name| name.to_string_lossy()))
    else {
        return Value::Null;
    };
    let Some(sweep) = SweepFolder::read(folder) else { return Value::Null };
    if !sweep.members.iter().any(|member| member.name() == name) {
        return Value::Null;
    }
    // The same folder may later have another sweep.
    let plan: String = sweep.plan.chars().take(8).collect();
    json!({ "group": format!("{} {} {plan}", sweep.experiment, folder.display()), "run": name })
}

/// How long the tracker may take for the remaining events after the end of the run.
const LAST_LINES: Duration = Duration::from_secs(60);

/// How long to wait for the output of a tracker that has ended: a program that it started may keep the pipes
/// open for as long as it runs.
const LAST_WORDS: Duration = Duration::from_secs(1);

pub struct Tracker {
    command: String,
    turns: LearnerTurns,
    child: Child,
    /// `None` after the tracker was found to have ended, which is reported once.
    lines: Option<Sender<String>>,
    /// Disconnected when all output of the tracker was shown. Nothing is ever sent.
    said: Receiver<()>,
    printer: ProgressPrinter,
}

impl Tracker {
    /// # Errors
    /// If no shell can be started; only the shell knows whether the program exists.
    pub fn start(
        command: &str,
        compiled: &Compiled,
        out: &Path,
        printer: ProgressPrinter,
    ) -> Result<Tracker, Problem> {
        let plan = &compiled.plan;
        let failed = |error| {
            Problem::run("tracker-failed", format!("can't start the tracker `{command}`: {}", reason(&error)))
        };
        let mut shell = Command::new("sh");
        if let Some(path) = path_of_environment() {
            shell.env("PATH", path);
        }
        // `mopd.track` asks this program for the answers.
        if let (None, Ok(program)) = (std::env::var_os("MOPD_BIN"), std::env::current_exe()) {
            shell.env("MOPD_BIN", program);
        }
        let mut child = shell
            .args(["-c", command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C at the terminal ends the run, and the tracker still gets the final events.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let (Some(mut input), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            unreachable!("all three were asked for")
        };
        let (lines, texts) = channel::<String>();
        // In a thread: a run does not wait for its tracker.
        std::thread::spawn(move || {
            for text in texts {
                if input.write_all(text.as_bytes()).and_then(|()| input.flush()).is_err() {
                    break;
                }
            }
        });
        let (saying, said) = channel();
        pass_on(stdout, printer.clone(), saying.clone());
        pass_on(stderr, printer.clone(), saying);
        let mut tracker = Tracker {
            command: command.to_owned(),
            turns: LearnerTurns::of(plan),
            child,
            lines: Some(lines),
            said,
            printer,
        };
        let tables = plan.experiment.comparisons.iter().map(|comparison| comparison.name.as_str());
        tracker.line(json!({
            "event": "run",
            "experiment": plan.experiment.name,
            "out": out.display().to_string(),
            "plan": plan.hash,
            "tables": tables.collect::<Vec<_>>(),
            "sweep": sweep(out),
            "settings": run_settings(plan, compiled.set.iter().map(|(name, value)| (name, value))),
        }));
        Ok(tracker)
    }

    pub fn note(&mut self, event: &Event) {
        let mut line = serde_json::to_value(event).expect("an event was read from JSON");
        if let (Event::Step { rows, .. }, Value::Object(fields)) = (event, &mut line) {
            fields.remove("rows");
            fields.insert("scalars".to_owned(), json!(scalars(rows, &self.turns)));
        }
        self.line(line);
    }

    fn line(&mut self, mut line: Value) {
        line["time"] = utc().into();
        let sent = self.lines.as_ref().is_none_or(|lines| lines.send(format!("{line}\n")).is_ok());
        if !sent {
            self.lines = None;
            self.printer.warn(&format!(
                "warning: the tracker `{}` has ended; the run goes on without it\n",
                printable(&self.command)
            ));
        }
    }

    /// At the end of the run: waits until the tracker has handled all events.
    pub fn finish(mut self) {
        let told_all = self.lines.take().is_some();
        let status = self.ended();
        if status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        } else {
            // The wait is over either way.
            let _ = self.said.recv_timeout(LAST_WORDS);
        }
        let what = match status {
            None => format!("did not end within {} s of the run", LAST_LINES.as_secs()),
            Some(status) if told_all && !status.success() => format!("failed ({status})"),
            Some(_) => return,
        };
        self.printer.warn(&format!("warning: the tracker `{}` {what}\n", printable(&self.command)));
    }

    /// Its exit status; `None` if it runs for too long.
    fn ended(&mut self) -> Option<ExitStatus> {
        let begun = Instant::now();
        while begun.elapsed() < LAST_LINES {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) => std::thread::sleep(Duration::from_millis(20)),
                Err(_) => return None,
            }
        }
        None
    }
}

/// Shows the output of a tracker, line by line. Drops `saying` when it ends.
fn pass_on(stream: impl Read + Send + 'static, printer: ProgressPrinter, saying: Sender<()>) {
    std::thread::spawn(move || {
        let _saying = saying;
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            printer.say(&format!("tracker: {}\n", printable(String::from_utf8_lossy(&line).trim_end())));
        }
    });
}
