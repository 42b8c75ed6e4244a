//! The value of a term and its derivative, for one sample. The graph that is also compiled is evaluated node
//! by node, with dual numbers.

use std::collections::HashMap;

use mopd_expr::aggregate::{self, Grouping};
use mopd_expr::batch::{Batch, Layout};
use mopd_expr::graph::{Graph, NodeId, Operation};
use mopd_expr::signals::{Axis, Function, Reduction, Signal, Statistic};

use super::dual::{self, Dual, log_sum, sum};
use super::leaves::ToySample;
use super::refusal::AuditRefusal;
use super::toy_model::ToyModel;
use crate::lower::{FormulaGraph, GraphLeaf};
use mopd_experiment::StageStep;

/// Evaluates a graph in a toy model.
pub(super) struct Evaluator<'a> {
    toy: &'a ToyModel,
    lowered: &'a FormulaGraph,
    /// Whether `clip`, and `min` and `max` with a bound, are applied.
    bounds: bool,
    /// The numbers carried from earlier steps.
    carried: HashMap<NodeId, f64>,
    gates: Vec<RandomGate>,
}

/// `bernoulli(p, per: token)`: a comparison of random numbers that nothing else reads. Only its two results
/// matter, so that all draws can be enumerated.
struct RandomGate {
    node: NodeId,
    chance: NodeId,
}

/// The most draws of one sample whose results are enumerated.
const MOST_DRAWS: usize = 6;

/// The values of each node that is needed, one per element.
pub(super) struct NodeValues<'a> {
    graph: &'a Graph,
    layout: &'a Layout,
    /// The values of each node; a single one if it is the same for all elements.
    nodes: Vec<Vec<Dual>>,
}

impl NodeValues<'_> {
    pub fn at(&self, node: NodeId, element: usize) -> &Dual {
        let (node, element) = match self.graph.node(node).operation {
            Operation::Broadcast { operand } => {
                (operand, self.layout.parent(self.graph.axis(node), self.graph.axis(operand), element))
            }
            _ => (node, element),
        };
        match self.nodes[node.0 as usize].as_slice() {
            [one] => one,
            elements => &elements[element],
        }
    }

    /// The value at the element that contains element `element` of `axis`.
    pub fn around(&self, node: NodeId, axis: Axis, element: usize) -> &Dual {
        self.at(node, self.layout.parent(axis, self.graph.axis(node), element))
    }
}

/// The values of a sample for one result of its random draws, and the probability of that result.
pub(super) struct DrawnValues<'a> {
    pub values: NodeValues<'a>,
    pub probability: f64,
}

/// The gates of a graph, each of which has random numbers of its own.
fn gates(lowered: &FormulaGraph) -> Result<Vec<RandomGate>, AuditRefusal> {
    let graph = &lowered.graph;
    let is_random =
        |id: NodeId| matches!(graph.node(id).operation, Operation::Signal { signal: Signal::Uniform { .. } });
    let (mut gates, mut read) = (Vec::new(), Vec::new());
    for (id, node) in graph.nodes().filter(|(id, _)| lowered.is_needed(*id)) {
        let random: Vec<NodeId> = graph.operands(id).into_iter().filter(|id| is_random(*id)).collect();
        match (&node.operation, random.as_slice()) {
            (_, []) => {}
            (Operation::Apply { function: Function::Less, operands }, [random])
                if operands[0] == *random && !read.contains(random) =>
            {
                read.push(*random);
                gates.push(RandomGate { node: id, chance: operands[1] });
            }
            _ => return Err("its random numbers do more than decide yes or no".into()),
        }
    }
    match lowered.roots.iter().chain(&lowered.select).any(|root| is_random(*root)) {
        true => Err("its random numbers do more than decide yes or no".into()),
        false => Ok(gates),
    }
}

