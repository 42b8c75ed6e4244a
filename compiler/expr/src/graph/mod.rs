//! The expression graph: the representation that the interpreter, Cranelift and the plan share.
//!
//! Every node has an axis, and its value is one number per element of that axis (`Batch` and `Run` have one
//! element). All operands of an elementwise node have the node's axis. Going from coarse to fine is a node of
//! its own (`Broadcast`), and so is going from fine to coarse (`Reduce`). Nodes are in topological order and
//! hash-consed: equal computations are one node.

pub mod signals;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use mopd_experiment::Schedule;
use serde::{Deserialize, Serialize};

use self::signals::{Axis, Function, Memory, Reduction, Scan, Signal, Statistic};

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
    /// The same number for every element of the node's axis. Finite, so that a plan can be stored as JSON.
    Constant {
        value: f64,
    },
    /// A run-level number that depends on the step.
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
    /// From a finer axis to this node's. With a `mask` (same axis as the operand), only elements where it is
    /// not 0 are included. The result for none is [`Reduction::of_none`].
    Reduce {
        reduction: Reduction,
        operand: NodeId,
        mask: Option<NodeId>,
        /// On this node's axis: the fraction of the reduction, where it changes, in place of its own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fraction: Option<NodeId>,
    },
    /// Compares the operand's elements within each element of `over`; keeps the axis. With a `mask` (same
    /// axis), only elements where it is not 0 are compared; the others' value is 0.
    Statistic {
        statistic: Statistic,
        operand: NodeId,
        over: Axis,
        mask: Option<NodeId>,
        /// One number drawn uniformly from [0, 1) per element, for random statistics.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        noise: Option<NodeId>,
        /// On the axis `over`: the fraction of the statistic, where it changes, in place of its own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fraction: Option<NodeId>,
    },
    /// Scans the operand's elements within each element of `over`; keeps the axis. With a `mask` (same axis),
    /// the other elements are skipped: their value is the running value so far.
    Scan {
        #[serde(flatten)]
        scan: Scan<NodeId>,
        operand: NodeId,
        over: Axis,
        mask: Option<NodeId>,
    },
    /// A single number that depends on the step before: see [`Graph::carried`].
    Memory {
        #[serde(flatten)]
        memory: Memory,
        operand: NodeId,
    },
}

/// Hashes the fields that distinguish nearly all nodes; [`Node::is`] compares exactly.
impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.axis.hash(state);
        std::mem::discriminant(&self.operation).hash(state);
        match &self.operation {
            Operation::Constant { value } => value.to_bits().hash(state),
            Operation::Schedule { schedule } => std::mem::discriminant(schedule).hash(state),
            Operation::Signal { signal } => std::mem::discriminant(signal).hash(state),
            Operation::Live { live } => live.hash(state),
            Operation::Apply { function, operands } => (function, operands).hash(state),
            Operation::Broadcast { operand } | Operation::Memory { operand, .. } => operand.hash(state),
            Operation::Reduce { reduction, operand, mask, fraction } => {
                (std::mem::discriminant(reduction), operand, mask, fraction).hash(state)
            }
            Operation::Statistic { statistic, operand, over, mask, noise, fraction } => {
                (std::mem::discriminant(statistic), operand, over, mask, noise, fraction).hash(state)
            }
            Operation::Scan { scan, operand, over, mask } => {
                (std::mem::discriminant(scan), operand, over, mask).hash(state)
            }
        }
    }
}

impl Node {
    /// Whether both are one computation. Constants are compared by bits: 0 and -0 differ, NaN equals itself.
    fn is(&self, other: &Node) -> bool {
        match (&self.operation, &other.operation) {
            (Operation::Constant { value }, Operation::Constant { value: other_value }) => {
                self.axis == other.axis && value.to_bits() == other_value.to_bits()
            }
            _ => self == other,
        }
    }
}

/// Graphs are equal if their nodes, in order, and their arithmetic are.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Graph {
    nodes: Vec<Node>,
    /// See [`Graph::fused`].
    #[serde(default)]
    fused: bool,
    /// The existing nodes, by hash. Empty in a graph read from JSON, which is only evaluated.
    #[serde(skip)]
    known: HashMap<u64, Vec<NodeId>>,
}

impl PartialEq for Graph {
    fn eq(&self, other: &Graph) -> bool {
        self.nodes == other.nodes && self.fused == other.fused
    }
}

/// A graph that breaks the rules at the top of this module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node {} of the expression graph {problem}", node.0)]
pub struct MalformedGraph {
    pub node: NodeId,
    pub problem: &'static str,
}

