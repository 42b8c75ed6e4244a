//! Executes the programs on one number at a time.

use super::{CompareOp, FloatOps, Operand, apply};
use crate::Function;

/// Computes the same bits as generated code, on any machine.
#[derive(Clone, Copy, Debug)]
pub struct ScalarOps {
    /// Whether a multiplication and an addition within a function are fused, with one rounding.
    pub fused: bool,
}

impl ScalarOps {
    /// The value of `function` at its operands. True is 1, false is 0.
    pub fn apply(mut self, function: Function, operands: &[f32]) -> f32 {
        let mut taken = [Operand::Constant(0.0); 3];
        for (taken, operand) in taken.iter_mut().zip(operands) {
            *taken = Operand::Number(*operand);
        }
        apply(&mut self, function, &taken[..operands.len()]).number(&mut self)
    }
}

impl FloatOps for ScalarOps {
    type Number = f32;
    type Integer = i32;
    type Truth = bool;

    fn number(&mut self, value: f32) -> f32 {
        value
    }

    fn add(&mut self, a: f32, b: f32) -> f32 {
        a + b
    }

    fn subtract(&mut self, a: f32, b: f32) -> f32 {
        a - b
    }

    fn multiply(&mut self, a: f32, b: f32) -> f32 {
        a * b
    }

    fn divide(&mut self, a: f32, b: f32) -> f32 {
        a / b
    }

    fn square_root(&mut self, x: f32) -> f32 {
        x.sqrt()
    }

    fn negate(&mut self, x: f32) -> f32 {
        -x
    }

    fn absolute(&mut self, x: f32) -> f32 {
        x.abs()
    }

    fn floor(&mut self, x: f32) -> f32 {
        x.floor()
    }

    fn fused(&self) -> bool {
        self.fused
    }

    fn multiply_add(&mut self, a: f32, b: f32, c: f32) -> f32 {
        if self.fused { a.mul_add(b, c) } else { a * b + c }
    }

    fn smaller(&mut self, a: f32, b: f32) -> f32 {
        if a < b { a } else { b }
    }

    fn larger(&mut self, a: f32, b: f32) -> f32 {
        if a > b { a } else { b }
    }

    fn compare(&mut self, comparison: CompareOp, a: f32, b: f32) -> bool {
        match comparison {
            CompareOp::Equal => a == b,
            CompareOp::NotEqual => a != b,
            CompareOp::Less => a < b,
            CompareOp::LessEqual => a <= b,
            CompareOp::Greater => a > b,
            CompareOp::GreaterEqual => a >= b,
        }
    }

    fn not(&mut self, a: bool) -> bool {
        !a
    }

    fn and(&mut self, a: bool, b: bool) -> bool {
        a && b
    }

    fn or(&mut self, a: bool, b: bool) -> bool {
        a || b
    }

    fn select(&mut self, truth: bool, then: f32, otherwise: f32) -> f32 {
        if truth { then } else { otherwise }
    }

    fn except(&mut self, special: bool, usual: f32, compute: impl FnOnce(&mut Self) -> f32) -> f32 {
        if special { compute(self) } else { usual }
    }

    fn call(&mut self, function: Function, x: f32) -> f32 {
        function.value(&[f64::from(x)]) as f32
    }

    fn bits(&mut self, x: f32) -> i32 {
        x.to_bits().cast_signed()
    }

    fn number_of_bits(&mut self, x: i32) -> f32 {
        f32::from_bits(x.cast_unsigned())
    }

    fn integer(&mut self, value: i32) -> i32 {
        value
    }

    fn integer_greater(&mut self, a: i32, b: i32) -> bool {
        a > b
    }

    fn integer_add(&mut self, a: i32, b: i32) -> i32 {
        a.wrapping_add(b)
    }

    fn integer_subtract(&mut self, a: i32, b: i32) -> i32 {
        a.wrapping_sub(b)
    }

    fn integer_and(&mut self, a: i32, b: i32) -> i32 {
        a & b
    }

    fn integer_or(&mut self, a: i32, b: i32) -> i32 {
        a | b
    }

    fn shift_left(&mut self, a: i32, by: u8) -> i32 {
        a << by
    }

    fn shift_right(&mut self, a: i32, by: u8) -> i32 {
        (a.cast_unsigned() >> by).cast_signed()
    }

    fn number_of(&mut self, a: i32) -> f32 {
        a as f32
    }
}
