//! Numbers over training time: schedules, expressions of `step` and `progress`, and their values over the
//! whole run.

use crate::diag::{Code, Diagnostic};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{Expr, ExprKind};
use mopd_experiment::formula::{Adaptive, Axis, Formula, FormulaKind, Unit};
use mopd_experiment::{Length, Schedule, ScheduleLength};

use crate::check::builtins::declare::Arg;
use crate::check::builtins::declare_settings::Required;
use crate::check::builtins::schedules::{Ladder, Learned, Linear, ScheduleCall, Warmup};
use crate::check::builtins::{bounds, types};
use crate::check::checker::{Checker, DEEPEST_CALL};
use crate::check::formulas::arithmetic;
use crate::check::formulas::ranges::{self, RangeCheck, first_outside, is_never_above_0, significant};
use crate::check::read::numbers::{self, has_variables};
use crate::check::read::{expected, postfix_words, read, reads, settings};
use crate::check::reporter::Reporter;
use crate::check::values::environment::{Env, EvaluationContext};
use crate::check::values::value::Value;

reads! {
    Numbers => |checker, given, env| numbers::numbers(checker, given.expr, env);
    Schedule => |checker, given, env| schedule_setting(checker, given.expr, env);
    Steps => |checker, given, env| stage_length(checker, given.expr, env);
}

