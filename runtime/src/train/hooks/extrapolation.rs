//! Extrapolation of the weights along their change while a benchmark improves (arXiv:2605.11739).
//!
//! It follows the steps that the stage names. In single precision, a candidate is
//! `base + multiple * (weights - base)`: `base` are the weights after the last extrapolation, `weights` those
//! after the updates since. It does not start from the previous candidate, so rounding does not add up and
//! every candidate can be recomputed. Only weights change: the optimizer's moments, positions in the data
//! and copies of the student stay as the step left them.

use std::ops::Range;

use mopd_plan::Extrapolation;
use mopd_plan::events::FailureKind;
use tch::{Tensor, no_grad_guard};

use super::{SavedState, StepHook};
use crate::control::Control;
use crate::evaluate;
use crate::failure::{Error, Result};
use crate::model::Decoder;
use crate::prepare::DomainData;
use crate::random::Purpose;
use crate::report::Record;
use crate::rollout::MemoryBudget;
use crate::store::state::{HookNumbers, StateTensors};
use crate::train::master::Master;
use crate::train::objective::Losses;
use crate::train::stage::{Stage, StageKeys};
use crate::train::student::StudentWeights;

/// The name of the base among a checkpoint's tensors.
const BASE: &str = "extrapolated";

/// The extrapolation of one trained model.
pub struct Extrapolator<'a> {
    settings: &'a Extrapolation,
    judge: &'a DomainData,
    keys: StageKeys,
    budget: MemoryBudget,
    control: &'a Control,
    /// The ranges of the trained weights that are extrapolated.
    ranges: Vec<Range<usize>>,
    /// The weights in these ranges after the last extrapolation, at first those that the stage began with:
    /// concatenated, in single precision.
    base: Tensor,
    /// The number of steps before the last extrapolation.
    steps: u32,
}

/// The result of an extrapolation.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Accepted {
    /// The last accepted candidate; 0 stands for the unchanged weights.
    candidate: u32,
    /// Its score on the benchmark.
    score: f64,
}

/// `None` where the stage does not extrapolate. `student` has the weights that the stage begins with.
pub fn of_stage<'a>(stage: &'a Stage<'a>, student: &StudentWeights) -> Result<Option<Extrapolator<'a>>> {
    let Some((settings, judge)) = stage.train.extrapolation.as_ref().zip(stage.judge) else {
        return Ok(None);
    };
    let ranges = student.trained.ranges_of(&settings.weights);
    if ranges.is_empty() {
        let message = "no trained weight is in the groups that are extrapolated";
        return Err(Error::new(FailureKind::Runtime, message).help(
            "set `weights` of `extrapolate` to groups that are trained (see `train_only` and `freeze`)",
        ));
    }
    let base = selected(&student.parameters(), &ranges);
    let (keys, budget, control) = (stage.keys(), stage.budget, stage.control);
    Ok(Some(Extrapolator { settings, judge, keys, budget, control, ranges, base, steps: 0 }))
}

impl StepHook for Extrapolator<'_> {
    /// Extrapolates after `steps` steps, at most once.
    fn between_steps(&mut self, steps: u32, student: &StudentWeights, record: &mut Record) -> Result<()> {
        let Extrapolator { settings, judge, keys, budget, control, .. } = *self;
        // All candidates of a step answer the same prompts with the same random numbers.
        let key = keys.key(Purpose::Judge, u64::from(steps));
        self.extrapolate_by(student, steps, record, |model| {
            let evaluated = evaluate::answers(model, judge, &settings.evaluation, key, budget, control)?;
            Ok(evaluate::score(&evaluated.answers))
        })
    }

    fn save(&self, numbers: &mut HookNumbers, tensors: &mut StateTensors) {
        tensors.put(BASE, &self.base);
        numbers.extrapolated = self.steps;
    }

    /// Where a fork's state has no base of these ranges, the current weights become the base.
    fn restore(&mut self, state: &SavedState, _: &mut Losses) -> Result<(), String> {
        self.steps = state.numbers.extrapolated;
        let restored = state.tensors.restore(BASE, &self.base);
        if restored.is_err() && state.is_fork {
            (self.base, self.steps) = (selected(&state.student.parameters(), &self.ranges), state.steps);
            return Ok(());
        }
        restored
    }
}

