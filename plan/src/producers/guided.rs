//! `token_mix(0.2, sample(...))`, `interleave(top_k: 25, sample(...))`: the student's rollouts, where the
//! routed teachers affect each token.

use mopd_lang::experiment::{self as checked, RolloutSource};
use serde::Deserialize;

use super::{FieldValue, Fields, ModelId, Producer, ProducerKind, Sampling, Writer, edit_name, sampling};
use crate::refusal::{Converted, Origins, refused};
use crate::{AdaptiveSchedule, Role, adaptive_schedule};

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Guided {
    #[serde(flatten)]
    pub guidance: Guidance,
    /// The student.
    pub of: Producer,
}

/// How a teacher affects a token.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "guidance", rename_all = "snake_case")]
pub enum Guidance {
    /// The token is drawn from a mixture of both distributions; `alpha` is the teacher's share.
    TokenMix { alpha: AdaptiveSchedule },
    /// The token is replaced unless it is among the teacher's `top_k` most probable entries.
    Interleave { top_k: u32 },
}

impl Guided {
    fn sampling(&self) -> &Sampling {
        self.of.sampling().expect("the student draws")
    }
}

impl ProducerKind for Guided {
    fn fields(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        let fields = Fields::new("guided");
        let fields = match &self.guidance {
            Guidance::TokenMix { alpha } => fields
                .with("guidance", FieldValue::Text("token_mix".to_owned()))
                .with("alpha", FieldValue::Moving(alpha.clone())),
            Guidance::Interleave { top_k } => fields
                .with("guidance", FieldValue::Text("interleave".to_owned()))
                .with("top_k", FieldValue::Count(*top_k)),
        };
        fields.with("of", FieldValue::Fields(self.of.kind().fields(None, model))).with_groups("batch", groups)
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

    fn policy(&self) -> Result<(Writer, &Sampling), &'static str> {
        match self.guidance {
            Guidance::TokenMix { .. } => Err("two models drew each token"),
            Guidance::Interleave { .. } => Err("a teacher replaced some of the tokens"),
        }
    }

    /// The cost of both models, which process each token.
    fn parameters(&self, of: &dyn Fn(Writer) -> Option<u64>) -> Option<f64> {
        Some(self.of.kind().parameters(of)? + of(Writer::Guide(Role::TEACHER))? as f64)
    }

    fn groups_setting(&self, groups: u32) -> String {
        self.of.kind().groups_setting(groups)
    }
}

pub(super) fn executable(rollout: &checked::Rollout, origins: Origins) -> Converted<Producer> {
    let (guidance, of) = match &rollout.source {
        RolloutSource::TokenMix { alpha, of } => (
            Guidance::TokenMix { alpha: adaptive_schedule(alpha, "an `alpha` of a `token_mix`", origins)? },
            of,
        ),
        RolloutSource::Interleave { top_k, of } => (Guidance::Interleave { top_k: *top_k }, of),
        _ => unreachable!("the caller has looked"),
    };
    let at = origins.span(of.origin);
    if let Some(edit) = of.edits.first() {
        return Err(refused(at, edit_name(edit)));
    }
    let RolloutSource::Sample(drawn) = &of.source else {
        let (name, inside) = (rollout.source.name(), of.source.name());
        return Err(refused(at, format!("`{name}` of the rollout `{inside}`")));
    };
    let of = Producer::student(sampling(drawn, origins, of.origin)?);
    Ok(Guided { guidance, of }.into())
}
