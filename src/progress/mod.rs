//! The progress of a run on standard error. On a terminal: one line per running stage and one for the whole
//! run; elsewhere it is a [`log`].

mod log;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mopd_plan::events::Event;

pub use self::log::utc;
use self::log::{Log, StageCounts};
use crate::figures;
use crate::output::{self, Style};
use crate::worker::killed::ActiveStage;

/// The width of a bar in columns.
const WIDTH: u32 = 24;

/// The interval at which progress is updated without events.
pub const TICK: Duration = Duration::from_secs(1);

/// Seconds between two reports of running stages in a log.
pub const LOG_EVERY: f64 = 30.0;

pub struct RunProgress {
    /// All bars are the single message of this one. A bar per stage would also work, but removing bars while
    /// others are drawn leaves stale lines on the screen.
    screen: ProgressBar,
    style: Style,
    /// Whether it is drawn. If standard error is not a terminal, it is reported as lines.
    drawn: bool,
    /// The log: on standard error, if nothing is drawn there, and in a log file.
    log: Option<Log>,
    /// Whether there are several seeds: then stages are shown with theirs.
    seeds: bool,
    /// Whether a resume was requested, and nothing to resume was found yet.
    resumes: bool,
    started: Instant,
    /// The running stages, by name and seed.
    stages: BTreeMap<(String, u64), StageBar>,
    begun: u32,
    /// Whether stages may be measured for predictions now.
    predicting: bool,
    /// The most lines that were drawn at once.
    tallest: usize,
    /// The width of the longest name so far, in columns.
    widest: usize,
    /// Numbers of stages: that ran; that the run reached and kept; in the store at its start; of all.
    pub finished: u32,
    pub kept: u32,
    found: u32,
    pub tasks: u32,
}

struct StageBar {
    order: u32,
    started: Instant,
    /// The number of steps by an earlier run.
    first: u32,
    step: u32,
    steps: u32,
    /// The number of steps of the last checkpoint.
    checkpoint: Option<u32>,
    /// The main metric, as last shown.
    metric: String,
}

impl StageBar {
    fn new(order: u32, steps: u32) -> StageBar {
        let (started, metric) = (Instant::now(), String::new());
        StageBar { order, started, first: 0, step: 0, steps, checkpoint: None, metric }
    }
}

/// Prints lines while progress is drawn; can be moved to another thread.
#[derive(Clone)]
pub struct ProgressPrinter {
    screen: ProgressBar,
    drawn: bool,
}

impl ProgressPrinter {
    pub fn say(&self, text: &str) {
        self.line(text, true);
    }

    /// [`Self::say`] for lines that a quiet command also prints.
    pub fn warn(&self, text: &str) {
        self.line(text, false);
    }

    fn line(&self, text: &str, note: bool) {
        if self.drawn {
            // Printed by the progress bar, which knows where its lines are.
            self.screen.println(output::safe(text.trim_end(), Style::of_stderr()));
            output::to_log_file(text);
        } else {
            output::log_line(text, note);
        }
    }
}

impl RunProgress {
    /// `log_every` is the interval of a log's reports in seconds.
    pub fn new(seeds: bool, resumes: bool, log_every: f64) -> RunProgress {
        let drawn = std::io::stderr().is_terminal() && !output::is_quiet();
        let log = (!drawn || output::has_log_file()).then(|| Log::every(log_every));
        let target = if drawn { ProgressDrawTarget::stderr_with_hz(8) } else { ProgressDrawTarget::hidden() };
        let screen = ProgressBar::with_draw_target(None, target);
        screen.set_style(ProgressStyle::with_template("{msg}").expect("a constant template"));
        RunProgress {
            screen,
            style: Style::of_stderr(),
            drawn,
            log,
            seeds,
            resumes,
            started: Instant::now(),
            stages: BTreeMap::new(),
            begun: 0,
            predicting: false,
            tallest: 0,
            widest: WIDTH as usize,
            finished: 0,
            kept: 0,
            found: 0,
            tasks: 0,
        }
    }

