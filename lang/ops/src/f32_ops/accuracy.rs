//! Tests that the f32 programs are as accurate as the table states.

use super::{Operand, ScalarOps, apply};
use crate::Function;
use crate::testing::Extent;

const EDGES: [f32; 14] = [
    f32::NAN,
    f32::INFINITY,
    0.0,
    1.0,
    0.5,
    2.0,
    3.0,
    f32::MIN_POSITIVE,
    f32::MAX,
    1e-45,
    16_777_216.0,
    88.722_84,
    0.999_999_94,
    1.000_000_1,
];

/// The distance of `computed` from `exact` in units in the last place of an f32 of that size.
fn error(computed: f32, exact: f64) -> f64 {
    let both_nan = computed.is_nan() && exact.is_nan();
    if both_nan || f64::from(computed) == exact {
        return 0.0;
    }
    if computed.is_nan() || exact.is_nan() {
        return f64::INFINITY;
    }
    // The number after the largest one would be 2^128, which stands for infinity here.
    let most = 2f64.powi(128);
    let (value, exact) = (f64::from(computed).clamp(-most, most), exact.clamp(-most, most));
    (value - exact).abs() / unit(exact)
}

fn unit(exact: f64) -> f64 {
    if exact == 0.0 {
        return 2f64.powi(-149);
    }
    let (_, exponent) = libm::frexp(exact);
    2f64.powi((exponent - 24).clamp(-149, 104))
}

/// Samples the whole range evenly over the representable numbers, and its edges with both signs.
fn sweep(cases: impl Iterator<Item = u32>, count: u32, mut each: impl FnMut(f32)) {
    for edge in EDGES {
        each(edge);
        each(-edge);
    }
    let step = u32::MAX / count;
    for index in cases {
        each(f32::from_bits(index * step + index % 97));
    }
}

fn worst_of_one(function: Function, fused: bool) -> (f64, f32) {
    let mut worst = (0.0, 0.0);
    const COUNT: u32 = 4_000_000;
    sweep(Extent::from_environment().cases(0..COUNT), COUNT, |x| {
        let computed = ScalarOps { fused }.apply(function, &[x]);
        let error = error(computed, function.value(&[f64::from(x)]));
        if error > worst.0 || error.is_nan() {
            worst = (error, x);
        }
    });
    worst
}

fn worst_of_two(function: Function, fused: bool) -> (f64, [f32; 2]) {
    let mut worst = (0.0, [0.0; 2]);
    let mut look = |x: f32, y: f32| {
        let computed = ScalarOps { fused }.apply(function, &[x, y]);
        let error = error(computed, function.value(&[f64::from(x), f64::from(y)]));
        if error > worst.0 || error.is_nan() {
            worst = (error, [x, y]);
        }
    };
    // Evenly spread over [0, 1) for any number of samples.
    let mut last = 0.0f32;
    let mut fraction = || {
        last = (last + 0.618_034) % 1.0;
        last
    };
    sweep(Extent::from_environment().cases(0..1_500), 1_500, |x| {
        sweep(0..300, 300, |y| look(x, y));
        // Exponents for which the power neither vanishes nor overflows.
        for _ in 0..400 {
            let exponent = (2.0 * fraction() - 1.0) * 100.0 / x.abs().ln().abs().max(1e-6);
            look(x, exponent);
            look(x, exponent.round());
            look(0.5 + fraction(), (fraction() - 0.5) * 240.0);
        }
    });
    worst
}

#[test]
fn every_function_keeps_its_bound() {
    let broken = std::thread::scope(|threads| {
        let parts = [true, false].map(|fused| threads.spawn(move || beyond_their_bounds(fused)));
        parts.map(|part| part.join().expect("each function is computed")).concat()
    });
    assert!(broken.is_empty(), "{broken:#?}");
}

/// The functions whose error exceeds the bound in the table, with or without fused multiplications.
fn beyond_their_bounds(fused: bool) -> Vec<String> {
    let mut broken = Vec::new();
    for function in Function::ALL.iter().copied() {
        let (error, at) = match function.operands() {
            1 => {
                let (error, x) = worst_of_one(function, fused);
                (error, format!("{x:e}"))
            }
            2 => {
                let (error, [x, y]) = worst_of_two(function, fused);
                (error, format!("{x:e}, {y:e}"))
            }
            // Functions that return one of their operands.
            _ => continue,
        };
        let bound = function.definition().accuracy.ulp;
        println!("{function:?} fused {fused}: {error:.3} at {at}, bound {bound}");
        if error.is_nan() || error > bound {
            broken.push(format!("{function:?} fused {fused}: {error:.3} at {at}, bound {bound}"));
        }
    }
    broken
}

/// A bound that is a constant is compared in fewer instructions, which must not lose NaN or the sign of 0.
#[test]
fn a_constant_bound_gives_what_a_number_gives() {
    const NUMBERS: [f32; 9] =
        [f32::NAN, f32::NEG_INFINITY, -1.0, -f32::MIN_POSITIVE, -0.0, 0.0, 0.5, 1.0, f32::INFINITY];
    let ops = &mut ScalarOps { fused: false };
    for function in [Function::Minimum, Function::Maximum] {
        for (a, b) in NUMBERS.into_iter().flat_map(|a| NUMBERS.map(|b| (a, b))) {
            let expected = function.value(&[f64::from(a), f64::from(b)]) as f32;
            for operands in [
                [Operand::Constant(a), Operand::Number(b)],
                [Operand::Number(a), Operand::Constant(b)],
                [Operand::Constant(a), Operand::Constant(b)],
            ] {
                let computed = apply(ops, function, &operands).number(ops);
                let same = computed.to_bits() == expected.to_bits() || computed.is_nan() && expected.is_nan();
                assert!(same, "{function:?} of {a} and {b} is {computed}, not {expected}");
            }
        }
    }
}
