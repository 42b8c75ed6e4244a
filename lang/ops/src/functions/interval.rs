//! Interval arithmetic. Intervals are never too narrow, but may be too wide.
//!
//! Rounding is monotone, so the ends of a monotone function bound its computed values in between, to the bit.

use super::definition::Range;
use super::table::Function;

/// Lowest and highest value.
pub type ValueInterval = (f64, f64);

/// Any number or NaN, such as a logarithm whose argument may be negative.
pub const ANYTHING: ValueInterval = (f64::NEG_INFINITY, f64::INFINITY);
/// The interval of an unknown bool.
const EITHER: ValueInterval = (0.0, 1.0);

/// The result of an invalid operation, such as the difference of two infinities, may be anything.
pub fn proper((low, high): ValueInterval) -> ValueInterval {
    if low <= high { (low, high) } else { ANYTHING }
}

/// [`Function::finite_range`].
pub(super) fn of_finite_numbers(function: Function, operands: &[ValueInterval]) -> ValueInterval {
    let finite: Vec<ValueInterval> =
        operands.iter().map(|(low, high)| (low.max(-f64::MAX), high.min(f64::MAX))).collect();
    let (low, high) = match function.definition().range {
        Range::Truth(decided) => truth(decided(&finite)),
        Range::Of(_) if function == Function::Divide => finite_quotient(finite[0], finite[1]),
        Range::Of(range) => range(&finite),
        Range::Increasing => {
            // NaN: the end lies outside of the function's domain.
            let end = |x: f64, unbounded: f64| match function.value(&[x]) {
                value if value.is_nan() => unbounded,
                value => value,
            };
            (end(operands[0].0, f64::NEG_INFINITY), end(operands[0].1, f64::INFINITY))
        }
    };
    proper((
        if low <= -f64::MAX { f64::NEG_INFINITY } else { low },
        if high >= f64::MAX { f64::INFINITY } else { high },
    ))
}

/// The interval of a finite quotient, whose divisor is not 0.
fn finite_quotient(above: ValueInterval, below: ValueInterval) -> ValueInterval {
    let least = f64::from_bits(1);
    let below = (if below.0 == 0.0 { least } else { below.0 }, if below.1 == 0.0 { -least } else { below.1 });
    if above == (0.0, 0.0) { above } else { divide(&[above, below]) }
}

pub(crate) fn truth(decided: Option<bool>) -> ValueInterval {
    decided.map_or(EITHER, |holds| if holds { (1.0, 1.0) } else { (0.0, 0.0) })
}

/// The value of a bool, if it is known.
fn known((low, high): ValueInterval) -> Option<bool> {
    match () {
        () if low == 0.0 && high == 0.0 => Some(false),
        () if low > 0.0 || high < 0.0 => Some(true),
        () => None,
    }
}

pub(crate) fn negate(x: &[ValueInterval]) -> ValueInterval {
    (-x[0].1, -x[0].0)
}

pub(crate) fn abs(x: &[ValueInterval]) -> ValueInterval {
    match x[0] {
        (low, _) if low >= 0.0 => x[0],
        (_, high) if high <= 0.0 => negate(x),
        (low, high) => (0.0, high.max(-low)),
    }
}

pub(crate) fn add(x: &[ValueInterval]) -> ValueInterval {
    (x[0].0 + x[1].0, x[0].1 + x[1].1)
}

pub(crate) fn subtract(x: &[ValueInterval]) -> ValueInterval {
    (x[0].0 - x[1].1, x[0].1 - x[1].0)
}

pub(crate) fn multiply(x: &[ValueInterval]) -> ValueInterval {
    corners(Function::Multiply, x)
}

pub(crate) fn divide(x: &[ValueInterval]) -> ValueInterval {
    if x[1].0 > 0.0 || x[1].1 < 0.0 { corners(Function::Divide, x) } else { ANYTHING }
}

pub(crate) fn power(x: &[ValueInterval]) -> ValueInterval {
    match x[1] {
        _ if x[0].0 > 0.0 => corners(Function::Power, x),
        (low, high) if low == high => whole_power(x[0], low),
        _ if x[0].0 >= 0.0 => (0.0, f64::INFINITY),
        _ => ANYTHING,
    }
}

pub(crate) fn minimum(x: &[ValueInterval]) -> ValueInterval {
    (x[0].0.min(x[1].0), x[0].1.min(x[1].1))
}

pub(crate) fn maximum(x: &[ValueInterval]) -> ValueInterval {
    (x[0].0.max(x[1].0), x[0].1.max(x[1].1))
}

pub(crate) fn clip(x: &[ValueInterval]) -> ValueInterval {
    (x[0].0.max(x[1].0).min(x[2].0), x[0].1.max(x[1].1).min(x[2].1))
}

