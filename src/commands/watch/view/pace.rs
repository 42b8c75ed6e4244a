//! The speed of a stage, and the time that it will take.

use std::collections::VecDeque;

use mopd_plan::events::MetricsRow;

use crate::figures;

/// The number of last steps for a mean rate: enough to be steady, few enough to follow a change.
const RECENT: usize = 20;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct StagePace {
    /// Seconds and tokens of the last steps.
    recent: VecDeque<(f64, u64)>,
    /// Resident memory of the worker after the last step, in bytes.
    memory: Option<f64>,
}

impl StagePace {
    pub fn add(&mut self, seconds: f64, tokens: u64, rows: &[MetricsRow]) {
        self.recent.push_back((seconds, tokens));
        self.recent.drain(..self.recent.len().saturating_sub(RECENT));
        let memory = rows.iter().find_map(|row| row.get("memory")?.as_f64());
        self.memory = memory.or(self.memory);
    }

    /// The mean of the last steps; `None` before the first.
    pub fn seconds_per_step(&self) -> Option<f64> {
        let seconds: f64 = self.recent.iter().map(|(seconds, _)| seconds).sum();
        (seconds > 0.0).then(|| seconds / self.recent.len() as f64)
    }

    fn tokens_per_second(&self) -> Option<f64> {
        let tokens: u64 = self.recent.iter().map(|(_, tokens)| tokens).sum();
        Some(tokens as f64 / self.recent.len() as f64 / self.seconds_per_step()?)
    }

    /// `2.5 steps/s`, `1 200 tokens/s`
    pub fn rates(&self) -> Vec<String> {
        let steps = self.seconds_per_step().map(|seconds| match seconds {
            ..1.0 => format!("{:.1} steps/s", 1.0 / seconds),
            _ => format!("{seconds:.1} s/step"),
        });
        let tokens = self.tokens_per_second().filter(|rate| *rate > 0.0).map(|rate| match rate {
            ..10.0 => format!("{rate:.1} tokens/s"),
            _ => format!("{} tokens/s", figures::count(rate.round() as u64)),
        });
        [steps, tokens].into_iter().flatten().collect()
    }

    pub fn memory(&self) -> Option<String> {
        Some(figures::bytes(self.memory? as u64))
    }
}

/// The remaining time of running and waiting stages.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TimeLeft {
    pub seconds: f64,
    /// The number of stages that are not included: none of their steps has been timed.
    pub unknown: usize,
}

impl TimeLeft {
    /// `running` has the remaining seconds of each running stage, `waiting` those of each that has not begun.
    /// Assumes that as many stages run in parallel as now.
    pub fn estimate(running: &[Option<f64>], waiting: &[Option<f64>]) -> TimeLeft {
        let known = |stages: &[Option<f64>]| stages.iter().flatten().sum::<f64>();
        let longest = running.iter().flatten().copied().fold(0.0, f64::max);
        let shared = (known(running) + known(waiting)) / running.len().max(1) as f64;
        let unknown = running.iter().chain(waiting).filter(|seconds| seconds.is_none()).count();
        TimeLeft { seconds: shared.max(longest), unknown }
    }

    /// `2 min 10 s left`; empty if nothing is known.
    pub fn text(self) -> String {
        match self {
            TimeLeft { seconds: 0.0, .. } => String::new(),
            TimeLeft { seconds, unknown: 0 } => format!("{} left", figures::duration(seconds)),
            TimeLeft { seconds, .. } => format!("at least {} left", figures::duration(seconds)),
        }
    }
}
