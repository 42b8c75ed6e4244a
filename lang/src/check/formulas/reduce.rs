//! `reduce`: from one number per token to one number per batch. Every step names the axis that it reduces. A
//! denominator and a balance between domains may follow.

use crate::diag::{Code, Diagnostic};
use crate::source::{Span, Spanned};
use crate::syntax::ast::{BinaryOperator, Block, Expr, ExprKind, Name};
use mopd_experiment::formula::{Axis, Formula, FormulaKind, PlainSignal, Reduction, Signal, Unit};
use mopd_experiment::{Balance, Reduce, ReduceStep};

use crate::check::builtins::vocabulary::BalanceBlock;
use crate::check::checker::Checker;
use crate::check::declarations::Declarations;
use crate::check::formulas::ranges::possible_values;
use crate::check::formulas::{along_axis, arithmetic};
use crate::check::read::{expected, numbers, read, reads, settings};
use crate::check::reporter::Reporter;
use crate::check::suggestions::unknown;
use crate::check::values::environment::Env;
use crate::check::values::value::Value;

reads! {
    BalanceTarget => |checker, given, env| balance_target(checker, given.expr, env);
    BalanceClamp => |checker, given, env| balance_clamp(checker, given.expr, env);
}

const STEP_USAGE: &str = "a step is `mean(axis)` or `sum(axis)`, with `over: axis` where needed";

/// One step as written.
struct WrittenReduceStep {
    operation: Reduction,
    elements: Axis,
    over: Option<Axis>,
    among_when: bool,
    span: Span,
}

