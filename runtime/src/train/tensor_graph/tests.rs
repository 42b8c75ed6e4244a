//! Tensors against the interpreter, and libtorch's derivative against the compiler's.

use mopd_expr::batch::Layout;
use mopd_expr::derivative::adjoints;
use mopd_expr::graph::LiveId;
use mopd_expr::interpret::interpret;
use mopd_expr::testing::{AXES, Random};
use mopd_plan::{Axis, PlainSignal, Reduction, Schedule, ScheduleLength};
use tch::{Device, Kind};

use super::whole::{Inputs, evaluate, to_host};
use super::*;

/// Ordinary numbers, some of them equal; or, if `wild`, numbers that break careless code.
fn numbers(random: &mut Random, count: usize, wild: bool) -> Vec<f32> {
    const WILD: [f32; 8] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 0.0, 1e-41, 3e38, 1.0];
    let number = |_| match random.below(3) {
        0 if wild => random.pick(&WILD),
        _ => (random.below(65) as f32 - 32.0) / 8.0,
    };
    (0..count).map(number).collect()
}

const TOKENS: usize = 24;

fn batch(random: &mut Random, wild: bool) -> Batch {
    let layout = Layout {
        sequence_of_token: vec![0; TOKENS],
        group_of_sequence: vec![0],
        groups: 1,
        ..Layout::default()
    };
    Batch {
        layout,
        live: (0..3).map(|_| numbers(random, TOKENS, wild)).collect(),
        step: 3,
        steps: 10,
        ..Batch::default()
    }
}