    pub fn printer(&self) -> ProgressPrinter {
        ProgressPrinter { screen: self.screen.clone(), drawn: self.drawn }
    }

    /// Updates the progress from an event. The caller handles those that end a job.
    pub fn note(&mut self, event: &Event) {
        self.update(event);
        let counts = self.counts();
        let seeds = self.seeds;
        let line =
            self.log.as_mut().and_then(|log| log.line(event, |stage, seed| name(stage, seed, seeds), counts));
        if let Some(line) = line {
            self.logged(&line);
        }
        self.tick();
    }

    fn update(&mut self, event: &Event) {
        match event {
            Event::Started { tasks, kept } => {
                (self.tasks, self.found, self.predicting) = (*tasks, *kept, true);
            }
            Event::PredictionEnded { .. } => self.predicting = false,
            Event::StageStarted { stage, seed, steps } => {
                self.predicting = false;
                self.begun += 1;
                self.widest = self.widest.max(self.name(stage, *seed).chars().count());
                self.stages.insert((stage.clone(), *seed), StageBar::new(self.begun, *steps));
            }
            Event::Step { stage, seed, step, steps, metric, value, .. } => {
                if self.resumes && self.kept == 0 {
                    self.printer().say(
                        "the store has no stage of this experiment: the run starts from its first \
                            stage\n",
                    );
                    self.resumes = false;
                }
                if let Some(running) = self.running(stage, *seed) {
                    // Steps are counted from 0; this one has ended.
                    (running.step, running.steps) = (step + 1, *steps);
                    running.metric = format!("{metric} {value:.3}");
                }
            }
            Event::StageResumed { stage, seed, step } => {
                if let Some(running) = self.running(stage, *seed) {
                    (running.step, running.first) = (*step, *step);
                }
                self.resumes = false;
            }
            Event::Checkpoint { stage, seed, step, .. } => {
                if let Some(running) = self.running(stage, *seed) {
                    running.checkpoint = Some(*step);
                }
            }
            Event::Waiting { what } => {
                self.printer().say(&format!(
                    "another run computes {}; waiting for its result\n",
                    output::printable(what)
                ));
            }
            Event::StageKept { stage, seed } => {
                self.kept += 1;
                self.settle(stage, *seed, "kept from before");
            }
            Event::ScoresFound { found: 0, .. } => {}
            Event::ScoresFound { stage, seed, found, of } => {
                let name = self.name(stage, *seed);
                self.printer()
                    .say(&format!("{}\n", figures::scores_found(&output::printable(&name), *found, *of)));
            }
            Event::StageFinished { stage, seed, seconds, .. } => {
                self.finished += 1;
                let metric = self.running(stage, *seed).map_or("", |running| &running.metric);
                let what = format!("{:>10}  {metric}", figures::duration(*seconds));
                self.settle(stage, *seed, &what);
            }
            Event::Warning { message } => {
                let head = self.style.yellow("warning");
                self.printer().warn(&output::hanging(
                    &format!("{head}: "),
                    "         ",
                    &output::printable(message),
                ));
            }
            Event::Ready { .. }
            | Event::Private(_)
            | Event::Predicted { .. }
            | Event::Evaluated { .. }
            | Event::Table { .. }
            | Event::Compared { .. }
            | Event::Differences { .. }
            | Event::Delta { .. }
            | Event::SampleWritten { .. }
            | Event::Sample { .. }
            | Event::Serving { .. }
            | Event::ServingRewards { .. }
            | Event::MeasuredMemory { .. }
            | Event::MeasuredTime { .. }
            | Event::MeasuredFloor { .. }
            | Event::MeasuredGeneration(_)
            | Event::Refused(_)
            | Event::ServerFound { .. }
            | Event::Fate { .. }
            | Event::Failed(_)
            | Event::Interrupted { .. }
            | Event::Finished { .. } => {}
        }
    }

