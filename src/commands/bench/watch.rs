//! `mopd bench watch`: the latency from a save to the first diagnostic, and to the first step of the stage
//! that the edit changed.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::{Value, json};

use super::check::{milliseconds, quantile};
use super::experiments;
use super::folder::TempFolder;
use crate::args::BenchWatchArgs;
use crate::host::reason;
use crate::output;
use crate::problem::{CommandStatus, Problem};
use crate::starter;
use crate::worker;

/// The length of the checked file.
const LINES: usize = 500;
/// The pause between two saves whose diagnostics are timed.
const PAUSE: Duration = Duration::from_millis(60);
/// The time between two saves that do not count as a burst, which `watch` waits out.
const APART: Duration = Duration::from_millis(2000);

pub fn watch(arguments: &BenchWatchArgs) -> Result<CommandStatus, Problem> {
    let mut diagnostics = diagnostics(arguments.saves)?;
    diagnostics.sort();
    let mut steps = match worker::find() {
        Ok(_) => steps(arguments.edits)?,
        Err(problem) => {
            output::error(&format!("first steps are not measured: {}\n", problem.message()));
            Vec::new()
        }
    };
    steps.sort();
    output::result(&if arguments.json { in_json(&diagnostics, &steps) } else { table(&diagnostics, &steps) });
    Ok(CommandStatus::Success)
}

/// The times from a save to its diagnostics.
fn diagnostics(saves: u32) -> Result<Vec<Duration>, Problem> {
    let folder = TempFolder::new()?;
    let right = experiments::experiment(LINES);
    let wrong = experiments::experiment_with_five_errors(LINES);
    let file = folder.write("experiment.mopd", &right)?;
    let mut watching = WatchProcess::start(&folder.0, &["--check", "experiment.mopd"])?;
    watching.until("checked")?;
    let mut times = Vec::new();
    for save in 0..saves {
        std::thread::sleep(PAUSE);
        let text = if save % 2 == 0 { &wrong } else { &right };
        let saved = save_as_editors_do(&file, text, save)?;
        let checked = watching.until("checked")?;
        times.push(saved.elapsed());
        if (checked["errors"] == 5) != (save % 2 == 0) {
            return Err(failed(&format!("unexpected event after a save: {checked}")));
        }
    }
    Ok(times)
}

/// The times from a save that edits the last stage's objective to its first step; other stages are kept.
fn steps(edits: u32) -> Result<Vec<Duration>, Problem> {
    let folder = TempFolder::new()?;
    std::fs::create_dir(folder.0.join("data")).map_err(|error| failed(&reason(&error)))?;
    for (name, text) in starter::files("starter") {
        folder.write(&name, &text)?;
    }
    let file = folder.0.join("starter.mopd");
    let mut text = std::fs::read_to_string(&file).map_err(|error| failed(&reason(&error)))?;
    let mut watching = WatchProcess::start(&folder.0, &["starter.mopd"])?;
    watching.until("finished")?;
    let mut times = Vec::new();
    for edit in 0..edits {
        std::thread::sleep(APART);
        let k = |edit: u32| format!("mopd_top_k(k: {})", 64 - edit % 60);
        text = text.replace(&k(edit), &k(edit + 1));
        let saved = save_as_editors_do(&file, &text, edit)?;
        let first = watching.until("step")?;
        times.push(saved.elapsed());
        if first["stage"] != "student" {
            return Err(failed(&format!("a stage other than the edited one runs: {first}")));
        }
        watching.until("finished")?;
    }
    Ok(times)
}

/// Overwrites the file, or renames a new one over it, in turn. Returns when the new text was there.
fn save_as_editors_do(file: &Path, text: &str, turn: u32) -> Result<Instant, Problem> {
    let written = if turn % 4 < 2 {
        std::fs::write(file, text)
    } else {
        let beside = file.with_extension("new");
        std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, file))
    };
    written.map(|()| Instant::now()).map_err(|error| failed(&reason(&error)))
}

/// A running `mopd watch`, with its output.
struct WatchProcess {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl WatchProcess {
    fn start(folder: &Path, arguments: &[&str]) -> Result<WatchProcess, Problem> {
        let program = std::env::current_exe().map_err(|error| failed(&reason(&error)))?;
        let mut command = Command::new(program);
        command.args(["watch", "--format", "json"]).args(arguments).current_dir(folder);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| failed(&reason(&error)))?;
        let lines = BufReader::new(child.stdout.take().ok_or_else(|| failed("it has no standard output"))?);
        Ok(WatchProcess { child, lines })
    }

    /// The next event of this kind.
    fn until(&mut self, wanted: &str) -> Result<Value, Problem> {
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).map_err(|error| failed(&reason(&error)))? == 0 {
                return Err(failed("it has ended"));
            }
            let event: Value = serde_json::from_str(&line).map_err(|error| failed(&error.to_string()))?;
            if event["event"] == "failed" {
                return Err(failed(&format!("its run failed: {}", event["message"])));
            }
            if event["event"] == wanted {
                return Ok(event);
            }
        }
    }
}

impl Drop for WatchProcess {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn failed(why: &str) -> Problem {
    Problem::run("bench-failed", format!("cannot measure `mopd watch`: {why}"))
}

fn table(diagnostics: &[Duration], steps: &[Duration]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::ASCII_MARKDOWN)
        .set_content_arrangement(ContentArrangement::Disabled)
        .force_no_tty();
    table.set_header(["from a save to", "median", "p95", "slowest"]);
    let mut row = |what: String, sorted: &[Duration]| {
        let at = |share: f64| format!("{:.1} ms", milliseconds(quantile(sorted, share)));
        table.add_row([what, at(0.5), at(0.95), at(1.0)]);
    };
    row(format!("its diagnostics, {LINES} lines, {} saves", diagnostics.len()), diagnostics);
    if !steps.is_empty() {
        row(format!("the first step of the last stage, its objective edited, {} saves", steps.len()), steps);
    }
    for column in 1..4 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{table}\n")
}

/// Times in milliseconds.
fn in_json(diagnostics: &[Duration], steps: &[Duration]) -> String {
    let times = |sorted: &[Duration]| -> Value {
        let at = |share| milliseconds(quantile(sorted, share));
        json!({ "count": sorted.len(), "median": at(0.5), "p95": at(0.95), "slowest": at(1.0) })
    };
    format!("{:#}\n", json!({ "lines": LINES, "findings": times(diagnostics), "first_step": times(steps) }))
}
