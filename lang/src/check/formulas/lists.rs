//! Reductions of a list of numbers, `max(for t in guides: gain[t])`, or of a family, `quantile(last, 0.9)`:
//! in place of an axis, the elements that are written are reduced.

use crate::diag::{Code, Diagnostic};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{Argument, Expr, ExprKind};
use mopd_experiment::formula::{Formula, Function, Reduction, Unit};

use crate::check::builtins::BuiltinKind;
use crate::check::builtins::declare::Call;
use crate::check::checker::Checker;
use crate::check::formulas::{arithmetic, functions};
use crate::check::read::{expected, numbers};
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

/// The longest list whose elements are sorted: a formula has every comparison.
const MOST_SORTED: usize = 8;

/// The value of a call whose argument is a list, without `over`. `None` for every other call.
pub fn reduced_list(checker: &mut Checker, call: Call, env: &Env) -> Option<Value> {
    let reduction = match call.builtin.kind {
        BuiltinKind::Reduce(
            reduction @ (Reduction::Sum
            | Reduction::Mean
            | Reduction::Any
            | Reduction::All
            | Reduction::Quantile { .. }),
        )
        | BuiltinKind::Extreme(_, reduction) => reduction,
        BuiltinKind::Median => Reduction::Quantile { q: 0.5 },
        _ => return None,
    };
    let (x, rest) = call.arguments.split_first()?;
    let along = |argument: &Argument| {
        argument.name.as_ref().is_some_and(|name| !matches!(name.text.as_str(), "x" | "a" | "q"))
    };
    if call.arguments.iter().any(along) || !is_list(&x.value, env) {
        return None;
    }
    let takes_fraction = matches!(call.builtin.kind, BuiltinKind::Reduce(Reduction::Quantile { .. }));
    if rest.len() != usize::from(takes_fraction) {
        return None;
    }
    let fraction = rest.first().map(|argument| &argument.value);
    Some(reduced(checker, reduction, &x.value, fraction, call.span, env).unwrap_or(Value::Error))
}

fn is_list(expr: &Expr, env: &Env) -> bool {
    match &expr.kind {
        ExprKind::List(_) | ExprKind::For { carried: None, .. } => true,
        ExprKind::Name(name) => matches!(env.local(name), Some(Value::List(_) | Value::Family(_))),
        _ => false,
    }
}

fn reduced(
    checker: &mut Checker,
    reduction: Reduction,
    list: &Expr,
    fraction: Option<&Expr>,
    span: Span,
    env: &Env,
) -> Option<Value> {
    let elements = match checker.evaluate(list, env).elements() {
        Ok(elements) => elements,
        Err(other) => {
            expected::wrong_kind(checker, list.span, "expected a list of numbers", &other);
            return None;
        }
    };
    let mut parts = Vec::with_capacity(elements.len());
    for element in elements {
        parts.push(Spanned::new(expected::formula(checker, element, list.span)?, list.span));
    }
    if parts.is_empty() {
        checker.report(Diagnostic::error(Code::OutOfRange, list.span, "there is no number in this list"));
        return None;
    }
    let name = reduction.name();
    let odd = parts.iter().find(|part| (part.value.unit() == Unit::Bool) != reduction.of_truths());
    if let Some(part) = odd {
        match reduction.of_truths() {
            true => arithmetic::not_a_bool(checker, part.as_ref(), &format!("`{name}` needs bools")),
            false => {
                let message = format!("`{name}` needs numbers, not bools");
                arithmetic::unit_mismatch(checker, part.as_ref(), &message, None);
            }
        }
        return None;
    }
    let unit = functions::shared_unit(checker, name, &parts, span)?;
    let count = parts.len();
    let values: Vec<Formula> = parts.into_iter().map(|part| part.value).collect();
    let mut apply = |function: Function, operands: Vec<Formula>| {
        formula_of(arithmetic::apply(checker, function, operands, unit, span))
    };
    let mut folded = |function: Function, values: Vec<Formula>| {
        let mut values = values.into_iter();
        let first = values.next()?;
        values.try_fold(first, |all, value| apply(function, vec![all, value]))
    };
    let value = match reduction {
        Reduction::Sum => folded(Function::Add, values)?,
        Reduction::Minimum => folded(Function::Minimum, values)?,
        Reduction::Maximum => folded(Function::Maximum, values)?,
        Reduction::Any => folded(Function::Or, values)?,
        Reduction::All => folded(Function::And, values)?,
        Reduction::Mean => {
            let sum = folded(Function::Add, values)?;
            let count = number(checker, count as f64, span)?;
            formula_of(arithmetic::apply(checker, Function::Divide, vec![sum, count], unit, span))?
        }
        Reduction::Quantile { q } => {
            let q = match fraction {
                None => q,
                Some(expr) => {
                    let value = checker.evaluate(expr, env);
                    numbers::fraction(checker, &value, expr.span, "`q` of a list")?
                }
            };
            if count > MOST_SORTED {
                let text = format!("the quantile of a list of {count} numbers: {MOST_SORTED} are the most");
                checker.report(
                    Diagnostic::error(Code::OutOfRange, list.span, text)
                        .help("`mean`, `min` and `max` take longer lists"),
                );
                return None;
            }
            let sorted = sorted(checker, values, unit, span)?;
            quantile(checker, sorted, q, unit, span)?
        }
        _ => return None,
    };
    Some(Value::Formula(value))
}

fn formula_of(value: Value) -> Option<Formula> {
    if let Value::Formula(formula) = value { Some(formula) } else { None }
}

fn number(checker: &mut Checker, value: f64, span: Span) -> Option<Formula> {
    formula_of(numbers::number(checker, value, Unit::Number, span))
}

/// The numbers in ascending order, by exchanges of neighbours.
fn sorted(checker: &mut Checker, mut values: Vec<Formula>, unit: Unit, span: Span) -> Option<Vec<Formula>> {
    for round in 0..values.len() {
        for low in (round % 2..values.len() - 1).step_by(2) {
            let pair = || vec![values[low].clone(), values[low + 1].clone()];
            let [smaller, larger] = [Function::Minimum, Function::Maximum]
                .map(|function| arithmetic::apply(checker, function, pair(), unit, span));
            (values[low], values[low + 1]) = (formula_of(smaller)?, formula_of(larger)?);
        }
    }
    Some(values)
}

/// The quantile of sorted numbers, as that of an axis: between two of them it is interpolated.
fn quantile(checker: &mut Checker, sorted: Vec<Formula>, q: f64, unit: Unit, span: Span) -> Option<Formula> {
    let position = q * (sorted.len() - 1) as f64;
    let [below, above] = [position.floor(), position.ceil()].map(|place| sorted[place as usize].clone());
    if position.fract() == 0.0 {
        return Some(below);
    }
    let mut apply =
        |function, operands| formula_of(arithmetic::apply(checker, function, operands, unit, span));
    let apart = apply(Function::Subtract, vec![above, below.clone()])?;
    let share = number(checker, position.fract(), span)?;
    let part = formula_of(arithmetic::apply(checker, Function::Multiply, vec![share, apart], unit, span))?;
    formula_of(arithmetic::apply(checker, Function::Add, vec![below, part], unit, span))
}
