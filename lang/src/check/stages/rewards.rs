//! Rewards of domains: a domain needs one where something reads it.

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use mopd_experiment::formula::{Formula, FormulaKind, ModelSignal, PlainSignal, Signal, StepNumber};
use mopd_experiment::{DomainId, Keep, RolloutArgument, Slot, Template, Train};

use crate::check::builtins::block_settings::BlockSettings;
use crate::check::declarations::{Declarations, ExperimentParts};

/// Checks that every domain of a stage that reads rewards has one.
pub fn check_rewards(declarations: &mut Declarations, train: &Train, settings: &BlockSettings) -> bool {
    let trained: Vec<DomainId> = train.mixture.iter().map(|share| share.domain).collect();
    let absent = |id: &&DomainId| declarations.parts.domain(**id).reward.is_none();
    if !trained.iter().any(|id| absent(&id)) {
        return true;
    }
    match place_of_read(declarations, train, settings) {
        Some(place) => check_judged(declarations, &trained, place),
        None => true,
    }
}

/// Checks that all of these domains have a reward, which is read at that place.
pub fn check_judged(declarations: &mut Declarations, domains: &[DomainId], read: Span) -> bool {
    let Some(&without) = domains.iter().find(|domain| declarations.parts.domain(**domain).reward.is_none())
    else {
        return true;
    };
    let domain = declarations.parts.domain(without);
    let text = format!("the domain `{}` has no reward", domain.name);
    let span = declarations.span(domain.origin);
    declarations.report(
        Diagnostic::error(Code::MissingKey, span, text)
            .label("`reward` is not set")
            .note(read, "read here")
            .help("add `reward = ...`, such as `exact_match` or `numeric`, or leave the domain out there"),
    );
    false
}

/// Where a stage reads the rewards of its completions, if it does.
fn place_of_read(declarations: &Declarations, train: &Train, settings: &BlockSettings) -> Option<Span> {
    let parts = &declarations.parts;
    let mut formulas: Vec<Formula> = train.formulas().into_iter().cloned().collect();
    formulas.extend(train.ladders());
    formulas.extend(train.learned(&parts.teachers));
    formulas.extend(train.shares.iter().cloned());
    formulas.extend(train.guards.iter().map(|guard| guard.condition.clone()));
    let mut slots = Vec::new();
    for template in templates(parts, train) {
        formulas.extend(template.formulas().cloned());
        let shown = template.slots().flat_map(Slot::all);
        slots.extend(shown.filter(|slot| shows_verdict(slot)).map(|_| template.origin));
    }
    let read = formulas.iter().flat_map(Formula::parts).find(|part| reads_reward(&part.0.kind));
    let place = read.map(|part| part.0.origin).or(slots.first().copied());
    let kept = (train.keep != Keep::All).then(|| settings.place(&["keep"]));
    place.map(|origin| declarations.span(origin)).or(kept)
}

fn reads_reward(kind: &FormulaKind) -> bool {
    match kind {
        // The reward of a turn is the environment's.
        FormulaKind::Signal(Signal::Plain(PlainSignal::TurnReward)) => false,
        FormulaKind::Signal(Signal::OfSteps { number, .. }) => *number == StepNumber::Reward,
        FormulaKind::Signal(Signal::Of { part: ModelSignal::Correct, .. }) => true,
        FormulaKind::Signal(signal) => signal.is_of_reward(),
        _ => false,
    }
}

/// Whether it is chosen by a verdict, or is the verifier's message.
fn shows_verdict(slot: &Slot) -> bool {
    matches!(slot, Slot::Group(_) | Slot::Answer { .. } | Slot::Feedback)
}

/// What the student and its teachers are shown in place of the prompt, and what completions are made from.
fn templates<'a>(parts: &'a ExperimentParts, train: &'a Train) -> Vec<&'a Template> {
    let of_rollouts = train.rollouts().into_iter().flat_map(|rollout| rollout.source.arguments());
    let of_rollouts = of_rollouts.filter_map(|(_, argument)| match argument {
        RolloutArgument::Template(template) => Some(template),
        _ => None,
    });
    let teachers = train.reachable_teachers(&parts.teachers);
    let of_teachers = teachers.into_iter().filter_map(|id| parts.teachers[id.0 as usize].sees.as_deref());
    train.sees.as_deref().into_iter().chain(of_rollouts).chain(of_teachers).collect()
}
