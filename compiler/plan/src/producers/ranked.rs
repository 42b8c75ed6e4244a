//! `dpo` with `chosen = drawn |> best(reward, of: 1)`, `rejected = drawn |> best(-reward, of: 1)`: a pair of
//! two completions of one group. Each side is the completion with the largest number of its own, of equal
//! ones the first. A group whose two completions are the same one has no pair.

use serde::Deserialize;

use super::{FieldValue, Fields, ModelId, Producer, ProducerKind, Sampling, Writer, reads_student};
use crate::Formula;

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Ranked {
    /// The number of a chosen completion is the largest. Per sequence.
    pub chosen: Formula,
    /// The same for a rejected completion.
    pub rejected: Formula,
    pub of: Producer,
}

impl Ranked {
    pub fn formulas(&self) -> [&Formula; 2] {
        [&self.chosen, &self.rejected]
    }

    fn described(&self, of: Fields, groups: Option<u32>) -> Fields {
        Fields::new("ranked")
            .with("chosen", FieldValue::Formula(self.chosen.clone()))
            .with("rejected", FieldValue::Formula(self.rejected.clone()))
            .with("of", FieldValue::Fields(of))
            .with_groups("batch", groups)
    }
}

impl ProducerKind for Ranked {
    fn fields(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.described(self.of.kind().fields(None, model), groups)
    }

    fn key(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.described(self.of.kind().key(None, model), groups)
    }

    fn group(&self) -> u32 {
        2
    }

    fn inner(&self) -> Vec<&Producer> {
        vec![&self.of]
    }

    fn inner_mut(&mut self) -> Vec<&mut Producer> {
        vec![&mut self.of]
    }

    /// True, because the choice is made anew at every step.
    fn is_redrawn(&self) -> bool {
        true
    }

    /// True, because both sides of a group may choose the same completion.
    fn may_drop(&self) -> bool {
        true
    }

    fn policy(&self) -> Result<(Writer, &Sampling), &'static str> {
        self.of.kind().policy()
    }

    /// The cost of all completions from which it chooses.
    fn parameters(&self, of: &dyn Fn(Writer) -> Option<u64>) -> Option<f64> {
        let drawn = f64::from(self.of.kind().group()) / f64::from(self.group());
        let reads = self.formulas().into_iter().filter(|formula| reads_student(formula)).count() as f64;
        let read = if reads > 0.0 { reads * of(Writer::Student)? as f64 } else { 0.0 };
        Some(drawn * (self.of.kind().parameters(of)? + read))
    }

    fn groups_setting(&self, groups: u32) -> String {
        self.of.kind().groups_setting(groups)
    }
}
