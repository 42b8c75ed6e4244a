//! `... |> retry(until: correct, at_most: 8)`: a completion is resampled until a condition holds for it.

use mopd_lang::experiment::{self as checked, Edit};
use serde::Deserialize;

use super::{
    FieldValue, Fields, ModelId, OfCompletions, Producer, ProducerKind, Sampling, Writer, editable, holding,
    reads_student,
};
use crate::refusal::{Converted, Origins, refused};
use crate::{Axis, Formula};

/// The most attempts at a completion. Each round of attempts has its own random numbers.
const MOST: u32 = 255;

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Retry {
    /// The condition, per sequence. If it never holds, the last attempt is kept.
    pub until: Formula,
    /// The number of attempts, including the first.
    pub at_most: u32,
    pub of: Producer,
}

impl Retry {
    fn described(&self, of: Fields, groups: Option<u32>) -> Fields {
        Fields::new("retry")
            .with("until", FieldValue::Formula(self.until.clone()))
            .with("at_most", FieldValue::Count(self.at_most))
            .with("of", FieldValue::Fields(of))
            .with_groups("batch", groups)
    }
}

impl ProducerKind for Retry {
    fn fields(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.described(self.of.kind().fields(None, model), groups)
    }

    fn key(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.described(self.of.kind().key(None, model), groups)
    }

    fn inner(&self) -> Vec<&Producer> {
        vec![&self.of]
    }

    fn inner_mut(&mut self) -> Vec<&mut Producer> {
        vec![&mut self.of]
    }

    /// Assumes that all attempts are made, which costs most.
    fn assume_conditions(&mut self, holds: bool) {
        self.until = holding(false);
        self.of.kind_mut().assume_conditions(holds);
    }

    fn draws_inside(&self) -> bool {
        true
    }

    fn policy(&self) -> Result<(Writer, &Sampling), &'static str> {
        self.of.kind().policy()
    }

    /// The cost of all attempts.
    fn parameters(&self, of: &dyn Fn(Writer) -> Option<u64>) -> Option<f64> {
        let read = if reads_student(&self.until) { of(Writer::Student)? as f64 } else { 0.0 };
        Some(f64::from(self.at_most) * (self.of.kind().parameters(of)? + read))
    }

    fn groups_setting(&self, groups: u32) -> String {
        self.of.kind().groups_setting(groups)
    }
}

/// The rollout `of` with the retries of `edit`.
pub(super) fn executable(
    of: Producer,
    edit: &Edit,
    rollout: &checked::Rollout,
    origins: Origins,
    of_completions: OfCompletions,
) -> Converted<Producer> {
    let Edit::Retry { until, at_most } = edit else { unreachable!("the caller has looked") };
    let at = origins.span(rollout.origin);
    editable(edit, rollout, at)?;
    if of.once().is_some() || of.cached_per_prompt() {
        return Err(refused(at, "the edit `retry` of rollouts that are made once"));
    }
    // A producer that leaves completions out has no index for another attempt.
    if of.kind().may_drop() || of.all().into_iter().any(|inside| matches!(inside, Producer::Chosen(_))) {
        return Err(refused(at, "the edit `retry` behind one that leaves completions out"));
    }
    if of.all().into_iter().any(|inside| matches!(inside, Producer::Retry(_))) {
        return Err(refused(at, "the edit `retry` of a rollout twice"));
    }
    if *at_most > MOST {
        return Err(refused(at, format!("the edit `retry` with more than {MOST} attempts")));
    }
    let until = of_completions(until, "a `retry`", Axis::Sequence)?;
    Ok(Retry { until, at_most: *at_most, of }.into())
}
