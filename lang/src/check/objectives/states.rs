//! `state beta = 0.04 then clip(beta * ..., 0.001, 1)`: numbers that an objective carries from step to step.

use std::rc::Rc;

use crate::diag::{Code, Diagnostic, nearest};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{Expr, ExprKind, Index, Name};
use mopd_experiment::State;
use mopd_experiment::formula::{Axis, Formula, FormulaKind, Signal, Unit, text};
use mopd_ops::common_unit;

use crate::check::checker::Checker;
use crate::check::formulas::{arithmetic, signals};
use crate::check::objectives::names;
use crate::check::read::expected;
use crate::check::read::numbers::{self, undecided};
use crate::check::read::turns;
use crate::check::reporter::Reporter;
use crate::check::values::environment::Env;
use crate::check::values::value::{FamilyMembers, MemberKey, Value};

/// A state whose next value is not checked yet, because it may read all names of the objective.
pub(super) struct OpenState<'a> {
    /// `gain`, or `gain[a]` for a member of `state gain[t in guides]`.
    label: String,
    name: &'a Name,
    /// The variable of the index, with its value here.
    turn: Option<(&'a Name, MemberKey, Value)>,
    /// The state has one number per element of this axis.
    axis: Axis,
    first: f64,
    unit: Unit,
    first_span: Span,
    next: &'a Expr,
}

/// A state as it is written: `state name[index] = first by domain then next`.
#[derive(Clone, Copy)]
pub(super) struct WrittenState<'a> {
    pub name: &'a Name,
    pub index: Option<&'a Index>,
    pub by: Option<&'a Name>,
    pub first: &'a Expr,
    pub next: Option<&'a Expr>,
}

/// Declares a state, or one for each element of its index, which makes its name visible in the formulas that
/// are read after it.
pub(super) fn state_begins<'a>(
    checker: &mut Checker,
    written: WrittenState<'a>,
    env: &mut Env,
) -> Option<Vec<OpenState<'a>>> {
    let WrittenState { name, index, by, next, .. } = written;
    names::hides_nothing(checker, name, env);
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
    let axis = state_axis(checker, by);
    let Some(index) = index else {
        let (value, state) = begin(checker, written, name.text.clone(), None, axis, env);
        checker.record(name.span, &value);
        env.bind(&name.text, value);
        return Some(vec![state?]);
    };
    let turns = turns::members(checker, index, env).unwrap_or_default();
    let (mut members, mut states) = (Vec::new(), Vec::new());
    for (key, inner) in turns {
        let (Some(key), Some(value)) = (key, inner.local(&index.name.text)) else {
            names::report_no_index(checker, index);
            break;
        };
        let label = signals::member_name(&name.text, &checker.parts.key_text(&key));
        let turn = Some((&index.name, key.clone(), value.clone()));
        let (value, state) = begin(checker, written, label, turn, axis, &inner);
        members.push((key, value));
        states.push(state);
    }
    let value = match members.is_empty() {
        true => Value::Error,
        false => Value::Family(Rc::new(FamilyMembers { name: name.text.clone(), members })),
    };
    checker.record(name.span, &value);
    env.bind(&name.text, value);
    states.into_iter().collect::<Option<Vec<_>>>().filter(|states| !states.is_empty())
}

/// One state: its value in formulas, and what its next value needs.
fn begin<'a>(
    checker: &mut Checker,
    WrittenState { name, first, next, .. }: WrittenState<'a>,
    label: String,
    turn: Option<(&'a Name, MemberKey, Value)>,
    axis: Option<Axis>,
    env: &Env,
) -> (Value, Option<OpenState<'a>>) {
    let begun = axis.and_then(|axis| Some((axis, first_value(checker, name, first, env)?)));
    let Some((axis, (start, unit))) = begun else { return (Value::Error, None) };
    let signal = Signal::State { name: label.clone(), axis, unit, first: start };
    let value = signals::read_signal(checker, signal, name.span);
    let first_span = first.span;
    let state = next.map(|next| OpenState { label, name, turn, axis, first: start, unit, first_span, next });
    (value, state)
}

/// The axis that `by` gives a state.
fn state_axis(reporter: &mut Reporter, by: Option<&Name>) -> Option<Axis> {
    let Some(by) = by else { return Some(Axis::Run) };
    let diagnostic = match by.text.as_str() {
        "domain" => return Some(Axis::Domain),
        "teacher" => {
            let text = "a state has one number for each domain this way, not for each teacher";
            Diagnostic::error(Code::UnknownValue, by.span, text).help(
                "one for each of several teachers is a family: `state gain[t in guides] = 0 then ...`, where \
                 `guides: teachers` is a parameter; where domains have teachers of their own, `by domain` is one for \
                 each teacher",
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
    let OpenState { label, name, turn, axis: own, first, unit, first_span, next: expr } = begun;
    let mut env = env.clone();
    if let Some((variable, key, value)) = turn {
        env.bind_turn(&variable.text, key, value);
    }
    let value = checker.evaluate(expr, &env);
    let next = expected::formula(checker, value, expr.span)?;
    if common_unit(unit, next.unit()).is_none() {
        let text = format!(
            "the state `{label}` has {} in its update, but starts as {}",
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
        let text = format!("`{label}` is {one}, and this is one per {axis}");
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
        let text = format!("`{label}` is one number for each domain, and this is one for the whole {axis}");
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
    Some(State { name: label, axis: own, first, next, origin: checker.origin(name.span) })
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
