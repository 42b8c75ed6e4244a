//! The declaration of an elementwise function, and what follows from it.

use super::expr::{Arguments, NumberOps, OpExpr};
use super::interval::{self, ValueInterval};
use super::table::Function;
use crate::unit::{Mismatch, Unit};

/// One entry of the table.
pub struct FunctionDefinition {
    /// Its notation: a name, or an operator's sign.
    pub name: &'static str,
    pub notation: Notation,
    pub units: Units,
    pub value: FunctionValue,
    /// The gradient of each operand, from [`OpExpr::Gradient`] of the output. `None` where the function is
    /// constant in that operand almost everywhere. Empty if that holds for all operands.
    ///
    /// Where there is no derivative, one is chosen as in automatic differentiation: `min` and `max` of two
    /// equals pass the gradient to the first, `clip` passes it inside and at its bounds, `abs` and `relu`
    /// have derivative 0 at 0, `x^0` has derivative 0 everywhere, and `0^y` for every y from 0.
    pub gradients: &'static [Option<OpExpr>],
    pub range: Range,
    pub accuracy: Accuracy,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Notation {
    /// `name(x)`, with its parameters' names, and one line for documentation.
    Call { parameters: &'static [&'static str], doc: &'static str },
    /// `-x`. A larger precedence binds tighter.
    Prefix { precedence: u8 },
    /// `a + b`
    Infix { precedence: u8 },
}

/// Units of operands and result.
pub enum Units {
    One(fn(Unit) -> Result<Unit, Mismatch>),
    /// `None` where the two units don't fit together.
    Two(fn(Unit, Unit) -> Option<Unit>),
    /// All operands and the result have one unit, except for a bool before them.
    Shared,
}

/// The value in f64. Transcendental functions come from `libm`, not from the system, so that results are the
/// same on every machine.
pub enum FunctionValue {
    Native(fn(&[f64]) -> f64),
    /// One of the operands, by position.
    Select(fn(&[f64]) -> usize),
    /// An expression of other functions.
    Body(OpExpr),
}

/// The range of the results, given intervals of the operands.
pub enum Range {
    /// For an increasing function of one operand: the ends of the interval give the ends of the result.
    Increasing,
    /// Computed from the intervals of the operands, none of which is unknown.
    Of(fn(&[ValueInterval]) -> ValueInterval),
    /// For a function with a bool result: its value, if the intervals decide it.
    Truth(fn(&[ValueInterval]) -> Option<bool>),
}

/// The largest error of the f32 program for any operands, with or without fused multiply-add, in units in the
/// last place of the exact result. 0.5 is correct rounding, 0 is exact.
pub struct Accuracy {
    pub ulp: f64,
    /// How the program computes it.
    pub how: &'static str,
}

/// A call binds tighter than any operator.
const CALL: u8 = 9;

impl Function {
    /// The name of a call, or the sign of an operator.
    pub fn name(self) -> &'static str {
        self.definition().name
    }

    pub fn operands(self) -> usize {
        match self.definition().notation {
            Notation::Call { parameters, .. } => parameters.len(),
            Notation::Prefix { .. } => 1,
            Notation::Infix { .. } => 2,
        }
    }

    /// How tightly an operator binds; calls bind tightest.
    pub fn precedence(self) -> u8 {
        match self.definition().notation {
            Notation::Call { .. } => CALL,
            Notation::Prefix { precedence } | Notation::Infix { precedence } => precedence,
        }
    }

    pub fn is_call(self) -> bool {
        matches!(self.definition().notation, Notation::Call { .. })
    }

    /// Whether gradient passes through the function.
    pub fn is_differentiable(self) -> bool {
        !self.definition().gradients.is_empty()
    }

    /// The gradient of the operand at `position`, from [`OpExpr::Gradient`] of the output.
    pub fn gradient(self, position: usize) -> Option<&'static OpExpr> {
        self.definition().gradients.get(position)?.as_ref()
    }

    /// The value of the function at its operands.
    pub fn value(self, operands: &[f64]) -> f64 {
        match &self.definition().value {
            FunctionValue::Native(value) => value(operands),
            FunctionValue::Select(position) => operands[position(operands)],
            FunctionValue::Body(body) => body.evaluate(&mut NumberOps, Arguments { operands, reverse: None }),
        }
    }

    /// The expression of other functions that defines it, if there is one.
    pub fn body(self) -> Option<&'static OpExpr> {
        match &self.definition().value {
            FunctionValue::Body(body) => Some(body),
            FunctionValue::Native(_) | FunctionValue::Select(_) => None,
        }
    }

    /// The unit of a function of one operand.
    ///
    /// # Panics
    /// If it has another number of operands.
    pub fn unit(self, of: Unit) -> Result<Unit, Mismatch> {
        match self.definition().units {
            Units::One(unit) => unit(of),
            Units::Two(_) | Units::Shared => unreachable!("{self:?} has several operands"),
        }
    }

    /// An interval that contains all results if each operand lies in its interval; it may be too wide.
    pub fn range(self, operands: &[ValueInterval]) -> ValueInterval {
        interval::proper(match self.definition().range {
            Range::Truth(decided) => interval::truth(decided(operands)),
            // `log` of an unknown argument is unbounded, too.
            _ if operands.contains(&interval::ANYTHING) => interval::ANYTHING,
            Range::Of(range) => range(operands),
            Range::Increasing => (self.value(&[operands[0].0]), self.value(&[operands[0].1])),
        })
    }

    /// An interval that contains the result if the operands and the result are finite: an infinite end is no
    /// value, it says that no bound is known.
    pub fn finite_range(self, operands: &[ValueInterval]) -> ValueInterval {
        interval::of_finite_numbers(self, operands)
    }
}

