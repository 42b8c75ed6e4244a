//! `replay(sample(...), capacity: 10_000, share: 0.25)`: with probability `share`, a group comes from a
//! buffer of earlier groups, if it has one of the same domain; otherwise from `of`.

use mopd_experiment::ReplayContents;
use serde::Deserialize;

use super::{FieldValue, Fields, ModelId, Producer, ProducerKind, Sampling, Writer};
use crate::{AdaptiveSchedule, Formula};

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Replay {
    pub of: Producer,
    /// The most groups in the buffer. The oldest leave first.
    pub capacity: u32,
    pub share: AdaptiveSchedule,
    pub keeps: ReplayContents,
    /// The condition for a group to enter, and to return after a replay.
    #[serde(default, rename = "while")]
    pub condition: Option<Formula>,
    /// A number of each group when it enters. The smallest is replayed first, of equal ones the oldest.
    #[serde(default)]
    pub order: Option<Formula>,
}

impl ProducerKind for Replay {
    fn fields(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        let formula = |fields: Fields, name, formula: &Option<Formula>| match formula {
            Some(formula) => fields.with(name, FieldValue::Formula(formula.clone())),
            None => fields,
        };
        let fields = Fields::new("replay")
            .with("capacity", FieldValue::Count(self.capacity))
            .with("share", FieldValue::Moving(self.share.clone()))
            .with("keeps", FieldValue::Keeps(self.keeps));
        formula(formula(fields, "while", &self.condition), "order", &self.order)
            .with("of", FieldValue::Fields(self.of.kind().fields(None, model)))
            .with_groups("batch", groups)
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

    fn policy(&self) -> Result<(Writer, &Sampling), &'static str> {
        match self.keeps {
            ReplayContents::Prompts => self.of.kind().policy(),
            ReplayContents::Rollouts => Err("some are earlier rollouts, which are replayed"),
        }
    }

    /// The cost while nothing is replayed.
    fn parameters(&self, of: &dyn Fn(Writer) -> Option<u64>) -> Option<f64> {
        self.of.kind().parameters(of)
    }

    fn groups_setting(&self, groups: u32) -> String {
        format!("`prompts = {groups}`")
    }
}

impl Producer {
    /// Whether a part of it comes from a buffer of earlier rollouts.
    pub fn replays(&self) -> bool {
        self.all().into_iter().any(|producer| matches!(producer, Producer::Replay(_)))
    }
}
