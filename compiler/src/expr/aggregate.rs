//! Reductions and statistics over ragged axes, accumulated in f64 in the order of the elements, whatever the precision of
//! the rest. The interpreter and the compiled program share them.

use crate::plan::{Axis, Deviation, Reduction, Statistic};

use super::batch::Layout;
use super::scalar::{maximum, minimum};

/// Added to the standard deviation of a z-score, so that a group of almost equal values is not blown up. The value that
/// GRPO implementations use (arXiv:2402.03300, section 4.1.2, gives the formula without it).
pub const ZSCORE_EPSILON: f64 = 1e-4;

/// One number per element of `to`: the elements of `from` in it that `mask` lets pass, put together. 0 where there are none.
pub fn reduce(
    reduction: Reduction,
    layout: &Layout,
    (from, to): (Axis, Axis),
    value: impl Fn(usize) -> f64,
    mask: impl Fn(usize) -> bool,
) -> Vec<f64> {
    let mut results = vec![0.0; layout.len(to)];
    let mut counts = vec![0u32; layout.len(to)];
    for index in 0..layout.len(from) {
        if !mask(index) {
            continue;
        }
        let parent = layout.parent(from, to, index);
        let (result, x) = (&mut results[parent], value(index));
        *result = match reduction {
            Reduction::Sum | Reduction::Mean => *result + x,
            Reduction::Minimum | Reduction::Maximum if counts[parent] == 0 => x,
            Reduction::Minimum => minimum(*result, x),
            Reduction::Maximum => maximum(*result, x),
        };
        counts[parent] += 1;
    }
    if reduction == Reduction::Mean {
        for (result, count) in results.iter_mut().zip(counts) {
            *result /= f64::from(count.max(1));
        }
    }
    results
}

/// One number per element of `axis`: it, compared with the elements in the same element of `over`. 0 where `mask` is false.
pub fn statistic(
    statistic: Statistic,
    layout: &Layout,
    (axis, over): (Axis, Axis),
    value: impl Fn(usize) -> f64,
    mask: impl Fn(usize) -> bool,
) -> Vec<f64> {
    let mut members = vec![Vec::new(); layout.len(over)];
    for index in (0..layout.len(axis)).filter(|index| mask(*index)) {
        members[layout.parent(axis, over, index)].push(index);
    }
    let mut results = vec![0.0; layout.len(axis)];
    for members in members.iter().filter(|members| !members.is_empty()) {
        let values: Vec<f64> = members.iter().map(|index| value(*index)).collect();
        for (index, result) in members.iter().zip(compare(statistic, &values)) {
            results[*index] = result;
        }
    }
    results
}

/// The statistic of one non-empty group of peers.
fn compare(statistic: Statistic, values: &[f64]) -> Vec<f64> {
    let lowest = values.iter().copied().fold(values[0], minimum);
    let highest = values.iter().copied().fold(values[0], maximum);
    let all_equal = lowest == highest;
    let count = values.len() as f64;
    match statistic {
        // Also the way out for one value, whose sample deviation does not exist.
        Statistic::Zscore { .. } | Statistic::Minmax if all_equal => vec![0.0; values.len()],
        Statistic::Zscore { deviation } => {
            let mean = values.iter().sum::<f64>() / count;
            let squares = values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>();
            let variance = match deviation {
                Deviation::Population => squares / count,
                Deviation::Sample if values.len() > 1 => squares / (count - 1.0),
                // A single NaN or infinity: not a deviation of 0, but not finite.
                Deviation::Sample => squares,
            };
            values.iter().map(|x| (x - mean) / (variance.sqrt() + ZSCORE_EPSILON)).collect()
        }
        Statistic::Minmax => values.iter().map(|x| (x - lowest) / (highest - lowest)).collect(),
        Statistic::Winsor { upper } => {
            let bound = quantile(values, upper);
            values.iter().map(|x| minimum(*x, bound)).collect()
        }
        Statistic::TopFraction { keep } => top_fraction(values, keep),
        Statistic::Softmax => {
            let exponentials: Vec<f64> = values.iter().map(|x| libm::exp(x - highest)).collect();
            let sum: f64 = exponentials.iter().sum();
            exponentials.iter().map(|x| x / sum).collect()
        }
    }
}

/// The `fraction` quantile, interpolated linearly between the two order statistics around `fraction * (n - 1)`. NaN if any
/// value is NaN.
fn quantile(values: &[f64], fraction: f64) -> f64 {
    if values.iter().any(|x| x.is_nan()) {
        return f64::NAN;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let position = fraction * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[position.floor() as usize], sorted[position.ceil() as usize]);
    if below == above { below } else { below + (position - position.floor()) * (above - below) }
}

