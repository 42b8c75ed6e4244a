//! `sweep`: a grid of experiments over the file's `param`s.

use crate::diag::{Code, Diagnostic, nearest};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{Expr, ExprKind, Index, ItemKind, Module, NamedValue, Parameter};
use mopd_experiment::formula::Unit;
use mopd_experiment::{SweepAxis, SweptTo, WithOrigin};

use crate::check::checker::Checker;
use crate::check::declarations::Declarations;
use crate::check::names::modules::ModuleId;
use crate::check::read::{declared_type, expected, numbers, turns};
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

/// The most runs of a sweep. Each is checked, planned and trained on its own; a typo must not make millions.
pub const MOST_RUNS: usize = 1_000;

pub fn sweep_item(checker: &mut Checker, module: ModuleId, span: Span, axes: &[Index]) {
    if !sweep_axes(checker, module, span, axes) {
        // Runs of a faulty sweep would repeat its mistakes.
        checker.parts.sweep.clear();
    }
}

/// Adds the axes. `false` if any is faulty.
fn sweep_axes(checker: &mut Checker, module: ModuleId, span: Span, axes: &[Index]) -> bool {
    let mut good = !axes.is_empty();
    if axes.is_empty() {
        checker.report(
            Diagnostic::error(Code::MissingKey, span, "a sweep needs at least one parameter")
                .help("for example `sweep { beta in [0.1, 0.5, 0.9] }`"),
        );
    }
    for axis in axes {
        let place = axis.name.span;
        let known = checker
            .parts
            .sweep
            .iter()
            .find(|known| known.parameter == axis.name.text)
            .map(|known| known.origin);
        if let Some(first) = known {
            let text = format!("`{}` is swept over twice", axis.name.text);
            let first = checker.span(first);
            checker.report(Diagnostic::error(Code::DuplicateKey, place, text).note(first, "first here"));
            good = false;
            continue;
        }
        let parameter = swept(checker, module, axis);
        let values = parameter.and_then(|parameter| swept_values(checker, module, axis, &parameter));
        good &= values.is_some();
        if let Some(values) = values {
            let origin = checker.origin(place);
            let values = values
                .into_iter()
                .map(|Spanned { value, span }| WithOrigin { value, origin: checker.origin(span) });
            let values = values.collect();
            checker.parts.sweep.push(SweepAxis { parameter: axis.name.text.clone(), values, origin });
        }
    }
    good & check_number_of_runs(checker, module, span)
}

/// Reports a sweep of too many runs. A `param` that is set from outside has only that value.
fn check_number_of_runs(declarations: &mut Declarations, module: ModuleId, span: Span) -> bool {
    let axes = &declarations.parts.sweep;
    let varied = axes.iter().filter(|axis| declarations.modules.set_value(module, &axis.parameter).is_none());
    let counts: Vec<usize> = varied.map(|axis| axis.values.len()).collect();
    let runs = counts.iter().fold(1, |runs: usize, values| runs.saturating_mul(*values));
    if runs <= MOST_RUNS {
        return true;
    }
    let counts: Vec<String> = counts.iter().map(usize::to_string).collect();
    let text = format!("this sweep has {runs} runs, and {MOST_RUNS} are the most");
    let diagnostic = Diagnostic::error(Code::OutOfRange, span, text);
    let diagnostic =
        if counts.len() > 1 { diagnostic.label(counts.join(" times ") + " values") } else { diagnostic };
    declarations.report(
        diagnostic.help("list fewer values, or give a `param` one value with `--set`: one run of mopd each"),
    );
    false
}

/// The `param` of an axis.
fn swept(declarations: &mut Declarations, module: ModuleId, axis: &Index) -> Option<Parameter> {
    let tree = declarations.modules.tree(module);
    let parameters: Vec<&Parameter> = tree
        .items
        .iter()
        .filter_map(|item| match &item.kind {
            ItemKind::Param(parameter) => Some(parameter),
            _ => None,
        })
        .collect();
    let name = &axis.name;
    if let Some(parameter) = parameters.iter().find(|parameter| parameter.name.text == name.text) {
        return Some(Parameter::clone(parameter));
    }
    let names: Vec<&str> = parameters.iter().map(|parameter| parameter.name.text.as_str()).collect();
    let diagnostic = Diagnostic::error(
        Code::UnknownName,
        name.span,
        format!("this file has no `param {}` to sweep over", name.text),
    );
    let swept = tree.items.iter().filter_map(|item| match &item.kind {
        ItemKind::Sweep { axes, .. } => Some(axes),
        _ => None,
    });
    let swept: Vec<&str> = swept.flatten().map(|axis| axis.name.text.as_str()).collect();
    let free = names.iter().copied().filter(|name| !swept.contains(name));
    let diagnostic = match (nearest(&name.text, free), names.is_empty()) {
        (Some(near), _) => diagnostic.did_you_mean(&name.text, near),
        (None, true) => diagnostic.help(format!(
            "declare one, `param {}: real = 1`, and use it where the value belongs",
            name.text
        )),
        (None, false) => diagnostic.help(format!("it has: {}", names.join(", "))),
    };
    declarations.report(diagnostic);
    None
}