    /// The bar of a running stage.
    fn running(&mut self, stage: &str, seed: u64) -> Option<&mut StageBar> {
        self.stages.get_mut(&(stage.to_owned(), seed))
    }

    /// Reports or draws the progress, if it is time.
    pub fn tick(&mut self) {
        if self.drawn && self.tasks > 0 {
            let screen = self.screen();
            self.screen.set_message(output::safe(&screen, self.style).into_owned());
        }
        let counts = self.counts();
        let due = self.log.as_mut().and_then(|log| log.due().then_some(log));
        let Some(between) = due.map(|log| log.between(counts)) else { return };
        if self.stages.is_empty() {
            self.logged(&between);
        }
        for (name, stage) in self.in_order() {
            self.logged(&stage.words(&name));
        }
    }

    /// A line of the log: on standard error if nothing is drawn there, and in the log file.
    fn logged(&self, line: &str) {
        let line = output::printable(line);
        if self.drawn { output::to_log_file(&line) } else { self.printer().say(&line) }
    }

    fn counts(&self) -> StageCounts {
        StageCounts { done: self.finished + self.kept, begun: self.begun, tasks: self.tasks }
    }

    /// The running stages with their names, in the order in which they began.
    fn in_order(&self) -> Vec<(String, &StageBar)> {
        let mut running: Vec<_> = self.stages.iter().collect();
        running.sort_by_key(|(_, stage)| stage.order);
        running.into_iter().map(|((stage, seed), bar)| (self.name(stage, *seed), bar)).collect()
    }

    /// The final message of a run, line by line, with the time if the lines before have it.
    pub fn say_last(&self, text: &str) {
        match self.drawn {
            true => output::error(text),
            false => text.lines().for_each(|line| output::log_line(line, false)),
        }
    }

    /// Removes everything that is drawn.
    pub fn close(&mut self) {
        self.screen.finish_and_clear();
    }

    /// Each running stage with a checkpoint, as text.
    pub fn checkpoints(&self) -> Vec<String> {
        let of = |((name, seed), stage): (&(String, u64), &StageBar)| {
            Some(format!("{} at step {} of {}", self.name(name, *seed), stage.checkpoint?, stage.steps))
        };
        self.stages.iter().filter_map(of).collect()
    }

    /// The number of stages whose results are in the store, including those that the run has not reached.
    pub fn stored(&self) -> u32 {
        self.finished + self.kept.max(self.found)
    }

    /// Whether some stage is not finished, as far as is known: their number is only known after data and
    /// models are read.
    pub fn to_come(&self) -> bool {
        self.tasks == 0 || self.finished + self.kept < self.tasks
    }

    /// The running stages, in the order in which they began.
    pub fn at_work(&self) -> Vec<ActiveStage> {
        let mut running: Vec<_> = self.stages.iter().collect();
        running.sort_by_key(|(_, stage)| stage.order);
        let of = |((name, seed), stage): (&(String, u64), &StageBar)| ActiveStage {
            stage: name.clone(),
            seed: self.seeds.then_some(*seed),
            step: stage.step,
            steps: stage.steps,
        };
        running.into_iter().map(of).collect()
    }

    fn name(&self, stage: &str, seed: u64) -> String {
        name(stage, seed, self.seeds)
    }

    /// Replaces a stage's bar by a permanent line.
    fn settle(&mut self, stage: &str, seed: u64, what: &str) {
        self.stages.remove(&(stage.to_owned(), seed));
        if self.drawn {
            // The log has its own lines for that.
            let line = format!("{:>1$} {what}", self.name(stage, seed), self.widest);
            self.screen.println(output::safe(&line, self.style));
        }
    }

