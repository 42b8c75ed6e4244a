//! Time and memory that a trial took, and their extrapolation to what was not tried.

use mopd_plan::events::TimeRange;

/// If a thread waits for a core for more than this fraction of the time, other programs keep cores busy.
const BUSY: f64 = 0.1;
/// The slowdown of a stage beside a program that keeps a core busy: a thread that shares its core has half of
/// it, and all other threads wait for that one. Ten stages on two cores took 2.3 to 3.0 times as long.
const BESIDE_OTHERS: f64 = 3.0;

/// The measured or expected time and memory of a trial.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrialMeasurement {
    /// Seconds before the first step and after the last one.
    pub around: f64,
    /// Seconds in one step, the fastest of each: rollouts, forward passes of all models, gradient and update.
    pub rollout: f64,
    pub scoring: f64,
    pub update: f64,
    /// Seconds of the fastest and the slowest step that was tried.
    pub step: TimeRange,
    /// The fraction of the trial for which the thread that waited longest was ready but had no core.
    pub waited: f64,
    /// Most resident memory of this process, in bytes.
    pub memory: f64,
    /// Resident memory before the trial, in bytes.
    pub resting: f64,
}

impl TrialMeasurement {
    fn zip(self, other: TrialMeasurement, step: TimeRange, f: impl Fn(f64, f64) -> f64) -> TrialMeasurement {
        TrialMeasurement {
            around: f(self.around, other.around),
            rollout: f(self.rollout, other.rollout),
            scoring: f(self.scoring, other.scoring),
            update: f(self.update, other.update),
            step,
            waited: self.waited.max(other.waited),
            memory: f(self.memory, other.memory),
            resting: f(self.resting, other.resting),
        }
    }

    pub fn plus(self, other: TrialMeasurement) -> TrialMeasurement {
        self.zip(other, self.step.plus(other.step), |a, b| a + b)
    }

    pub fn minus(self, other: TrialMeasurement) -> TrialMeasurement {
        let step =
            TimeRange { least: self.step.least - other.step.most, most: self.step.most - other.step.least };
        self.zip(other, step, |a, b| a - b)
    }

    /// Extrapolates by `units` units; `more` was measured one unit further. A value that decreased did so by
    /// chance and counts as constant.
    pub fn extrapolated(self, more: TrialMeasurement, units: f64) -> TrialMeasurement {
        // Beyond `more`, an overestimate of `self` makes the extrapolation too small.
        let (low, high) =
            if units > 1.0 { (self.step.most, self.step.least) } else { (self.step.least, self.step.most) };
        let step = TimeRange {
            least: low + units * (more.step.least - low).max(0.0),
            most: high + units * (more.step.most - high).max(0.0),
        };
        self.zip(more, step, |a, b| a + units * (b - a).max(0.0))
    }

    /// Combines two trials of the same steps, with the shorter times: a disturbance only makes a step longer.
    pub fn or(self, again: TrialMeasurement) -> TrialMeasurement {
        let step = TimeRange {
            least: self.step.least.min(again.step.least),
            most: self.step.most.max(again.step.most),
        };
        let memory = self.memory.max(again.memory);
        TrialMeasurement { memory, ..self.zip(again, step, f64::min) }
    }

    /// Whether other programs kept cores busy.
    pub fn on_busy_cores(&self) -> bool {
        self.waited > BUSY
    }

    /// The range of a stage's seconds, if its steps are expected to take `stepping` and the rest `rest`.
    pub fn range(&self, stepping: f64, rest: f64) -> TimeRange {
        let steps = self.range_of_steps(stepping);
        // Other programs may end, or keep the cores busier than in the trial.
        let alone = (steps.least + rest) * (1.0 - self.waited);
        let most = steps.most + rest;
        TimeRange {
            least: alone,
            most: if self.on_busy_cores() { most.max(BESIDE_OTHERS * alone) } else { most },
        }
    }

    /// Scales `seconds` by the fastest and the slowest step that was tried.
    fn range_of_steps(&self, seconds: f64) -> TimeRange {
        let step = self.rollout + self.scoring + self.update;
        if step <= 0.0 {
            return TimeRange { least: seconds, most: seconds };
        }
        TimeRange {
            least: seconds * (self.step.least / step).clamp(0.0, 1.0),
            most: seconds * (self.step.most / step).max(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(memory: f64) -> TrialMeasurement {
        let step = TimeRange { least: 2.0 * memory, most: 2.5 * memory };
        TrialMeasurement {
            around: 1.0,
            rollout: 2.0 * memory,
            scoring: 0.0,
            update: 0.0,
            step,
            waited: 0.0,
            memory,
            resting: 0.5,
        }
    }

    #[test]
    fn extrapolation_ignores_values_that_shrank_by_chance() {
        let ten = measured(5.0).extrapolated(measured(7.0), 9.0);
        assert_eq!((ten.memory, ten.rollout, ten.scoring), (23.0, 46.0, 0.0));
        let shrank = measured(5.0).extrapolated(measured(4.0), 9.0);
        assert_eq!((shrank.memory, shrank.rollout), (5.0, 10.0));
        // A student of 3 layers and teachers of 2: a layer of the teachers takes 1, of the student 2.
        let (one, own, others) = (measured(5.0), measured(7.0), measured(6.0));
        let both = one.extrapolated(own, 2.0).plus(one.extrapolated(others, 1.0).minus(one));
        assert_eq!(both.memory, 10.0);
    }

    #[test]
    fn extrapolation_scales_the_range_of_step_times() {
        // From steps of 4 to 5 seconds and of 12 to 15: plus half of the difference, and plus twice of it.
        let (less, more) = (measured(2.0), measured(6.0));
        assert_eq!(less.extrapolated(more, 0.5).step, TimeRange { least: 8.0, most: 10.0 });
        assert_eq!(less.extrapolated(more, 2.0).step, TimeRange { least: 19.0, most: 26.0 });
        assert_eq!(more.minus(less).step, TimeRange { least: 7.0, most: 11.0 });
        // The rollout of 20 seconds takes 26 at most.
        let range = less.extrapolated(more, 2.0).range(100.0, 10.0);
        assert_eq!(range, TimeRange { least: 105.0, most: 140.0 });
        let still = TrialMeasurement { rollout: 0.0, ..measured(0.0) };
        assert_eq!(still.range(3.0, 1.0), TimeRange { least: 4.0, most: 4.0 });
    }

    #[test]
    fn others_that_keep_cores_busy_may_end_or_take_more() {
        // Steps of 4 to 5 seconds, as they were.
        let quiet = TrialMeasurement { waited: 0.0625, ..measured(2.0) };
        assert_eq!(quiet.range(4.0, 0.0), TimeRange { least: 3.75, most: 5.0 });
        let beside = TrialMeasurement { waited: 0.25, ..measured(2.0) };
        assert_eq!(beside.range(4.0, 0.0), TimeRange { least: 3.0, most: BESIDE_OTHERS * 3.0 });
        // A trial on busier cores than that does not lower the upper end.
        let most = TrialMeasurement { waited: 0.75, ..measured(2.0) };
        assert_eq!(most.range(4.0, 0.0), TimeRange { least: 1.0, most: 5.0 });
    }

    #[test]
    fn combined_trials_take_the_faster_and_keep_the_range() {
        let both = TrialMeasurement { waited: 0.5, ..measured(4.0) }.or(measured(3.0));
        assert_eq!((both.rollout, both.memory, both.waited), (6.0, 4.0, 0.5));
        assert_eq!(both.step, TimeRange { least: 6.0, most: 10.0 });
    }
}
