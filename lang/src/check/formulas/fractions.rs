//! Fractions of elements that are compared: the `keep` of `top_fraction`, the `q` of `quantile`.

use crate::diag::{Code, Diagnostic};
use crate::source::Spanned;
use mopd_experiment::formula::{Amount, Axis, Formula, Unit};
use mopd_ops::common_unit;

use crate::check::builtins::declare::Arg;
use crate::check::builtins::types;
use crate::check::checker::Checker;
use crate::check::formulas::arithmetic;
use crate::check::formulas::ranges::{possible_values, readable};
use crate::check::read::{numbers, read, reads};
use crate::check::reporter::Reporter;
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

reads! {
    PeerFraction => |checker, given, env| peer_fraction(checker, given, env);
}

/// A fraction of the elements that are compared.
fn peer_fraction(checker: &mut Checker, given: Arg<types::PeerFraction>, env: &Env) -> Option<Amount> {
    let (name, span) = (given.name, given.expr.span);
    let formula = match checker.evaluate(given.expr, env) {
        Value::Formula(formula) if formula.constant().is_none() && !numbers::has_variables(&formula) => {
            formula
        }
        value => {
            let number = numbers::fraction(checker, &value, span, &format!("`{name}`"));
            return number.map(Amount::Number);
        }
    };
    if common_unit(Unit::Fraction, formula.unit()).is_none() {
        let message = format!("`{name}` is a fraction");
        arithmetic::unit_mismatch(checker, Spanned::new(&formula, span), &message, None);
        return None;
    }
    if formula.live() {
        let text = format!("`{name}` carries no gradient");
        checker.report(
            Diagnostic::error(Code::NotDifferentiable, span, text).help("read the value without `live`"),
        );
        return None;
    }
    let (low, high) = possible_values(&formula);
    if high < 0.0 || low > 1.0 {
        let text = format!("`{name}` must lie between 0 and 1");
        let is = match low > 1.0 {
            true => format!("this is never below {}", readable(low)),
            false => format!("this is never above {}", readable(high)),
        };
        checker.report(Diagnostic::error(Code::OutOfRange, span, text).label(is));
        return None;
    }
    Some(Amount::Formula(formula))
}

/// The fraction of a reduction or statistic: a number, and the formula that takes its place where it changes
/// during the run.
pub fn fraction(
    checker: &mut Checker,
    given: Arg<types::PeerFraction>,
    env: &Env,
) -> Option<(f64, Option<Spanned<Formula>>)> {
    Some(match read(checker, given, env)? {
        Amount::Number(number) => (number, None),
        Amount::Formula(formula) => (0.5, Some(Spanned::new(formula, given.expr.span))),
    })
}

/// Whether elements that are taken together have one fraction; reports if not.
pub fn is_of_peers(reporter: &mut Reporter, fraction: Option<&Spanned<Formula>>, over: Axis) -> bool {
    let Some(finer) = fraction.filter(|fraction| fraction.value.axis() > over) else { return true };
    let axis = finer.value.axis().name();
    let text = format!("elements that are compared have one fraction, and this is one per {axis}");
    let help = format!("reduce it: `mean(..., over: {})`", over.name());
    reporter.report(Diagnostic::error(Code::AxisMismatch, finer.span, text).help(help));
    false
}
