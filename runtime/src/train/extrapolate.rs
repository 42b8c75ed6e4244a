//! Weights that go on in the direction of their change while a benchmark improves (arXiv:2605.11739).
//!
//! It comes after the steps that it is asked for, before the next one begins. A candidate is computed in
//! single precision as `base + multiple * (weights - base)`: from where the last extrapolation left the
//! weights and what the updates since then made of them, not from the candidate before it, so that rounding
//! does not add up and every candidate can be made again. Only weights move: the optimizer's moments, the
//! places in the data and copies of the student are as the step left them.

use std::ops::Range;

use mopd_compiler::plan::events::FailureKind;
use mopd_compiler::plan::{Extrapolation, Objective, Train};
use tch::{Tensor, no_grad_guard};

use super::Trainer;
use super::master::Master;
use super::trained::Trained;
use crate::evaluate;
use crate::failure::{Error, Result};
use crate::model::Decoder;
use crate::prepare::DomainData;
use crate::random::Purpose;
use crate::report::Record;
use crate::store::state::StateTensors;

/// The name of the base among a checkpoint's tensors.
const BASE: &str = "extrapolated";

/// Of a stage that extrapolates.
pub struct Extrapolator<'a> {
    settings: &'a Extrapolation,
    judge: &'a DomainData,
    /// What is moved of the weights that are trained.
    ranges: Vec<Range<usize>>,
    /// These where the last extrapolation left them, at first where the stage began: end to end, in single
    /// precision.
    base: Tensor,
    /// The steps that were done at the last one.
    pub steps: u32,
}

/// What became of the candidates of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Accepted {
    /// The last one that was accepted; 0 are the weights as they were.
    candidate: u32,
    /// What the benchmark says of it.
    score: f64,
}

impl<'a> Extrapolator<'a> {
    /// None where the stage does not extrapolate. `model` is as the stage begins.
    pub fn new(
        train: &'a Train<Objective>,
        judge: Option<&'a DomainData>,
        (trained, model): (&Trained, &Decoder),
    ) -> Result<Option<Extrapolator<'a>>> {
        let Some((settings, judge)) = train.extrapolation.as_ref().zip(judge) else { return Ok(None) };
        let ranges = trained.ranges_of(&settings.weights);
        if ranges.is_empty() {
            let message = "none of the weights that are trained is among those that are extrapolated";
            return Err(Error::new(FailureKind::Runtime, message)
                .help("`weights` of `extrapolate` names groups that `train_only` and `freeze` leave"));
        }
        let base = selected(&trained.parameters(model).0, &ranges);
        Ok(Some(Extrapolator { settings, judge, ranges, base, steps: 0 }))
    }

    pub fn state(&self, tensors: &mut StateTensors) {
        tensors.put(BASE, &self.base);
    }

    pub fn restore(&mut self, tensors: &StateTensors, steps: u32) -> Result<(), String> {
        tensors.restore(BASE, &self.base)?;
        self.steps = steps;
        Ok(())
    }

    /// Of the state of another stage after `done` steps: where that has no base of these weights, they begin
    /// here.
    pub fn fork(&mut self, tensors: &StateTensors, steps: u32, done: u32, weights: &Master) {
        if self.restore(tensors, steps).is_err() {
            (self.base, self.steps) = (selected(weights, &self.ranges), done);
        }
    }

    /// Tries candidates, leaves the weights at the last one that is accepted, and goes on from there next
    /// time. `place` writes numbers where they are moved; where a score fails, the weights are as they were.
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

/// Scores the weights as they are, then candidates while each is better than the one before.
fn accepted(rounds: u32, mut score: impl FnMut(u32) -> Result<f64>) -> Result<Accepted> {
    let mut best = Accepted { candidate: 0, score: score(0)? };
    for candidate in 1..=rounds {
        let score = match score(candidate) {
            // A step that is too long may leave the numbers that there are: such weights are no better.
            Err(Error::Failed(failure)) if failure.kind == FailureKind::NonFinite => break,
            score => score?,
        };
        if score <= best.score {
            break;
        }
        best = Accepted { candidate, score };
    }
    Ok(best)
}

/// Copies.
fn selected(weights: &Master, ranges: &[Range<usize>]) -> Tensor {
    let _guard = no_grad_guard();
    let parts: Vec<Tensor> = ranges.iter().map(|range| weights.part(range.clone()).to_f32()).collect();
    // Of a single part, the same as it is: a copy in any case.
    Tensor::cat(&parts, 0)
}

fn place(weights: &Master, ranges: &[Range<usize>], numbers: &Tensor) {
    let mut from = 0;
    for range in ranges {
        weights.part(range.clone()).set(&numbers.narrow(0, from, range.len() as i64));
        from += range.len() as i64;
    }
}

impl Trainer<'_> {
    /// After so many steps, once. Asked to stop meanwhile, it leaves everything as the step did.
    pub(super) fn extrapolate(&mut self, steps: u32, record: &mut Record) -> Result<()> {
        let stage = self.stage;
        let Some(Extrapolator { settings, judge, .. }) = self.extrapolator else { return Ok(()) };
        // All candidates of a step answer the same prompts with the same luck.
        let key = stage.key(Purpose::Judge, u64::from(steps));
        self.extrapolate_by(steps, record, |model| {
            let by = (key, stage.budget);
            let answers = evaluate::answers(model, judge, &settings.evaluation, by, stage.control)?;
            Ok(evaluate::score(&answers))
        })
    }

    /// By the scores of models.
    pub(super) fn extrapolate_by(
        &mut self,
        steps: u32,
        record: &mut Record,
        mut score: impl FnMut(&Decoder) -> Result<f64>,
    ) -> Result<()> {
        let Trainer { model, trained, extrapolator: Some(extrapolator), .. } = self else { return Ok(()) };
        let settings = extrapolator.settings;
        if extrapolator.steps == steps || !settings.comes(steps) {
            return Ok(());
        }
        let _guard = no_grad_guard();
        let (model, trained) = (&**model, &*trained);
        let weights = trained.parameters(model).0;
        let ranges = extrapolator.ranges.clone();
        let updated = selected(&weights, &ranges);
        let write = |numbers: &Tensor| {
            place(&weights, &ranges, numbers);
            trained.apply(model);
        };
        let Accepted { candidate, score } = extrapolator.run(&updated, write, || score(model))?;
        extrapolator.steps = steps;
        // The experts that judging asked are in no step's numbers.
        let _ = model.take_expert_load();
        let of_step = record.rows.iter_mut().rev().take_while(|row| row.step + 1 == steps);
        of_step.for_each(|row| {
            (row.extrapolated, row.judged) = (Some(settings.multiple(candidate)), Some(score));
        });
        Ok(())
    }
}