impl<'a> Evaluator<'a> {
    /// # Errors
    /// If a number of an earlier step is missing.
    pub fn new(
        toy: &'a ToyModel,
        lowered: &'a FormulaGraph,
        bounds: bool,
    ) -> Result<Evaluator<'a>, AuditRefusal> {
        let gates = gates(lowered)?;
        let mut evaluator = Evaluator { toy, lowered, bounds, carried: HashMap::new(), gates };
        evaluator.carried = evaluator.carried()?;
        Ok(evaluator)
    }

    /// Numbers carried from an earlier step, on another batch, so that they do not depend on the sample.
    fn carried(&self) -> Result<HashMap<NodeId, f64>, AuditRefusal> {
        let memories: Vec<(NodeId, NodeId)> = self
            .lowered
            .graph
            .nodes()
            .filter(|(id, _)| self.lowered.is_needed(*id))
            .filter_map(|(id, node)| match node.operation {
                Operation::Memory { operand, .. } => Some((id, operand)),
                _ => None,
            })
            .collect();
        let Some(toy) = self.toy.before.as_ref().filter(|_| !memories.is_empty()) else {
            // One earlier step is enough: the numbers that it carries from before may be arbitrary.
            let chance = self.toy.chance("memory", &[]);
            return Ok(memories.into_iter().map(|(id, _)| (id, chance)).collect());
        };
        let earlier = Evaluator::new(toy, self.lowered, self.bounds)?;
        let outcome = toy.typical();
        let sample = ToySample::new(toy, &outcome, self.bounds);
        let draws = vec![true; earlier.draws(&sample)?];
        let values = earlier.run(&sample, &draws)?.values;
        Ok(memories.into_iter().map(|(id, operand)| (id, values.at(operand, 0).value)).collect())
    }

    /// The values for every result of the random draws.
    ///
    /// # Errors
    /// A description of what the toy model lacks, or why the draws can't be enumerated.
    pub fn each_draw<'s>(
        &'s self,
        sample: &'s ToySample,
    ) -> Result<impl Iterator<Item = Result<DrawnValues<'s>, AuditRefusal>>, AuditRefusal> {
        let count = self.draws(sample)?;
        Ok((0..1_usize << count).map(move |number| {
            let draws: Vec<bool> = (0..count).map(|draw| number >> draw & 1 == 1).collect();
            self.run(sample, &draws)
        }))
    }

    /// The number of random draws of a sample.
    fn draws(&self, sample: &ToySample) -> Result<usize, AuditRefusal> {
        let of_gate = |gate: &RandomGate| sample.layout.len(self.lowered.graph.axis(gate.node));
        match self.gates.iter().map(of_gate).sum() {
            count if count <= MOST_DRAWS => Ok(count),
            count => Err(format!("its {count} random draws have too many results to enumerate").into()),
        }
    }

    /// The values for these results of the random draws, gate after gate and element after element.
    fn run<'s>(&'s self, sample: &'s ToySample, draws: &[bool]) -> Result<DrawnValues<'s>, AuditRefusal> {
        let (graph, layout) = (&self.lowered.graph, &sample.layout);
        let mut values = NodeValues { graph, layout, nodes: Vec::with_capacity(graph.len()) };
        let mut by_gate = HashMap::new();
        let mut rest = draws;
        for gate in &self.gates {
            let (of_gate, others) = rest.split_at(layout.len(graph.axis(gate.node)));
            by_gate.insert(gate.node, of_gate);
            rest = others;
        }
        for (id, node) in graph.nodes() {
            let elements = match (by_gate.get(&id), &node.operation) {
                (Some(draws), _) => {
                    draws.iter().map(|holds| Dual::plain(f64::from(u8::from(*holds)))).collect()
                }
                // Only gates read random numbers.
                (None, Operation::Signal { signal: Signal::Uniform { .. } }) => Vec::new(),
                _ if !self.lowered.is_needed(id) => Vec::new(),
                _ => self.node(id, sample, &values)?,
            };
            values.nodes.push(elements);
        }
        let mut probability = 1.0;
        for gate in &self.gates {
            for (index, holds) in by_gate[&gate.node].iter().enumerate() {
                let chance = values.around(gate.chance, graph.axis(gate.node), index).value.clamp(0.0, 1.0);
                probability *= if *holds { chance } else { 1.0 - chance };
            }
        }
        Ok(DrawnValues { values, probability })
    }

    fn node(&self, id: NodeId, sample: &ToySample, values: &NodeValues) -> Result<Vec<Dual>, AuditRefusal> {
        let (graph, layout) = (&self.lowered.graph, &sample.layout);
        let axis = graph.axis(id);
        let passes =
            |mask: Option<NodeId>| move |index: usize| mask.is_none_or(|mask| values.at(mask, index).truth());
        Ok(match &graph.node(id).operation {
            Operation::Constant { value } => vec![Dual::plain(*value)],
            Operation::Schedule { schedule } => {
                vec![Dual::plain(self.toy.run.schedule(schedule, self.toy.step))]
            }
            Operation::Signal { .. } | Operation::Live { .. } => {
                let Some(leaf) = self.lowered.leaf(id) else {
                    return Err("it has a number that no toy model knows".into());
                };
                let parameters = |token: usize| -> Vec<f64> {
                    leaf.operands.iter().map(|node| values.around(*node, Axis::Token, token).value).collect()
                };
                sample.leaf(leaf, &parameters)?
            }
            // The values are those of its operand: see [`NodeValues::at`].
            Operation::Broadcast { .. } => Vec::new(),
            Operation::Apply { function, operands } => {
                if let Some(unbounded) = bounded(graph, id).filter(|_| !self.bounds) {
                    return Ok((0..layout.len(axis))
                        .map(|index| values.at(unbounded, index).clone())
                        .collect());
                }
                let mut arguments: Vec<&Dual> = Vec::with_capacity(operands.len());
                let each = (0..layout.len(axis)).map(|index| {
                    arguments.clear();
                    arguments.extend(operands.iter().map(|operand| values.at(*operand, index)));
                    dual::apply(*function, &arguments)
                });
                each.collect()
            }
            Operation::Reduce { reduction, operand, mask, fraction } => {
                let grouping = Grouping { axis: graph.axis(*operand), over: axis };
                let members = aggregate::members(layout, grouping, passes(*mask));
                let each = members.iter().enumerate().map(|(parent, members)| {
                    let members: Vec<&Dual> =
                        members.iter().map(|index| values.at(*operand, *index)).collect();
                    let fraction = fraction.map(|fraction| values.at(fraction, parent).value);
                    reduced(fraction.map_or(*reduction, |by| reduction.with_fraction(by)), &members)
                });
                each.collect()
            }
            Operation::Statistic { statistic, operand, over, mask, fraction, .. } => {
                let mut elements = vec![Dual::plain(0.0); layout.len(axis)];
                let members = aggregate::members(layout, Grouping { axis, over: *over }, passes(*mask));
                for (parent, members) in members.into_iter().enumerate() {
                    let fraction = fraction.map(|fraction| values.at(fraction, parent).value);
                    let statistic = fraction.map_or(*statistic, |by| statistic.with_fraction(by));
                    let numbers: Vec<f64> =
                        members.iter().map(|index| values.at(*operand, *index).value).collect();
                    for (index, result) in members.into_iter().zip(compare(statistic, &numbers)?) {
                        elements[index] = Dual::plain(result);
                    }
                }
                elements
            }
            Operation::Scan { .. } | Operation::Memory { .. } => {
                let value = |node: NodeId, index: usize| values.at(node, index).value;
                let carried = self.carried.clone();
                let batch = Batch { layout: layout.clone(), carried, ..Batch::default() };
                aggregate::evaluate(graph, id, &batch, value).into_iter().map(Dual::plain).collect()
            }
        })
    }
}

