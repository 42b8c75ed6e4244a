//! `state beta = 0.04 then clip(beta * ..., 0.001, 1)`: numbers that an objective carries from step to step.

use crate::diag::{Code, Diagnostic, nearest};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{Expr, ExprKind, Name};
use mopd_experiment::State;
use mopd_experiment::formula::{Axis, Formula, FormulaKind, Signal, Unit, text};
use mopd_ops::common_unit;

use crate::check::checker::Checker;
use crate::check::formulas::{arithmetic, signals};
use crate::check::objectives::names;
use crate::check::read::expected;
use crate::check::read::numbers::{self, undecided};
use crate::check::reporter::Reporter;
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

/// A state whose next value is not checked yet, because it may read all names of the objective.
pub(super) struct OpenState<'a> {
    name: &'a Name,
    /// The state has one number per element of this axis.
    axis: Axis,
    first: f64,
    unit: Unit,
    first_span: Span,
    next: &'a Expr,
}

/// Declares a state, which makes its name visible in the formulas that are read after it.
pub(super) fn state_begins<'a>(
    checker: &mut Checker,
    name: &'a Name,
    by: Option<&Name>,
    first: &Expr,
    next: Option<&'a Expr>,
    env: &mut Env,
) -> Option<OpenState<'a>> {
    names::hides_nothing(checker, name, env);
    let axis = state_axis(checker, by);
    let begun = axis.and_then(|axis| Some((axis, first_value(checker, name, first, env)?)));
    let value = begun.map_or(Value::Error, |(axis, (first, unit))| {
        signals::read_signal(checker, Signal::State { name: name.text.clone(), axis, unit, first }, name.span)
    });
    checker.record(name.span, &value);
    env.bind(&name.text, value);
    if next.is_none() {
        let text = format!("the state `{}` has no next value", name.text);
        let help = format!(
            "write `state {} = first then next`, or `let` for a number that each step computes anew",
            name.text
        );
        checker.report(Diagnostic::error(Code::MissingArgument, name.span, text).help(help));
    }
    if let Some(next) = next.filter(|next| matches!(&next.kind, ExprKind::Name(same) if *same == name.text)) {
        let text = format!("the state `{}` never changes: its next value is itself", name.text);
        checker.report(
            Diagnostic::warning(Code::UnusedSetting, next.span, text)
                .help(format!("write another next value, or a constant: `let {} = ...`", name.text)),
        );
    }
    let (first_span, next, (axis, (first, unit))) = (first.span, next?, begun?);
    Some(OpenState { name, axis, first, unit, first_span, next })
}

/// The axis that `by` gives a state.
fn state_axis(reporter: &mut Reporter, by: Option<&Name>) -> Option<Axis> {
    let Some(by) = by else { return Some(Axis::Run) };
    let diagnostic = match by.text.as_str() {
        "domain" => return Some(Axis::Domain),
        "teacher" => {
            let text = "a state with one number for each teacher is not supported yet";
            Diagnostic::error(Code::NotSupported, by.span, text).help(
                "`by domain` has one for each domain; where domains have teachers of their own, that is one for each teacher",
            )
        }
        other => {
            let text = format!("a state is one number, or one for each domain, not for each `{other}`");
            let diagnostic = Diagnostic::error(Code::UnknownValue, by.span, text);
            match nearest(other, ["domain"]) {
                Some(near) => diagnostic.did_you_mean(other, near),
                None => diagnostic.help("for one number for each domain write `by domain`"),
            }
        }
    };
    reporter.report(diagnostic);
    None
}

fn first_value(checker: &mut Checker, name: &Name, first: &Expr, env: &Env) -> Option<(f64, Unit)> {
    let value = checker.evaluate(first, env);
    let number = match value.constant() {
        Some(number) => Some(number),
        None if undecided(&value) => numbers::any_number(checker, 1.0),
        None => {
            let text = format!("the first value of `{}` must be a number known before the run", name.text);
            expected::wrong_kind(checker, first.span, &text, &value);
            return None;
        }
    };
    let formula = expected::formula(checker, value, first.span)?;
    if formula.unit() == Unit::Bool {
        let text = "a state is a number, not a bool";
        let help = Some("begin with 0 or 1, and compare where it is read");
        arithmetic::unit_mismatch(checker, Spanned::new(&formula, first.span), text, help);
        return None;
    }
    Some((number?, formula.unit()))
}

/// The state with its next value. `env` has all names of the objective.
pub(super) fn state_moves(checker: &mut Checker, begun: OpenState, env: &Env) -> Option<State> {
    let OpenState { name, axis: own, first, unit, first_span, next: expr } = begun;
    let value = checker.evaluate(expr, env);
    let next = expected::formula(checker, value, expr.span)?;
    if common_unit(unit, next.unit()).is_none() {
        let text = format!(
            "the state `{}` has {} in its update, but starts as {}",
            name.text,
            next.unit().name(),
            unit.name()
        );
        let diagnostic = Diagnostic::error(Code::UnitMismatch, expr.span, text)
            .label(format!("this is {}", next.unit().name()))
            .note(first_span, format!("this is {}", unit.name()));
        checker.report(diagnostic.help("a state keeps its unit from step to step"));
        return None;
    }
    // A number per batch becomes one of the run for the next step.
    let (most, over) = match own {
        Axis::Domain => (Axis::Domain, "domain"),
        _ => (Axis::Batch, "batch"),
    };
    if next.axis() > most {
        let axis = next.axis().name();
        let one = if own == Axis::Domain { "one number for each domain" } else { "one number of the run" };
        let text = format!("`{}` is {one}, and this is one per {axis}", name.text);
        let culprit = unreduced(&next, most).unwrap_or(&next);
        let span = checker.span(culprit.0.origin);
        let culprit = text::formula(culprit, 60);
        let diagnostic = Diagnostic::error(Code::AxisMismatch, expr.span, text)
            .label(format!("one number per {axis}"))
            .note(span, format!("differs within the {over}"));
        checker.report(diagnostic.help(format!("reduce it first: `mean({culprit}, over: {over})`")));
        return None;
    }
    if own == Axis::Domain && next.axis() < Axis::Domain {
        let axis = next.axis().name();
        let text =
            format!("`{}` is one number for each domain, and this is one for the whole {axis}", name.text);
        let diagnostic =
            Diagnostic::error(Code::AxisMismatch, expr.span, text).label("the same for all domains").help(
                "`mean(x, over: domain)` is each domain's own; without `by domain` the state is one number",
            );
        checker.report(diagnostic);
        return None;
    }
    if next.live() {
        let text = "what is carried from step to step carries no gradient";
        checker.report(Diagnostic::error(Code::NotDifferentiable, expr.span, text));
        return None;
    }
    Some(State { name: name.text.clone(), axis: own, first, next, origin: checker.origin(name.span) })
}

/// The first number that is finer than `most` without a reduction.
fn unreduced(formula: &Formula, most: Axis) -> Option<&Formula> {
    let mut waiting = vec![formula];
    while let Some(formula) = waiting.pop() {
        let fine: Vec<&Formula> = formula.operands().into_iter().filter(|part| part.axis() > most).collect();
        match &formula.0.kind {
            _ if formula.axis() <= most => {}
            FormulaKind::Apply { .. } if !fine.is_empty() => waiting.extend(fine.into_iter().rev()),
            _ => return Some(formula),
        }
    }
    None
}
