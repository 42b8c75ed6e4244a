//! The schedule of a graph: elementwise nodes are fused into groups, one loop each.

use std::collections::BTreeMap;

use crate::graph::signals::{Axis, PlainSignal, Signal};

use crate::graph::{Graph, Node, NodeId, Operation};

/// The order of evaluation.
pub(super) struct LoopSchedule {
    /// Nodes whose values exist before the first step, and constants that some step or output reads from
    /// memory.
    pub leaves: Vec<NodeId>,
    pub steps: Vec<LoopStep>,
    /// Whether some loop reads across axes, which needs the parents of elements.
    pub reads_layout: bool,
}

pub(super) enum LoopStep {
    /// One generated loop.
    Fused(LoopGroup),
    /// One node that is not elementwise.
    Aggregate(NodeId),
}

/// Elementwise nodes of one axis that one loop computes.
pub(super) struct LoopGroup {
    pub axis: Axis,
    /// In topological order.
    pub nodes: Vec<NodeId>,
    /// Nodes computed elsewhere, on this axis or a coarser one.
    pub inputs: Vec<NodeId>,
    /// The nodes of the group that are read outside of it.
    pub stored: Vec<NodeId>,
}

impl LoopGroup {
    /// The axes of inputs that are read through an array of parent indices.
    pub fn coarser_axes(&self, graph: &Graph) -> impl Iterator<Item = Axis> {
        self.inputs
            .iter()
            .map(|input| graph.axis(*input))
            .filter(|axis| Axis::Batch < *axis && *axis < self.axis)
    }
}

impl LoopSchedule {
    pub fn groups(&self) -> impl Iterator<Item = &LoopGroup> {
        self.steps.iter().filter_map(|step| match step {
            LoopStep::Fused(group) => Some(group),
            LoopStep::Aggregate(_) => None,
        })
    }
}

/// A node's position in the schedule. Everything in a slot is computed from earlier slots. In each round,
/// aggregates come first and read earlier rounds; loops go from coarse to fine, so that a fine one can read
/// a coarse one of its own round.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    /// The largest number of aggregates on a path from the leaves.
    round: u32,
    /// `None` for an aggregate.
    loop_axis: Option<Axis>,
}

pub fn schedule(graph: &Graph, outputs: &[NodeId]) -> LoopSchedule {
    let needed = graph.reachable(outputs);
    let mut place: Vec<Option<Slot>> = vec![None; graph.len()];
    let mut at: BTreeMap<Slot, Vec<NodeId>> = BTreeMap::new();
    for (id, node) in graph.nodes().filter(|(id, _)| needed[id.0 as usize]) {
        let operands = graph.operands(id);
        let round =
            operands.iter().filter_map(|operand| place[operand.0 as usize]).map(|place| place.round).max();
        let here = match node.operation {
            Operation::Apply { .. } | Operation::Broadcast { .. } => {
                Slot { round: round.unwrap_or(0), loop_axis: Some(node.axis) }
            }
            Operation::Reduce { .. }
            | Operation::Statistic { .. }
            | Operation::Scan { .. }
            | Operation::Memory { .. } => Slot { round: round.map_or(0, |round| round + 1), loop_axis: None },
            Operation::Constant { .. }
            | Operation::Schedule { .. }
            | Operation::Signal { .. }
            | Operation::Live { .. } => {
                continue;
            }
        };
        place[id.0 as usize] = Some(here);
        at.entry(here).or_default().push(id);
    }

    // A value must be in memory if it is an output or is read in another slot.
    let mut in_memory = vec![false; graph.len()];
    for output in outputs {
        in_memory[output.0 as usize] = true;
    }
    for (id, _) in graph.nodes().filter(|(id, _)| needed[id.0 as usize]) {
        let here = place[id.0 as usize];
        let fused = here.is_some_and(|place| place.loop_axis.is_some());
        for operand in graph.operands(id) {
            let immediate = fused && graph.constant_value(operand).is_some();
            if !immediate && (place[operand.0 as usize] != here || !fused) {
                in_memory[operand.0 as usize] = true;
            }
        }
    }

    let leaves = graph.nodes().map(|(id, _)| id);
    let leaves = leaves.filter(|id| in_memory[id.0 as usize] && place[id.0 as usize].is_none()).collect();
    let mut steps = Vec::new();
    let derived = |node: &Node| {
        matches!(
            node.operation,
            Operation::Signal { signal: Signal::Plain(PlainSignal::Position | PlainSignal::Length) }
        )
    };
    let mut reads_layout = graph.nodes().any(|(id, node)| needed[id.0 as usize] && derived(node));
    for (here, nodes) in at {
        let Some(axis) = here.loop_axis else {
            steps.extend(nodes.into_iter().map(LoopStep::Aggregate));
            reads_layout = true;
            continue;
        };
        let mut inputs = Vec::new();
        for operand in nodes.iter().flat_map(|id| graph.operands(*id)) {
            if place[operand.0 as usize] != Some(here)
                && graph.constant_value(operand).is_none()
                && !inputs.contains(&operand)
            {
                inputs.push(operand);
            }
        }
        let stored = nodes.iter().copied().filter(|id| in_memory[id.0 as usize]).collect();
        let group = LoopGroup { axis, nodes, inputs, stored };
        reads_layout |= group.coarser_axes(graph).next().is_some();
        steps.push(LoopStep::Fused(group));
    }
    LoopSchedule { leaves, steps, reads_layout }
}
