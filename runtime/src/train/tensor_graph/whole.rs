//! Whole expression graphs, such as objectives, on tensors. Reductions accumulate in double precision and
//! round once, as everywhere.

use std::collections::HashMap;

use mopd_expr::aggregate;
use mopd_expr::batch::{Batch, Layout};
use mopd_expr::graph::{Graph, NodeId, Operation};
use mopd_expr::values::EvaluationError;
use mopd_plan::Axis;
use tch::{Device, Kind, Tensor};

use super::{apply, reduce};

/// The inputs of a graph, as tensors of one kind on one device.
pub struct Inputs<'a> {
    batch: &'a Batch,
    /// The live primitives, one number per token. Gradient reaches them through everything that the compiler
    /// can differentiate.
    pub(super) live: Vec<Tensor>,
    kind: Kind,
    device: Device,
}

impl<'a> Inputs<'a> {
    pub fn new(batch: &'a Batch, kind: Kind, device: Device) -> Inputs<'a> {
        let live = batch
            .live
            .iter()
            .map(|values| Tensor::from_slice(values).to_kind(kind).to_device(device))
            .collect();
        Inputs { batch, live, kind, device }
    }

    /// A number, repeated `count` times.
    fn number(&self, value: f64, count: usize) -> Tensor {
        Tensor::full([count as i64], value, (self.kind, self.device))
    }

    fn tensor<T: tch::kind::Element>(&self, values: &[T]) -> Tensor {
        Tensor::from_slice(values).to_kind(self.kind).to_device(self.device)
    }
}

/// The values of `outputs`, one number per element of each node's axis. Statistics, scans, quantiles and
/// memory are computed on the host and uploaded; everything else is computed on the device.
///
/// # Errors
/// Where the batch lacks something that the outputs read, or the graph or the layout is malformed.
pub fn evaluate(
    graph: &Graph,
    outputs: &[NodeId],
    inputs: &Inputs,
) -> Result<HashMap<NodeId, Tensor>, EvaluationError> {
    graph.check()?;
    if !graph.has(outputs) {
        return Err(EvaluationError::MissingNode);
    }
    let Inputs { batch, .. } = inputs;
    let layout = &batch.layout;
    layout.check()?;
    let mut parents = Parents { layout, device: inputs.device, known: HashMap::new() };
    let needed = graph.reachable(outputs);
    let mut values: Vec<Option<Tensor>> = Vec::with_capacity(graph.len());
    // The values that were needed on the host so far, by node.
    let mut on_host: Vec<Vec<f64>> = vec![Vec::new(); graph.len()];
    for (id, node) in graph.nodes() {
        if !needed[id.0 as usize] {
            values.push(None);
            continue;
        }
        let of = |id: NodeId| values[id.0 as usize].as_ref().expect("operands stand before their users");
        let count = layout.len(node.axis);
        values.push(Some(match &node.operation {
            Operation::Constant { value } => inputs.number(*value, count),
            Operation::Schedule { schedule } => inputs.number(schedule.at(batch.step, batch.steps), count),
            Operation::Signal { signal } => inputs.tensor(&batch.values(signal)?),
            Operation::Live { live } => {
                batch.live_values(*live)?;
                inputs.live[live.0 as usize].shallow_clone()
            }
            Operation::Apply { function, operands } => apply(
                *function,
                &operands.iter().map(|operand| of(*operand).shallow_clone()).collect::<Vec<Tensor>>(),
            ),
            Operation::Broadcast { operand } => {
                let (value, coarse) = (of(*operand), graph.axis(*operand));
                if coarse <= Axis::Batch {
                    value.expand([count as i64], true)
                } else {
                    value.index_select(0, parents.of(node.axis, coarse))
                }
            }
            Operation::Reduce { reduction, operand, mask, .. } if !reduction.needs_all() => {
                let parents = parents.of(graph.axis(*operand), node.axis);
                reduce::reduce(*reduction, of(*operand), mask.map(of), parents, count)
            }
            Operation::Reduce { .. }
            | Operation::Statistic { .. }
            | Operation::Scan { .. }
            | Operation::Memory { .. } => {
                for operand in graph.operands(id) {
                    let host = &mut on_host[operand.0 as usize];
                    if host.is_empty() {
                        *host = to_host(of(operand));
                    }
                }
                inputs.tensor(&aggregate::evaluate(graph, id, batch, |operand, index| {
                    on_host[operand.0 as usize][index]
                }))
            }
        }));
    }
    let value =
        |id: &NodeId| (*id, values[id.0 as usize].as_ref().expect("outputs are needed").shallow_clone());
    Ok(outputs.iter().map(value).collect())
}

pub(super) fn to_host(tensor: &Tensor) -> Vec<f64> {
    let tensor = tensor.detach().to_device(Device::Cpu).to_kind(Kind::Double).contiguous();
    let mut values = vec![0.0; tensor.numel()];
    let count = values.len();
    tensor.copy_data(&mut values, count);
    values
}

/// The index of the coarse element that each fine element is in, by pair of axes; made once per batch.
struct Parents<'a> {
    layout: &'a Layout,
    device: Device,
    known: HashMap<(Axis, Axis), Tensor>,
}

impl Parents<'_> {
    fn of(&mut self, fine: Axis, coarse: Axis) -> &Tensor {
        self.known.entry((fine, coarse)).or_insert_with(|| {
            let parents: Vec<i64> =
                self.layout.parents(fine, coarse).iter().map(|parent| i64::from(*parent)).collect();
            Tensor::from_slice(&parents).to_device(self.device)
        })
    }
}
