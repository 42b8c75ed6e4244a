//! `speculative(block: 16, sample(...))`: completions of the routed teachers, sampled with the student's
//! drafts, and the rejected part of each draft.

use mopd_lang::experiment::{self as checked, RolloutSource};
use serde::Deserialize;

use super::{FieldValue, Fields, ModelId, Producer, ProducerKind, Sampling, Writer, edit_name, sampling};
use crate::refusal::{Converted, Origins, refused};
use crate::{Keep, Role};

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

/// Converts the source. It must be a stage's own rollout, or a term's. Since a rejected draft is no
/// completion, completions can't be chosen, edited or stored for later.
pub(super) fn executable(train: &checked::Train, origins: Origins) -> Converted<Producer> {
    let rollout = &train.rollout;
    let RolloutSource::Speculative { block, of } = &rollout.source else {
        unreachable!("the caller has looked")
    };
    let (at, inside) = (origins.span(rollout.origin), origins.span(of.origin));
    if let Some(edit) = rollout.edits.first() {
        return Err(refused(at, format!("the edit `{}` of the rollout `speculative`", edit.name())));
    }
    if let Some(edit) = of.edits.first() {
        return Err(refused(inside, edit_name(edit)));
    }
    let RolloutSource::Sample(drawn) = &of.source else {
        return Err(refused(inside, format!("`speculative` of the rollout `{}`", of.source.name())));
    };
    if train.keep != Keep::All {
        return Err(refused(at, "`keep = correct` of the rollout `speculative`"));
    }
    if let Some(filter) = &train.filter {
        return Err(refused(origins.span(filter.0.origin), "a `filter` of the rollout `speculative`"));
    }
    let of = Producer::student(sampling(drawn, origins, of.origin)?);
    Ok(Speculative { block: *block, rejects: false, of }.into())
}
