//! How far the definition may be from the exact function.

use crate::plan::Function;

/// The largest error of `function` in f32, in units in the last place of the exact result, whatever its
/// operands, fused multiplication and addition or not. 0.5 is correct rounding, 0 is exact. Below the
/// smallest normal number the unit is the smallest subnormal number.
pub fn units_in_the_last_place(function: Function) -> f64 {
    use Function::*;
    match function {
        Add | Subtract | Multiply | Divide | Sqrt => 0.5,
        Exp => 1.1,
        Log => 1.1,
        Log1p => 1.6,
        Tanh => 1.6,
        Sigmoid => 2.3,
        Power => 3.5,
        Cos => 2.5,
        Negate | Abs | Relu | Floor | Minimum | Maximum | Clip | Where => 0.0,
        Not | Equal | NotEqual | Less | LessEqual | Greater | GreaterEqual | And | Or => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::Model;
    use super::*;
    use crate::expr::scalar;
    use crate::expr::testing::{FUNCTIONS, Random};

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
        // Beyond the largest number, the next would be 2^128: infinite is as far as that.
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

    /// The whole range, evenly over the numbers that there are; and the edges with both signs.
    fn sweep(count: u32, mut each: impl FnMut(f32)) {
        for edge in EDGES {
            each(edge);
            each(-edge);
        }
        let step = u32::MAX / count;
        for index in 0..count {
            each(f32::from_bits(index * step + index % 97));
        }
    }

    fn worst_of_one(function: Function, fused: bool) -> (f64, f32) {
        let mut worst = (0.0, 0.0);
        sweep(4_000_000, |x| {
            let computed = Model { fused }.apply(function, &[x]);
            let error = error(computed, scalar::apply(function, &[f64::from(x)]));
            if error > worst.0 || error.is_nan() {
                worst = (error, x);
            }
        });
        worst
    }

    fn worst_of_two(function: Function, fused: bool) -> (f64, [f32; 2]) {
        let mut worst = (0.0, [0.0; 2]);
        let mut look = |x: f32, y: f32| {
            let computed = Model { fused }.apply(function, &[x, y]);
            let error = error(computed, scalar::apply(function, &[f64::from(x), f64::from(y)]));
            if error > worst.0 || error.is_nan() {
                worst = (error, [x, y]);
            }
        };
        let mut random = Random(3);
        sweep(1_500, |x| {
            sweep(300, |y| look(x, y));
            // Where powers neither vanish nor overflow.
            for _ in 0..400 {
                let exponent =
                    (random.below(2_000_001) as f32 / 1e6 - 1.0) * 100.0 / x.abs().ln().abs().max(1e-6);
                look(x, exponent);
                look(x, exponent.round());
                look(1.0 + random.number() / 4.0, random.number() * 60.0);
            }
        });
        worst
    }

    /// The table of the book is this one.
    #[test]
    fn the_book_says_the_same() {
        let page = include_str!("../../../../book/src/expressions.md");
        for function in FUNCTIONS {
            let bound = units_in_the_last_place(function);
            let name = serde_json::to_value(function).expect("a name");
            let name = name.as_str().expect("a name");
            let row = page.lines().find(|line| line.starts_with('|') && line.contains(&format!("`{name}`")));
            let row = row.unwrap_or_else(|| panic!("the book has no row for `{name}`"));
            assert!(
                row.split('|').any(|cell| cell.trim() == format!("{bound}")),
                "`{name}` is {bound}, not what {row} says"
            );
        }
    }

    #[test]
    fn every_function_keeps_its_bound() {
        let mut broken = Vec::new();
        for function in FUNCTIONS {
            for fused in [true, false] {
                let (error, at) = match function.operands() {
                    1 => {
                        let (error, x) = worst_of_one(function, fused);
                        (error, format!("{x:e}"))
                    }
                    2 => {
                        let (error, [x, y]) = worst_of_two(function, fused);
                        (error, format!("{x:e}, {y:e}"))
                    }
                    // Chosen from the operands.
                    _ => continue,
                };
                let bound = units_in_the_last_place(function);
                println!("{function:?} fused {fused}: {error:.3} at {at}, bound {bound}");
                if error.is_nan() || error > bound {
                    broken.push(format!("{function:?} fused {fused}: {error:.3} at {at}, bound {bound}"));
                }
            }
        }
        assert!(broken.is_empty(), "{broken:#?}");
    }
}
