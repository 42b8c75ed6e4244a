//! What a stage goes on from, and when its state is written down between steps.

use std::time::{Duration, Instant};

use super::learners::LearnersPosition;
use super::restore::RestoreMode;
use super::{RolloutCache, ScoreCache};
use crate::control::Control;
use crate::failure::Result;
use crate::store::state::TrainState;

/// What a stage goes on from, and where its state goes between steps.
pub struct Checkpoints<'a> {
    pub from: Option<(TrainState, RestoreMode)>,
    pub rollouts: Option<RolloutCache<'a>>,
    pub scores: Option<ScoreCache<'a>>,
    pub pace: Pace,
    /// Makes a state durable. Where that fails, training goes on.
    pub keep: &'a dyn Fn(&TrainState) -> Result<()>,
}

/// When a state is written down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    Every(Duration),
    /// Every minute, and less often where that would take more than a fiftieth of the time.
    Sparing,
}

impl Pace {
    /// `since` the last one, which took `took`.
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
    /// Whenever the last one was: training stops here.
    Now,
    /// If it is time by the pace.
    Due,
}

/// Writes the checkpoints of one stage.
pub(super) struct CheckpointWriter<'a> {
    pace: Pace,
    keep: &'a dyn Fn(&TrainState) -> Result<()>,
    /// Of the last state that is durable, or of the first.
    kept: LearnersPosition,
    /// When the last one was written, and how long that took.
    last: Instant,
    took: Duration,
    /// Whether the last one could not be written, which has been said.
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
        let position = LearnersPosition::of(state);
        match (self.keep)(state) {
            Ok(()) => (self.kept, self.failed) = (position, false),
            // A disk that stays full is said once, and again where it costs something.
            Err(error) if when == WriteWhen::Now || !self.failed => {
                self.failed = true;
                let next = match when {
                    WriteWhen::Now => "so the next run goes on from an earlier one",
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
