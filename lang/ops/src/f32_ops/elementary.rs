//! Exponential, logarithm and related functions: range reduction, a polynomial, and the reconstruction.
//!
//! The polynomials are minimax fits with f32 coefficients, lowest power first. All functions are free of
//! branches, so that they can be vectorized. Special values need no other path, or are set by a selection at
//! the end.
//!
//! Functions that are always inlined become part of loops that are compiled for the widest vectors.

use super::{CompareOp, FloatOps};
use crate::Function;

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// log(2) in two parts; the first has so few bits that its product with an exponent is exact.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];

/// Adding it to a number below 2^22 rounds that to an integer, which is then in the lowest bits.
const ROUND: f32 = 12_582_912.0;
/// Twice the bias of an exponent: two factors of 2^(n/2) reach from below the smallest number to beyond the
/// largest.
const TWO_BIASES: f32 = 254.0;

/// Below the first, exp is 0; above the second, it is infinite.
const EXP_LEAST: f32 = -104.0;
const EXP_GREATEST: f32 = 89.0;
/// For |x| up to this, exp(x) is a normal number.
const EXP_INSIDE: f32 = 87.0;

/// exp(r) = 1 + r + r^2 P(r) for |r| <= log(2)/2, relative error 2^-28.2.
const EXP: [f32; 5] = [0.499_999_94, 0.166_665_21, 0.041_668_29, 0.008_368_704, 0.001_381_893_9];

/// log(1 + m) = m + m^2 P(m) for -1/3 <= m <= 1/3, relative error 2^-27.7.
const LOG: [f32; 9] = [
    -0.5,
    0.333_332_15,
    -0.249_998_02,
    0.200_104_48,
    -0.166_803_33,
    0.140_052_38,
    -0.121_860_88,
    0.139_874_65,
    -0.128_847_52,
];

/// The largest number for whose nearest power of two, 2^k, the inverse 2^-k is a normal number.
const LOG1P_GREATEST: f32 = 1.701_411_8e38;

/// tanh(x) = x + x^3 P(x^2) for |x| <= 0.6, relative error 2^-28.4.
const TANH: [f32; 5] = [-0.333_333, 0.133_319_36, -0.053_784_717, 0.020_798_625, -0.005_897_966_7];
const TANH_SMALL: f32 = 0.6;
/// From here on tanh is 1.
const TANH_GREATEST: f32 = 10.0;

/// artanh(s) = s + s^3 P(s^2) for |s| <= 1/5, relative error 2^-35.2.
const ARTANH: [f32; 4] = [0.333_333_3, 0.200_004_67, 0.142_517_58, 0.120_758];
/// A mask of the upper half of a number's mantissa, with sign and exponent.
const UPPER_HALF: i32 = 0xffff_f000u32.cast_signed();

/// cos(r) = 1 - r^2 / 2 + r^4 P(r^2) for |r| <= pi/4, relative error 2^-33.0.
const COS: [f32; 3] = [0.041_666_646, -0.001_388_730_8, 2.443_210_2e-5];
/// sin(r) = r + r^3 P(r^2) for |r| <= pi/4, relative error 2^-27.8.
const SIN: [f32; 3] = [-0.166_666_54, 0.008_332_106, -1.950_787_4e-4];
/// pi/2 in four parts; the first three have 14 bits, so that their products with n are exact.
const HALF_PI: [f32; 4] = [1.570_678_7, 1.176_148_65e-4, 9.920_313e-10, 6.223_372e-14];
/// For |x| up to this, n has 10 bits.
const COS_GREATEST: f32 = 1024.0;

/// Horner's scheme. Estrin's is not faster, since the processor works on other elements meanwhile.
#[inline(always)]
fn polynomial<F: FloatOps>(ops: &mut F, coefficients: &[f32], x: F::Number) -> F::Number {
    let (last, rest) = coefficients.split_last().expect("a polynomial has coefficients");
    let mut sum = ops.number(*last);
    for coefficient in rest.iter().rev() {
        let coefficient = ops.number(*coefficient);
        sum = ops.multiply_add(sum, x, coefficient);
    }
    sum
}

