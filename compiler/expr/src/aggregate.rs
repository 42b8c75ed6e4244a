//! Evaluates the operations that are not elementwise: reductions, statistics, scans over ragged axes, and
//! memory. They accumulate in f64 in the order of the elements, whatever the precision of the rest. The
//! interpreter, the compiled program and (for operations without a tensor implementation) tensors use them.

use crate::graph::signals::{Axis, Reduction, Scan, Statistic};

use super::batch::{Batch, Layout};
use super::graph::{Graph, NodeId, Operation};

/// The elements of `axis`, grouped by the element of `over` that they are part of.
#[derive(Clone, Copy, Debug)]
pub struct Grouping {
    pub axis: Axis,
    pub over: Axis,
}

/// The values of a node that is not elementwise, one per element of its axis. `value` returns an operand's
/// value at an element. The graph and the batch's layout must have been checked ([`Graph::check`],
/// [`Layout::check`]).
///
/// # Panics
/// If the node is a leaf or elementwise, which the caller must evaluate.
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
        Operation::Reduce { reduction, operand, mask, fraction } => {
            let grouping = Grouping { axis: graph.axis(operand), over: axis };
            let reduction = |parent| match fraction {
                Some(fraction) => reduction.with_fraction(value(fraction, parent)),
                None => reduction,
            };
            reduce(reduction, layout, grouping, of(operand), passes(mask))
        }
        Operation::Statistic { statistic, operand, over, mask, noise, fraction } => {
            let noise = |index| noise.map_or(0.0, |noise| value(noise, index));
            let statistic = |parent| match fraction {
                Some(fraction) => statistic.with_fraction(value(fraction, parent)),
                None => statistic,
            };
            self::statistic(statistic, layout, Grouping { axis, over }, of(operand), passes(mask), noise)
        }
        Operation::Scan { scan, operand, over, mask } => {
            let scan = scan.with_discount(|discount| value(discount, 0));
            self::scan(scan, layout, Grouping { axis, over }, of(operand), passes(mask))
        }
        Operation::Memory { memory, operand } => {
            let (now, before) = (value(operand, 0), batch.carried.get(&id).copied());
            vec![memory.value(now, before)]
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

/// One number per element of `over`: its reduction of its elements of `axis` where `mask` is true. All
/// elements have one reduction, except for its fraction.
fn reduce(
    reduction: impl Fn(usize) -> Reduction,
    layout: &Layout,
    grouping: Grouping,
    value: impl Fn(usize) -> f64,
    mask: impl Fn(usize) -> bool,
) -> Vec<f64> {
    let Grouping { axis, over } = grouping;
    if layout.len(over) == 0 {
        return Vec::new();
    }
    if reduction(0).needs_all() {
        let members = members(layout, grouping, mask);
        let results = members.iter().enumerate().map(|(parent, members)| {
            let values: Vec<f64> = members.iter().map(|index| value(*index)).collect();
            reduction(parent).value(&values)
        });
        return results.collect();
    }
    let reduction = reduction(0);
    let mut results = vec![reduction.of_none(); layout.len(over)];
    let mut counts = vec![0u32; layout.len(over)];
    for index in 0..layout.len(axis) {
        if !mask(index) {
            continue;
        }
        let parent = layout.parent(axis, over, index);
        let (result, x) = (&mut results[parent], value(index));
        *result = reduction
            .step(*result, counts[parent] == 0, x)
            .expect("those that need all elements have returned");
        counts[parent] += 1;
    }
    for (result, count) in results.iter_mut().zip(counts) {
        *result = reduction.finish(*result, count);
    }
    results
}

/// One number per element of `axis`, compared with the elements in the same element of `over`. 0 where `mask`
/// is false.
fn statistic(
    statistic: impl Fn(usize) -> Statistic,
    layout: &Layout,
    grouping: Grouping,
    value: impl Fn(usize) -> f64,
    mask: impl Fn(usize) -> bool,
    noise: impl Fn(usize) -> f64,
) -> Vec<f64> {
    let mut results = vec![0.0; layout.len(grouping.axis)];
    for (parent, members) in members(layout, grouping, mask).iter().enumerate() {
        if members.is_empty() {
            continue;
        }
        let statistic = statistic(parent);
        let values: Vec<f64> = members.iter().map(|index| value(*index)).collect();
        let noise: Vec<f64> = match statistic.chooses_at_random() {
            true => members.iter().map(|index| noise(*index)).collect(),
            false => Vec::new(),
        };
        let compared = statistic.values(&values, &noise);
        for (index, result) in members.iter().zip(compared) {
            results[*index] = result;
        }
    }
    results
}

/// For each element of `over`, its elements of `axis` where `mask` is true, in order.
pub fn members(layout: &Layout, grouping: Grouping, mask: impl Fn(usize) -> bool) -> Vec<Vec<usize>> {
    let Grouping { axis, over } = grouping;
    let mut members = vec![Vec::new(); layout.len(over)];
    for index in (0..layout.len(axis)).filter(|index| mask(*index)) {
        members[layout.parent(axis, over, index)].push(index);
    }
    members
}

/// One number per element of `axis`: the scan along the elements in the same element of `over` where `mask`
/// is true.
fn scan(
    scan: Scan<f64>,
    layout: &Layout,
    Grouping { axis, over }: Grouping,
    value: impl Fn(usize) -> f64,
    mask: impl Fn(usize) -> bool,
) -> Vec<f64> {
    let count = layout.len(axis);
    let mut results = vec![0.0; count];
    let mut running = vec![scan.start(); layout.len(over)];
    let mut begun = vec![false; layout.len(over)];
    for step in 0..count {
        let index = if scan.is_backwards() { count - 1 - step } else { step };
        let parent = layout.parent(axis, over, index);
        let running = &mut running[parent];
        if let Scan::Next = scan {
            results[index] = *running;
        }
        if mask(index) {
            let x = value(index);
            let begun = std::mem::replace(&mut begun[parent], true);
            *running = scan.step(*running, !begun, x);
        }
        if !matches!(scan, Scan::Next) {
            results[index] = *running;
        }
    }
    results
}

#[cfg(test)]
mod tests {
    use crate::graph::signals::Memory;

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

    const OF_SEQUENCES: Grouping = Grouping { axis: Axis::Token, over: Axis::Sequence };

    const X: [f64; 6] = [1.0, 2.0, 6.0, 4.0, -1.0, 5.0];

    fn reduced(reduction: Reduction, to: Axis, mask: [u8; 6]) -> Vec<f64> {
        reduce(
            |_| reduction,
            &layout(),
            Grouping { axis: Axis::Token, over: to },
            |index| X[index],
            |index| mask[index] != 0,
        )
    }

    #[test]
    fn reductions_over_no_elements_have_the_tables_values() {
        for reduction in Reduction::EACH {
            assert_eq!(reduced(reduction, Axis::Sequence, [0; 6]), [reduction.of_none(); 3], "{reduction:?}");
            // The same in a batch where other sequences have elements.
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
    fn statistics_compare_within_each_element() {
        let minmax = |mask: [u8; 6]| {
            let mask = |index: usize| mask[index] != 0;
            statistic(|_| Statistic::Minmax, &layout(), OF_SEQUENCES, |index| X[index], mask, |_| 0.0)
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
            reduce(|_| reduction, &layout(), OF_SEQUENCES, |index| value(X[index]), |index| index != 3)
        };
        // The second sequence has no element left: `any` of none is false, `all` of none is true.
        assert_eq!(of(Reduction::Any, |x| f64::from(x > 4.0)), [1.0, 0.0, 1.0]);
        assert_eq!(of(Reduction::All, |x| f64::from(x > 0.0)), [1.0, 1.0, 0.0]);
        assert_eq!(of(Reduction::Count, |x| f64::from(x > 1.0)), [2.0, 0.0, 1.0]);
    }

    #[test]
    fn each_element_has_its_own_fraction() {
        let q = |parent: usize| Reduction::Quantile { q: [0.0, 0.5, 1.0][parent] };
        assert_eq!(reduce(q, &layout(), OF_SEQUENCES, |index| X[index], |_| true), [1.0, 4.0, 5.0]);
        let keep = |parent: usize| Statistic::TopFraction { keep: [0.3, 0.0, 1.0][parent] };
        let chosen = statistic(keep, &layout(), OF_SEQUENCES, |index| X[index], |_| true, |_| 0.0);
        assert_eq!(chosen, [0.0, 0.0, 1.0, 0.0, 1.0, 1.0]);
    }

    fn scanned(scan: Scan<f64>, mask: [u8; 6]) -> Vec<f64> {
        self::scan(scan, &layout(), OF_SEQUENCES, |index| X[index], |index| mask[index] != 0)
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
        // A masked element is skipped, without a discount.
        assert_eq!(scanned(Scan::RewardToGo { discount: 0.5 }, [1, 0, 1, 1, 1, 1])[0], 4.0);
    }

    #[test]
    fn memory_begins_with_the_first_step() {
        let mut graph = Graph::default();
        let reward = graph.signal(crate::graph::signals::PlainSignal::Reward);
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
