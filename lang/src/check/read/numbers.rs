//! Numbers that are known before the run, and their bounds.

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use crate::syntax::ast::{Expr, ExprKind};
use mopd_experiment::formula::{Axis, Formula, FormulaKind, Unit};

use crate::check::builtins::bounds;
use crate::check::builtins::declare::Arg;
use crate::check::builtins::types::Count;
use crate::check::checker::Checker;
use crate::check::declarations::Declarations;
use crate::check::read::{Reads, expected, postfix_words, reads};
use crate::check::reporter::Reporter;
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

impl<const LEAST: u64> Reads for Count<LEAST> {
    fn read(checker: &mut Checker, given: Arg<Self>, env: &Env) -> Option<u32> {
        count(checker, given.expr, given.name, env, LEAST)
    }
}

reads! {
    Real => |checker, given, env| real(checker, given.expr, given.name, env);
    NotNegative => |checker, given, env| at_least(checker, given.expr, given.name, env, 0.0);
    Positive => |checker, given, env| at_least(checker, given.expr, given.name, env, f64::MIN_POSITIVE);
    Seconds => |checker, given, env| at_least(checker, given.expr, given.name, env, 0.001);
    Fraction => |checker, given, env| {
        let value = checker.evaluate(given.expr, env);
        fraction(checker, &value, given.expr.span, &format!("`{}`", given.name))
    };
    Window => |checker, given, env| {
        let value = checker.evaluate(given.expr, env);
        whole(checker, &value, given.expr.span, "the width of a window", 1).map(|width| width as u32)
    };
    Truth => |checker, given, env| truth_setting(checker, given.expr, given.name, env);
    Seed => |checker, given, env| {
        let value = checker.evaluate(given.expr, env);
        whole(checker, &value, given.expr.span, "`seed`", 0)
    };
}

pub fn number(reporter: &mut Reporter, value: f64, unit: Unit, span: Span) -> Value {
    let origin = reporter.origin(span);
    Value::Formula(Formula::new(FormulaKind::Number(value), unit, Axis::Run, false, origin))
}

pub fn truth(reporter: &mut Reporter, value: bool, span: Span) -> Value {
    number(reporter, f64::from(u8::from(value)), Unit::Bool, span)
}

pub fn count(checker: &mut Checker, expr: &Expr, key: &str, env: &Env, least: u64) -> Option<u32> {
    let value = checker.evaluate(expr, env);
    whole(checker, &value, expr.span, &format!("`{key}`"), least).map(|count| count as u32)
}

/// The value of a number that is known before the run.
pub fn real(checker: &mut Checker, expr: &Expr, key: &str, env: &Env) -> Option<f64> {
    let value = checker.evaluate(expr, env);
    match value.number() {
        Some(number) => postfix_words::word_fits(checker, &value, expr.span, key).then_some(number),
        None if undecided(&value) => any_number(checker, 1.0),
        None => {
            expected::wrong_kind(
                checker,
                expr.span,
                &format!("`{key}` must be a number known before the run"),
                &value,
            );
            None
        }
    }
}

/// A number known before the run, at least `least`.
pub fn at_least(checker: &mut Checker, expr: &Expr, key: &str, env: &Env, least: f64) -> Option<f64> {
    let number = real(checker, expr, key, env)?;
    number_at_least(checker, number, key, least, expr.span).then_some(number)
}

/// Whether the number of a setting is at least `least`; reports if not.
pub fn number_at_least(reporter: &mut Reporter, number: f64, key: &str, least: f64, span: Span) -> bool {
    let reaches = number >= least;
    if !reaches {
        let text = match least {
            f64::MIN_POSITIVE => format!("`{key}` must be above 0"),
            _ => format!("`{key}` must be at least {least}"),
        };
        let diagnostic = Diagnostic::error(Code::OutOfRange, span, text).label(format!("this is {number}"));
        reporter.report(match key {
            "time_limit" => diagnostic.help("it is a number of seconds, larger than the time that one takes"),
            _ => diagnostic,
        });
    }
    reaches
}

/// A placeholder for a number that depends on a parameter without a value. `None` outside such checks.
pub fn any_number(declarations: &Declarations, usual: f64) -> Option<f64> {
    declarations.any_numbers.then_some(usual)
}