/// x - n log(2)
#[inline(always)]
fn less_multiples_of_ln_2<F: FloatOps>(ops: &mut F, x: F::Number, n: F::Number) -> F::Number {
    let mut rest = x;
    for part in LN_2 {
        let part = ops.number(-part);
        rest = ops.multiply_add(n, part, rest);
    }
    rest
}

/// 1 + r (1 + r P(r))
#[inline(always)]
fn exp_near_0<F: FloatOps>(ops: &mut F, r: F::Number) -> F::Number {
    let sum = polynomial(ops, &EXP, r);
    let one = ops.number(1.0);
    let sum = ops.multiply_add(sum, r, one);
    ops.multiply_add(sum, r, one)
}

/// n and exp(x - n log(2)); n is an integer with `bias` added, in the lowest bits.
#[inline(always)]
fn exp_parts<F: FloatOps>(
    ops: &mut F,
    x: F::Number,
    bias: f32,
    correction: Option<F::Number>,
) -> (F::Integer, F::Number) {
    let (log2_e, round) = (ops.number(LOG2_E), ops.number(ROUND + bias));
    let rounded = ops.multiply_add(x, log2_e, round);
    let n = ops.subtract(rounded, round);
    let mut r = less_multiples_of_ln_2(ops, x, n);
    if let Some(correction) = correction {
        r = ops.add(r, correction);
    }
    (ops.bits(rounded), exp_near_0(ops, r))
}

/// exp(x + correction) for any x.
fn exp_anywhere<F: FloatOps>(ops: &mut F, x: F::Number, correction: Option<F::Number>) -> F::Number {
    let (least, greatest) = (ops.number(EXP_LEAST), ops.number(EXP_GREATEST));
    let bounded = ops.smaller(greatest, x);
    let bounded = ops.larger(least, bounded);
    let (exponent, near) = exp_parts(ops, bounded, TWO_BIASES, correction);
    // 2^n may be out of range where the result is not: two factors, of which only the second rounds.
    let half = ops.shift_right(exponent, 1);
    let other_half = ops.integer_subtract(exponent, half);
    let mut result = near;
    for exponent in [half, other_half] {
        let factor = ops.shift_left(exponent, 23);
        let factor = ops.number_of_bits(factor);
        result = ops.multiply(result, factor);
    }
    result
}

/// exp(x) where that is a normal number. Unspecified where x is NaN.
#[inline(always)]
fn exp_inside<F: FloatOps>(ops: &mut F, x: F::Number) -> F::Number {
    let (exponent, near) = exp_parts(ops, x, 0.0, None);
    // The shift removes what rounding added to n.
    let exponent = ops.shift_left(exponent, 23);
    let bits = ops.bits(near);
    let bits = ops.integer_add(bits, exponent);
    ops.number_of_bits(bits)
}

#[inline(always)]
pub fn exp<F: FloatOps>(ops: &mut F, x: F::Number) -> F::Number {
    let size = ops.absolute(x);
    let (bits, limit) = (ops.bits(size), ops.integer(EXP_INSIDE.to_bits().cast_signed()));
    // As integers, positive numbers have the same order, and NaN is above all of them.
    let outside = ops.integer_greater(bits, limit);
    let usual = exp_inside(ops, x);
    ops.except(outside, usual, |ops| exp_anywhere(ops, x, None))
}

/// The exponent k of 2^k (1 + m) with m about in [-1/3, 1/3], as the bits that an exponent takes in a number.
#[inline(always)]
fn exponent_of<F: FloatOps>(ops: &mut F, x: F::Number) -> F::Integer {
    let bits = ops.bits(x);
    let (two_thirds, exponent) = (ops.integer(TWO_THIRDS), ops.integer(EXPONENT));
    let above = ops.integer_subtract(bits, two_thirds);
    ops.integer_and(above, exponent)
}

