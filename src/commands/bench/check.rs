//! `mopd bench check`: the latency of a check as a whole process, and of a keystroke in a language server.

use std::path::Path;
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use mopd_lang::analyse;
use mopd_lang::source::SourceFile;
use serde_json::{Value, json};
use wait4::Wait4;

use super::editor::{BenchEditor, Keystroke, in_status};
use super::experiments;
use super::folder::TempFolder;
use crate::args::BenchCheckArgs;
use crate::figures;
use crate::host::{self, reason};
use crate::output;
use crate::problem::{CommandStatus, Problem};

const SHORT: usize = 500;
const LONG: usize = 5_000;
/// Checks that are not counted: they bring files and programs into the system's caches.
const WARM_UP: u32 = 3;
/// Checks from scratch of each text.
const COLD_RUNS: u32 = 30;

/// The size of a text.
struct TextSize {
    lines: usize,
    bytes: usize,
}

impl TextSize {
    fn measure(text: &str) -> TextSize {
        TextSize { lines: text.lines().count(), bytes: text.len() }
    }
}

/// The measurements.
struct CheckFigures {
    short: TextSize,
    long: TextSize,
    /// The time of each `mopd check` of the short file, sorted.
    checks: Vec<Duration>,
    /// The largest peak memory of these checks, in bytes; `None` where the system does not tell.
    peak_memory: Option<u64>,
    /// The system counts a child's peak from its parent's: a smaller peak than this can't be measured.
    least_peak: Option<u64>,
    /// The time from each keystroke in the long file to its diagnostics, sorted.
    keystrokes: Vec<Duration>,
    /// The time of each check from scratch of the sound experiments of `SHORT` and `LONG` lines: the checker
    /// alone, sorted.
    cold: [Vec<Duration>; 2],
    edits: u32,
    /// The server's memory before the edits.
    memory_before: Option<u64>,
    /// Its memory after them.
    memory_after: Option<u64>,
}

pub fn check(arguments: &BenchCheckArgs) -> Result<CommandStatus, Problem> {
    let folder = TempFolder::new()?;
    let program = std::env::current_exe().map_err(|error| {
        Problem::run("bench-failed", format!("the path of the mopd program is unknown: {}", reason(&error)))
    })?;

    // First, while this process is still small: a child's peak includes its parent's memory at the start of
    // the child.
    let short = experiments::experiment_with_five_errors(SHORT);
    let file = folder.write("five-errors.mopd", &short)?;
    let mut checks = Vec::new();
    let mut peak_memory = None;
    for run in 0..WARM_UP + arguments.runs {
        let (time, peak) = whole_process(&program, &file)?;
        if run >= WARM_UP {
            checks.push(time);
            peak_memory = peak_memory.max(peak);
        }
    }
    checks.sort();
    let least_peak = own_peak();

    let long = experiments::experiment(LONG);
    let mut editor = BenchEditor::start(&program, &folder.0)?;
    let diagnostics = editor.open(&long)?;
    if diagnostics > 0 {
        return Err(Problem::run(
            "bench-failed",
            format!("the generated experiment has {diagnostics} diagnostics; it should have none"),
        ));
    }
    let mut keystrokes = press(&mut editor, &long, arguments.keystrokes)?;
    keystrokes.sort();
    let memory_before = editor.memory();
    press(&mut editor, &long, arguments.edits)?;
    let memory_after = editor.memory();

    let cold = [experiments::experiment(SHORT), long.clone()].map(|text| from_scratch(&text));
    let figures = CheckFigures {
        cold,
        short: TextSize::measure(&short),
        long: TextSize::measure(&long),
        checks,
        peak_memory,
        least_peak,
        keystrokes,
        edits: arguments.edits,
        memory_before,
        memory_after,
    };
    output::result(&if arguments.json { figures.json() } else { figures.table() });
    Ok(CommandStatus::Success)
}

/// The times of the checker for a text that it has not seen before.
fn from_scratch(text: &str) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..COLD_RUNS {
        let entry = SourceFile { path: "cold.mopd".to_owned(), text: text.to_owned() };
        let start = Instant::now();
        let analysis = analyse(entry, &host::standard);
        times.push(start.elapsed());
        drop(analysis);
    }
    times.sort();
    times
}

/// Types a character and removes it again, at places spread over the whole text; `count` keystrokes in total.
fn press(editor: &mut BenchEditor, text: &str, count: u32) -> Result<Vec<Duration>, Problem> {
    let lines: Vec<&str> = text.lines().collect();
    let mut times = Vec::new();
    let turns = count.div_ceil(2) as usize;
    for turn in 0..turns {
        // A digit at the end of a line: a longer number or name, or an error.
        let line = turn * lines.len() / turns;
        let column = lines[line].len();
        for typed in [Some('1'), None] {
            times.push(editor.press(Keystroke { line, column, typed })?);
        }
    }
    Ok(times)
}

