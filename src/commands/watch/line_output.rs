//! Output as lines: if standard output is not a terminal, or with `--plain`.

use mopd_lang::Analysis;
use mopd_lang::diag::{Diagnostic, Severity};
use mopd_lang::source::Sources;
use mopd_plan::difference::{PlanDifference, reruns};
use mopd_plan::events::Event;
use serde::Serialize;

use super::ui::WatchMessage;
use crate::args::Format;
use crate::figures::{bytes, duration, scores_found};
use crate::output::{self, Style, counted};
use crate::render;
use crate::run_events::json_line;
use crate::table;

/// An event of `--format json` that does not come from a worker.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum OutputEvent<'a> {
    Checked {
        errors: usize,
        warnings: usize,
        #[serde(rename = "findings")]
        diagnostics: Vec<serde_json::Value>,
    },
    Edited {
        difference: &'a PlanDifference,
    },
    Nothing,
}

pub struct LineOutput {
    format: Format,
    style: Style,
}

impl LineOutput {
    pub fn new(format: Format) -> LineOutput {
        LineOutput { format, style: Style::of_stderr() }
    }

    pub fn note(&mut self, note: &WatchMessage) {
        if self.format == Format::Json {
            self.json(note);
        }
        let text = text(note, self.style);
        if !text.is_empty() {
            output::error(&text);
        }
        if self.format == Format::Human {
            output::result(&table(note, Style::of_stdout()));
        }
    }

    fn json(&self, note: &WatchMessage) {
        let line = match note {
            WatchMessage::Event(event) | WatchMessage::Repeated(event) => json_line(event),
            WatchMessage::Began { sweep, member } => {
                sweep.announcement(*member, Format::Json).unwrap_or_default()
            }
            WatchMessage::Checked { analysis, .. } => {
                let Analysis { diagnostics, sources, .. } = analysis;
                let count = |severity| {
                    diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count()
                };
                let diagnostics = render::json::diagnostics(diagnostics, sources);
                let diagnostics =
                    diagnostics.iter().filter_map(|diagnostic| serde_json::to_value(diagnostic).ok());
                let diagnostics = diagnostics.collect();
                event_line(&OutputEvent::Checked {
                    errors: count(Severity::Error),
                    warnings: count(Severity::Warning),
                    diagnostics,
                })
            }
            WatchMessage::Edited(difference) => event_line(&OutputEvent::Edited { difference }),
            WatchMessage::Nothing => event_line(&OutputEvent::Nothing),
            _ => return,
        };
        output::result(&line);
    }
}

fn event_line(line: &OutputEvent) -> String {
    serde_json::to_string(line).expect("diagnostics and differences are plain data") + "\n"
}

