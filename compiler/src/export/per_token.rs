//! Splits a loss into one number per token and an aggregation of them, for engines that see only a part of
//! the batch at a time (whole sequences).

use mopd_expr::graph::{Graph, NodeId, Operation};
use mopd_expr::signals::{Axis, Function, Reduction, Signal};

use super::torch::{Unprintable, signal_name};

/// How numbers per token become the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregation {
    /// The mean over the tokens of the batch.
    MeanOfTokens,
    /// Each sequence's mean, then their mean.
    MeanOfSequenceMeans,
    /// Each sequence's sum, then the mean of those.
    MeanOfSequenceSums,
    /// The sum over the tokens of the batch.
    Sum,
}

pub struct PerToken {
    pub graph: Graph,
    /// The loss per token, before aggregation.
    pub losses: NodeId,
    pub aggregation: Aggregation,
}

/// A summand of a loss, with its own aggregation.
struct Part {
    /// Its value per token.
    value: NodeId,
    aggregation: Aggregation,
}

/// Splits a loss. Groups of a batch must have equal sizes, as all engines draw them.
///
/// # Errors
/// If a sequence's share of the loss depends on other sequences, or if the summands need aggregations that
/// no engine has at once.
pub fn split(of: &Graph, loss: NodeId) -> Result<PerToken, Vec<Unprintable>> {
    let mut graph = of.clone();
    let parts = parts(&mut graph, loss).map_err(|found| vec![found])?;
    let first = parts[0].aggregation;
    let mut losses = Vec::with_capacity(parts.len());
    let aggregation = if parts.iter().all(|part| part.aggregation == first) {
        first
    } else {
        Aggregation::MeanOfSequenceSums
    };
    for part in parts {
        let value = match (part.aggregation, aggregation) {
            (own, all) if own == all => part.value,
            (Aggregation::MeanOfSequenceMeans, Aggregation::MeanOfSequenceSums) => {
                over_length(&mut graph, part.value)
            }
            _ => {
                let why = "an engine averages the whole loss over tokens, or the whole loss over sequences";
                return Err(vec![unprintable("terms with different reductions", why)]);
            }
        };
        losses.push(value);
    }
    let losses =
        losses.into_iter().reduce(|a, b| graph.apply(Function::Add, &[a, b])).expect("a loss has a part");
    let found = across_sequences(&graph, losses);
    if found.is_empty() { Ok(PerToken { graph, losses, aggregation }) } else { Err(found) }
}

fn unprintable(construct: impl Into<String>, why: impl Into<String>) -> Unprintable {
    Unprintable { construct: construct.into(), why: why.into() }
}

fn parts(graph: &mut Graph, id: NodeId) -> Result<Vec<Part>, Unprintable> {
    let node = graph.node(id).clone();
    let scaled =
        |graph: &mut Graph, parts: Vec<Part>, function: Function, by: Option<NodeId>, first: bool| {
            let scale = |part: Part| {
                let by = by.map(|by| graph.broadcast(by, Axis::Token));
                let operands = match by {
                    None => vec![part.value],
                    Some(by) if first => vec![by, part.value],
                    Some(by) => vec![part.value, by],
                };
                Part { value: graph.apply(function, &operands), ..part }
            };
            Ok(parts.into_iter().map(scale).collect())
        };
    match node.operation {
        Operation::Broadcast { operand } => parts(graph, operand),
        Operation::Apply { function: Function::Add, operands } => {
            let mut all = parts(graph, operands[0])?;
            all.extend(parts(graph, operands[1])?);
            Ok(all)
        }
        Operation::Apply { function: Function::Subtract, operands } => {
            let mut all = parts(graph, operands[0])?;
            let negative = parts(graph, operands[1])?;
            let negative: Vec<Part> = scaled(graph, negative, Function::Negate, None, false)?;
            all.extend(negative);
            Ok(all)
        }
        Operation::Apply { function: Function::Negate, operands } => {
            let of = parts(graph, operands[0])?;
            scaled(graph, of, Function::Negate, None, false)
        }
        Operation::Apply { function: Function::Multiply, operands } if of_run(graph, operands[0]) => {
            let of = parts(graph, operands[1])?;
            scaled(graph, of, Function::Multiply, Some(operands[0]), true)
        }
        Operation::Apply { function: function @ (Function::Multiply | Function::Divide), operands }
            if of_run(graph, operands[1]) =>
        {
            let of = parts(graph, operands[0])?;
            scaled(graph, of, function, Some(operands[1]), false)
        }
        Operation::Reduce { reduction, operand, mask } if node.axis <= Axis::Batch => {
            reduced(graph, reduction, operand, mask).map(|part| vec![part])
        }
        _ => Err(unprintable(
            "a loss that is not a sum of means over tokens or sequences",
            "an engine averages one number per token",
        )),
    }
}

