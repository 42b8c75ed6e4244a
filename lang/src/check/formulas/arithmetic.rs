//! Operators and elementwise functions on formulas: units, axes, constant folding.

use crate::diag::{Code, Diagnostic};
use crate::formula::{Formula, FormulaKind, Function, Unit, elementwise};
use crate::source::Span;
use crate::syntax::ast::BinaryOperator;

use crate::check::Checker;
use crate::check::values::value::Value;

impl Checker {
    pub(in crate::check) fn negate(&mut self, operand: Formula, span: Span) -> Value {
        if operand.unit() == Unit::Bool {
            self.unit_mismatch(
                span,
                "a truth value can't be negated with `-`",
                &[(span, &operand)],
                Some("write `not`"),
            );
            return Value::Error;
        }
        let unit = operand.unit();
        self.apply(Function::Negate, vec![operand], unit, span)
    }

    pub(in crate::check) fn not(&mut self, operand: Formula, span: Span) -> Value {
        if operand.unit() != Unit::Bool {
            self.unit_mismatch(span, "`not` needs a truth value", &[(span, &operand)], None);
            return Value::Error;
        }
        self.apply(Function::Not, vec![operand], Unit::Bool, span)
    }

    pub(in crate::check) fn binary(
        &mut self,
        operator: BinaryOperator,
        operator_span: Span,
        (left, left_span): (Formula, Span),
        (right, right_span): (Formula, Span),
        span: Span,
    ) -> Value {
        use BinaryOperator::*;
        let (l, r) = (left.unit(), right.unit());
        let unit = match operator {
            Add => sum_unit(l, r),
            Subtract => difference_unit(l, r),
            Multiply => product_unit(l, r),
            Divide => quotient_unit(l, r),
            Power => ((plain(l) || l == Unit::Nats || l == Unit::Real) && plain(r))
                .then_some(if l == Unit::Ratio { Unit::Ratio } else { Unit::Number }),
            Equal | NotEqual => common_unit(l, r).map(|_| Unit::Bool),
            // Truth has no order.
            Less | LessEqual | Greater | GreaterEqual => {
                common_unit(l, r).filter(|unit| *unit != Unit::Bool).map(|_| Unit::Bool)
            }
            And | Or => (l == Unit::Bool && r == Unit::Bool).then_some(Unit::Bool),
        };
        let Some(unit) = unit else {
            let message =
                format!("{} and {} don't go together with `{}`", l.name(), r.name(), operator.symbol());
            let help = mismatch_help(operator, l, r);
            self.unit_mismatch(operator_span, &message, &[(left_span, &left), (right_span, &right)], help);
            return Value::Error;
        };
        if operator == Divide && right.0.kind == FormulaKind::Number(0.0) {
            self.report(
                Diagnostic::error(Code::OutOfRange, right_span, "division by zero").label("this is 0"),
            );
            return Value::Error;
        }
        let function = match operator {
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
        };
        self.apply(function, vec![left, right], unit, span)
    }

    /// An elementwise application: the finest axis of the operands, live where one of them is.
    pub(in crate::check) fn apply(
        &mut self,
        function: Function,
        operands: Vec<Formula>,
        unit: Unit,
        span: Span,
    ) -> Value {
        use Function::*;
        let live = operands.iter().any(Formula::live);
        let stepwise = matches!(
            function,
            Not | Floor | Equal | NotEqual | Less | LessEqual | Greater | GreaterEqual | And | Or
        );
        if live && (stepwise || (function == Where && operands[0].live())) {
            self.report(
                Diagnostic::error(
                    Code::NotDifferentiable,
                    span,
                    "a comparison has no derivative, so nothing here can be `live`",
                )
                .help(
                    "compare the value without `live`: only the factor that should carry gradient is marked",
                ),
            );
            return Value::Error;
        }
        let constants: Option<Vec<f64>> = operands.iter().map(Formula::constant).collect();
        if let Some(constants) = constants {
            let value = elementwise::apply(function, &constants);
            if value.is_finite() {
                return self.number(value, unit, span);
            }
            self.report(Diagnostic::error(
                Code::OutOfRange,
                span,
                format!("this constant is {value}, not a finite number"),
            ));
            return Value::Error;
        }
        let axis = operands.iter().map(Formula::axis).max().expect("every function has an operand");
        let origin = self.origin(span);
        Value::Formula(Formula::new(FormulaKind::Apply { function, operands }, unit, axis, live, origin))
    }

