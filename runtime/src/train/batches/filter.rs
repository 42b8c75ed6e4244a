//! The `filter` of a stage, which replaces groups for which it does not hold.

use mopd_expr::batch;
use mopd_expr::interpret::interpret;
use mopd_plan::events::FailureKind;
use mopd_plan::{Formula, Signal};

use super::prompts::shuffle;
use super::sample::numbered;
use super::{Batch, Batches, Group};
use crate::data::mixture::Draw;
use crate::failure::{Error, Result};
use crate::random::Purpose;
use crate::rollout::Sequence;
use crate::train::Stage;
use crate::train::sequences::Sequences;
use crate::zip::zip_equal;

/// The most rounds of drawing; after the last one, the step trains on the groups that it has.
const ROUNDS: usize = 10;

impl Batches {
    /// The groups for which the filter holds. Each other group is replaced by one of the same source.
    pub(super) fn filtered(
        &mut self,
        batch: &Batch,
        first: Vec<Group>,
        filter: &Formula,
    ) -> Result<Vec<Group>> {
        let stage = batch.stage;
        let mut kept: Vec<Group> = Vec::new();
        let mut fresh = first;
        let mut drawn = 0;
        for round in 0..ROUNDS {
            drawn += fresh.len();
            let holds = of_groups(stage, filter, &fresh, batch.step, "the `filter`")?;
            let holds = holds.into_iter().map(|holds| holds != 0.0);
            let mut missing: Vec<usize> = Vec::new();
            for (group, holds) in zip_equal(fresh, holds) {
                if holds {
                    kept.push(group);
                } else {
                    missing.push(group[0].source);
                }
            }
            if missing.is_empty() || round + 1 == ROUNDS {
                break;
            }
            let mixture = &mut self.mixture;
            let uniforms = shuffle(stage, Purpose::Shuffle);
            let draws: Vec<Draw> =
                missing.into_iter().map(|source| mixture.replacement(source, &uniforms)).collect();
            fresh = self.produced(batch, &numbered(&draws, drawn))?;
        }
        if kept.is_empty() {
            let message =
                format!("the `filter` accepts none of {drawn} prompts, so nothing is left to train on");
            return Err(Error::new(FailureKind::Runtime, message).help(
                "a filter on different rewards needs prompts that are sometimes solved and sometimes not",
            ));
        }
        // Groups of a source are adjacent.
        kept.sort_by_key(|group| group[0].source);
        Ok(kept)
    }
}

/// The value of a formula of rewards and lengths for each group.
pub(super) fn of_groups(
    stage: &Stage,
    formula: &Formula,
    groups: &[Group],
    step: u32,
    what: &str,
) -> Result<Vec<f64>> {
    let sequences = Sequences::of_groups(groups.to_vec(), stage.sources.len());
    of_completions(stage, formula, &sequences, Vec::new(), step, what)
}

/// The same for each element of the formula's axis, with further signals in `known`.
pub fn of_completions(
    stage: &Stage,
    formula: &Formula,
    sequences: &Sequences,
    known: Vec<(Signal, Vec<f32>)>,
    step: u32,
    what: &str,
) -> Result<Vec<f64>> {
    let mut batch = judged(stage, sequences, step);
    batch.signals.extend(known);
    value_of(formula, &batch, what)
}

/// The signals of completions that are known before any model scores them.
pub(super) fn judged(stage: &Stage, sequences: &Sequences, step: u32) -> batch::Batch {
    let list = &sequences.list;
    let rewards = list.iter().map(|sequence| sequence.reward.unwrap_or(0.0) as f32).collect();
    let truncated = list.iter().map(|sequence| f32::from(u8::from(sequence.truncated))).collect();
    let mut signals = vec![(Signal::Reward, rewards), (Signal::Truncated, truncated)];
    // Only parts of the reward that every judged completion has.
    for (part, _) in list
        .iter()
        .find(|sequence| !sequence.reward_parts.is_empty())
        .iter()
        .flat_map(|sequence| &sequence.reward_parts)
    {
        let of = |sequence: &Sequence| match sequence.reward {
            None => Some(0.0),
            Some(_) => sequence.reward_part(part).map(|reward| reward as f32),
        };
        let values: Option<Vec<f32>> = list.iter().map(of).collect();
        signals.extend(values.map(|values| (Signal::RewardPart { part: part.clone() }, values)));
    }
    batch::Batch {
        layout: sequences.layout.clone(),
        signals,
        step,
        steps: stage.steps,
        ..batch::Batch::default()
    }
}

/// The value for each element of the formula's axis.
pub(super) fn value_of(formula: &Formula, batch: &batch::Batch, what: &str) -> Result<Vec<f64>> {
    let values = interpret(&formula.graph, &[formula.value], batch)
        .map_err(|error| Error::new(FailureKind::Runtime, format!("{what}: {error}")))?;
    Ok(values.get(formula.value).to_vec())
}
