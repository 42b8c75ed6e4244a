//! The derivative of an objective's loss, and the reported numbers that follow from it.

use mopd_experiment::formula::text;
use mopd_expr::derivative::adjoints_beside;
use mopd_expr::graph::{LiveId, NodeId, Operation};
use mopd_lang::diag::{Code, Diagnostic};
use mopd_lang::source::Span;
use mopd_plan::{Axis, Function, Reduction};

use super::{ObjectiveLowering, blocks};
use crate::lower::refusal::refused;

impl ObjectiveLowering<'_> {
    /// The derivative of a node by each of the `live` primitives, in their order.
    pub fn gradients(&mut self, of: NodeId, live: &[LiveId]) -> Result<Vec<NodeId>, Box<Diagnostic>> {
        self.gradients_at(of, live, self.place)
    }

    fn gradients_at(
        &mut self,
        of: NodeId,
        live: &[LiveId],
        place: Span,
    ) -> Result<Vec<NodeId>, Box<Diagnostic>> {
        let lowering = &mut self.lowering;
        adjoints_beside(&mut lowering.graph, of, live, &lowering.constants).map_err(|refused| {
            let place = lowering.place(refused.node).map_or(place, |origin| lowering.origins.span(origin));
            Diagnostic::error(Code::NotDifferentiable, place, refused.to_string())
                .label("gradient would flow through this")
                .help(format!(
                    "take `live` out of it: `{}` of numbers already computed is fine",
                    refused.operation
                ))
                .into()
        })
    }

    /// Per token: the derivative, by its primitive, of the sum of all selected tokens' `values`. Where these
    /// are elementwise in the live numbers, it is the token's own coefficient; otherwise it includes the
    /// token's effect on others. `place` is where an error is reported.
    pub fn signal(
        &mut self,
        values: &[NodeId],
        selected: Option<NodeId>,
        place: Span,
    ) -> Result<NodeId, Box<Diagnostic>> {
        let (live, is_log_probability): (Vec<LiveId>, Vec<bool>) =
            self.lowering.live_numbers().into_iter().unzip();
        let graph = &mut self.lowering.graph;
        let sums = values.iter().map(|value| {
            // Values coarser than a token already exclude tokens that are not selected.
            let mask = selected.filter(|_| graph.axis(*value) == Axis::Token);
            graph.reduce(Reduction::Sum, *value, Axis::Batch, mask)
        });
        let sums: Vec<NodeId> = sums.collect();
        let everything = graph.sum(sums).expect("an objective has a term");
        let coefficients = self.gradients_at(everything, &live, place)?;
        let graph = &mut self.lowering.graph;
        let sizes = coefficients.into_iter().zip(live.iter().zip(is_log_probability));
        let sizes = sizes.map(|(coefficient, (&live, is_log_probability))| {
            // A log-probability's coefficient is its advantage. A divergence or a loss has a magnitude of its
            // own: where student and teacher agree there is no gradient, whatever its coefficient.
            let size = if is_log_probability {
                coefficient
            } else {
                let value = graph.add(Axis::Token, Operation::Live { live });
                graph.apply(Function::Multiply, &[coefficient, value])
            };
            graph.apply(Function::Abs, &[size])
        });
        let sizes: Vec<NodeId> = sizes.collect();
        let Some(signal) = graph.sum(sizes) else {
            unreachable!("some gradient is not 0, so there is a live primitive");
        };
        Ok(signal)
    }

    /// 1 where some `clip` that `totals` depend on replaces its argument by a bound.
    pub fn clipped(&mut self, totals: &[NodeId]) -> Result<Option<NodeId>, Box<Diagnostic>> {
        let graph = &mut self.lowering.graph;
        let reachable = graph.reachable(totals);
        let clips: Vec<[NodeId; 3]> = graph
            .nodes()
            .filter(|(id, _)| reachable[id.0 as usize])
            .filter_map(|(_, node)| match &node.operation {
                Operation::Apply { function: Function::Clip, operands } => {
                    operands.as_slice().try_into().ok()
                }
                _ => None,
            })
            .collect();
        let at_bound = clips.into_iter().map(|[x, low, high]| {
            let below = graph.apply(Function::Less, &[x, low]);
            let above = graph.apply(Function::Greater, &[x, high]);
            let either = graph.apply(Function::Or, &[below, above]);
            graph.broadcast(either, Axis::Token)
        });
        let at_bound: Vec<NodeId> = at_bound.collect();
        let clipped = at_bound.into_iter().reduce(|left, right| graph.apply(Function::Or, &[left, right]));
        // Its bound would also be tested outside of blocks.
        if clipped.is_some_and(|node| blocks::readers(graph)[node.0 as usize]) {
            return Err(refused(self.place, "`clip` of a number of a block"));
        }
        Ok(clipped)
    }

    /// The diagnostic for an objective in which no gradient reaches anything `live`, with the reason.
    pub fn without_gradient(&self) -> Diagnostic {
        self.never_holds().unwrap_or_else(|| {
            let message =
                format!("no gradient reaches anything `live` in the objective `{}`", self.objective.name);
            let first = self.lowering.primitives.first();
            let place = first.map_or(self.place, |of| self.lowering.origins.span(of.origin));
            Diagnostic::error(Code::NothingLive, place, message)
                .label("it is only compared or multiplied by 0: its derivative is 0 everywhere")
                .help("let a term be a product with a `live` factor")
        })
    }

    /// The diagnostic for a condition that is always false because of a size known only in the plan.
    fn never_holds(&self) -> Option<Diagnostic> {
        let origins = self.lowering.origins;
        let of_terms = self.terms.iter().map(|term| {
            (term.when, term.checked.when.as_ref(), "when", Some(origins.span(term.checked.origin)))
        });
        let select = (self.lowering.selected, self.objective.select.as_ref(), "select", None);
        let mut conditions = of_terms.chain([select]);
        let (condition, name, term) = conditions.find_map(|(node, condition, name, term)| {
            (self.constant(node?) == Some(0.0)).then_some((condition?, name, term))
        })?;
        let text = format!("`{name}` never holds: nothing is trained on");
        let diagnostic = Diagnostic::error(Code::NeverHolds, origins.span(condition.0.origin), text)
            .label(format!("`{}` is false whatever is drawn", text::formula(condition, 60)))
            .help("compare with a value that the number can have, or leave the condition out");
        Some(match term {
            Some(term) => diagnostic.note(term, "for this term"),
            None => diagnostic,
        })
    }
}