/// Some operations over three live primitives, constants, a schedule and the step.
fn graph(random: &mut Random, size: usize) -> (Graph, NodeId) {
    let mut graph = Graph::default();
    let mut nodes: Vec<NodeId> = (0..3).map(|live| graph.live(LiveId(live))).collect();
    nodes.push(graph.constant(Axis::Run, 0.5));
    nodes.push(graph.schedule(Schedule::Linear { from: 0.25, to: 2.0, over: ScheduleLength::Run }));
    nodes.push(graph.signal(PlainSignal::Progress));
    for _ in 0..size {
        let function = random.pick(Function::ALL);
        // Live primitives and the latest nodes are picked often.
        let mut pick = |_| match random.below(3) {
            0 => nodes[random.below(3)],
            1 => nodes[nodes.len() - 1],
            _ => nodes[random.below(nodes.len())],
        };
        let mut operands: Vec<NodeId> = (0..function.operands()).map(&mut pick).collect();
        if let (Function::Clip, &[x, one, other]) = (function, operands.as_slice()) {
            // Bounds must not cross.
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

/// Equal up to rounding of the transcendental functions, whose implementations differ, amplified by later
/// operations.
fn agree(a: f64, b: f64) -> bool {
    agree_to(1e-9, a, b)
}

fn agree_to(share: f64, a: f64, b: f64) -> bool {
    let close = || a.is_finite() && b.is_finite() && (a - b).abs() <= share * a.abs().max(b.abs()).max(1e-6);
    a == b || (a.is_nan() && b.is_nan()) || close()
}

/// Both finite and equal up to rounding, or neither finite: which of NaN and an infinity results depends on
/// the order of the products.
fn same_gradient(share: f64, a: f64, b: f64) -> bool {
    match (a.is_finite(), b.is_finite()) {
        (true, true) => agree_to(share, a, b),
        (a, b) => a == b,
    }
}

fn live(batch: &Batch, gradient: bool) -> Vec<Tensor> {
    batch
        .live
        .iter()
        .map(|values| Tensor::from_slice(values).to_kind(Kind::Double).set_requires_grad(gradient))
        .collect()
}

/// Every function alone, on numbers that break careless code.
#[test]
fn every_function_is_what_the_interpreter_says() {
    let mut random = Random(1);
    for function in Function::ALL.iter().copied() {
        for _ in 0..20 {
            let mut graph = Graph::default();
            let operands: Vec<NodeId> =
                (0..function.operands()).map(|id| graph.live(LiveId(id as u32))).collect();
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

/// Values equal the interpreter's, and libtorch's derivatives equal the compiler's.
#[test]
fn random_graphs_agree_in_value_and_derivative() {
    let mut compared = 0;
    for seed in 0..2_000 {
        let mut random = Random(seed);
        let size = 1 + random.below(8);
        let (mut graph, output) = graph(&mut random, size);
        let batch = batch(&mut random, false);
        let sum = graph.reduce(Reduction::Sum, output, Axis::Batch, None);
        let gradients =
            adjoints(&mut graph, sum, &[LiveId(0), LiveId(1), LiveId(2)]).expect("nothing is put together");
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
        let chooses = graph
            .nodes()
            .any(|(_, node)| matches!(node.operation, Operation::Apply { function: Function::Where, .. }));
        for (live, node) in tensors.iter().zip(&gradients) {
            let gradient = live.grad();
            let found = if gradient.defined() { values(&gradient) } else { vec![0.0; TOKENS] };
            for (token, (got, expected)) in found.into_iter().zip(expected.get(*node)).enumerate() {
                if of_output[token].is_finite() {
                    // In a branch that is not taken, 0 times infinity is NaN in libtorch, and 0 in ours.
                    let left_out = chooses && got.is_nan() && expected.is_finite();
                    assert!(
                        left_out || same_gradient(1e-9, got, *expected),
                        "seed {seed}, token {token}: {got} {expected}\n{}",
                        graph.listing(&[output])
                    );
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 50_000, "only {compared} derivatives were compared");
}

/// Whole graphs: ragged layouts with and without domains, turns and blocks, statistics, scans, masks and
/// memory. Every node is compared, not only the outputs.
#[test]
fn random_whole_graphs_agree() {
    let mut compared = 0;
    for seed in 0..10_000 {
        let mut random = Random(seed);
        let size = 1 + random.below(24);
        let (graph, outputs) = random.graph(size, 2);
        let layout = random.layout();
        let batch = random.batch(layout, 2, if seed % 2 == 0 { Random::number } else { Random::wild_number });
        let needed = graph.reachable(&outputs);
        let nodes: Vec<NodeId> = graph.nodes().map(|(id, _)| id).filter(|id| needed[id.0 as usize]).collect();
        let expected = interpret(&graph, &nodes, &batch).expect("the batch has everything");
        let got = evaluate(&graph, &nodes, &Inputs::new(&batch, Kind::Double, Device::Cpu))
            .expect("the batch has everything");
        for node in nodes {
            let (got, expected) = (to_host(&got[&node]), expected.get(node));
            assert_eq!(got.len(), expected.len(), "seed {seed}");
            for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
                let listing = || graph.listing(&[node]);
                assert!(
                    agree(*got, *expected),
                    "seed {seed}, element {index}: {got} is not {expected}\n{}",
                    listing()
                );
            }
            compared += 1;
        }
    }
    assert!(compared > 25_000, "only {compared} nodes were compared");
}

/// Some operations over three live primitives and leaves of other axes: functions, and reductions of the
/// kinds that have a derivative, of some elements or all.
fn differentiable(random: &mut Random, size: usize) -> (Graph, NodeId) {
    const REDUCTIONS: [Reduction; 6] = [
        Reduction::Sum,
        Reduction::Mean,
        Reduction::Minimum,
        Reduction::Maximum,
        Reduction::First,
        Reduction::Last,
    ];
    let mut graph = Graph::default();
    let mut nodes: Vec<NodeId> = (0..3).map(|live| graph.live(LiveId(live))).collect();
    nodes.push(graph.signal(PlainSignal::Reward));
    nodes.push(graph.signal(PlainSignal::Position));
    nodes.push(graph.constant(Axis::Run, 0.5));
    for _ in 0..size {
        let operand = if random.below(2) == 0 { nodes[nodes.len() - 1] } else { random.pick(&nodes) };
        let coarser: Vec<Axis> = AXES.into_iter().filter(|axis| *axis < graph.axis(operand)).collect();
        let node = if random.below(3) == 0 && !coarser.is_empty() {
            let mask = (random.below(2) == 0).then(|| random.pick(&nodes));
            let mask = mask.filter(|mask| graph.axis(*mask) <= graph.axis(operand));
            let mask = mask.map(|mask| graph.broadcast(mask, graph.axis(operand)));
            graph.reduce(random.pick(&REDUCTIONS), operand, random.pick(&coarser), mask)
        } else {
            let function = random.pick(Function::ALL);
            let mut operands: Vec<NodeId> = (0..function.operands()).map(|_| random.pick(&nodes)).collect();
            operands[0] = operand;
            if let (Function::Clip, &[x, one, other]) = (function, operands.as_slice()) {
                // Bounds must not cross.
                operands = vec![
                    x,
                    graph.apply(Function::Minimum, &[one, other]),
                    graph.apply(Function::Maximum, &[one, other]),
                ];
            }
            graph.apply(function, &operands)
        };
        nodes.push(node);
    }
    let last = graph.broadcast(nodes[nodes.len() - 1], Axis::Token);
    let loss = graph.reduce(Reduction::Mean, last, Axis::Batch, None);
    (graph, loss)
}

/// libtorch's derivatives of whole graphs equal the compiler's.
#[test]
fn derivatives_of_random_whole_graphs_agree() {
    let (mut graphs, mut moving) = (0, 0);
    for seed in 0..10_000 {
        let mut random = Random(seed);
        let size = 1 + random.below(10);
        let (mut graph, loss) = differentiable(&mut random, size);
        let gradients =
            adjoints(&mut graph, loss, &[LiveId(0), LiveId(1), LiveId(2)]).expect("all have a derivative");
        let layout = random.layout();
        let batch = random.batch(layout, 3, Random::number);
        let outputs: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
        let expected = interpret(&graph, &outputs, &batch).expect("the batch has everything");
        // Values only, not derivatives. libtorch's `amax` passes back a NaN that the loss drops.
        let needed = graph.reachable(&[loss]);
        let mut values = outputs.iter().filter(|node| needed[node.0 as usize]);
        if !values.all(|node| expected.get(*node).iter().all(|x| x.is_finite())) {
            continue;
        }
        graphs += 1;
        let mut inputs = Inputs::new(&batch, Kind::Double, Device::Cpu);
        inputs.live = inputs.live.iter().map(|live| live.set_requires_grad(true)).collect();
        let got = evaluate(&graph, &[loss], &inputs)
            .expect("the batch has everything")
            .remove(&loss)
            .expect("asked for");
        if got.requires_grad() {
            got.backward();
        }
        for (live, node) in inputs.live.iter().zip(&gradients) {
            let gradient = live.grad();
            let gradient = if gradient.defined() { gradient } else { live.zeros_like() };
            let (gradient, expected) = (to_host(&gradient), expected.get(*node));
            moving += expected.iter().filter(|x| **x != 0.0).count();
            for (token, (got, expected)) in gradient.iter().zip(expected).enumerate() {
                let listing = || graph.listing(&[loss]);
                assert!(
                    // 1 - tanh(x)^2 loses digits where tanh is near 1.
                    same_gradient(1e-8, *got, *expected),
                    "seed {seed}, token {token}: {got} is not {expected}\n{}",
                    listing()
                );
            }
        }
    }
    assert!(graphs > 3_000 && moving > 15_000, "only {moving} derivatives of {graphs} graphs were compared");
}

/// Reductions over no elements have the table's values, in the interpreter, the audit and on tensors.
#[test]
fn reductions_over_no_elements_have_the_tables_values() {
    let parents = Tensor::from_slice(&[0i64, 0, 2]);
    let x = Tensor::from_slice(&[1.0f64, -2.0, 5.0]);
    let none = Tensor::from_slice(&[0.0f64, 0.0, 0.0]);
    for reduction in Reduction::EACH.into_iter().filter(|reduction| !reduction.needs_all()) {
        // All elements masked; and the second of three groups, which has no element.
        assert_eq!(
            to_host(&super::reduce::reduce(reduction, &x, Some(&none), &parents, 3)),
            [reduction.of_none(); 3],
            "{reduction:?}"
        );
        assert_eq!(
            to_host(&super::reduce::reduce(reduction, &x, None, &parents, 3))[1],
            reduction.of_none(),
            "{reduction:?}"
        );
    }
}
