//! Linear combinations of logits.

use crate::source::{Span, Spanned};
use crate::syntax::ast::BinaryOperator;
use mopd_experiment::formula::{Formula, Unit, WeightedRole};

use crate::check::declarations::Declarations;
use crate::check::formulas::arithmetic;
use crate::check::read::{expected, numbers};
use crate::check::reporter::Reporter;
use crate::check::values::value::Value;

/// Linear combinations of logits: `logits(a) + w * (logits(a) - logits(b))`.
pub fn logits_arithmetic(
    declarations: &mut Declarations,
    operator: BinaryOperator,
    left: Spanned<Value>,
    right: Spanned<Value>,
    span: Span,
) -> Value {
    match (operator, left.value, right.value) {
        (_, Value::Error, _) | (_, _, Value::Error) => Value::Error,
        (BinaryOperator::Add, Value::Logits(mut a), Value::Logits(b)) => {
            a.extend(b);
            Value::Logits(a)
        }
        (BinaryOperator::Subtract, Value::Logits(mut a), Value::Logits(b)) => {
            match scaled_logits(declarations, b, None, -1.0, span) {
                Value::Logits(b) => {
                    a.extend(b);
                    Value::Logits(a)
                }
                _ => Value::Error,
            }
        }
        (BinaryOperator::Multiply, Value::Logits(parts), other) => {
            match expected::formula(declarations, other, right.span) {
                Some(factor) => scaled_logits(declarations, parts, Some(factor), 1.0, span),
                None => Value::Error,
            }
        }
        (BinaryOperator::Multiply, other, Value::Logits(parts)) => {
            match expected::formula(declarations, other, left.span) {
                Some(factor) => scaled_logits(declarations, parts, Some(factor), 1.0, span),
                None => Value::Error,
            }
        }
        _ => expected::misplaced(
            declarations,
            span,
            "logits are added up, each with a factor, and nothing else",
            "for example `logits(a) + 0.5 * (logits(a) - logits(b))`",
        ),
    }
}

pub fn scaled_logits(
    reporter: &mut Reporter,
    parts: Vec<WeightedRole>,
    factor: Option<Formula>,
    sign: f64,
    span: Span,
) -> Value {
    let mut scaled = Vec::new();
    for WeightedRole { weight, role } in parts {
        let Value::Formula(sign) = numbers::number(reporter, sign, Unit::Number, span) else {
            return Value::Error;
        };
        let factor = factor.clone().unwrap_or(sign);
        let (factor, weight) = (Spanned::new(factor, span), Spanned::new(weight, span));
        let product = arithmetic::binary(reporter, BinaryOperator::Multiply, span, factor, weight, span);
        let Value::Formula(weight) = product else { return Value::Error };
        scaled.push(WeightedRole { weight, role });
    }
    Value::Logits(scaled)
}
