//! Schedules: numbers over training time.

use serde::{Deserialize, Serialize};

use crate::checked::formula::text;

/// The time that a schedule takes from one end to the other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleLength {
    Run,
    Steps(u32),
    /// A share of the run.
    Share(f64),
}

impl ScheduleLength {
    fn fraction(self, step: u32, steps: u32) -> f64 {
        let length = match self {
            ScheduleLength::Run => f64::from(steps),
            ScheduleLength::Steps(steps) => f64::from(steps),
            ScheduleLength::Share(share) => share * f64::from(steps),
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
    /// From `from` to `to`, then constant.
    Linear {
        from: f64,
        to: f64,
        over: ScheduleLength,
    },
    /// Half a cosine from `from` to `to`, then constant.
    Cosine {
        from: f64,
        to: f64,
        over: ScheduleLength,
    },
    /// from * (to / from)^fraction: the same factor every step. Both are positive.
    Exponential {
        from: f64,
        to: f64,
        over: ScheduleLength,
    },
    /// `(step, value)`: each value holds from its step on. The first step is 0, steps rise.
    Piecewise {
        pieces: Vec<(u32, f64)>,
    },
    /// Cycles through the values, each for `every` steps.
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

/// A temperature that logits are divided by: one number, or one for each step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Temperature {
    /// 0 is greedy.
    Constant(f64),
    /// All values are above 0.
    Scheduled(Box<Schedule>),
}

impl From<f64> for Temperature {
    fn from(value: f64) -> Temperature {
        Temperature::Constant(value)
    }
}

impl From<Schedule> for Temperature {
    fn from(schedule: Schedule) -> Temperature {
        match schedule {
            Schedule::Constant { value } => Temperature::Constant(value),
            schedule => Temperature::Scheduled(Box::new(schedule)),
        }
    }
}

impl Temperature {
    pub fn constant(&self) -> Option<f64> {
        match self {
            Temperature::Constant(value) => Some(*value),
            Temperature::Scheduled(_) => None,
        }
    }

    /// The schedule, if it changes during training.
    pub fn schedule(&self) -> Option<&Schedule> {
        match self {
            Temperature::Constant(_) => None,
            Temperature::Scheduled(schedule) => Some(schedule),
        }
    }

    pub fn is_one(&self) -> bool {
        self.constant() == Some(1.0)
    }

    pub fn at(&self, StageStep { step, steps }: StageStep) -> f64 {
        match self {
            Temperature::Constant(value) => *value,
            Temperature::Scheduled(schedule) => schedule.at(step, steps),
        }
    }
}

/// As it is written in an experiment.
impl std::fmt::Display for Temperature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&match self {
            Temperature::Constant(value) => text::number(*value),
            Temperature::Scheduled(schedule) => text::schedule(schedule),
        })
    }
}

/// A step of a stage: its number, from 0, and how many steps the stage has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageStep {
    pub step: u32,
    pub steps: u32,
}

impl StageStep {
    /// The fraction of the stage that came before.
    pub fn progress(self) -> f64 {
        f64::from(self.step) / f64::from(self.steps.max(1))
    }
}

impl Schedule {
    /// The values at the ends of its pieces, for a run of any length.
    pub fn ends(&self) -> Vec<f64> {
        match self {
            Schedule::Constant { value } => vec![*value],
            Schedule::Linear { from, to, .. }
            | Schedule::Cosine { from, to, .. }
            | Schedule::Exponential { from, to, .. } => {
                vec![*from, *to]
            }
            Schedule::Piecewise { pieces } => pieces.iter().map(|(_, value)| *value).collect(),
            Schedule::Alternate { values, .. } => values.clone(),
            Schedule::Warmup { then, .. } => then.ends(),
        }
    }

    /// Whether every value is whole. Between two numbers, others are passed.
    pub fn is_whole(&self) -> bool {
        match self {
            Schedule::Linear { from, to, .. }
            | Schedule::Cosine { from, to, .. }
            | Schedule::Exponential { from, to, .. } => from == to && from.fract() == 0.0,
            Schedule::Warmup { .. } => false,
            Schedule::Constant { .. } | Schedule::Piecewise { .. } | Schedule::Alternate { .. } => {
                self.ends().iter().all(|value| value.fract() == 0.0)
            }
        }
    }

