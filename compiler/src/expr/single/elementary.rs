//! Exponential, logarithm and their kin: reduction to a small interval, a polynomial there, and the way back.
//!
//! The polynomials are minimax fits with coefficients that are f32 numbers, lowest power first. All functions
//! are free of branches, so that several elements can go through them at once; special values come out right
//! because they take the same way, or by a selection at the end.

use super::{Comparison, Machine};
use crate::plan::Function;

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// log(2) in two parts; the first has so few bits that its product with an exponent is exact.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];

/// Adding it to a number below 2^22 rounds that to an integer, which then stands in the lowest bits.
const ROUND: f32 = 12_582_912.0;
/// Twice the bias of an exponent: two factors of 2^(n/2) reach from below the smallest number to beyond the
/// largest.
const TWO_BIASES: f32 = 254.0;

/// Beyond these, exp is 0 and infinite.
const EXP_LEAST: f32 = -104.0;
const EXP_GREATEST: f32 = 89.0;
/// Up to here, to both sides, exp is a normal number.
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

/// Up to here 2^-k is a normal number, where 2^k is the power of 2 next to a number.
const LOG1P_GREATEST: f32 = 1.701_411_8e38;

/// tanh(x) = x + x^3 P(x^2) for |x| <= 0.6, relative error 2^-28.4.
const TANH: [f32; 5] = [-0.333_333, 0.133_319_36, -0.053_784_717, 0.020_798_625, -0.005_897_966_7];
const TANH_SMALL: f32 = 0.6;
/// From here on tanh is 1.
const TANH_GREATEST: f32 = 10.0;

/// artanh(s) = s + s^3 P(s^2) for |s| <= 1/5, relative error 2^-35.2.
const ARTANH: [f32; 4] = [0.333_333_3, 0.200_004_67, 0.142_517_58, 0.120_758];
/// The bits of the upper half of a number's digits.
const UPPER_HALF: i32 = 0xffff_f000u32.cast_signed();

/// cos(r) = 1 - r^2 / 2 + r^4 P(r^2) for |r| <= pi/4, relative error 2^-33.0.
const COS: [f32; 3] = [0.041_666_646, -0.001_388_730_8, 2.443_210_2e-5];
/// sin(r) = r + r^3 P(r^2) for |r| <= pi/4, relative error 2^-27.8.
const SIN: [f32; 3] = [-0.166_666_54, 0.008_332_106, -1.950_787_4e-4];
/// pi/2 in four parts; the first three have 14 bits, so that their products with n are exact.
const HALF_PI: [f32; 4] = [1.570_678_7, 1.176_148_65e-4, 9.920_313e-10, 6.223_372e-14];
/// Up to here n has 10 bits.
const COS_GREATEST: f32 = 1024.0;

/// One power after the other (Horner): in pairs (Estrin) is not faster, since the processor has other
/// elements to go on with.
fn polynomial<M: Machine>(machine: &mut M, coefficients: &[f32], x: M::Number) -> M::Number {
    let (last, rest) = coefficients.split_last().expect("a polynomial has coefficients");
    let mut sum = machine.number(*last);
    for coefficient in rest.iter().rev() {
        let coefficient = machine.number(*coefficient);
        sum = machine.multiply_add(sum, x, coefficient);
    }
    sum
}

/// x - n log(2)
fn less_multiples_of_ln_2<M: Machine>(machine: &mut M, x: M::Number, n: M::Number) -> M::Number {
    let mut rest = x;
    for part in LN_2 {
        let part = machine.number(-part);
        rest = machine.multiply_add(n, part, rest);
    }
    rest
}

/// 1 + r (1 + r P(r))
fn exp_near_0<M: Machine>(machine: &mut M, r: M::Number) -> M::Number {
    let sum = polynomial(machine, &EXP, r);
    let one = machine.number(1.0);
    let sum = machine.multiply_add(sum, r, one);
    machine.multiply_add(sum, r, one)
}

/// n and exp(x - n log(2)), n being a whole number with `bias` added to it in the lowest bits.
fn exp_parts<M: Machine>(
    machine: &mut M,
    x: M::Number,
    bias: f32,
    correction: Option<M::Number>,
) -> (M::Integer, M::Number) {
    let (log2_e, round) = (machine.number(LOG2_E), machine.number(ROUND + bias));
    let rounded = machine.multiply_add(x, log2_e, round);
    let n = machine.subtract(rounded, round);
    let mut r = less_multiples_of_ln_2(machine, x, n);
    if let Some(correction) = correction {
        r = machine.add(r, correction);
    }
    (machine.bits(rounded), exp_near_0(machine, r))
}