/// The bits of 2/3.
const TWO_THIRDS: i32 = 0x3f2a_aaab;
/// The bits that hold sign and exponent.
const EXPONENT: i32 = 0xff80_0000u32.cast_signed();
const SIGN: i32 = i32::MIN;
/// 2^23, the distance between two exponents in the bits of a number.
const EXPONENT_STEP: f32 = 8_388_608.0;

/// k log(2) + log(1 + m), with `k` from [`exponent_of`].
#[inline(always)]
fn log_of_parts<F: FloatOps>(ops: &mut F, k: F::Integer, m: F::Number) -> F::Number {
    let square = ops.multiply(m, m);
    let sum = polynomial(ops, &LOG, m);
    let log = ops.multiply_add(sum, square, m);
    let (k, ln_2) = (ops.number_of(k), ops.number(std::f32::consts::LN_2 / EXPONENT_STEP));
    ops.multiply_add(k, ln_2, log)
}

/// `log` where the argument of the logarithm is positive and finite, otherwise the value of IEEE 754.
fn special_logs<F: FloatOps>(ops: &mut F, argument: F::Number, log: F::Number) -> F::Number {
    let [zero, infinity] = [0.0, f32::INFINITY].map(|value| ops.number(value));
    let finite = ops.compare(CompareOp::Less, argument, infinity);
    let log = ops.select(finite, log, argument);
    let (none, lowest) = (ops.number(f32::NAN), ops.number(f32::NEG_INFINITY));
    let negative = ops.compare(CompareOp::Less, argument, zero);
    let log = ops.select(negative, none, log);
    let pole = ops.compare(CompareOp::Equal, argument, zero);
    ops.select(pole, lowest, log)
}

/// Whether a number is not positive and normal, or is larger than `greatest`.
#[inline(always)]
fn is_outside<F: FloatOps>(ops: &mut F, x: F::Number, greatest: f32) -> F::Truth {
    // As integers, numbers have the same order; negative ones are below 0, and NaN is above infinity.
    let bits = ops.bits(x);
    let least = ops.integer(f32::MIN_POSITIVE.to_bits().cast_signed());
    let greatest = ops.integer(greatest.to_bits().cast_signed());
    let below = ops.integer_greater(least, bits);
    let above = ops.integer_greater(bits, greatest);
    ops.or(below, above)
}

/// Splits a positive finite number into 2^k (1 + m): returns k, as [`exponent_of`] does, and 1 + m.
fn split<F: FloatOps>(ops: &mut F, x: F::Number) -> (F::Integer, F::Number) {
    // Subnormal numbers are scaled up first.
    let smallest = ops.number(f32::MIN_POSITIVE);
    let subnormal = ops.compare(CompareOp::Less, x, smallest);
    let (step, zero) = (ops.number(EXPONENT_STEP), ops.number(0.0));
    let enlarged = ops.multiply(x, step);
    let normal = ops.select(subnormal, enlarged, x);
    let k = exponent_of(ops, normal);
    let bits = ops.bits(normal);
    let bits = ops.integer_subtract(bits, k);
    let fraction = ops.number_of_bits(bits);
    let moved = ops.number(f32::from_bits(23 << 23));
    let moved = ops.select(subnormal, moved, zero);
    let moved = ops.bits(moved);
    (ops.integer_subtract(k, moved), fraction)
}

/// The logarithm of a positive, normal, finite number.
#[inline(always)]
fn log_inside<F: FloatOps>(ops: &mut F, x: F::Number) -> F::Number {
    let k = exponent_of(ops, x);
    let bits = ops.bits(x);
    let bits = ops.integer_subtract(bits, k);
    let fraction = ops.number_of_bits(bits);
    let one = ops.number(1.0);
    let m = ops.subtract(fraction, one);
    log_of_parts(ops, k, m)
}

