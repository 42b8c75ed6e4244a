//! Lowers objectives for evaluation without a run.

use mopd_experiment as checked;
use mopd_experiment::formula::{FormulaKind, NamedFormula, text};
use mopd_expr::graph::{LiveId, NodeId, Operation};
use mopd_lang::diag::Diagnostic;
use mopd_lang::source::Span;
use mopd_plan::{Axis, PlainSignal, Signal, State};

use super::{ObjectiveLowering, blocks};
use crate::lower::formula::{LeafScope, LossNode, Lowering};
use crate::lower::leaves::FormulaGraph;
use crate::lower::refusal::{Origins, refused};
use crate::lower::{Expressions, TermExpressions};

/// The per-token values of an objective, before `reduce`, as a graph, whether or not the runtime supplies
/// what it reads.
pub fn expressions(objective: &checked::Objective, origins: Origins) -> Result<Expressions, Box<Diagnostic>> {
    let ObjectiveLowering { mut lowering, weight, terms, .. } =
        ObjectiveLowering::new(objective, Lowering::new(LeafScope::AllSignals, origins))?;
    let terms = terms.into_iter().map(|term| TermExpressions {
        name: term.checked.name.clone(),
        value: term.per_token,
        weight: term.weight,
        when: term.when.map(|when| lowering.graph.broadcast(when, Axis::Token)),
    });
    let terms = terms.collect();
    Ok(Expressions {
        terms,
        select: lowering.selected,
        weight,
        live: lowering.primitives.into_iter().map(|primitive| primitive.live).collect(),
        graph: lowering.graph,
    })
}

/// An objective lowered to its loss, on leaves: see [`FormulaGraph`].
pub(crate) struct WholeObjective {
    /// Its roots are all nodes listed below.
    pub formulas: FormulaGraph,
    pub loss: NodeId,
    /// The mask of chosen tokens, as in [`mopd_plan::Objective`].
    pub chosen: Option<NodeId>,
    /// `let`s, `select`, weights and terms, with their names.
    pub parts: Vec<(String, NodeId)>,
    /// The derivative of the loss by each live leaf.
    pub gradients: Vec<(LiveId, NodeId)>,
}

/// Lowers an objective whose terms all use one batch of completions.
///
/// # Errors
/// The first construct that a graph can't express.
pub(crate) fn whole(
    objective: &checked::Objective,
    origins: &[Span],
) -> Result<WholeObjective, Box<Diagnostic>> {
    let lowering = Lowering::new(LeafScope::GraphLeaves, Origins::new(origins)).opening_losses();
    let mut lowered = ObjectiveLowering::new(objective, lowering)?;
    let mut parts = lowered.named_parts()?;
    let chosen = lowered.chosen()?;
    let graph = &mut lowered.lowering.graph;
    let of_block = graph.nodes().find(|(_, node)| node.axis == Axis::Block).map(|(node, _)| node);
    match (chosen, of_block) {
        (Some(chosen), _) => blocks::report(graph, parts.iter_mut().map(|(_, node)| node), chosen),
        (None, Some(node)) => {
            let place = lowered.place_of(node);
            return Err(refused(place, "`mopd try` of a number per block that no term reads"));
        }
        (None, None) => {}
    }
    let loss = lowered.loss()?;
    let mut losses = vec![LossNode { signal: Signal::Plain(PlainSignal::Loss), node: loss }];
    if !objective.states.is_empty() {
        for term in lowered.terms.clone() {
            let signal = Signal::TermLoss { term: term.checked.name.clone() };
            losses.push(LossNode { signal, node: lowered.term_loss(&term)? });
        }
    }
    for State { name, next, .. } in lowered.states(&losses)? {
        parts.push((format!("{name}.next"), next));
    }
    let live = lowered.live_leaves()?;
    let gradients = lowered.gradients(loss, &live)?;
    let gradients: Vec<(LiveId, NodeId)> = live.into_iter().zip(gradients).collect();
    let roots = parts.iter().map(|(_, node)| *node).chain([loss]).chain(chosen);
    let roots = roots.chain(gradients.iter().map(|(_, node)| *node)).collect();
    let formulas = FormulaGraph::new(lowered.lowering, None, roots);
    Ok(WholeObjective { formulas, loss, chosen, parts, gradients })
}

impl ObjectiveLowering<'_> {
    /// The parts of [`WholeObjective`], except the states.
    fn named_parts(&mut self) -> Result<Vec<(String, NodeId)>, Box<Diagnostic>> {
        let mut parts = Vec::new();
        for NamedFormula { name, formula } in &self.objective.lets {
            parts.push((name.clone(), self.lowering.lower(formula)?));
        }
        parts.extend(self.lowering.selected.map(|node| ("select".to_owned(), node)));
        parts.extend(self.weight.map(|node| ("weight".to_owned(), node)));
        for term in &self.terms {
            let name = &term.checked.name;
            parts.push((name.clone(), term.per_token));
            parts.extend(term.weight.map(|node| (format!("{name}.weight"), node)));
            parts.extend(term.when.map(|node| (format!("{name}.when"), node)));
        }
        Ok(parts)
    }

    /// The live leaves, which must all be numbers of their own.
    fn live_leaves(&self) -> Result<Vec<LiveId>, Box<Diagnostic>> {
        let leaves = self.lowering.leaves.iter();
        let live = leaves.filter(|leaf| matches!(leaf.formula.0.kind, FormulaKind::Live(_)));
        live.map(|leaf| match self.lowering.graph.node(leaf.node).operation {
            Operation::Live { live } => Ok(live),
            _ => {
                let construct = format!("`{}` on given numbers", text::formula(&leaf.formula, 60));
                Err(refused(self.lowering.origins.span(leaf.formula.0.origin), construct))
            }
        })
        .collect()
    }
}