/// exp(x + correction), whatever it is.
fn exp_anywhere<M: Machine>(machine: &mut M, x: M::Number, correction: Option<M::Number>) -> M::Number {
    let (least, greatest) = (machine.number(EXP_LEAST), machine.number(EXP_GREATEST));
    let bounded = machine.smaller(greatest, x);
    let bounded = machine.larger(least, bounded);
    let (exponent, near) = exp_parts(machine, bounded, TWO_BIASES, correction);
    // 2^n may be out of range where the result is not: two factors, of which only the second rounds.
    let half = machine.shift_right(exponent, 1);
    let other_half = machine.integer_subtract(exponent, half);
    let mut result = near;
    for exponent in [half, other_half] {
        let factor = machine.shift_left(exponent, 23);
        let factor = machine.number_of_bits(factor);
        result = machine.multiply(result, factor);
    }
    result
}

/// exp(x) where that is a normal number; anything where x is NaN.
fn exp_inside<M: Machine>(machine: &mut M, x: M::Number) -> M::Number {
    let (exponent, near) = exp_parts(machine, x, 0.0, None);
    // What rounding added to n is shifted out.
    let exponent = machine.shift_left(exponent, 23);
    let bits = machine.bits(near);
    let bits = machine.integer_add(bits, exponent);
    machine.number_of_bits(bits)
}

pub(super) fn exp<M: Machine>(machine: &mut M, x: M::Number) -> M::Number {
    let size = machine.absolute(x);
    let (bits, limit) = (machine.bits(size), machine.integer(EXP_INSIDE.to_bits().cast_signed()));
    // Compared as integers, numbers are in order, and NaN is beyond all of them.
    let outside = machine.integer_greater(bits, limit);
    let usual = exp_inside(machine, x);
    machine.except(outside, usual, |machine| exp_anywhere(machine, x, None))
}

/// The exponent k of 2^k (1 + m) with m about in [-1/3, 1/3], as the bits that an exponent takes in a number.
fn exponent_of<M: Machine>(machine: &mut M, x: M::Number) -> M::Integer {
    let bits = machine.bits(x);
    let (two_thirds, exponent) = (machine.integer(TWO_THIRDS), machine.integer(EXPONENT));
    let above = machine.integer_subtract(bits, two_thirds);
    machine.integer_and(above, exponent)
}

/// The bits of 2/3.
const TWO_THIRDS: i32 = 0x3f2a_aaab;
/// The bits that hold sign and exponent.
const EXPONENT: i32 = 0xff80_0000u32.cast_signed();
const SIGN: i32 = i32::MIN;
/// One in the place of the exponent.
const EXPONENT_STEP: f32 = 8_388_608.0;

/// k log(2) + log(1 + m), `k` as [`exponent_of`] gives it.
fn log_of_parts<M: Machine>(machine: &mut M, k: M::Integer, m: M::Number) -> M::Number {
    let square = machine.multiply(m, m);
    let sum = polynomial(machine, &LOG, m);
    let log = machine.multiply_add(sum, square, m);
    let (k, ln_2) = (machine.number_of(k), machine.number(std::f32::consts::LN_2 / EXPONENT_STEP));
    machine.multiply_add(k, ln_2, log)
}

/// `log` where the argument of the logarithm is positive and finite; else what IEEE 754 asks for.
fn special_logs<M: Machine>(machine: &mut M, argument: M::Number, log: M::Number) -> M::Number {
    let [zero, infinity] = [0.0, f32::INFINITY].map(|value| machine.number(value));
    let finite = machine.compare(Comparison::Less, argument, infinity);
    let log = machine.select(finite, log, argument);
    let (none, lowest) = (machine.number(f32::NAN), machine.number(f32::NEG_INFINITY));
    let negative = machine.compare(Comparison::Less, argument, zero);
    let log = machine.select(negative, none, log);
    let pole = machine.compare(Comparison::Equal, argument, zero);
    machine.select(pole, lowest, log)
}

