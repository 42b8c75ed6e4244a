//! Checks that the models of a merge are compatible: each weight must mean the same in all of them.

use mopd_compiler::plan::events::FailureKind;
use mopd_compiler::plan::{ModelId, Objective, Plan, Stage};

use super::ModelSpec;
use crate::failure::{Error, Result};
use crate::model::merge::differing_settings;
use crate::tokenizer::{ONE_VOCABULARY, vocabulary_difference};

/// Checks that the models of a merge, its base included, have the same architecture and tokenizer.
pub fn check_merge(plan: &Plan, stage: &Stage<Objective>, specs: &[ModelSpec]) -> Result<()> {
    let Stage::Merge(merge) = stage else { return Ok(()) };
    let mut models = merge.base.iter().chain(&merge.models);
    let Some(first) = models.next() else { return Ok(()) };
    let name = |id: &ModelId| format!("`{}`", plan.experiment.model(*id).name);
    for other in models {
        let [one, two] = [first, other].map(|id| &specs[id.0 as usize]);
        let names = [first, other].map(name);
        let [one_name, two_name] = &names;
        let refused = |why: String| {
            let message = format!("{one_name} and {two_name} can't be merged: {why}");
            Error::new(FailureKind::Runtime, message)
        };
        if one.config.scalar_head != two.config.scalar_head {
            let [with, without] = if one.config.scalar_head { [0, 1] } else { [1, 0] };
            let why = format!("{} has a scalar head, {} has none", names[with], names[without]);
            return Err(refused(why).help("merge models that all have one, or none of which has"));
        }
        let settings = differing_settings(&one.config, &two.config);
        if !settings.is_empty() {
            let why = format!("they have different architectures: {}", settings.join(", "));
            return Err(refused(why).help("only weights of one architecture can be merged"));
        }
        if let Some(difference) = vocabulary_difference(&one.tokenizer, &two.tokenizer) {
            let why = format!("they have different tokenizers: {}", difference.between(one_name, two_name));
            return Err(refused(why).help(ONE_VOCABULARY));
        }
    }
    Ok(())
}
