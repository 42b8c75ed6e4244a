//! Progress of a run on standard error: one line a running stage and one for the whole. Quiet where standard error is no
//! terminal, so that logs hold only what matters.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::IsTerminal;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use mopd_compiler::plan::events::Event;

use crate::figures;
use crate::output::{self, Style};

pub struct Progress {
    bars: MultiProgress,
    style: Style,
    shown: bool,
    /// More than one seed: stages are told apart by theirs.
    seeds: bool,
    total: Option<ProgressBar>,
    stages: BTreeMap<(String, u64), Stage>,
    /// Stages that ran, that were kept, and all there are.
    pub finished: u32,
    pub kept: u32,
    pub tasks: u32,
}

struct Stage {
    bar: ProgressBar,
    /// The metric as it was last shown, for the line that stays.
    metric: String,
}

/// Says something while bars are drawn; can be handed to another thread.
#[derive(Clone)]
pub struct Speaker {
    bars: MultiProgress,
    shown: bool,
}

impl Speaker {
    pub fn say(&self, text: &str) {
        if self.shown {
            self.bars.suspend(|| output::error(text));
        } else {
            output::error(text);
        }
    }
}

impl Progress {
    pub fn new(seeds: bool) -> Progress {
        let shown = std::io::stderr().is_terminal();
        let target = if shown { ProgressDrawTarget::stderr_with_hz(8) } else { ProgressDrawTarget::hidden() };
        Progress {
            bars: MultiProgress::with_draw_target(target),
            style: Style::of_stderr(),
            shown,
            seeds,
            total: None,
            stages: BTreeMap::new(),
            finished: 0,
            kept: 0,
            tasks: 0,
        }
    }

    pub fn speaker(&self) -> Speaker {
        Speaker { bars: self.bars.clone(), shown: self.shown }
    }

    /// Takes note of an event. Those that end a job are the caller's.
    pub fn note(&mut self, event: &Event) {
        match event {
            Event::Started { tasks } => {
                self.tasks = *tasks;
                let bar = ProgressBar::new(u64::from(*tasks));
                bar.set_style(style("{prefix:>24} {bar:24} {pos}/{len} stages, {elapsed} so far"));
                bar.set_prefix("all");
                self.total = Some(self.bars.add(bar));
            }
            Event::StageStarted { stage, seed, steps } => {
                self.stage(stage, *seed, *steps);
            }
            Event::Step { stage, seed, step, steps, metric, value } => {
                let shown = format!("{metric} {value:.3}");
                let entry = self.stage(stage, *seed, *steps);
                entry.bar.set_position(u64::from(*step));
                entry.bar.set_message(shown.clone());
                entry.metric = shown;
            }
            Event::StageKept { stage, seed } => {
                self.kept += 1;
                self.settle(stage, *seed, "kept from before");
            }
            Event::StageFinished { stage, seed, seconds } => {
                self.finished += 1;
                let metric = self.stages.get(&(stage.clone(), *seed)).map(|entry| entry.metric.clone()).unwrap_or_default();
                self.settle(stage, *seed, &format!("{:>10}  {metric}", figures::duration(*seconds)));
            }
            Event::Warning { message } => {
                let head = self.style.yellow("warning");
                self.speaker().say(&output::hanging(&format!("{head}: "), "         ", &output::printable(message)));
            }
            Event::Ready { .. }
            | Event::Evaluated { .. }
            | Event::Sample { .. }
            | Event::Failed(_)
            | Event::Interrupted { .. }
            | Event::Finished { .. } => {}
        }
    }

    /// Takes the bars away.
    pub fn close(&mut self) {
        for stage in self.stages.values() {
            stage.bar.finish_and_clear();
        }
        self.stages.clear();
        if let Some(total) = self.total.take() {
            total.finish_and_clear();
        }
    }

    fn name(&self, stage: &str, seed: u64) -> String {
        if self.seeds { format!("{stage} (seed {seed})") } else { stage.to_owned() }
    }

    fn stage(&mut self, stage: &str, seed: u64, steps: u32) -> &mut Stage {
        let name = self.name(stage, seed);
        let (bars, total) = (&self.bars, &self.total);
        self.stages.entry((stage.to_owned(), seed)).or_insert_with(|| {
            let bar = ProgressBar::new(u64::from(steps));
            // A merge has no steps to count.
            bar.set_style(style(match steps {
                0 => "{prefix:>24} {elapsed} so far",
                _ => "{prefix:>24} {bar:24} {pos}/{len} {rate} {eta} left  {msg}",
            }));
            bar.set_prefix(name);
            let bar = match total {
                Some(total) => bars.insert_before(total, bar),
                None => bars.add(bar),
            };
            Stage { bar, metric: String::new() }
        })
    }

    /// Replaces a stage's bar by a line that stays.
    fn settle(&mut self, stage: &str, seed: u64, what: &str) {
        if let Some(entry) = self.stages.remove(&(stage.to_owned(), seed)) {
            entry.bar.finish_and_clear();
        }
        if self.shown {
            self.speaker().say(&format!("{:>24} {what}\n", self.name(stage, seed)));
        }
        if let Some(total) = &self.total {
            total.set_position(u64::from(self.finished + self.kept));
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the templates are constants")
        .with_key("rate", |state: &ProgressState, out: &mut dyn Write| {
            // Writing to a bar's text does not fail.
            let _ = write!(out, "{:.1}/s", state.per_sec());
        })
        .progress_chars("━╸ ")
}
