//! Guards, `guards = [warn(entropy < 0.1, for: 10 steps)]`: actions when numbers of a stage's steps go wrong.

use std::rc::Rc;

use crate::diag::{Code, Diagnostic};
use crate::source::{Span, Spanned};
use crate::syntax::ast::Expr;
use mopd_experiment::formula::{Formula, FormulaKind, Pooling, Signal, StepNumber, StepWindow, Unit};
use mopd_experiment::{DomainId, Guard, GuardAction, Train};

use crate::check::builtins::declare::{Arg, ArgOr, Call};
use crate::check::builtins::guards::{GuardCall, LowerLr};
use crate::check::builtins::types::{self, Condition, Count, Domains};
use crate::check::checker::Checker;
use crate::check::formulas::{arithmetic, signals};
use crate::check::read::numbers::has_variables;
use crate::check::read::{expected, read};
use crate::check::reporter::Reporter;
use crate::check::values::environment::{Env, EvaluationContext};
use crate::check::values::value::Value;

/// The message where the value of `guards` is not a list of guards.
const USAGE: &str =
    "`guards` lists what to do: `[warn(entropy < 0.1, for: 10 steps)]`, `stop(...)`, `lower_lr(...)`";

/// The guards of a stage that is trained on the domains `trained`. `None` if any is faulty.
pub fn guards(
    checker: &mut Checker,
    given: Option<&Expr>,
    trained: &[DomainId],
    env: &Env,
) -> Option<Vec<Guard>> {
    let Some(expr) = given else { return Some(Vec::new()) };
    let values = match checker.evaluate(expr, &env.with_context(EvaluationContext::Guard)) {
        Value::List(values) => values,
        other => vec![other],
    };
    let mut guards = Vec::new();
    for value in values {
        match value {
            Value::Guards(found) => guards.extend(found.iter().cloned()),
            other => {
                expected::wrong_kind(checker, expr.span, USAGE, &other);
                return None;
            }
        }
    }
    let stranger = |guard: &&Guard| guard.on.is_some_and(|domain| !trained.contains(&domain));
    if let Some(Guard { on: Some(domain), origin, .. }) = guards.iter().find(stranger)
        && !trained.is_empty()
    {
        let (name, span) = (checker.parts.domain(*domain).name.clone(), checker.span(*origin));
        let names: Vec<String> = trained.iter().map(|id| checker.parts.domain(*id).name.clone()).collect();
        let text = format!("the stage is not trained on the domain `{name}`, which this guard watches");
        let help = format!("it is trained on: {}", names.join(", "));
        checker.report(Diagnostic::error(Code::UnknownName, span, text).help(help));
        return None;
    }
    Some(guards)
}

pub fn guard_call(checker: &mut Checker, call: GuardCall, env: &Env) -> Option<Value> {
    let span = call.written().span;
    // Only the condition may read numbers of the steps; the other arguments are constants.
    let before = &env.with_context(EvaluationContext::Constant);
    match call {
        GuardCall::Warn(given) => {
            guard(checker, GuardAction::Warn, given.condition, given.steps, given.on, span, env)
        }
        GuardCall::Stop(given) => {
            guard(checker, GuardAction::Stop, given.condition, given.steps, given.on, span, env)
        }
        GuardCall::LowerLr(LowerLr { condition, by, steps, on, .. }) => {
            let place = by.expr.span;
            let by = read(checker, by, before);
            if let Some(number) = by
                && (number <= 0.0 || number >= 1.0)
            {
                let text = "a learning rate is lowered by a factor between 0 and 1, both excluded";
                checker.report(
                    Diagnostic::error(Code::OutOfRange, place, text).label(format!("this is {number}")),
                );
                return None;
            }
            // The condition is read even so, to report all mistakes at once.
            let action = GuardAction::LowerRate { by: by.unwrap_or(0.5) };
            guard(checker, action, condition, steps, on, span, env).filter(|_| by.is_some())
        }
        GuardCall::Initial(given) => {
            let steps = read(checker, given.steps, before)?;
            over_steps(checker, given.call, given.x, StepWindow::First { steps }, env)
        }
        GuardCall::Recent(given) => {
            let steps = read(checker, given.steps, before)?;
            over_steps(checker, given.call, given.x, StepWindow::Recent { steps }, env)
        }
    }
}

fn guard(
    checker: &mut Checker,
    action: GuardAction,
    condition: Arg<Condition>,
    steps: ArgOr<Count>,
    on: Option<Arg<Domains>>,
    span: Span,
    env: &Env,
) -> Option<Value> {
    let place = condition.expr.span;
    let condition = read(checker, condition, env).filter(|condition| guarded(checker, condition, place));
    let before = &env.with_context(EvaluationContext::Constant);
    let steps = read(checker, steps, before);
    let domains = match on {
        Some(on) => {
            guarded_domains(checker, on, before).map(|domains| domains.into_iter().map(Some).collect())
        }
        None => Some(vec![None]),
    };
    let (condition, steps, domains): (Formula, u32, Vec<Option<DomainId>>) = (condition?, steps?, domains?);
    if !of_domains(checker, &condition, on.is_some(), place) {
        return None;
    }
    let origin = checker.origin(span);
    let guard = |on| Guard { condition: condition.clone(), steps, on, action, origin };
    Some(Value::Guards(Rc::new(domains.into_iter().map(guard).collect())))
}