#[inline(always)]
pub fn log<F: FloatOps>(ops: &mut F, x: F::Number) -> F::Number {
    let special = is_outside(ops, x, f32::MAX);
    let usual = log_inside(ops, x);
    ops.except(special, usual, |ops| {
        let (k, fraction) = split(ops, x);
        let one = ops.number(1.0);
        let m = ops.subtract(fraction, one);
        let log = log_of_parts(ops, k, m);
        special_logs(ops, x, log)
    })
}

#[inline(always)]
pub fn log1p<F: FloatOps>(ops: &mut F, x: F::Number) -> F::Number {
    let one = ops.number(1.0);
    let sum = ops.add(x, one);
    let k = exponent_of(ops, sum);
    // 1 + m = 2^-k (1 + x), without the digits of x that 1 + x loses: m = 2^-k x + (2^-k - 1).
    let x_bits = ops.bits(x);
    let scaled = ops.integer_subtract(x_bits, k);
    let scaled = ops.number_of_bits(scaled);
    let inverse = ops.integer(1.0f32.to_bits().cast_signed());
    let inverse = ops.integer_subtract(inverse, k);
    let inverse = ops.number_of_bits(inverse);
    let offset = ops.subtract(inverse, one);
    let m = ops.add(scaled, offset);
    let log = log_of_parts(ops, k, m);
    let special = is_outside(ops, sum, LOG1P_GREATEST);
    ops.except(special, log, |ops| {
        // Here 1 + x rounds to x, and 2^-k may be too small for a number.
        let log = log_inside(ops, sum);
        special_logs(ops, sum, log)
    })
}

/// `x` with the sign of `sign`; `x` is not negative.
#[inline(always)]
fn with_sign<F: FloatOps>(ops: &mut F, x: F::Number, sign: F::Number) -> F::Number {
    let (x, sign, bit) = (ops.bits(x), ops.bits(sign), ops.integer(SIGN));
    let sign = ops.integer_and(sign, bit);
    let signed = ops.integer_or(x, sign);
    ops.number_of_bits(signed)
}

/// |x| + |x|^3 P(x^2) near 0, else 1 - 2 / (exp(2 |x|) + 1); with the sign of x.
#[inline(always)]
pub fn tanh<F: FloatOps>(ops: &mut F, x: F::Number) -> F::Number {
    let size = ops.absolute(x);
    let square = ops.multiply(size, size);
    let sum = polynomial(ops, &TANH, square);
    let cube = ops.multiply(square, size);
    let near = ops.multiply_add(cube, sum, size);

    let (greatest, one, two) = (ops.number(TANH_GREATEST), ops.number(1.0), ops.number(2.0));
    let bounded = ops.smaller(greatest, size);
    let twice = ops.add(bounded, bounded);
    let exponential = exp_inside(ops, twice);
    let denominator = ops.add(exponential, one);
    let rest = ops.divide(two, denominator);
    let far = ops.subtract(one, rest);

    // Comparisons with NaN are false, so NaN takes the branch near 0 and stays NaN.
    let small = ops.number(TANH_SMALL);
    let is_far = ops.compare(CompareOp::Greater, size, small);
    let tanh = ops.select(is_far, far, near);
    with_sign(ops, tanh, x)
}

/// 1 / (1 + e) or, below 0, e / (1 + e), where e = exp(-|x|), so that small results keep their precision.
#[inline(always)]
pub fn sigmoid<F: FloatOps>(ops: &mut F, x: F::Number) -> F::Number {
    let size = ops.absolute(x);
    let opposite = ops.negate(size);
    let exponential = exp(ops, opposite);
    let (zero, one) = (ops.number(0.0), ops.number(1.0));
    let below = ops.compare(CompareOp::Less, x, zero);
    let numerator = ops.select(below, exponential, one);
    let denominator = ops.add(exponential, one);
    ops.divide(numerator, denominator)
}