pub fn whole(
    declarations: &mut Declarations,
    value: &Value,
    span: Span,
    what: &str,
    least: u64,
) -> Option<u64> {
    let Some(number) = value.number() else {
        if undecided(value) {
            return any_number(declarations, 16.0).map(|number| least.max(number as u64));
        }
        if let (Value::List(values), "`seeds`") = (value, what) {
            let count = values.len();
            let diagnostic = Diagnostic::error(
                Code::TypeMismatch,
                span,
                "`seeds` is how many seeds are run, not a list of them",
            );
            let diagnostic = diagnostic
                .label("this is a list")
                .help("a whole number: `seed` of the experiment is the first, the others follow it");
            declarations.report(diagnostic.replace_with(format!("write `{count}`"), count.to_string()));
            return None;
        }
        expected::wrong_kind(
            declarations,
            span,
            &format!("{what} must be a whole number known before the run"),
            value,
        );
        return None;
    };
    if !postfix_words::word_fits(declarations, value, span, what.trim_matches('`'))
        || !postfix_words::word_fits_here(declarations, value, span)
    {
        return None;
    }
    if number.fract() != 0.0 || number < least as f64 {
        declarations.report(
            Diagnostic::error(
                Code::OutOfRange,
                span,
                format!("{what} must be a whole number, at least {least}"),
            )
            .label(format!("this is {number}")),
        );
        return None;
    }
    let bound = bounds::for_setting(what.trim_matches('`'));
    if number > f64::from(bound.most) {
        let most = bounds::written(bound.most);
        declarations.report(
            Diagnostic::error(Code::OutOfRange, span, format!("{what} must be at most {most}"))
                .label(format!("this is {number}"))
                .help(format!("write {most} or less: {}", bound.because)),
        );
        return None;
    }
    Some(number as u64)
}

pub fn fraction(declarations: &mut Declarations, value: &Value, span: Span, what: &str) -> Option<f64> {
    let Some(number) = value.number() else {
        if undecided(value) {
            return any_number(declarations, 0.5);
        }
        expected::wrong_kind(
            declarations,
            span,
            &format!("{what} must be a fraction known before the run"),
            value,
        );
        return None;
    };
    if !(0.0..=1.0).contains(&number) {
        let diagnostic =
            Diagnostic::error(Code::OutOfRange, span, format!("{what} must lie between 0 and 1"));
        let diagnostic = diagnostic.label(format!("this is {number}"));
        // `50` is taken for a mistyped `50%`.
        let written = declarations.sources.text(span);
        let percent =
            number > 1.0 && number <= 100.0 && number.fract() == 0.0 && written.parse::<f64>() == Ok(number);
        let diagnostic = match percent {
            true => diagnostic
                .help(format!("a share of a hundred is written with `%`: `{written}%`"))
                .replace_with(format!("write `{written}%`"), format!("{written}%")),
            false => diagnostic.help("at most 1, which is all of it; `35%` is 0.35"),
        };
        declarations.report(diagnostic);
        return None;
    }
    Some(number)
}

/// Whether a number depends on a parameter without a value. This happens while an item is checked by itself,
/// where the number can't be judged yet.
pub fn undecided(value: &Value) -> bool {
    matches!(value, Value::Formula(formula) if has_variables(formula))
}

pub fn has_variables(formula: &Formula) -> bool {
    formula.any(|node| matches!(node.kind, FormulaKind::Variable(_)))
}

pub fn truth_setting(checker: &mut Checker, expr: &Expr, key: &str, env: &Env) -> Option<bool> {
    match checker.evaluate(expr, env) {
        Value::Formula(formula) if formula.unit() == Unit::Bool && formula.constant().is_some() => {
            Some(formula.constant() == Some(1.0))
        }
        value if undecided(&value) => None,
        Value::Text(text) if matches!(text.as_str(), "true" | "false" | "True" | "False") => {
            let ours = text.to_ascii_lowercase();
            let diagnostic =
                Diagnostic::error(Code::TypeMismatch, expr.span, format!("`{key}` is `true` or `false`"));
            let diagnostic = diagnostic.label("this is a text").help(format!("without quotes: `{ours}`"));
            checker.report(diagnostic.replace_with("remove the quotes", ours));
            Some(text.eq_ignore_ascii_case("true"))
        }
        other => {
            expected::wrong_kind(checker, expr.span, &format!("`{key}` is `true` or `false`"), &other);
            None
        }
    }
}

/// Rounds away the noise of binary fractions.
pub fn rounded(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
}

/// A list of numbers known before the run, at least one.
pub fn numbers(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<Vec<f64>> {
    let values = match checker.evaluate(expr, env) {
        Value::List(values) => values,
        other => {
            expected::wrong_kind(checker, expr.span, "expected a list of numbers, such as `[0, 1]`", &other);
            return None;
        }
    };
    let mut numbers = Vec::new();
    for value in &values {
        match value.number() {
            Some(number) => numbers.push(number),
            None if undecided(value) => return None,
            None => {
                expected::wrong_kind(
                    checker,
                    expr.span,
                    "every element must be a number known before the run",
                    value,
                );
                return None;
            }
        }
    }
    if numbers.is_empty() {
        checker.report(Diagnostic::error(Code::OutOfRange, expr.span, "this list of numbers is empty"));
        return None;
    }
    Some(numbers)
}

/// One number for each of `count` things, or the word `equal`.
pub fn weights(checker: &mut Checker, expr: &Expr, count: usize, of: &str, env: &Env) -> Option<Vec<f64>> {
    if let ExprKind::Name(name) = &expr.kind
        && name == "equal"
        && env.local(name).is_none()
    {
        return Some(vec![1.0 / count as f64; count]);
    }
    let weights = numbers(checker, expr, env)?;
    if weights.len() != count {
        let text = format!("there are {count} {of} and {} weights", weights.len());
        checker.report(
            Diagnostic::error(Code::OutOfRange, expr.span, text).help("write one for each, or `equal`"),
        );
        return None;
    }
    Some(weights)
}