/// Whether this is a condition on numbers of steps. Reports where it is not.
fn guarded(reporter: &mut Reporter, condition: &Formula, span: Span) -> bool {
    if has_variables(condition) {
        return true;
    }
    if condition.unit() != Unit::Bool {
        let help = "compare with a bound, such as `entropy < 0.1`";
        arithmetic::unit_mismatch(
            reporter,
            Spanned::new(condition, span),
            "expected a condition",
            Some(help),
        );
        return false;
    }
    if numbers(condition).is_empty() {
        let text = "this guard reads no number of the steps";
        let help = format!("it may read: {}", StepNumber::names());
        reporter.report(Diagnostic::error(Code::UnusedSetting, span, text).help(help));
        return false;
    }
    true
}

/// Whether each number of the condition exists per domain (with `on`) or for the step (without).
fn of_domains(reporter: &mut Reporter, condition: &Formula, on: bool, span: Span) -> bool {
    let unsupported = |number: &StepNumber| match number.pooling() {
        Pooling::Step => on,
        Pooling::Share => !on,
        Pooling::Tokens | Pooling::Completions | Pooling::Sum | Pooling::Max => false,
    };
    let Some(number) = numbers(condition).into_iter().find(unsupported) else { return true };
    let name = number.name();
    let (text, help) = if on {
        (format!("`{name}` is of the whole step: no domain has one"), "leave `on` out".to_owned())
    } else {
        (
            format!("`{name}` is a domain's part of the step: all domains together have all of it"),
            "name a domain, `on: math`, or watch each of them, `on: domains`".to_owned(),
        )
    };
    reporter.report(Diagnostic::error(Code::AxisMismatch, span, text).help(help));
    false
}

/// `on: math`, `on: [math, code]`, `on: domains`
fn guarded_domains(checker: &mut Checker, on: Arg<Domains>, env: &Env) -> Option<Vec<DomainId>> {
    let items = match checker.evaluate(on.expr, env) {
        Value::List(items) => items,
        other => vec![other],
    };
    let mut domains = Vec::new();
    for item in items {
        match item {
            Value::Domain(domain) => domains.push(domain),
            other => {
                expected::wrong_kind(checker, on.expr.span, "expected a domain or a list of domains", &other);
                return None;
            }
        }
    }
    Some(domains)
}

/// `initial(entropy)`, `recent(entropy, steps: 10)`
fn over_steps(
    checker: &mut Checker,
    call: Call,
    x: Arg<types::Formula>,
    window: StepWindow,
    env: &Env,
) -> Option<Value> {
    let span = x.expr.span;
    let number = read(checker, x, env)?;
    let FormulaKind::Signal(Signal::OfSteps { number, window: StepWindow::Now }) = &number.0.kind else {
        if !has_variables(&number) {
            let text = format!("`{}` takes a number of the steps by its name", call.builtin.name);
            let help = format!("one of: {}", StepNumber::names());
            checker.report(Diagnostic::error(Code::TypeMismatch, span, text).help(help));
        }
        return None;
    };
    Some(signals::read_signal(checker, Signal::OfSteps { number: *number, window }, call.span))
}

/// Refuses guards of a private stage that do more than warn: its result, or whether there is one, must
/// not depend on numbers that the noise does not cover.
pub fn check_guards(reporter: &mut Reporter, train: &Train) -> bool {
    if train.options.private.is_none() {
        return true;
    }
    let origin = train.origins.private;
    let acts = |guard: &&Guard| guard.action != GuardAction::Warn;
    let Some(guard) = train.guards.iter().find(acts) else { return true };
    let (span, optimizer, name) = (reporter.span(guard.origin), reporter.span(origin), guard.action.name());
    let text = format!("`{name}` would show something of the data that the noise does not cover");
    reporter.report(
        Diagnostic::error(Code::PrivateStatistics, span, text)
            .note(optimizer, "guarantees that no single example can be inferred")
            .help("a private stage may `warn(...)`: that changes nothing of what it answers"),
    );
    false
}

/// The numbers of steps that a condition reads.
fn numbers(condition: &Formula) -> Vec<StepNumber> {
    let read = condition.parts().into_iter().filter_map(|part| match &part.0.kind {
        FormulaKind::Signal(Signal::OfSteps { number, .. }) => Some(*number),
        _ => None,
    });
    read.collect()
}
