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
    let number = Spanned::new(&formula, span);
    let sound = carries_no_gradient(checker, number, &format!("`{name}` carries no gradient"), LIVE_HELP)
        && may_lie_within(checker, number, (0.0, 1.0), &format!("`{name}` must lie between 0 and 1"));
    sound.then_some(Amount::Formula(formula))
}

/// What to do where a number is not to carry gradient.
pub const LIVE_HELP: &str = "read the value without `live`";

/// Whether a number carries no gradient; reports if it does.
pub fn carries_no_gradient(
    reporter: &mut Reporter,
    number: Spanned<&Formula>,
    text: &str,
    help: &str,
) -> bool {
    if number.value.live() {
        reporter.report(Diagnostic::error(Code::NotDifferentiable, number.span, text).help(help));
    }
    !number.value.live()
}

/// Whether some possible value of a number lies within these bounds; reports if none does.
pub fn may_lie_within(
    reporter: &mut Reporter,
    number: Spanned<&Formula>,
    (least, most): (f64, f64),
    text: &str,
) -> bool {
    let (low, high) = possible_values(number.value);
    let (too_low, too_high) = (high < least, low > most);
    if !too_low && !too_high {
        return true;
    }
    let label = match number.value.constant() {
        Some(constant) => format!("this is {}", readable(constant)),
        None if too_high => format!("this is never below {}", readable(low)),
        None => format!("this is never above {}", readable(high)),
    };
    reporter.report(Diagnostic::error(Code::OutOfRange, number.span, text).label(label));
    false
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