/// Every value, each of the parameter's type.
fn swept_values(
    checker: &mut Checker,
    module: ModuleId,
    axis: &Index,
    parameter: &Parameter,
) -> Option<Vec<Spanned<SweptTo>>> {
    let env = Env::constant(module);
    if let ExprKind::NamedValues(values) = &axis.over.kind {
        return named_values(checker, axis, values, parameter, &env);
    }
    let items: Vec<Spanned<Value>> = match &axis.over.kind {
        ExprKind::List(items) => {
            items.iter().map(|item| Spanned::new(checker.evaluate(item, &env), item.span)).collect()
        }
        _ => spelled_out(checker, &axis.over, &env)?,
    };
    if items.is_empty() {
        checker.report(Diagnostic::error(Code::OutOfRange, axis.over.span, "this list of values is empty"));
        return None;
    }
    let mut values: Vec<Spanned<f64>> = Vec::new();
    let mut good = true;
    for Spanned { value, span } in items {
        let value = match &parameter.annotation {
            Some(annotation) => declared_type::coerce(checker, value, annotation, span),
            None => value,
        };
        match value.constant() {
            Some(number) => match values.iter().find(|other| other.value == number) {
                Some(first) => {
                    let text = format!("the value {number} stands here twice");
                    checker.report(
                        Diagnostic::error(Code::DuplicateKey, span, text)
                            .note(first.span, "first here")
                            .help("a sweep has one run for each value: remove one of the two"),
                    );
                    good = false;
                }
                None => values.push(Spanned::new(number, span)),
            },
            None => {
                let wanted = "a sweep needs numbers known before the run, or values with names";
                if !value.is_error() {
                    let diagnostic = Diagnostic::error(Code::TypeMismatch, span, wanted);
                    let diagnostic = diagnostic.label(format!("this is {}", value.describe()));
                    checker.report(diagnostic.help("for example `{ gold: gold(), uld: uld() }`"));
                }
                good = false;
            }
        }
    }
    let number = |Spanned { value, span }: Spanned<f64>| Spanned::new(SweptTo::Number(value), span);
    good.then(|| values.into_iter().map(number).collect())
}

/// `{ gold: gold(), uld: uld() }`, each of the parameter's type.
fn named_values(
    checker: &mut Checker,
    axis: &Index,
    values: &[NamedValue],
    parameter: &Parameter,
    env: &Env,
) -> Option<Vec<Spanned<SweptTo>>> {
    let turns = turns::members(checker, axis, env)?;
    let mut good = true;
    for (named, (_, turn)) in values.iter().zip(&turns) {
        let value = turn.local(&axis.name.text).cloned().unwrap_or(Value::Error);
        let value = match &parameter.annotation {
            Some(annotation) => declared_type::coerce(checker, value, annotation, named.value.span),
            None => value,
        };
        good &= !value.is_error();
    }
    let name = |named: &NamedValue| Spanned::new(SweptTo::Name(named.name.text.clone()), named.value.span);
    (good && !turns.is_empty()).then(|| values.iter().map(name).collect())
}

/// The value with this name among those that the file sweeps a parameter over.
pub fn named_value(module: &Module, parameter: &str, name: &str) -> Option<Expr> {
    let axes = module.items.iter().filter_map(|item| match &item.kind {
        ItemKind::Sweep { axes, .. } => Some(axes),
        _ => None,
    });
    let axis = axes.flatten().find(|axis| axis.name.text == parameter)?;
    let ExprKind::NamedValues(values) = &axis.over.kind else { return None };
    values.iter().find(|named| named.name.text == name).map(|named| named.value.clone())
}

/// `0..=3`, or a list by name.
fn spelled_out(checker: &mut Checker, over: &Expr, env: &Env) -> Option<Vec<Spanned<Value>>> {
    match checker.evaluate(over, env) {
        Value::List(values) => Some(values.into_iter().map(|value| Spanned::new(value, over.span)).collect()),
        Value::Range { low, high } if low.fract() == 0.0 && high - low < 10_000.0 => {
            let numbers = 0..=(high - low) as u32;
            let mut number =
                |step: u32| numbers::number(checker, low + f64::from(step), Unit::Number, over.span);
            Some(numbers.map(|step| Spanned::new(number(step), over.span)).collect())
        }
        other => {
            expected::wrong_kind(
                checker,
                over.span,
                "`in` needs a list of values, such as `[0.1, 0.5, 0.9]`",
                &other,
            );
            None
        }
    }
}
