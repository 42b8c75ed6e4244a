//! Elementwise expression graphs on tensors of any shape, such as formulas over the vocabulary.
//! Functions are libtorch's, so results differ from the compiled program's in the last bits.
//!
//! Objectives always run as machine code on the host ([`super::objective`]). Tests check that program against
//! whole graphs on tensors.

#[cfg(test)]
mod reduce;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub mod whole;

use std::rc::Rc;

use mopd_expr::batch::Batch;
use mopd_expr::graph::{Graph, NodeId, Operation};
use mopd_ops::Backend;
use mopd_ops::expr::Arguments;
use mopd_plan::Function;
use tch::Tensor;

/// `function` element by element, as the compiler's interpreter defines it, also for non-finite values.
/// Operands have one kind and shapes that broadcast. The gradient is that of the compiler's derivative: it
/// goes through the first of two equal operands of `min` and `max`, and inside and at the bounds of `clip`.
pub fn apply(function: Function, operands: &[Tensor]) -> Tensor {
    use Function::*;
    if let Some(body) = function.body() {
        let operands: Vec<Rc<Tensor>> =
            operands.iter().map(|operand| Rc::new(operand.shallow_clone())).collect();
        let mut tensors = NodeTensors { like: &operands[0] };
        let arguments = Arguments { operands: &operands, reverse: None };
        return body.evaluate(&mut tensors, arguments).shallow_clone();
    }
    let truth = |holds: Tensor| holds.to_kind(operands[0].kind());
    match (function, operands) {
        (Negate, [x]) => x.neg(),
        (Not, [x]) => truth(x.eq(0.0)),
        // Its derivative at 0 is 0, whatever comes back: a product with the sign gives 0 * infinity.
        (Abs, [x]) => x.where_self(&x.gt(0.0), &x.neg().where_self(&x.lt(0.0), &x.detach().abs())),
        (Exp, [x]) => x.exp(),
        (Log, [x]) => x.log(),
        (Log1p, [x]) => x.log1p(),
        (Sqrt, [x]) => x.sqrt(),
        (Tanh, [x]) => x.tanh(),
        (Sigmoid, [x]) => x.sigmoid(),
        (Cos, [x]) => x.cos(),
        // No gradient flows, not even 0, which would meet infinity further back.
        (Floor, [x]) => x.detach().floor(),
        // NaN passes no gradient.
        (Relu, [x]) => x.where_self(&x.gt(0.0), &x.detach().clamp_min(0.0)),
        (Add, [a, b]) => a + b,
        (Subtract, [a, b]) => a - b,
        (Multiply, [a, b]) => a * b,
        (Divide, [a, b]) => a / b,
        (Power, [a, b]) => a.pow(b),
        (Minimum, [a, b]) => minimum(a, b),
        (Maximum, [a, b]) => maximum(a, b),
        (Equal, [a, b]) => truth(a.eq_tensor(b)),
        (NotEqual, [a, b]) => truth(a.ne_tensor(b)),
        (Less, [a, b]) => truth(a.lt_tensor(b)),
        (LessEqual, [a, b]) => truth(a.le_tensor(b)),
        (Greater, [a, b]) => truth(a.gt_tensor(b)),
        (GreaterEqual, [a, b]) => truth(a.ge_tensor(b)),
        (And, [a, b]) => truth(a.ne(0.0).logical_and(&b.ne(0.0))),
        (Or, [a, b]) => truth(a.ne(0.0).logical_or(&b.ne(0.0))),
        (Clip, [x, low, high]) => minimum(&maximum(x, low), high),
        (Where, [condition, then, otherwise]) => then.where_self(&condition.ne(0.0), otherwise),
        _ => unreachable!(
            "a checked graph gives {function:?} {} operands, not {}",
            function.operands(),
            operands.len()
        ),
    }
}

/// The evaluation of function bodies on tensors with the kind and device of `like`.
struct NodeTensors<'a> {
    like: &'a Tensor,
}

impl Backend for NodeTensors<'_> {
    type Value = Rc<Tensor>;

    fn constant(&mut self, value: f64) -> Rc<Tensor> {
        Rc::new(Tensor::full([1], value, (self.like.kind(), self.like.device())))
    }

    fn apply(&mut self, function: Function, operands: &[Rc<Tensor>]) -> Rc<Tensor> {
        let operands: Vec<Tensor> = operands.iter().map(|operand| operand.shallow_clone()).collect();
        Rc::new(apply(function, &operands))
    }
}

fn minimum(a: &Tensor, b: &Tensor) -> Tensor {
    b.where_self(&b.lt_tensor(a).logical_or(&b.isnan()), a)
}

fn maximum(a: &Tensor, b: &Tensor) -> Tensor {
    b.where_self(&b.gt_tensor(a).logical_or(&b.isnan()), a)
}

/// `output`, computed element by element from live primitives, which are tensors of one kind and shape. The
/// result has their shape, or one element where it depends on none of them. `time` is the step and the number
/// of steps.
///
/// # Panics
/// If the graph reads other signals or reduces elements: the compiler makes no such generators.
pub fn elementwise(graph: &Graph, output: NodeId, live: &[&Tensor], time: (u32, u32)) -> Tensor {
    let (step, steps) = time;
    let number =
        |value: f64| Tensor::from(value).to_kind(live[0].kind()).to_device(live[0].device()).view([1]);
    let needed = graph.reachable(&[output]);
    let mut values: Vec<Option<Tensor>> = Vec::with_capacity(graph.len());
    for (id, node) in graph.nodes() {
        let of = |id: &NodeId| {
            values[id.0 as usize].as_ref().expect("operands stand before their users").shallow_clone()
        };
        values.push(needed[id.0 as usize].then(|| match &node.operation {
            Operation::Constant { value } => number(*value),
            Operation::Schedule { schedule } => number(schedule.at(step, steps)),
            Operation::Live { live: id } => live[id.0 as usize].shallow_clone(),
            Operation::Apply { function, operands } => {
                apply(*function, &operands.iter().map(of).collect::<Vec<Tensor>>())
            }
            // One element broadcasts where it is used.
            Operation::Broadcast { operand } => of(operand),
            Operation::Signal { signal } if signal.is_of_step() => {
                let batch = Batch { step, steps, ..Batch::default() };
                number(f64::from(batch.values(signal).expect("they follow from the step")[0]))
            }
            Operation::Signal { .. }
            | Operation::Reduce { .. }
            | Operation::Statistic { .. }
            | Operation::Scan { .. }
            | Operation::Memory { .. } => {
                unreachable!("only what is elementwise comes here")
            }
        }));
    }
    values.swap_remove(output.0 as usize).expect("the output is needed")
}