/// Whether it is one number for the whole run or step, made of constants and the step alone.
fn of_run(graph: &Graph, id: NodeId) -> bool {
    let needed = graph.reachable(&[id]);
    graph.nodes().filter(|(id, _)| needed[id.0 as usize]).all(|(_, node)| {
        node.axis <= Axis::Batch
            && !matches!(node.operation, Operation::Reduce { .. } | Operation::Live { .. })
    })
}

/// The per-token value and aggregation of a reduction to one number per batch.
fn reduced(
    graph: &mut Graph,
    reduction: Reduction,
    operand: NodeId,
    mask: Option<NodeId>,
) -> Result<Part, Unprintable> {
    let over = graph.axis(operand);
    let masked = mask.is_some();
    match (over, reduction) {
        (Axis::Token, Reduction::Mean) if !masked => {
            Ok(Part { value: operand, aggregation: Aggregation::MeanOfTokens })
        }
        (Axis::Token, Reduction::Mean) => Err(unprintable(
            "the mean over the selected tokens of the batch",
            "an engine divides by the number of all tokens of the batch",
        )),
        (Axis::Token, Reduction::Sum) => {
            let value = only_where(graph, operand, mask);
            Ok(Part { value, aggregation: Aggregation::Sum })
        }
        (Axis::Group, Reduction::Mean) if !masked => match graph.node(operand).operation.clone() {
            Operation::Reduce { reduction: Reduction::Mean, operand, mask: None }
                if graph.axis(operand) == Axis::Sequence =>
            {
                Ok(of_sequences(graph, operand))
            }
            _ => Err(across("a number per group")),
        },
        (Axis::Sequence, Reduction::Mean) if !masked => Ok(of_sequences(graph, operand)),
        (axis, _) => Err(unprintable(
            format!(
                "`{}({})`{}",
                reduction.name(),
                axis.name(),
                if masked { " over a selection" } else { "" }
            ),
            "an engine averages over all sequences of the batch",
        )),
    }
}

/// The part for the mean over sequences of `value`, a number per sequence.
fn of_sequences(graph: &mut Graph, value: NodeId) -> Part {
    if let Operation::Reduce { reduction, operand, mask } = graph.node(value).operation.clone()
        && graph.axis(operand) == Axis::Token
    {
        match (reduction, mask) {
            (Reduction::Mean, None) => {
                return Part { value: operand, aggregation: Aggregation::MeanOfSequenceMeans };
            }
            (Reduction::Sum, mask) => {
                let value = only_where(graph, operand, mask);
                return Part { value, aggregation: Aggregation::MeanOfSequenceSums };
            }
            _ => {}
        }
    }
    // The number is spread evenly over the tokens of its sequence.
    let value = graph.broadcast(value, Axis::Token);
    let value = over_length(graph, value);
    Part { value, aggregation: Aggregation::MeanOfSequenceSums }
}

fn over_length(graph: &mut Graph, value: NodeId) -> NodeId {
    let length = graph.signal(Signal::Length);
    let length = graph.broadcast(length, Axis::Token);
    graph.apply(Function::Divide, &[value, length])
}

fn only_where(graph: &mut Graph, value: NodeId, mask: Option<NodeId>) -> NodeId {
    let Some(mask) = mask else { return value };
    let zero = graph.constant(Axis::Token, 0.0);
    graph.apply(Function::Where, &[mask, value, zero])
}

fn across(construct: &str) -> Unprintable {
    unprintable(construct, "an engine computes the loss of a part of the batch at a time")
}

/// All nodes that the losses depend on and that combine several sequences.
fn across_sequences(graph: &Graph, losses: NodeId) -> Vec<Unprintable> {
    let needed = graph.reachable(&[losses]);
    let mut found = Vec::new();
    for (id, node) in graph.nodes().filter(|(id, _)| needed[id.0 as usize]) {
        let construct = match &node.operation {
            Operation::Reduce { reduction, operand, .. }
                if node.axis < Axis::Sequence && graph.axis(*operand) > node.axis =>
            {
                format!("`{}` over the {}", reduction.name(), node.axis.name())
            }
            Operation::Statistic { statistic, over, .. } if *over < Axis::Sequence => {
                format!("`{}` over the {}", statistic.name(), over.name())
            }
            Operation::Scan { scan, over, .. } if *over < Axis::Sequence => {
                format!("`{}` over the {}", scan.name(), over.name())
            }
            // The engine's own reason is reported.
            Operation::Signal { signal: Signal::DomainPlace } => continue,
            Operation::Signal { signal } if matches!(node.axis, Axis::Group | Axis::Domain | Axis::Batch) => {
                format!("`{}`, a number per {}", signal_name(signal), node.axis.name())
            }
            _ => continue,
        };
        let _ = id;
        let line = across(&construct);
        if !found.contains(&line) {
            found.push(line);
        }
    }
    found
}