/// A number over training time: a plain number, a schedule, or any expression of numbers of the whole
/// run.
pub fn schedule_setting(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<Formula> {
    let value = checker.evaluate(expr, &env.with_context(EvaluationContext::Schedule));
    let formula = match value {
        Value::Formula(formula) if formula.unit() != Unit::Bool => formula,
        Value::Arrow { .. } => {
            checker.report(
                Diagnostic::error(Code::TypeMismatch, expr.span, "`a -> b` alone is not a schedule")
                    .help("write `linear(a -> b)` or `cosine(a -> b)`"),
            );
            return None;
        }
        other => {
            expected::wrong_kind(checker, expr.span, "expected a number or a schedule", &other);
            return None;
        }
    };
    if !postfix_words::word_fits_here(checker, &Value::Formula(formula.clone()), expr.span) {
        return None;
    }
    if formula.axis() != Axis::Run {
        checker.report(
            Diagnostic::error(Code::AxisMismatch, expr.span, "expected one number for the whole run")
                .label(format!("this is one per {}", formula.axis().name()))
                .help("a schedule reads `step` and `progress`"),
        );
        return None;
    }
    Some(formula)
}

/// The length of a stage: `steps = 100`, `steps = 2 epochs`.
pub fn stage_length(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<Length> {
    match checker.evaluate(expr, env) {
        Value::Epochs(epochs) => Some(Length::Epochs(epochs)),
        value => {
            numbers::whole(checker, &value, expr.span, "`steps`", 1).map(|steps| Length::Steps(steps as u32))
        }
    }
}

/// A learning rate: positive at every step.
pub fn learning_rate(
    checker: &mut Checker,
    given: Required<types::Schedule>,
    env: &Env,
    length: Option<Length>,
) -> Option<Formula> {
    let given = settings::required_setting(checker, given)?;
    let (expr, rate) = (given.expr, read(checker, given, env)?);
    match rate.constant() {
        Some(value) if value <= 0.0 => {
            let diagnostic =
                Diagnostic::error(Code::OutOfRange, expr.span, "a learning rate must be above 0");
            checker.report(diagnostic.label(format!("this is {value}")));
            None
        }
        Some(_) => {
            warn_of_rate(checker, &rate, expr.span, length);
            Some(rate)
        }
        // A rate may reach 0 at its end; below 0 it would ascend the loss.
        None if !within(checker, &rate, "the learning rate", (0.0, f64::INFINITY), length) => None,
        None if length.is_some_and(|length| is_never_above_0(&rate, length)) => {
            let text = "a learning rate of 0 at every step trains nothing";
            let diagnostic = Diagnostic::error(Code::OutOfRange, expr.span, text);
            checker.report(diagnostic.help("let it be above 0 at some step of the run"));
            None
        }
        None => {
            warn_of_rate(checker, &rate, expr.span, length);
            Some(rate)
        }
    }
}

/// Warns of learning rates above 1. Published rates of all optimizers are far below: a larger one is a
/// slip, often a lost `e-` or a percentage.
fn warn_of_rate(reporter: &mut Reporter, rate: &Formula, span: Span, length: Option<Length>) {
    if has_variables(rate) {
        return;
    }
    let steps = if let Some(Length::Steps(steps)) = length { steps } else { 1 };
    let largest = match (rate.constant(), first_outside(rate, (f64::NEG_INFINITY, 1.0), steps)) {
        (Some(value), _) if value > 1.0 => value,
        (None, RangeCheck::Leaves { value, .. }) => value,
        _ => return,
    };
    // The fewest digits that show that it is above 1.
    let shown = [4, 7].into_iter().map(|digits| significant(largest, digits)).find(|shown| *shown > 1.0);
    let shown = shown.unwrap_or(largest);
    let diagnostic =
        Diagnostic::warning(Code::OutOfRange, span, "a learning rate above 1 destroys the weights");
    reporter.report(
        diagnostic
            .label(format!("reaches {shown}"))
            .help("published rates lie between 1e-7 and 1e-2: write `1e-5`, for example"),
    );
}

/// Whether a number over training time stays within its bounds at every step of a stage. Reports where it
/// does not.
pub fn within(
    reporter: &mut Reporter,
    formula: &Formula,
    what: &str,
    (low, high): (f64, f64),
    length: Option<Length>,
) -> bool {
    if has_variables(formula) {
        return true;
    }
    if let FormulaKind::Adaptive(Adaptive::Ladder { values, .. }) = &formula.0.kind {
        let Some(outside) = values.iter().find(|value| !(low..=high).contains(*value)) else {
            return true;
        };
        let (span, text) = (
            reporter.span(formula.0.origin),
            format!("{what} must stay between {low} and {high} on every rung"),
        );
        reporter.report(
            Diagnostic::error(Code::ScheduleRange, span, text).label(format!("one rung is {outside}")),
        );
        return false;
    }
    if !matches!(length, Some(Length::Steps(_))) {
        // The steps of an epoch are known only when the data is read, but the end values of a schedule
        // are known now.
        let ends =
            if let FormulaKind::Schedule(schedule) = &formula.0.kind { schedule.ends() } else { Vec::new() };
        if let Some(outside) = ends.into_iter().find(|value| !(low..=high).contains(value)) {
            let span = reporter.span(formula.0.origin);
            let diagnostic = Diagnostic::error(
                Code::ScheduleRange,
                span,
                format!("{what} must stay between {low} and {high}"),
            );
            reporter.report(diagnostic.label(format!("goes to {outside}")));
            return false;
        }
    }
    // A missing length is an error of its own.
    ranges::stays_within(reporter, formula, what, (low, high), length.unwrap_or(Length::Steps(1)))
}

/// `linear(0 -> 1, over: 100 steps)` and the other schedules.
pub fn schedule_call(checker: &mut Checker, call: ScheduleCall, env: &Env) -> Option<Formula> {
    let span = call.written().span;
    let (kind, unit) = match call {
        ScheduleCall::Ladder(given) => (ladder(checker, given, env).map(FormulaKind::Adaptive), Unit::Number),
        ScheduleCall::Learned(given) => {
            (learned(checker, given, env).map(FormulaKind::Adaptive), Unit::Fraction)
        }
        call => (schedule(checker, call, env).map(FormulaKind::Schedule), Unit::Number),
    };
    let origin = checker.origin(span);
    kind.map(|kind| Formula::new(kind, unit, Axis::Run, false, origin))
}

fn schedule(checker: &mut Checker, call: ScheduleCall, env: &Env) -> Option<Schedule> {
    Some(match call {
        ScheduleCall::Constant(given) => Schedule::Constant { value: read(checker, given.value, env)? },
        ScheduleCall::Linear(given) | ScheduleCall::Cosine(given) | ScheduleCall::Exponential(given) => {
            crossing(checker, given, env)?
        }
        ScheduleCall::Piecewise(given) => piecewise(checker, given.pieces.expr, env)?,
        ScheduleCall::Alternate(given) => {
            let (values, every) = (read(checker, given.values, env), read(checker, given.every, env));
            Schedule::Alternate { values: values?, every: every? }
        }
        ScheduleCall::Warmup(given) => warmup(checker, given, env)?,
        ScheduleCall::Ladder(_) | ScheduleCall::Learned(_) => unreachable!("they adapt to the run"),
    })
}

fn warmup(checker: &mut Checker, given: Warmup, env: &Env) -> Option<Schedule> {
    let steps = read(checker, given.steps, env);
    let formula = read(checker, given.then, env)?;
    let then = match &formula.0.kind {
        FormulaKind::Number(value) => Schedule::Constant { value: *value },
        FormulaKind::Schedule(schedule) => schedule.clone(),
        _ if has_variables(&formula) => return None,
        _ => {
            let wanted = "`then` of a warm-up is a number or a schedule";
            expected::wrong_kind(checker, given.then.expr.span, wanted, &Value::Formula(formula));
            return None;
        }
    };
    if then.warmups() >= DEEPEST_CALL {
        let text = format!("warmups are nested more than {DEEPEST_CALL} deep");
        checker.report(
            Diagnostic::error(Code::NestingTooDeep, given.steps.expr.span, text)
                .help("one of them is enough"),
        );
        return None;
    }
    Some(Schedule::Warmup { steps: steps?, then: Box::new(then) })
}

/// The schedule from one number to another: `linear`, `cosine` or `exponential`.
fn crossing(checker: &mut Checker, given: Linear, env: &Env) -> Option<Schedule> {
    let (range, written) = (given.range.expr, given.call.builtin.name);
    let (from, to) = match checker.evaluate(range, env) {
        Value::Arrow { from, to } => (from, to),
        other => {
            let wanted = format!("`{written}` needs a range, such as `{written}(1e-3 -> 1e-4)`");
            // `cosine(1e-3, 1e-4)`
            let second = given.over.map(Arg::expr).filter(|second| {
                checker.key_before(second.span).is_none()
                    && matches!(second.kind, ExprKind::Number { suffix: None, .. })
            });
            match (other.constant(), second) {
                (Some(_), Some(second)) => {
                    let whole = range.span.to(second.span);
                    let ours = format!(
                        "{} -> {}",
                        checker.sources.text(range.span),
                        checker.sources.text(second.span)
                    );
                    let diagnostic =
                        Diagnostic::error(Code::TypeMismatch, whole, wanted).label("two numbers");
                    checker.report(diagnostic.help(format!("write `{written}({ours})`")).fix(
                        format!("write `{ours}`"),
                        whole,
                        ours,
                    ));
                }
                _ => {
                    expected::wrong_kind(checker, range.span, &wanted, &other);
                }
            }
            return None;
        }
    };
    let over = match given.over {
        None => ScheduleLength::Run,
        Some(over) => transition_length(checker, over.expr, env)?,
    };
    Some(match written {
        "linear" => Schedule::Linear { from, to, over },
        "cosine" => Schedule::Cosine { from, to, over },
        _ => {
            if from <= 0.0 || to <= 0.0 {
                let text = "`exponential` multiplies by the same factor every step, so both ends are above 0";
                checker.report(
                    Diagnostic::error(Code::OutOfRange, range.span, text)
                        .label(format!("goes from {from} to {to}"))
                        .help("to end at 0, write `linear` or `cosine`"),
                );
                return None;
            }
            Schedule::Exponential { from, to, over }
        }
    })
}

/// `over: 100 steps`, or a share of the run: `over: 25%`.
fn transition_length(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<ScheduleLength> {
    let value = checker.evaluate(expr, env);
    // 100% and 1 are the same number; the notation decides.
    let percent = match &value {
        Value::Formula(formula) => checker.sources.text(checker.span(formula.0.origin)).ends_with('%'),
        _ => false,
    };
    match value.constant() {
        Some(share) if percent || (share > 0.0 && share < 1.0) => {
            let share = numbers::fraction(checker, &value, expr.span, "a share of the run")?;
            if share == 0.0 {
                checker.report(
                    Diagnostic::error(
                        Code::OutOfRange,
                        expr.span,
                        "the length of a schedule must be above 0",
                    )
                    .label("no step at all"),
                );
                return None;
            }
            Some(ScheduleLength::Share(share))
        }
        _ => numbers::whole(checker, &value, expr.span, "`over`", 1)
            .map(|steps| ScheduleLength::Steps(steps as u32)),
    }
}

/// `[0 -> 1e-3, 100 -> 1e-4]`: increasing steps, from 0.
fn piecewise(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<Schedule> {
    const USAGE: &str = "write each as `step -> value`: `piecewise([0 -> 1e-3, 100 -> 1e-4])`";
    let values = match checker.evaluate(expr, env) {
        Value::List(values) => values,
        other => {
            expected::wrong_kind(checker, expr.span, "`piecewise` needs a list of pieces", &other);
            return None;
        }
    };
    let place = |index: usize| match &expr.kind {
        ExprKind::List(items) => items[index].span,
        _ => expr.span,
    };
    let mut pieces: Vec<(u32, f64)> = Vec::new();
    for (index, value) in values.iter().enumerate() {
        let Value::Arrow { from, to } = value else {
            expected::wrong_kind(checker, place(index), USAGE, value);
            return None;
        };
        let rises = pieces.last().map_or(*from == 0.0, |(last, _)| *from > f64::from(*last));
        let last = f64::from(bounds::STEPS.most);
        if from.fract() != 0.0 || *from > last || !rises {
            let wanted = match index {
                0 => "the first piece begins at step 0",
                _ if *from > last => "no run has that many steps",
                _ => "each piece begins at a later step",
            };
            checker.report(
                Diagnostic::error(Code::OutOfRange, place(index), wanted)
                    .label(format!("begins at {from}"))
                    .help(USAGE),
            );
            return None;
        }
        pieces.push((*from as u32, *to));
    }
    if pieces.is_empty() {
        checker.report(
            Diagnostic::error(Code::OutOfRange, expr.span, "this list of pieces is empty").help(USAGE),
        );
        return None;
    }
    Some(Schedule::Piecewise { pieces })
}

fn ladder(checker: &mut Checker, given: Ladder, env: &Env) -> Option<Adaptive> {
    let (values, every) = (read(checker, given.values, env), read(checker, given.every, env));
    let advance_if = after_a_step(checker, given.advance_if.expr, env, true)?;
    Some(Adaptive::Ladder { values: values?, advance_if, every: every? })
}

fn learned(checker: &mut Checker, given: Learned, env: &Env) -> Option<Adaptive> {
    let gain = after_a_step(checker, given.gain.expr, env, false);
    let (hold, discount) = (read(checker, given.hold, env), read(checker, given.discount, env));
    let lr = read(checker, given.lr, env);
    Some(Adaptive::Learned { gain: gain?, hold: hold?, discount: discount?, lr: lr? })
}

/// The formula that drives an adaptive schedule: one number, or one bool, per step.
fn after_a_step(checker: &mut Checker, expr: &Expr, env: &Env, truth: bool) -> Option<Formula> {
    let value = checker.evaluate(expr, &env.with_context(EvaluationContext::Objective));
    let formula = expected::formula(checker, value, expr.span)?;
    if (formula.unit() == Unit::Bool) != truth {
        let message = if truth { "`advance_if` is a condition" } else { "`gain` is a number, not a bool" };
        arithmetic::unit_mismatch(checker, Spanned::new(&formula, expr.span), message, None);
        return None;
    }
    if formula.axis() > Axis::Batch {
        checker.report(
            Diagnostic::error(
                Code::AxisMismatch,
                expr.span,
                "this is computed once per step, so it must be one number",
            )
            .label(format!("this is one per {}", formula.axis().name()))
            .help("reduce first: `mean(x, over: batch)`"),
        );
        return None;
    }
    Some(formula)
}

/// A share that may change during training.
pub fn share(checker: &mut Checker, expr: &Expr, what: &str, env: &Env) -> Option<Formula> {
    let formula = schedule_setting(checker, expr, env)?;
    if formula.constant().is_some() {
        numbers::fraction(checker, &Value::Formula(formula.clone()), expr.span, what)?;
    }
    Some(formula)
}