/// The value of a formula that depends on one element only, at a step of the run. `None` if a leaf has no
/// value, or the formula is not of this kind.
pub(super) fn elementwise(
    lowered: &FormulaGraph,
    step: StageStep,
    leaf: &dyn Fn(&GraphLeaf) -> Option<Dual>,
) -> Option<Dual> {
    let graph = &lowered.graph;
    let mut values: Vec<Option<Dual>> = Vec::with_capacity(graph.len());
    for (id, node) in graph.nodes() {
        let of = |id: &NodeId| values[id.0 as usize].as_ref();
        let value = match &node.operation {
            _ if !lowered.is_needed(id) => None,
            Operation::Constant { value } => Some(Dual::plain(*value)),
            Operation::Schedule { schedule } => Some(Dual::plain(schedule.at(step.step, step.steps))),
            Operation::Signal { .. } | Operation::Live { .. } => lowered.leaf(id).and_then(leaf),
            Operation::Broadcast { operand } => of(operand).cloned(),
            Operation::Apply { function, operands } => {
                let operands: Option<Vec<&Dual>> = operands.iter().map(of).collect();
                operands.map(|operands| dual::apply(*function, &operands))
            }
            _ => None,
        };
        values.push(value);
    }
    values.swap_remove(lowered.roots[0].0 as usize)
}

