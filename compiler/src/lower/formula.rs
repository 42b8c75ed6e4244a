//! Typed formulas into graph nodes.
//!
//! Formulas share parts, so each part is lowered once and looked up by its address: walking the tree that the sharing
//! stands for could take exponential time. No recursion either: a sum of ten thousand summands is a deep formula.

use std::collections::HashMap;
use std::rc::Rc;

use mopd_lang::diag::{Code, Diagnostic};
use mopd_lang::experiment::Origin;
use mopd_lang::formula::{Formula, FormulaKind, FormulaNode};

use super::Origins;
use super::narrow::formula::{self as narrow, Compared, Kind, Reduced};
use crate::expr::graph::{Graph, LiveId, NodeId};
use crate::plan::{Axis, Function, Live, Reduction, Signal, Statistic};

/// A live primitive and the first place that reads it.
pub(super) struct Primitive {
    pub live: Live,
    pub origin: Origin,
}

/// Lowers the formulas of one objective into one graph.
pub(super) struct Lowering<'a> {
    pub graph: Graph,
    pub primitives: Vec<Primitive>,
    /// The mask of the objective's `select`, per token, once it is known.
    selected: Option<NodeId>,
    /// By address of a formula that the objective keeps alive.
    known: HashMap<*const FormulaNode, Lowered>,
    /// Where the formula stands that a node was first made for.
    places: HashMap<NodeId, Origin>,
    origins: Origins<'a>,
}

#[derive(Clone, Copy)]
struct Lowered {
    node: NodeId,
    /// On the node's axis: which elements were computed from at least one selected token. Absent where all count: on the
    /// token axis, where `selected` says it, and for numbers that do not come from tokens, such as a reward.
    mask: Option<NodeId>,
}

