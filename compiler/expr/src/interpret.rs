//! The reference interpreter: evaluates a graph node by node, in f64.

use std::collections::HashMap;

use super::aggregate;
use super::batch::Batch;
use super::graph::{Graph, NodeId, Operation};
use super::values::{EvaluationError, Values};
use crate::graph::signals::{Function, Signal};

/// The values of `outputs` on `batch`. An error if the batch lacks something that they read.
pub fn interpret(graph: &Graph, outputs: &[NodeId], batch: &Batch) -> Result<Values<f64>, EvaluationError> {
    interpret_exact(graph, outputs, batch, &HashMap::new())
}

/// [`interpret`] where some leaves have values that are not rounded to single precision, as those of a batch
/// are. They must be as many as the batch has.
pub fn interpret_exact(
    graph: &Graph,
    outputs: &[NodeId],
    batch: &Batch,
    exact: &HashMap<NodeId, Vec<f64>>,
) -> Result<Values<f64>, EvaluationError> {
    evaluate(graph, outputs, batch, exact, Function::value, |x| x)
}

/// Evaluates with other elementwise functions, and applies `round` to the value of every node. This emulates
/// a program in single precision.
pub(super) fn evaluate(
    graph: &Graph,
    outputs: &[NodeId],
    batch: &Batch,
    exact: &HashMap<NodeId, Vec<f64>>,
    apply: impl Fn(Function, &[f64]) -> f64,
    round: fn(f64) -> f64,
) -> Result<Values<f64>, EvaluationError> {
    graph.check()?;
    if !graph.has(outputs) {
        return Err(EvaluationError::MissingNode);
    }
    let layout = &batch.layout;
    layout.check()?;
    let needed = graph.reachable(outputs);
    let mut values: Vec<Vec<f64>> = Vec::with_capacity(graph.len());
    for (id, node) in graph.nodes() {
        if !needed[id.0 as usize] {
            values.push(Vec::new());
            continue;
        }
        let of = |id: &NodeId| &values[id.0 as usize];
        let widen = |values: &[f32]| values.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
        let given = |rounded: Vec<f64>| match exact.get(&id) {
            Some(values) => {
                assert_eq!(values.len(), rounded.len(), "the same numbers, rounded and not");
                values.clone()
            }
            None => rounded,
        };
        let mut computed = match &node.operation {
            Operation::Constant { value } => vec![*value; layout.len(node.axis)],
            Operation::Schedule { schedule } => vec![schedule.at(batch.step, batch.steps)],
            Operation::Signal { signal: Signal::Measured { measure } } => batch.measured(*measure)?.to_vec(),
            Operation::Signal { signal } => given(widen(&batch.values(signal)?)),
            Operation::Live { live } => given(widen(batch.live_values(*live)?)),
            Operation::Apply { function, operands } => {
                let mut arguments = vec![0.0; operands.len()];
                let elements = (0..layout.len(node.axis)).map(|index| {
                    for (argument, operand) in arguments.iter_mut().zip(operands) {
                        *argument = of(operand)[index];
                    }
                    apply(*function, &arguments)
                });
                elements.collect()
            }
            Operation::Broadcast { operand } => {
                let coarse = graph.axis(*operand);
                (0..layout.len(node.axis))
                    .map(|index| of(operand)[layout.parent(node.axis, coarse, index)])
                    .collect()
            }
            Operation::Reduce { .. }
            | Operation::Statistic { .. }
            | Operation::Scan { .. }
            | Operation::Memory { .. } => {
                aggregate::evaluate(graph, id, batch, |operand, index| of(&operand)[index])
            }
        };
        computed.iter_mut().for_each(|x| *x = round(*x));
        values.push(computed);
    }
    Ok(Values::new(outputs.iter().map(|id| (*id, values[id.0 as usize].clone())).collect::<HashMap<_, _>>()))
}
