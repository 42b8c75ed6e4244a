//! Dual numbers: values with their derivatives by the student's logits.

use mopd_experiment::formula::Function;
use mopd_ops::FunctionValue;
use mopd_ops::expr::{Arguments, NumberOps};

/// A sum below this share of the size of its parts counts as 0, because the rest is rounding error.
const ROUNDING: f64 = 1e-13;

/// `sum`, of two parts of these sizes, or exactly 0 where they cancel. So the difference of two computations
/// of one number is 0 without gradient, instead of 1e-17, which would count as a small number.
fn cancelled(sum: f64, left: f64, right: f64) -> f64 {
    if sum.is_finite() && sum.abs() <= ROUNDING * (left.abs() + right.abs()) { 0.0 } else { sum }
}

/// The most operands of any function.
const MOST_OPERANDS: usize = 3;

/// A number and its derivative by every logit. The derivative is empty where no gradient flows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Dual {
    pub value: f64,
    /// One number per logit, or empty.
    pub gradient: Vec<f64>,
}

impl Dual {
    pub fn plain(value: f64) -> Dual {
        Dual { value, gradient: Vec::new() }
    }

    pub fn truth(&self) -> bool {
        self.value != 0.0
    }

    pub fn is_finite(&self) -> bool {
        self.value.is_finite() && self.gradient.iter().all(|partial| partial.is_finite())
    }

    pub fn add(&self, other: &Dual) -> Dual {
        apply(Function::Add, &[self, other])
    }

    pub fn subtract(&self, other: &Dual) -> Dual {
        apply(Function::Subtract, &[self, other])
    }

    pub fn multiply(&self, other: &Dual) -> Dual {
        apply(Function::Multiply, &[self, other])
    }

    pub fn scale(&self, by: f64) -> Dual {
        Dual { value: self.value * by, gradient: self.gradient.iter().map(|inner| by * inner).collect() }
    }

    pub fn exp(&self) -> Dual {
        apply(Function::Exp, &[self])
    }

    pub fn abs(&self) -> Dual {
        apply(Function::Abs, &[self])
    }

    pub fn minimum(&self, other: &Dual) -> Dual {
        apply(Function::Minimum, &[self, other])
    }

    /// `p * log(p / q)` from log-probabilities, 0 where `p` is 0.
    pub fn kl_summand(&self, other: &Dual) -> Dual {
        let p = self.exp();
        if p.value == 0.0 {
            return Dual::plain(0.0);
        }
        p.multiply(&self.subtract(other))
    }
}

/// The log of a weighted sum of probabilities, from their logs. Works for probabilities that underflow in
/// double precision.
pub(super) fn log_sum<'a>(parts: impl IntoIterator<Item = (f64, &'a Dual)>) -> Dual {
    let parts: Vec<(f64, &Dual)> = parts.into_iter().filter(|(weight, _)| *weight != 0.0).collect();
    let highest = parts.iter().map(|(_, part)| part.value).fold(f64::NEG_INFINITY, f64::max);
    // A NaN does not equal minus infinity, and is kept.
    if parts.iter().all(|(_, part)| part.value == f64::NEG_INFINITY) {
        return Dual::plain(f64::NEG_INFINITY);
    }
    let shares: Vec<f64> = parts.iter().map(|(weight, part)| weight * (part.value - highest).exp()).collect();
    let total: f64 = shares.iter().sum();
    let scaled: Vec<Dual> =
        parts.iter().zip(&shares).map(|((_, part), share)| part.scale(share / total)).collect();
    let gradient = sum(&scaled).gradient;
    Dual { value: highest + total.ln(), gradient }
}

pub(super) fn sum<'a>(parts: impl IntoIterator<Item = &'a Dual>) -> Dual {
    parts.into_iter().fold(Dual::plain(0.0), |sum, part| sum.add(part))
}

/// An elementwise function, with the value and gradient of the operators' table.
pub(super) fn apply(function: Function, operands: &[&Dual]) -> Dual {
    let mut numbers = [0.0; MOST_OPERANDS];
    for (number, operand) in numbers.iter_mut().zip(operands) {
        *number = operand.value;
    }
    let numbers = &numbers[..operands.len()];
    if let FunctionValue::Select(chosen) = function.definition().value {
        return operands[chosen(numbers)].clone();
    }
    let value = match (function, numbers) {
        (Function::Add, &[a, b]) => cancelled(a + b, a, b),
        (Function::Subtract, &[a, b]) => cancelled(a - b, a, b),
        _ => function.value(numbers),
    };
    let mut gradient: Vec<f64> = Vec::new();
    for (position, operand) in operands.iter().enumerate() {
        let Some(partial) = function.gradient(position).filter(|_| !operand.gradient.is_empty()) else {
            continue;
        };
        // It is linear in the gradient, so one evaluation serves every logit.
        let arguments = Arguments { operands: numbers, reverse: Some([&value, &1.0]) };
        let slope = partial.evaluate(&mut NumberOps, arguments);
        let through = operand.gradient.iter().map(|inner| slope * inner);
        gradient = match gradient.is_empty() {
            true => through.collect(),
            false => gradient.iter().zip(through).map(|(a, b)| cancelled(a + b, *a, b)).collect(),
        };
    }
    Dual { value, gradient }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares the derivative of every smooth function with a difference quotient.
    #[test]
    fn derivatives_agree_with_differences() {
        use Function::*;
        let at = |function: Function, x: f64, y: f64, seeds: [f64; 2]| {
            let dual = |value: f64, seed: f64| Dual { value, gradient: vec![seed] };
            let (x, y) = (dual(x, seeds[0]), dual(y, seeds[1]));
            let operands = [&x, &y];
            apply(function, &operands[..function.operands().min(2)])
        };
        for function in [
            Negate, Abs, Exp, Log, Log1p, Sqrt, Tanh, Sigmoid, Relu, Cos, Add, Subtract, Multiply, Divide,
            Power, Minimum, Maximum,
        ] {
            for (x, y) in [(0.7, 1.3), (2.1, 0.4)] {
                for seeds in [[1.0, 0.0], [0.0, 1.0]] {
                    let step = 1e-6;
                    let value = |sign: f64| {
                        at(function, x + sign * step * seeds[0], y + sign * step * seeds[1], seeds).value
                    };
                    let derivative = (value(1.0) - value(-1.0)) / (2.0 * step);
                    let known = at(function, x, y, seeds).gradient[0];
                    assert!(
                        (derivative - known).abs() < 1e-7,
                        "{function:?} at {x}, {y}: {derivative} {known}"
                    );
                }
            }
        }
    }

    #[test]
    fn bounds_pass_gradient_inside_and_at_themselves() {
        let clip = |x: f64| {
            let x = Dual { value: x, gradient: vec![1.0] };
            apply(Function::Clip, &[&x, &Dual::plain(-1.0), &Dual::plain(1.0)]).gradient
        };
        assert_eq!([clip(1.0), clip(0.0)], [vec![1.0], vec![1.0]]);
        assert_eq!(clip(2.0), Vec::<f64>::new());
    }
}
