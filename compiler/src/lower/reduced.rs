//! The reduction of terms to one number: the loss of an objective, and of each of its terms.

use mopd_lang::diag::{Code, Diagnostic};
use mopd_lang::experiment as checked;

use super::balance::{self, Counted};
use super::executable::formula as executable;
use super::formula::Lowering;
use super::objective::{detached, signal, sum};
use crate::expr::graph::{Graph, NodeId};
use crate::plan::{Axis, Function, Reduction};
use crate::refusal::Origins;

/// A term, multiplied by its weights.
pub struct Weighted {
    pub value: NodeId,
    /// The term without weights, wherever it applies.
    pub bare: NodeId,
    /// The term's own weight, on its own axis.
    pub weight: Option<NodeId>,
    /// Where the term applies, on the axis of `value`.
    pub when: Option<NodeId>,
}

/// A term's loss, without its weights: a term that is weighted by its own loss would otherwise depend on
/// itself.
pub fn term_loss(
    lowering: &mut Lowering,
    term: &checked::Term,
    weighted: &Weighted,
    selected: Option<NodeId>,
    objective: &checked::Objective,
    origins: Origins,
) -> Result<NodeId, Box<Diagnostic>> {
    let reduce = term.reduce.as_ref().or(objective.reduce.as_ref()).expect("the loss has been reduced");
    let (value, when) = only_where(&mut lowering.graph, weighted.bare, weighted.when);
    reduced(lowering, (value, value), (selected, when), reduce, &objective.name, origins)
}

/// The share of each term in the loss, in their order: they sum to the loss, since means and sums are linear.
/// A balance of domains is the same for all terms that are reduced together.
pub fn shares(
    lowering: &mut Lowering,
    terms: &[Weighted],
    selected: Option<NodeId>,
    objective: &checked::Objective,
    origins: Origins,
) -> Result<Vec<NodeId>, Box<Diagnostic>> {
    let all = || objective.terms.iter().zip(terms);
    let together = all().filter(|(checked, term)| !is_alone(checked, term, objective));
    let total = sum(&mut lowering.graph, together.map(|(_, term)| term.value));
    let shares = all().map(|(checked, term)| {
        let reduce =
            checked.reduce.as_ref().or(objective.reduce.as_ref()).expect("the loss has been reduced");
        let (parts, when) = match total {
            Some(total) if !is_alone(checked, term, objective) => {
                let axis = lowering.graph.axis(total);
                ((lowering.graph.broadcast(term.value, axis), total), None)
            }
            _ => ((term.value, term.value), term.when),
        };
        reduced(lowering, parts, (selected, when), reduce, &objective.name, origins)
    });
    shares.collect()
}

/// Whether a term is reduced separately.
fn is_alone(checked: &checked::Term, term: &Weighted, objective: &checked::Objective) -> bool {
    let among_when = |reduce: &checked::Reduce| reduce.steps.iter().any(|step| step.among_when);
    checked.reduce.is_some() || (term.when.is_some() && objective.reduce.as_ref().is_some_and(among_when))
}

/// The sum of all terms, each with its own reduction. Terms with the same reduction are summed before it.
pub fn loss(
    lowering: &mut Lowering,
    terms: &[Weighted],
    selected: Option<NodeId>,
    objective: &checked::Objective,
    origins: Origins,
) -> Result<NodeId, Box<Diagnostic>> {
    let mut together = Vec::new();
    let mut losses = Vec::new();
    for (checked, term) in objective.terms.iter().zip(terms) {
        let Some(reduce) = checked.reduce.as_ref().or(objective.reduce.as_ref()) else {
            let message = format!("nothing says how the term `{}` becomes one number", checked.name);
            return Err(Diagnostic::error(Code::MissingReduce, origins.span(checked.origin), message).into());
        };
        if is_alone(checked, term, objective) {
            losses.push(reduced(
                lowering,
                (term.value, term.value),
                (selected, term.when),
                reduce,
                &objective.name,
                origins,
            )?);
        } else {
            together.push(term.value);
        }
    }
    if let (Some(value), Some(reduce)) = (sum(&mut lowering.graph, together.into_iter()), &objective.reduce) {
        let whole = (value, value);
        losses.insert(0, reduced(lowering, whole, (selected, None), reduce, &objective.name, origins)?);
    }
    let Some(loss) = sum(&mut lowering.graph, losses.into_iter()) else {
        unreachable!("an objective without a term has been refused");
    };
    Ok(loss)
}