/// Whether a number is not positive and normal, or is larger than `greatest`.
fn is_outside<M: Machine>(machine: &mut M, x: M::Number, greatest: f32) -> M::Truth {
    // Compared as integers, numbers are in order; what is negative is below 0, NaN is beyond infinity.
    let bits = machine.bits(x);
    let [least, greatest] =
        [f32::MIN_POSITIVE, greatest].map(|bound| machine.integer(bound.to_bits().cast_signed()));
    let below = machine.integer_greater(least, bits);
    let above = machine.integer_greater(bits, greatest);
    machine.or(below, above)
}

/// 2^k (1 + m): the exponent k as [`exponent_of`] gives it, and 1 + m. Of a positive finite number.
fn split<M: Machine>(machine: &mut M, x: M::Number) -> (M::Integer, M::Number) {
    // Numbers without an exponent of their own are made larger first.
    let smallest = machine.number(f32::MIN_POSITIVE);
    let subnormal = machine.compare(Comparison::Less, x, smallest);
    let (step, zero) = (machine.number(EXPONENT_STEP), machine.number(0.0));
    let enlarged = machine.multiply(x, step);
    let normal = machine.select(subnormal, enlarged, x);
    let k = exponent_of(machine, normal);
    let bits = machine.bits(normal);
    let bits = machine.integer_subtract(bits, k);
    let fraction = machine.number_of_bits(bits);
    let moved = machine.number(f32::from_bits(23 << 23));
    let moved = machine.select(subnormal, moved, zero);
    let moved = machine.bits(moved);
    (machine.integer_subtract(k, moved), fraction)
}

/// The logarithm of a positive, normal, finite number.
fn log_inside<M: Machine>(machine: &mut M, x: M::Number) -> M::Number {
    let k = exponent_of(machine, x);
    let bits = machine.bits(x);
    let bits = machine.integer_subtract(bits, k);
    let fraction = machine.number_of_bits(bits);
    let one = machine.number(1.0);
    let m = machine.subtract(fraction, one);
    log_of_parts(machine, k, m)
}

pub(super) fn log<M: Machine>(machine: &mut M, x: M::Number) -> M::Number {
    let special = is_outside(machine, x, f32::MAX);
    let usual = log_inside(machine, x);
    machine.except(special, usual, |machine| {
        let (k, fraction) = split(machine, x);
        let one = machine.number(1.0);
        let m = machine.subtract(fraction, one);
        let log = log_of_parts(machine, k, m);
        special_logs(machine, x, log)
    })
}

pub(super) fn log1p<M: Machine>(machine: &mut M, x: M::Number) -> M::Number {
    let one = machine.number(1.0);
    let sum = machine.add(x, one);
    let k = exponent_of(machine, sum);
    // 1 + m = 2^-k (1 + x), without the digits that x loses in 1 + x: m = 2^-k x + (2^-k - 1).
    let x_bits = machine.bits(x);
    let scaled = machine.integer_subtract(x_bits, k);
    let scaled = machine.number_of_bits(scaled);
    let inverse = machine.integer(1.0f32.to_bits().cast_signed());
    let inverse = machine.integer_subtract(inverse, k);
    let inverse = machine.number_of_bits(inverse);
    let offset = machine.subtract(inverse, one);
    let m = machine.add(scaled, offset);
    let log = log_of_parts(machine, k, m);
    let special = is_outside(machine, sum, LOG1P_GREATEST);
    machine.except(special, log, |machine| {
        // Here 1 + x is x, and 2^-k may be too small for a number.
        let log = log_inside(machine, sum);
        special_logs(machine, sum, log)
    })
}

/// `x` with the sign of `sign`; `x` is not negative.
fn with_sign<M: Machine>(machine: &mut M, x: M::Number, sign: M::Number) -> M::Number {
    let (x, sign, bit) = (machine.bits(x), machine.bits(sign), machine.integer(SIGN));
    let sign = machine.integer_and(sign, bit);
    let signed = machine.integer_or(x, sign);
    machine.number_of_bits(signed)
}

/// |x| + |x|^3 P(x^2) near 0, else 1 - 2 / (exp(2 |x|) + 1); with the sign of x.
pub(super) fn tanh<M: Machine>(machine: &mut M, x: M::Number) -> M::Number {
    let size = machine.absolute(x);
    let square = machine.multiply(size, size);
    let sum = polynomial(machine, &TANH, square);
    let cube = machine.multiply(square, size);
    let near = machine.multiply_add(cube, sum, size);

    let (greatest, one, two) = (machine.number(TANH_GREATEST), machine.number(1.0), machine.number(2.0));
    let bounded = machine.smaller(greatest, size);
    let twice = machine.add(bounded, bounded);
    let exponential = exp_inside(machine, twice);
    let denominator = machine.add(exponential, one);
    let rest = machine.divide(two, denominator);
    let far = machine.subtract(one, rest);

    // NaN is not beyond anything, and stays so near 0.
    let small = machine.number(TANH_SMALL);
    let is_far = machine.compare(Comparison::Greater, size, small);
    let tanh = machine.select(is_far, far, near);
    with_sign(machine, tanh, x)
}

