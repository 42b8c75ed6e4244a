//! Statistics, which compare each number with its peers. To add one, add a variant, its entry in
//! [`Statistic::definition`], and its computation in `compare`.

use serde::{Deserialize, Serialize};

use crate::entry::{OperatorEntry, same};
use crate::{Unit, maximum, minimum};

/// Added to the standard deviation of a z-score where nothing else is written, so that almost equal values
/// are not amplified. GRPO implementations use this value (arXiv:2402.03300, section 4.1.2, gives the formula
/// without it).
pub const ZSCORE_EPSILON: f64 = 1e-4;

/// The largest epsilon that only prevents a division by almost 0. A larger one is part of the formula.
const NEGLIGIBLE_EPSILON: f64 = 1e-3;

/// A comparison of each number with its peers along an axis; the result has the argument's axis.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "statistic", rename_all = "snake_case")]
pub enum Statistic {
    /// (x - mean) / (deviation + epsilon); 0 where all are equal.
    Zscore {
        deviation: Deviation,
        #[serde(default = "usual_epsilon", skip_serializing_if = "is_usual_epsilon")]
        epsilon: f64,
    },
    /// x - mean
    Center,
    /// Share of the others that are smaller, from 0 to 1; equal values share their mean rank.
    Rank,
    /// The mean of the others.
    LeaveOneOut,
    /// The mean of those that are smaller; 0 where none is.
    MeanOfSmaller,
    /// (x - min) / (max - min); 0 where all are equal.
    Minmax,
    /// Values above the `upper` quantile are set to it.
    Winsor { upper: f64 },
    /// True for the `keep` fraction with the largest values, ties broken by position.
    TopFraction { keep: f64 },
    /// True for the `count` largest values, ties broken by position.
    TopCount { count: u32 },
    /// exp(x) / sum of exp(x)
    Softmax,
    /// True for a `keep` fraction, sampled with probabilities proportional to x.
    SampleWithoutReplacement { keep: f64 },
    /// True for as many true elements as false ones; the larger side is subsampled at random.
    Balance,
    /// True in windows of `width` tokens that begin at the `most` largest values.
    Chunks { most: u32, width: u32 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deviation {
    /// Divided by n.
    Population,
    /// Divided by n - 1.
    Sample,
}

impl Deviation {
    pub const ALL: [Deviation; 2] = [Deviation::Population, Deviation::Sample];

    pub fn name(self) -> &'static str {
        match self {
            Deviation::Population => "population",
            Deviation::Sample => "sample",
        }
    }
}

fn usual_epsilon() -> f64 {
    ZSCORE_EPSILON
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_usual_epsilon(epsilon: &f64) -> bool {
    *epsilon == ZSCORE_EPSILON
}

pub(crate) fn centred(of: Unit) -> Unit {
    if of == Unit::Logp { Unit::Nats } else { of }
}

impl Statistic {
    /// One statistic of each kind, for tests. Their numbers are placeholders.
    pub const EACH: [Statistic; 13] = [
        Statistic::Zscore { deviation: Deviation::Sample, epsilon: ZSCORE_EPSILON },
        Statistic::Center,
        Statistic::Rank,
        Statistic::LeaveOneOut,
        Statistic::MeanOfSmaller,
        Statistic::Minmax,
        Statistic::Winsor { upper: 0.98 },
        Statistic::TopFraction { keep: 0.5 },
        Statistic::TopCount { count: 2 },
        Statistic::Softmax,
        Statistic::SampleWithoutReplacement { keep: 0.5 },
        Statistic::Balance,
        Statistic::Chunks { most: 4, width: 20 },
    ];

    pub fn definition(self) -> OperatorEntry {
        match self {
            Statistic::Zscore { .. } => OperatorEntry {
                name: "zscore",
                usage: "zscore(x, over: group, deviation: sample)",
                doc: "(x - mean) / (deviation + epsilon), `epsilon` 1e-4 by default; 0 where all are equal.",
                unit: |_| Unit::Number,
            },
            Statistic::Center => OperatorEntry {
                name: "center",
                usage: "center(x, over: group)",
                doc: "`x` minus the mean along the axis.",
                unit: centred,
            },
            Statistic::Rank => OperatorEntry {
                name: "rank",
                usage: "rank(x, over: batch)",
                doc: "Share of the others that are smaller, from 0 to 1; equal values share their mean rank.",
                unit: |_| Unit::Fraction,
            },
            Statistic::LeaveOneOut => OperatorEntry {
                name: "leave_one_out",
                usage: "leave_one_out(reward, over: group)",
                doc: "The mean of the other elements: a baseline that does not depend on the element itself.",
                unit: same,
            },
            Statistic::MeanOfSmaller => OperatorEntry {
                name: "mean_of_smaller",
                usage: "mean_of_smaller(reward, over: group)",
                doc: "The mean of the elements that are smaller; 0 where none is.",
                unit: same,
            },
            Statistic::Minmax => OperatorEntry {
                name: "minmax",
                usage: "minmax(x, over: batch)",
                doc: "Shifted and scaled to [0, 1]; 0 where all are equal.",
                unit: |_| Unit::Fraction,
            },
            Statistic::Winsor { .. } => OperatorEntry {
                name: "winsor",
                usage: "winsor(x, upper: 0.98, over: batch)",
                doc: "Values above the `upper` quantile are set to it.",
                unit: same,
            },
            Statistic::TopFraction { .. } => OperatorEntry {
                name: "top_fraction",
                usage: "top_fraction(x, keep: 0.5, over: batch)",
                doc: "True for the `keep` fraction with the largest values, their number rounded up, ties \
                      broken by position.",
                unit: |_| Unit::Bool,
            },
            Statistic::TopCount { .. } => OperatorEntry {
                name: "top_count",
                usage: "top_count(x, n: 2, over: block)",
                doc: "True for the `n` largest values, ties broken by position.",
                unit: |_| Unit::Bool,
            },
            Statistic::Softmax => OperatorEntry {
                name: "softmax",
                usage: "softmax(x, over: group), or softmax(x, across: panel, missing: uniform)",
                doc: "exp(x) / sum of exp(x), along an axis, or across the members of a panel.",
                unit: |_| Unit::Fraction,
            },
            Statistic::SampleWithoutReplacement { .. } => OperatorEntry {
                name: "sample_without_replacement",
                usage: "sample_without_replacement(weight, keep: 0.5, over: batch)",
                doc: "True for the `keep` fraction of the elements, their number rounded up, drawn with \
                      probabilities proportional to `x`.",
                unit: |_| Unit::Bool,
            },
            Statistic::Balance => OperatorEntry {
                name: "balance",
                usage: "balance(correct, over: group)",
                doc: "True for as many true elements as false ones: the larger side is thinned at random.",
                unit: |_| Unit::Bool,
            },
            Statistic::Chunks { .. } => OperatorEntry {
                name: "chunks",
                usage: "chunks(student.entropy, most: 4, width: 20)",
                doc: "True in windows of tokens that begin at the largest values of a sequence.",
                unit: |_| Unit::Bool,
            },
        }
    }

    pub fn name(self) -> &'static str {
        self.definition().name
    }

    /// Whether it accepts bools; all others accept numbers.
    pub fn of_truths(self) -> bool {
        self == Statistic::Balance
    }

    /// The fraction of elements in its argument, if it has one.
    pub fn fraction(self) -> Option<f64> {
        match self {
            Statistic::Winsor { upper: fraction }
            | Statistic::TopFraction { keep: fraction }
            | Statistic::SampleWithoutReplacement { keep: fraction } => Some(fraction),
            _ => None,
        }
    }

    /// The same with another number as its fraction, if it has one: NaN, or the nearest one from 0 to 1.
    pub fn with_fraction(self, fraction: f64) -> Statistic {
        let fraction = fraction.clamp(0.0, 1.0);
        match self {
            Statistic::Winsor { .. } => Statistic::Winsor { upper: fraction },
            Statistic::TopFraction { .. } => Statistic::TopFraction { keep: fraction },
            Statistic::SampleWithoutReplacement { .. } => {
                Statistic::SampleWithoutReplacement { keep: fraction }
            }
            other => other,
        }
    }

    /// Whether it needs random numbers.
    pub fn chooses_at_random(self) -> bool {
        matches!(self, Statistic::SampleWithoutReplacement { .. } | Statistic::Balance)
    }

    /// The values for one non-empty group of peers. Random ones use `noise`, one number from [0, 1) each.
    pub fn values(self, values: &[f64], noise: &[f64]) -> Vec<f64> {
        match self {
            _ if self.fraction().is_some_and(f64::is_nan) => vec![f64::NAN; values.len()],
            Statistic::SampleWithoutReplacement { keep } => sample_without_replacement(values, keep, noise),
            Statistic::Balance => balance(values, noise),
            _ => compare(self, values),
        }
    }

    /// The values of a statistic that is not random, without a negligible epsilon in the deviation of a
    /// z-score, for comparison with the formula.
    pub fn exact(self, values: &[f64]) -> Option<Vec<f64>> {
        let formula = match self {
            Statistic::Zscore { deviation, epsilon } if epsilon <= NEGLIGIBLE_EPSILON => {
                Statistic::Zscore { deviation, epsilon: 0.0 }
            }
            statistic => statistic,
        };
        (!self.chooses_at_random()).then(|| formula.values(values, &[]))
    }
}

/// The variance; exactly 0 where all are equal, also for a single value, which has no sample deviation.
pub(crate) fn variance(values: &[f64], deviation: Deviation) -> f64 {
    if values.iter().all(|x| *x == values[0]) {
        return 0.0;
    }
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares = values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>();
    match deviation {
        Deviation::Population => squares / count,
        Deviation::Sample if values.len() > 1 => squares / (count - 1.0),
        // A single NaN or infinity: the deviation is not 0, but not finite either.
        Deviation::Sample => squares,
    }
}

/// The values for one non-empty group.
fn compare(statistic: Statistic, values: &[f64]) -> Vec<f64> {
    let lowest = values.iter().copied().fold(values[0], minimum);
    let highest = values.iter().copied().fold(values[0], maximum);
    let all_equal = lowest == highest;
    let count = values.len() as f64;
    match statistic {
        // Also for a single value, which has no sample deviation.
        Statistic::Zscore { .. } | Statistic::Minmax if all_equal => vec![0.0; values.len()],
        Statistic::Zscore { deviation, epsilon } => {
            let mean = values.iter().sum::<f64>() / count;
            let deviation = variance(values, deviation).sqrt();
            values.iter().map(|x| (x - mean) / (deviation + epsilon)).collect()
        }
        Statistic::Minmax => values.iter().map(|x| (x - lowest) / (highest - lowest)).collect(),
        Statistic::Winsor { upper } => {
            let bound = quantile(values, upper);
            values.iter().map(|x| minimum(*x, bound)).collect()
        }
        Statistic::Center => {
            let mean = values.iter().sum::<f64>() / count;
            values.iter().map(|x| x - mean).collect()
        }
        // For a single value, the sum of the others is 0, and so is their mean.
        Statistic::LeaveOneOut => {
            let sum = values.iter().sum::<f64>();
            values.iter().map(|x| (sum - x) / (count - 1.0).max(1.0)).collect()
        }
        Statistic::MeanOfSmaller => mean_of_smaller(values),
        Statistic::Rank => rank(values),
        Statistic::TopFraction { keep } => top(values, kept_count(keep, values.len())),
        Statistic::TopCount { count } => top(values, count as usize),
        Statistic::Chunks { most, width } => chunks(values, most as usize, width as usize),
        Statistic::Softmax => {
            let exponentials: Vec<f64> = values.iter().map(|x| libm::exp(x - highest)).collect();
            let sum: f64 = exponentials.iter().sum();
            exponentials.iter().map(|x| x / sum).collect()
        }
        Statistic::SampleWithoutReplacement { .. } | Statistic::Balance => {
            unreachable!("these need random numbers")
        }
    }
}

/// The `fraction` quantile, interpolated linearly between the two order statistics around `fraction * (n -
/// 1)`. NaN if any value is NaN.
pub fn quantile(values: &[f64], fraction: f64) -> f64 {
    if fraction.is_nan() || values.iter().any(|x| x.is_nan()) {
        return f64::NAN;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let position = fraction * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[position.floor() as usize], sorted[position.ceil() as usize]);
    if below == above { below } else { below + (position - position.floor()) * (above - below) }
}

/// `ceil(keep * n)`
fn kept_count(keep: f64, n: usize) -> usize {
    // 0.07 * 100 is 7.000000000000001 in floating point, and means 7.
    (keep * n as f64 - 1e-9).ceil().max(0.0) as usize
}

/// The indices of the elements from the largest to the smallest, the earlier of two equals first. NaN ranks
/// above everything, so that it shows in results instead of being left out silently.
fn descending(values: &[f64]) -> Vec<usize> {
    // Adding 0 makes -0 and 0 equal; NaN must lose its sign, which the total order compares.
    let rank = |index: &usize| if values[*index].is_nan() { f64::NAN.abs() } else { values[*index] + 0.0 };
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| rank(b).total_cmp(&rank(a)).then(a.cmp(b)));
    order
}

