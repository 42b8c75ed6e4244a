//! Functions along an axis (reductions, statistics, scans), and from step to step (memory).

use std::rc::Rc;

use crate::diag::{Code, Diagnostic, Reported};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{Expr, ExprKind};
use mopd_experiment::formula::{
    Axis, Formula, FormulaKind, Memory, PlainSignal, Reduction, Scan, Statistic, Unit,
};

use crate::check::builtins::declare::{Arg, Call};
use crate::check::builtins::formulas::{
    Balance, Chunks, Compared, Reduce, RewardToGo, Scanned, Softmax, TopCount, TopFraction, Winsor, Zscore,
};
use crate::check::builtins::types;
use crate::check::checker::Checker;
use crate::check::formulas::fractions::{fraction, is_of_peers};
use crate::check::formulas::{arithmetic, functions};
use crate::check::read::{expected, read, reads};
use crate::check::reporter::Reporter;
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

reads! {
    Axis => |checker, given, _| axis(checker, given.expr);
}

/// The axis named by `over: sequence`.
pub fn axis(reporter: &mut Reporter, expr: &Expr) -> Option<Axis> {
    if matches!(&expr.kind, ExprKind::Name(name) if name == Axis::Vocab.name()) {
        let text = "only a divergence runs over the vocabulary";
        let diagnostic = Diagnostic::error(Code::AxisMismatch, expr.span, text);
        reporter.report(diagnostic.help(
            "write `kl(student || teacher)`, `tv(student, teacher)`, ...: one number per token is left",
        ));
        return None;
    }
    let named = Axis::ALL.iter().filter(|axis| **axis != Axis::Vocab);
    let mut axes: Vec<(&str, Axis)> = named.map(|axis| (axis.name(), *axis)).collect();
    // Nothing is finer than a token: `over: tokens` was not meant for `over: token`.
    if !matches!(&expr.kind, ExprKind::Name(name) if name == Axis::Token.name())
        && reporter.key_before(expr.span) == Some("over")
    {
        axes.retain(|(_, axis)| *axis != Axis::Token);
    }
    expected::word(reporter, expr, "an axis", &axes)
}

pub fn reduce(checker: &mut Checker, reduction: Reduction, given: Reduce, env: &Env) -> Option<Value> {
    reduce_by(checker, reduction, None, given, env)
}

pub fn reduce_by(
    checker: &mut Checker,
    reduction: Reduction,
    fraction: Option<Spanned<Formula>>,
    given: Reduce,
    env: &Env,
) -> Option<Value> {
    let (x, over, span) = (given.x.expr, given.over.expr, given.call.span);
    let (formula, over_axis) = (read(checker, given.x, env), read(checker, given.over, env));
    let (formula, over_axis) = (formula?, over_axis?);
    if formula.axis() <= over_axis {
        let text = format!("this is one number per {} already", formula.axis().name());
        checker.report(
            Diagnostic::error(
                Code::AxisMismatch,
                x.span,
                format!("cannot reduce over {}: the operand has no such axis", over_axis.name()),
            )
            .label(text)
            .note(over.span, "reduces to one number per element of this axis")
            .help(
                "name a coarser axis: `over: batch`, or `over: group` where each prompt has several \
                 samples; or leave the reduction out",
            ),
        );
        return None;
    }
    if reduction.of_truths() && formula.unit() != Unit::Bool {
        let message = format!("`{}` needs bools", reduction.name());
        arithmetic::not_a_bool(checker, Spanned::new(&formula, x.span), &message);
        return None;
    }
    if formula.live() && !matches!(reduction, Reduction::Sum | Reduction::Mean) {
        let text = format!("the `{}` of `live` values has no derivative here", reduction.name());
        checker.report(Diagnostic::error(Code::NotDifferentiable, span, text));
        return None;
    }
    let among = read_among(checker, given.among, formula.axis(), env).ok()?;
    let on = match given.on {
        Some(on) => Some(other_rollout(checker, on, &formula, over_axis, env)?),
        None => None,
    };
    let unit = (reduction.definition().unit)(formula.unit());
    let (live, origin) = (formula.live(), checker.origin(span));
    if !is_of_peers(checker, fraction.as_ref(), over_axis) {
        return None;
    }
    let fraction = fraction.map(|fraction| fraction.value);
    let kind = FormulaKind::Reduce { reduction, operand: formula, among, on, fraction };
    Some(Value::Formula(Formula::new(kind, unit, over_axis, live, origin)))
}

