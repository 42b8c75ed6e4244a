//! `token_mix(0.2, sample(...))`, `interleave(top_k: 25, sample(...))`: the student's rollouts, where the
//! routed teachers affect each token.

use serde::Deserialize;

use super::{FieldValue, Fields, ModelId, Producer, ProducerKind, Sampling, Writer};
use crate::{AdaptiveSchedule, Role};

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