/// `reduce`, step by step: the only place where `select` applies implicitly. Tokens that are not selected are
/// left out, and so are sequences and groups without any selected token; in a step `among: when`, also those
/// where the term applies nowhere. Reduces `part` of the total, which may be all of it.
fn reduced(
    lowering: &mut Lowering,
    (part, total): (NodeId, NodeId),
    (selected, when): (Option<NodeId>, Option<NodeId>),
    reduce: &checked::Reduce,
    name: &str,
    origins: Origins,
) -> Result<NodeId, Box<Diagnostic>> {
    let here = origins.span(reduce.origin);
    let axis = lowering.graph.axis(total);
    // A number per pair is included if some token of the pair is selected.
    let selected = match selected {
        Some(selected) if axis < Axis::Token => {
            Some(lowering.graph.reduce(Reduction::Any, selected, axis, None))
        }
        selected => selected,
    };
    let applies = match (selected, when) {
        (Some(selected), Some(when)) => Some(lowering.graph.apply(Function::And, &[selected, when])),
        (_, when) => when,
    };
    let mut value = part;
    let mut counted = Counted { selected, applies };
    if let Some(balance) = &reduce.balance {
        let here = origins.span(balance.origin);
        let signal = signal(lowering, &[total], counted.selected, origins, here)?;
        let graph = &mut lowering.graph;
        let signal =
            if axis < Axis::Token { graph.reduce(Reduction::Sum, signal, axis, None) } else { signal };
        let factor = balance::factor(graph, axis, signal, counted, (reduce, balance), here)?;
        lowering.domain_weight.get_or_insert(graph.broadcast(factor, Axis::Token));
        if !balance.observe {
            lowering.constants.push(factor);
            value = graph.apply(Function::Multiply, &[factor, value]);
        }
    }
    for step in &reduce.steps {
        let (elements, over) = (executable::axis(step.elements, here)?, executable::axis(step.over, here)?);
        let graph = &mut lowering.graph;
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
        value = graph.reduce(step.operation, value, over, counted.of(step.among_when));
        counted = counted.reduced(graph, over);
    }
    let axis = lowering.graph.axis(value);
    if axis != Axis::Batch {
        let message =
            format!("the `reduce` of `{name}` ends in one number per {}, not in one number", axis.name());
        return Err(Diagnostic::error(Code::MissingReduce, here, message)
            .help("end it with `mean(sequence)`, or with `over: batch`")
            .into());
    }
    let Some(denominator) = detached(lowering, reduce.denominator.as_ref(), "the denominator", origins)?
    else {
        return Ok(value);
    };
    if lowering.graph.axis(denominator) > Axis::Batch {
        let message = format!(
            "a loss is divided by one number, not by one per {}",
            lowering.graph.axis(denominator).name()
        );
        return Err(Diagnostic::error(Code::AxisMismatch, here, message).into());
    }
    Ok(lowering.graph.apply(Function::Divide, &[value, denominator]))
}

/// A term is 0 where it does not apply; each step of its reduction decides whether such tokens count. Also
/// returns the condition on the term's axis.
pub fn only_where(graph: &mut Graph, value: NodeId, when: Option<NodeId>) -> (NodeId, Option<NodeId>) {
    let Some(when) = when else { return (value, None) };
    // A loss per sequence stays one if the condition is per sequence.
    let axis = graph.axis(value).max(graph.axis(when));
    let (when, zero) = (graph.broadcast(when, axis), graph.constant(axis, 0.0));
    (graph.apply(Function::Where, &[when, value, zero]), Some(when))
}
