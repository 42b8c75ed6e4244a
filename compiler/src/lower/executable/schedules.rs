//! Converts numbers of a stage that change during training.

use mopd_experiment::Schedule;
use mopd_experiment::formula::{Adaptive, Formula, FormulaKind};
use mopd_plan::{self as plan, AdaptiveSchedule, Signal, StepFunction};

use super::{Converted, Origins, refused};
use crate::lower::formula::{LeafScope, Lowering};

/// Converts a number that may change during training. `what` describes it, as a noun phrase.
pub fn adaptive_schedule(formula: &Formula, what: &str, origins: Origins) -> Converted<AdaptiveSchedule> {
    let at = origins.span(formula.0.origin);
    match &formula.0.kind {
        FormulaKind::Adaptive(Adaptive::Ladder { values, .. }) => {
            let ladder = origins.ladders.iter().position(|known| known.0.kind == formula.0.kind);
            let ladder = ladder.expect("a stage knows the ladders of its rollouts") as u32;
            Ok(AdaptiveSchedule::Ladder { ladder, values: values.clone() })
        }
        FormulaKind::Adaptive(Adaptive::Learned { .. }) => {
            Err(refused(at, format!("{what} that is learned")))
        }
        _ => schedule(formula, what, origins).map(AdaptiveSchedule::Schedule),
    }
}

/// [`adaptive_schedule`] for a number that may not depend on the run.
pub fn schedule(formula: &Formula, what: &str, origins: Origins) -> Converted<Schedule> {
    let at = origins.span(formula.0.origin);
    match &formula.0.kind {
        FormulaKind::Number(value) => Ok(Schedule::Constant { value: *value }),
        FormulaKind::Schedule(schedule) => Ok(schedule.clone()),
        FormulaKind::Adaptive(_) => Err(refused(at, format!("{what} that adapts to the run"))),
        _ => Err(refused(at, format!("{what} that is computed from others"))),
    }
}

/// Converts a number of the step; `what` describes it, as a noun phrase.
pub fn of_step(formula: &Formula, what: &str, origins: Origins) -> Converted<StepFunction> {
    if let FormulaKind::Number(_) | FormulaKind::Schedule(_) | FormulaKind::Adaptive(_) = formula.0.kind {
        return schedule(formula, what, origins).map(StepFunction::Schedule);
    }
    let mut lowering = Lowering::new(LeafScope::RuntimeOnly, origins);
    let value = lowering.lower(formula)?;
    if !lowering.graph.signals(&[value]).iter().all(Signal::is_of_step) {
        let at = origins.span(formula.0.origin);
        return Err(refused(at, format!("{what} that reads more than `step` and `progress`")));
    }
    Ok(StepFunction::Formula(plan::Formula { graph: lowering.graph, value }))
}