/// 1 for the `count` largest.
fn top(values: &[f64], count: usize) -> Vec<f64> {
    let mut results = vec![0.0; values.len()];
    for index in descending(values).into_iter().take(count) {
        results[index] = 1.0;
    }
    results
}

/// Share of the others that are smaller; equals count half. 0 for a single value. NaN if any value is NaN.
fn rank(values: &[f64]) -> Vec<f64> {
    if values.iter().any(|x| x.is_nan()) {
        return vec![f64::NAN; values.len()];
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let others = (values.len() - 1).max(1) as f64;
    let ranked = values.iter().map(|x| {
        let smaller = sorted.partition_point(|other| other < x);
        let equal = sorted.partition_point(|other| other <= x) - smaller - 1;
        (smaller as f64 + equal as f64 / 2.0) / others
    });
    ranked.collect()
}

/// The mean of the values below each; 0 for the smallest. NaN if any value is NaN.
fn mean_of_smaller(values: &[f64]) -> Vec<f64> {
    if values.iter().any(|x| x.is_nan()) {
        return vec![f64::NAN; values.len()];
    }
    let mean = |x: &f64| {
        let smaller = || values.iter().filter(|other| *other < x);
        smaller().fold(0.0, |sum, x| sum + x) / smaller().count().max(1) as f64
    };
    values.iter().map(mean).collect()
}

/// 1 in the windows of `width` elements that begin at the `most` largest values; windows may overlap, and end
/// with the row.
fn chunks(values: &[f64], most: usize, width: usize) -> Vec<f64> {
    let mut results = vec![0.0; values.len()];
    for first in descending(values).into_iter().take(most) {
        let end = values.len().min(first.saturating_add(width));
        results[first..end].fill(1.0);
    }
    results
}

/// 1 for `ceil(keep * n)` elements, drawn one after the other with probabilities proportional to `weights`:
/// those with the smallest -log(u) / weight (Efraimidis and Spirakis, 2006). An element of weight 0 is never
/// drawn. NaN always is, so that it shows.
fn sample_without_replacement(weights: &[f64], keep: f64, noise: &[f64]) -> Vec<f64> {
    let keys = weights.iter().zip(noise).map(|(weight, u)| match weight {
        weight if weight.is_nan() => f64::NAN,
        weight if *weight <= 0.0 => f64::NEG_INFINITY,
        // -log(1 - u): u is never 1.
        weight => libm::log1p(-u) / weight,
    });
    let keys: Vec<f64> = keys.collect();
    let drawable = keys.iter().filter(|key| **key != f64::NEG_INFINITY).count();
    top(&keys, kept_count(keep, weights.len()).min(drawable))
}

/// 1 for as many true elements as false ones, on the larger side for those with the largest `noise`.
fn balance(values: &[f64], noise: &[f64]) -> Vec<f64> {
    let holds = values.iter().filter(|x| **x != 0.0).count();
    let each = holds.min(values.len() - holds);
    let mut results = vec![0.0; values.len()];
    for side in [true, false] {
        let members: Vec<usize> = (0..values.len()).filter(|index| (values[*index] != 0.0) == side).collect();
        let drawn = top(&members.iter().map(|index| noise[*index]).collect::<Vec<f64>>(), each);
        for (index, drawn) in members.into_iter().zip(drawn) {
            results[index] = drawn;
        }
    }
    results
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(statistic: Statistic, of: &[f64]) -> Vec<f64> {
        statistic.values(of, &[])
    }

    /// SplitMix64, in [0, 1).
    fn uniform(state: &mut u64) -> f64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = *state;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    #[test]
    fn a_zscore_is_in_units_of_the_deviation() {
        let with_epsilon =
            |epsilon, deviation, values: &[f64]| compared(Statistic::Zscore { deviation, epsilon }, values);
        let zscore = |deviation, values: &[f64]| with_epsilon(ZSCORE_EPSILON, deviation, values);
        assert_eq!(with_epsilon(0.5, Deviation::Sample, &[1.0, 2.0, 3.0]), [-1.0 / 1.5, 0.0, 1.0 / 1.5]);
        let population = (2.0f64 / 3.0).sqrt() + 1e-4;
        assert_eq!(
            zscore(Deviation::Population, &[1.0, 2.0, 3.0]),
            [-1.0 / population, 0.0, 1.0 / population]
        );
        assert_eq!(zscore(Deviation::Sample, &[1.0, 2.0, 3.0]), [-1.0 / 1.0001, 0.0, 1.0 / 1.0001]);
        assert_eq!(zscore(Deviation::Sample, &[0.1, 0.1, 0.1]), [0.0; 3]);
        assert_eq!(zscore(Deviation::Sample, &[7.0]), [0.0]);
        assert!(zscore(Deviation::Sample, &[1.0, f64::NAN]).iter().all(|x| x.is_nan()));
        assert!(zscore(Deviation::Sample, &[f64::NAN])[0].is_nan());
    }

    #[test]
    fn minmax_and_softmax_match_known_values() {
        assert_eq!(compared(Statistic::Minmax, &[2.0, 4.0, 3.0]), [0.0, 1.0, 0.5]);
        assert_eq!(compared(Statistic::Minmax, &[2.0, 2.0]), [0.0, 0.0]);
        let softmax = compared(Statistic::Softmax, &[1000.0, 1000.0 + 3.0f64.ln()]);
        assert!((softmax[0] - 0.25).abs() < 1e-12 && (softmax[1] - 0.75).abs() < 1e-12);
    }

    /// A fraction that only the run decides may be anything.
    #[test]
    fn a_fraction_is_held_within_0_and_1() {
        let top =
            |keep| Statistic::TopFraction { keep: 0.5 }.with_fraction(keep).values(&[1.0, 3.0, 2.0], &[]);
        assert_eq!(top(0.3), [0.0, 1.0, 0.0]);
        assert_eq!([top(2.0), top(-1.0)], [vec![1.0; 3], vec![0.0; 3]]);
        assert!(top(f64::NAN).iter().all(|x| x.is_nan()));
        let winsor = |upper| Statistic::Winsor { upper: 0.5 }.with_fraction(upper).values(&[1.0, 3.0], &[]);
        assert_eq!([winsor(0.5), winsor(7.0)], [[1.0, 2.0], [1.0, 3.0]]);
        assert!(winsor(f64::NAN).iter().all(|x| x.is_nan()));
        let drawn = Statistic::SampleWithoutReplacement { keep: 0.0 }.with_fraction(9.0);
        assert_eq!(drawn.values(&[1.0, 1.0], &[0.5, 0.5]), [1.0, 1.0]);
        let quantile = |q| crate::Reduction::Quantile { q: 0.5 }.with_fraction(q).value(&[1.0, 2.0]);
        assert_eq!([quantile(0.25), quantile(9.0)], [1.25, 2.0]);
        assert!(quantile(f64::NAN).is_nan());
        assert_eq!(Statistic::Rank.with_fraction(0.1), Statistic::Rank);
    }

    #[test]
    fn winsor_interpolates_its_quantile() {
        // Position 0.9 * 3 = 2.7 among 0, 1, 2, 10: 2 + 0.7 * 8.
        let values = compared(Statistic::Winsor { upper: 0.9 }, &[10.0, 0.0, 2.0, 1.0]);
        assert!((values[0] - 7.6).abs() < 1e-12);
        assert_eq!(values[1..], [0.0, 2.0, 1.0]);
    }

    #[test]
    fn top_fraction_rounds_up_and_breaks_ties_by_position() {
        let top = |keep, values: &[f64]| compared(Statistic::TopFraction { keep }, values);
        assert_eq!(top(0.5, &[1.0, 3.0, 3.0, 3.0, 2.0]), [0.0, 1.0, 1.0, 1.0, 0.0]);
        assert_eq!(top(0.3, &[-0.0, 0.0, -1.0]), [1.0, 0.0, 0.0]);
        assert_eq!(top(0.07, &[1.0; 100]).iter().sum::<f64>(), 7.0);
        assert_eq!(top(0.0, &[1.0]), [0.0]);
        assert_eq!(top(0.25, &[1.0, -f64::NAN, f64::INFINITY]), [0.0, 1.0, 0.0]);
    }

    #[test]
    fn a_rank_counts_equals_by_half() {
        assert_eq!(compared(Statistic::Rank, &[3.0, 1.0, 3.0, 9.0, -2.0]), [0.625, 0.25, 0.625, 1.0, 0.0]);
        assert_eq!(compared(Statistic::Rank, &[7.0]), [0.0]);
        assert!(compared(Statistic::Rank, &[7.0, f64::NAN]).iter().all(|x| x.is_nan()));
    }

    #[test]
    fn peer_and_window_statistics_match_known_values() {
        assert_eq!(compared(Statistic::Center, &[1.0, 2.0, 6.0]), [-2.0, -1.0, 3.0]);
        assert_eq!(compared(Statistic::LeaveOneOut, &[1.0, 2.0, 6.0]), [4.0, 3.5, 1.5]);
        assert_eq!(compared(Statistic::LeaveOneOut, &[5.0]), [0.0]);
        let smaller = |values: &[f64]| compared(Statistic::MeanOfSmaller, values);
        assert_eq!(smaller(&[3.0, 1.0, 3.0, 9.0, -2.0]), [-0.5, -2.0, -0.5, 1.25, 0.0]);
        assert_eq!(smaller(&[4.0, 4.0]), [0.0, 0.0]);
        assert!(smaller(&[1.0, f64::NAN]).iter().all(|x| x.is_nan()));
        assert_eq!(compared(Statistic::TopCount { count: 2 }, &[1.0, 5.0, 5.0, 5.0]), [0.0, 1.0, 1.0, 0.0]);
        assert_eq!(compared(Statistic::TopCount { count: 9 }, &[1.0, 2.0]), [1.0, 1.0]);
        let chunks = |most, width, values: &[f64]| compared(Statistic::Chunks { most, width }, values);
        assert_eq!(chunks(1, 2, &[0.0, 3.0, 1.0, 2.0]), [0.0, 1.0, 1.0, 0.0]);
        assert_eq!(chunks(2, 3, &[0.0, 3.0, 1.0, 2.0]), [0.0, 1.0, 1.0, 1.0]);
    }

    /// The probability of each pair, compared with that of drawing one and then the other from the rest.
    #[test]
    fn drawing_without_replacement_has_the_chances_of_drawing_one_by_one() {
        let weights = [1.0, 2.0, 0.0, 5.0];
        let runs = 40_000;
        let mut seen = std::collections::HashMap::new();
        let mut state = 3u64;
        for _ in 0..runs {
            let noise: Vec<f64> = (0..4).map(|_| uniform(&mut state)).collect();
            let drawn: Vec<u8> =
                sample_without_replacement(&weights, 0.5, &noise).into_iter().map(|x| x as u8).collect();
            *seen.entry(drawn).or_insert(0) += 1;
        }
        let chance = |a: f64, b: f64| a / 8.0 * b / (8.0 - a) + b / 8.0 * a / (8.0 - b);
        for (pair, expected) in [
            ([1, 1, 0, 0], chance(1.0, 2.0)),
            ([1, 0, 0, 1], chance(1.0, 5.0)),
            ([0, 1, 0, 1], chance(2.0, 5.0)),
        ] {
            let share = f64::from(seen.remove(pair.as_slice()).unwrap_or(0)) / f64::from(runs);
            // Five standard deviations.
            assert!(
                (share - expected).abs() < 5.0 * (expected / f64::from(runs)).sqrt(),
                "{pair:?}: {share}, not {expected}"
            );
        }
        assert!(seen.is_empty(), "what has no weight was drawn: {seen:?}");
        assert_eq!(sample_without_replacement(&[0.0, 0.0, 1.0], 1.0, &[0.5; 3]), [0.0, 0.0, 1.0]);
        assert_eq!(sample_without_replacement(&[1.0, f64::NAN], 0.5, &[0.99, 0.0]), [0.0, 1.0]);
    }

    #[test]
    fn a_balance_thins_the_larger_side() {
        assert_eq!(balance(&[1.0, 1.0, 0.0, 1.0], &[0.2, 0.9, 0.5, 0.1]), [0.0, 1.0, 1.0, 0.0]);
        assert_eq!(balance(&[1.0, 0.0, 0.0], &[0.2, 0.1, 0.5]), [1.0, 0.0, 1.0]);
        assert_eq!(balance(&[1.0, 1.0], &[0.2, 0.1]), [0.0, 0.0]);
    }
}
