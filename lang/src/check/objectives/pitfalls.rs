//! Mistakes in the formulas of an objective, whatever stage it trains.

use std::rc::Rc;

use rustc_hash::FxHashSet;

use crate::diag::{Code, Diagnostic};
use mopd_experiment::Objective;
use mopd_experiment::formula::{
    Divergence, DivergenceKind, Formula, FormulaKind, FormulaNode, Function, Live, Mass, Reduction, Signal,
    Support, Unit,
};
use mopd_ops::interval::{ANYTHING, ValueInterval};

use crate::check::formulas::precision;
use crate::check::reporter::Reporter;

/// Whether the sum over the support can be negative, because the values on it do not sum to 1.
pub fn can_be_negative(divergence: &Divergence) -> bool {
    divergence.mass == Mass::Raw
        && divergence.support != Support::Full
        && match &divergence.kind {
            DivergenceKind::Kl => true,
            DivergenceKind::Entrywise(summand) => !summand.facts.never_negative,
            DivergenceKind::SortedL1 | DivergenceKind::Gaussian { .. } => false,
        }
}

/// The value that a node clamps from below at a number that is at least 0, and that number. `None` if the
/// node does not clamp.
pub fn held_above_zero(node: &FormulaNode) -> Option<(&Formula, f64)> {
    let FormulaKind::Apply { function, operands } = &node.kind else { return None };
    let at_least_zero = |bound: &Formula| bound.constant().filter(|bound| *bound >= 0.0);
    match (function, operands.as_slice()) {
        (Function::Relu, [value]) => Some((value, 0.0)),
        (Function::Maximum, [value, bound]) | (Function::Maximum, [bound, value])
            if at_least_zero(bound).is_some() =>
        {
            Some((value, bound.constant()?))
        }
        (Function::Clip, [value, low, _]) => Some((value, at_least_zero(low)?)),
        _ => None,
    }
}

/// Whether a value is above a bound where one of its parts is 0, so that the bound does not begin there.
pub fn is_above(value: &Formula, bound: f64, part: &Formula) -> bool {
    fn range(formula: &Formula, part: &Formula) -> ValueInterval {
        match &formula.0.kind {
            _ if Rc::ptr_eq(&formula.0, &part.0) => (0.0, 0.0),
            FormulaKind::Apply { function, operands } => {
                let operands: Vec<ValueInterval> =
                    operands.iter().map(|operand| range(operand, part)).collect();
                function.finite_range(&operands)
            }
            FormulaKind::Number(value) => (*value, *value),
            _ => match formula.unit() {
                Unit::Prob | Unit::Fraction => (0.0, 1.0),
                _ => ANYTHING,
            },
        }
    }
    range(value, part).0 > bound
}

/// A live partial sum whose negative values make `value` negative. The values of `exp` never are.
pub fn partial_sum(value: &Formula) -> Option<&Formula> {
    // Shared parts are visited once for each sign: the number of paths to them may be huge.
    let mut seen: FxHashSet<(*const FormulaNode, bool)> = FxHashSet::default();
    let mut pending = vec![(value, true)];
    while let Some((formula, positive)) = pending.pop() {
        if !seen.insert((Rc::as_ptr(&formula.0), positive)) {
            continue;
        }
        match &formula.0.kind {
            FormulaKind::Live(Live::Divergence(divergence)) if positive && can_be_negative(divergence) => {
                return Some(formula);
            }
            FormulaKind::Reduce { reduction: Reduction::Sum | Reduction::Mean, operand, .. } => {
                pending.push((operand, positive))
            }
            FormulaKind::Apply { function, operands } => match (function, operands.as_slice()) {
                (Function::Negate, [x]) => pending.push((x, !positive)),
                (Function::Tanh, [x]) => pending.push((x, positive)),
                (Function::Add, [left, right]) | (Function::Where, [_, left, right]) => {
                    pending.extend([(right, positive), (left, positive)]);
                }
                (Function::Subtract, [left, right]) => pending.extend([(right, !positive), (left, positive)]),
                // A square is never negative.
                (Function::Multiply, [left, right]) if same_divergence(left, right) => {}
                (Function::Multiply, [left, right]) => {
                    let keeps =
                        |factor: &Formula| positive == factor.constant().is_none_or(|factor| factor > 0.0);
                    pending.extend([(right, keeps(left)), (left, keeps(right))]);
                }
                (Function::Divide, [above, below]) => {
                    pending.push((above, positive == below.constant().is_none_or(|below| below > 0.0)));
                }
                _ => {}
            },
            _ => {}
        }
    }
    None
}

pub fn same_divergence(left: &Formula, right: &Formula) -> bool {
    let divergence = |formula: &Formula| match &formula.0.kind {
        FormulaKind::Live(Live::Divergence(divergence))
        | FormulaKind::Signal(Signal::Divergence(divergence)) => Some(divergence.clone()),
        _ => None,
    };
    Rc::ptr_eq(&left.0, &right.0) || divergence(left).is_some_and(|left| divergence(right) == Some(left))
}

/// Warns of mistakes that do not depend on the stage.
pub fn warn_of_formulas(reporter: &mut Reporter, objective: &Objective) {
    warn_of_clamped_divergences(reporter, objective);
    precision::warn_of_subnormal_numbers(reporter, objective);
}

/// Warns of a partial sum with a lower bound of 0. The sum may be negative, and the bound removes its
/// gradient. One user of a trainer counted 415 of 467 such steps.
pub fn warn_of_clamped_divergences(reporter: &mut Reporter, objective: &Objective) {
    for part in objective.terms.iter().flat_map(|term| term.value.parts()) {
        let Some((value, bound)) = held_above_zero(&part.0).filter(|(value, _)| value.live()) else {
            continue;
        };
        let Some(inside) = partial_sum(value).filter(|inside| !is_above(value, bound, inside)) else {
            continue;
        };
        let (span, divergence) = (reporter.span(part.0.origin), reporter.span(inside.0.origin));
        reporter.report(
            Diagnostic::warning(
                Code::ClampedDivergence,
                span,
                "this bound deletes the gradient wherever the partial sum is negative",
            )
            .note(divergence, "with `mass: raw` it can be")
            .help("write `mass: tail` or `mass: generalized`, which are never negative, and drop the bound"),
        );
    }
}