    /// A line for each running stage, then one for the whole run.
    fn screen(&mut self) -> String {
        let mut lines: Vec<String> =
            self.in_order().into_iter().map(|(name, stage)| stage.line(&name, self.widest)).collect();
        let done = self.finished + self.kept;
        let elapsed = figures::duration(self.started.elapsed().as_secs_f64());
        lines.push(format!(
            "{:>4$} {} {done}/{} stages, {elapsed} so far{}",
            "all",
            bar(done, self.tasks),
            self.tasks,
            if self.predicting { ", measuring what they take" } else { "" },
            self.widest,
        ));
        // Never fewer lines than before: a shrinking screen leaves its last line behind.
        self.tallest = self.tallest.max(lines.len());
        lines.resize(self.tallest, String::new());
        lines.join("\n")
    }
}

impl StageBar {
    /// Steps per second since it began or resumed, and the remaining seconds; `None` before its first step.
    fn pace(&self) -> Option<(f64, f64)> {
        let done = self.step.checked_sub(self.first).filter(|done| *done > 0)?;
        let rate = f64::from(done) / self.started.elapsed().max(Duration::from_millis(1)).as_secs_f64();
        Some((rate, f64::from(self.steps.saturating_sub(self.step)) / rate))
    }

    /// `width` is the number of columns for its name.
    fn line(&self, name: &str, width: usize) -> String {
        if self.steps == 0 {
            // A merge has no steps.
            return format!(
                "{name:>width$} {} so far",
                figures::duration(self.started.elapsed().as_secs_f64())
            );
        }
        let StageBar { step, steps, metric, .. } = self;
        let (rate, left) = match self.pace() {
            Some((rate, left)) => (rate, format!("{left:.0}s")),
            None => (0.0, "?".to_owned()),
        };
        format!("{name:>width$} {} {step}/{steps} {rate:.1}/s {left} left  {metric}", bar(*step, *steps))
    }
}

fn name(stage: &str, seed: u64, seeds: bool) -> String {
    if seeds { format!("{stage} (seed {seed})") } else { stage.to_owned() }
}

fn bar(done: u32, of: u32) -> String {
    let width = u64::from(WIDTH);
    // In u64: `done` may be any u32.
    let full = (u64::from(done) * width).checked_div(u64::from(of)).unwrap_or(0).min(width) as usize;
    format!("{}{}", "━".repeat(full), "╌".repeat(WIDTH as usize - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_shows_step_rate_time_left_and_its_metric() {
        let started = Instant::now() - Duration::from_secs(10);
        let stage = StageBar {
            order: 1,
            started,
            first: 0,
            step: 25,
            steps: 100,
            checkpoint: None,
            metric: "reward 0.500".to_owned(),
        };
        let line = stage.line("expert[sort]", 24);
        let bar = "━".repeat(6) + &"╌".repeat(18);
        assert_eq!(line, format!("            expert[sort] {bar} 25/100 2.5/s 30s left  reward 0.500"));
        assert_eq!(
            stage.words("expert[sort]"),
            "expert[sort]: step 25 of 100, 2.50 steps/s, 30.0 s left, reward 0.500"
        );
        let resumed = StageBar { first: 20, checkpoint: Some(20), ..stage };
        assert_eq!(resumed.line("expert[sort]", 24), line.replace("2.5/s 30s", "0.5/s 150s"));
        assert_eq!(
            resumed.words("expert[sort]"),
            "expert[sort]: step 25 of 100, 0.50 steps/s, 2 min 30 s left, reward 0.500, checkpoint at step 20"
        );
        let begun = StageBar { step: 20, metric: String::new(), ..resumed };
        assert_eq!(
            begun.words("expert[sort]"),
            "expert[sort]: step 20 of 100, 10.0 s so far, checkpoint at step 20"
        );
    }

    #[test]
    fn bars_hold_at_both_ends() {
        assert_eq!([bar(0, 0), bar(0, 3)], ["╌".repeat(24), "╌".repeat(24)]);
        assert_eq!([bar(3, 3), bar(9, 3)], ["━".repeat(24), "━".repeat(24)]);
        assert_eq!(bar(u32::MAX / 2 + 1, u32::MAX), "━".repeat(12) + &"╌".repeat(12));
    }
}
