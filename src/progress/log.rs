//! The log of a run: its output where standard error is not a terminal. Every line has its time, so that it
//! can be read later. The end of a stage is reported at once, and the state of each running stage at every
//! interval: there is no longer silence.

use std::time::{Duration, Instant};

use chrono::SecondsFormat;
use mopd_plan::events::Event;

use super::StageBar;
use crate::clock;
use crate::figures;
use crate::output::counted;

pub struct Log {
    interval: Duration,
    /// When the running stages were last reported.
    told: Instant,
    /// The number of predictions and evaluations so far.
    predicted: u32,
    /// Totals of the predicted stages: the sum of seconds, and the largest memory in bytes.
    seconds: f64,
    memory: u64,
    evaluated: u32,
}

/// Numbers of stages: those that ran or were kept, those that began in this run, and all.
#[derive(Clone, Copy)]
pub struct StageCounts {
    pub done: u32,
    pub begun: u32,
    pub tasks: u32,
}

impl Log {
    pub fn every(seconds: f64) -> Log {
        Log {
            interval: Duration::from_secs_f64(seconds),
            told: Instant::now(),
            predicted: 0,
            seconds: 0.0,
            memory: 0,
            evaluated: 0,
        }
    }

    /// Whether it is time to report the running stages; restarts the interval if so.
    pub fn due(&mut self) -> bool {
        let due = self.told.elapsed() >= self.interval;
        if due {
            self.told = Instant::now();
        }
        due
    }

    /// The line for an event, if it is reported at once. `name` is the stage's.
    pub fn line(
        &mut self,
        event: &Event,
        name: impl Fn(&str, u64) -> String,
        counts: StageCounts,
    ) -> Option<String> {
        match event {
            Event::Ready { versions, device, threads } => Some(format!(
                "mopd {}, libtorch {}, {device}, {}; progress every {} s",
                versions.mopd,
                versions.libtorch,
                counted(*threads as usize, "thread"),
                figures::setting(self.interval.as_secs_f64())
            )),
            Event::Started { tasks, kept } => {
                Some(format!("{}, {kept} of them kept from before", counted(*tasks as usize, "stage")))
            }
            Event::StageResumed { stage, seed, step } => {
                Some(format!("{}: resumes at step {step}", name(stage, *seed)))
            }
            Event::StageFinished { stage, seed, seconds, .. } => Some(format!(
                "{}: finished in {}; {} of {} done",
                name(stage, *seed),
                figures::duration(*seconds),
                counts.done,
                counted(counts.tasks as usize, "stage"),
            )),
            Event::Predicted { prediction, .. } => {
                self.predicted += 1;
                self.seconds += prediction.seconds;
                self.memory = self.memory.max(prediction.memory);
                None
            }
            Event::PredictionEnded { seconds, short, late } => {
                let predicted = self.predicted > 0;
                let trials = predicted.then(|| {
                    let what = counted(self.predicted as usize, "stage");
                    let took = figures::duration(*seconds);
                    let (all, most) = (figures::duration(self.seconds), figures::bytes(self.memory));
                    // How many will run in parallel is not known yet.
                    let found = match self.predicted {
                        1 => format!("about {all}, {most}"),
                        _ => format!("about {all} one after another, at most {most} in one"),
                    };
                    format!("time and memory of {what} predicted in {took}: {found}")
                });
                let all: Vec<String> =
                    trials.into_iter().chain(figures::left_out(*seconds, *short, *late)).collect();
                (!all.is_empty()).then(|| all.join("; "))
            }
            Event::Evaluated { .. } => {
                self.evaluated += 1;
                None
            }
            _ => None,
        }
    }

    /// A description of the work while no stage is running.
    pub fn between(&self, counts: StageCounts) -> String {
        let StageCounts { done, begun, tasks } = counts;
        if tasks == 0 {
            "reading data and models, asking rewards once".to_owned()
        } else if done >= tasks {
            format!("evaluating: {} so far", counted(self.evaluated as usize, "score"))
        } else if begun == 0 {
            format!("predicting time and memory: {} so far", counted(self.predicted as usize, "stage"))
        } else {
            format!("no stage at work; {done} of {} done", counted(tasks as usize, "stage"))
        }
    }
}

impl StageBar {
    /// The state of the stage as text.
    pub(super) fn words(&self, name: &str) -> String {
        let elapsed = figures::duration(self.started.elapsed().as_secs_f64());
        if self.steps == 0 {
            return format!("{name}: {elapsed} so far");
        }
        let mut words = format!("{name}: step {} of {}", self.step, self.steps);
        match self.pace() {
            Some((rate, left)) => {
                words += &format!(", {rate:.2} steps/s, {} left, {}", figures::duration(left), self.metric);
            }
            None => words += &format!(", {elapsed} so far"),
        }
        if let Some(checkpoint) = self.checkpoint {
            words += &format!(", checkpoint at step {checkpoint}");
        }
        words
    }
}

/// `2026-11-23T14:57:50.125Z`
pub fn utc() -> String {
    clock::utc(std::time::SystemTime::now()).to_rfc3339_opts(SecondsFormat::Millis, true)
}
