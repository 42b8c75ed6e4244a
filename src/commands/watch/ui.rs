//! What is shown to the user, as lines or in the terminal view.

use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::time::Duration;

use mopd_compiler::plan::difference::PlanDifference;
use mopd_compiler::plan::events::{Event, Failure};
use mopd_compiler::plan::results::Results;
use mopd_lang::Analysis;

use super::WatchEvent;
use super::line_output::LineOutput;
use super::view;
use crate::args::{Format, WatchArgs};
use crate::commands::Compiled;
use crate::commands::sweep::{Sweep, SweepResults};
use crate::problem::Problem;

/// What is told to the author.
pub enum Note<'a> {
    Watching {
        path: &'a Path,
        sources: usize,
        data: usize,
    },
    /// A text was checked; `clean` is whether it can run. Runs of a sweep that can't are named with their
    /// diagnostics.
    Checked {
        analysis: &'a Analysis,
        refused: &'a [(String, Analysis)],
        clean: bool,
        running: bool,
    },
    Unreadable(&'a Problem),
    /// What the last clean text changed.
    Edited(&'a PlanDifference),
    Data(&'a [PathBuf]),
    Nothing,
    Stopping,
    Forked {
        stage: &'a str,
        seed: u64,
        step: u32,
    },
    /// The run of this member of a sweep began.
    Began {
        sweep: &'a Sweep,
        member: usize,
    },
    Event(&'a Event),
    /// `single` is whether it is no run of a sweep, which has a table of its own.
    Finished {
        compiled: &'a Compiled,
        single: bool,
        out: &'a Path,
        results: &'a Results,
        seconds: f64,
        peak_memory: u64,
    },
    /// `more` is whether other runs of its sweep follow.
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

/// How it is told.
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
                return Ui::View(Box::new(view));
            }
        }
        Ui::Lines(LineOutput::new(arguments.format))
    }

    pub fn note(&mut self, note: &Note) {
        match self {
            Ui::Lines(output) => output.note(note),
            Ui::View(view) => view.note(note),
        }
    }

    /// How long it is until it wants to be refreshed again.
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
