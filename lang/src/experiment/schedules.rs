//! Numbers over training time.

use serde::{Deserialize, Serialize};

/// How long a schedule takes to get from one end to the other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Over {
    Run,
    Steps(u32),
    /// A share of the run.
    Share(f64),
}

impl Over {
    fn fraction(self, step: u32, steps: u32) -> f64 {
        let length = match self {
            Over::Run => f64::from(steps),
            Over::Steps(steps) => f64::from(steps),
            Over::Share(share) => share * f64::from(steps),
        };
        (f64::from(step) / length.max(1.0)).min(1.0)
    }
}

/// A run-level number over training time. `progress` is step / steps, from 0 at the first step towards 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "shape", rename_all = "snake_case")]
pub enum Schedule {
    Constant {
        value: f64,
    },
    /// From `from` to `to`, `to` after that.
    Linear {
        from: f64,
        to: f64,
        over: Over,
    },
    /// Half a cosine from `from` to `to`, likewise.
    Cosine {
        from: f64,
        to: f64,
        over: Over,
    },
    /// from * (to / from)^fraction: the same factor every step. Both are positive.
    Exponential {
        from: f64,
        to: f64,
        over: Over,
    },
    /// `(step, value)`: each value holds from its step on. The first step is 0, steps rise.
    Piecewise {
        pieces: Vec<(u32, f64)>,
    },
    /// One value after the other, each for `every` steps, again and again.
    Alternate {
        values: Vec<f64>,
        every: u32,
    },
    /// Linear from 0 over `steps` steps, then `then`, whose own time starts there.
    Warmup {
        steps: u32,
        then: Box<Schedule>,
    },
}

impl Schedule {
    /// The values that it goes from, holds and goes to, however long the run is.
    pub fn ends(&self) -> Vec<f64> {
        match self {
            Schedule::Constant { value } => vec![*value],
            Schedule::Linear { from, to, .. } | Schedule::Cosine { from, to, .. } | Schedule::Exponential { from, to, .. } => {
                vec![*from, *to]
            }
            Schedule::Piecewise { pieces } => pieces.iter().map(|(_, value)| *value).collect(),
            Schedule::Alternate { values, .. } => values.clone(),
            Schedule::Warmup { then, .. } => then.ends(),
        }
    }

    /// The value at `step` (from 0) of a run of `steps` steps.
    pub fn at(&self, step: u32, steps: u32) -> f64 {
        match self {
            Schedule::Constant { value } => *value,
            Schedule::Linear { from, to, over } => from + (to - from) * over.fraction(step, steps),
            Schedule::Cosine { from, to, over } => {
                to + (from - to) * 0.5 * (1.0 + (std::f64::consts::PI * over.fraction(step, steps)).cos())
            }
            Schedule::Exponential { from, to, over } => from * (to / from).powf(over.fraction(step, steps)),
            Schedule::Piecewise { pieces } => {
                pieces.iter().rev().find(|(start, _)| *start <= step).or(pieces.first()).map_or(f64::NAN, |(_, value)| *value)
            }
            Schedule::Alternate { values, every } => values[(step / every) as usize % values.len()],
            Schedule::Warmup { steps: warmup, then } => {
                if step < *warmup {
                    then.at(0, steps.saturating_sub(*warmup)) * f64::from(step + 1) / f64::from(warmup + 1)
                } else {
                    then.at(step - warmup, steps.saturating_sub(*warmup))
                }
            }
        }
    }

    /// Smallest and largest value of a run of `steps` steps.
    pub fn range(&self, steps: u32) -> (f64, f64) {
        (0..steps.max(1))
            .map(|step| self.at(step, steps))
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
    }
}