pub(crate) fn choose(x: &[ValueInterval]) -> ValueInterval {
    match known(x[0]) {
        Some(true) => x[1],
        Some(false) => x[2],
        None => (x[1].0.min(x[2].0), x[1].1.max(x[2].1)),
    }
}

pub(crate) fn not(x: &[ValueInterval]) -> Option<bool> {
    known(x[0]).map(|holds| !holds)
}

pub(crate) fn and(x: &[ValueInterval]) -> Option<bool> {
    match (known(x[0]), known(x[1])) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

pub(crate) fn or(x: &[ValueInterval]) -> Option<bool> {
    match (known(x[0]), known(x[1])) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        _ => None,
    }
}

pub(crate) fn less(x: &[ValueInterval]) -> Option<bool> {
    below(x[0], x[1], false)
}

pub(crate) fn less_equal(x: &[ValueInterval]) -> Option<bool> {
    below(x[0], x[1], true)
}

pub(crate) fn greater(x: &[ValueInterval]) -> Option<bool> {
    below(x[1], x[0], false)
}

pub(crate) fn greater_equal(x: &[ValueInterval]) -> Option<bool> {
    below(x[1], x[0], true)
}

pub(crate) fn equal(x: &[ValueInterval]) -> Option<bool> {
    let (a, b) = (x[0], x[1]);
    if x.contains(&ANYTHING) {
        return None;
    }
    let apart = a.1 < b.0 || b.1 < a.0;
    let one = a.0 == a.1 && a == b;
    if one { Some(true) } else { apart.then_some(false) }
}

pub(crate) fn not_equal(x: &[ValueInterval]) -> Option<bool> {
    equal(x).map(|same| !same)
}

fn below(a: ValueInterval, b: ValueInterval, or_equal: bool) -> Option<bool> {
    // A value that may be NaN can't be ordered.
    if [a, b].contains(&ANYTHING) {
        return None;
    }
    let (always, never) = if or_equal { (a.1 <= b.0, a.0 > b.1) } else { (a.1 < b.0, a.0 >= b.1) };
    if always { Some(true) } else { never.then_some(false) }
}

/// The interval of a function that is monotone in each operand.
fn corners(function: Function, x: &[ValueInterval]) -> ValueInterval {
    let (a, b) = (x[0], x[1]);
    let values = [(a.0, b.0), (a.0, b.1), (a.1, b.0), (a.1, b.1)].map(|(a, b)| function.value(&[a, b]));
    if values.iter().any(|value| value.is_nan()) {
        return ANYTHING;
    }
    (values.into_iter().fold(f64::INFINITY, f64::min), values.into_iter().fold(f64::NEG_INFINITY, f64::max))
}

/// The interval of `x^2`, `x^3` and so on, for x that may be 0 or negative.
fn whole_power(x: ValueInterval, exponent: f64) -> ValueInterval {
    let power = |x: f64| Function::Power.value(&[x, exponent]);
    if exponent < 0.0 || exponent.fract() != 0.0 {
        return if x.0 >= 0.0 && exponent >= 0.0 { (power(x.0), power(x.1)) } else { ANYTHING };
    }
    match exponent % 2.0 == 0.0 {
        false => (power(x.0), power(x.1)),
        true if x.1 <= 0.0 => (power(x.1), power(x.0)),
        true if x.0 >= 0.0 => (power(x.0), power(x.1)),
        true => (if exponent == 0.0 { 1.0 } else { 0.0 }, power(x.0).max(power(x.1))),
    }
}