    /// The value at `step` (from 0) of a run of `steps` steps.
    pub fn at(&self, step: u32, steps: u32) -> f64 {
        match self {
            Schedule::Constant { value } => *value,
            Schedule::Linear { from, to, over } => from + (to - from) * over.fraction(step, steps),
            Schedule::Cosine { from, to, over } => {
                to + (from - to) * 0.5 * (1.0 + libm::cos(std::f64::consts::PI * over.fraction(step, steps)))
            }
            Schedule::Exponential { from, to, over } => {
                from * libm::pow(to / from, over.fraction(step, steps))
            }
            Schedule::Piecewise { pieces } => pieces
                .iter()
                .rev()
                .find(|(start, _)| *start <= step)
                .or(pieces.first())
                .map_or(f64::NAN, |(_, value)| *value),
            Schedule::Alternate { values, every } => values[(step / every) as usize % values.len()],
            Schedule::Warmup { steps: warmup, then } => {
                if step < *warmup {
                    then.at(0, steps.saturating_sub(*warmup)) * (f64::from(step) + 1.0)
                        / (f64::from(*warmup) + 1.0)
                } else {
                    then.at(step - warmup, steps.saturating_sub(*warmup))
                }
            }
        }
    }

    /// The steps of a run at which the schedule changes from one piece to the next, or ends.
    pub fn turns(&self, steps: u32) -> Vec<u32> {
        match self {
            Schedule::Constant { .. } => Vec::new(),
            Schedule::Linear { over, .. }
            | Schedule::Cosine { over, .. }
            | Schedule::Exponential { over, .. } => match over {
                ScheduleLength::Run => Vec::new(),
                ScheduleLength::Steps(end) => vec![*end],
                ScheduleLength::Share(share) => vec![(share * f64::from(steps)) as u32],
            },
            Schedule::Piecewise { pieces } => pieces.iter().map(|(start, _)| *start).collect(),
            Schedule::Alternate { values, every } => {
                (1..=values.len() as u32).map(|turn| every.saturating_mul(turn)).collect()
            }
            Schedule::Warmup { steps: warmup, then } => {
                let later = then
                    .turns(steps.saturating_sub(*warmup))
                    .into_iter()
                    .map(|turn| turn.saturating_add(*warmup));
                later.chain([*warmup]).collect()
            }
        }
    }

    /// The number of steps that a run must exceed to reach the end of the schedule. `None` if a run of
    /// `steps` steps reaches it.
    pub fn unreached(&self, steps: u32) -> Option<u32> {
        let beyond = |step: u32| (step >= steps).then_some(step);
        match self {
            Schedule::Constant { .. } => None,
            // Over 100 steps, the last value is that of step 100, which a run of 100 steps need not reach.
            Schedule::Linear { over, .. }
            | Schedule::Cosine { over, .. }
            | Schedule::Exponential { over, .. } => match over {
                ScheduleLength::Steps(end) => (*end > steps).then_some(*end),
                ScheduleLength::Run | ScheduleLength::Share(_) => None,
            },
            Schedule::Piecewise { pieces } => pieces.last().and_then(|(start, _)| beyond(*start)),
            Schedule::Alternate { values, every } => {
                let last = (values.len() as u32).saturating_sub(1);
                beyond(every.saturating_mul(last)).filter(|_| last > 0)
            }
            Schedule::Warmup { steps: warmup, then } => {
                let later =
                    then.unreached(steps.saturating_sub(*warmup)).map(|step| step.saturating_add(*warmup));
                beyond(*warmup).or(later)
            }
        }
    }

    /// The number of warm-ups at its head.
    pub fn warmups(&self) -> usize {
        let mut schedule = self;
        let mut found = 0;
        while let Schedule::Warmup { then, .. } = schedule {
            (schedule, found) = (then, found + 1);
        }
        found
    }

