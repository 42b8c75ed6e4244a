//! `mix(share, first, second)`: each group from the first with probability `share`, else from the second.

use serde::Deserialize;

use super::{FieldValue, Fields, ModelId, Producer, ProducerKind, Sampling, Writer};
use crate::AdaptiveSchedule;

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Mix {
    pub share: AdaptiveSchedule,
    pub first: Producer,
    pub second: Producer,
}

impl ProducerKind for Mix {
    fn fields(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        Fields::new("mix")
            .with("share", FieldValue::Moving(self.share.clone()))
            .with("first", FieldValue::Fields(self.first.kind().fields(None, model)))
            .with("second", FieldValue::Fields(self.second.kind().fields(None, model)))
            .with_groups("batch", groups)
    }

    fn inner(&self) -> Vec<&Producer> {
        vec![&self.first, &self.second]
    }

    fn inner_mut(&mut self) -> Vec<&mut Producer> {
        vec![&mut self.first, &mut self.second]
    }

    /// True, because the choice is made anew at every step.
    fn is_redrawn(&self) -> bool {
        true
    }

    fn draws_inside(&self) -> bool {
        true
    }

    fn policy(&self) -> Result<(Writer, &Sampling), &'static str> {
        let (first, second) = (self.first.kind().policy()?, self.second.kind().policy()?);
        if first == second { Ok(first) } else { Err("a mix has two") }
    }

    fn parameters(&self, of: &dyn Fn(Writer) -> Option<u64>) -> Option<f64> {
        let (first, second) = (self.first.kind().parameters(of)?, self.second.kind().parameters(of)?);
        let at = |share: f64| share * first + (1.0 - share) * second;
        Some(self.share.ends().into_iter().map(at).fold(0.0, f64::max))
    }

    fn groups_setting(&self, groups: u32) -> String {
        format!("`prompts = {groups}`")
    }
}
