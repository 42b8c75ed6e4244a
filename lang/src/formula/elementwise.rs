//! The definition of every elementwise function, in f64. Constants are folded with these, the interpreter
//! calls them; generated code calls those without a machine instruction and computes the others the same way.
//!
//! Transcendental functions come from `libm`, not from the system: its code is the same on every machine, so
//! results are too. Single precision is double precision rounded once.

use super::Function;

/// Applies `function` to as many operands as it has.
pub fn apply(function: Function, operands: &[f64]) -> f64 {
    use Function::*;
    match (function, operands) {
        (Negate, &[x]) => -x,
        (Not, &[x]) => truth(x == 0.0),
        (Abs, &[x]) => x.abs(),
        (Exp, &[x]) => libm::exp(x),
        (Log, &[x]) => libm::log(x),
        (Log1p, &[x]) => libm::log1p(x),
        (Sqrt, &[x]) => x.sqrt(),
        (Tanh, &[x]) => libm::tanh(x),
        (Sigmoid, &[x]) => 1.0 / (1.0 + libm::exp(-x)),
        (Cos, &[x]) => libm::cos(x),
        (Floor, &[x]) => x.floor(),
        (Relu, &[x]) => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        (Add, &[a, b]) => a + b,
        (Subtract, &[a, b]) => a - b,
        (Multiply, &[a, b]) => a * b,
        (Divide, &[a, b]) => a / b,
        (Power, &[a, b]) => libm::pow(a, b),
        (Minimum, &[a, b]) => minimum(a, b),
        (Maximum, &[a, b]) => maximum(a, b),
        (Equal, &[a, b]) => truth(a == b),
        (NotEqual, &[a, b]) => truth(a != b),
        (Less, &[a, b]) => truth(a < b),
        (LessEqual, &[a, b]) => truth(a <= b),
        (Greater, &[a, b]) => truth(a > b),
        (GreaterEqual, &[a, b]) => truth(a >= b),
        // Whatever is not 0 is true, NaN included.
        (And, &[a, b]) => truth(a != 0.0 && b != 0.0),
        (Or, &[a, b]) => truth(a != 0.0 || b != 0.0),
        (Clip, &[x, low, high]) => minimum(maximum(x, low), high),
        (Where, &[condition, then, otherwise]) => {
            if condition != 0.0 {
                then
            } else {
                otherwise
            }
        }
        _ => unreachable!(
            "a checked graph gives {function:?} {} operands, not {}",
            function.operands(),
            operands.len()
        ),
    }
}

fn truth(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

/// The smaller; the first of two equals; NaN if either is NaN.
#[inline]
pub fn minimum(a: f64, b: f64) -> f64 {
    if b < a || b.is_nan() { b } else { a }
}

/// The larger; the first of two equals; NaN if either is NaN.
#[inline]
pub fn maximum(a: f64, b: f64) -> f64 {
    if b > a || b.is_nan() { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transcendental_functions_are_those_of_every_machine() {
        // The system's library and `libm` differ in the last bit somewhere here, so that a call of the former
        // would show.
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
                    apply(function, &operands).to_bits(),
                    wanted.to_bits(),
                    "{function:?} of {operands:?}"
                );
                differing += usize::from(wanted.to_bits() != system.to_bits());
            }
            x += 0.37;
        }
        assert!(differing > 0);
    }
}
