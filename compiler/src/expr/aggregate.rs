//! Everything that is not elementwise: reductions, statistics, scans over ragged axes, and memory.
//! Accumulated in f64 in the order of the elements, whatever the precision of the rest. The interpreter and
//! the compiled program share them; so do tensors, for what they can't do where they are.

use mopd_ops::{maximum, minimum};

use crate::plan::{Axis, Deviation, Memory, Reduction, Scan, Statistic};

use super::batch::{Batch, Layout};
use super::graph::{Graph, NodeId, Operation};

/// Added to the standard deviation of a z-score, so that a group of almost equal values is not blown up. The
/// value that GRPO implementations use (arXiv:2402.03300, section 4.1.2, gives the formula without it).
const ZSCORE_EPSILON: f64 = 1e-4;

/// The values of a node that is not elementwise, one per element of its axis. `value` gives those of its
/// operands, by node and element. The graph and the batch's layout have been checked ([`Graph::check`],
/// [`Layout::check`]).
///
/// # Panics
/// If the node is a leaf or elementwise: those are evaluated where they stand.
pub fn evaluate(graph: &Graph, id: NodeId, batch: &Batch, value: impl Fn(NodeId, usize) -> f64) -> Vec<f64> {
    let (layout, axis) = (&batch.layout, graph.axis(id));
    let of = |id: NodeId| {
        let value = &value;
        move |index: usize| value(id, index)
    };
    let passes = |mask: Option<NodeId>| {
        let value = &value;
        move |index: usize| mask.is_none_or(|mask| value(mask, index) != 0.0)
    };
    match graph.node(id).operation {
        Operation::Reduce { reduction, operand, mask } => {
            reduce(reduction, layout, (graph.axis(operand), axis), of(operand), passes(mask))
        }
        Operation::Statistic { statistic, operand, over, mask, noise } => {
            let noise = |index| noise.map_or(0.0, |noise| value(noise, index));
            self::statistic(statistic, layout, (axis, over), of(operand), passes(mask), noise)
        }
        Operation::Scan { scan, operand, over, mask } => {
            let scan = scan.with_discount(|discount| value(discount, 0));
            self::scan(scan, layout, (axis, over), of(operand), passes(mask))
        }
        Operation::Memory { memory, operand } => {
            let (now, before) = (value(operand, 0), batch.carried.get(&id).copied());
            vec![match (memory, before) {
                // At the first step there is nothing to remember.
                (_, None) => now,
                (Memory::Ema { rate }, Some(before)) => rate * before + (1.0 - rate) * now,
                (Memory::Previous, Some(before)) => before,
            }]
        }
        Operation::Constant { .. }
        | Operation::Schedule { .. }
        | Operation::Signal { .. }
        | Operation::Live { .. }
        | Operation::Apply { .. }
        | Operation::Broadcast { .. } => {
            unreachable!("leaves and elementwise nodes are evaluated where they stand")
        }
    }
}