/// The rounded product, and its rounding error.
fn two_product<F: FloatOps>(ops: &mut F, a: F::Number, b: F::Number) -> (F::Number, F::Number) {
    let product = ops.multiply(a, b);
    if ops.fused() {
        let opposite = ops.negate(product);
        return (product, ops.multiply_add(a, b, opposite));
    }
    // Dekker, "A floating-point technique for extending the available precision" (1971): products of halves
    // are exact.
    let [(a_high, a_low), (b_high, b_low)] = [a, b].map(|x| {
        let (bits, upper) = (ops.bits(x), ops.integer(UPPER_HALF));
        let high = ops.integer_and(bits, upper);
        let high = ops.number_of_bits(high);
        (high, ops.subtract(x, high))
    });
    let mut rest = ops.negate(product);
    for (a, b) in [(a_high, b_high), (a_high, b_low), (a_low, b_high), (a_low, b_low)] {
        let part = ops.multiply(a, b);
        rest = ops.add(rest, part);
    }
    (product, rest)
}

/// The logarithm of 2^k (1 + m) as a sum of two numbers, the second far smaller; accurate to about 2^-30.
///
/// log(1 + m) = 2 artanh(s) with s = m / (2 + m), itself in two numbers.
fn precise_log<F: FloatOps>(ops: &mut F, k: F::Integer, m: F::Number) -> (F::Number, F::Number) {
    let (one, two) = (ops.number(1.0), ops.number(2.0));
    let denominator = ops.add(m, two);
    let rounded_m = ops.subtract(denominator, two);
    let denominator_low = ops.subtract(m, rounded_m);
    let inverse = ops.divide(one, denominator);
    let s = ops.multiply(m, inverse);
    let (product, product_low) = two_product(ops, s, denominator);
    let rest = ops.subtract(m, product);
    let rest = ops.subtract(rest, product_low);
    let part = ops.multiply(s, denominator_low);
    let rest = ops.subtract(rest, part);
    let s_low = ops.multiply(rest, inverse);

    let square = ops.multiply(s, s);
    let sum = polynomial(ops, &ARTANH, square);
    let cube = ops.multiply(square, s);
    let tail = ops.multiply_add(cube, sum, s_low);
    let (double, double_tail) = (ops.add(s, s), ops.add(tail, tail));

    let (k, scale) = (ops.number_of(k), ops.number(1.0 / EXPONENT_STEP));
    let k = ops.multiply(k, scale);
    let [ln_2, ln_2_low] = LN_2.map(|part| ops.number(part));
    let coarse = ops.multiply(k, ln_2);
    let high = ops.add(coarse, double);
    let taken = ops.subtract(high, coarse);
    let lost = ops.subtract(double, taken);
    let low = ops.multiply_add(k, ln_2_low, double_tail);
    let low = ops.add(low, lost);
    let sum = ops.add(high, low);
    let taken = ops.subtract(sum, high);
    (sum, ops.subtract(low, taken))
}

