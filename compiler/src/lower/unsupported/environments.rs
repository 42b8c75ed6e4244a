//! An expert's turns are texts: nothing says which tool calls they are in a conversation.

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
    train.producers().flat_map(Producer::environments).find(|turns| turns.expert_turns.is_some())?;
    let mut domains = train.mixture.iter().map(|share| experiment.domain(share.domain));
    let chat = domains.find(|domain| matches!(domain.format, Some(PromptFormat::Chat { .. })))?;
    let construct = format!("`expert_turns` of `{}`, whose prompts are conversations,", chat.name);
    let refusal = *refused(origins.span(checked.rollout.origin), construct);
    Some(refusal.help(
        "put the expert's turns into the prompt's `messages`, or write its prompts as plain text (`format = \
         text`)",
    ))
}