impl Graph {
    /// Whether a multiplication and an addition within a function of f32 numbers are rounded once (a fused
    /// multiply-add) or twice. Results differ in the last bit, so this is part of the graph, and generated
    /// code follows it on any machine. The interpreter (f64) and tensors (libtorch's functions) ignore it.
    pub fn fused(&self) -> bool {
        self.fused
    }

    /// See [`Graph::fused`].
    pub fn set_fused(&mut self, fused: bool) {
        self.fused = fused;
    }

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

    /// The schedules that its numbers follow, those of the weights in its divergences included.
    pub fn schedules(&self) -> Vec<Schedule> {
        let of_node = |(_, node): (NodeId, &Node)| match &node.operation {
            Operation::Schedule { schedule } => vec![schedule.clone()],
            Operation::Signal { signal: Signal::Divergence(divergence) } => divergence.schedules(),
            _ => Vec::new(),
        };
        self.nodes().flat_map(of_node).collect()
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Whether some number is computed over several prompts of a step.
    pub fn compares_prompts(&self) -> bool {
        self.nodes().any(|(_, node)| match &node.operation {
            Operation::Reduce { .. } => node.axis <= Axis::Domain,
            Operation::Statistic { over, .. } | Operation::Scan { over, .. } => *over <= Axis::Domain,
            _ => false,
        })
    }

    /// Adds a node, or returns the existing one with the same computation.
    pub fn add(&mut self, axis: Axis, operation: Operation) -> NodeId {
        let node = Node { axis, operation };
        let mut hasher = DefaultHasher::new();
        node.hash(&mut hasher);
        let known = self.known.entry(hasher.finish()).or_default();
        if let Some(id) = known.iter().find(|id| self.nodes[id.0 as usize].is(&node)) {
            return *id;
        }
        let id = NodeId(self.nodes.len() as u32);
        known.push(id);
        self.nodes.push(node);
        id
    }

    /// The operands of a node, masks included.
    pub fn operands(&self, id: NodeId) -> Vec<NodeId> {
        match &self.node(id).operation {
            Operation::Apply { operands, .. } => operands.clone(),
            Operation::Broadcast { operand } | Operation::Memory { operand, .. } => vec![*operand],
            Operation::Reduce { operand, mask, fraction, .. } => {
                std::iter::once(*operand).chain(*mask).chain(*fraction).collect()
            }
            Operation::Statistic { operand, mask, noise, fraction, .. } => {
                std::iter::once(*operand).chain(*mask).chain(*noise).chain(*fraction).collect()
            }
            Operation::Scan { scan, operand, mask, .. } => {
                let discount = match scan {
                    Scan::RewardToGo { discount } => Some(*discount),
                    _ => None,
                };
                std::iter::once(*operand).chain(*mask).chain(discount).collect()
            }
            Operation::Constant { .. }
            | Operation::Schedule { .. }
            | Operation::Signal { .. }
            | Operation::Live { .. } => Vec::new(),
        }
    }

    /// The nodes that `roots` depend on, as a set indexed by node.
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

    /// Whether `roots` depend on the step, or on values of the previous step.
    pub fn moves(&self, roots: &[NodeId]) -> bool {
        let needed = self.reachable(roots);
        self.nodes().any(|(id, node)| {
            let moves = matches!(node.operation, Operation::Schedule { .. } | Operation::Memory { .. });
            moves && needed[id.0 as usize]
        })
    }

    /// The memory nodes that `roots` depend on, each with the node whose value at one step is carried over to
    /// the next.
    pub fn carried(&self, roots: &[NodeId]) -> Vec<(NodeId, NodeId)> {
        let needed = self.reachable(roots);
        let nodes = self.nodes().filter(|(id, _)| needed[id.0 as usize]);
        nodes
            .filter_map(|(id, node)| match node.operation {
                Operation::Memory { memory: Memory::Ema { .. }, .. } => Some((id, id)),
                Operation::Memory { memory: Memory::Previous, operand } => Some((id, operand)),
                _ => None,
            })
            .collect()
    }

    /// Checks the rules at the top of this module. Evaluation relies on them: generated code accesses memory
    /// accordingly.
    pub fn check(&self) -> Result<(), MalformedGraph> {
        match self.nodes().find_map(|(node, _)| Some((node, self.problem(node)?))) {
            Some((node, problem)) => Err(MalformedGraph { node, problem }),
            None => Ok(()),
        }
    }

    /// The rule that a node breaks, as a predicate of it.
    fn problem(&self, node: NodeId) -> Option<&'static str> {
        let Node { axis, operation } = self.node(node);
        if *axis == Axis::Vocab {
            return Some("is one number per vocabulary entry");
        }
        let operands = self.operands(node);
        if operands.iter().any(|operand| operand.0 >= node.0) {
            return Some("reads a node that does not stand before it");
        }
        let all = |expected: Axis| operands.iter().all(|operand| self.axis(*operand) == expected);
        match operation {
            Operation::Constant { .. } => {}
            Operation::Schedule { .. } if *axis != Axis::Run => {
                return Some("is a schedule off the run axis");
            }
            Operation::Schedule { .. } => {}
            Operation::Signal { signal } if signal.axis() != *axis => {
                return Some("is a signal off its axis");
            }
            Operation::Signal { .. } => {}
            Operation::Live { .. } if *axis != Axis::Token => {
                return Some("is a live primitive off the token axis");
            }
            Operation::Live { .. } => {}
            Operation::Apply { function, .. } => {
                if operands.len() != function.operands() {
                    return Some("applies a function to the wrong number of operands");
                }
                if !all(*axis) {
                    return Some("applies a function across axes");
                }
            }
            Operation::Broadcast { operand } => {
                if self.axis(*operand) >= *axis {
                    return Some("broadcasts to an axis that is not finer");
                }
            }
            Operation::Reduce { reduction, operand, mask, fraction } => {
                if fraction.is_some_and(|fraction| self.axis(fraction) != *axis) {
                    return Some("has a fraction off its axis");
                }
                if let Reduction::Quantile { q } = reduction
                    && !(0.0..=1.0).contains(q)
                {
                    return Some("has a fraction outside [0, 1]");
                }
                if self.axis(*operand) <= *axis {
                    return Some("reduces to an axis that is not coarser");
                }
                if mask.is_some_and(|mask| self.axis(mask) != self.axis(*operand)) {
                    return Some("has a mask off its operand's axis");
                }
            }
            Operation::Statistic { statistic, operand, over, mask, noise, fraction } => {
                if *over >= *axis {
                    return Some("compares within an axis that is not coarser");
                }
                let compared = std::iter::once(operand).chain(mask).chain(noise);
                if compared.copied().any(|operand| self.axis(operand) != *axis) {
                    return Some("compares across axes");
                }
                if fraction.is_some_and(|fraction| self.axis(fraction) != *over) {
                    return Some("has a fraction off the axis that it compares within");
                }
                if statistic.fraction().is_some_and(|fraction| !(0.0..=1.0).contains(&fraction)) {
                    return Some("has a fraction outside [0, 1]");
                }
                if noise.is_some() != statistic.chooses_at_random() {
                    return Some("chooses at random without random numbers, or has them for nothing");
                }
            }
            Operation::Scan { scan, operand, over, mask } => {
                if *over >= *axis {
                    return Some("runs within an axis that is not coarser");
                }
                if self.axis(*operand) != *axis || mask.is_some_and(|mask| self.axis(mask) != *axis) {
                    return Some("runs across axes");
                }
                if let Scan::RewardToGo { discount } = scan
                    && self.axis(*discount) != Axis::Run
                {
                    return Some("has a discount off the run axis");
                }
            }
            Operation::Memory { operand, .. } => {
                if *axis > Axis::Batch || self.axis(*operand) != *axis {
                    return Some("carries more than one number to the next step");
                }
            }
        }
        None
    }

