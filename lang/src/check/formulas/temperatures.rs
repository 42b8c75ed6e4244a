//! Temperatures: numbers, schedules or formulas, within the range in which logits stay finite.

use std::ops::RangeInclusive;

use crate::diag::{Code, Diagnostic};
use crate::source::{Span, Spanned};
use crate::syntax::ast::Expr;
use mopd_experiment::formula::{Amount, Axis, Formula, FormulaKind, Unit};

use crate::check::checker::Checker;
use crate::check::formulas::fractions::{LIVE_HELP, carries_no_gradient, may_lie_within};
use crate::check::formulas::{arithmetic, schedules};
use crate::check::read::{numbers, reads};
use crate::check::reporter::Reporter;
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

reads! {
    Temperature => |checker, given, env| temperature_of_steps(checker, given.expr, env, true);
    PositiveTemperature => |checker, given, env| temperature_of_steps(checker, given.expr, env, false);
    GreedyTemperature => |checker, given, env| temperature(checker, given.expr, env, true);
    TeacherTemperature => |checker, given, env| temperature(checker, given.expr, env, false);
}

/// The temperatures allowed: logits divided by them stay within single precision (1e-38 to 1e38), with room
/// for the size of the logits themselves.
pub const TEMPERATURES: RangeInclusive<f64> = 1e-30..=1e30;

/// The least sampling temperature; 0 (the most probable token) is accepted only with `greedy`.
pub fn least_temperature(greedy: bool) -> f64 {
    if greedy { 0.0 } else { f64::MIN_POSITIVE }
}

/// A sampling temperature. 0 (the most probable token) is accepted only with `greedy`.
pub fn temperature(checker: &mut Checker, expr: &Expr, env: &Env, greedy: bool) -> Option<f64> {
    let number = numbers::at_least(checker, expr, "temperature", env, least_temperature(greedy))?;
    temperature_fits(checker, number, expr.span).then_some(number)
}

/// The temperature of rollouts: a number, or a schedule of numbers above 0.
pub fn temperature_of_steps(checker: &mut Checker, expr: &Expr, env: &Env, greedy: bool) -> Option<Formula> {
    let value = schedules::schedule_setting(checker, expr, env)?;
    if let FormulaKind::Schedule(schedule) = &value.0.kind {
        let ends = schedule.ends();
        if let Some(low) = ends.iter().find(|end| **end <= 0.0) {
            let text = "a temperature that changes must stay above 0";
            checker.report(
                Diagnostic::error(Code::ScheduleRange, expr.span, text)
                    .label(format!("goes to {low}"))
                    .help("let it end above 0: `linear(1 -> 0.1)`"),
            );
            return None;
        }
        return ends.into_iter().all(|end| temperature_fits(checker, end, expr.span)).then_some(value);
    }
    let number = match value.constant() {
        Some(number) => number,
        None if numbers::has_variables(&value) => numbers::any_number(checker, 1.0)?,
        None => {
            let text = "a temperature is a number or a schedule";
            checker.report(
                Diagnostic::error(Code::TypeMismatch, expr.span, text)
                    .label("this is computed from others")
                    .help("write a schedule, such as `linear(1 -> 0.7)`"),
            );
            return None;
        }
    };
    let sound =
        numbers::number_at_least(checker, number, "temperature", least_temperature(greedy), expr.span)
            && temperature_fits(checker, number, expr.span);
    sound.then(|| constant_temperature(checker, number, expr.span))
}

/// The temperature of a divergence: a number, or one that changes during the run or from token to token.
pub fn of_divergence(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<Amount> {
    let formula = match checker.evaluate(expr, env) {
        Value::Error => return None,
        Value::Formula(formula) if formula.constant().is_none() && !numbers::has_variables(&formula) => {
            formula
        }
        _ => return temperature(checker, expr, env, false).map(Amount::from),
    };
    if formula.unit() == Unit::Bool {
        let help = "use `where(condition, then, else)`";
        arithmetic::unit_mismatch(
            checker,
            Spanned::new(&formula, expr.span),
            "a temperature is a number",
            Some(help),
        );
        return None;
    }
    let number = Spanned::new(&formula, expr.span);
    let sound = carries_no_gradient(checker, number, "a temperature carries no gradient", LIVE_HELP)
        && may_lie_within(
            checker,
            number,
            (f64::MIN_POSITIVE, f64::INFINITY),
            "a temperature must be above 0",
        );
    sound.then_some(Amount::Formula(formula))
}

pub fn constant_temperature(reporter: &mut Reporter, number: f64, at: Span) -> Formula {
    Formula::new(FormulaKind::Number(number), Unit::Number, Axis::Run, false, reporter.origin(at))
}

/// Whether logits divided by the temperature stay finite; reports if not.
pub fn temperature_fits(reporter: &mut Reporter, number: f64, span: Span) -> bool {
    if number == 0.0 || TEMPERATURES.contains(&number) {
        return true;
    }
    let (low, high) = (TEMPERATURES.start(), TEMPERATURES.end());
    let (text, why) = match number < *low {
        true => (format!("`temperature` must be at least {low:e}"), "infinite"),
        false => (format!("`temperature` must be at most {high:e}"), "0"),
    };
    reporter.report(
        Diagnostic::error(Code::OutOfRange, span, text)
            .label(format!("this is {number:e}"))
            .help(format!("logits divided by it would be {why} in single precision")),
    );
    false
}
