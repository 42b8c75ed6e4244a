//! The output for the user, as lines or in the terminal view.

use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::time::Duration;

use mopd_lang::Analysis;
use mopd_lang::diag::Diagnostic;
use mopd_plan::difference::PlanDifference;
use mopd_plan::events::{Event, Failure};
use mopd_plan::results::Results;
use mopd_store::signals::on_resize;

use super::WatchEvent;
use super::line_output::LineOutput;
use super::view;
use crate::args::{Format, WatchArgs};
use crate::commands::Compiled;
use crate::commands::sweep::{Sweep, SweepResults};
use crate::problem::Problem;

/// A message for the author.
pub enum WatchMessage<'a> {
    Watching {
        path: &'a Path,
        sources: usize,
        data: usize,
    },
    /// A text was checked; `clean` says whether it can run. Invalid runs of a sweep are listed with their
    /// diagnostics. `news` are the diagnostics without the warnings that stood before.
    Checked {
        analysis: &'a Analysis,
        news: &'a [Diagnostic],
        /// Which runs can't run, as text.
        refused: &'a str,
        clean: bool,
        running: bool,
    },
    Unreadable(&'a Problem),
    /// The changes by the last valid text.
    Edited(&'a PlanDifference),
    Data(&'a [PathBuf]),
    Nothing,
    Stopping,
    Forked {
        stage: &'a str,
        seed: u64,
        step: u32,
    },
    /// The run of this member of a sweep has started.
    Began {
        sweep: &'a Sweep,
        member: usize,
    },
    Event(&'a Event),
    /// A warning that a run gave before.
    Repeated(&'a Event),
    /// `single` says whether this is not a run of a sweep, which has a combined table.
    Finished {
        compiled: &'a Compiled,
        single: bool,
        out: &'a Path,
        results: &'a Results,
        seconds: f64,
        peak_memory: u64,
    },
    /// `more` says whether other runs of its sweep follow.
    Failed {
        compiled: &'a Compiled,
        failure: &'a Failure,
        more: bool,
    },
    /// All runs of a sweep have ended.
    SweepEnded {
        sweep: &'a Sweep,
        folder: &'a Path,
        together: &'a SweepResults,
    },
    Problem(&'a Problem),
    Said(&'a str),
}

/// The kind of output.
pub enum Ui {
    Lines(LineOutput),
    View(Box<view::WatchView>),
}

impl Ui {
    pub fn new(arguments: &WatchArgs, sender: &Sender<WatchEvent>) -> Ui {
        if !arguments.plain && arguments.format == Format::Human {
            let keys = sender.clone();
            let title = arguments.file.display().to_string();
            if let Some(view) = view::WatchView::new(&title, move |key| _ = keys.send(WatchEvent::Key(key))) {
                let sizes = sender.clone();
                // Without the signal, another size is drawn with the next change.
                let _ = on_resize(move || _ = sizes.send(WatchEvent::Resized));
                return Ui::View(Box::new(view));
            }
        }
        Ui::Lines(LineOutput::new(arguments.format))
    }

    pub fn note(&mut self, note: &WatchMessage) {
        match self {
            Ui::Lines(output) => output.note(note),
            Ui::View(view) => view.note(note),
        }
    }

    /// Refreshes the display. Returns the time until the next refresh.
    pub fn refresh(&mut self) -> Result<Option<Duration>, Problem> {
        match self {
            Ui::Lines(_) => Ok(None),
            Ui::View(view) => view.refresh(),
        }
    }

    pub fn close(self) {
        match self {
            Ui::Lines(_) => {}
            Ui::View(view) => view.close(),
        }
    }
}
