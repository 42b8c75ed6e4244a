//! The definition of every elementwise function in f32.
//!
//! A function is written down once, as operations of a [`Machine`]. Two machines carry them out:
//! [`model::Model`] on one number at a time, which is what the definition computes, and the code generator,
//! which writes them down as vector instructions ([`super::jit`]). Both do the same operations in the same
//! order, so they agree to the last bit. In terms of the exact functions ([`super::scalar`]) the results are
//! within the bounds of [`bound`].
//!
//! Multiplication and addition are one operation with one rounding, or two with two: the graph says which
//! ([`super::graph::Graph::fused`]), since results differ in the last bit.

pub mod bound;
mod elementary;
pub mod model;

use crate::plan::Function;

/// Arithmetic on IEEE 754 binary32 numbers, round to nearest, with gradual underflow; and on 32-bit integers,
/// wrapping.
pub trait Machine {
    /// One f32, or several.
    type Number: Copy;
    /// As many i32.
    type Integer: Copy;
    /// As many truth values.
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
    /// `a` if `a < b`, else `b`: what is NaN must be `b` to stay so.
    fn smaller(&mut self, a: Self::Number, b: Self::Number) -> Self::Number;
    /// `a` if `a > b`, else `b`: what is NaN must be `b` to stay so.
    fn larger(&mut self, a: Self::Number, b: Self::Number) -> Self::Number;

    fn compare(&mut self, comparison: Comparison, a: Self::Number, b: Self::Number) -> Self::Truth;
    fn not(&mut self, a: Self::Truth) -> Self::Truth;
    fn and(&mut self, a: Self::Truth, b: Self::Truth) -> Self::Truth;
    fn or(&mut self, a: Self::Truth, b: Self::Truth) -> Self::Truth;
    fn select(&mut self, truth: Self::Truth, then: Self::Number, otherwise: Self::Number) -> Self::Number;
    /// What `compute` computes where `special` holds, else `usual`: for cases that hardly ever occur, and
    /// would cost too much to compute always.
    fn except(
        &mut self,
        special: Self::Truth,
        usual: Self::Number,
        compute: impl FnOnce(&mut Self) -> Self::Number,
    ) -> Self::Number;
    /// `function` of `x`, computed in f64 and rounded once: a call for each element.
    fn call(&mut self, function: Function, x: Self::Number) -> Self::Number;

    /// The bits of a number.
    fn bits(&mut self, x: Self::Number) -> Self::Integer;
    fn number_of_bits(&mut self, x: Self::Integer) -> Self::Number;
    fn integer(&mut self, value: i32) -> Self::Integer;
    /// Whether `a` is larger than `b`, both with a sign.
    fn integer_greater(&mut self, a: Self::Integer, b: Self::Integer) -> Self::Truth;
    fn integer_add(&mut self, a: Self::Integer, b: Self::Integer) -> Self::Integer;
    fn integer_subtract(&mut self, a: Self::Integer, b: Self::Integer) -> Self::Integer;
    fn integer_and(&mut self, a: Self::Integer, b: Self::Integer) -> Self::Integer;
    fn integer_or(&mut self, a: Self::Integer, b: Self::Integer) -> Self::Integer;
    fn shift_left(&mut self, a: Self::Integer, by: u8) -> Self::Integer;
    /// Zeros come in from the left.
    fn shift_right(&mut self, a: Self::Integer, by: u8) -> Self::Integer;
    /// The nearest number.
    fn number_of(&mut self, a: Self::Integer) -> Self::Number;
}

/// False where a side is NaN, but for `NotEqual`, which is true there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

/// What a node of a graph is on a machine. What is true or false stays so until it is used as a number, 1 or
/// 0.
#[derive(Clone, Copy, Debug)]
pub enum Operand<N, T> {
    Number(N),
    Truth(T),
    /// The same number for all elements.
    Constant(f32),
}

type OperandOf<M> = Operand<<M as Machine>::Number, <M as Machine>::Truth>;

impl<N: Copy, T: Copy> Operand<N, T> {
    pub fn number<M: Machine<Number = N, Truth = T>>(self, machine: &mut M) -> N {
        match self {
            Operand::Number(number) => number,
            Operand::Constant(value) => machine.number(value),
            Operand::Truth(truth) => {
                let (one, zero) = (machine.number(1.0), machine.number(0.0));
                machine.select(truth, one, zero)
            }
        }
    }

    /// Whatever is not 0 is true, NaN included.
    pub fn truth<M: Machine<Number = N, Truth = T>>(self, machine: &mut M) -> T {
        match self {
            Operand::Truth(truth) => truth,
            other => {
                let (x, zero) = (other.number(machine), machine.number(0.0));
                machine.compare(Comparison::NotEqual, x, zero)
            }
        }
    }
}

