//! Programs that respond to the student can't go on with a conversation of the data.

use mopd_experiment::{self as checked, PromptFormat};
use mopd_lang::diag::Diagnostic;
use mopd_plan::{Objective, Producer, Train};

use crate::lower::refusal::{Origins, refused};

pub fn refusal(
    train: &Train<Objective>,
    checked: &checked::Train,
    experiment: &checked::Experiment,
    origins: Origins,
) -> Option<Diagnostic> {
    train.producers().flat_map(Producer::environments).next()?;
    let mut domains = train.mixture.iter().map(|share| experiment.domain(share.domain));
    let chat = domains.find(|domain| matches!(domain.format, Some(PromptFormat::Chat { .. })))?;
    let construct = format!("`turns` of `{}`, whose prompts are conversations,", chat.name);
    let refusal = *refused(origins.span(checked.rollout.origin), construct);
    Some(refusal.help(
        "write its prompts as plain text (`format = text`), and put the text between turns into the \
         observations",
    ))
}