/// 1 / (1 + e) or, below 0, e / (1 + e), where e = exp(-|x|): so small results keep their digits.
pub(super) fn sigmoid<M: Machine>(machine: &mut M, x: M::Number) -> M::Number {
    let size = machine.absolute(x);
    let opposite = machine.negate(size);
    let exponential = exp(machine, opposite);
    let (zero, one) = (machine.number(0.0), machine.number(1.0));
    let below = machine.compare(Comparison::Less, x, zero);
    let numerator = machine.select(below, exponential, one);
    let denominator = machine.add(exponential, one);
    machine.divide(numerator, denominator)
}

/// The product, rounded, and what that leaves out.
fn two_product<M: Machine>(machine: &mut M, a: M::Number, b: M::Number) -> (M::Number, M::Number) {
    let product = machine.multiply(a, b);
    if machine.fused() {
        let opposite = machine.negate(product);
        return (product, machine.multiply_add(a, b, opposite));
    }
    // Dekker, "A floating-point technique for extending the available precision" (1971): products of halves
    // are exact.
    let [(a_high, a_low), (b_high, b_low)] = [a, b].map(|x| {
        let (bits, upper) = (machine.bits(x), machine.integer(UPPER_HALF));
        let high = machine.integer_and(bits, upper);
        let high = machine.number_of_bits(high);
        (high, machine.subtract(x, high))
    });
    let mut rest = machine.negate(product);
    for (a, b) in [(a_high, b_high), (a_high, b_low), (a_low, b_high), (a_low, b_low)] {
        let part = machine.multiply(a, b);
        rest = machine.add(rest, part);
    }
    (product, rest)
}

/// The logarithm of 2^k (1 + m) in two numbers, the second far smaller; in all to about 2^-30.
///
/// log(1 + m) = 2 artanh(s) with s = m / (2 + m), itself in two numbers.
fn precise_log<M: Machine>(machine: &mut M, k: M::Integer, m: M::Number) -> (M::Number, M::Number) {
    let (one, two) = (machine.number(1.0), machine.number(2.0));
    let denominator = machine.add(m, two);
    let rounded_m = machine.subtract(denominator, two);
    let denominator_low = machine.subtract(m, rounded_m);
    let inverse = machine.divide(one, denominator);
    let s = machine.multiply(m, inverse);
    let (product, product_low) = two_product(machine, s, denominator);
    let rest = machine.subtract(m, product);
    let rest = machine.subtract(rest, product_low);
    let part = machine.multiply(s, denominator_low);
    let rest = machine.subtract(rest, part);
    let s_low = machine.multiply(rest, inverse);

    let square = machine.multiply(s, s);
    let sum = polynomial(machine, &ARTANH, square);
    let cube = machine.multiply(square, s);
    let tail = machine.multiply_add(cube, sum, s_low);
    let (double, double_tail) = (machine.add(s, s), machine.add(tail, tail));

    let (k, scale) = (machine.number_of(k), machine.number(1.0 / EXPONENT_STEP));
    let k = machine.multiply(k, scale);
    let [ln_2, ln_2_low] = LN_2.map(|part| machine.number(part));
    let coarse = machine.multiply(k, ln_2);
    let high = machine.add(coarse, double);
    let taken = machine.subtract(high, coarse);
    let lost = machine.subtract(double, taken);
    let low = machine.multiply_add(k, ln_2_low, double_tail);
    let low = machine.add(low, lost);
    let sum = machine.add(high, low);
    let taken = machine.subtract(sum, high);
    (sum, machine.subtract(low, taken))
}

