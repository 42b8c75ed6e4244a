//! Operators and elementwise functions on formulas: units, axes, constant folding.

use crate::diag::{Code, Diagnostic};
use crate::source::{Span, Spanned};
use crate::syntax::ast::BinaryOperator;
use mopd_experiment::formula::{Axis, CountWord, Formula, FormulaKind, Function, Unit};
use mopd_ops::{Mismatch, Units};

use crate::check::reporter::Reporter;
use crate::check::values::value::Value;

/// `-x`, `not x`, `exp(x)`: a function of one operand.
pub fn applied(
    reporter: &mut Reporter,
    function: Function,
    operand: Formula,
    operand_span: Span,
    span: Span,
) -> Value {
    match function.unit(operand.unit()) {
        Ok(unit) => apply(reporter, function, vec![operand], unit, span),
        Err(Mismatch { message, help }) => {
            let operand = Spanned::new(&operand, operand_span);
            match function {
                Function::Not => not_a_bool(reporter, operand, message),
                _ => unit_mismatch(reporter, operand, message, help),
            }
            Value::Error
        }
    }
}

pub fn binary(
    reporter: &mut Reporter,
    operator: BinaryOperator,
    operator_span: Span,
    left: Spanned<Formula>,
    right: Spanned<Formula>,
    span: Span,
) -> Value {
    let function = function_of(operator);
    let (l, r) = (left.value.unit(), right.value.unit());
    let unit = match function.definition().units {
        Units::Two(unit) => unit(l, r),
        Units::One(_) | Units::Shared => unreachable!("an operator with two sides"),
    };
    let Some(unit) = unit else {
        let message = format!("{} and {} don't go together with `{}`", l.name(), r.name(), operator.symbol());
        let help = mismatch_help(operator, l, r);
        units_mismatch(reporter, operator_span, &message, [&left, &right].map(Spanned::as_ref), help);
        return Value::Error;
    };
    if function == Function::Divide && right.value.0.kind == FormulaKind::Number(0.0) {
        reporter.report(
            Diagnostic::error(Code::OutOfRange, right.span, "division by zero")
                .label("this is 0")
                .help("give its parts other values, or divide by something that is not 0"),
        );
        return Value::Error;
    }
    apply(reporter, function, vec![left.value, right.value], unit, span)
}

/// An elementwise application. It has the finest axis of its operands, and is live if one of them is.
pub fn apply(
    reporter: &mut Reporter,
    function: Function,
    operands: Vec<Formula>,
    unit: Unit,
    span: Span,
) -> Value {
    let live = operands.iter().any(Formula::live);
    if live && (!function.is_differentiable() || (function == Function::Where && operands[0].live())) {
        let what = match function {
            Function::Where => "a comparison".to_owned(),
            function if function.is_call() => format!("`{}`", function.name()),
            _ => "a comparison".to_owned(),
        };
        let text = format!("{what} has no derivative, so nothing here can be `live`");
        reporter.report(
            Diagnostic::error(Code::NotDifferentiable, span, text).help(
                "compare the value without `live`: only the factor that should carry gradient is marked",
            ),
        );
        return Value::Error;
    }
    let constants: Option<Vec<f64>> = operands.iter().map(Formula::constant).collect();
    if let Some(constants) = constants {
        let counted = match CountWord::of_result(function, &operands) {
            Ok(counted) => counted,
            Err(words) => return mixed_counts(reporter, function, words, span),
        };
        let value = function.value(&constants);
        if value.is_finite() {
            // A 0 that a parameter makes is shown where the parameter is given.
            let outside = |operand: &&Formula| !reporter.span(operand.0.origin).is_within(span);
            let given = operands.iter().find(outside).filter(|_| value == 0.0).map(|of| of.0.origin);
            let origin = given.unwrap_or_else(|| reporter.origin(span));
            let number = Formula::new(FormulaKind::Number(value), unit, Axis::Run, false, origin);
            return Value::Formula(number.counting(counted));
        }
        reporter.report(Diagnostic::error(
            Code::OutOfRange,
            span,
            format!("this constant is {value}, not a finite number"),
        ));
        return Value::Error;
    }
    let origin = reporter.origin(span);
    if let Some(same) = beside_neutral(function, &operands).and_then(|of| of.of_unit(unit, origin)) {
        return Value::Formula(same);
    }
    let axis = operands.iter().map(Formula::axis).max().expect("every function has an operand");
    Value::Formula(Formula::new(FormulaKind::Apply { function, operands }, unit, axis, live, origin))
}

