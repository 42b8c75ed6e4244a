//! Converts formulas that choose or order prompts or completions, from numbers known before training on them.

use mopd_experiment::formula;
use mopd_lang::diag::{Code, Diagnostic};
use mopd_plan::{Axis, Formula, PlainSignal, Role, Signal};

use super::formula::CrossRolloutReads;
use super::{Converted, refused};
use crate::lower::formula::{LeafScope, Lowering};
use crate::lower::refusal::Origins;

/// A value for each element of an axis, from numbers known before any model scores: rewards, lengths, the
/// step. For completions, also the student's numbers of their tokens.
pub fn formula(formula: &formula::Formula, what: &str, axis: Axis, origins: Origins) -> Converted<Formula> {
    with(formula, what, axis, origins, CrossRolloutReads::Refused)
}

/// [`formula()`], which may also read numbers of other completions of the prompts.
pub fn with(
    formula: &formula::Formula,
    what: &str,
    axis: Axis,
    origins: Origins,
    elsewhere: CrossRolloutReads,
) -> Converted<Formula> {
    let at = origins.span(formula.0.origin);
    let mut lowering = Lowering::new(LeafScope::RuntimeOnly, origins);
    // Rows and states are there whenever prompts are chosen, which is when other completions are measured.
    let before_steps = matches!(elsewhere, CrossRolloutReads::Measured(_));
    lowering.read(elsewhere);
    let value = lowering.lower(formula)?;
    let known = |signal: &Signal| {
        let of_completions = matches!(
            signal,
            Signal::Plain(PlainSignal::Length | PlainSignal::Truncated | PlainSignal::Position)
        );
        of_completions
            || (signal.is_of_reward() && *signal != Signal::Plain(PlainSignal::TurnReward))
            || signal.is_of_step()
            || matches!(signal, Signal::Measured { .. })
            || (before_steps && signal.is_of_prompt())
            || (axis > Axis::Group && of_student(signal))
    };
    if !lowering.primitives.is_empty() || !lowering.graph.signals(&[value]).iter().all(known) {
        let more = match axis > Axis::Group {
            true => "rewards, lengths and the student",
            false if before_steps => "rewards, lengths, data and states",
            false => "rewards and lengths",
        };
        let refusal = *refused(at, format!("{what} that reads more than {more}"));
        let by_rows = lowering.graph.signals(&[value]).iter().any(Signal::is_of_prompt);
        return Err(Box::new(match by_rows && axis == Axis::Group && !before_steps {
            true => refusal.help(
                "set `refresh`: prompts are then chosen before steps, also by their data and by states",
            ),
            false => refusal,
        }));
    }
    if lowering.graph.axis(value) > axis {
        let one = if formula.unit() == formula::Unit::Bool { "bool" } else { "number" };
        let (each, axis) =
            (if axis > Axis::Group { "completion" } else { "prompt" }, lowering.graph.axis(value));
        let message = format!("{what} is one {one} per {each}, not one per {}", axis.name());
        return Err(Diagnostic::error(Code::AxisMismatch, at, message).into());
    }
    let value = lowering.graph.broadcast(value, axis);
    Ok(Formula { graph: lowering.graph, value })
}

/// A number for each completion, from numbers known before any model scores.
pub fn of_rewards(number: &formula::Formula, what: &str, origins: Origins) -> Converted<Formula> {
    let lowered = formula(number, what, Axis::Sequence, origins)?;
    if lowered.graph.signals(&[lowered.value]).iter().any(of_student) {
        return Err(refused(
            origins.span(number.0.origin),
            format!("{what} that reads what the student says"),
        ));
    }
    Ok(lowered)
}

/// Whether a signal is the student's number of the token taken.
fn of_student(signal: &Signal) -> bool {
    match signal {
        Signal::Of { role, part } => *role == Role::Student && part.definition().from_distribution,
        Signal::InNucleus { role, .. } => *role == Role::Student,
        _ => false,
    }
}