/// exp(y log |x|), with the sign and the special values of IEEE 754.
pub(super) fn power<M: Machine>(machine: &mut M, x: M::Number, y: M::Number) -> M::Number {
    let [zero, one, infinity] = [0.0, 1.0, f32::INFINITY].map(|value| machine.number(value));
    let size = machine.absolute(x);
    let (k, fraction) = split(machine, size);
    let m = machine.subtract(fraction, one);
    let (log, log_low) = precise_log(machine, k, m);
    let finite = machine.compare(Comparison::Less, size, infinity);
    let log = machine.select(finite, log, size);
    let is_zero = machine.compare(Comparison::Equal, size, zero);
    let pole = machine.number(f32::NEG_INFINITY);
    let log = machine.select(is_zero, pole, log);

    let (exponent, exponent_low) = two_product(machine, y, log);
    let correction = machine.multiply_add(y, log_low, exponent_low);
    let (least, greatest) = (machine.number(EXP_LEAST), machine.number(EXP_GREATEST));
    let bounded = machine.smaller(greatest, exponent);
    let bounded = machine.larger(least, bounded);
    let inside = machine.compare(Comparison::Equal, bounded, exponent);
    let correction = machine.select(inside, correction, zero);
    let power = exp_anywhere(machine, exponent, Some(correction));

    // Negative only where the base is and the exponent is odd; of a negative base, only integers are
    // exponents.
    let whole = machine.floor(y);
    let half = machine.number(0.5);
    let half = machine.multiply(y, half);
    let whole_half = machine.floor(half);
    let is_whole = machine.compare(Comparison::Equal, whole, y);
    let not_even = machine.compare(Comparison::NotEqual, whole_half, half);
    let odd = machine.and(is_whole, not_even);
    let sign = machine.select(odd, x, zero);
    let power = with_sign(machine, power, sign);
    let negative = machine.compare(Comparison::Less, x, zero);
    let not_whole = machine.compare(Comparison::NotEqual, whole, y);
    let undefined = machine.and(negative, not_whole);
    let undefined = machine.and(undefined, finite);
    let none = machine.number(f32::NAN);
    let power = machine.select(undefined, none, power);

    // 1 whatever the other is, even NaN.
    let no_exponent = machine.compare(Comparison::Equal, y, zero);
    let base_1 = machine.compare(Comparison::Equal, x, one);
    let size_1 = machine.compare(Comparison::Equal, size, one);
    let exponent_size = machine.absolute(y);
    let endless = machine.compare(Comparison::Equal, exponent_size, infinity);
    let size_1 = machine.and(size_1, endless);
    let is_1 = machine.or(no_exponent, base_1);
    let is_1 = machine.or(is_1, size_1);
    machine.select(is_1, one, power)
}

/// cos(n pi/2 + r), where n is the nearest integer. Far from 0, where the parts of pi/2 do not suffice, in
/// f64.
pub(super) fn cos<M: Machine>(machine: &mut M, x: M::Number) -> M::Number {
    let size = machine.absolute(x);
    let (inverse, round) = (machine.number(std::f32::consts::FRAC_2_PI), machine.number(ROUND));
    let rounded = machine.multiply_add(size, inverse, round);
    let n = machine.subtract(rounded, round);
    let mut r = size;
    for part in HALF_PI {
        let part = machine.number(-part);
        r = machine.multiply_add(n, part, r);
    }
    let one = machine.number(1.0);
    let square = machine.multiply(r, r);
    let sum = polynomial(machine, &COS, square);
    let minus_half = machine.number(-0.5);
    let sum = machine.multiply_add(sum, square, minus_half);
    let cos = machine.multiply_add(sum, square, one);
    let sum = polynomial(machine, &SIN, square);
    let cube = machine.multiply(square, r);
    let sin = machine.multiply_add(sum, cube, r);

    // By n mod 4: cos, -sin, -cos, sin.
    let quarter = machine.bits(rounded);
    let first_bit = machine.integer(1);
    let odd = machine.integer_and(quarter, first_bit);
    let odd = machine.number_of(odd);
    let odd = machine.compare(Comparison::Equal, odd, one);
    let either = machine.select(odd, sin, cos);
    let next = machine.integer_add(quarter, first_bit);
    let sign = machine.shift_left(next, 30);
    let (one_bits, bit) = (machine.bits(one), machine.integer(SIGN));
    let sign = machine.integer_and(sign, bit);
    let factor = machine.integer_or(one_bits, sign);
    let factor = machine.number_of_bits(factor);
    let result = machine.multiply(either, factor);

    let greatest = machine.number(COS_GREATEST);
    let far = machine.compare(Comparison::Greater, size, greatest);
    machine.except(far, result, |machine| machine.call(Function::Cos, x))
}
