//! Numbers with their intervals as text: with two decimals, or more where the interval is narrower than these
//! can show.

use mopd_plan::results::Interval;

/// The decimals of rewards from 0 to 1.
const FEWEST: usize = 2;
const MOST: usize = 9;
/// Smaller differences are rounding.
const NOISE: f64 = 1e-9;

/// The decimals of a number and of its interval.
pub fn decimals(interval: &Interval) -> usize {
    let (width, size) = (interval.high - interval.low, interval.mean.abs());
    // An interval without a width has no scale, but its number has.
    let scale = if width > NOISE * size.max(1.0) { width } else { size };
    let is_small = scale > NOISE && scale < 0.5 / 10_f64.powi(FEWEST as i32);
    if is_small { (-scale.log10().floor() as usize).clamp(FEWEST, MOST) } else { FEWEST }
}

/// The decimals of a difference: a bound that rounds to 0 would contradict the asterisk of an interval that
/// leaves 0 out.
pub fn decimals_of_difference(difference: &Interval) -> usize {
    let Interval { low, high, .. } = difference;
    let nearest = if *low > 0.0 { *low } else { (-high).max(0.0) };
    let rounds_to_zero = |decimals: &usize| nearest > NOISE && nearest < 0.5 / 10_f64.powi(*decimals as i32);
    let enough = (decimals(difference)..MOST).find(|decimals| !rounds_to_zero(decimals));
    enough.unwrap_or(MOST)
}

/// A number that rounds to 0 has no sign.
pub fn fixed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let is_zero = text.bytes().all(|byte| matches!(byte, b'-' | b'0' | b'.'));
    if is_zero { text.trim_start_matches('-').to_owned() } else { text }
}

/// A number with its sign; one that rounds to 0 has a plus.
pub fn signed(value: f64, decimals: usize) -> String {
    let text = fixed(value, decimals);
    if text.starts_with('-') || value.is_nan() { text } else { format!("+{text}") }
}

/// The mean, the low and the high bound of a difference, with their signs.
pub fn signed_parts(difference: &Interval) -> [String; 3] {
    let decimals = decimals_of_difference(difference);
    [difference.mean, difference.low, difference.high].map(|value| signed(value, decimals))
}

/// `0.46 [0.43, 0.49]`
pub fn span(interval: &Interval) -> String {
    let decimals = decimals(interval);
    let [mean, low, high] = [interval.mean, interval.low, interval.high].map(|value| fixed(value, decimals));
    format!("{mean} [{low}, {high}]")
}

/// `+0.04 [+0.02, +0.06]`
pub fn signed_span(difference: &Interval) -> String {
    let [mean, low, high] = signed_parts(difference);
    format!("{mean} [{low}, {high}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(mean: f64, low: f64, high: f64) -> Interval {
        Interval { mean, low, high }
    }

    #[test]
    fn wide_intervals_have_two_decimals() {
        assert_eq!(span(&of(0.4567, 0.43, 0.49)), "0.46 [0.43, 0.49]");
        assert_eq!(span(&of(0.996, 0.99, 0.998)), "1.00 [0.99, 1.00]");
        assert_eq!(span(&of(0.0, -0.001, 0.3)), "0.00 [0.00, 0.30]");
        assert_eq!(
            [span(&of(1.0, 1.0, 1.0)), span(&of(0.0, 0.0, 0.0))],
            ["1.00 [1.00, 1.00]", "0.00 [0.00, 0.00]"]
        );
        // Rounding is not a width.
        assert_eq!(span(&of(0.0, -1e-17, 1e-17)), "0.00 [0.00, 0.00]");
        assert_eq!(span(&of(0.1, 0.1 - 1e-17, 0.1 + 3e-17)), "0.10 [0.10, 0.10]");
        assert_eq!(signed_span(&of(-0.001, -0.25, 0.25)), "+0.00 [-0.25, +0.25]");
        assert_eq!(span(&of(f64::NAN, 0.0, 1.0)), "NaN [0.00, 1.00]");
    }

    #[test]
    fn narrow_intervals_have_as_many_decimals_as_they_need() {
        assert_eq!(span(&of(0.0012, 0.001, 0.0014)), "0.0012 [0.0010, 0.0014]");
        assert_eq!(span(&of(0.004, 0.004, 0.004)), "0.004 [0.004, 0.004]");
        assert_eq!(signed_span(&of(-3e-5, -4e-5, -2e-5)), "-0.00003 [-0.00004, -0.00002]");
    }

    #[test]
    fn the_bound_of_a_clear_difference_is_not_zero() {
        assert_eq!(signed_span(&of(0.15, 0.003, 0.3)), "+0.150 [+0.003, +0.300]");
        assert_eq!(signed_span(&of(-0.15, -0.3, -0.003)), "-0.150 [-0.300, -0.003]");
        assert_eq!(signed_span(&of(0.15, -0.003, 0.3)), "+0.15 [+0.00, +0.30]");
    }
}
