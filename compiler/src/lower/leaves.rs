//! Formulas as a graph for evaluation without the runtime. It has the nodes of a plan, but every number that
//! the runtime would supply is a leaf that keeps its formula.

use std::rc::Rc;

use mopd_experiment::formula::{Axis, Formula};
use mopd_expr::graph::{Graph, NodeId};

use super::formula::{LeafScope, Lowering};
use crate::lower::refusal::Origins;

/// An input of the graph: a signal, a live primitive, a parameter.
#[derive(Clone, Debug)]
pub(crate) struct GraphLeaf {
    pub node: NodeId,
    pub formula: Formula,
    /// The nodes of the formulas inside a divergence, in their order.
    pub operands: Vec<NodeId>,
}

/// Some formulas as one graph.
#[derive(Clone, Debug)]
pub(crate) struct FormulaGraph {
    pub graph: Graph,
    /// The mask of `select`, on its own axis.
    pub select: Option<NodeId>,
    /// The nodes of the formulas, in their order.
    pub roots: Vec<NodeId>,
    leaves: Vec<GraphLeaf>,
    /// For each node, the index of its leaf, if it is one.
    leaf_of_node: Vec<Option<usize>>,
    /// For each node, whether a root depends on it.
    needed: Vec<bool>,
}

impl FormulaGraph {
    /// The graph of some formulas. `select` is the mask of `selected` in them; without it, all are selected.
    ///
    /// # Errors
    /// A description of the first construct that a graph can't express.
    pub fn from_formulas(select: Option<&Formula>, formulas: &[&Formula]) -> Result<FormulaGraph, String> {
        let mut lowering = Lowering::new(LeafScope::GraphLeaves, Origins::new(&[]));
        let select = select.map(|select| lowered(&mut lowering, select)).transpose()?;
        if let Some(select) = select {
            let mask = lowering.graph.broadcast(select, Axis::Token);
            lowering.select(mask);
        }
        let roots: Result<Vec<NodeId>, String> =
            formulas.iter().map(|formula| lowered(&mut lowering, formula)).collect();
        Ok(FormulaGraph::new(lowering, select, roots?))
    }

    /// The graph of one formula, with given values for some of its parts.
    ///
    /// # Errors
    /// A description of the first construct that a graph can't express.
    pub fn with(given: &[(&Formula, f64)], formula: &Formula) -> Result<FormulaGraph, String> {
        let mut lowering = Lowering::new(LeafScope::GraphLeaves, Origins::new(&[]));
        lowering.given = given.iter().map(|(part, value)| (Rc::as_ptr(&part.0), *value)).collect();
        let root = lowered(&mut lowering, formula)?;
        Ok(FormulaGraph::new(lowering, None, vec![root]))
    }

    pub(super) fn new(lowering: Lowering, select: Option<NodeId>, roots: Vec<NodeId>) -> FormulaGraph {
        let Lowering { graph, leaves, .. } = lowering;
        let mut leaf_of_node = vec![None; graph.len()];
        for (number, leaf) in leaves.iter().enumerate() {
            leaf_of_node[leaf.node.0 as usize] = Some(number);
        }
        let mut needed = vec![false; graph.len()];
        roots.iter().chain(&select).for_each(|root| needed[root.0 as usize] = true);
        for index in (0..needed.len()).rev() {
            if needed[index] {
                let inside = leaf_of_node[index].map_or(&[][..], |leaf: usize| &leaves[leaf].operands);
                for operand in graph.operands(NodeId(index as u32)).iter().chain(inside) {
                    needed[operand.0 as usize] = true;
                }
            }
        }
        FormulaGraph { graph, select, roots, leaves, leaf_of_node, needed }
    }

    /// All leaves. Leaves inside another one come before it.
    pub fn leaves(&self) -> &[GraphLeaf] {
        &self.leaves
    }

    pub fn leaf(&self, node: NodeId) -> Option<&GraphLeaf> {
        self.leaf_of_node[node.0 as usize].map(|leaf| &self.leaves[leaf])
    }

    pub fn is_needed(&self, node: NodeId) -> bool {
        self.needed[node.0 as usize]
    }
}

fn lowered(lowering: &mut Lowering, formula: &Formula) -> Result<NodeId, String> {
    lowering.lower(formula).map_err(|refusal| refusal.message)
}
