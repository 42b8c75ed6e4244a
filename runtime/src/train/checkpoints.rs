//! Checkpoints of a stage: where it resumes from, and when its state is written between steps.

use std::time::{Duration, Instant};

use super::batches::RolloutCache;
use super::learners::LearnersPosition;
use super::scoring::ScoreCache;
use super::trainer::RestoreMode;
use crate::control::Control;
use crate::failure::Result;
use crate::store::state::TrainState;

/// The state that a stage resumes from, its caches, and where its checkpoints go.
pub struct Checkpoints<'a> {
    pub from: Option<(TrainState, RestoreMode)>,
    pub rollouts: Option<RolloutCache<'a>>,
    pub scores: Option<ScoreCache<'a>>,
    pub pace: Pace,
    /// Makes a state durable. Where that fails, training goes on.
    pub keep: &'a dyn Fn(&TrainState) -> Result<()>,
}

/// How often a checkpoint is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    Every(Duration),
    /// Every minute, or less often where writing would take more than a fiftieth of the time.
    Sparing,
}

impl Pace {
    /// Whether a checkpoint is due, `since` the last one, whose writing took `took`.
    fn due(self, since: Duration, took: Duration) -> bool {
        match self {
            Pace::Every(interval) => since >= interval,
            Pace::Sparing => since >= Duration::from_secs(60).max(took.saturating_mul(50)),
        }
    }
}

/// When a checkpoint is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteWhen {
    /// Regardless of the pace: training stops here.
    Now,
    /// If one is due by the pace.
    Due,
}

/// Writes the checkpoints of one stage.
pub(super) struct CheckpointWriter<'a> {
    pace: Pace,
    keep: &'a dyn Fn(&TrainState) -> Result<()>,
    /// The position of the last durable state, or the first position.
    kept: LearnersPosition,
    /// When the last checkpoint was written, and how long that took.
    last: Instant,
    took: Duration,
    /// Whether writing the last one failed and a warning was given.
    failed: bool,
}

impl<'a> CheckpointWriter<'a> {
    pub fn new(checkpoints: &Checkpoints<'a>, first: LearnersPosition) -> CheckpointWriter<'a> {
        let Checkpoints { pace, keep, .. } = *checkpoints;
        CheckpointWriter {
            pace,
            keep,
            kept: first,
            last: Instant::now(),
            took: Duration::ZERO,
            failed: false,
        }
    }

    pub fn wants(&self, position: LearnersPosition, when: WriteWhen) -> bool {
        let due = || self.pace.due(self.last.elapsed(), self.took);
        position != self.kept && (when == WriteWhen::Now || due())
    }

    /// `begun` is when putting the state together began.
    pub fn write(
        &mut self,
        stage: &str,
        state: &TrainState,
        begun: Instant,
        when: WriteWhen,
        control: &Control,
    ) {
        let position = LearnersPosition::from_state(state);
        match (self.keep)(state) {
            Ok(()) => (self.kept, self.failed) = (position, false),
            // A disk that stays full gives one warning, and another when training stops and loses steps.
            Err(error) if when == WriteWhen::Now || !self.failed => {
                self.failed = true;
                let next = match when {
                    WriteWhen::Now => "so the next run resumes from an earlier one",
                    WriteWhen::Due => "training goes on",
                };
                let step = position.step;
                control.warn(format!("no checkpoint of `{stage}` at step {step}, {next}: {error}"));
            }
            Err(_) => {}
        }
        (self.took, self.last) = (begun.elapsed(), Instant::now());
    }
}