/// Whether the minimum is the second number. Of two equals it is the first; NaN is below all.
#[inline]
pub(crate) fn second_is_minimum(a: f64, b: f64) -> bool {
    b < a || b.is_nan()
}

/// Whether the maximum is the second number. Of two equals it is the first; NaN is above all.
#[inline]
pub(crate) fn second_is_maximum(a: f64, b: f64) -> bool {
    b > a || b.is_nan()
}

/// The smaller number. Of two equals it is the first; NaN if either is NaN.
#[inline]
pub fn minimum(a: f64, b: f64) -> f64 {
    if second_is_minimum(a, b) { b } else { a }
}

/// The larger number. Of two equals it is the first; NaN if either is NaN.
#[inline]
pub fn maximum(a: f64, b: f64) -> f64 {
    if second_is_maximum(a, b) { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transcendental_functions_are_those_of_every_machine() {
        // The system's library and `libm` differ in the last bit somewhere here, so a call of the system's
        // would be detected.
        let (mut x, mut differing) = (-700.0f64, 0);
        while x < 700.0 {
            let positive = x.abs() + 1e-3;
            for (function, operands, wanted, system) in [
                (Function::Exp, vec![x], libm::exp(x), x.exp()),
                (Function::Log, vec![positive], libm::log(positive), positive.ln()),
                (Function::Log1p, vec![positive], libm::log1p(positive), positive.ln_1p()),
                (Function::Tanh, vec![x / 100.0], libm::tanh(x / 100.0), (x / 100.0).tanh()),
                (Function::Cos, vec![x], libm::cos(x), x.cos()),
                (Function::Sigmoid, vec![x], 1.0 / (1.0 + libm::exp(-x)), 1.0 / (1.0 + (-x).exp())),
                (
                    Function::Power,
                    vec![positive, x / 300.0],
                    libm::pow(positive, x / 300.0),
                    positive.powf(x / 300.0),
                ),
            ] {
                assert_eq!(
                    function.value(&operands).to_bits(),
                    wanted.to_bits(),
                    "{function:?} of {operands:?}"
                );
                differing += usize::from(wanted.to_bits() != system.to_bits());
            }
            x += 0.37;
        }
        assert!(differing > 0);
    }

    #[test]
    fn gradients_agree_with_central_differences() {
        const STEP: f64 = 1e-6;
        let mut compared = 0;
        for function in Function::ALL.iter().copied().filter(|function| function.is_differentiable()) {
            for point in [[0.7, 1.3, 0.2], [2.1, 0.4, 0.9], [0.3, 0.1, 3.0], [1.5, -0.25, 1.75]] {
                let operands = &point[..function.operands()];
                for position in 0..operands.len() {
                    let Some(gradient) = function.gradient(position) else { continue };
                    let moved = |by: f64| {
                        let mut operands = operands.to_vec();
                        operands[position] += by;
                        function.value(&operands)
                    };
                    let derivative = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
                    let output = function.value(operands);
                    let arguments = Arguments { operands, reverse: Some([&output, &-3.0]) };
                    let exact = gradient.evaluate(&mut NumberOps, arguments);
                    assert!(
                        (exact + 3.0 * derivative).abs() < 1e-7 * (1.0 + exact.abs()),
                        "{function:?} of {operands:?} by operand {position}: {exact} is not -3 times {derivative}"
                    );
                    compared += 1;
                }
            }
        }
        assert!(compared > 100, "{compared}");
    }

    /// The numbers are those of PyTorch 2 (`a**b` of two float64 tensors, `backward()`).
    #[test]
    fn gradients_of_powers_at_0_are_those_of_pytorch() {
        const INFINITY: f64 = f64::INFINITY;
        for (x, y, expected) in [
            (0.0, 0.0, [0.0, 0.0]),
            (-0.0, 0.0, [0.0, 0.0]),
            (0.0, -0.0, [0.0, 0.0]),
            (0.0, 0.5, [INFINITY, 0.0]),
            (0.0, 1.0, [1.0, 0.0]),
            (0.0, 2.0, [0.0, 0.0]),
            (0.0, 3.0, [0.0, 0.0]),
            (0.0, -1.0, [-INFINITY, -INFINITY]),
            (0.0, -0.5, [-INFINITY, -INFINITY]),
            (0.5, 0.0, [0.0, -std::f64::consts::LN_2]),
            (-2.0, 0.0, [0.0, f64::NAN]),
            (INFINITY, 0.0, [0.0, INFINITY]),
            (f64::NAN, 0.0, [0.0, f64::NAN]),
            (0.0, f64::NAN, [f64::NAN, f64::NAN]),
        ] {
            let operands = &[x, y];
            let output = Function::Power.value(operands);
            for (position, expected) in expected.into_iter().enumerate() {
                let gradient = Function::Power.gradient(position).expect("both operands have one");
                let arguments = Arguments { operands, reverse: Some([&output, &1.0]) };
                let exact = gradient.evaluate(&mut NumberOps, arguments);
                assert!(
                    exact == expected || exact.is_nan() && expected.is_nan(),
                    "{x}^{y} by operand {position}: {exact} is not {expected}"
                );
            }
        }
    }

    #[test]
    fn softplus_does_not_overflow() {
        for (function, x, expected) in [
            (Function::Softplus, 1000.0, 1000.0),
            (Function::Softplus, -1000.0, 0.0),
            (Function::Softplus, 0.0, std::f64::consts::LN_2),
        ] {
            assert_eq!(function.value(&[x]), expected, "{function:?} of {x}");
        }
    }
}