pub(crate) fn cosine(x: &[ValueInterval]) -> ValueInterval {
    use std::f64::consts::{PI, TAU};
    let (low, high) = x[0];
    if low.is_infinite() || high.is_infinite() {
        return ANYTHING;
    }
    // Multiples of pi are known only to limited precision.
    let slack = 1e-9 * (1.0 + low.abs().max(high.abs()));
    if high - low >= TAU || slack > 0.1 {
        return (-1.0, 1.0);
    }
    let holds = |offset: f64| {
        let next = ((low - slack - offset) / TAU).ceil() * TAU + offset;
        next <= high + slack
    };
    let ends = [low, high].map(|x| Function::Cos.value(&[x]));
    let lowest = if holds(PI) { -1.0 } else { ends[0].min(ends[1]) };
    let highest = if holds(0.0) { 1.0 } else { ends[0].max(ends[1]) };
    (lowest, highest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDS: [f64; 13] =
        [f64::NEG_INFINITY, -700.0, -3.0, -1.0, -0.25, 0.0, 0.2, 0.5, 1.0, 2.0, 3.5, 700.0, f64::INFINITY];

    /// Intervals with these ends, and numbers inside of each.
    fn intervals() -> Vec<(ValueInterval, Vec<f64>)> {
        let mut found = Vec::new();
        for (index, low) in ENDS.iter().enumerate() {
            for high in &ENDS[index..] {
                let inside = ENDS.iter().flat_map(|end| [*end, end + 0.125, 1e6 * end]);
                let inside: Vec<f64> = inside.filter(|x| x.is_finite() && low <= x && x <= high).collect();
                if !inside.is_empty() {
                    found.push(((*low, *high), inside));
                }
            }
        }
        found
    }

    #[test]
    fn finite_results_of_finite_numbers_lie_in_their_range() {
        let intervals = intervals();
        for function in Function::ALL.iter().copied() {
            let count = function.operands();
            let mut compared = 0;
            // A stride, so that functions of three operands are not tried on all of them.
            let stride = [1, 1, 1, 7][count];
            let combinations = intervals.len().pow(count as u32);
            for number in (0..combinations).step_by(stride) {
                let chosen: Vec<&(ValueInterval, Vec<f64>)> = (0..count)
                    .map(|place| &intervals[number / intervals.len().pow(place as u32) % intervals.len()])
                    .collect();
                let operands: Vec<ValueInterval> = chosen.iter().map(|(interval, _)| *interval).collect();
                // Bounds of `clip` that are out of order have no meaning.
                if function == Function::Clip && operands[1].1 > operands[2].0 {
                    continue;
                }
                let (low, high) = function.finite_range(&operands);
                for round in 0..4 {
                    let at = |place: usize| {
                        let inside = &chosen[place].1;
                        inside[(number / 3 + 5 * round + 7 * place) % inside.len()]
                    };
                    let numbers: Vec<f64> = (0..count).map(at).collect();
                    let value = function.value(&numbers);
                    if value.is_finite() {
                        compared += 1;
                        assert!(
                            low <= value && value <= high,
                            "{function:?} of {numbers:?} is {value}, its range for {operands:?} {low} to {high}"
                        );
                    }
                }
            }
            assert!(compared > 100, "{function:?}: {compared}");
        }
    }

    /// The ends of an interval miss the lowest and the highest cosine where these are inside.
    #[test]
    fn a_cosine_turns_inside_of_an_interval() {
        for start in -40..40 {
            for length in 0..40 {
                let low = 0.31 * f64::from(start);
                let high = low + 0.17 * f64::from(length);
                let values = (0..=1000).map(|part| (low + (high - low) * f64::from(part) / 1000.0).cos());
                let (least, most) = values.fold((1.0, -1.0), |(least, most): (f64, f64), value| {
                    (least.min(value), most.max(value))
                });
                let (bottom, top) = cosine(&[(low, high)]);
                assert!((least - bottom).abs() < 1e-4, "{low} to {high}: {least}, not {bottom}");
                assert!((most - top).abs() < 1e-4, "{low} to {high}: {most}, not {top}");
            }
        }
    }

    /// A function whose range is not known makes an audit blind, so none is left out.
    #[test]
    fn every_function_has_a_range() {
        for function in Function::ALL.iter().copied() {
            let operands = vec![(0.25, 0.75); function.operands()];
            let (low, high) = function.finite_range(&operands);
            assert!(low.is_finite() && high.is_finite(), "{function:?}: {low} to {high}");
            assert_eq!(function.range(&operands), (low, high), "{function:?}");
        }
    }

    #[test]
    fn an_infinite_end_is_no_value() {
        let (any, positive) = (ANYTHING, (0.0, f64::INFINITY));
        for (function, operands, expected) in [
            (Function::Multiply, vec![(0.0, 0.0), any], (0.0, 0.0)),
            (Function::Multiply, vec![positive, positive], positive),
            (Function::Subtract, vec![any, any], any),
            (Function::Divide, vec![(0.0, 0.0), any], (0.0, 0.0)),
            (Function::Divide, vec![positive, positive], positive),
            (Function::Divide, vec![positive, any], any),
            (Function::Power, vec![any, (2.0, 2.0)], positive),
            (Function::Power, vec![positive, any], positive),
            (Function::Cos, vec![any], (-1.0, 1.0)),
            (Function::Exp, vec![any], positive),
            (Function::Log, vec![any], any),
            (Function::Relu, vec![any], positive),
            (Function::Sigmoid, vec![any], (0.0, 1.0)),
            (Function::Less, vec![any, any], (0.0, 1.0)),
            (Function::Less, vec![(f64::NEG_INFINITY, 0.0), (1.0, 1.0)], (1.0, 1.0)),
        ] {
            assert_eq!(function.finite_range(&operands), expected, "{function:?} of {operands:?}");
        }
    }
}
