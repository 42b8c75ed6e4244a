//! Checks of objectives on turns of recorded trajectories. Each turn is a completion of its own, without a
//! reward: the domain's reward, if any, is for the end of a trajectory.

use mopd_experiment as checked;
use mopd_experiment::formula::{Formula, FormulaKind, NamedSpan, PlainSignal, Signal as CheckedSignal};
use mopd_lang::diag::Diagnostic;
use mopd_plan::views::Slot;
use mopd_plan::{Feedback, Objective, Rollout, Scorers, Signal, View};

use crate::lower::refusal::{Origins, refused};

/// The templates that replace prompts.
pub struct PromptTemplates<'a> {
    pub scorers: &'a Scorers,
    pub feedback: &'a [Feedback],
    pub student: Option<&'a View>,
}

/// The first thing that an objective needs and recorded turns do not have.
pub fn refusal(
    objective: &Objective,
    checked: &checked::Objective,
    rollout: &Rollout,
    PromptTemplates { scorers, feedback, student }: PromptTemplates,
    origins: Origins,
) -> Option<Diagnostic> {
    rollout.producer.kind().trajectory()?;
    let at = origins.span(objective.origin);
    let refuse = |what: String, help: &str| {
        Some((*refused(at, format!("{what} of the turns of a recorded trajectory"))).help(help))
    };
    // A plan computes both from the beginning and end of a turn.
    let place = checked.formulas().into_iter().flat_map(Formula::parts).find_map(|part| match &part.0.kind {
        FormulaKind::Signal(CheckedSignal::Plain(PlainSignal::Turn)) => Some("turn"),
        FormulaKind::Signal(CheckedSignal::InSpan(NamedSpan::FinalTurn)) => Some("span.final_turn"),
        _ => None,
    });
    if let Some(place) = place {
        return refuse(format!("the signal `{place}`"), "each turn is a completion of its own here");
    }
    let choices = scorers.iter().flat_map(|(_, scorer)| &scorer.choices);
    let of_scorers = choices.filter_map(|choice| choice.sees.as_ref());
    let of_writers = feedback.iter().filter_map(Feedback::sees);
    let views: Vec<&View> = student.into_iter().chain(of_scorers).chain(of_writers).collect();
    let numbers = views.iter().flat_map(|view| view.numbers());
    let of_numbers = numbers.flat_map(|number| number.graph.signals(&[number.value]));
    let signals = objective.signals().into_iter().chain(scorers.signals()).chain(of_numbers);
    let verdict = signals.into_iter().find_map(|signal| match signal {
        Signal::Plain(PlainSignal::Reward) => Some("reward".to_owned()),
        Signal::RewardPart { part } => Some(format!("reward.{part}")),
        Signal::Plain(PlainSignal::Correct) => Some("correct".to_owned()),
        _ => None,
    });
    if let Some(verdict) = verdict {
        return refuse(format!("the signal `{verdict}`"), "no verifier judges them: read what teachers say");
    }
    if let Some(field) = objective.recorded().first() {
        let construct = format!("`mean(student.logp, on: data({field}))`");
        return refuse(construct, "it is asked of the rows of a step's prompts");
    }
    let slot = views.iter().flat_map(|view| view.slots()).find_map(|slot| match slot {
        Slot::Feedback => Some("feedback"),
        Slot::Group(_) => Some("group"),
        _ => None,
    })?;
    refuse(format!("the slot `{{{slot}}}`"), "show the prompt, fields of the data or what others say of it")
}
