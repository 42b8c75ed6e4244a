//! The programs that compute elementwise functions in f32.
//!
//! A program is written once, as operations of [`FloatOps`]. [`ScalarOps`] executes them on one number at a
//! time, which defines the program's result; the compiler's code generator emits them as vector instructions,
//! some of them compiled ahead for the widest vectors of a processor. All do the same operations in the same
//! order, so they agree to the last bit. Compared to the exact functions ([`Function::value`]) the results
//! are within the bounds of [`crate::Accuracy`]. A function with a body ([`Function::body`]) is computed by
//! the programs of its parts.
//!
//! Multiplication and addition are either one operation with one rounding, or two with two: the graph
//! decides, since results differ in the last bit.

#[cfg(test)]
mod accuracy;
mod elementary;
mod scalar;

pub use elementary::{exp, log, log1p, sigmoid, tanh};
pub use scalar::ScalarOps;

use crate::Function;
use crate::expr::{Arguments, Backend};

/// Arithmetic on IEEE 754 binary32 numbers, round to nearest, with subnormal numbers; and wrapping arithmetic
/// on 32-bit integers.
pub trait FloatOps {
    /// One f32, or several.
    type Number: Copy;
    /// As many i32.
    type Integer: Copy;
    /// As many bools.
    type Truth: Copy;

    fn number(&mut self, value: f32) -> Self::Number;
    fn add(&mut self, a: Self::Number, b: Self::Number) -> Self::Number;
    fn subtract(&mut self, a: Self::Number, b: Self::Number) -> Self::Number;
    fn multiply(&mut self, a: Self::Number, b: Self::Number) -> Self::Number;
    fn divide(&mut self, a: Self::Number, b: Self::Number) -> Self::Number;
    fn square_root(&mut self, x: Self::Number) -> Self::Number;
    fn negate(&mut self, x: Self::Number) -> Self::Number;
    fn absolute(&mut self, x: Self::Number) -> Self::Number;
    fn floor(&mut self, x: Self::Number) -> Self::Number;
    /// Whether `multiply_add` rounds once.
    fn fused(&self) -> bool;
    /// `a * b + c`
    fn multiply_add(&mut self, a: Self::Number, b: Self::Number, c: Self::Number) -> Self::Number;
    /// `a` if `a < b`, else `b`: a NaN survives only as `b`.
    fn smaller(&mut self, a: Self::Number, b: Self::Number) -> Self::Number;
    /// `a` if `a > b`, else `b`: a NaN survives only as `b`.
    fn larger(&mut self, a: Self::Number, b: Self::Number) -> Self::Number;

    fn compare(&mut self, comparison: CompareOp, a: Self::Number, b: Self::Number) -> Self::Truth;
    fn not(&mut self, a: Self::Truth) -> Self::Truth;
    fn and(&mut self, a: Self::Truth, b: Self::Truth) -> Self::Truth;
    fn or(&mut self, a: Self::Truth, b: Self::Truth) -> Self::Truth;
    fn select(&mut self, truth: Self::Truth, then: Self::Number, otherwise: Self::Number) -> Self::Number;
    /// The result of `compute` where `special` holds, else `usual`. For rare cases that are too expensive to
    /// compute for all elements.
    fn except(
        &mut self,
        special: Self::Truth,
        usual: Self::Number,
        compute: impl FnOnce(&mut Self) -> Self::Number,
    ) -> Self::Number;
    /// `function` of `x`, computed in f64 and rounded once, with one call per element.
    fn call(&mut self, function: Function, x: Self::Number) -> Self::Number;

    /// The bits of a number.
    fn bits(&mut self, x: Self::Number) -> Self::Integer;
    fn number_of_bits(&mut self, x: Self::Integer) -> Self::Number;
    fn integer(&mut self, value: i32) -> Self::Integer;
    /// Whether `a` is larger than `b`, as signed integers.
    fn integer_greater(&mut self, a: Self::Integer, b: Self::Integer) -> Self::Truth;
    fn integer_add(&mut self, a: Self::Integer, b: Self::Integer) -> Self::Integer;
    fn integer_subtract(&mut self, a: Self::Integer, b: Self::Integer) -> Self::Integer;
    fn integer_and(&mut self, a: Self::Integer, b: Self::Integer) -> Self::Integer;
    fn integer_or(&mut self, a: Self::Integer, b: Self::Integer) -> Self::Integer;
    fn shift_left(&mut self, a: Self::Integer, by: u8) -> Self::Integer;
    /// A logical shift: zeros enter from the left.
    fn shift_right(&mut self, a: Self::Integer, by: u8) -> Self::Integer;
    /// The nearest f32 to an integer.
    fn number_of(&mut self, a: Self::Integer) -> Self::Number;
}

/// Comparisons. With NaN on a side they are false, except `NotEqual`, which is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareOp {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

/// The value of a graph's node in [`FloatOps`]. Bools stay bools until they are used as numbers, 1 or 0.
#[derive(Clone, Copy, Debug)]
pub enum Operand<N, T> {
    Number(N),
    Truth(T),
    /// The same number for all elements.
    Constant(f32),
}

type OperandOf<F> = Operand<<F as FloatOps>::Number, <F as FloatOps>::Truth>;

impl<N: Copy, T: Copy> Operand<N, T> {
    pub fn number<F: FloatOps<Number = N, Truth = T>>(self, ops: &mut F) -> N {
        match self {
            Operand::Number(number) => number,
            Operand::Constant(value) => ops.number(value),
            Operand::Truth(truth) => {
                let (one, zero) = (ops.number(1.0), ops.number(0.0));
                ops.select(truth, one, zero)
            }
        }
    }

