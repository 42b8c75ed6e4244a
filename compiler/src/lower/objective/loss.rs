//! The reduction of terms to one number: the loss of an objective, and of each of its terms.

use mopd_experiment as checked;
use mopd_expr::graph::{Graph, NodeId};
use mopd_lang::diag::{Code, Diagnostic};
use mopd_plan::{Axis, Denominator, Function, Reduction};

use super::balance::{self, IncludedMasks};
use super::{LoweredTerm, ObjectiveLowering};
use crate::lower::executable::formula as executable;

/// The input of a reduction: a part of a total, which may be all of it, where the total applies.
struct ReductionInput {
    part: NodeId,
    total: NodeId,
    when: Option<NodeId>,
}

impl ReductionInput {
    fn whole(total: NodeId, when: Option<NodeId>) -> ReductionInput {
        ReductionInput { part: total, total, when }
    }
}

impl<'a> ObjectiveLowering<'a> {
    /// The sum of all terms, each with its own reduction. Terms with the same reduction are summed before it.
    pub fn loss(&mut self) -> Result<NodeId, Box<Diagnostic>> {
        let mut together = Vec::new();
        let mut losses = Vec::new();
        for term in self.terms.clone() {
            let Some(reduce) = self.reduce_of(&term) else {
                let message = format!("the term `{}` has no `reduce`", term.checked.name);
                let place = self.lowering.origins.span(term.checked.origin);
                return Err(Diagnostic::error(Code::MissingReduce, place, message).into());
            };
            if self.is_alone(&term) {
                losses.push(self.reduced(ReductionInput::whole(term.value, term.when), reduce)?);
            } else {
                together.push(term.value);
            }
        }
        if let (Some(value), Some(reduce)) = (self.lowering.graph.sum(together), &self.objective.reduce) {
            losses.insert(0, self.reduced(ReductionInput::whole(value, None), reduce)?);
        }
        let Some(loss) = self.lowering.graph.sum(losses) else {
            unreachable!("an objective without a term has been refused");
        };
        Ok(loss)
    }

    /// A term's loss, without its weights: otherwise a term that is weighted by its own loss would depend on
    /// itself.
    pub fn term_loss(&mut self, term: &LoweredTerm) -> Result<NodeId, Box<Diagnostic>> {
        let reduce = self.reduce_of(term).expect("the loss has been reduced");
        let (value, when) = only_where(&mut self.lowering.graph, term.bare, term.when);
        self.reduced(ReductionInput::whole(value, when), reduce)
    }

    /// The share of each term in the loss, in their order. Their sum is the loss, since means and sums are
    /// linear. A balance of domains is the same for all terms that are reduced together.
    pub fn shares(&mut self) -> Result<Vec<NodeId>, Box<Diagnostic>> {
        let terms = self.terms.clone();
        let together = terms.iter().filter(|term| !self.is_alone(term)).map(|term| term.value);
        let together: Vec<NodeId> = together.collect();
        let total = self.lowering.graph.sum(together);
        let shares = terms.iter().map(|term| {
            let reduce = self.reduce_of(term).expect("the loss has been reduced");
            let share = match total {
                Some(total) if !self.is_alone(term) => {
                    let graph = &mut self.lowering.graph;
                    let part = graph.broadcast(term.value, graph.axis(total));
                    ReductionInput { part, total, when: None }
                }
                _ => ReductionInput::whole(term.value, term.when),
            };
            self.reduced(share, reduce)
        });
        shares.collect()
    }

