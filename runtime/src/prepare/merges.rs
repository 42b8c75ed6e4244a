//! Checks that the models of a merge are compatible: each weight must mean the same in all of them.

use mopd_plan::{ModelId, Objective, Plan, Stage};

use super::ModelSpec;
use crate::failure::Result;
use crate::model::merge::MergeConflict;

/// Checks that the models of a merge, its base included, have the same architecture and tokenizer.
pub fn check_merge(plan: &Plan, stage: &Stage<Objective>, specs: &[ModelSpec]) -> Result<()> {
    let Stage::Merge(merge) = stage else { return Ok(()) };
    let mut models = merge.base.iter().chain(&merge.models);
    let Some(first) = models.next() else { return Ok(()) };
    let name = |id: &ModelId| format!("`{}`", plan.experiment.model(*id).name);
    for other in models {
        let pair = [first, other].map(|id| &specs[id.0 as usize]);
        let configs = pair.map(|spec| &*spec.config);
        if let Some(conflict) = MergeConflict::find(configs, pair.map(|spec| &*spec.tokenizer)) {
            return Err(conflict.between([&name(first), &name(other)]));
        }
    }
    Ok(())
}
