//! Steps that train on fewer completions than they draw: `keep = correct` keeps only correct ones, and an
//! edit may leave no completion of a prompt.

use mopd_plan::events::FailureKind;
use mopd_plan::{Keep, Rollout};

use super::Group;
use super::sample::numbered;
use crate::data::mixture::Draw;
use crate::failure::{Error, Result};
use crate::train::sequences::Sequences;
use crate::train::stage::StageSources;
use crate::zip::zip_equal;

/// The sequences to train on, with the number dropped from each section of the stage. A prompt without any is
/// left out; there may be no sequences at all. `draws` has the draw of each group; it is empty where a filter
/// may have replaced groups, and then no group is empty.
pub(super) fn trainable_sequences(
    sources: &StageSources,
    rollout: &Rollout,
    mut groups: Vec<Group>,
    draws: &[Draw],
) -> Result<Sequences> {
    let asked = rollout.group();
    let sections: Vec<usize> = match draws {
        [] => groups.iter().map(|group| sources.section_of(&group[0])).collect(),
        draws => numbered(draws, 0).iter().map(|draw| draw.section(sources)).collect(),
    };
    if rollout.keep == Keep::Correct {
        if groups.iter().flatten().any(|sequence| sequence.reward.is_none()) {
            let message = "`keep = correct` needs the reward of every completion, but some have none";
            return Err(Error::new(FailureKind::Runtime, message)
                .help("let the environment return a `reward` for every episode, or for none"));
        }
        groups.iter_mut().for_each(|group| group.retain(|sequence| sequence.reward >= Some(1.0)));
    }
    let mut dropped = vec![0; sources.sections().len()];
    for (section, group) in zip_equal(sections, &groups) {
        dropped[section] += asked - group.len() as u32;
    }
    groups.retain(|group| !group.is_empty());
    groups.sort_by_key(|group| sources.section_of(&group[0]));
    Ok(Sequences::of_groups(groups, sources.len()).without(Some(dropped)))
}
