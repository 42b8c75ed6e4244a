//! The state of a run, from its events.

use std::collections::VecDeque;

use mopd_plan::events::Event;
use serde::Serialize;

use crate::output::printable;

/// The number of last steps that the pace is computed from.
const RECENT: usize = 20;

#[derive(Debug, Default, Serialize)]
pub struct LiveStatus {
    /// Stages, each once per seed.
    tasks: u32,
    done: u32,
    at_work: Vec<StageAtWork>,
    /// The means of the evaluations so far.
    scores: Vec<Score>,
    warnings: Vec<String>,
    /// Why the run ended before its end.
    ended: Option<String>,
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

impl LiveStatus {
    pub fn note(&mut self, event: &Event) {
        match event {
            Event::Ready { .. } => *self = LiveStatus::default(),
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
            Event::Failed(failure) => self.ended = Some(printable(&failure.message)),
            Event::Interrupted { .. } => self.ended = Some("interrupted".to_owned()),
            _ => {}
        }
    }

    fn find_stage(&mut self, stage: &str, seed: u64) -> Option<&mut StageAtWork> {
        self.at_work.iter_mut().find(|known| known.stage == stage && known.seed == seed)
    }

    fn gone(&mut self, stage: &str, seed: u64) {
        self.at_work.retain(|known| known.stage != stage || known.seed != seed);
    }
}