/// Reports a function of numbers that count different things: `100 tokens + 2 steps`.
fn mixed_counts(reporter: &mut Reporter, function: Function, words: [CountWord; 2], span: Span) -> Value {
    let [first, second] = words.map(|counted| counted.word);
    let text = format!("{first} and {second} don't go together with `{}`", function.name());
    let mut diagnostic = Diagnostic::error(Code::UnitMismatch, span, text);
    for counted in words {
        diagnostic = diagnostic.note(reporter.span(counted.origin), format!("counts {}", counted.word));
    }
    reporter.report(diagnostic.help("a setting counts one of them: write both numbers in its unit"));
    Value::Error
}

/// Reports an operand of a wrong unit.
pub fn unit_mismatch(reporter: &mut Reporter, operand: Spanned<&Formula>, message: &str, help: Option<&str>) {
    units_mismatch(reporter, operand.span, message, [operand], help);
}

/// Reports a number where a bool is needed.
pub fn not_a_bool(reporter: &mut Reporter, operand: Spanned<&Formula>, message: &str) {
    let written = reporter.sources.text(operand.span);
    let written = written.strip_prefix("not ").unwrap_or(written);
    let help = match written {
        "reward" => "a condition on it is `correct`, or a comparison such as `reward > 0.5`".to_owned(),
        _ if written.starts_with("random(") => {
            "a condition that holds with a probability is `bernoulli(p, per: token)`, or a comparison, `x < p`"
                .to_owned()
        }
        _ if written.len() <= 40 && !written.contains('\n') => {
            format!("compare it with a bound first, such as `{written} > bound`")
        }
        _ => "compare it with a bound first".to_owned(),
    };
    unit_mismatch(reporter, operand, message, Some(&help));
}

/// Reports operands whose units don't go together.
pub fn units_mismatch<const N: usize>(
    reporter: &mut Reporter,
    span: Span,
    message: &str,
    operands: [Spanned<&Formula>; N],
    help: Option<&str>,
) {
    let mut diagnostic = Diagnostic::error(Code::UnitMismatch, span, message);
    for operand in operands {
        let unit = operand.value.unit().name();
        if operand.span == span {
            diagnostic.primary.text = format!("this is {unit}");
        } else {
            let text = format!("this is {unit}, per {}", operand.value.axis().name());
            diagnostic = diagnostic.note(operand.span, text);
        }
    }
    if let Some(help) = help {
        diagnostic = diagnostic.help(help);
    }
    reporter.report(diagnostic);
}

/// The operand that a function returns as it is: `x` in `1 * x`, `x / 1`, `x^1`, `x + 0`, `x - 0`.
fn beside_neutral(function: Function, operands: &[Formula]) -> Option<&Formula> {
    let [left, right] = operands else { return None };
    let (neutral, commutes) = match function {
        Function::Multiply => (1.0, true),
        Function::Divide | Function::Power => (1.0, false),
        Function::Add => (0.0, true),
        Function::Subtract => (0.0, false),
        _ => return None,
    };
    if right.constant() == Some(neutral) {
        Some(left)
    } else {
        (commutes && left.constant() == Some(neutral)).then_some(right)
    }
}

fn function_of(operator: BinaryOperator) -> Function {
    use BinaryOperator::*;
    match operator {
        Add => Function::Add,
        Subtract => Function::Subtract,
        Multiply => Function::Multiply,
        Divide => Function::Divide,
        Power => Function::Power,
        Equal => Function::Equal,
        NotEqual => Function::NotEqual,
        Less => Function::Less,
        LessEqual => Function::LessEqual,
        Greater => Function::Greater,
        GreaterEqual => Function::GreaterEqual,
        And => Function::And,
        Or => Function::Or,
    }
}

fn mismatch_help(operator: BinaryOperator, left: Unit, right: Unit) -> Option<&'static str> {
    let pair = |a, b| (left, right) == (a, b) || (left, right) == (b, a);
    if pair(Unit::Logp, Unit::Prob) {
        Some(
            "one is the log of a probability, the other a probability: wrap one side in `exp(...)` or \
             `log(...)`",
        )
    } else if pair(Unit::Nats, Unit::Real) || pair(Unit::Logp, Unit::Real) {
        Some(
            "a divergence and a reward have no common scale: give the reward a coefficient, such as `0.1 * \
             reward`, or `1 * reward` beside a divergence that has one",
        )
    } else if pair(Unit::Logp, Unit::Nats)
        && matches!(operator, BinaryOperator::Less | BinaryOperator::Greater)
    {
        Some("compare a difference of log-probabilities instead, such as `teacher.logp - student.logp`")
    } else if left == Unit::Bool || right == Unit::Bool {
        Some("use a bool in `where(condition, then, else)`, in `select`, or multiply by it")
    } else if pair(Unit::Prob, Unit::Nats) {
        Some("a probability and a number of nats: take `log(...)` of the probability first")
    } else {
        None
    }
}
