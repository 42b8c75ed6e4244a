//! What this version can't execute although the checker accepts it, found in what objectives were lowered to:
//! combinations of signals, rollouts, teachers and settings. Each module checks one feature and returns a
//! refusal, a diagnostic with the unsupported construct and its place, or nothing.

mod agreement;
mod attempts;
mod drafts;
mod environments;
mod guards;
mod mini_batches;
mod missing_input;
mod other_tokenizer;
mod recorded_turns;
mod sampler;
pub mod scalar_heads;
pub mod second_heads;
mod served;

use mopd_experiment as checked;
use mopd_lang::diag::Diagnostic;
use mopd_plan::{Objective, Signal, Train};

use crate::lower::refusal::{Origins, refused};

/// The first thing that a stage reads and does not have, or can't combine with its other settings.
pub fn refusal(
    train: &Train<Objective>,
    checked: &checked::Train,
    read_losses: &[String],
    experiment: &checked::Experiment,
    origins: Origins,
) -> Option<Box<Diagnostic>> {
    let own_parts = train.own_data.iter().map(|own| (&own.rollout, &own.objective));
    let mut parts = std::iter::once((&train.rollout, &train.objective)).chain(own_parts);
    let known =
        |name: &String| parts.clone().flat_map(|(_, part)| &part.term_losses).any(|of| of.term == *name);
    let here = origins.span(train.objective.origin);
    if let Some(name) = read_losses.iter().find(|name| !known(name)) {
        let construct = format!("the signal `loss.{name}` in a stage that does not train this term");
        return Some(refused(here, construct));
    }
    let reads = |(_, part): (_, &Objective)| part.signals().contains(&Signal::ValidationLoss);
    let reads = parts.clone().any(reads) || train.scorers.signals().contains(&Signal::ValidationLoss);
    if reads && train.options.validation.is_none() {
        return Some(refused(here, "the signal `loss.validation` in a stage without `validate`"));
    }
    let (scorers, validation) = (&train.scorers, train.options.validation.as_ref());
    let of_part = |(rollout, part)| {
        other_tokenizer::refusal(part, scorers, origins)
            .or_else(|| missing_input::refusal(part, scorers, origins))
            .or_else(|| missing_input::unstated_confidence(part, &train.panels, origins))
            .or_else(|| attempts::refusal(part, rollout, scorers, origins))
            .or_else(|| agreement::refusal(part, rollout, scorers, origins))
            .or_else(|| drafts::refusal(part, rollout, scorers, origins))
            .or_else(|| environments::turn_rewards(part, rollout, scorers, origins))
            .or_else(|| sampler::refusal(part, rollout, origins))
            .or_else(|| {
                let student = train.sees.as_ref();
                let shown = recorded_turns::PromptTemplates { scorers, feedback: &train.feedback, student };
                recorded_turns::refusal(part, &checked.objective, rollout, shown, origins)
            })
    };
    let (objective, rollout) = (&train.objective, &train.rollout);
    let steps = guards::GuardContext { objective, rollout, scorers, validation };
    let refusal = parts.find_map(of_part).or_else(|| guards::refusal(&train.guards, &steps, origins));
    refusal
        .or_else(|| mini_batches::refusal(train, &checked.objective, origins))
        .or_else(|| served::refusal(train, origins))
        .or_else(|| environments::refusal(train, checked, experiment, origins))
        .map(Into::into)
}