    /// The nodes that `roots` depend on, one per line.
    pub fn listing(&self, roots: &[NodeId]) -> String {
        let needed = self.reachable(roots);
        let mut text = String::new();
        for (id, node) in self.nodes().filter(|(id, _)| needed[id.0 as usize]) {
            let operands: String =
                self.operands(id).iter().map(|operand| format!(" %{}", operand.0)).collect();
            let what = match &node.operation {
                Operation::Constant { value } => format!("constant {value}"),
                Operation::Live { live } => format!("live {}", live.0),
                Operation::Signal { signal } => {
                    format!(
                        "signal {}",
                        serde_json::to_string(signal).unwrap_or_else(|_| format!("{signal:?}"))
                    )
                }
                Operation::Broadcast { .. } => format!("broadcast{operands}"),
                Operation::Apply { function, .. } => match serde_json::to_value(function) {
                    Ok(serde_json::Value::String(name)) => format!("{name}{operands}"),
                    _ => format!("{function:?}{operands}"),
                },
                operation => serde_json::to_string(operation).unwrap_or_else(|_| format!("{operation:?}")),
            };
            text += &format!("%{}: {} = {what}\n", id.0, node.axis.name());
        }
        text
    }

    /// Whether all `ids` are nodes of the graph.
    pub fn has(&self, ids: &[NodeId]) -> bool {
        ids.iter().all(|id| (id.0 as usize) < self.nodes.len())
    }
}