/// Runs a whole `mopd check`: its time, and its peak memory.
fn whole_process(program: &Path, file: &Path) -> Result<(Duration, Option<u64>), Problem> {
    use std::process::{Command, Stdio};

    let mut command = Command::new(program);
    command
        .args(["check", "--format", "short"])
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let started = Instant::now();
    let child = command
        .spawn()
        .map_err(|error| Problem::run("bench-failed", format!("cannot start mopd: {}", reason(&error))))?;
    let ended = child.wait4();
    let time = started.elapsed();
    match ended {
        // Five errors are found: status 1.
        Ok(ended) if ended.status.code() == Some(1) => {
            Ok((time, Some(ended.rusage.maxrss).filter(|peak| *peak > 0)))
        }
        _ => Err(Problem::run(
            "bench-failed",
            format!("`mopd check {}` did not exit with the expected status", file.display()),
        )),
    }
}

/// The peak memory of this process.
fn own_peak() -> Option<u64> {
    in_status("self", "VmHWM")
}

/// The quantile of sorted times: the smallest time that this share of them does not exceed.
pub fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let place = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(place.saturating_sub(1)).or(sorted.last()).copied().unwrap_or_default()
}

pub fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 100.0
}

impl CheckFigures {
    fn table(&self) -> String {
        let mut table = Table::new();
        table
            .load_style(presets::ASCII_MARKDOWN)
            .set_content_arrangement(ContentArrangement::Disabled)
            .force_no_tty();
        table.set_header(["file", "what", "figure"]);
        let size = |size: &TextSize| {
            format!(
                "{} lines, {} bytes",
                figures::count(size.lines as u64),
                figures::count(size.bytes as u64)
            )
        };
        let (short, long) = (format!("{}, five errors", size(&self.short)), size(&self.long));
        let time =
            |sorted: &[Duration], share: f64| format!("{:.2} ms", milliseconds(quantile(sorted, share)));
        let memory = |bytes: Option<u64>| bytes.map_or_else(|| "unknown".to_owned(), figures::bytes);
        let checks = format!("whole process `mopd check`, {} runs", self.checks.len());
        for (share, name) in [(0.5, "median"), (0.95, "p95"), (1.0, "slowest")] {
            table.add_row([short.clone(), format!("{checks}: {name}"), time(&self.checks, share)]);
        }
        let bound =
            if self.peak_memory.is_some() && self.peak_memory <= self.least_peak { "at most " } else { "" };
        table.add_row([
            short,
            format!("{checks}: peak memory"),
            format!("{bound}{}", memory(self.peak_memory)),
        ]);
        for (lines, times) in [SHORT, LONG].into_iter().zip(&self.cold) {
            for (share, name) in [(0.5, "median"), (0.95, "p95")] {
                table.add_row([
                    format!("{} lines, sound", figures::count(lines as u64)),
                    format!("the checker alone, from scratch, {COLD_RUNS} runs: {name}"),
                    time(times, share),
                ]);
            }
        }
        let keystrokes =
            format!("keystroke to diagnostics in `mopd lsp`, {} keystrokes", self.keystrokes.len());
        for (share, name) in [(0.5, "median"), (0.95, "p95"), (0.99, "p99"), (1.0, "slowest")] {
            table.add_row([long.clone(), format!("{keystrokes}: {name}"), time(&self.keystrokes, share)]);
        }
        table.add_row([
            long.clone(),
            "memory of `mopd lsp` after these".to_owned(),
            memory(self.memory_before),
        ]);
        let edits = figures::count(u64::from(self.edits));
        table.add_row([
            long,
            format!("memory of `mopd lsp` after {edits} edits more"),
            memory(self.memory_after),
        ]);
        if let Some(column) = table.column_mut(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        format!("{table}\n")
    }

    /// Times in milliseconds, memory in bytes.
    fn json(&self) -> String {
        let size = |size: &TextSize| json!({ "lines": size.lines, "bytes": size.bytes });
        let times = |sorted: &[Duration]| -> Value {
            let at = |share| milliseconds(quantile(sorted, share));
            json!({
                "count": sorted.len(),
                "median": at(0.5),
                "p95": at(0.95),
                "p99": at(0.99),
                "slowest": at(1.0),
            })
        };
        let figures = json!({
            "check": {
                "file": size(&self.short),
                "errors": 5,
                "milliseconds": times(&self.checks),
                "peak_memory": self.peak_memory,
                "peak_memory_of_parent": self.least_peak,
            },
            "from_scratch": { "500": times(&self.cold[0]), "5000": times(&self.cold[1]) },
            "keystroke": { "file": size(&self.long), "milliseconds": times(&self.keystrokes) },
            "memory": {
                "file": size(&self.long),
                "before": self.memory_before,
                "edits": self.edits,
                "after": self.memory_after,
            },
        });
        format!("{figures:#}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_times() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        let at = |share| quantile(&times, share).as_millis();
        assert_eq!([at(0.5), at(0.95), at(0.99), at(1.0)], [100, 190, 198, 200]);
        assert_eq!(quantile(&times[..1], 0.5), times[0]);
    }
}
