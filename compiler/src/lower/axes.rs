//! Lowers functions over the elements of an axis, over several values of one element, and over steps.

use mopd_experiment::formula::{Formula, FormulaKind, FormulaNode};
use mopd_expr::graph::{Graph, NodeId};
use mopd_lang::diag::{Code, Diagnostic};
use mopd_plan::{Axis, Function, Memory, Scan, Statistic};

use super::formula::{Lowering, RandomSource};
use super::parts::operands;

impl Lowering<'_> {
    pub(super) fn statistic(
        &mut self,
        formula: &FormulaNode,
        statistic: Statistic,
        over: Axis,
    ) -> Result<NodeId, Box<Diagnostic>> {
        let (operand, among) = self.peers(formula, over, statistic.name())?;
        if let Some(fraction) = statistic.fraction().filter(|fraction| !(0.0..=1.0).contains(fraction)) {
            let message = format!("{fraction} is not a fraction: it must lie between 0 and 1");
            return Err(self.error(formula, Code::OutOfRange, message));
        }
        if !statistic.chooses_at_random() {
            let compared = self.graph.statistic(statistic, operand, over, among);
            return Ok(self.with_fraction(formula, compared));
        }
        let axis = self.graph.axis(operand);
        let noise = self.uniform(RandomSource::Statistic(std::ptr::from_ref(formula)), axis);
        let chosen = self.graph.random_choice(statistic, operand, over, among, noise);
        Ok(self.with_fraction(formula, chosen))
    }

    /// The node of a reduction or statistic, with the fraction that the formula has in place of its own.
    pub(super) fn with_fraction(&mut self, formula: &FormulaNode, node: NodeId) -> NodeId {
        let (FormulaKind::Reduce { fraction: Some(fraction), .. }
        | FormulaKind::Statistic { fraction: Some(fraction), .. }) = &formula.kind
        else {
            return node;
        };
        let fraction = self.lowered(fraction);
        self.graph.with_fraction(node, fraction)
    }

    pub(super) fn scan(
        &mut self,
        formula: &FormulaNode,
        scan: Scan<Formula>,
        over: Axis,
    ) -> Result<NodeId, Box<Diagnostic>> {
        let name = scan.name();
        let discount = match &scan {
            Scan::RewardToGo { discount } => Some(self.lowered(discount)),
            _ => None,
        };
        if discount.is_some_and(|discount| self.graph.axis(discount) != Axis::Run) {
            let message = "a discount is one number for the whole run";
            return Err(self.error(formula, Code::AxisMismatch, message));
        }
        let scan = scan.with_discount(|discount| self.lowered(&discount));
        let (operand, among) = self.peers(formula, over, name)?;
        Ok(self.graph.scan(scan, operand, over, among))
    }

    pub(super) fn memory(
        &mut self,
        formula: &FormulaNode,
        memory: Memory,
    ) -> Result<NodeId, Box<Diagnostic>> {
        let operand = self.operand(formula);
        if self.graph.axis(operand) > Axis::Batch {
            let message = format!("`{}` carries a single number to the next step", memory.name());
            return Err(self.error(formula, Code::AxisMismatch, message));
        }
        Ok(self.graph.memory(memory, operand))
    }

    /// The operand of a reduction, statistic or scan, and the mask of the elements that `among` selects.
    /// Without a mask, all are included.
    pub(super) fn peers(
        &mut self,
        formula: &FormulaNode,
        over: Axis,
        name: &str,
    ) -> Result<(NodeId, Option<NodeId>), Box<Diagnostic>> {
        let among = match &formula.kind {
            FormulaKind::Reduce { among, .. } | FormulaKind::Statistic { among, .. } => among.as_ref(),
            _ => None,
        };
        let (operand, among) = (self.lowered(operands(formula)[0]), among.map(|among| self.lowered(among)));
        let axis = self.graph.axis(operand);
        if axis <= over {
            let message =
                format!("`{name}` has nothing to run over: its argument is one number per {}", over.name());
            return Err(self.error(formula, Code::AxisMismatch, message));
        }
        Ok((operand, among.map(|among| self.graph.broadcast(among, axis))))
    }

    /// The softmax of `members[index]` among the members that `among` selects; 0 for the others. If one of
    /// their values is missing, which is NaN, all selected members have equal shares.
    pub(super) fn across(&mut self, members: &[NodeId], among: &[NodeId], index: usize) -> NodeId {
        use Function::*;
        let graph = &mut self.graph;
        let [zero, one, lowest] =
            [0.0, 1.0, f64::from(f32::MIN)].map(|value| graph.constant(Axis::Run, value));
        let sum = |graph: &mut Graph, nodes: &[NodeId]| {
            nodes.iter().copied().reduce(|left, right| graph.apply(Add, &[left, right])).unwrap_or(zero)
        };
        let passes = |graph: &mut Graph, at: usize, then: NodeId, otherwise: NodeId| match among.get(at) {
            Some(passes) => graph.apply(Where, &[*passes, then, otherwise]),
            None => then,
        };
        let values: Vec<NodeId> =
            (0..members.len()).map(|at| passes(graph, at, members[at], lowest)).collect();
        let highest =
            values.iter().copied().reduce(|left, right| graph.apply(Maximum, &[left, right])).unwrap_or(zero);
        let shares: Vec<NodeId> = (0..members.len())
            .map(|at| {
                let below = graph.apply(Subtract, &[values[at], highest]);
                let share = graph.apply(Exp, &[below]);
                passes(graph, at, share, zero)
            })
            .collect();
        let counted: Vec<NodeId> = (0..members.len()).map(|at| passes(graph, at, one, zero)).collect();
        let (total, count) = (sum(graph, &shares), sum(graph, &counted));
        let alike = graph.apply(Divide, &[one, count]);
        let missing = graph.apply(NotEqual, &[total, total]);
        let share = graph.apply(Divide, &[shares[index], total]);
        let stated = graph.apply(Where, &[missing, alike, share]);
        passes(graph, index, stated, zero)
    }
}