/// [`elementwise`] of probabilities that are given by their logarithms. The logarithm of a product, quotient,
/// power or sum of them is computed from these logarithms, however small the probabilities are.
pub(super) fn of_probabilities(
    lowered: &FormulaGraph,
    step: StageStep,
    probability: &dyn Fn(&GraphLeaf) -> Option<Dual>,
    log_probability: &dyn Fn(&GraphLeaf) -> Option<Dual>,
) -> Option<Dual> {
    let graph = &lowered.graph;
    let mut logs: Vec<Option<Dual>> = Vec::with_capacity(graph.len());
    let mut values: Vec<Option<Dual>> = Vec::with_capacity(graph.len());
    for (id, node) in graph.nodes() {
        if !lowered.is_needed(id) {
            logs.push(None);
            values.push(None);
            continue;
        }
        let of = |id: &NodeId| values[id.0 as usize].as_ref();
        let log_of = |id: &NodeId| logs[id.0 as usize].as_ref();
        let (value, log) = match &node.operation {
            Operation::Constant { value } => {
                (Some(Dual::plain(*value)), (*value > 0.0).then(|| Dual::plain(value.ln())))
            }
            Operation::Schedule { schedule } => {
                let value = schedule.at(step.step, step.steps);
                (Some(Dual::plain(value)), (value > 0.0).then(|| Dual::plain(value.ln())))
            }
            Operation::Signal { .. } | Operation::Live { .. } => {
                let leaf = lowered.leaf(id);
                (leaf.and_then(probability), leaf.and_then(log_probability))
            }
            Operation::Broadcast { operand } => (of(operand).cloned(), log_of(operand).cloned()),
            Operation::Apply { function, operands } => {
                let given: Option<Vec<&Dual>> = operands.iter().map(of).collect();
                let value = match (function, operands.as_slice()) {
                    (Function::Log, [x]) if log_of(x).is_some() => log_of(x).cloned(),
                    _ => given.map(|given| dual::apply(*function, &given)),
                };
                (value, log_of_apply(*function, operands, &of, &log_of))
            }
            _ => (None, None),
        };
        logs.push(log);
        values.push(value);
    }
    values.swap_remove(lowered.roots[0].0 as usize)
}

/// The logarithm of a function of positive numbers, from their logarithms. `None` if that is impossible.
fn log_of_apply<'a>(
    function: Function,
    operands: &[NodeId],
    of: &dyn Fn(&NodeId) -> Option<&'a Dual>,
    log_of: &dyn Fn(&NodeId) -> Option<&'a Dual>,
) -> Option<Dual> {
    match (function, operands) {
        (Function::Multiply, [a, b]) => Some(log_of(a)?.add(log_of(b)?)),
        (Function::Divide, [a, b]) => Some(log_of(a)?.subtract(log_of(b)?)),
        (Function::Add, [a, b]) => Some(log_sum([(1.0, log_of(a)?), (1.0, log_of(b)?)])),
        (Function::Power, [x, exponent]) => Some(log_of(x)?.multiply(of(exponent)?)),
        (Function::Sqrt, [x]) => Some(log_of(x)?.scale(0.5)),
        (Function::Exp, [x]) => of(x).cloned(),
        _ => None,
    }
}

/// The operand that a node bounds by constants. `None` if it does not.
pub(super) fn bounded(graph: &Graph, id: NodeId) -> Option<NodeId> {
    let Operation::Apply { function, operands } = &graph.node(id).operation else { return None };
    let of_run = |id: &NodeId| match graph.node(*id).operation {
        Operation::Constant { .. } => true,
        Operation::Broadcast { operand } => graph.axis(operand) == Axis::Run,
        _ => graph.axis(*id) == Axis::Run,
    };
    match (function, operands.as_slice()) {
        (Function::Clip, [x, ..]) if !of_run(x) => Some(*x),
        (Function::Minimum | Function::Maximum, [x, y]) => match (of_run(x), of_run(y)) {
            (false, true) => Some(*x),
            (true, false) => Some(*y),
            _ => None,
        },
        _ => None,
    }
}

/// A reduction, with the value and gradient of the operators' table. Its sums cancel as sums of two do.
fn reduced(reduction: Reduction, members: &[&Dual]) -> Dual {
    match reduction {
        Reduction::Sum | Reduction::Mean if !members.is_empty() => {
            let sum = sum(members.iter().copied());
            if reduction == Reduction::Sum { sum } else { sum.scale(1.0 / members.len() as f64) }
        }
        _ => {
            let values: Vec<f64> = members.iter().map(|member| member.value).collect();
            let shares = reduction.partials(&values).unwrap_or_default();
            let live = members.iter().zip(shares).filter(|(_, share)| *share != 0.0);
            let gradient =
                sum(live.map(|(member, share)| member.scale(share)).collect::<Vec<_>>().iter()).gradient;
            Dual { value: reduction.value(&values), gradient }
        }
    }
}

/// A statistic of some peers, without the epsilon that a z-score adds to the deviation.
fn compare(statistic: Statistic, values: &[f64]) -> Result<Vec<f64>, AuditRefusal> {
    match statistic {
        _ if values.is_empty() => Ok(Vec::new()),
        Statistic::Chunks { .. } => Err(format!("`{}` can't be enumerated", statistic.name()).into()),
        _ => statistic
            .exact(values)
            .ok_or_else(|| format!("`{}` can't be enumerated", statistic.name()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reductions_over_no_elements_have_the_tables_values() {
        for reduction in Reduction::EACH {
            assert_eq!(reduced(reduction, &[]), Dual::plain(reduction.of_none()), "{reduction:?}");
        }
    }
}
