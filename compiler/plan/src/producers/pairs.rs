//! Pairs of completions of a prompt, one preferred to the other: the data of `live dpo`. A pair is a group.
//! If both sides are choices from one rollout, it is drawn once ([`Ranked`]).

use serde::Deserialize;

use super::{FieldValue, Fields, ModelId, Producer, ProducerKind, Sampling, Writer};

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Pairs {
    pub chosen: Producer,
    pub rejected: Producer,
}

impl Pairs {
    fn sides(&self, fields: Fields, side: impl Fn(&dyn ProducerKind) -> Fields) -> Fields {
        fields
            .with("chosen", FieldValue::Fields(side(self.chosen.kind())))
            .with("rejected", FieldValue::Fields(side(self.rejected.kind())))
    }
}

impl ProducerKind for Pairs {
    fn fields(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.sides(Fields::new("pairs"), |side| side.fields(None, model)).with_groups("batch", groups)
    }

    /// The fields without the name of the kind, since only pairs have two sides.
    fn key(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        self.sides(Fields::default(), |side| side.key(None, model)).with_groups("batch", groups)
    }

    fn group(&self) -> u32 {
        2
    }

    fn drawn_group(&self) -> u32 {
        self.chosen.kind().drawn_group() + self.rejected.kind().drawn_group()
    }

    fn inner(&self) -> Vec<&Producer> {
        vec![&self.chosen, &self.rejected]
    }

    fn inner_mut(&mut self) -> Vec<&mut Producer> {
        vec![&mut self.chosen, &mut self.rejected]
    }

    fn policy(&self) -> Result<(Writer, &Sampling), &'static str> {
        Err("a pair has two")
    }

    fn parameters(&self, of: &dyn Fn(Writer) -> Option<u64>) -> Option<f64> {
        Some((self.chosen.kind().parameters(of)? + self.rejected.kind().parameters(of)?) / 2.0)
    }
}
