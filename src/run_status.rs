//! The state of a run that is not finished, from its events.

use std::collections::VecDeque;
use std::path::Path;

use mopd_plan::events::{Event, Failure};
use serde::Serialize;

use crate::host::reason;
use crate::output::printable;
use crate::problem::Problem;
use crate::run_events::{EVENTS, EventsSoFar, FollowOutcome};

/// The number of last steps that the pace is computed from.
const RECENT: usize = 20;

/// The events of a run, as far as they were read.
#[derive(Default)]
pub struct FollowedEvents {
    pub so_far: EventsSoFar,
    pub status: RunStatus,
}

impl FollowedEvents {
    /// All events in the folder of a run.
    pub fn of(run: &Path) -> Result<FollowedEvents, Problem> {
        let mut events = FollowedEvents::default();
        events.follow(run)?;
        Ok(events)
    }

    /// Reads what was added since the last call. A run that begins again makes another file, which is read
    /// from its beginning.
    pub fn follow(&mut self, run: &Path) -> Result<(), Problem> {
        if self.read(run)? != FollowOutcome::Read && self.so_far.read > 0 {
            *self = FollowedEvents::default();
            self.read(run)?;
        }
        Ok(())
    }

    fn read(&mut self, run: &Path) -> Result<FollowOutcome, Problem> {
        let FollowedEvents { so_far, status } = self;
        so_far.follow(run, |event| status.note(event)).map_err(|error| {
            Problem::usage(
                "can't-read",
                format!("can't read {}: {}", run.join(EVENTS).display(), reason(&error)),
            )
        })
    }
}

#[derive(Debug, Default, Serialize)]
pub struct RunStatus {
    /// Stages, each once per seed.
    tasks: u32,
    done: u32,
    at_work: Vec<StageAtWork>,
    /// The means of the evaluations so far.
    scores: Vec<Score>,
    warnings: Vec<String>,
    /// Why the run ended before its end.
    pub ended: Option<String>,
    /// The same, if the run failed.
    #[serde(skip)]
    pub failure: Option<Failure>,
}

/// Where in a run: `student, seed 2, step 3`.
pub fn place_of(failure: &Failure) -> Option<String> {
    let seed = failure.seed.map(|seed| format!(", seed {seed}")).unwrap_or_default();
    let step = failure.step.map(|step| format!(", step {step}")).unwrap_or_default();
    Some(printable(&format!("{}{seed}{step}", failure.stage.as_ref()?)))
}

#[derive(Debug, PartialEq, Serialize)]
struct StageAtWork {
    stage: String,
    seed: u64,
    step: u32,
    steps: u32,
    metric: String,
    value: Option<f64>,
    /// Seconds per step, the mean of the last steps.
    seconds: Option<f64>,
    #[serde(skip)]
    recent: VecDeque<f64>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Score {
    /// The names of its tables; two tables may sample the same model in different ways.
    tables: Vec<String>,
    model: String,
    seed: u64,
    domain: String,
    score: f64,
}

impl RunStatus {
    pub fn note(&mut self, event: &Event) {
        match event {
            Event::Ready { .. } => *self = RunStatus::default(),
            Event::Started { tasks, .. } => self.tasks = *tasks,
            Event::StageStarted { stage, seed, steps } => {
                self.gone(stage, *seed);
                self.at_work.push(StageAtWork {
                    stage: stage.clone(),
                    seed: *seed,
                    step: 0,
                    steps: *steps,
                    metric: String::new(),
                    value: None,
                    seconds: None,
                    recent: VecDeque::new(),
                });
            }
            Event::StageResumed { stage, seed, step } => {
                if let Some(known) = self.find_stage(stage, *seed) {
                    known.step = *step;
                }
            }
            Event::Step { stage, seed, step, metric, value, seconds, .. } => {
                if let Some(known) = self.find_stage(stage, *seed) {
                    known.recent.push_back(seconds.sum());
                    if known.recent.len() > RECENT {
                        known.recent.pop_front();
                    }
                    known.seconds = Some(known.recent.iter().sum::<f64>() / known.recent.len() as f64);
                    (known.step, known.metric, known.value) = (*step, printable(metric), Some(*value));
                }
            }
            Event::StageKept { stage, seed } | Event::StageFinished { stage, seed, .. } => {
                self.gone(stage, *seed);
                self.done += 1;
            }
            Event::Evaluated { model, seed, domain, score, tables } => self.scores.push(Score {
                tables: tables.iter().map(|name| printable(name)).collect(),
                model: model.clone(),
                seed: *seed,
                domain: domain.clone(),
                score: *score,
            }),
            Event::Warning { message } => self.warnings.push(printable(message)),
            Event::Failed(failure) => {
                self.ended = Some(printable(&failure.message));
                self.failure = Some(failure.clone());
            }
            Event::Interrupted { .. } => self.ended = Some("interrupted".to_owned()),
            _ => {}
        }
    }

    /// The stages at work, with their steps: `student 12 of 160`. After a failure, its stage.
    pub fn stages(&self) -> String {
        if let Some(place) = self.failure.as_ref().and_then(place_of) {
            return place;
        }
        let stage = |at: &StageAtWork| match at.steps {
            0 => printable(&at.stage),
            steps => format!("{} {} of {steps}", printable(&at.stage), at.step),
        };
        self.at_work.iter().map(stage).collect::<Vec<_>>().join(", ")
    }

    fn find_stage(&mut self, stage: &str, seed: u64) -> Option<&mut StageAtWork> {
        self.at_work.iter_mut().find(|known| known.stage == stage && known.seed == seed)
    }

    fn gone(&mut self, stage: &str, seed: u64) {
        self.at_work.retain(|known| known.stage != stage || known.seed != seed);
    }
}
