//! Formulas as a graph for whoever evaluates it without the runtime: the same nodes that a plan has, except
//! that what the runtime would supply is a leaf that keeps its formula.

use mopd_lang::formula::{Axis, Formula};

use super::formula::{Lowering, Supply};
use crate::expr::graph::{Graph, NodeId};
use crate::refusal::Origins;

/// A number that no other number of the graph is computed into: a signal, a live primitive, a parameter.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub node: NodeId,
    pub formula: Formula,
    /// The numbers inside a divergence, in the order of its formulas.
    pub operands: Vec<NodeId>,
}

/// Some formulas as one graph.
#[derive(Clone, Debug)]
pub(crate) struct FormulaGraph {
    pub graph: Graph,
    pub leaves: Vec<Leaf>,
    /// `select`, on its own axis.
    pub select: Option<NodeId>,
    /// In the order of the formulas.
    pub roots: Vec<NodeId>,
}

impl FormulaGraph {
    /// What `selected` means in the formulas is what `select` says; without it, all tokens are selected.
    ///
    /// # Errors
    /// What graphs have no word for, in words.
    pub fn of(select: Option<&Formula>, formulas: &[&Formula]) -> Result<FormulaGraph, String> {
        let mut lowering = Lowering::new(Supply::Leaves, Origins(&[]));
        let lower = |lowering: &mut Lowering, formula: &Formula| {
            lowering.lower(formula).map_err(|refusal| refusal.message)
        };
        let select = select.map(|select| lower(&mut lowering, select)).transpose()?;
        if let Some(select) = select {
            let mask = lowering.graph.broadcast(select, Axis::Token);
            lowering.select(mask);
        }
        let roots = formulas
            .iter()
            .map(|formula| lower(&mut lowering, formula))
            .collect::<Result<Vec<NodeId>, _>>()?;
        Ok(FormulaGraph { graph: lowering.graph, leaves: lowering.leaves, select, roots })
    }

    /// The leaf that each node is, by node.
    pub fn leaf_of_node(&self) -> Vec<Option<&Leaf>> {
        let mut found = vec![None; self.graph.len()];
        for leaf in &self.leaves {
            found[leaf.node.0 as usize] = Some(leaf);
        }
        found
    }

    /// The nodes that are read, by node.
    pub fn needed(&self) -> Vec<bool> {
        let leaves = self.leaf_of_node();
        let mut needed = vec![false; self.graph.len()];
        self.roots.iter().chain(&self.select).for_each(|root| needed[root.0 as usize] = true);
        for index in (0..needed.len()).rev() {
            if needed[index] {
                let inside = leaves[index].map_or(&[][..], |leaf| &leaf.operands);
                for operand in self.graph.operands(NodeId(index as u32)).iter().chain(inside) {
                    needed[operand.0 as usize] = true;
                }
            }
        }
        needed
    }
}