/// exp(y log |x|), with the sign and the special values of IEEE 754.
pub(super) fn power<F: FloatOps>(ops: &mut F, x: F::Number, y: F::Number) -> F::Number {
    let [zero, one, infinity] = [0.0, 1.0, f32::INFINITY].map(|value| ops.number(value));
    let size = ops.absolute(x);
    let (k, fraction) = split(ops, size);
    let m = ops.subtract(fraction, one);
    let (log, log_low) = precise_log(ops, k, m);
    let finite = ops.compare(CompareOp::Less, size, infinity);
    let log = ops.select(finite, log, size);
    let is_zero = ops.compare(CompareOp::Equal, size, zero);
    let pole = ops.number(f32::NEG_INFINITY);
    let log = ops.select(is_zero, pole, log);

    let (exponent, exponent_low) = two_product(ops, y, log);
    let correction = ops.multiply_add(y, log_low, exponent_low);
    let (least, greatest) = (ops.number(EXP_LEAST), ops.number(EXP_GREATEST));
    let bounded = ops.smaller(greatest, exponent);
    let bounded = ops.larger(least, bounded);
    let inside = ops.compare(CompareOp::Equal, bounded, exponent);
    let correction = ops.select(inside, correction, zero);
    let power = exp_anywhere(ops, exponent, Some(correction));

    // Negative only if the base is negative and the exponent is odd; a negative base allows only integer
    // exponents.
    let whole = ops.floor(y);
    let half = ops.number(0.5);
    let half = ops.multiply(y, half);
    let whole_half = ops.floor(half);
    let is_whole = ops.compare(CompareOp::Equal, whole, y);
    let not_even = ops.compare(CompareOp::NotEqual, whole_half, half);
    let odd = ops.and(is_whole, not_even);
    let sign = ops.select(odd, x, zero);
    let power = with_sign(ops, power, sign);
    let negative = ops.compare(CompareOp::Less, x, zero);
    let not_whole = ops.compare(CompareOp::NotEqual, whole, y);
    let undefined = ops.and(negative, not_whole);
    let undefined = ops.and(undefined, finite);
    let none = ops.number(f32::NAN);
    let power = ops.select(undefined, none, power);

    // 1 whatever the other operand is, even NaN.
    let no_exponent = ops.compare(CompareOp::Equal, y, zero);
    let base_1 = ops.compare(CompareOp::Equal, x, one);
    let size_1 = ops.compare(CompareOp::Equal, size, one);
    let exponent_size = ops.absolute(y);
    let endless = ops.compare(CompareOp::Equal, exponent_size, infinity);
    let size_1 = ops.and(size_1, endless);
    let is_1 = ops.or(no_exponent, base_1);
    let is_1 = ops.or(is_1, size_1);
    ops.select(is_1, one, power)
}

/// cos(n pi/2 + r), where n is the nearest integer. Computed in f64 far from 0, where the parts of pi/2 do
/// not suffice.
pub(super) fn cos<F: FloatOps>(ops: &mut F, x: F::Number) -> F::Number {
    let size = ops.absolute(x);
    let (inverse, round) = (ops.number(std::f32::consts::FRAC_2_PI), ops.number(ROUND));
    let rounded = ops.multiply_add(size, inverse, round);
    let n = ops.subtract(rounded, round);
    let mut r = size;
    for part in HALF_PI {
        let part = ops.number(-part);
        r = ops.multiply_add(n, part, r);
    }
    let one = ops.number(1.0);
    let square = ops.multiply(r, r);
    let sum = polynomial(ops, &COS, square);
    let minus_half = ops.number(-0.5);
    let sum = ops.multiply_add(sum, square, minus_half);
    let cos = ops.multiply_add(sum, square, one);
    let sum = polynomial(ops, &SIN, square);
    let cube = ops.multiply(square, r);
    let sin = ops.multiply_add(sum, cube, r);

    // By n mod 4: cos, -sin, -cos, sin.
    let quarter = ops.bits(rounded);
    let first_bit = ops.integer(1);
    let odd = ops.integer_and(quarter, first_bit);
    let odd = ops.number_of(odd);
    let odd = ops.compare(CompareOp::Equal, odd, one);
    let either = ops.select(odd, sin, cos);
    let next = ops.integer_add(quarter, first_bit);
    let sign = ops.shift_left(next, 30);
    let (one_bits, bit) = (ops.bits(one), ops.integer(SIGN));
    let sign = ops.integer_and(sign, bit);
    let factor = ops.integer_or(one_bits, sign);
    let factor = ops.number_of_bits(factor);
    let result = ops.multiply(either, factor);

    let greatest = ops.number(COS_GREATEST);
    let far = ops.compare(CompareOp::Greater, size, greatest);
    ops.except(far, result, |ops| ops.call(Function::Cos, x))
}