/// `mean(token) then mean(sequence)`, `sum(token, over: batch) / 8192`, `mean(token, over: batch) by
/// domain { ... }`
pub fn reduction(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<Reduce> {
    let (expr, balance) = match &expr.kind {
        ExprKind::By { value, axis, block } => (value.as_ref(), Some(balance(checker, axis, block, env)?)),
        _ => (expr, None),
    };
    let mut parts = Vec::new();
    flatten(expr, &mut parts);
    // The denominator belongs to the last step: `mean(token) then sum(sequence) / 64`.
    let mut denominator = None;
    if let Some(last) = parts.last_mut()
        && let ExprKind::Binary { operator: BinaryOperator::Divide, left, right, .. } = &last.kind
    {
        denominator = Some(read_denominator(checker, right, env)?);
        *last = left;
    }
    let mut read = Vec::new();
    for part in &parts {
        read.push(reduction_step(checker, part)?);
    }
    let steps = chain(checker, &read)?;
    if let (Some(denominator), Some(last)) = (&denominator, steps.last())
        && !counts_alike(checker, last, denominator)
    {
        return None;
    }
    let origin = checker.origin(expr.span);
    Some(Reduce { steps, denominator, balance, origin })
}

/// Chains the steps: each starts from the axis that the one before left.
fn chain(reporter: &mut Reporter, read: &[WrittenReduceStep]) -> Option<Vec<ReduceStep>> {
    let mut steps = Vec::new();
    let mut expected = read.first().map_or(Axis::Token, |step| step.elements);
    for (index, step) in read.iter().enumerate() {
        if step.elements != expected {
            let text = format!("one number per {} is left at this point", expected.name());
            reporter.report(
                Diagnostic::error(Code::AxisMismatch, step.span, text)
                    .label(format!("reduces over `{}`", step.elements.name()))
                    .help("for example `mean(token) then mean(sequence)`"),
            );
            return None;
        }
        let next = read.get(index + 1).map(|next| next.elements);
        let over = match (step.over, next) {
            (Some(over), _) => over,
            (None, Some(next)) => next,
            (None, None) if index == 0 && step.elements == Axis::Token => {
                report_ambiguous_mean(reporter, step);
                return None;
            }
            (None, None) => Axis::Batch,
        };
        if over >= step.elements {
            report_not_coarser(reporter, read, step, over);
            return None;
        }
        let operation = step.operation;
        steps.push(ReduceStep { operation, elements: step.elements, over, among_when: step.among_when });
        expected = over;
    }
    if expected != Axis::Batch {
        let span = read.last().expect("at least one step").span;
        reporter.report(
            Diagnostic::error(
                Code::AxisMismatch,
                span,
                format!("one number per {} is left, but a loss is a single number", expected.name()),
            )
            .help(format!("add `then mean({})`", expected.name())),
        );
        return None;
    }
    Some(steps)
}

/// Reports `mean(token)` alone.
fn report_ambiguous_mean(reporter: &mut Reporter, step: &WrittenReduceStep) {
    // `mean(token), mean(sequence)`: the comma has been reported.
    let rest = reporter.sources.file(step.span.file).text[step.span.end as usize..].trim_start();
    let next = rest.strip_prefix(',').map_or("", str::trim_start);
    if next.starts_with("mean(") || next.starts_with("sum(") {
        return;
    }
    reporter.report(
        Diagnostic::error(
            Code::AxisMismatch,
            step.span,
            "`mean(token)` can average over all tokens, or over each sequence first",
        )
        .label("does not say")
        .help(
            "write `mean(token, over: batch)`, or `mean(token) then mean(sequence)`: they \
                         are different experiments",
        ),
    );
}

/// Reports a step whose result, on the axis `over`, is not on a coarser axis than its elements.
fn report_not_coarser(
    reporter: &mut Reporter,
    read: &[WrittenReduceStep],
    step: &WrittenReduceStep,
    over: Axis,
) {
    let (elements, over) = (step.elements.name(), over.name());
    if step.over.is_some() {
        let text = format!("`{elements}` can't be reduced per `{over}`");
        reporter.report(
            Diagnostic::error(Code::AxisMismatch, step.span, text)
                .help("axes go from token to turn to sequence to group to batch"),
        );
        return;
    }
    let text = format!("reductions go from fine to coarse: `{over}` can't come after `{elements}`");
    let diagnostic = Diagnostic::error(Code::AxisMismatch, step.span, text)
        .help("for example `mean(token) then mean(sequence)`");
    // Two steps in the wrong order.
    reporter.report(match read {
        [first, second]
            if first.elements < second.elements && first.over.is_none() && second.over.is_none() =>
        {
            let [ours, theirs] = [second, first].map(|step| reporter.sources.text(step.span));
            let swapped = format!("{ours} then {theirs}");
            let whole = first.span.to(second.span);
            diagnostic.fix(format!("write `{swapped}`"), whole, swapped).possibly()
        }
        _ => diagnostic,
    });
}

/// Reports an expression in place of a step.
fn report_no_step(reporter: &mut Reporter, expr: &Expr) {
    let diagnostic = |text: &str| Diagnostic::error(Code::TypeMismatch, expr.span, text);
    match &expr.kind {
        ExprKind::Error => {}
        ExprKind::Arrow { from, to } => {
            let sign = Span { start: from.span.end, end: to.span.start, ..expr.span };
            reporter.report(
                diagnostic("the steps of a `reduce` are joined by `then`, not `->`")
                    .help("for example `mean(token) then mean(sequence)`")
                    .fix("write `then`", sign, " then "),
            );
        }
        _ => {
            reporter.report(diagnostic("expected a step of a `reduce`").help(format!(
                "{STEP_USAGE}: `mean(token) then mean(sequence)`, or `mean(token, over: batch)`"
            )))
        }
    }
}

fn reduction_step(declarations: &mut Declarations, expr: &Expr) -> Option<WrittenReduceStep> {
    let ExprKind::Call { callee, arguments, .. } = &expr.kind else {
        report_no_step(declarations, expr);
        return None;
    };
    let words = [("mean", Reduction::Mean), ("sum", Reduction::Sum)];
    let operation = expected::word(declarations, callee, "a reduction", &words)?;
    let (mut elements, mut over, mut among_when) = (None, None, false);
    for argument in arguments {
        match &argument.name {
            None if elements.is_none() => elements = Some(along_axis::axis(declarations, &argument.value)?),
            Some(name) if name.text == "over" => {
                over = Some(along_axis::axis(declarations, &argument.value)?)
            }
            Some(name) if name.text == "among" => {
                expected::word(
                    declarations,
                    &argument.value,
                    "what a `reduce` can choose among: the term's own condition",
                    &[("when", ())],
                )?;
                among_when = true;
            }
            _ => {
                if argument.name.is_none() {
                    // `mean(token, sequence)`
                    let text = "a step of a `reduce` has one axis";
                    declarations.report(
                        Diagnostic::error(Code::UnknownArgument, argument.value.span, text)
                            .help("for example `mean(token) then mean(sequence)`"),
                    );
                } else {
                    let known = ["over", "among"];
                    unknown::unknown_argument(declarations, "reduce", argument, &known, &known, None);
                }
                return None;
            }
        }
    }
    match elements {
        Some(elements) => Some(WrittenReduceStep { operation, elements, over, among_when, span: expr.span }),
        None => {
            declarations.report(
                Diagnostic::error(Code::MissingArgument, expr.span, "which axis is reduced here?")
                    .help(STEP_USAGE),
            );
            None
        }
    }
}

/// The denominator of a sum: one positive number for the whole batch.
fn read_denominator(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<Formula> {
    let value = checker.evaluate(expr, env);
    let formula = expected::formula(checker, value, expr.span)?;
    if formula.axis() > Axis::Batch || formula.live() {
        let text =
            format!("a loss has one denominator, and this is one number per {}", formula.axis().name());
        checker.report(
            Diagnostic::error(Code::AxisMismatch, expr.span, text).help("reduce it: `sum(w, over: batch)`"),
        );
        return None;
    }
    if formula.unit() == Unit::Bool {
        arithmetic::unit_mismatch(
            checker,
            Spanned::new(&formula, expr.span),
            "a denominator is a number",
            None,
        );
        return None;
    }
    if formula.constant().is_some_and(|value| value <= 0.0) {
        checker.report(Diagnostic::error(Code::OutOfRange, expr.span, "a denominator must be positive"));
        return None;
    }
    if never_positive(&formula) {
        let text = "a denominator must be positive, and this one never is";
        let diagnostic = Diagnostic::error(Code::OutOfRange, expr.span, text);
        checker.report(diagnostic.help("a negative denominator would turn the gradient around"));
        return None;
    }
    Some(formula)
}

/// Whether a sum and its denominator run over elements of one axis. The sum of tokens over the sum of a
/// weight per sequence is no weighted mean: it is too large by the mean length.
fn counts_alike(reporter: &mut Reporter, last: &ReduceStep, denominator: &Formula) -> bool {
    let FormulaKind::Reduce { reduction: Reduction::Sum, operand, .. } = &denominator.0.kind else {
        return true;
    };
    let (elements, counted) = (last.elements, operand.axis());
    // A length, or a sum over the elements, counts them.
    let of_lengths = operand.any(|part| match &part.kind {
        FormulaKind::Signal(Signal::Plain(PlainSignal::Length)) => true,
        FormulaKind::Reduce { reduction: Reduction::Sum | Reduction::Count, operand, .. } => {
            operand.axis() >= elements
        }
        _ => false,
    });
    if last.operation != Reduction::Sum || counted >= elements || counted <= Axis::Batch || of_lengths {
        return true;
    }
    let (one, other) = (elements.name(), counted.name());
    let text = format!("the loss sums {one}s, and this denominator sums {other}s");
    let span = reporter.span(denominator.0.origin);
    let diagnostic = Diagnostic::error(Code::AxisMismatch, span, text)
        .label(format!("this is a sum of one number per {other}"));
    let sums = format!("to divide by it, let the loss sum {other}s: `sum({one}) then sum({other}) / ...`");
    let tokens = "for a mean over tokens, multiply it by `length`: `sum(w * length, over: batch)`; ";
    let tokens = if (elements, counted) == (Axis::Token, Axis::Sequence) { tokens } else { "" };
    reporter.report(diagnostic.help(format!("{tokens}{sums}")));
    false
}

/// `by domain { target = 1/3, follow_gap = 1, clamp = 0.05..=20, observe = true }`
fn balance(checker: &mut Checker, axis: &Name, block: &Block, env: &Env) -> Option<Balance> {
    if axis.text != "domain" {
        let text = format!("a loss is balanced by domain, not by `{}`", axis.text);
        checker.report(
            Diagnostic::error(Code::UnknownValue, axis.span, text)
                .replace_with("change to `domain`", "domain"),
        );
        return None;
    }
    let (settings, given) = settings::block::<BalanceBlock>(checker, Some(block), "by domain", block.span);
    settings::keep_marks(&mut checker.parts, &settings, "by domain");
    let target = read(checker, given.target, env)?;
    let follow_gap = read(checker, given.follow_gap, env)?;
    let clamp = read(checker, given.clamp, env)?;
    let observe = read(checker, given.observe, env)?;
    let origin = checker.origin(block.span);
    Some(Balance { target, follow_gap, clamp, observe, origin })
}

/// `target = 1/3`
pub fn balance_target(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<f64> {
    let value = checker.evaluate(expr, env);
    let target = numbers::fraction(checker, &value, expr.span, "`target`")?;
    if target == 0.0 {
        let text = "a target of 0 leaves no domain a share of the loss";
        checker.report(
            Diagnostic::error(Code::OutOfRange, expr.span, text)
                .help("write `target = 1/3` for three domains alike"),
        );
        return None;
    }
    Some(target)
}

/// `clamp = 0.05..=20`
pub fn balance_clamp(checker: &mut Checker, expr: &Expr, env: &Env) -> Option<(f64, f64)> {
    match checker.evaluate(expr, env) {
        Value::Range { low, high } if low > 0.0 => Some((low, high)),
        Value::Range { .. } => {
            let text = "a domain's weight stays positive";
            checker.report(Diagnostic::error(Code::OutOfRange, expr.span, text));
            None
        }
        other => {
            expected::wrong_kind(checker, expr.span, "`clamp` is a range, such as `0.05..=20`", &other);
            None
        }
    }
}

/// Whether a number is at most 0 whatever is drawn, as a sum of log-probabilities. A number of the step alone
/// is checked with the length of the run.
fn never_positive(formula: &Formula) -> bool {
    let mut of = formula;
    while let FormulaKind::Reduce {
        reduction: Reduction::Sum | Reduction::Mean | Reduction::Minimum | Reduction::Maximum,
        operand,
        ..
    } = &of.0.kind
    {
        of = operand;
    }
    of.axis() > Axis::Run && possible_values(of).1 <= 0.0
}

fn flatten<'a>(expr: &'a Expr, parts: &mut Vec<&'a Expr>) {
    match &expr.kind {
        ExprKind::Then { first, second } => {
            flatten(first, parts);
            flatten(second, parts);
        }
        _ => parts.push(expr),
    }
}
