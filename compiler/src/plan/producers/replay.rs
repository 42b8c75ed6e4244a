//! `replay(sample(...), capacity: 10_000, share: 0.25)`: each group from a buffer of earlier ones with
//! probability `share`, if the buffer has one of the same domain, otherwise from `of`.

use mopd_lang::experiment::{self as checked, Keeps, RolloutSource};
use serde::Deserialize;

use super::{
    FieldValue, Fields, Keep, ModelId, OfCompletions, Producer, ProducerKind, Sampling, Writer, edit_name,
    other_edits, producer,
};
use crate::plan::{Axis, Formula, Moving, moving};
use crate::refusal::{Converted, Origins, refused};

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Replay {
    pub of: Producer,
    /// The most groups: the oldest leave first.
    pub capacity: u32,
    pub share: Moving,
    pub keeps: Keeps,
    /// Per group: the condition to enter, and to come back after a replay.
    #[serde(default, rename = "while")]
    pub condition: Option<Formula>,
    /// Per group, when it enters: the smallest is replayed first, of equal ones the oldest.
    #[serde(default)]
    pub order: Option<Formula>,
}

impl ProducerKind for Replay {
    fn fields(&self, groups: Option<u32>, model: &dyn Fn(ModelId) -> FieldValue) -> Fields {
        let formula = |fields: Fields, name, formula: &Option<Formula>| match formula {
            Some(formula) => fields.with(name, FieldValue::Formula(formula.clone())),
            None => fields,
        };
        let fields = Fields::of("replay")
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

    /// It chooses anew at every step.
    fn fresh(&self) -> bool {
        true
    }

    fn policy(&self) -> Result<(Writer, &Sampling), &'static str> {
        match self.keeps {
            Keeps::Prompts => self.of.kind().policy(),
            Keeps::Rollouts => Err("some are earlier rollouts, which are replayed"),
        }
    }

    /// The cost while nothing is replayed yet.
    fn parameters(&self, of: &dyn Fn(Writer) -> Option<u64>) -> Option<f64> {
        self.of.kind().parameters(of)
    }

    fn asked(&self, groups: u32) -> String {
        format!("`prompts = {groups}`")
    }

    fn undivided(&self) -> Option<&'static str> {
        Some("a rollout with `replay`")
    }
}

pub(super) fn executable(
    rollout: &checked::Rollout,
    origins: Origins,
    of_completions: OfCompletions,
) -> Converted<Producer> {
    let at = origins.span(rollout.origin);
    let RolloutSource::Replay { capacity, share, keeps, condition, order, of } = &rollout.source else {
        unreachable!("the caller has looked")
    };
    if let Some(edit) = other_edits(of).next() {
        return Err(refused(origins.span(of.origin), edit_name(edit)));
    }
    let inside = producer(of, Keep::All, origins, of_completions)?;
    if inside.once().is_some() || !inside.fresh() {
        return Err(refused(at, "a `replay` of completions that are the same at every step"));
    }
    let share = moving(share, "a share of a `replay`", origins)?;
    let condition = condition
        .as_ref()
        .map(|condition| of_completions(condition, "the `while` of a `replay`", Axis::Group));
    let order = order.as_ref().map(|order| of_completions(order, "the `order` of a `replay`", Axis::Group));
    Ok(Replay {
        of: inside,
        capacity: *capacity,
        share,
        keeps: *keeps,
        condition: condition.transpose()?,
        order: order.transpose()?,
    }
    .into())
}

impl Producer {
    /// Whether some of it comes from a buffer of earlier rollouts.
    pub fn replays(&self) -> bool {
        self.all().into_iter().any(|producer| matches!(producer, Producer::Replay(_)))
    }
}
