//! Numbers of blocks. A block is a maximal run of tokens inside a turn that the objective's `chunks` chooses;
//! windows that overlap or touch are one. The choice depends on the step's signals, so the runtime evaluates
//! it first. Tokens that are not chosen belong to no block, so a number of blocks counts only at chosen
//! tokens.

use mopd_experiment as checked;
use mopd_experiment::formula::{Adaptive, Formula, FormulaKind};
use mopd_expr::graph::{Graph, NodeId, Operation};
use mopd_lang::source::Span;
use mopd_plan::{Axis, Statistic};

use super::ObjectiveLowering;
use super::loss::only_where;
use crate::lower::refusal::{Converted, Origins, refused};

impl ObjectiveLowering<'_> {
    /// The mask of chosen tokens, if a term reads numbers of blocks.
    pub fn chosen(&self) -> Converted<Option<NodeId>> {
        let (graph, at) = (&self.lowering.graph, self.place);
        outside_of_terms(self.objective, self.lowering.origins)?;
        let reads = readers(graph);
        let roots: Vec<NodeId> = self.terms.iter().map(|term| term.value).collect();
        if !roots.iter().any(|root| reads[root.0 as usize]) {
            return Ok(None);
        }
        let chosen = the_choice(graph, &roots, at)?;
        if reads[chosen.0 as usize] {
            return Err(refused(at, "a number per block in the arguments of `chunks`"));
        }
        let needed = graph.reachable(&roots);
        for (id, node) in graph.nodes().filter(|(id, _)| needed[id.0 as usize]) {
            let of_blocks = graph.operands(id).iter().any(|operand| reads[operand.0 as usize]);
            // A block contains only chosen tokens.
            let inside = |operand: NodeId| node.axis == Axis::Block && graph.axis(operand) == Axis::Token;
            let taken_together = match node.operation {
                Operation::Reduce { operand, .. } => !inside(operand),
                Operation::Statistic { .. } | Operation::Scan { .. } | Operation::Memory { .. } => true,
                _ => false,
            };
            if of_blocks && taken_together {
                let construct = "combining several blocks, or tokens that may be outside of blocks, into \
                    one number";
                return Err(refused(at, construct));
            }
        }
        for term in &self.terms {
            if reads[term.value.0 as usize] && term.when != Some(chosen) {
                let name = &term.checked.name;
                let construct = format!(
                    "a number per block in the term `{name}`, which also applies to \
                    tokens outside of blocks"
                );
                return Err(Box::new(
                    (*refused(at, construct))
                        .help("restrict the term to tokens in blocks: `{ when = chunks(...) }`"),
                ));
            }
        }
        Ok(Some(chosen))
    }
}

/// Refuses numbers of blocks anywhere but in the value of a term.
fn outside_of_terms(objective: &checked::Objective, origins: Origins) -> Converted<()> {
    let of_terms = objective.terms.iter().flat_map(|term| term.when.iter().chain(&term.weight));
    let reduces = objective.terms.iter().map(|term| &term.reduce).chain([&objective.reduce]);
    let denominators = reduces.flatten().filter_map(|reduce| reduce.denominator.as_ref());
    let states = objective.states.iter().map(|state| &state.next);
    let moving = origins.ladders.iter().chain(&origins.roles.learned);
    let moving = moving.filter_map(|formula| match &formula.0.kind {
        FormulaKind::Adaptive(
            Adaptive::Ladder { advance_if: read, .. } | Adaptive::Learned { gain: read, .. },
        ) => Some(read),
        _ => None,
    });
    let beside = objective.select.iter().chain(&objective.weight).chain(of_terms);
    let of_blocks = |formula: &&Formula| formula.any(|node| node.axis == Axis::Block);
    match beside.chain(denominators).chain(states).chain(moving).find(of_blocks) {
        Some(formula) => Err(refused(
            origins.span(formula.0.origin),
            "a number per block outside of the value of a \
                term",
        )),
        None => Ok(()),
    }
}

/// The only `chunks`, which defines the blocks.
fn the_choice(graph: &Graph, roots: &[NodeId], at: Span) -> Converted<NodeId> {
    let needed = graph.reachable(roots);
    let choices = graph.nodes().filter(|(id, node)| {
        let chunks =
            matches!(node.operation, Operation::Statistic { statistic: Statistic::Chunks { .. }, .. });
        needed[id.0 as usize] && chunks && node.axis == Axis::Token
    });
    let choices: Vec<NodeId> = choices.map(|(id, _)| id).collect();
    match choices[..] {
        [one] => Ok(one),
        [] => Err(refused(at, "one number per block without a `chunks` that defines the blocks")),
        _ => Err(refused(at, "one number per block with several `chunks` that define blocks")),
    }
}

/// Makes reported values that read blocks 0 outside of blocks.
pub fn report<'v>(graph: &mut Graph, values: impl Iterator<Item = &'v mut NodeId>, chosen: NodeId) {
    let reads = readers(graph);
    for value in values.filter(|value| reads[value.0 as usize]) {
        let of_tokens = graph.broadcast(*value, Axis::Token);
        (*value, _) = only_where(graph, of_tokens, Some(chosen));
    }
}

/// For each node, whether it depends on numbers of blocks.
pub fn readers(graph: &Graph) -> Vec<bool> {
    let mut reads: Vec<bool> = Vec::with_capacity(graph.len());
    for (id, node) in graph.nodes() {
        let operands = graph.operands(id);
        let reads_them = operands.iter().any(|operand| reads[operand.0 as usize]);
        reads.push(node.axis == Axis::Block || reads_them);
    }
    reads
}
