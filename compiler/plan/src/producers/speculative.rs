//! `speculative(block: 16, sample(...))`: completions of the routed teachers, sampled with the student's
//! drafts, and the rejected part of each draft.

use serde::Deserialize;

use super::{FieldValue, Fields, ModelId, Producer, ProducerKind, Sampling, Writer};
use crate::Role;

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Speculative {
    /// The number of tokens that the student drafts before the teacher verifies them.
    pub block: u32,
    /// Whether every draft is rejected at its first token, which costs most. Never set in plans.
    #[serde(skip)]
    pub rejects: bool,
    /// The student.
    pub of: Producer,
}

impl Speculative {
    pub fn sampling(&self) -> &Sampling {
        self.of.sampling().expect("the student drafts")
    }
}

impl ProducerKind for Speculative {
    fn fields(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        Fields::new("speculative")
            .with("block", FieldValue::Count(self.block))
            .with("of", FieldValue::Fields(self.of.kind().fields(None, model)))
            .with_groups("batch", groups)
    }

    fn inner(&self) -> Vec<&Producer> {
        vec![&self.of]
    }

    fn inner_mut(&mut self) -> Vec<&mut Producer> {
        vec![&mut self.of]
    }

    /// The teacher. The student is the writer of the producer inside.
    fn drawn(&self) -> Option<(Writer, &Sampling)> {
        Some((Writer::Guide(Role::TEACHER), self.sampling()))
    }

    /// The trajectory, and at most one rejected draft after each of its tokens.
    fn rows(&self) -> Option<u32> {
        Some(self.sampling().max_tokens.saturating_add(1))
    }

    fn assume_conditions(&mut self, _: bool) {
        self.rejects = true;
    }

    fn policy(&self) -> Result<(Writer, &Sampling), &'static str> {
        Err("a teacher rejected some of the tokens and wrote others")
    }

    /// The cost of both models for the trajectory. Drafts are processed by the student only.
    fn parameters(&self, of: &dyn Fn(Writer) -> Option<u64>) -> Option<f64> {
        Some(self.of.kind().parameters(of)? + of(Writer::Guide(Role::TEACHER))? as f64)
    }

    fn groups_setting(&self, groups: u32) -> String {
        self.of.kind().groups_setting(groups)
    }
}
