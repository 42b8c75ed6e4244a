//! What a trial took, and how it carries on to what was not tried.

use mopd_compiler::plan::events::TimeRange;

/// Where a thread waits for a core for so much of the time, others keep it busy.
const BUSY: f64 = 0.1;
/// Times as long as alone that a stage may take beside a program that keeps a core busy: a thread that shares
/// its core has half of it, and all others wait for that thread. Ten stages on two cores took 2.3 to 3.0
/// times as long.
const BESIDE_OTHERS: f64 = 3.0;

/// What a trial took, or what one is expected to take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Taken {
    /// Seconds before the first step and after the last one.
    pub around: f64,
    /// Of one step, the fastest of each: rollouts, forward passes of all models, gradient and update.
    pub rollout: f64,
    pub scoring: f64,
    pub update: f64,
    /// Of whole steps: the fastest and the slowest that was tried.
    pub step: TimeRange,
    /// The part of the trial for which the thread that waited longest was ready and had no core.
    pub waited: f64,
    /// Most resident memory of this process, in bytes.
    pub memory: f64,
    /// What it held before.
    pub resting: f64,
}

impl Taken {
    fn zip(self, other: Taken, step: TimeRange, f: impl Fn(f64, f64) -> f64) -> Taken {
        Taken {
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

    pub fn plus(self, other: Taken) -> Taken {
        self.zip(other, self.step.plus(other.step), |a, b| a + b)
    }

    pub fn minus(self, other: Taken) -> Taken {
        let step =
            TimeRange { least: self.step.least - other.step.most, most: self.step.most - other.step.least };
        self.zip(other, step, |a, b| a - b)
    }

    /// `more` was measured one unit further; this is `units` further. What measured less only did so by
    /// chance.
    pub fn extrapolated(self, more: Taken, units: f64) -> Taken {
        // Beyond `more`, what this one took too long by makes the rest too short.
        let (low, high) =
            if units > 1.0 { (self.step.most, self.step.least) } else { (self.step.least, self.step.most) };
        let step = TimeRange {
            least: low + units * (more.step.least - low).max(0.0),
            most: high + units * (more.step.most - high).max(0.0),
        };
        self.zip(more, step, |a, b| a + units * (b - a).max(0.0))
    }

    /// Of the same steps tried twice: what disturbs a step only makes it longer.
    pub fn or(self, again: Taken) -> Taken {
        let step = TimeRange {
            least: self.step.least.min(again.step.least),
            most: self.step.most.max(again.step.most),
        };
        let memory = self.memory.max(again.memory);
        Taken { memory, ..self.zip(again, step, f64::min) }
    }

    /// Whether others kept cores busy.
    pub fn on_busy_cores(&self) -> bool {
        self.waited > BUSY
    }

    /// What a stage may take whose steps should take so many seconds, and the rest of it so many.
    pub fn range(&self, stepping: f64, rest: f64) -> TimeRange {
        let steps = self.range_of_steps(stepping);
        // Whoever kept the cores busy may end, or keep them busier than in the trial.
        let alone = (steps.least + rest) * (1.0 - self.waited);
        let most = steps.most + rest;
        TimeRange {
            least: alone,
            most: if self.on_busy_cores() { most.max(BESIDE_OTHERS * alone) } else { most },
        }
    }

    /// By the fastest and the slowest that was tried.
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

    fn taken(memory: f64) -> Taken {
        let step = TimeRange { least: 2.0 * memory, most: 2.5 * memory };
        Taken {
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
    fn what_grows_is_extrapolated_and_what_shrank_by_chance_is_not() {
        let ten = taken(5.0).extrapolated(taken(7.0), 9.0);
        assert_eq!((ten.memory, ten.rollout, ten.scoring), (23.0, 46.0, 0.0));
        let shrank = taken(5.0).extrapolated(taken(4.0), 9.0);
        assert_eq!((shrank.memory, shrank.rollout), (5.0, 10.0));
        // A student of 3 layers and teachers of 2, where a layer of theirs takes 1 and one of its own 2.
        let (one, own, others) = (taken(5.0), taken(7.0), taken(6.0));
        let both = one.extrapolated(own, 2.0).plus(one.extrapolated(others, 1.0).minus(one));
        assert_eq!(both.memory, 10.0);
    }

    #[test]
    fn what_steps_differ_by_is_multiplied_like_steps() {
        // Of 4 to 5 seconds and 12 to 15: with half of the difference, and with twice of it.
        let (less, more) = (taken(2.0), taken(6.0));
        assert_eq!(less.extrapolated(more, 0.5).step, TimeRange { least: 8.0, most: 10.0 });
        assert_eq!(less.extrapolated(more, 2.0).step, TimeRange { least: 19.0, most: 26.0 });
        assert_eq!(more.minus(less).step, TimeRange { least: 7.0, most: 11.0 });
        // The rollout of 20 seconds takes 26 at most.
        let range = less.extrapolated(more, 2.0).range(100.0, 10.0);
        assert_eq!(range, TimeRange { least: 105.0, most: 140.0 });
        let still = Taken { rollout: 0.0, ..taken(0.0) };
        assert_eq!(still.range(3.0, 1.0), TimeRange { least: 4.0, most: 4.0 });
    }

    #[test]
    fn others_that_keep_cores_busy_may_end_or_take_more() {
        // Steps of 4 to 5 seconds, as they were.
        let quiet = Taken { waited: 0.0625, ..taken(2.0) };
        assert_eq!(quiet.range(4.0, 0.0), TimeRange { least: 3.75, most: 5.0 });
        let beside = Taken { waited: 0.25, ..taken(2.0) };
        assert_eq!(beside.range(4.0, 0.0), TimeRange { least: 3.0, most: BESIDE_OTHERS * 3.0 });
        // Busier than that is not made less.
        let most = Taken { waited: 0.75, ..taken(2.0) };
        assert_eq!(most.range(4.0, 0.0), TimeRange { least: 1.0, most: 5.0 });
    }

    #[test]
    fn of_two_trials_the_faster_counts_and_the_slower_is_in_the_range() {
        let both = Taken { waited: 0.5, ..taken(4.0) }.or(taken(3.0));
        assert_eq!((both.rollout, both.memory, both.waited), (6.0, 4.0, 0.5));
        assert_eq!(both.step, TimeRange { least: 6.0, most: 10.0 });
    }
}
