//! Typed formulas into graph nodes.
//!
//! Formulas share parts, so each part is lowered once and looked up by its address: walking the tree that the sharing
//! stands for could take exponential time. No recursion either: a sum of ten thousand summands is a deep formula.

use std::collections::HashMap;
use std::rc::Rc;

use mopd_lang::diag::{Code, Diagnostic};
use mopd_lang::experiment::Origin;
use mopd_lang::formula::{Formula, FormulaKind, FormulaNode};
use mopd_lang::formula_text as text;

use super::Origins;
use super::narrow::formula as narrow;
use crate::expr::graph::{Graph, LiveId, NodeId};
use crate::plan::{Axis, Function, Live, Reduction, Statistic};

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
            pending.extend(formula.operands().iter().filter(|operand| !self.known.contains_key(&Rc::as_ptr(&operand.0))));
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
        let axis = narrow::axis(formula.axis, span)?;
        let unmasked = |node| Lowered { node, mask: None };
        Ok(match &formula.kind {
            FormulaKind::Number(value) if !value.is_finite() => {
                return Err(Diagnostic::error(Code::OutOfRange, span, format!("the number {value} is not finite")).into());
            }
            FormulaKind::Number(value) => unmasked(self.graph.constant(Axis::Run, *value)),
            FormulaKind::Schedule(schedule) => {
                if !super::numbers::schedule_is_finite(schedule) {
                    return Err(Diagnostic::error(Code::OutOfRange, span, "a schedule has a bound that is not finite").into());
                }
                unmasked(self.graph.schedule(schedule.clone()))
            }
            FormulaKind::Signal(signal) => unmasked(self.graph.signal(narrow::signal(signal, span)?)),
            FormulaKind::Live(live) => {
                let live = narrow::live(live, span)?;
                let known = self.primitives.iter().position(|primitive| primitive.live == live);
                let index = known.unwrap_or_else(|| {
                    self.primitives.push(Primitive { live, origin: formula.origin });
                    self.primitives.len() - 1
                });
                unmasked(self.graph.live(LiveId(index as u32)))
            }
            FormulaKind::Apply { function, operands } => {
                let operands: Vec<Lowered> = operands.iter().map(|operand| self.lowered(operand)).collect();
                let nodes: Vec<NodeId> = operands.iter().map(|operand| operand.node).collect();
                let node = self.graph.apply(*function, &nodes);
                let axis = self.graph.axis(node);
                let masks = operands.iter().filter_map(|operand| operand.mask).collect::<Vec<NodeId>>();
                let mask = masks
                    .into_iter()
                    .filter(|_| axis != Axis::Token)
                    .reduce(|left, right| if left == right { left } else { self.graph.apply(Function::And, &[left, right]) });
                Lowered { node, mask: mask.map(|mask| self.graph.broadcast(mask, axis)) }
            }
            FormulaKind::Reduce { reduction, operand } => {
                let operand = self.lowered(operand);
                if self.graph.axis(operand.node) <= axis {
                    let name = text::reduction(*reduction);
                    let message = format!("`{name}` has nothing to put together: its argument is one number per {}", axis.name());
                    return Err(Diagnostic::error(Code::AxisMismatch, span, message).into());
                }
                let mask = self.mask(operand);
                let node = self.graph.reduce(narrow::reduction(*reduction, span)?, operand.node, axis, mask);
                let any = mask.filter(|_| axis > Axis::Batch);
                let any = any.map(|mask| self.graph.reduce(Reduction::Maximum, mask, axis, None));
                Lowered { node, mask: any }
            }
            FormulaKind::Statistic { statistic, operand, over } => {
                let operand = self.lowered(operand);
                let over = narrow::axis(*over, span)?;
                if self.graph.axis(operand.node) <= over {
                    let message =
                        format!("`{}` has no peers to compare with over one {}", text::statistic(*statistic), over.name());
                    return Err(Diagnostic::error(Code::AxisMismatch, span, message).into());
                }
                let statistic = narrow::statistic(*statistic, span)?;
                if let Statistic::Winsor { upper: fraction } | Statistic::TopFraction { keep: fraction } = &statistic
                    && !(0.0..=1.0).contains(fraction)
                {
                    let message = format!("{fraction} is not a fraction: it must lie between 0 and 1");
                    return Err(Diagnostic::error(Code::OutOfRange, span, message).into());
                }
                let mask = self.mask(operand);
                Lowered { node: self.graph.statistic(statistic, operand.node, over, mask), mask: operand.mask }
            }
        })
    }

    /// Which elements of a number take part in a reduction or statistic of it.
    fn mask(&self, lowered: Lowered) -> Option<NodeId> {
        if self.graph.axis(lowered.node) == Axis::Token { self.selected } else { lowered.mask }
    }
}