/// 1 for the `ceil(keep * n)` largest, the earlier of two equals first. NaN ranks above everything, so that it is seen in
/// what is computed from the selected and not quietly left out.
fn top_fraction(values: &[f64], keep: f64) -> Vec<f64> {
    // 0.07 * 100 is 7.000000000000001 in floating point, and means 7.
    let kept = (keep * values.len() as f64 - 1e-9).ceil().max(0.0) as usize;
    // Adding 0 makes -0 and 0 equal; NaN must lose its sign, which total order looks at.
    let rank = |index: &usize| if values[*index].is_nan() { f64::NAN.abs() } else { values[*index] + 0.0 };
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| rank(b).total_cmp(&rank(a)).then(a.cmp(b)));
    let mut results = vec![0.0; values.len()];
    for index in order.into_iter().take(kept) {
        results[index] = 1.0;
    }
    results
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two groups: sequences 0 and 1 (3 and 1 tokens), sequence 2 (2 tokens).
    fn layout() -> Layout {
        Layout { sequence_of_token: vec![0, 0, 0, 1, 2, 2], group_of_sequence: vec![0, 0, 1], groups: 2 }
    }

    const X: [f64; 6] = [1.0, 2.0, 6.0, 4.0, -1.0, 5.0];

    fn reduced(reduction: Reduction, to: Axis, mask: [u8; 6]) -> Vec<f64> {
        reduce(reduction, &layout(), (Axis::Token, to), |index| X[index], |index| mask[index] != 0)
    }

    #[test]
    fn reductions_follow_the_layout() {
        let all = [1; 6];
        assert_eq!(reduced(Reduction::Mean, Axis::Sequence, all), [3.0, 4.0, 2.0]);
        assert_eq!(reduced(Reduction::Sum, Axis::Group, all), [13.0, 4.0]);
        assert_eq!(reduced(Reduction::Minimum, Axis::Sequence, all), [1.0, 4.0, -1.0]);
        assert_eq!(reduced(Reduction::Maximum, Axis::Batch, all), [6.0]);
    }

    #[test]
    fn masked_elements_take_no_part_and_a_reduction_over_none_is_0() {
        let mask = [0, 1, 1, 0, 1, 0];
        assert_eq!(reduced(Reduction::Mean, Axis::Sequence, mask), [4.0, 0.0, -1.0]);
        assert_eq!(reduced(Reduction::Maximum, Axis::Sequence, mask), [6.0, 0.0, -1.0]);
        assert_eq!(reduced(Reduction::Mean, Axis::Batch, [0; 6]), [0.0]);
    }

    #[test]
    fn a_zscore_is_in_units_of_the_deviation() {
        let zscore = |deviation, values: &[f64]| compare(Statistic::Zscore { deviation }, values);
        let population = (2.0f64 / 3.0).sqrt() + 1e-4;
        assert_eq!(zscore(Deviation::Population, &[1.0, 2.0, 3.0]), [-1.0 / population, 0.0, 1.0 / population]);
        assert_eq!(zscore(Deviation::Sample, &[1.0, 2.0, 3.0]), [-1.0 / 1.0001, 0.0, 1.0 / 1.0001]);
        assert_eq!(zscore(Deviation::Sample, &[0.1, 0.1, 0.1]), [0.0; 3]);
        assert_eq!(zscore(Deviation::Sample, &[7.0]), [0.0]);
        assert!(zscore(Deviation::Sample, &[1.0, f64::NAN]).iter().all(|x| x.is_nan()));
        assert!(zscore(Deviation::Sample, &[f64::NAN])[0].is_nan());
    }

    #[test]
    fn minmax_and_softmax() {
        assert_eq!(compare(Statistic::Minmax, &[2.0, 4.0, 3.0]), [0.0, 1.0, 0.5]);
        assert_eq!(compare(Statistic::Minmax, &[2.0, 2.0]), [0.0, 0.0]);
        let softmax = compare(Statistic::Softmax, &[1000.0, 1000.0 + 3.0f64.ln()]);
        assert!((softmax[0] - 0.25).abs() < 1e-12 && (softmax[1] - 0.75).abs() < 1e-12);
    }

    #[test]
    fn winsor_interpolates_its_quantile() {
        // Position 0.9 * 3 = 2.7 among 0, 1, 2, 10: 2 + 0.7 * 8.
        let values = compare(Statistic::Winsor { upper: 0.9 }, &[10.0, 0.0, 2.0, 1.0]);
        assert!((values[0] - 7.6).abs() < 1e-12);
        assert_eq!(values[1..], [0.0, 2.0, 1.0]);
    }

    #[test]
    fn top_fraction_rounds_up_and_breaks_ties_by_position() {
        let top = |keep, values: &[f64]| compare(Statistic::TopFraction { keep }, values);
        assert_eq!(top(0.5, &[1.0, 3.0, 3.0, 3.0, 2.0]), [0.0, 1.0, 1.0, 1.0, 0.0]);
        assert_eq!(top(0.3, &[-0.0, 0.0, -1.0]), [1.0, 0.0, 0.0]);
        assert_eq!(top(0.07, &[1.0; 100]).iter().sum::<f64>(), 7.0);
        assert_eq!(top(0.0, &[1.0]), [0.0]);
        assert_eq!(top(0.25, &[1.0, -f64::NAN, f64::INFINITY]), [0.0, 1.0, 0.0]);
    }

    #[test]
    fn statistics_compare_within_each_element() {
        let minmax = |mask: [u8; 6]| {
            let axes = (Axis::Token, Axis::Sequence);
            statistic(Statistic::Minmax, &layout(), axes, |index| X[index], |index| mask[index] != 0)
        };
        assert_eq!(minmax([1; 6]), [0.0, 0.2, 1.0, 0.0, 0.0, 1.0]);
        assert_eq!(minmax([1, 1, 0, 1, 1, 1]), [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    }
}