impl Extrapolator<'_> {
    /// Extrapolates with `score` as the benchmark.
    pub fn extrapolate_by(
        &mut self,
        student: &StudentWeights,
        steps: u32,
        record: &mut Record,
        mut score: impl FnMut(&Decoder) -> Result<f64>,
    ) -> Result<()> {
        let settings = self.settings;
        if self.steps == steps || !settings.is_due(steps) {
            return Ok(());
        }
        let _guard = no_grad_guard();
        let StudentWeights { model, trained, .. } = student;
        let weights = student.parameters();
        let ranges = self.ranges.clone();
        let updated = selected(&weights, &ranges);
        let write = |numbers: &Tensor| {
            place(&weights, &ranges, numbers);
            trained.apply(model);
        };
        let Accepted { candidate, score } = self.run(&updated, write, || score(model))?;
        self.steps = steps;
        // The load of experts during evaluation belongs to no step's metrics.
        let _ = model.take_expert_load();
        let of_step = record.rows.iter_mut().rev().take_while(|row| row.step + 1 == steps);
        of_step.for_each(|row| {
            (row.extrapolated, row.judged) = (Some(settings.multiple(candidate)), Some(score));
        });
        Ok(())
    }

    /// Tries candidates and leaves the weights at the last accepted one, which is the next base. `place`
    /// writes values into the extrapolated ranges. If scoring fails, the weights are unchanged.
    fn run(
        &mut self,
        updated: &Tensor,
        mut place: impl FnMut(&Tensor),
        mut score: impl FnMut() -> Result<f64>,
    ) -> Result<Accepted> {
        let found = accepted(self.settings.rounds, |candidate| {
            if candidate > 0 {
                place(&self.candidate(updated, candidate));
            }
            score()
        });
        let kept = match &found {
            Ok(Accepted { candidate, .. }) if *candidate > 0 => self.candidate(updated, *candidate),
            _ => updated.shallow_clone(),
        };
        place(&kept);
        if found.is_ok() {
            self.base.copy_(&kept);
        }
        found
    }

    fn candidate(&self, updated: &Tensor, candidate: u32) -> Tensor {
        &self.base + (updated - &self.base) * self.settings.multiple(candidate)
    }
}

/// Scores the unchanged weights, then candidates while each is better than the previous one.
fn accepted(rounds: u32, mut score: impl FnMut(u32) -> Result<f64>) -> Result<Accepted> {
    let mut best = Accepted { candidate: 0, score: score(0)? };
    for candidate in 1..=rounds {
        let score = match score(candidate) {
            // Weights that are extrapolated too far may give values that are not finite: they are no better.
            Err(error) if error.is_non_finite() => break,
            score => score?,
        };
        if score <= best.score {
            break;
        }
        best = Accepted { candidate, score };
    }
    Ok(best)
}

/// A copy of the weights in some ranges, concatenated, in single precision.
fn selected(weights: &Master, ranges: &[Range<usize>]) -> Tensor {
    let _guard = no_grad_guard();
    let parts: Vec<Tensor> = ranges.iter().map(|range| weights.part(range.clone()).to_f32()).collect();
    // `cat` copies even a single part.
    Tensor::cat(&parts, 0)
}

fn place(weights: &Master, ranges: &[Range<usize>], numbers: &Tensor) {
    let mut from = 0;
    for range in ranges {
        weights.part(range.clone()).set(&numbers.narrow(0, from, range.len() as i64));
        from += range.len() as i64;
    }
}
