//! Converts numbers of a stage that depend only on the step.

use mopd_lang::formula::{Formula, FormulaKind};
use mopd_plan::refusal::Origins;
use mopd_plan::{self as plan, Signal, StepFunction, schedule};

use super::{Converted, refused};
use crate::lower::formula::{LeafScope, Lowering};

/// Converts a number of the step; `what` describes it, as a noun phrase.
pub fn of_step(formula: &Formula, what: &str, origins: Origins) -> Converted<StepFunction> {
    if let FormulaKind::Number(_) | FormulaKind::Schedule(_) | FormulaKind::Adaptive(_) = formula.0.kind {
        return schedule(formula, what, origins).map(StepFunction::Schedule);
    }
    let mut lowering = Lowering::new(LeafScope::RuntimeOnly, origins);
    let value = lowering.lower(formula)?;
    let known = |signal: &Signal| matches!(signal, Signal::Step | Signal::Progress);
    if !lowering.graph.signals(&[value]).iter().all(known) {
        let at = origins.span(formula.0.origin);
        return Err(refused(at, format!("{what} that reads more than `step` and `progress`")));
    }
    Ok(StepFunction::Formula(plan::Formula { graph: lowering.graph, value }))
}
