//! The `filter` of a stage, which replaces groups for which it does not hold.

use mopd_plan::Formula;
use mopd_plan::events::FailureKind;

use super::prompts::shuffle;
use super::sample::numbered;
use super::{Batch, Batches};
use crate::data::mixture::Draw;
use crate::failure::{Error, Result};
use crate::random::Purpose;
use crate::train::completions::of_groups;
use crate::train::sequences::Group;
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
            let holds =
                of_groups(filter, &fresh, stage.sources.len(), stage.step(batch.step), "the `filter`")?;
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
            let uniforms = shuffle(stage.keys(), Purpose::Shuffle);
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