/// The rollout of `on:`: other completions of the same prompts. Numbers of it are per prompt at the
/// finest.
pub fn other_rollout(
    checker: &mut Checker,
    on: Arg<types::Rollout>,
    x: &Formula,
    over: Axis,
    env: &Env,
) -> Option<Rc<mopd_experiment::Rollout>> {
    let rollout = read(checker, on, env)?;
    if over > Axis::Group {
        let text = format!("another rollout has its own {}s: they can't be matched with these", over.name());
        checker.report(
            Diagnostic::error(Code::AxisMismatch, on.expr.span, text)
                .help("reduce over `group`, `domain` or `batch`"),
        );
        return None;
    }
    if x.live() {
        let text = "what is read off another rollout carries no gradient";
        checker.report(
            Diagnostic::error(Code::NotDifferentiable, on.expr.span, text)
                .help("to train on it, give a term its own stream: `{ data = ... }`"),
        );
        return None;
    }
    Some(rollout)
}

/// The condition of `among:`, a bool no finer than the numbers compared. if there is one.
pub fn read_among(
    checker: &mut Checker,
    given: Option<Arg<types::Condition>>,
    axis: Axis,
    env: &Env,
) -> Result<Option<Formula>, Reported> {
    let Some(given) = given else { return Ok(None) };
    let condition = read(checker, given, env).ok_or(Reported)?;
    let expr = given.expr;
    if condition.unit() != Unit::Bool {
        arithmetic::not_a_bool(checker, Spanned::new(&condition, expr.span), "`among` needs a bool");
        return Err(Reported);
    }
    // A completion is selected where some token of it is.
    if axis < Axis::Token && condition.0.is(PlainSignal::Selected) {
        let origin = condition.0.origin;
        let kind = FormulaKind::Reduce {
            reduction: Reduction::Any,
            operand: condition,
            among: None,
            on: None,
            fraction: None,
        };
        return Ok(Some(Formula::new(kind, Unit::Bool, axis, false, origin)));
    }
    if condition.axis() > axis {
        let text = format!("one bool per {} can't choose among {}s", condition.axis().name(), axis.name());
        checker.report(
            Diagnostic::error(Code::AxisMismatch, expr.span, text)
                .help("reduce it first, for example with `any(...)`"),
        );
        return Err(Reported);
    }
    Ok(Some(condition))
}

/// Reports a missing `over`.
pub fn needs_over<'e>(
    reporter: &mut Reporter,
    over: Option<Arg<'e, types::Axis>>,
    call: Call,
) -> Option<Arg<'e, types::Axis>> {
    if over.is_none() {
        let text = format!("`{}` needs `over`", call.builtin.name);
        reporter.report(
            Diagnostic::error(Code::MissingArgument, call.span, text)
                .label("not given here")
                .help(call.builtin.usage),
        );
    }
    over
}

pub fn statistic_call(
    checker: &mut Checker,
    statistic: Statistic,
    call: Call,
    given: &[Option<&Expr>],
    env: &Env,
) -> Option<Value> {
    let mut changing = None;
    let (statistic, x, over, among) = match statistic {
        Statistic::Center
        | Statistic::Rank
        | Statistic::LeaveOneOut
        | Statistic::MeanOfSmaller
        | Statistic::Minmax => {
            let Compared { x, over, among, .. } = Compared::of(call, given)?;
            (statistic, functions::placed(checker, x, env)?, over, among)
        }
        Statistic::Balance => {
            let Balance { x, over, among, .. } = Balance::of(call, given)?;
            (statistic, functions::placed(checker, x, env)?, over, among)
        }
        Statistic::Zscore { .. } => {
            let Zscore { x, over, deviation, epsilon, among, .. } = Zscore::of(call, given)?;
            let x = functions::placed(checker, x, env)?;
            let (deviation, epsilon) = (read(checker, deviation, env), read(checker, epsilon, env));
            let zscore = Statistic::Zscore { deviation: deviation?, epsilon: epsilon? };
            (zscore, x, over, among)
        }
        Statistic::Winsor { .. } => {
            let Winsor { x, upper, over, among, .. } = Winsor::of(call, given)?;
            let x = functions::placed(checker, x, env)?;
            let (upper, formula) = fraction(checker, upper, env)?;
            changing = formula;
            (Statistic::Winsor { upper }, x, over, among)
        }
        Statistic::TopFraction { .. } => {
            let TopFraction { x, keep, over, among, .. } = TopFraction::of(call, given)?;
            let x = functions::placed(checker, x, env)?;
            let (keep, formula) = fraction(checker, keep, env)?;
            changing = formula;
            (Statistic::TopFraction { keep }, x, over, among)
        }
        Statistic::SampleWithoutReplacement { .. } => {
            let TopFraction { x, keep, over, among, .. } = TopFraction::of(call, given)?;
            let x = functions::placed(checker, x, env)?;
            let (keep, formula) = fraction(checker, keep, env)?;
            changing = formula;
            (Statistic::SampleWithoutReplacement { keep }, x, over, among)
        }
        Statistic::TopCount { .. } => {
            let TopCount { x, n, over, among, .. } = TopCount::of(call, given)?;
            let x = functions::placed(checker, x, env)?;
            (Statistic::TopCount { count: read(checker, n, env)? }, x, over, among)
        }
        Statistic::Chunks { .. } => {
            let Chunks { x, most, width, .. } = Chunks::of(call, given)?;
            let x = functions::placed(checker, x, env)?;
            let (most, width) = (read(checker, most, env), read(checker, width, env));
            let chunks = Statistic::Chunks { most: most?, width: width? };
            return apply_statistic(
                checker,
                (chunks, None),
                x,
                Spanned::new(Axis::Sequence, call.span),
                None,
                call,
                env,
            );
        }
        Statistic::Softmax => match Softmax::of(call, given)? {
            Softmax { x, across: Some(panel), among, missing, .. } => {
                return across(checker, x.expr, panel, among, missing, call.span, env);
            }
            Softmax { x, over, among, .. } => {
                let x = functions::placed(checker, x, env)?;
                (statistic, x, needs_over(checker, over, call)?, among)
            }
        },
    };
    let axis = read(checker, over, env)?;
    let over = Spanned::new(axis, over.expr.span);
    apply_statistic(checker, (statistic, changing), x, over, among, call, env)
}

