//! Splits a group at precompiled functions: generated loops, and between them functions with the widest
//! vectors of the processor. All parts process one tile of elements after another, so that the values between
//! them stay in the cache.

use std::collections::{HashMap, HashSet};

use crate::graph::signals::Function;
use crate::graph::{Graph, NodeId, Operation};

use super::groups::LoopGroup;

/// The number of elements that all parts of a group process before the next ones. Longer tiles would still
/// fit in the L1 cache, but a part that computes does not wait for memory, and one that only reads does not
/// compute. With short tiles the processor overlaps both.
pub(super) const TILE: usize = 160;

/// A group, split.
pub(super) struct SplitGroup {
    pub parts: Vec<LoopPart>,
    /// The number of temporary arrays, one tile each, between the parts.
    pub between: usize,
}

/// A generated loop, and the precompiled functions after it.
pub(super) struct LoopPart {
    /// The nodes that the loop computes; `None` where it has nothing to do. Its inputs and results are
    /// located at `inputs` and `stored`.
    pub generated: Option<LoopGroup>,
    pub inputs: Vec<Location>,
    pub stored: Vec<Location>,
    pub calls: Vec<PrecompiledCall>,
}

/// One function, applied to one array.
pub(super) struct PrecompiledCall {
    pub node: NodeId,
    pub function: Function,
    pub operand: Location,
    pub result: Location,
}

/// The location of a node's values while a group is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Location {
    /// An index into the group's inputs.
    Input(usize),
    /// An index into the group's stored results.
    Stored(usize),
    /// An index into the temporary arrays between the parts.
    Between(usize),
}

/// Splits a group at the functions that are precompiled according to `ahead`.
///
/// The part of a node is the largest number of such functions on a path to it. Where possible, other nodes
/// are computed in the part of their first reader, which makes fewer temporary arrays.
pub(super) fn divide(graph: &Graph, group: &LoopGroup, ahead: impl Fn(Function) -> bool) -> SplitGroup {
    let called = |id: NodeId| match &graph.node(id).operation {
        Operation::Apply { function, operands } => match operands[..] {
            [operand] if ahead(*function) && graph.constant_value(operand).is_none() => {
                Some((*function, operand))
            }
            _ => None,
        },
        _ => None,
    };
    let operands =
        |id: NodeId| graph.operands(id).into_iter().filter(|id| graph.constant_value(*id).is_none());
    let mut part: HashMap<NodeId, usize> = HashMap::new();
    for id in &group.nodes {
        let least = operands(*id).filter_map(|operand| part.get(&operand)).max().copied().unwrap_or(0);
        part.insert(*id, least + usize::from(called(*id).is_some()));
    }
    let mut first_read: HashMap<NodeId, usize> = HashMap::new();
    for id in group.nodes.iter().rev() {
        let call = called(*id).is_some();
        if let (false, Some(latest)) = (call, first_read.get(id)) {
            part.insert(*id, *latest);
        }
        // A precompiled function reads results of the part before it.
        let here = part[id] - usize::from(call);
        for operand in operands(*id).filter(|operand| part.contains_key(operand)) {
            let read = first_read.entry(operand).or_insert(here);
            *read = here.min(*read);
        }
    }

    let mut locations: HashMap<NodeId, Location> = HashMap::new();
    locations.extend(group.inputs.iter().enumerate().map(|(index, id)| (*id, Location::Input(index))));
    locations.extend(group.stored.iter().enumerate().map(|(index, id)| (*id, Location::Stored(index))));
    let mut crosses: HashSet<NodeId> = HashSet::new();
    for id in &group.nodes {
        let call = called(*id).is_some();
        if call {
            crosses.insert(*id);
        }
        let elsewhere = |operand: &NodeId| call || part.get(operand) != Some(&part[id]);
        crosses.extend(operands(*id).filter(elsewhere));
    }
    let mut between = 0;
    for id in &group.nodes {
        if !locations.contains_key(id) && crosses.contains(id) {
            locations.insert(*id, Location::Between(between));
            between += 1;
        }
    }

    let last = part.values().copied().max().unwrap_or(0);
    let parts = (0..=last).map(|index| {
        let here = |id: &NodeId| part.get(id) == Some(&index) && called(*id).is_none();
        let nodes: Vec<NodeId> = group.nodes.iter().copied().filter(|id| here(id)).collect();
        let mut inputs = Vec::new();
        for operand in nodes.iter().flat_map(|id| operands(*id)) {
            if !here(&operand) && !inputs.contains(&operand) {
                inputs.push(operand);
            }
        }
        let stored: Vec<NodeId> = nodes.iter().copied().filter(|id| locations.contains_key(id)).collect();
        let calls = group.nodes.iter().filter(|id| part[id] == index + 1).filter_map(|id| {
            let (function, operand) = called(*id)?;
            Some(PrecompiledCall { node: *id, function, operand: locations[&operand], result: locations[id] })
        });
        let at = |ids: &[NodeId]| ids.iter().map(|id| locations[id]).collect();
        LoopPart {
            inputs: at(&inputs),
            stored: at(&stored),
            calls: calls.collect(),
            generated: (!nodes.is_empty()).then_some(LoopGroup { axis: group.axis, nodes, inputs, stored }),
        }
    });
    SplitGroup { parts: parts.collect(), between }
}
