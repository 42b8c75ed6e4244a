//! The steps of a run at which a term is audited.

use mopd_experiment::formula::{Adaptive, Formula, FormulaKind, FormulaNode, PlainSignal, Signal};
use mopd_experiment::{Schedule, StageStep, Temperature};

use super::sampler::Sampler;
use super::teachers::Teachers;
use super::verdict::RunPhase;
use super::view::TermView;

/// The most steps at which a term is evaluated. Schedules written by hand have fewer turns.
const MOST_MOMENTS: usize = 12;

/// Whether a part has another value at another step.
fn is_of_step(node: &FormulaNode) -> bool {
    matches!(
        node.kind,
        FormulaKind::Schedule(_)
            | FormulaKind::Adaptive(Adaptive::Ladder { .. })
            | FormulaKind::Signal(Signal::Plain(PlainSignal::Progress | PlainSignal::Step))
    )
}

/// The number of values of a ladder, if a part is one.
fn rungs(part: &Formula) -> Option<usize> {
    match &part.0.kind {
        FormulaKind::Adaptive(Adaptive::Ladder { values, .. }) => Some(values.len()),
        _ => None,
    }
}

/// The index of a ladder's value at a step. Only the run knows when it advances, so its values share the
/// steps of the audit equally.
pub(super) fn rung(rungs: usize, StageStep { step, steps }: StageStep) -> usize {
    (rungs * step as usize / steps.max(1) as usize).min(rungs.saturating_sub(1))
}

/// The first step of each of a ladder's values.
fn first_steps(rungs: usize, steps: u32) -> impl Iterator<Item = u32> {
    (0..rungs).map(move |rung| (rung * steps as usize).div_ceil(rungs) as u32)
}

/// All formulas that the term depends on, with the weights of the composed teachers that it reads.
fn formulas<'a>(view: &TermView<'a>, teachers: &'a Teachers) -> Vec<&'a Formula> {
    let mut found = view.formulas();
    found.extend(teachers.weights(view.others()));
    found
}

/// Whether the term depends on the step, by itself or through a composed teacher.
pub(super) fn is_scheduled(view: &TermView, sampler: &Sampler, teachers: &Teachers) -> bool {
    formulas(view, teachers).iter().any(|formula| formula.any(is_of_step))
        || temperatures(view, sampler).next().is_some()
}

/// The schedules of the temperatures at which tokens are sampled and scored.
fn temperatures<'a>(view: &'a TermView, sampler: &'a Sampler) -> impl Iterator<Item = &'a Schedule> {
    view.temperature.as_ref().and_then(Temperature::schedule).into_iter().chain(sampler.schedule())
}

/// The parts of the run at which a term is audited, with their steps, in the order of the steps: its start,
/// its middle and its end, and the turns of schedules that have other values there.
pub(super) fn moments(
    view: &TermView,
    sampler: &Sampler,
    teachers: &Teachers,
    steps: u32,
) -> Vec<(RunPhase, u32)> {
    if !is_scheduled(view, sampler, teachers) {
        return vec![(RunPhase::Throughout, 0)];
    }
    let mut schedules: Vec<&Schedule> = temperatures(view, sampler).collect();
    for part in formulas(view, teachers).into_iter().flat_map(Formula::parts) {
        if let FormulaKind::Schedule(schedule) = &part.0.kind
            && !schedules.contains(&schedule)
        {
            schedules.push(schedule);
        }
    }
    let parts = formulas(view, teachers).into_iter().flat_map(Formula::parts);
    let ladders: Vec<usize> = parts.filter_map(rungs).collect();
    let values = |step: u32| -> Vec<f64> {
        let of_ladders = ladders.iter().map(|rungs| rung(*rungs, StageStep { step, steps }) as f64);
        schedules.iter().map(|of| of.at(step, steps)).chain(of_ladders).collect()
    };
    let mut found =
        vec![(RunPhase::Start, 0), (RunPhase::Middle, steps / 2), (RunPhase::End, steps.saturating_sub(1))];
    let mut seen: Vec<Vec<f64>> = found.iter().map(|(_, step)| values(*step)).collect();
    let turns = schedules.iter().flat_map(|schedule| schedule.turns(steps));
    let turns = turns.chain(ladders.iter().flat_map(|rungs| first_steps(*rungs, steps)));
    let mut turns: Vec<u32> = turns.filter(|turn| *turn < steps).collect();
    turns.sort_unstable();
    for step in turns {
        let own = values(step);
        if found.len() < MOST_MOMENTS && !seen.contains(&own) {
            seen.push(own);
            found.push((RunPhase::Step(step), step));
        }
    }
    found.sort_by_key(|(_, step)| *step);
    found
}