/// Applies `function` to as many operands as it has: [`super::scalar::apply`] in f32.
pub fn apply<M: Machine>(machine: &mut M, function: Function, operands: &[OperandOf<M>]) -> OperandOf<M> {
    use Function::*;
    let truth = match (function, operands) {
        (Not, &[x]) => {
            let x = x.truth(machine);
            Some(machine.not(x))
        }
        (And, &[a, b]) => {
            let (a, b) = (a.truth(machine), b.truth(machine));
            Some(machine.and(a, b))
        }
        (Or, &[a, b]) => {
            let (a, b) = (a.truth(machine), b.truth(machine));
            Some(machine.or(a, b))
        }
        (Equal | NotEqual | Less | LessEqual | Greater | GreaterEqual, &[a, b]) => {
            let (a, b) = (a.number(machine), b.number(machine));
            Some(machine.compare(comparison(function), a, b))
        }
        _ => None,
    };
    if let Some(truth) = truth {
        return Operand::Truth(truth);
    }
    Operand::Number(match (function, operands) {
        (Minimum, &[a, b]) => extreme(machine, Extreme::Minimum, a, b),
        (Maximum, &[a, b]) => extreme(machine, Extreme::Maximum, a, b),
        (Clip, &[x, low, high]) => {
            let raised = extreme(machine, Extreme::Maximum, x, low);
            extreme(machine, Extreme::Minimum, Operand::Number(raised), high)
        }
        (Where, &[condition, then, otherwise]) => {
            let condition = condition.truth(machine);
            let (then, otherwise) = (then.number(machine), otherwise.number(machine));
            machine.select(condition, then, otherwise)
        }
        (Add | Subtract | Multiply | Divide | Power, &[a, b]) => {
            let (a, b) = (a.number(machine), b.number(machine));
            match function {
                Add => machine.add(a, b),
                Subtract => machine.subtract(a, b),
                Multiply => machine.multiply(a, b),
                Divide => machine.divide(a, b),
                _ => elementary::power(machine, a, b),
            }
        }
        (_, &[x]) => {
            let x = x.number(machine);
            match function {
                Negate => machine.negate(x),
                Abs => machine.absolute(x),
                Exp => elementary::exp(machine, x),
                Log => elementary::log(machine, x),
                Log1p => elementary::log1p(machine, x),
                Sqrt => machine.square_root(x),
                Tanh => elementary::tanh(machine, x),
                Sigmoid => elementary::sigmoid(machine, x),
                Cos => elementary::cos(machine, x),
                Floor => machine.floor(x),
                Relu => {
                    let zero = machine.number(0.0);
                    let below = machine.compare(Comparison::Less, x, zero);
                    machine.select(below, zero, x)
                }
                _ => {
                    unreachable!("a checked graph gives {function:?} {} operands, not 1", function.operands())
                }
            }
        }
        _ => unreachable!(
            "a checked graph gives {function:?} {} operands, not {}",
            function.operands(),
            operands.len()
        ),
    })
}

fn comparison(function: Function) -> Comparison {
    match function {
        Function::Equal => Comparison::Equal,
        Function::NotEqual => Comparison::NotEqual,
        Function::Less => Comparison::Less,
        Function::LessEqual => Comparison::LessEqual,
        Function::Greater => Comparison::Greater,
        Function::GreaterEqual => Comparison::GreaterEqual,
        _ => unreachable!("{function:?} does not compare"),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Extreme {
    Minimum,
    Maximum,
}

/// The smaller or larger; the first of two equals; NaN if either is NaN ([`super::scalar::minimum`]).
fn extreme<M: Machine>(machine: &mut M, extreme: Extreme, a: OperandOf<M>, b: OperandOf<M>) -> M::Number {
    let prefer = |machine: &mut M, preferred, other| match extreme {
        Extreme::Minimum => machine.smaller(preferred, other),
        Extreme::Maximum => machine.larger(preferred, other),
    };
    match (a, b) {
        // One instruction each: the constant is not NaN, and where the two are equal they are the same
        // number.
        (_, Operand::Constant(bound)) if !bound.is_nan() => {
            let (a, bound) = (a.number(machine), machine.number(bound));
            prefer(machine, bound, a)
        }
        (Operand::Constant(bound), _) if !bound.is_nan() && bound != 0.0 => {
            let (bound, b) = (machine.number(bound), b.number(machine));
            prefer(machine, bound, b)
        }
        _ => {
            let (a, b) = (a.number(machine), b.number(machine));
            let chosen = prefer(machine, b, a);
            let not_a_number = machine.compare(Comparison::NotEqual, b, b);
            machine.select(not_a_number, b, chosen)
        }
    }
}
