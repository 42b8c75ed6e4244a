//! `... |> retry(until: correct, at_most: 8)`: a completion is resampled until a condition holds for it.

use serde::Deserialize;

use super::{FieldValue, Fields, ModelId, Producer, ProducerKind, Sampling, Writer, holding, reads_student};
use crate::Formula;

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
