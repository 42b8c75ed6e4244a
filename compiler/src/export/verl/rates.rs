//! Learning rates as verl's FSDP engine computes them.
//!
//! `_build_lr_scheduler` in `verl/workers/engine/fsdp/transformer_impl.py` has two schedules of
//! `verl/utils/torch_functional.py`: `constant` and `cosine`, both after a linear warm-up. It passes
//! `zero_indexed_step` to the cosine only, which asserts `0 <= min_lr_ratio <= 1`.

use mopd_lang::experiment::ScheduleLength;
use mopd_plan::{Schedule, StepFunction};

/// A learning rate in verl's settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VerlRate {
    pub lr: f64,
    pub kind: &'static str,
    pub warmup: i64,
    /// The rate at the end of the cosine, as a share of `lr`.
    pub least: f64,
    pub zero_indexed: bool,
}

/// # Errors
/// The reason why verl has no such schedule.
pub fn rate(of: &StepFunction) -> Result<VerlRate, &'static str> {
    let why = "verl's schedules are: constant, linear warm-up to a constant, and half a cosine over the run";
    let StepFunction::Schedule(schedule) = of else { return Err(why) };
    match schedule {
        Schedule::Constant { value } => {
            Ok(VerlRate { lr: *value, kind: "constant", warmup: -1, least: 0.0, zero_indexed: true })
        }
        Schedule::Cosine { from, to, over: ScheduleLength::Run } if *from > 0.0 => {
            if to > from {
                return Err(
                    "verl's cosine falls, since `min_lr_ratio` is at most 1: start at the higher rate",
                );
            }
            Ok(VerlRate { lr: *from, kind: "cosine", warmup: -1, least: to / from, zero_indexed: true })
        }
        // The factor of warm-up step s, from 0, is (s + 1) / (steps + 1). verl's starts at 0 unless it counts
        // from 1, which only its cosine can; with `min_lr_ratio` 1 that is a constant.
        Schedule::Warmup { steps, then } => match then.as_ref() {
            Schedule::Constant { value } => Ok(VerlRate {
                lr: *value,
                kind: "cosine",
                warmup: i64::from(*steps) + 1,
                least: 1.0,
                zero_indexed: false,
            }),
            _ => Err(why),
        },
        _ => Err(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: u32 = 6;

    /// `get_constant_schedule_with_warmup` and `get_cosine_schedule_with_warmup` of verl 0.9.1, as its FSDP
    /// engine calls them: without `zero_indexed_step` for the constant schedule.
    fn of_verl(rate: VerlRate, step: u32) -> f64 {
        let warmup = rate.warmup.max(0) as f64;
        let total = f64::from(STEPS);
        let factor = match rate.kind {
            "constant" if f64::from(step) < warmup => f64::from(step) / warmup.max(1.0),
            "constant" => 1.0,
            "cosine" => {
                assert!((0.0..=1.0).contains(&rate.least), "verl asserts it: {rate:?}");
                let at = f64::from(step) + if rate.zero_indexed { 0.0 } else { 1.0 };
                let progress = (at - warmup) / (total - warmup).max(1.0);
                let (scale, middle) = ((1.0 - rate.least) * 0.5, (1.0 + rate.least) * 0.5);
                if at < warmup {
                    at / warmup.max(1.0)
                } else {
                    rate.least.max(libm::cos(std::f64::consts::PI * progress) * scale + middle)
                }
            }
            other => panic!("verl raises NotImplementedError for {other}"),
        };
        rate.lr * factor
    }

    fn constant(value: f64) -> Schedule {
        Schedule::Constant { value }
    }

    fn cosine(from: f64, to: f64) -> Schedule {
        Schedule::Cosine { from, to, over: ScheduleLength::Run }
    }

    fn warmup(steps: u32, then: Schedule) -> Schedule {
        Schedule::Warmup { steps, then: Box::new(then) }
    }

    /// The rates that verl's own functions gave for exported settings over 6 steps (torch 2.11), in
    /// thousandths. They equal the rates of a run of mopd.
    #[test]
    fn a_rate_of_verl_is_that_of_a_run_at_every_step() {
        let table = [
            (constant(1e-3), [1.0; 6]),
            (warmup(0, constant(1e-3)), [1.0; 6]),
            (warmup(1, constant(1e-3)), [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
            (warmup(3, constant(1e-3)), [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]),
            (warmup(9, constant(1e-3)), [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
            (cosine(1e-3, 1e-4), [1.0, 0.9397114317029975, 0.775, 0.55, 0.325, 0.1602885682970026]),
            (cosine(1e-3, 0.0), [1.0, 0.9330127018922195, 0.75, 0.5, 0.25, 0.06698729810778065]),
            (cosine(1e-3, 5e-4), [1.0, 0.9665063509461097, 0.875, 0.75, 0.625, 0.5334936490538903]),
            (cosine(1e-3, 1e-3), [1.0; 6]),
        ];
        for (schedule, numbers) in table {
            let exported = rate(&StepFunction::Schedule(schedule.clone())).expect("verl has it");
            for (step, number) in (0..).zip(numbers) {
                let (run, verl) = (schedule.at(step, STEPS), of_verl(exported, step));
                for (whose, found) in [("mopd", run), ("verl", verl)] {
                    let close = (found * 1e3 - number).abs() < 1e-14;
                    assert!(
                        close,
                        "{whose}, {schedule:?}, step {step}: {found} and not {number} thousandths"
                    );
                }
            }
        }
    }

    #[test]
    fn a_schedule_that_verl_does_not_have_is_refused() {
        let rises =
            rate(&StepFunction::Schedule(cosine(1e-3, 2e-3))).expect_err("verl asserts that it falls");
        assert!(rises.contains("verl's cosine falls"), "{rises}");
        let part = Schedule::Cosine { from: 1e-3, to: 0.0, over: ScheduleLength::Share(0.5) };
        let linear = Schedule::Linear { from: 1e-3, to: 0.0, over: ScheduleLength::Run };
        // After a warm-up of W steps from 1, verl's cosine is at (s - W) / (steps - W - 1), and a run's is at
        // (s - W) / (steps - W).
        for schedule in [part, linear, cosine(0.0, 0.0), warmup(3, cosine(1e-3, 0.0))] {
            assert!(rate(&StepFunction::Schedule(schedule.clone())).is_err(), "{schedule:?}");
        }
    }
}