    pub(in crate::check) fn unit_mismatch(
        &mut self,
        span: Span,
        message: &str,
        parts: &[(Span, &Formula)],
        help: Option<&str>,
    ) {
        let mut finding = Diagnostic::error(Code::UnitMismatch, span, message);
        for (place, formula) in parts {
            let unit = formula.unit().name();
            if *place == span {
                finding.primary.text = format!("this is {unit}");
            } else {
                finding = finding.because(*place, format!("this is {unit}, per {}", formula.axis().name()));
            }
        }
        if let Some(help) = help {
            finding = finding.help(help);
        }
        self.report(finding);
    }
}

/// Numbers that measure nothing: they mix freely.
fn plain(unit: Unit) -> bool {
    matches!(unit, Unit::Number | Unit::Ratio | Unit::Fraction | Unit::Count)
}

/// The unit that two sides of a comparison, a `min` or a `where` share.
pub fn common_unit(left: Unit, right: Unit) -> Option<Unit> {
    match (left, right) {
        (l, r) if l == r => Some(l),
        (Unit::Bool, _) | (_, Unit::Bool) => None,
        (Unit::Number, other) | (other, Unit::Number) => Some(other),
        (l, r) if plain(l) && plain(r) => Some(Unit::Number),
        // A reward is a number of the author's own making: its bounds are ratios or fractions as well as
        // anything else.
        (Unit::Real, r) if plain(r) => Some(Unit::Real),
        (l, Unit::Real) if plain(l) => Some(Unit::Real),
        _ => None,
    }
}

fn sum_unit(left: Unit, right: Unit) -> Option<Unit> {
    match (left, right) {
        // log p + log q is the log of a product; log p + nats is a scaled probability.
        (Unit::Logp, Unit::Nats) | (Unit::Nats, Unit::Logp) => Some(Unit::Logp),
        // exp(d) - 1 - d, the unbiased estimator "k3", is made of a ratio and its own log.
        (Unit::Ratio, Unit::Nats) | (Unit::Nats, Unit::Ratio) => Some(Unit::Number),
        (Unit::Bool, Unit::Bool) => None,
        _ => common_unit(left, right),
    }
}

fn difference_unit(left: Unit, right: Unit) -> Option<Unit> {
    match (left, right) {
        (Unit::Logp, Unit::Logp) => Some(Unit::Nats),
        _ => sum_unit(left, right),
    }
}

/// A product with a literal keeps the unit; with anything else it is a number of its own, so that `alpha *
/// reward` may be added to nats while a bare reward may not.
fn product_unit(left: Unit, right: Unit) -> Option<Unit> {
    match (left, right) {
        (Unit::Bool, other) | (other, Unit::Bool) => (other != Unit::Bool).then_some(other),
        (Unit::Number | Unit::Count, Unit::Real) | (Unit::Real, Unit::Number | Unit::Count) => {
            Some(Unit::Number)
        }
        (Unit::Number | Unit::Count, other) | (other, Unit::Number | Unit::Count) => Some(other),
        (Unit::Fraction, Unit::Fraction) => Some(Unit::Fraction),
        (Unit::Ratio, Unit::Prob) | (Unit::Prob, Unit::Ratio) | (Unit::Prob, Unit::Prob) => Some(Unit::Prob),
        _ => Some(Unit::Number),
    }
}

fn quotient_unit(left: Unit, right: Unit) -> Option<Unit> {
    match (left, right) {
        (Unit::Bool, _) | (_, Unit::Bool) => None,
        (Unit::Logp, Unit::Logp) => Some(Unit::Ratio),
        (Unit::Number, Unit::Number) => Some(Unit::Number),
        (l, r) if l == r => Some(Unit::Ratio),
        (l, Unit::Number | Unit::Count | Unit::Ratio | Unit::Fraction) => Some(l),
        _ => Some(Unit::Number),
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
             reward`",
        )
    } else if pair(Unit::Logp, Unit::Nats)
        && matches!(operator, BinaryOperator::Less | BinaryOperator::Greater)
    {
        Some("compare a difference of log-probabilities instead, such as `teacher.logp - student.logp`")
    } else if left == Unit::Bool || right == Unit::Bool {
        Some("use a truth value in `where(condition, then, else)`, in `select`, or multiply by it")
    } else if pair(Unit::Prob, Unit::Nats) {
        Some("a probability and a number of nats: take `log(...)` of the probability first")
    } else {
        None
    }
}