    /// The operand as a bool: every number but 0 is true, also NaN.
    pub fn truth<F: FloatOps<Number = N, Truth = T>>(self, ops: &mut F) -> T {
        match self {
            Operand::Truth(truth) => truth,
            other => {
                let (x, zero) = (other.number(ops), ops.number(0.0));
                ops.compare(CompareOp::NotEqual, x, zero)
            }
        }
    }
}

/// Applies `function` to its operands: [`Function::value`] in f32.
pub fn apply<F: FloatOps>(ops: &mut F, function: Function, operands: &[OperandOf<F>]) -> OperandOf<F> {
    use Function::*;
    if let Some(body) = function.body() {
        return body.evaluate(&mut Programs(ops), Arguments { operands, reverse: None });
    }
    let truth = match (function, operands) {
        (Not, &[x]) => {
            let x = x.truth(ops);
            Some(ops.not(x))
        }
        (And, &[a, b]) => {
            let (a, b) = (a.truth(ops), b.truth(ops));
            Some(ops.and(a, b))
        }
        (Or, &[a, b]) => {
            let (a, b) = (a.truth(ops), b.truth(ops));
            Some(ops.or(a, b))
        }
        (Equal | NotEqual | Less | LessEqual | Greater | GreaterEqual, &[a, b]) => {
            let (a, b) = (a.number(ops), b.number(ops));
            Some(ops.compare(comparison(function), a, b))
        }
        _ => None,
    };
    if let Some(truth) = truth {
        return Operand::Truth(truth);
    }
    Operand::Number(match (function, operands) {
        (Minimum, &[a, b]) => extreme(ops, Extreme::Minimum, a, b),
        (Maximum, &[a, b]) => extreme(ops, Extreme::Maximum, a, b),
        (Clip, &[x, low, high]) => {
            let raised = extreme(ops, Extreme::Maximum, x, low);
            extreme(ops, Extreme::Minimum, Operand::Number(raised), high)
        }
        (Where, &[condition, then, otherwise]) => {
            let condition = condition.truth(ops);
            let (then, otherwise) = (then.number(ops), otherwise.number(ops));
            ops.select(condition, then, otherwise)
        }
        (Add | Subtract | Multiply | Divide | Power, &[a, b]) => {
            let (a, b) = (a.number(ops), b.number(ops));
            match function {
                Add => ops.add(a, b),
                Subtract => ops.subtract(a, b),
                Multiply => ops.multiply(a, b),
                Divide => ops.divide(a, b),
                _ => elementary::power(ops, a, b),
            }
        }
        (_, &[x]) => {
            let x = x.number(ops);
            match function {
                Negate => ops.negate(x),
                Abs => ops.absolute(x),
                Exp => elementary::exp(ops, x),
                Log => elementary::log(ops, x),
                Log1p => elementary::log1p(ops, x),
                Sqrt => ops.square_root(x),
                Tanh => elementary::tanh(ops, x),
                Sigmoid => elementary::sigmoid(ops, x),
                Cos => elementary::cos(ops, x),
                Floor => ops.floor(x),
                Relu => {
                    let zero = ops.number(0.0);
                    let below = ops.compare(CompareOp::Less, x, zero);
                    ops.select(below, zero, x)
                }
                _ => unreachable!("{function:?} of one operand has neither a body nor a program"),
            }
        }
        _ => unreachable!(
            "a checked graph gives {function:?} {} operands, not {}",
            function.operands(),
            operands.len()
        ),
    })
}

/// Executes the programs of a function's parts, one after the other.
struct Programs<'a, F>(&'a mut F);

impl<F: FloatOps> Backend for Programs<'_, F> {
    type Value = OperandOf<F>;

    fn constant(&mut self, value: f64) -> OperandOf<F> {
        Operand::Constant(value as f32)
    }

    fn apply(&mut self, function: Function, operands: &[OperandOf<F>]) -> OperandOf<F> {
        apply(self.0, function, operands)
    }
}

fn comparison(function: Function) -> CompareOp {
    match function {
        Function::Equal => CompareOp::Equal,
        Function::NotEqual => CompareOp::NotEqual,
        Function::Less => CompareOp::Less,
        Function::LessEqual => CompareOp::LessEqual,
        Function::Greater => CompareOp::Greater,
        Function::GreaterEqual => CompareOp::GreaterEqual,
        _ => unreachable!("{function:?} does not compare"),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Extreme {
    Minimum,
    Maximum,
}

/// The smaller or larger; the first of two equals; NaN if either is NaN ([`crate::minimum`]).
fn extreme<F: FloatOps>(ops: &mut F, extreme: Extreme, a: OperandOf<F>, b: OperandOf<F>) -> F::Number {
    let prefer = |ops: &mut F, preferred, other| match extreme {
        Extreme::Minimum => ops.smaller(preferred, other),
        Extreme::Maximum => ops.larger(preferred, other),
    };
    match (a, b) {
        // One instruction each: the constant is not NaN, and if the two are equal they are the same number.
        (_, Operand::Constant(bound)) if !bound.is_nan() => {
            let (a, bound) = (a.number(ops), ops.number(bound));
            prefer(ops, bound, a)
        }
        (Operand::Constant(bound), _) if !bound.is_nan() && bound != 0.0 => {
            let (bound, b) = (ops.number(bound), b.number(ops));
            prefer(ops, bound, b)
        }
        _ => {
            let (a, b) = (a.number(ops), b.number(ops));
            let chosen = prefer(ops, b, a);
            let not_a_number = ops.compare(CompareOp::NotEqual, b, b);
            ops.select(not_a_number, b, chosen)
        }
    }
}