pub fn apply_statistic(
    checker: &mut Checker,
    (statistic, fraction): (Statistic, Option<Spanned<Formula>>),
    Spanned { value: x, span: place }: Spanned<Formula>,
    over: Spanned<Axis>,
    among: Option<Arg<types::Condition>>,
    Call { builtin, span, .. }: Call,
    env: &Env,
) -> Option<Value> {
    let truths = statistic.of_truths();
    if truths != (x.unit() == Unit::Bool) {
        let operand = Spanned::new(&x, place);
        match truths {
            true => arithmetic::not_a_bool(checker, operand, "`balance` needs bools"),
            false => {
                let message = format!("`{}` compares numbers, not bools", builtin.name);
                arithmetic::unit_mismatch(checker, operand, &message, Some("use `where(condition, 1, 0)`"));
            }
        }
        return None;
    }
    let unit = (statistic.definition().unit)(x.unit());
    if x.live() {
        checker.report(
            Diagnostic::error(
                Code::NotDifferentiable,
                span,
                "a statistic over a batch or group has no derivative here",
            )
            .note(place, "`live` in here")
            .help("statistics are for weights and advantages: read the value without `live`"),
        );
        return None;
    }
    if x.axis() <= over.value {
        let text = format!("this is one number per {}", x.axis().name());
        checker.report(
            Diagnostic::error(
                Code::AxisMismatch,
                place,
                format!("cannot compare over {}: the operand has no such axis", over.value.name()),
            )
            .label(text)
            .note(over.span, "elements of this axis are compared")
            .help(
                "name a coarser axis: `over: batch`, or `over: group` where each prompt has several \
                 samples",
            ),
        );
        return None;
    }
    let among = read_among(checker, among, x.axis(), env).ok()?;
    let (axis, origin) = (x.axis(), checker.origin(span));
    if !is_of_peers(checker, fraction.as_ref(), over.value) {
        return None;
    }
    let fraction = fraction.map(|fraction| fraction.value);
    let kind = FormulaKind::Statistic { statistic, operand: x, over: over.value, among, fraction };
    Some(Value::Formula(Formula::new(kind, unit, axis, false, origin)))
}

/// `softmax(t.confidence / 100, across: panel, missing: uniform)`: written for one teacher of the panel,
/// computed with all.
pub fn across(
    checker: &mut Checker,
    x: &Expr,
    panel: Arg<types::Panel>,
    among: Option<Arg<types::Condition>>,
    missing: Option<Arg<types::Missing>>,
    span: Span,
    env: &Env,
) -> Option<Value> {
    let panel = match checker.evaluate(panel.expr, env) {
        Value::Panel(panel) => panel,
        other => {
            expected::wrong_kind(checker, panel.expr.span, "`across` needs a panel of teachers", &other);
            return None;
        }
    };
    let Some(missing) = missing else {
        let text = "a teacher may state no confidence, and no value is set for that case";
        checker.report(
            Diagnostic::error(Code::MissingArgument, span, text)
                .help("add `missing: uniform`: every teacher of the panel counts alike"),
        );
        return None;
    };
    read(checker, missing, env)?;
    let members = checker.parts.panels[panel.0 as usize].members.clone();
    let current = env
        .locals
        .iter()
        .rposition(|(_, value)| matches!(value, Value::Teacher(teacher) if members.contains(teacher)));
    let Some(current) = current else {
        checker.report(
            Diagnostic::error(Code::TypeMismatch, x.span, "this is the same for every teacher of the panel")
                .help(
                    "write it for one of them: `let trust[t in duo] = softmax(t.confidence, across: \
                     duo, missing: uniform)`",
                ),
        );
        return None;
    };
    let Value::Teacher(this) = env.locals[current].1 else { unreachable!("it was found by its kind") };
    let (mut formulas, mut conditions) = (Vec::new(), Vec::new());
    for member in &members {
        let mut inner = env.clone();
        Rc::make_mut(&mut inner.locals)[current].1 = Value::Teacher(*member);
        let value = checker.evaluate(x, &inner);
        formulas.push(expected::formula(checker, value, x.span)?);
        conditions.extend(read_among(checker, among, Axis::Token, &inner).ok()?);
    }
    let axis = formulas.iter().map(Formula::axis).max().expect("a panel has members");
    let index = members.iter().position(|member| *member == this).expect("it was found among them");
    let origin = checker.origin(span);
    let kind = FormulaKind::Across { members: formulas, among: conditions, index };
    Some(Value::Formula(Formula::new(kind, Unit::Fraction, axis, false, origin)))
}