/// A note as text; empty if it is not worth a line.
pub fn text(note: &WatchMessage, style: Style) -> String {
    match note {
        WatchMessage::Watching { path, sources, data } => {
            let others = match (sources.saturating_sub(1), data) {
                (0, 0) => String::new(),
                (0, data) => format!(" and {}", counted(*data, "file")),
                (modules, 0) => format!(" and {}", counted(modules, "module")),
                (modules, data) => format!(", {} and {}", counted(modules, "module"), counted(*data, "file")),
            };
            style.dim(&format!("watching {}{others} that it reads; Ctrl-C ends\n", path.display()))
        }
        WatchMessage::Checked { analysis, news, refused, clean, running } => {
            let mut text = diagnostics(news, &analysis.sources, style) + refused;
            match (clean, running) {
                (true, _) => {}
                (false, true) => text += "the run continues with the last valid text\n",
                (false, false) => text += "waiting for the next save\n",
            }
            text
        }
        WatchMessage::Unreadable(problem) => problem.text(style) + "waiting for the next save\n",
        WatchMessage::Edited(difference) => edited(difference),
        WatchMessage::Data(files) => {
            let files: Vec<String> = files.iter().take(3).map(|file| file.display().to_string()).collect();
            format!("{} changed\n", files.join(", "))
        }
        WatchMessage::Nothing => "nothing to rerun: the meaning is the same\n".to_owned(),
        WatchMessage::Stopping => "stopping at the next step\n".to_owned(),
        WatchMessage::Event(event) => event_text(event, style),
        WatchMessage::Repeated(_) => String::new(),
        WatchMessage::Finished { out, seconds, peak_memory, .. } => format!(
            "{} {}, peak memory {}, results in {}\n",
            style.green("finished:"),
            duration(*seconds),
            bytes(*peak_memory),
            out.display()
        ),
        WatchMessage::Failed { compiled, failure, more } => {
            let report = render::of_failure(failure, &compiled.plan, &compiled.sources);
            let then = if *more { "the other runs continue" } else { "waiting for the next save" };
            render::human::report(&report, style) + &format!("{then}; finished stages are kept\n")
        }
        WatchMessage::SweepEnded { folder, together, .. } => together.text(folder),
        WatchMessage::Problem(problem) => problem.text(style),
        WatchMessage::Forked { stage, seed, step } => {
            format!(
                "{stage}, seed {seed}: resumes from step {step} of the previous text; its result is kept \
                apart, and `mopd run` of this text does not use it\n"
            )
        }
        WatchMessage::Said(text) => format!("{text}\n"),
        WatchMessage::Began { sweep, member } => {
            sweep.announcement(*member, Format::Human).unwrap_or_default()
        }
    }
}

/// The diagnostics of a text, and their number.
fn diagnostics(diagnostics: &[Diagnostic], sources: &Sources, style: Style) -> String {
    let text = render::human::diagnostics(diagnostics, sources, style);
    if diagnostics.is_empty() { text } else { text + &render::human::summary(diagnostics, style) }
}

/// The tables of a note: of a run, or of all runs of a sweep; empty for other notes.
pub fn table(note: &WatchMessage, style: Style) -> String {
    match note {
        WatchMessage::Finished { compiled, single: true, results, .. } => {
            table::show(results, &compiled.plan, style)
        }
        WatchMessage::SweepEnded { sweep, together, .. } => {
            together.results.as_ref().map(|results| sweep.table(results, style)).unwrap_or_default()
        }
        _ => String::new(),
    }
}

/// `objective of `student`: clip ±5 -> ±3; 1 of 9 stages reruns, 8 kept`
fn edited(difference: &PlanDifference) -> String {
    let items: Vec<String> = difference.items.iter().map(ToString::to_string).collect();
    let summary = difference.summary();
    match items.as_slice() {
        [] => format!("{summary}\n"),
        [one] => format!("{one}; {summary}\n"),
        several => format!("{}\n{summary}\n", several.join("\n")),
    }
}

fn event_text(event: &Event, style: Style) -> String {
    match event {
        Event::Started { tasks, kept } => {
            format!("{}\n", reruns((tasks - kept.min(tasks)) as usize, *tasks as usize))
        }
        Event::StageStarted { stage, seed, steps } => match steps {
            0 => String::new(),
            steps => format!("{stage}, seed {seed}: {}\n", counted(*steps as usize, "step")),
        },
        Event::StageResumed { stage, seed, step } => {
            format!("{stage}, seed {seed}: resumes after step {step}\n")
        }
        Event::Waiting { what } => format!("{what} is being computed by another run\n"),
        Event::ScoresFound { stage, seed, found, of } if *found > 0 => {
            format!("{}\n", scores_found(&format!("{stage}, seed {seed}"), *found, *of))
        }
        Event::StageFinished { stage, seed, seconds, .. } => {
            format!("{stage}, seed {seed}: done in {}\n", duration(*seconds))
        }
        Event::Warning { message } => {
            let head = style.yellow("warning");
            output::hanging(&format!("{head}: "), "         ", &output::printable(message))
        }
        Event::Interrupted { .. } => "stopped\n".to_owned(),
        _ => String::new(),
    }
}
