//! Functions of numbers: elementwise functions, reductions, statistics, scans, and numbers carried from step
//! to step.

use crate::diag::{Code, Diagnostic};
use crate::source::{Span, Spanned};
use crate::syntax::ast::Expr;
use mopd_experiment::Pool;
use mopd_experiment::formula::{Formula, FormulaKind, Function, Memory, Reduction, Scan, Unit};
use mopd_ops::common_unit;

use crate::check::builtins::BuiltinKind;
use crate::check::builtins::declare::{Arg, Call};
use crate::check::builtins::formulas::{
    Bucket, Clip, Elementwise, Ema, Extreme, Previous, Quantile, Reduce, RewardToGo, Scanned, Stddev, Sum,
    Where,
};
use crate::check::checker::Checker;
use crate::check::formulas::{along_axis, arithmetic, fractions};
use crate::check::read::{Reads, numbers, read};
use crate::check::reporter::Reporter;
use crate::check::roles::pooled;
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

/// Help for a `where` between losses of two units.
const ONE_TERM_EACH: &str = "the terms of an objective may have units of their own: write one for each case, \
                             with `{ when = ... }` and `{ when = not ... }`";

pub fn formula_call(checker: &mut Checker, call: Call, given: &[Option<&Expr>], env: &Env) -> Option<Value> {
    match call.builtin.kind {
        BuiltinKind::Elementwise(function) => {
            let x = Elementwise::of(call, given)?.x;
            let operand = read(checker, x, env)?;
            Some(arithmetic::applied(checker, function, operand, x.expr.span, call.span))
        }
        BuiltinKind::Bucket => bucket(checker, Bucket::of(call, given)?, env),
        BuiltinKind::Extreme(function, reduction) => match Extreme::of(call, given)? {
            Extreme { a, b: Some(b), over: None, .. } => {
                let parts = [placed(checker, a, env)?, placed(checker, b, env)?];
                let unit = shared_unit(checker, function.name(), &parts, call.span)?;
                Some(arithmetic::apply(
                    checker,
                    function,
                    parts.map(|part| part.value).into(),
                    unit,
                    call.span,
                ))
            }
            Extreme { a: x, b: None, over: Some(over), among, on, .. } => {
                along_axis::reduce(checker, reduction, Reduce { call, x, over, among, on }, env)
            }
            _ => {
                let text = format!("`{}` needs two numbers, or one and `over`", call.builtin.name);
                checker.report(
                    Diagnostic::error(Code::MissingArgument, call.span, text).help(call.builtin.usage),
                );
                None
            }
        },
        BuiltinKind::Clip => clip(checker, Clip::of(call, given)?, env),
        BuiltinKind::Where => choose(checker, Where::of(call, given)?, env),
        BuiltinKind::Reduce(Reduction::Quantile { .. }) => {
            let Quantile { x, q, over, among, on, .. } = Quantile::of(call, given)?;
            let (q, fraction) = fractions::fraction(checker, q, env)?;
            let given = Reduce { call, x, over, among, on };
            along_axis::reduce_by(checker, Reduction::Quantile { q }, fraction, given, env)
        }
        BuiltinKind::Reduce(Reduction::Stddev { .. }) => {
            let Stddev { x, over, deviation, among, on, .. } = Stddev::of(call, given)?;
            let reduction = Reduction::Stddev { deviation: read(checker, deviation, env)? };
            along_axis::reduce(checker, reduction, Reduce { call, x, over, among, on }, env)
        }
        BuiltinKind::Median => {
            along_axis::reduce(checker, Reduction::Quantile { q: 0.5 }, Reduce::of(call, given)?, env)
        }
        BuiltinKind::Reduce(Reduction::Sum) => match Sum::of(call, given)? {
            // `sum([a, b], weights: [0.7, 0.3])`: teachers, not numbers.
            Sum { x, weights: Some(weights), .. } => {
                Some(pooled::pooled(checker, Pool::Sum, x.expr, Some(weights.expr), call.span, env))
            }
            Sum { x, over, among, on, .. } => {
                let over = along_axis::needs_over(checker, over, call)?;
                along_axis::reduce(checker, Reduction::Sum, Reduce { call, x, over, among, on }, env)
            }
        },
        BuiltinKind::Reduce(reduction) => {
            along_axis::reduce(checker, reduction, Reduce::of(call, given)?, env)
        }
        BuiltinKind::Statistic(statistic) => along_axis::statistic_call(checker, statistic, call, given, env),
        BuiltinKind::Scan(Scan::RewardToGo { .. }) => {
            along_axis::reward_to_go(checker, RewardToGo::of(call, given)?, env)
        }
        BuiltinKind::Scan(scan) => along_axis::plain_scan(checker, scan, Scanned::of(call, given)?, env),
        BuiltinKind::Memory(Memory::Previous) => {
            let x = placed(checker, Previous::of(call, given)?.x, env)?;
            along_axis::memory(checker, Memory::Previous, x, call.span)
        }
        BuiltinKind::Memory(Memory::Ema { .. }) => {
            let Ema { x, rate, .. } = Ema::of(call, given)?;
            let x = placed(checker, x, env)?;
            let rate = read(checker, rate, env)?;
            along_axis::memory(checker, Memory::Ema { rate }, x, call.span)
        }
        _ => unreachable!("every other kind is handled where its values are made"),
    }
}