/// One number per element of `to`: the elements of `from` in it that `mask` lets pass, put together.
fn reduce(
    reduction: Reduction,
    layout: &Layout,
    (from, to): (Axis, Axis),
    value: impl Fn(usize) -> f64,
    mask: impl Fn(usize) -> bool,
) -> Vec<f64> {
    if let Reduction::Quantile { q } = reduction {
        let members = members(layout, (from, to), mask);
        let quantiles = members.iter().map(|members| {
            let values: Vec<f64> = members.iter().map(|index| value(*index)).collect();
            if values.is_empty() { reduction.of_none() } else { quantile(&values, q) }
        });
        return quantiles.collect();
    }
    let mut results = vec![reduction.of_none(); layout.len(to)];
    let mut counts = vec![0u32; layout.len(to)];
    for index in 0..layout.len(from) {
        if !mask(index) {
            continue;
        }
        let parent = layout.parent(from, to, index);
        let (result, x) = (&mut results[parent], value(index));
        let first = counts[parent] == 0;
        *result = match reduction {
            Reduction::Sum | Reduction::Mean => *result + x,
            Reduction::Minimum | Reduction::Maximum | Reduction::First if first => x,
            Reduction::Minimum => minimum(*result, x),
            Reduction::Maximum => maximum(*result, x),
            Reduction::First => *result,
            Reduction::Last => x,
            // Whatever is not 0 is true, NaN included.
            Reduction::Count => *result + f64::from(u8::from(x != 0.0)),
            Reduction::Any => f64::from(u8::from(*result != 0.0 || x != 0.0)),
            Reduction::All => f64::from(u8::from(*result != 0.0 && x != 0.0)),
            Reduction::Quantile { .. } => unreachable!("quantiles need all values at once"),
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

/// One number per element of `axis`: it, compared with the elements in the same element of `over`. 0 where
/// `mask` is false.
fn statistic(
    statistic: Statistic,
    layout: &Layout,
    (axis, over): (Axis, Axis),
    value: impl Fn(usize) -> f64,
    mask: impl Fn(usize) -> bool,
    noise: impl Fn(usize) -> f64,
) -> Vec<f64> {
    let mut results = vec![0.0; layout.len(axis)];
    for members in members(layout, (axis, over), mask).iter().filter(|members| !members.is_empty()) {
        let values: Vec<f64> = members.iter().map(|index| value(*index)).collect();
        let compared = match statistic {
            Statistic::SampleWithoutReplacement { keep } => {
                let noise: Vec<f64> = members.iter().map(|index| noise(*index)).collect();
                sample_without_replacement(&values, keep, &noise)
            }
            Statistic::Balance => {
                balance(&values, &members.iter().map(|index| noise(*index)).collect::<Vec<f64>>())
            }
            _ => compare(statistic, &values),
        };
        for (index, result) in members.iter().zip(compared) {
            results[*index] = result;
        }
    }
    results
}

/// For each element of `over`, the elements of `axis` in it that `mask` lets pass, in order.
fn members(layout: &Layout, (axis, over): (Axis, Axis), mask: impl Fn(usize) -> bool) -> Vec<Vec<usize>> {
    let mut members = vec![Vec::new(); layout.len(over)];
    for index in (0..layout.len(axis)).filter(|index| mask(*index)) {
        members[layout.parent(axis, over, index)].push(index);
    }
    members
}

/// One number per element of `axis`: what runs along those in the same element of `over` that `mask` lets
/// pass.
fn scan(
    scan: Scan<f64>,
    layout: &Layout,
    (axis, over): (Axis, Axis),
    value: impl Fn(usize) -> f64,
    mask: impl Fn(usize) -> bool,
) -> Vec<f64> {
    let count = layout.len(axis);
    let mut results = vec![0.0; count];
    let start = if matches!(scan, Scan::Product) { 1.0 } else { 0.0 };
    let mut running = vec![start; layout.len(over)];
    let mut begun = vec![false; layout.len(over)];
    let backwards = matches!(scan, Scan::Next | Scan::RewardToGo { .. });
    for step in 0..count {
        let index = if backwards { count - 1 - step } else { step };
        let parent = layout.parent(axis, over, index);
        let running = &mut running[parent];
        if let Scan::Next = scan {
            results[index] = *running;
        }
        if mask(index) {
            let x = value(index);
            let begun = std::mem::replace(&mut begun[parent], true);
            *running = match scan {
                Scan::Sum => *running + x,
                Scan::Product => *running * x,
                Scan::Minimum | Scan::Maximum if !begun => x,
                Scan::Minimum => minimum(*running, x),
                Scan::Maximum => maximum(*running, x),
                Scan::Next => x,
                Scan::RewardToGo { discount } => x + discount * *running,
            };
        }
        if !matches!(scan, Scan::Next) {
            results[index] = *running;
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
        Statistic::Center => {
            let mean = values.iter().sum::<f64>() / count;
            values.iter().map(|x| x - mean).collect()
        }
        // Alone, the sum of the others is 0, and so is their mean.
        Statistic::LeaveOneOut => {
            let sum = values.iter().sum::<f64>();
            values.iter().map(|x| (sum - x) / (count - 1.0).max(1.0)).collect()
        }
        Statistic::Rank => rank(values),
        Statistic::TopFraction { keep } => top(values, kept(keep, values.len())),
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

/// `ceil(keep * n)`
fn kept(keep: f64, n: usize) -> usize {
    // 0.07 * 100 is 7.000000000000001 in floating point, and means 7.
    (keep * n as f64 - 1e-9).ceil().max(0.0) as usize
}

/// The elements from the largest to the smallest, the earlier of two equals first. NaN ranks above
/// everything, so that it is seen in what is computed from the selected and not quietly left out.
fn descending(values: &[f64]) -> Vec<usize> {
    // Adding 0 makes -0 and 0 equal; NaN must lose its sign, which total order looks at.
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

/// Share of the others that are smaller, equal ones counting half; 0 for one alone. NaN if any value is NaN.
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

/// 1 for `ceil(keep * n)` elements, drawn one after the other with chances proportional to `weights`: those
/// with the smallest of -log(u) / weight (Efraimidis and Spirakis, 2006). What has no weight is never drawn;
/// NaN always is, so that it is seen.
fn sample_without_replacement(weights: &[f64], keep: f64, noise: &[f64]) -> Vec<f64> {
    let keys = weights.iter().zip(noise).map(|(weight, u)| match weight {
        weight if weight.is_nan() => f64::NAN,
        weight if *weight <= 0.0 => f64::NEG_INFINITY,
        // -log(1 - u): u is never 1.
        weight => libm::log1p(-u) / weight,
    });
    let keys: Vec<f64> = keys.collect();
    let drawable = keys.iter().filter(|key| **key != f64::NEG_INFINITY).count();
    top(&keys, kept(keep, weights.len()).min(drawable))
}

/// 1 for as many true elements as false ones; those of the larger side with the largest random numbers stay.
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

    /// Two groups: sequences 0 and 1 (3 and 1 tokens), sequence 2 (2 tokens).
    fn layout() -> Layout {
        Layout {
            sequence_of_token: vec![0, 0, 0, 1, 2, 2],
            group_of_sequence: vec![0, 0, 1],
            groups: 2,
            ..Layout::default()
        }
    }

    const X: [f64; 6] = [1.0, 2.0, 6.0, 4.0, -1.0, 5.0];

    fn reduced(reduction: Reduction, to: Axis, mask: [u8; 6]) -> Vec<f64> {
        reduce(reduction, &layout(), (Axis::Token, to), |index| X[index], |index| mask[index] != 0)
    }

    #[test]
    fn of_none_is_what_the_table_says() {
        for reduction in Reduction::EACH {
            assert_eq!(reduced(reduction, Axis::Sequence, [0; 6]), [reduction.of_none(); 3], "{reduction:?}");
            // Where others have some.
            assert_eq!(
                reduced(reduction, Axis::Sequence, [1, 1, 1, 0, 1, 1])[1],
                reduction.of_none(),
                "{reduction:?}"
            );
        }
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
            statistic(Statistic::Minmax, &layout(), axes, |index| X[index], |index| mask[index] != 0, |_| 0.0)
        };
        assert_eq!(minmax([1; 6]), [0.0, 0.2, 1.0, 0.0, 0.0, 1.0]);
        assert_eq!(minmax([1, 1, 0, 1, 1, 1]), [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn reductions_that_choose_or_count() {
        let all = [1; 6];
        assert_eq!(reduced(Reduction::First, Axis::Sequence, [0, 1, 1, 1, 1, 1]), [2.0, 4.0, -1.0]);
        assert_eq!(reduced(Reduction::Last, Axis::Sequence, [1, 1, 0, 1, 1, 1]), [2.0, 4.0, 5.0]);
        assert_eq!(reduced(Reduction::Quantile { q: 0.5 }, Axis::Group, all), [3.0, 2.0]);
        assert_eq!(
            reduced(Reduction::Quantile { q: 0.5 }, Axis::Sequence, [1, 1, 0, 0, 1, 1]),
            [1.5, 0.0, 2.0]
        );
        let of = |reduction, value: fn(f64) -> f64| {
            reduce(
                reduction,
                &layout(),
                (Axis::Token, Axis::Sequence),
                |index| value(X[index]),
                |index| index != 3,
            )
        };
        // The second sequence has no element left: nothing of it is true, and all of it is.
        assert_eq!(of(Reduction::Any, |x| f64::from(x > 4.0)), [1.0, 0.0, 1.0]);
        assert_eq!(of(Reduction::All, |x| f64::from(x > 0.0)), [1.0, 1.0, 0.0]);
        assert_eq!(of(Reduction::Count, |x| f64::from(x > 1.0)), [2.0, 0.0, 1.0]);
    }

    fn scanned(scan: Scan<f64>, mask: [u8; 6]) -> Vec<f64> {
        self::scan(scan, &layout(), (Axis::Token, Axis::Sequence), |index| X[index], |index| mask[index] != 0)
    }

    #[test]
    fn scans_begin_anew_with_each_element() {
        let all = [1; 6];
        assert_eq!(scanned(Scan::Sum, all), [1.0, 3.0, 9.0, 4.0, -1.0, 4.0]);
        assert_eq!(scanned(Scan::Product, all), [1.0, 2.0, 12.0, 4.0, -1.0, -5.0]);
        assert_eq!(scanned(Scan::Minimum, all), [1.0, 1.0, 1.0, 4.0, -1.0, -1.0]);
        assert_eq!(scanned(Scan::Maximum, all), [1.0, 2.0, 6.0, 4.0, -1.0, 5.0]);
        assert_eq!(scanned(Scan::Next, all), [2.0, 6.0, 0.0, 0.0, 5.0, 0.0]);
        assert_eq!(scanned(Scan::RewardToGo { discount: 0.5 }, all), [3.5, 5.0, 6.0, 4.0, 1.5, 5.0]);
    }

    #[test]
    fn scans_pass_over_what_is_masked() {
        let mask = [0, 1, 0, 1, 1, 0];
        assert_eq!(scanned(Scan::Sum, mask), [0.0, 2.0, 2.0, 4.0, -1.0, -1.0]);
        assert_eq!(scanned(Scan::Product, mask), [1.0, 2.0, 2.0, 4.0, -1.0, -1.0]);
        assert_eq!(scanned(Scan::Minimum, mask), [0.0, 2.0, 2.0, 4.0, -1.0, -1.0]);
        assert_eq!(scanned(Scan::Next, mask), [2.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        // What is passed over is no step: it discounts nothing.
        assert_eq!(scanned(Scan::RewardToGo { discount: 0.5 }, [1, 0, 1, 1, 1, 1])[0], 4.0);
    }

    #[test]
    fn a_rank_counts_equals_by_half() {
        assert_eq!(compare(Statistic::Rank, &[3.0, 1.0, 3.0, 9.0, -2.0]), [0.625, 0.25, 0.625, 1.0, 0.0]);
        assert_eq!(compare(Statistic::Rank, &[7.0]), [0.0]);
        assert!(compare(Statistic::Rank, &[7.0, f64::NAN]).iter().all(|x| x.is_nan()));
    }

    #[test]
    fn peers_and_windows() {
        assert_eq!(compare(Statistic::Center, &[1.0, 2.0, 6.0]), [-2.0, -1.0, 3.0]);
        assert_eq!(compare(Statistic::LeaveOneOut, &[1.0, 2.0, 6.0]), [4.0, 3.5, 1.5]);
        assert_eq!(compare(Statistic::LeaveOneOut, &[5.0]), [0.0]);
        assert_eq!(compare(Statistic::TopCount { count: 2 }, &[1.0, 5.0, 5.0, 5.0]), [0.0, 1.0, 1.0, 0.0]);
        assert_eq!(compare(Statistic::TopCount { count: 9 }, &[1.0, 2.0]), [1.0, 1.0]);
        let chunks = |most, width, values: &[f64]| compare(Statistic::Chunks { most, width }, values);
        assert_eq!(chunks(1, 2, &[0.0, 3.0, 1.0, 2.0]), [0.0, 1.0, 1.0, 0.0]);
        assert_eq!(chunks(2, 3, &[0.0, 3.0, 1.0, 2.0]), [0.0, 1.0, 1.0, 1.0]);
    }

    /// The chance of each pair, against the product of drawing one and then the other from what is left.
    #[test]
    fn drawing_without_replacement_has_the_chances_of_drawing_one_by_one() {
        let weights = [1.0, 2.0, 0.0, 5.0];
        let runs = 40_000;
        let mut seen = std::collections::HashMap::new();
        let mut random = crate::expr::testing::Random(3);
        for _ in 0..runs {
            let noise: Vec<f64> =
                (0..4).map(|_| (random.bits() >> 11) as f64 / (1u64 << 53) as f64).collect();
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

    #[test]
    fn memory_begins_with_the_first_step() {
        let mut graph = Graph::default();
        let reward = graph.signal(crate::plan::Signal::Reward);
        let mean = graph.reduce(Reduction::Mean, reward, Axis::Batch, None);
        let ema = graph.memory(Memory::Ema { rate: 0.75 }, mean);
        let previous = graph.memory(Memory::Previous, mean);
        let mut batch = Batch::default();
        let at = |batch: &Batch, id| evaluate(&graph, id, batch, |_, _| 8.0);
        assert_eq!((at(&batch, ema), at(&batch, previous)), (vec![8.0], vec![8.0]));
        batch.carried = [(ema, 4.0), (previous, 3.0)].into();
        assert_eq!((at(&batch, ema), at(&batch, previous)), (vec![5.0], vec![3.0]));
        assert_eq!(graph.carried(&[ema, previous]), [(ema, ema), (previous, mean)]);
    }
}