pub fn plain_scan(checker: &mut Checker, scan: Scan<()>, given: Scanned, env: &Env) -> Option<Value> {
    let x = functions::placed(checker, given.x, env)?;
    let scan = match scan {
        Scan::Sum => Scan::Sum,
        Scan::Product => Scan::Product,
        Scan::Minimum => Scan::Minimum,
        Scan::Maximum => Scan::Maximum,
        Scan::Next => Scan::Next,
        Scan::RewardToGo { .. } => unreachable!("it has an argument of its own"),
    };
    apply_scan(checker, scan, x, given.over, given.call.span, env)
}

pub fn reward_to_go(checker: &mut Checker, given: RewardToGo, env: &Env) -> Option<Value> {
    let x = functions::placed(checker, given.x, env)?;
    let place = given.discount.expr;
    let value = checker.evaluate(place, env);
    let discount = expected::formula(checker, value, place.span)?;
    if let Some(value) = discount.constant().filter(|value| !(0.0..=1.0).contains(value)) {
        let text = "a discount must lie between 0 and 1";
        let diagnostic = Diagnostic::error(Code::OutOfRange, place.span, text);
        checker.report(diagnostic.label(format!("this is {value}")));
        return None;
    }
    apply_scan(checker, Scan::RewardToGo { discount }, x, given.over, given.call.span, env)
}

pub fn apply_scan(
    checker: &mut Checker,
    scan: Scan<Formula>,
    Spanned { value: x, span: place }: Spanned<Formula>,
    over: Arg<types::Axis>,
    span: Span,
    env: &Env,
) -> Option<Value> {
    let axis = read(checker, over, env)?;
    if x.axis() <= axis {
        let text = format!("this is one number per {}", x.axis().name());
        checker.report(
            Diagnostic::error(
                Code::AxisMismatch,
                place,
                format!("a scan over {0} needs several numbers per {0}", axis.name()),
            )
            .label(text)
            .note(over.expr.span, "the scan starts anew with each of these")
            .help("give it a number per token, or name a coarser axis"),
        );
        return None;
    }
    if x.live() {
        checker.report(
            Diagnostic::error(
                Code::NotDifferentiable,
                span,
                "a scan is for weights and advantages: nothing in it is `live`",
            )
            .note(place, "`live` in here"),
        );
        return None;
    }
    let unit = (scan.definition().unit)(x.unit());
    let (x_axis, origin) = (x.axis(), checker.origin(span));
    let kind = FormulaKind::Scan { scan, operand: x, over: axis };
    Some(Value::Formula(Formula::new(kind, unit, x_axis, false, origin)))
}

/// The value of `ema(x, rate: 0.9)`, `previous(x)` and the like: numbers carried from step to step.
pub fn memory(
    reporter: &mut Reporter,
    memory: Memory,
    Spanned { value: x, span: place }: Spanned<Formula>,
    span: Span,
) -> Option<Value> {
    if x.axis() > Axis::Batch {
        let text = format!(
            "only one number per step is carried to the next, and this is one per {}",
            x.axis().name()
        );
        reporter.report(
            Diagnostic::error(Code::AxisMismatch, place, text)
                .help("reduce it first: `mean(x, over: batch)`"),
        );
        return None;
    }
    if x.live() {
        let text = "what is carried from step to step carries no gradient";
        reporter.report(Diagnostic::error(Code::NotDifferentiable, span, text).note(place, "`live` in here"));
        return None;
    }
    let (unit, axis, origin) = (x.unit(), x.axis(), reporter.origin(span));
    let kind = FormulaKind::Memory { memory, operand: x };
    Some(Value::Formula(Formula::new(kind, unit, axis, false, origin)))
}
