//! `keep = correct` of completions that a step has drawn: it trains on those alone that are right.

use mopd_compiler::plan::events::FailureKind;

use super::Group;
use crate::failure::{Error, Result};
use crate::train::Stage;
use crate::train::sequences::Sequences;

/// Those with the full reward, and how many others each section of the stage had. A prompt without one is left
/// out; there may be none at all.
pub(super) fn correct(stage: &Stage, mut groups: Vec<Group>) -> Result<Sequences> {
    if groups.iter().flatten().any(|sequence| sequence.reward.is_none()) {
        let message = "`keep = correct` looks at the reward of every completion, and some have none";
        return Err(Error::new(FailureKind::Runtime, message)
            .help("let the environment give every episode a `reward`, or none of them one"));
    }
    let mut dropped = vec![0; stage.sections().len()];
    for group in &mut groups {
        group.retain(|sequence| {
            let kept = sequence.reward >= Some(1.0);
            dropped[stage.section_of(sequence)] += u32::from(!kept);
            kept
        });
    }
    groups.retain(|group| !group.is_empty());
    groups.sort_by_key(|group| stage.section_of(&group[0]));
    Ok(Sequences::of_groups(groups, stage.sources.len()).without(Some(dropped)))
}