/// The formula of an argument, and its place.
pub fn placed<T: Reads<Value = Formula>>(
    checker: &mut Checker,
    given: Arg<T>,
    env: &Env,
) -> Option<Spanned<Formula>> {
    Some(Spanned::new(read(checker, given, env)?, given.expr.span))
}

/// Numbers that must share a unit: the bounds of a `clip`, the sides of a `min`, the branches of a
/// `where`.
pub fn shared_unit(
    reporter: &mut Reporter,
    name: &str,
    parts: &[Spanned<Formula>],
    span: Span,
) -> Option<Unit> {
    let mut unit = parts[0].value.unit();
    for part in &parts[1..] {
        let next = part.value.unit();
        match common_unit(unit, next) {
            Some(common) => unit = common,
            None => {
                let message = format!("`{name}` mixes {} and {}", unit.name(), next.name());
                let sides = [&parts[0], part].map(Spanned::as_ref);
                let live = name == "where" && parts.iter().any(|part| part.value.live());
                arithmetic::units_mismatch(reporter, span, &message, sides, live.then_some(ONE_TERM_EACH));
                return None;
            }
        }
    }
    Some(unit)
}

fn clip(checker: &mut Checker, given: Clip, env: &Env) -> Option<Value> {
    let x = placed(checker, given.x, env);
    let (low, high) = (placed(checker, given.low, env), placed(checker, given.high, env));
    let (x, low, high, span) = (x?, low?, high?, given.call.span);
    for bound in [&low, &high] {
        if bound.value.live() {
            checker.report(Diagnostic::error(
                Code::NotDifferentiable,
                bound.span,
                "the bounds of a `clip` carry no gradient",
            ));
            return None;
        }
    }
    if let (FormulaKind::Number(a), FormulaKind::Number(b)) = (&low.value.0.kind, &high.value.0.kind)
        && a > b
    {
        let text = format!("the range from {a} to {b} is empty");
        checker.report(
            Diagnostic::error(Code::OutOfRange, high.span, text)
                .note(low.span, "the lower bound")
                .help("write the lower bound first: `clip(x, low, high)`"),
        );
        return None;
    }
    let parts = [x, low, high];
    let unit = shared_unit(checker, "clip", &parts, span)?;
    Some(arithmetic::apply(checker, Function::Clip, parts.map(|part| part.value).into(), unit, span))
}

fn choose(checker: &mut Checker, given: Where, env: &Env) -> Option<Value> {
    let condition = placed(checker, given.condition, env);
    let branches = (placed(checker, given.then, env), placed(checker, given.otherwise, env));
    let (condition, branches, span) = (condition?, [branches.0?, branches.1?], given.call.span);
    if condition.value.unit() != Unit::Bool {
        let message = "the condition of a `where` must be a bool";
        arithmetic::not_a_bool(checker, condition.as_ref(), message);
        return None;
    }
    let unit = shared_unit(checker, "where", &branches, span)?;
    let operands = std::iter::once(condition).chain(branches).map(|operand| operand.value).collect();
    Some(arithmetic::apply(checker, Function::Where, operands, unit, span))
}

/// clip(floor(x * n), 0, n - 1): what is below 0 is in the first bucket, 1 and what is above in the last.
fn bucket(checker: &mut Checker, given: Bucket, env: &Env) -> Option<Value> {
    let span = given.call.span;
    let mut value = read(checker, given.x, env)?;
    let n = read(checker, given.n, env)?;
    let numbers = [f64::from(n), 0.0, f64::from(n - 1)];
    let [Value::Formula(parts), Value::Formula(first), Value::Formula(last)] =
        numbers.map(|number| numbers::number(checker, number, Unit::Number, span))
    else {
        return None;
    };
    let steps = [
        (Function::Multiply, vec![parts]),
        (Function::Floor, Vec::new()),
        (Function::Clip, vec![first, last]),
    ];
    for (function, others) in steps {
        let operands = std::iter::once(value).chain(others).collect();
        match arithmetic::apply(checker, function, operands, Unit::Count, span) {
            Value::Formula(formula) => value = formula,
            _ => return None,
        }
    }
    Some(Value::Formula(value))
}
