//! Elementwise expression graphs on tensors: what authors' formulas over the vocabulary are computed by.

use mopd_compiler::expr::batch::Batch;
use mopd_compiler::expr::graph::{Graph, NodeId, Operation};
use mopd_compiler::plan::{Function, Signal};
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
        _ => unreachable!("a checked graph gives {function:?} {} operands, not {}", function.operands(), operands.len()),
    }
}

fn minimum(a: &Tensor, b: &Tensor) -> Tensor {
    b.where_self(&b.lt_tensor(a).logical_or(&b.isnan()), a)
}

fn maximum(a: &Tensor, b: &Tensor) -> Tensor {
    b.where_self(&b.gt_tensor(a).logical_or(&b.isnan()), a)
}

/// `output`, computed element by element from live primitives, which are tensors of one kind and shape; the result has their
/// shape, or one element where it depends on none of them.
///
/// # Panics
/// If the graph reads anything else but the step, of which `time` is the number and how many there are, or puts elements
/// together: the compiler makes generators of nothing else.
pub fn elementwise(graph: &Graph, output: NodeId, live: &[&Tensor], time: (u32, u32)) -> Tensor {
    let (step, steps) = time;
    let number = |value: f64| Tensor::from(value).to_kind(live[0].kind()).to_device(live[0].device()).view([1]);
    let needed = graph.reachable(&[output]);
    let mut values: Vec<Option<Tensor>> = Vec::with_capacity(graph.len());
    for (id, node) in graph.nodes() {
        let of = |id: &NodeId| values[id.0 as usize].as_ref().expect("operands stand before their users").shallow_clone();
        values.push(needed[id.0 as usize].then(|| match &node.operation {
            Operation::Constant { value } => number(*value),
            Operation::Schedule { schedule } => number(schedule.at(step, steps)),
            Operation::Live { live: id } => live[id.0 as usize].shallow_clone(),
            Operation::Apply { function, operands } => apply(*function, &operands.iter().map(of).collect::<Vec<Tensor>>()),
            // One element is as good as many of it.
            Operation::Broadcast { operand } => of(operand),
            Operation::Signal { signal: signal @ (Signal::Step | Signal::Progress) } => {
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

#[cfg(test)]
mod tests {
    use mopd_compiler::expr::batch::Layout;
    use mopd_compiler::expr::derivative::adjoints;
    use mopd_compiler::expr::graph::LiveId;
    use mopd_compiler::expr::interpret::interpret;
    use mopd_compiler::plan::{Axis, Over, Reduction, Schedule};
    use tch::Kind;

    use super::*;

    const FUNCTIONS: [Function; 29] = {
        use Function::*;
        [
            Negate,
            Not,
            Abs,
            Exp,
            Log,
            Log1p,
            Sqrt,
            Tanh,
            Sigmoid,
            Relu,
            Cos,
            Floor,
            Add,
            Subtract,
            Multiply,
            Divide,
            Power,
            Minimum,
            Maximum,
            Equal,
            NotEqual,
            Less,
            LessEqual,
            Greater,
            GreaterEqual,
            And,
            Or,
            Clip,
            Where,
        ]
    };

    /// SplitMix64.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut x = self.0;
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((x ^ (x >> 31)) % limit as u64) as usize
        }

        /// Ordinary numbers, with equal ones among them, or what breaks careless code.
        fn numbers(&mut self, count: usize, wild: bool) -> Vec<f32> {
            const WILD: [f32; 8] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 0.0, 1e-41, 3e38, 1.0];
            let number = |_| match self.below(3) {
                0 if wild => WILD[self.below(WILD.len())],
                _ => (self.below(65) as f32 - 32.0) / 8.0,
            };
            (0..count).map(number).collect()
        }
    }

    const TOKENS: usize = 24;

    fn batch(random: &mut Random, wild: bool) -> Batch {
        let layout = Layout { sequence_of_token: vec![0; TOKENS], group_of_sequence: vec![0], groups: 1, ..Layout::default() };
        Batch { layout, live: (0..3).map(|_| random.numbers(TOKENS, wild)).collect(), step: 3, steps: 10, ..Batch::default() }
    }

    /// Some operations over three live primitives, constants, a schedule and the step.
    fn graph(random: &mut Random, size: usize) -> (Graph, NodeId) {
        let mut graph = Graph::default();
        let mut nodes: Vec<NodeId> = (0..3).map(|live| graph.live(LiveId(live))).collect();
        nodes.push(graph.constant(Axis::Run, 0.5));
        nodes.push(graph.schedule(Schedule::Linear { from: 0.25, to: 2.0, over: Over::Run }));
        nodes.push(graph.signal(Signal::Progress));
        for _ in 0..size {
            let function = FUNCTIONS[random.below(FUNCTIONS.len())];
            // The live primitives come up often, and so does what was made last.
            let mut pick = |_| match random.below(3) {
                0 => nodes[random.below(3)],
                1 => nodes[nodes.len() - 1],
                _ => nodes[random.below(nodes.len())],
            };
            let mut operands: Vec<NodeId> = (0..function.operands()).map(&mut pick).collect();
            if let (Function::Clip, &[x, one, other]) = (function, operands.as_slice()) {
                // Bounds that cross are no bounds.
                let bounds = [Function::Minimum, Function::Maximum].map(|of| graph.apply(of, &[one, other]));
                operands = vec![x, bounds[0], bounds[1]];
            }
            nodes.push(graph.apply(function, &operands));
        }
        let output = nodes[nodes.len() - 1];
        let output = graph.broadcast(output, Axis::Token);
        (graph, output)
    }

    fn values(tensor: &Tensor) -> Vec<f64> {
        let tensor = tensor.to_kind(Kind::Double).expand([TOKENS as i64], true).contiguous();
        let mut values = vec![0.0; TOKENS];
        tensor.copy_data(&mut values, TOKENS);
        values
    }

    /// Equal up to rounding of the transcendental functions, which are other code, blown up by what comes after them.
    fn agree(a: f64, b: f64) -> bool {
        a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1e-6)
    }

    fn live(batch: &Batch, gradient: bool) -> Vec<Tensor> {
        batch.live.iter().map(|values| Tensor::from_slice(values).to_kind(Kind::Double).set_requires_grad(gradient)).collect()
    }

    /// Every function alone, on numbers that break careless code.
    #[test]
    fn every_function_is_what_the_interpreter_says() {
        let mut random = Random(1);
        for function in FUNCTIONS {
            for _ in 0..20 {
                let mut graph = Graph::default();
                let operands: Vec<NodeId> = (0..function.operands()).map(|id| graph.live(LiveId(id as u32))).collect();
                let output = graph.apply(function, &operands);
                let batch = batch(&mut random, true);
                let expected = interpret(&graph, &[output], &batch).unwrap();
                let tensors = live(&batch, false);
                let got = elementwise(&graph, output, &tensors.iter().collect::<Vec<_>>(), (3, 10));
                for (token, (got, expected)) in values(&got).into_iter().zip(expected.get(output)).enumerate() {
                    let operands: Vec<f32> = batch.live.iter().map(|values| values[token]).collect();
                    assert!(agree(got, *expected), "{function:?} of {operands:?}: {got} {expected}");
                }
            }
        }
    }

    /// Values equal the interpreter's, and what libtorch differentiates equals the compiler's derivative.
    #[test]
    fn random_graphs_agree_in_value_and_derivative() {
        let mut compared = 0;
        for seed in 0..2_000 {
            let mut random = Random(seed);
            let size = 1 + random.below(8);
            let (mut graph, output) = graph(&mut random, size);
            let batch = batch(&mut random, false);
            let sum = graph.reduce(Reduction::Sum, output, Axis::Batch, None);
            let gradients = adjoints(&mut graph, sum, &[LiveId(0), LiveId(1), LiveId(2)]).expect("nothing is put together");
            let outputs: Vec<NodeId> = std::iter::once(output).chain(gradients.iter().copied()).collect();
            let expected = interpret(&graph, &outputs, &batch).unwrap();
            let of_output = expected.get(output);
            let tensors = live(&batch, true);
            let got = elementwise(&graph, output, &tensors.iter().collect::<Vec<_>>(), (3, 10));
            for (got, expected) in values(&got.detach()).into_iter().zip(of_output) {
                assert!(agree(got, *expected), "seed {seed}: {got} {expected}");
            }
            if !got.requires_grad() {
                continue;
            }
            got.expand([TOKENS as i64], true).sum(Kind::Double).backward();
            for (live, node) in tensors.iter().zip(&gradients) {
                let gradient = live.grad();
                let found = if gradient.defined() { values(&gradient) } else { vec![0.0; TOKENS] };
                for (token, (got, expected)) in found.into_iter().zip(expected.get(*node)).enumerate() {
                    // Where one side multiplies 0 by infinity the other may have left out the product.
                    if got.is_finite() && expected.is_finite() && of_output[token].is_finite() {
                        assert!(agree(got, *expected), "seed {seed}, token {token}: {got} {expected}");
                        compared += 1;
                    }
                }
            }
        }
        assert!(compared > 50_000, "only {compared} derivatives were compared");
    }
}