impl<'a> Lowering<'a> {
    pub fn new(origins: Origins<'a>) -> Lowering<'a> {
        Lowering {
            graph: Graph::default(),
            primitives: Vec::new(),
            selected: None,
            known: HashMap::new(),
            places: HashMap::new(),
            origins,
        }
    }

    /// From here on, tokens outside `mask` take no part in reductions and statistics, nor do sequences and groups without
    /// any selected token in reductions of what was reduced from tokens: so means are conditional means.
    pub fn select(&mut self, mask: NodeId) {
        self.selected = Some(mask);
        self.known.clear();
    }

    /// Where the formula stands that a node was made for.
    pub fn place(&self, node: NodeId) -> Option<Origin> {
        self.places.get(&node).copied()
    }

    /// The node that computes `formula`, on the formula's own axis.
    pub fn lower(&mut self, formula: &Formula) -> Result<NodeId, Box<Diagnostic>> {
        let mut pending = vec![formula];
        while let Some(formula) = pending.last().copied() {
            let address = Rc::as_ptr(&formula.0);
            if self.known.contains_key(&address) {
                pending.pop();
                continue;
            }
            let before = pending.len();
            pending.extend(operands(&formula.0).into_iter().filter(|operand| !self.known.contains_key(&Rc::as_ptr(&operand.0))));
            if pending.len() == before {
                let lowered = self.node(&formula.0)?;
                self.places.entry(lowered.node).or_insert(formula.0.origin);
                self.known.insert(address, lowered);
                pending.pop();
            }
        }
        Ok(self.lowered(formula).node)
    }

    fn lowered(&self, formula: &Formula) -> Lowered {
        self.known[&Rc::as_ptr(&formula.0)]
    }

    /// A formula whose parts are lowered.
    fn node(&mut self, formula: &FormulaNode) -> Result<Lowered, Box<Diagnostic>> {
        let span = self.origins.span(formula.origin);
        let unmasked = |node| Lowered { node, mask: None };
        Ok(match narrow::kind(formula, span)? {
            Kind::Number(value) if !value.is_finite() => {
                return Err(Diagnostic::error(Code::OutOfRange, span, format!("the number {value} is not finite")).into());
            }
            Kind::Number(value) => unmasked(self.graph.constant(Axis::Run, value)),
            Kind::PerSequence(value) => unmasked(self.graph.constant(Axis::Sequence, value)),
            Kind::Schedule(schedule) => {
                if !super::numbers::schedule_is_finite(&schedule) {
                    return Err(Diagnostic::error(Code::OutOfRange, span, "a schedule has a bound that is not finite").into());
                }
                unmasked(self.graph.schedule(schedule))
            }
            Kind::Signal(signal) => unmasked(self.graph.signal(signal)),
            Kind::Remaining => {
                let (length, position) = (self.graph.signal(Signal::Length), self.graph.signal(Signal::Position));
                let one = self.graph.constant(Axis::Run, 1.0);
                let behind = self.graph.apply(Function::Add, &[position, one]);
                unmasked(self.graph.apply(Function::Subtract, &[length, behind]))
            }
            Kind::Live(live) => {
                let known = self.primitives.iter().position(|primitive| primitive.live == live);
                let index = known.unwrap_or_else(|| {
                    self.primitives.push(Primitive { live, origin: formula.origin });
                    self.primitives.len() - 1
                });
                unmasked(self.graph.live(LiveId(index as u32)))
            }
            Kind::Apply(function) => {
                let operands: Vec<Lowered> = operands(formula).into_iter().map(|operand| self.lowered(operand)).collect();
                let nodes: Vec<NodeId> = operands.iter().map(|operand| operand.node).collect();
                let node = self.graph.apply(function, &nodes);
                let axis = self.graph.axis(node);
                let masks = operands.iter().filter_map(|operand| operand.mask).collect::<Vec<NodeId>>();
                let mask = masks
                    .into_iter()
                    .filter(|_| axis != Axis::Token)
                    .reduce(|left, right| if left == right { left } else { self.graph.apply(Function::And, &[left, right]) });
                Lowered { node, mask: mask.map(|mask| self.graph.broadcast(mask, axis)) }
            }
            Kind::Reduce { reduction, over } => {
                let (operand, among) = self.compared(formula);
                if self.graph.axis(operand.node) <= over {
                    let name = name(formula);
                    let message = format!("`{name}` has nothing to put together: its argument is one number per {}", over.name());
                    return Err(Diagnostic::error(Code::AxisMismatch, span, message).into());
                }
                let selected = self.mask(operand);
                let mask = self.both(selected, among, self.graph.axis(operand.node));
                let node = self.reduce(reduction, operand.node, over, mask);
                // What `among` leaves out is this formula's business; what `select` leaves out is nobody's.
                let any = selected.filter(|_| over > Axis::Batch);
                let any = any.map(|mask| self.graph.reduce(Reduction::Maximum, mask, over, None));
                Lowered { node, mask: any }
            }
            Kind::Statistic { statistic, over } => {
                let (operand, among) = self.compared(formula);
                if self.graph.axis(operand.node) <= over {
                    let message = format!("`{}` has no peers to compare with over one {}", name(formula), over.name());
                    return Err(Diagnostic::error(Code::AxisMismatch, span, message).into());
                }
                if let Compared::Plain(Statistic::Winsor { upper: fraction } | Statistic::TopFraction { keep: fraction }) =
                    statistic
                    && !(0.0..=1.0).contains(&fraction)
                {
                    let message = format!("{fraction} is not a fraction: it must lie between 0 and 1");
                    return Err(Diagnostic::error(Code::OutOfRange, span, message).into());
                }
                let selected = self.mask(operand);
                let mask = self.both(selected, among, self.graph.axis(operand.node));
                Lowered { node: self.statistic(statistic, operand.node, over, mask), mask: operand.mask }
            }
        })
    }

    /// The argument of a reduction or a statistic, and the node of its `among`.
    fn compared(&self, formula: &FormulaNode) -> (Lowered, Option<NodeId>) {
        let operands = operands(formula);
        (self.lowered(operands[0]), operands.get(1).map(|among| self.lowered(among).node))
    }

    /// Both masks, on an axis that is at least as fine as either's.
    fn both(&mut self, selected: Option<NodeId>, among: Option<NodeId>, axis: Axis) -> Option<NodeId> {
        match (selected, among.map(|among| self.graph.broadcast(among, axis))) {
            (Some(selected), Some(among)) => Some(self.graph.apply(Function::And, &[selected, among])),
            (selected, among) => selected.or(among),
        }
    }

    fn reduce(&mut self, reduction: Reduced, node: NodeId, over: Axis, mask: Option<NodeId>) -> NodeId {
        match reduction {
            Reduced::Plain(reduction) => self.graph.reduce(reduction, node, over, mask),
            // None is false: so that nothing at all is true too, unlike the smallest of nothing.
            Reduced::All => {
                let falsehood = self.graph.apply(Function::Not, &[node]);
                let any = self.graph.reduce(Reduction::Maximum, falsehood, over, mask);
                self.graph.apply(Function::Not, &[any])
            }
        }
    }

    fn statistic(&mut self, statistic: Compared, node: NodeId, over: Axis, mask: Option<NodeId>) -> NodeId {
        let axis = self.graph.axis(node);
        let value = match statistic {
            Compared::Plain(statistic) => return self.graph.statistic(statistic, node, over, mask),
            Compared::Center => {
                let mean = self.graph.reduce(Reduction::Mean, node, over, mask);
                self.graph.apply(Function::Subtract, &[node, mean])
            }
            Compared::LeaveOneOut => {
                let one = self.graph.constant(axis, 1.0);
                let sum = self.graph.reduce(Reduction::Sum, node, over, mask);
                let count = self.graph.reduce(Reduction::Sum, one, over, mask);
                let others = self.graph.apply(Function::Subtract, &[count, one]);
                // Alone, the sum of the others is 0, and so is their mean.
                let others = self.graph.apply(Function::Maximum, &[others, one]);
                let rest = self.graph.apply(Function::Subtract, &[sum, node]);
                self.graph.apply(Function::Divide, &[rest, others])
            }
        };
        // As for every statistic, what takes no part gets 0.
        match mask {
            Some(mask) => {
                let zero = self.graph.constant(axis, 0.0);
                self.graph.apply(Function::Where, &[mask, value, zero])
            }
            None => value,
        }
    }

    /// Which elements of a number take part in a reduction or statistic of it.
    fn mask(&self, lowered: Lowered) -> Option<NodeId> {
        if self.graph.axis(lowered.node) == Axis::Token { self.selected } else { lowered.mask }
    }
}

/// The parts of a formula that become nodes of their own. What a divergence holds is part of the primitive.
fn operands(formula: &FormulaNode) -> Vec<&Formula> {
    match &formula.kind {
        FormulaKind::Apply { operands, .. } => operands.iter().collect(),
        FormulaKind::Reduce { operand, among, .. } | FormulaKind::Statistic { operand, among, .. } => {
            std::iter::once(operand).chain(among).collect()
        }
        _ => Vec::new(),
    }
}

/// A reduction or a statistic, as it is written.
fn name(formula: &FormulaNode) -> &'static str {
    match &formula.kind {
        FormulaKind::Reduce { reduction, .. } => reduction.name(),
        FormulaKind::Statistic { statistic, .. } => statistic.name(),
        _ => "this",
    }
}
