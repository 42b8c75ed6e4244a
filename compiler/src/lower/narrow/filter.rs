//! A choice of prompts, or their order, by what their rollouts earned.

use mopd_lang::diag::{Code, Diagnostic};
use mopd_lang::formula;

use super::{Narrowed, refused};
use crate::lower::formula::{Lowering, Supply};
use crate::plan::{Axis, Formula, Signal};
use crate::refusal::Origins;

/// A value per group, of what is known before any model scores: rewards, lengths, the step.
pub fn formula(formula: &formula::Formula, what: &str, origins: Origins) -> Narrowed<Formula> {
    let at = origins.span(formula.0.origin);
    let mut lowering = Lowering::new(Supply::Runtime, origins);
    let value = lowering.lower(formula)?;
    let known = |signal: &Signal| {
        let of_completions = matches!(signal, Signal::Length | Signal::Truncated | Signal::Position);
        of_completions || matches!(signal, Signal::Reward | Signal::Correct | Signal::Progress | Signal::Step)
    };
    if !lowering.primitives.is_empty() || !lowering.graph.signals(&[value]).iter().all(known) {
        return Err(refused(at, format!("{what} that reads more than rewards and lengths")));
    }
    if lowering.graph.axis(value) > Axis::Group {
        let one = if formula.unit() == formula::Unit::Bool { "bool" } else { "number" };
        let axis = lowering.graph.axis(value).name();
        let message = format!("{what} is one {one} per prompt, not one per {axis}");
        return Err(Diagnostic::error(Code::AxisMismatch, at, message).into());
    }
    let value = lowering.graph.broadcast(value, Axis::Group);
    Ok(Formula { graph: lowering.graph, value })
}