    /// Bounds of the values from step `first` to step `last`, both included, of a run of `steps` steps: an
    /// interval that may be slightly too wide. The time does not grow with the length of the run.
    pub fn bounds(&self, first: u32, last: u32, steps: u32) -> (f64, f64) {
        let span = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value), high.max(value))
            })
        };
        match self {
            // Each is monotonic.
            Schedule::Constant { .. }
            | Schedule::Linear { .. }
            | Schedule::Cosine { .. }
            | Schedule::Exponential { .. } => {
                span(&mut [first, last].into_iter().map(|step| self.at(step, steps)))
            }
            Schedule::Piecewise { pieces } => {
                let later = pieces
                    .iter()
                    .filter(|(start, _)| (first..=last).contains(start))
                    .map(|(_, value)| *value);
                span(&mut later.chain([self.at(first, steps)]))
            }
            Schedule::Alternate { values, every } => {
                let pieces = (first / every..=last / every).take(values.len());
                span(&mut pieces.map(|piece| values[piece as usize % values.len()]))
            }
            Schedule::Warmup { steps: warmup, then } => {
                let rising = first..last.saturating_add(1).min(*warmup);
                let rises = (!rising.is_empty())
                    .then(|| [rising.start, rising.end - 1].map(|step| self.at(step, steps)));
                let after = (last >= *warmup).then(|| {
                    let (low, high) = then.bounds(
                        first.saturating_sub(*warmup),
                        last - warmup,
                        steps.saturating_sub(*warmup),
                    );
                    [low, high]
                });
                span(&mut rises.into_iter().chain(after).flatten())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Learning rates have the same bits on every machine, as formulas have.
    #[test]
    fn schedules_use_no_function_of_the_system() {
        let cosine = Schedule::Cosine { from: 2.0, to: 0.0, over: ScheduleLength::Run };
        let exponential = Schedule::Exponential { from: 1.0, to: 1e-5, over: ScheduleLength::Run };
        let mut differing = 0;
        for step in 0..1000 {
            let fraction = ScheduleLength::Run.fraction(step, 1000);
            let turned = std::f64::consts::PI * fraction;
            assert_eq!(cosine.at(step, 1000).to_bits(), (1.0 + libm::cos(turned)).to_bits(), "step {step}");
            assert_eq!(
                exponential.at(step, 1000).to_bits(),
                libm::pow(1e-5, fraction).to_bits(),
                "step {step}"
            );
            differing += usize::from(libm::pow(1e-5, fraction).to_bits() != 1e-5f64.powf(fraction).to_bits());
            differing += usize::from(libm::cos(turned).to_bits() != turned.cos().to_bits());
        }
        assert!(differing > 0, "a call of the system's functions would not show");
    }

    #[test]
    fn bounds_hold_for_every_piece_of_a_run() {
        let warm = |then: Schedule| Schedule::Warmup { steps: 7, then: Box::new(then) };
        let schedules = [
            Schedule::Constant { value: 2.0 },
            Schedule::Linear { from: 1.0, to: -3.0, over: ScheduleLength::Run },
            Schedule::Cosine { from: 1e-3, to: 1e-5, over: ScheduleLength::Share(0.5) },
            Schedule::Exponential { from: 1e-5, to: 1.0, over: ScheduleLength::Steps(20) },
            Schedule::Piecewise { pieces: vec![(0, 1.0), (5, -2.0), (9, 4.0)] },
            Schedule::Alternate { values: vec![1.0, 5.0, -1.0], every: 3 },
            warm(Schedule::Linear { from: 1.0, to: 0.0, over: ScheduleLength::Run }),
            warm(warm(Schedule::Alternate { values: vec![3.0, -5.0], every: 2 })),
        ];
        for schedule in schedules {
            for steps in [1, 6, 8, 40] {
                for first in 0..steps {
                    for last in first..steps {
                        let values: Vec<f64> = (first..=last).map(|step| schedule.at(step, steps)).collect();
                        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
                        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                        assert_eq!(
                            schedule.bounds(first, last, steps),
                            (low, high),
                            "{schedule:?}: {first}..={last} of {steps}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_schedule_may_need_more_steps_than_a_run_has() {
        let linear = |over: ScheduleLength| Schedule::Linear { from: 1.0, to: 0.0, over };
        let warm = |steps: u32, then: Schedule| Schedule::Warmup { steps, then: Box::new(then) };
        for (schedule, needed) in [
            (linear(ScheduleLength::Run), None),
            (linear(ScheduleLength::Share(1.0)), None),
            (linear(ScheduleLength::Steps(10)), None),
            (linear(ScheduleLength::Steps(11)), Some(11)),
            (warm(9, linear(ScheduleLength::Run)), None),
            (warm(10, linear(ScheduleLength::Run)), Some(10)),
            (warm(4, linear(ScheduleLength::Steps(7))), Some(11)),
            (Schedule::Piecewise { pieces: vec![(0, 1.0), (9, 2.0)] }, None),
            (Schedule::Piecewise { pieces: vec![(0, 1.0), (10, 2.0)] }, Some(10)),
            (Schedule::Alternate { values: vec![1.0, 2.0], every: 9 }, None),
            (Schedule::Alternate { values: vec![1.0, 2.0], every: 10 }, Some(10)),
            (Schedule::Alternate { values: vec![1.0], every: 20 }, None),
        ] {
            assert_eq!(schedule.unreached(10), needed, "{schedule:?}");
        }
    }

    #[test]
    fn the_largest_numbers_that_fit_are_no_panic() {
        let largest = u32::MAX;
        let schedule = Schedule::Warmup { steps: largest, then: Box::new(Schedule::Constant { value: 1.0 }) };
        assert!(schedule.at(largest, largest) <= 1.0 && schedule.at(largest - 1, largest) <= 1.0);
        assert_eq!(schedule.bounds(0, largest, largest).1, 1.0);
    }
}
