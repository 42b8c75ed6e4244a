//! Bounds of a number over an interval of steps, by interval arithmetic: never too narrow, sometimes too
//! wide.
//!
//! Rounding is monotone, so that the ends of a monotone function bound what it computes in between, to the
//! bit.

use crate::formula::{FormulaKind, Function, Signal, elementwise};

use crate::check::values::ranges::Tape;

type Interval = (f64, f64);

/// Any number, or none: what can be said of a logarithm where its argument may be negative.
const ANYTHING: Interval = (f64::NEG_INFINITY, f64::INFINITY);
const EITHER: Interval = (0.0, 1.0);

/// The smallest and largest value that a number may have from step `first` to step `last`, or a little
/// further out; none where something else than the step decides.
pub fn bounds(number: &Tape, (first, last): (u32, u32), steps: u32) -> Option<Interval> {
    let leaf = |kind: &FormulaKind| match kind {
        FormulaKind::Number(value) => Some((*value, *value)),
        FormulaKind::Schedule(schedule) => Some(proper(schedule.bounds(first, last, steps))),
        FormulaKind::Signal(Signal::Step) => Some((f64::from(first), f64::from(last))),
        FormulaKind::Signal(Signal::Progress) => {
            let steps = f64::from(steps.max(1));
            Some((f64::from(first) / steps, f64::from(last) / steps))
        }
        _ => None,
    };
    number.run(leaf, |function, operands| proper(applied(function, operands)))
}

/// What came of operations without a result, such as the difference of two infinities, may be anything.
fn proper((low, high): Interval) -> Interval {
    if low <= high { (low, high) } else { ANYTHING }
}

fn applied(function: Function, x: &[Interval]) -> Interval {
    use Function::*;
    // `log` of nothing finite has no bounds either.
    if x.contains(&ANYTHING) && !matches!(function, And | Or | Not) {
        return if truth(function) { EITHER } else { ANYTHING };
    }
    let rising =
        |at: usize| (elementwise::apply(function, &[x[at].0]), elementwise::apply(function, &[x[at].1]));
    match function {
        Negate => (-x[0].1, -x[0].0),
        Abs if x[0].0 >= 0.0 => x[0],
        Abs if x[0].1 <= 0.0 => (-x[0].1, -x[0].0),
        Abs => (0.0, x[0].1.max(-x[0].0)),
        Exp | Log | Log1p | Sqrt | Tanh | Sigmoid | Relu | Floor => rising(0),
        Cos => cosine(x[0]),
        Add => (x[0].0 + x[1].0, x[0].1 + x[1].1),
        Subtract => (x[0].0 - x[1].1, x[0].1 - x[1].0),
        Multiply => corners(function, x[0], x[1]),
        Divide if x[1].0 > 0.0 || x[1].1 < 0.0 => corners(function, x[0], x[1]),
        Power if x[0].0 > 0.0 => corners(function, x[0], x[1]),
        Power if x[1].0 == x[1].1 => whole_power(x[0], x[1].0),
        Divide | Power => ANYTHING,
        Minimum => (x[0].0.min(x[1].0), x[0].1.min(x[1].1)),
        Maximum => (x[0].0.max(x[1].0), x[0].1.max(x[1].1)),
        Clip => (x[0].0.max(x[1].0).min(x[2].0), x[0].1.max(x[1].1).min(x[2].1)),
        Where => match known(x[0]) {
            Some(true) => x[1],
            Some(false) => x[2],
            None => (x[1].0.min(x[2].0), x[1].1.max(x[2].1)),
        },
        Not => decided(known(x[0]).map(|holds| !holds)),
        And => decided(match (known(x[0]), known(x[1])) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        }),
        Or => decided(match (known(x[0]), known(x[1])) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), Some(false)) => Some(false),
            _ => None,
        }),
        Less => decided(below(x[0], x[1], false)),
        LessEqual => decided(below(x[0], x[1], true)),
        Greater => decided(below(x[1], x[0], false)),
        GreaterEqual => decided(below(x[1], x[0], true)),
        Equal => decided(equal(x[0], x[1])),
        NotEqual => decided(equal(x[0], x[1]).map(|same| !same)),
    }
}

fn truth(function: Function) -> bool {
    use Function::*;
    matches!(function, Not | And | Or | Less | LessEqual | Greater | GreaterEqual | Equal | NotEqual)
}

fn decided(known: Option<bool>) -> Interval {
    known.map_or(EITHER, |holds| if holds { (1.0, 1.0) } else { (0.0, 0.0) })
}

/// Whether a truth value is known.
fn known((low, high): Interval) -> Option<bool> {
    match () {
        () if low == 0.0 && high == 0.0 => Some(false),
        () if low > 0.0 || high < 0.0 => Some(true),
        () => None,
    }
}

fn below(a: Interval, b: Interval, or_equal: bool) -> Option<bool> {
    let (always, never) = if or_equal { (a.1 <= b.0, a.0 > b.1) } else { (a.1 < b.0, a.0 >= b.1) };
    if always { Some(true) } else { never.then_some(false) }
}

fn equal(a: Interval, b: Interval) -> Option<bool> {
    let apart = a.1 < b.0 || b.1 < a.0;
    let one = a.0 == a.1 && a == b;
    if one { Some(true) } else { apart.then_some(false) }
}

/// Of a function that rises or falls in each operand, whatever the other is.
fn corners(function: Function, a: Interval, b: Interval) -> Interval {
    let values =
        [(a.0, b.0), (a.0, b.1), (a.1, b.0), (a.1, b.1)].map(|(a, b)| elementwise::apply(function, &[a, b]));
    if values.iter().any(|value| value.is_nan()) {
        return ANYTHING;
    }
    (values.into_iter().fold(f64::INFINITY, f64::min), values.into_iter().fold(f64::NEG_INFINITY, f64::max))
}

/// `x^2`, `x^3`: where x may be 0 or negative.
fn whole_power(x: Interval, exponent: f64) -> Interval {
    let power = |x: f64| elementwise::apply(Function::Power, &[x, exponent]);
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

fn cosine((low, high): Interval) -> Interval {
    use std::f64::consts::{PI, TAU};
    if low.is_infinite() || high.is_infinite() {
        return ANYTHING;
    }
    // Where multiples of pi lie is known to so many digits only.
    let slack = 1e-9 * (1.0 + low.abs().max(high.abs()));
    if high - low >= TAU || slack > 0.1 {
        return (-1.0, 1.0);
    }
    let holds = |offset: f64| {
        let next = ((low - slack - offset) / TAU).ceil() * TAU + offset;
        next <= high + slack
    };
    let ends = [low, high].map(|x| elementwise::apply(Function::Cos, &[x]));
    let lowest = if holds(PI) { -1.0 } else { ends[0].min(ends[1]) };
    let highest = if holds(0.0) { 1.0 } else { ends[0].max(ends[1]) };
    (lowest, highest)
}