    /// The reduction of a term: its own, or the objective's.
    fn reduce_of(&self, term: &LoweredTerm<'a>) -> Option<&'a checked::Reduce> {
        term.checked.reduce.as_ref().or(self.objective.reduce.as_ref())
    }

    /// Whether a term is reduced separately.
    fn is_alone(&self, term: &LoweredTerm) -> bool {
        let among_when = |reduce: &checked::Reduce| reduce.steps.iter().any(|step| step.among_when);
        term.checked.reduce.is_some()
            || (term.when.is_some() && self.objective.reduce.as_ref().is_some_and(among_when))
    }

    /// Applies `reduce`, step by step. This is the only place where `select` applies implicitly: tokens that
    /// are not selected are left out, and so are sequences and groups without any selected token; in a step
    /// `among: when`, also those where the term applies nowhere.
    fn reduced(&mut self, of: ReductionInput, reduce: &checked::Reduce) -> Result<NodeId, Box<Diagnostic>> {
        let here = self.lowering.origins.span(reduce.origin);
        let graph = &mut self.lowering.graph;
        let axis = graph.axis(of.total);
        // A number per pair is included if some token of the pair is selected.
        let selected = match self.lowering.selected {
            Some(selected) if axis < Axis::Token => Some(graph.reduce(Reduction::Any, selected, axis, None)),
            selected => selected,
        };
        let applies = match (selected, of.when) {
            (Some(selected), Some(when)) => Some(graph.apply(Function::And, &[selected, when])),
            (_, when) => when,
        };
        let mut counted = IncludedMasks { selected, applies };
        let mut value = match &reduce.balance {
            Some(balance) => self.balanced(&of, counted, reduce, balance)?,
            None => of.part,
        };
        for step in &reduce.steps {
            let (elements, over) =
                (executable::axis(step.elements, here)?, executable::axis(step.over, here)?);
            let graph = &mut self.lowering.graph;
            let axis = graph.axis(value);
            if elements != axis || over >= axis {
                let message = format!(
                    "`{}({})` down to one number per {} does not follow: there is one number per {} at that \
                     point",
                    step.operation.name(),
                    elements.name(),
                    over.name(),
                    axis.name()
                );
                return Err(Diagnostic::error(Code::AxisMismatch, here, message).into());
            }
            value = graph.reduce(step.operation, value, over, counted.mask(step.among_when));
            counted = counted.reduced(graph, over);
        }
        let axis = self.lowering.graph.axis(value);
        if axis != Axis::Batch {
            let message = format!(
                "the `reduce` of `{}` ends in one number per {}, not in one number",
                self.objective.name,
                axis.name()
            );
            return Err(Diagnostic::error(Code::MissingReduce, here, message)
                .help("end it with `mean(sequence)`, or with `over: batch`")
                .into());
        }
        let denominator = self.lowering.detached(reduce.denominator.as_ref(), "the denominator")?;
        let Some(denominator) = denominator else { return Ok(value) };
        let axis = self.lowering.graph.axis(denominator);
        if axis > Axis::Batch {
            let message = format!("a loss is divided by one number, not by one per {}", axis.name());
            return Err(Diagnostic::error(Code::AxisMismatch, here, message).into());
        }
        if let Some(checked) = &reduce.denominator
            && self.constant(denominator).is_none()
            && !self.denominators.iter().any(|known| known.value == denominator)
        {
            self.denominators.push(Denominator { value: denominator, origin: checked.0.origin });
        }
        Ok(self.lowering.graph.apply(Function::Divide, &[value, denominator]))
    }

    /// The part, multiplied by the weights of its domains, unless these are only observed.
    fn balanced(
        &mut self,
        of: &ReductionInput,
        counted: IncludedMasks,
        reduce: &checked::Reduce,
        balance: &checked::Balance,
    ) -> Result<NodeId, Box<Diagnostic>> {
        let here = self.lowering.origins.span(balance.origin);
        let signal = self.signal(&[of.total], counted.selected, here)?;
        let graph = &mut self.lowering.graph;
        let axis = graph.axis(of.total);
        let signal =
            if axis < Axis::Token { graph.reduce(Reduction::Sum, signal, axis, None) } else { signal };
        let factor = balance::factor(graph, axis, signal, counted, reduce, balance, here)?;
        self.lowering.domain_weight.get_or_insert(graph.broadcast(factor, Axis::Token));
        if balance.observe {
            return Ok(of.part);
        }
        self.lowering.constants.push(factor);
        Ok(self.lowering.graph.apply(Function::Multiply, &[factor, of.part]))
    }
}

/// The value, 0 where the term does not apply (each step of its reduction decides whether such tokens count),
/// and the condition on the term's axis.
pub fn only_where(graph: &mut Graph, value: NodeId, when: Option<NodeId>) -> (NodeId, Option<NodeId>) {
    let Some(when) = when else { return (value, None) };
    // A loss per sequence stays one if the condition is per sequence.
    let axis = graph.axis(value).max(graph.axis(when));
    let (when, zero) = (graph.broadcast(when, axis), graph.constant(axis, 0.0));
    (graph.apply(Function::Where, &[when, value, zero]), Some(when))
}
