//! The expression graph: the one representation that the interpreter, Cranelift and the plan share.
//!
//! Every node has an axis, and its value is one number per element of that axis (`Batch` and `Run` have one element).
//! Operands of an elementwise node all have that node's axis: going from coarse to fine is a node of its own
//! (`Broadcast`), so is going from fine to coarse (`Reduce`). Nodes are in topological order and hash-consed: the same
//! computation is one node.

use std::collections::HashMap;

use mopd_lang::formula::{Axis, Function, Reduction, Signal, Statistic};
use serde::{Deserialize, Serialize};

use crate::plan::Schedule;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeId(pub u32);

/// Index into the live primitives of an objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LiveId(pub u32);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub axis: Axis,
    #[serde(flatten)]
    pub operation: Operation,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
pub enum Operation {
    Constant {
        value: f64,
    },
    /// A run-level number that moves with the step.
    Schedule {
        schedule: Schedule,
    },
    /// A number that the runtime supplies.
    Signal {
        signal: Signal,
    },
    /// The value of a live primitive, per token. The derivative with respect to it is another node.
    Live {
        live: LiveId,
    },
    Apply {
        function: Function,
        operands: Vec<NodeId>,
    },
    /// From a coarser axis to this node's.
    Broadcast {
        operand: NodeId,
    },
    /// From a finer axis to this node's. With a `mask` (same axis as the operand), only elements where it is not 0 take
    /// part; a mean over none is 0.
    Reduce {
        reduction: Reduction,
        operand: NodeId,
        mask: Option<NodeId>,
    },
    /// Compares the operand's elements within each element of `over`; keeps the axis.
    Statistic {
        statistic: Statistic,
        operand: NodeId,
        over: Axis,
        mask: Option<NodeId>,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Graph {
    nodes: Vec<Node>,
    /// Finds a node that exists already; keyed by the node's canonical text.
    #[serde(skip)]
    known: HashMap<String, NodeId>,
}

impl Graph {
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    pub fn axis(&self, id: NodeId) -> Axis {
        self.node(id).axis
    }

    /// All nodes, operands before users.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = (NodeId, &Node)> + ExactSizeIterator {
        self.nodes.iter().enumerate().map(|(index, node)| (NodeId(index as u32), node))
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Adds a node, or finds the one that computes the same.
    pub fn add(&mut self, axis: Axis, operation: Operation) -> NodeId {
        let node = Node { axis, operation };
        let text = serde_json::to_string(&node).expect("a node is plain data");
        if let Some(&id) = self.known.get(&text) {
            return id;
        }
        let id = NodeId(self.nodes.len() as u32);
        self.nodes.push(node);
        self.known.insert(text, id);
        id
    }

    /// The operands of a node, masks included.
    pub fn operands(&self, id: NodeId) -> Vec<NodeId> {
        match &self.node(id).operation {
            Operation::Apply { operands, .. } => operands.clone(),
            Operation::Broadcast { operand } => vec![*operand],
            Operation::Reduce { operand, mask, .. } | Operation::Statistic { operand, mask, .. } => {
                std::iter::once(*operand).chain(*mask).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The nodes that `roots` need, as a set indexed by node.
    pub fn reachable(&self, roots: &[NodeId]) -> Vec<bool> {
        let mut needed = vec![false; self.nodes.len()];
        for root in roots {
            needed[root.0 as usize] = true;
        }
        for index in (0..self.nodes.len()).rev() {
            if needed[index] {
                for operand in self.operands(NodeId(index as u32)) {
                    needed[operand.0 as usize] = true;
                }
            }
        }
        needed
    }

    /// The signals that `roots` read, each once.
    pub fn signals(&self, roots: &[NodeId]) -> Vec<Signal> {
        let needed = self.reachable(roots);
        let mut signals = Vec::new();
        for (id, node) in self.nodes() {
            if let Operation::Signal { signal } = &node.operation
                && needed[id.0 as usize]
                && !signals.contains(signal)
            {
                signals.push(signal.clone());
            }
        }
        signals
    }
}
