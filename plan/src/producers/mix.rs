//! `mix(share, first, second)`: each group from the first with probability `share`, else from the second.

use mopd_lang::experiment::{self as checked, RolloutSource};
use serde::Deserialize;

use super::{
    FieldValue, Fields, Keep, ModelId, OfCompletions, Producer, ProducerKind, Sampling, Writer, edit_inside,
    other_edits, producer,
};
use crate::refusal::{Converted, Origins, refused};
use crate::{AdaptiveSchedule, adaptive_schedule};

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Mix {
    pub share: AdaptiveSchedule,
    pub first: Producer,
    pub second: Producer,
}

/// The deepest nesting of mixes. The number of a node in the tree, in 32 bits, selects its random numbers.
const LEVELS: usize = 30;

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

pub(super) fn executable(
    rollout: &checked::Rollout,
    origins: Origins,
    of_completions: OfCompletions,
) -> Converted<Producer> {
    let RolloutSource::Mix { share, first, second } = &rollout.source else {
        unreachable!("the caller has looked")
    };
    let side = |rollout| side(rollout, "mix", origins, of_completions);
    let at = origins.span(share.0.origin);
    let share = adaptive_schedule(share, "a share of a `mix`", origins)?;
    let place = origins.span(second.origin);
    let (first, second) = (side(first)?, side(second)?);
    let groups = [&first, &second].map(|side| side.kind().group());
    if groups[0] != groups[1] {
        let [first, second] = groups;
        return Err(refused(place, format!("a `mix` of groups of {first} and of {second} samples")));
    }
    if [&first, &second].iter().any(|side| levels(side) >= LEVELS) {
        return Err(refused(at, format!("a `mix` of more than {LEVELS} levels")));
    }
    Ok(Producer::mix(share, first, second))
}

/// Converts one of several rollouts among which prompts are divided.
pub(super) fn side(
    rollout: &checked::Rollout,
    of: &str,
    origins: Origins,
    of_completions: OfCompletions,
) -> Converted<Producer> {
    let at = origins.span(rollout.origin);
    if let Some(edit) = other_edits(rollout).next() {
        return Err(edit_inside(edit, of, at));
    }
    match producer(rollout, Keep::All, origins, of_completions)? {
        producer if producer.once().is_some() => {
            Err(refused(at, format!("a `{of}` of rollouts that are made once")))
        }
        producer => Ok(producer),
    }
}

/// The depth of the tree of producers, where several inside one count as nested pairs.
fn levels(producer: &Producer) -> usize {
    let inner = producer.kind().inner();
    let most = inner.len().max(2) - 1;
    let level = |(place, inner): (usize, &Producer)| (place + 1).min(most) + levels(inner);
    inner.into_iter().enumerate().map(level).max().unwrap_or(0)
}
