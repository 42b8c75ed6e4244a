//! Expression graphs on tensors.

use mopd_compiler::expr::graph::{Graph, NodeId, Operation};
use mopd_compiler::plan::Function;
use tch::Tensor;

/// `function`, element by element, as the compiler's interpreter defines it, non-finite values included; operands of one kind, of
/// shapes that broadcast. Gradient flows where and how the compiler's derivative says: through the first of two equals in `min`
/// and `max`, inside and at the bounds of `clip`.
pub fn apply(function: Function, operands: &[Tensor]) -> Tensor {
    use Function::*;
    let truth = |holds: Tensor| holds.to_kind(operands[0].kind());
    match (function, operands) {
        (Negate, [x]) => x.neg(),
        (Not, [x]) => truth(x.eq(0.0)),
        (Abs, [x]) => x.abs(),
        (Exp, [x]) => x.exp(),
        (Log, [x]) => x.log(),
        (Log1p, [x]) => x.log1p(),
        (Sqrt, [x]) => x.sqrt(),
        (Tanh, [x]) => x.tanh(),
        (Sigmoid, [x]) => x.sigmoid(),
        (Cos, [x]) => x.cos(),
        (Floor, [x]) => x.floor(),
        (Relu, [x]) => x.relu(),
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
        _ => unreachable!("a checked graph gives {function:?} {} operands, not {}", function.operands(), operands.len()),
    }
}

fn minimum(a: &Tensor, b: &Tensor) -> Tensor {
    b.where_self(&b.lt_tensor(a).logical_or(&b.isnan()), a)
}

fn maximum(a: &Tensor, b: &Tensor) -> Tensor {
    b.where_self(&b.gt_tensor(a).logical_or(&b.isnan()), a)
}

/// `output` as a function of live primitive 0, at every element of `variable`: of its shape, or of one element where it does
/// not depend on the variable.
///
/// # Panics
/// If the graph reads anything else but the step, of which `time` is the number and how many there are: the compiler makes
/// generators of nothing else.
pub fn of_one_variable(graph: &Graph, output: NodeId, variable: &Tensor, time: (u32, u32)) -> Tensor {
    let (step, steps) = time;
    let number = |value: f64| Tensor::from(value).to_kind(variable.kind()).to_device(variable.device()).view([1]);
    let needed = graph.reachable(&[output]);
    let mut values: Vec<Option<Tensor>> = Vec::with_capacity(graph.len());
    for (id, node) in graph.nodes() {
        let of = |id: &NodeId| values[id.0 as usize].as_ref().expect("operands stand before their users").shallow_clone();
        values.push(needed[id.0 as usize].then(|| match &node.operation {
            Operation::Constant { value } => number(*value),
            Operation::Schedule { schedule } => number(schedule.at(step, steps)),
            Operation::Live { .. } => variable.shallow_clone(),
            Operation::Apply { function, operands } => apply(*function, &operands.iter().map(of).collect::<Vec<Tensor>>()),
            // One element is as good as many of it.
            Operation::Broadcast { operand } => of(operand),
            Operation::Signal { signal: mopd_compiler::plan::Signal::Step } => number(f64::from(step)),
            Operation::Signal { signal: mopd_compiler::plan::Signal::Progress } => {
                number(f64::from(step) / f64::from(steps.max(1)))
            }
            Operation::Signal { .. }
            | Operation::Reduce { .. }
            | Operation::Statistic { .. }
            | Operation::Scan { .. }
            | Operation::Memory { .. } => {
                unreachable!("a generator is computed from its variable and the step")
            }
        }));
    }
    values.swap_remove(output.0 as usize).expect("the output is needed")
}
