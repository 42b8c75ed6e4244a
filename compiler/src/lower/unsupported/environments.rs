//! Checks of episodes with an environment.

use mopd_experiment::{self as checked, PromptFormat};
use mopd_lang::diag::Diagnostic;
use mopd_plan::{Objective, PlainSignal, Producer, Rollout, Scorers, Signal, Train};

use crate::lower::refusal::{Origins, refused};

/// An expert's turns are texts: nothing says which tool calls they are in a conversation.
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

/// Only an environment gives rewards to turns, and every completion needs them.
pub fn turn_rewards(
    objective: &Objective,
    rollout: &Rollout,
    scorers: &Scorers,
    origins: Origins,
) -> Option<Diagnostic> {
    let mut signals = objective.signals().into_iter().chain(scorers.signals());
    signals.find(|signal| *signal == Signal::Plain(PlainSignal::TurnReward))?;
    let producer = &rollout.producer;
    let played = producer.environments().len();
    if played > 0 && producer.drawn().len() == played && producer.fields_of_data().is_empty() {
        return None;
    }
    let construct = "the signal `reward.turn` of completions without an environment";
    let refusal = *refused(origins.span(objective.origin), construct);
    Some(refusal.help("train on episodes: `turns(python(\"shop.py:Shop\"), at_most: 8, sample(...))`"))
}
