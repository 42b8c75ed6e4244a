//! Tests of the compiled program against the interpreter.

use mopd_ops::f32_ops::ScalarOps;
use mopd_ops::testing::Extent;

use super::emit::CodeTarget;
use super::{CompileError, Program, TILE, WIDTH, Workspace};
use crate::batch::{Batch, Layout};
use crate::derivative::adjoints;
use crate::graph::signals::{Axis, Function, ModelSignal, PlainSignal, Reduction, Role, Signal};
use crate::graph::{Graph, LiveId, NodeId, Operation};
use crate::interpret::{evaluate, interpret};
use crate::testing::Random;
use crate::values::EvaluationError;

/// Checks that the program's bits are those of the definition in single precision.
fn assert_same(graph: &Graph, outputs: &[NodeId], batch: &Batch, case: &str) {
    assert_same_on(CodeTarget::Host, graph, outputs, batch, case);
}

fn assert_same_on(target: CodeTarget, graph: &Graph, outputs: &[NodeId], batch: &Batch, case: &str) {
    let program = Program::compile_for(target, graph, outputs, None).expect("every operation has a lowering");
    let compiled = program.run(batch).expect("the batch has everything");
    let model = ScalarOps { fused: graph.fused() };
    let apply = |function: Function, operands: &[f64]| {
        let operands: Vec<f32> = operands.iter().map(|x| *x as f32).collect();
        f64::from(model.apply(function, &operands))
    };
    let reference =
        evaluate(graph, outputs, batch, &std::collections::HashMap::new(), apply, |x| f64::from(x as f32))
            .expect("the batch has everything");
    for output in outputs {
        let (compiled, reference) = (compiled.get(*output), reference.get(*output));
        assert_eq!(compiled.len(), reference.len(), "{case}");
        for (index, (compiled, reference)) in compiled.iter().zip(reference).enumerate() {
            let equal = compiled.to_bits() == (*reference as f32).to_bits()
                || (compiled.is_nan() && reference.is_nan());
            assert!(
                equal,
                "{case}: node {} element {index}: {compiled} is not {reference}\n{graph:?}",
                output.0
            );
        }
    }
}

/// Without instructions for fused multiply-add or for rounding down, the bits are the same.
#[test]
fn results_do_not_depend_on_the_instructions_of_the_machine() {
    for seed in 100_000..100_400 {
        let mut random = Random(seed);
        let (mut graph, outputs) = random.graph(12, 2);
        graph.set_fused(seed % 2 == 0);
        let layout = random.layout();
        let batch = random.batch(layout, 2, Random::wild_number);
        for target in [CodeTarget::Generated, CodeTarget::Baseline] {
            assert_same_on(target, &graph, &outputs, &batch, &format!("graph {seed}, {target:?}"));
        }
    }
}

#[test]
fn random_graphs_agree_to_the_last_bit() {
    const SEEDS: u64 = 10_000;
    let halves = [0..SEEDS / 2, SEEDS / 2..SEEDS];
    let counts = std::thread::scope(|threads| {
        let parts = halves
            .map(|seeds| threads.spawn(|| compare_random_graphs(Extent::from_environment().cases(seeds))));
        parts.map(|part| part.join().expect("each graph agrees"))
    });
    let [operations, derivatives] = [0, 1].map(|count| counts[0][count] + counts[1][count]);
    let extent = Extent::from_environment();
    assert!(derivatives > extent.least(8_000), "{derivatives} derivatives were compiled");
    assert!(operations > extent.least(80_000), "the generator makes graphs worth compiling");
}

/// Compares random graphs, and returns how many operations and derivatives they have.
fn compare_random_graphs(seeds: impl Iterator<Item = u64>) -> [usize; 2] {
    let (mut operations, mut derivatives) = (0, 0);
    let of_one = Function::ALL.iter().copied().filter(|function| function.operands() == 1);
    let of_one: Vec<Function> = of_one.collect();
    for seed in seeds {
        let mut random = Random(seed);
        let size = 1 + random.below(24);
        let (mut graph, mut outputs) = random.graph(size, 2);
        graph.set_fused(seed % 2 == 0);
        // A live term in any case, besides those that the graph has.
        let live = [LiveId(0), LiveId(1)].map(|live| graph.live(live));
        let function = random.pick(&of_one);
        let inner = graph.apply(function, &[live[1]]);
        let factor = graph.apply(Function::Multiply, &[live[0], inner]);
        let term = graph.apply(Function::Multiply, &[outputs[0], factor]);
        let term = graph.broadcast(term, Axis::Token);
        let loss = graph.reduce(Reduction::Mean, term, Axis::Batch, None);
        // Some graphs have no gradient, because of ranks for example.
        let gradients = adjoints(&mut graph, loss, &[LiveId(0), LiveId(1)]).unwrap_or_default();
        let moving = gradients.into_iter().filter(|gradient| graph.constant_value(*gradient).is_none());
        let before = outputs.len();
        outputs.extend(moving);
        derivatives += outputs.len() - before;
        graph.check().expect("generated graphs keep the rules");
        operations += graph.len();
        for _ in 0..2 {
            let layout = random.layout();
            let batch = random.batch(layout, 2, Random::wild_number);
            assert_same(&graph, &outputs, &batch, &format!("graph {seed}"));
        }
    }
    [operations, derivatives]
}

/// Every function, on every combination of the numbers that IEEE treats specially.
#[test]
fn every_function_agrees_on_special_numbers() {
    let special = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        2.5,
        -88.0,
        89.0,
        1e-41,
        -3e38,
    ];
    let mut combinations = [Vec::new(), Vec::new(), Vec::new()];
    for a in special {
        for b in special {
            for c in special {
                for (values, value) in combinations.iter_mut().zip([a, b, c]) {
                    values.push(value);
                }
            }
        }
    }
    let tokens = combinations[0].len();
    let layout = Layout {
        sequence_of_token: vec![0; tokens],
        group_of_sequence: vec![0],
        groups: 1,
        ..Layout::default()
    };
    let roles = [Role::Student, Role::TEACHER, Role::Sampler];
    let signals = roles
        .map(|role| Signal::Of { role, part: ModelSignal::Logp })
        .into_iter()
        .zip(combinations)
        .collect();
    let batch = Batch { layout, signals, ..Batch::default() };
    for function in Function::ALL.iter().copied() {
        for fused in [true, false] {
            let mut graph = Graph::default();
            graph.set_fused(fused);
            let operands = roles.map(|role| graph.signal(Signal::Of { role, part: ModelSignal::Logp }));
            let output = graph.apply(function, &operands[..function.operands()]);
            for target in [CodeTarget::Host, CodeTarget::Generated, CodeTarget::Baseline] {
                assert_same_on(
                    target,
                    &graph,
                    &[output],
                    &batch,
                    &format!("{function:?}, {target:?}, fused {fused}"),
                );
            }
        }
    }
}

/// Every function of one operand, on numbers of every size.
#[test]
fn every_function_agrees_on_the_whole_range() {
    let count = 1 << 16;
    let values: Vec<f32> = (0..count).map(|index: u32| f32::from_bits(index * 65_537)).collect();
    let layout = Layout {
        sequence_of_token: vec![0; values.len()],
        group_of_sequence: vec![0],
        groups: 1,
        ..Layout::default()
    };
    let batch = Batch {
        layout,
        signals: vec![(Signal::Of { role: Role::TEACHER, part: ModelSignal::Logp }, values)],
        ..Batch::default()
    };
    for function in Function::ALL.iter().copied().filter(|function| function.operands() == 1) {
        for fused in [true, false] {
            let mut graph = Graph::default();
            graph.set_fused(fused);
            let x = graph.signal(Signal::Of { role: Role::TEACHER, part: ModelSignal::Logp });
            let output = graph.apply(function, &[x]);
            assert_same(&graph, &[output], &batch, &format!("{function:?}, fused {fused}"));
        }
    }
}

/// A NaN log-probability must never become a legal weight (a comparison the wrong way round makes it a
/// bound).
#[test]
fn clip_keeps_nan() {
    let mut graph = Graph::default();
    let logp = graph.signal(Signal::Of { role: Role::TEACHER, part: ModelSignal::Logp });
    let (low, high) = (graph.constant(Axis::Run, -5.0), graph.constant(Axis::Run, 5.0));
    let clipped = graph.apply(Function::Clip, &[logp, low, high]);
    let layout =
        Layout { sequence_of_token: vec![0; 5], group_of_sequence: vec![0], groups: 1, ..Layout::default() };
    let values = vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 7.0, -0.0];
    let batch = Batch {
        layout,
        signals: vec![(Signal::Of { role: Role::TEACHER, part: ModelSignal::Logp }, values)],
        ..Batch::default()
    };
    let result = Program::compile(&graph, &[clipped]).expect("compiles").run(&batch).expect("runs");
    let result = result.get(clipped);
    assert!(result[0].is_nan());
    assert_eq!(result[1..], [5.0, -5.0, 5.0, -0.0]);
}

/// Where nothing jumps, single and double precision differ by rounding only.
#[test]
fn smooth_expressions_are_close_to_double_precision() {
    let smooth = [Function::Add, Function::Subtract, Function::Multiply, Function::Tanh, Function::Sigmoid];
    let mut random = Random(7);
    for _ in 0..3_000 {
        let mut graph = Graph::default();
        let mut nodes = vec![
            graph.signal(Signal::Of { role: Role::TEACHER, part: ModelSignal::Logp }),
            graph.signal(Signal::Of { role: Role::Student, part: ModelSignal::Entropy }),
            graph.signal(PlainSignal::Reward),
        ];
        for _ in 0..8 {
            let function = random.pick(&smooth);
            let operands: Vec<NodeId> = (0..function.operands()).map(|_| random.pick(&nodes)).collect();
            let node = graph.apply(function, &operands);
            nodes.push(graph.apply(Function::Tanh, &[node]));
        }
        let last = graph.broadcast(nodes[nodes.len() - 1], Axis::Token);
        let mean = graph.reduce(Reduction::Mean, last, Axis::Batch, None);
        let layout = random.layout();
        let batch = random.batch(layout, 0, Random::number);
        let compiled = Program::compile(&graph, &[mean]).expect("compiles").run(&batch).expect("runs");
        let reference = interpret(&graph, &[mean], &batch).expect("runs");
        assert!((f64::from(compiled.get(mean)[0]) - reference.get(mean)[0]).abs() < 1e-5);
    }
}

#[test]
fn missing_signal_of_a_batch_is_named() {
    let mut graph = Graph::default();
    let logp = graph.signal(Signal::Of { role: Role::TEACHER, part: ModelSignal::Logp });
    let batch = Batch {
        layout: Layout {
            sequence_of_token: vec![0, 0],
            group_of_sequence: vec![0],
            groups: 1,
            ..Layout::default()
        },
        ..Batch::default()
    };
    let missing = EvaluationError::MissingSignal {
        signal: format!("{:?}", Signal::Of { role: Role::TEACHER, part: ModelSignal::Logp }),
    };
    let program = Program::compile(&graph, &[logp]).expect("compiles");
    assert_eq!(program.run(&batch), Err(missing.clone()));
    assert_eq!(interpret(&graph, &[logp], &batch), Err(missing));

    let short = Batch {
        signals: vec![(Signal::Of { role: Role::TEACHER, part: ModelSignal::Logp }, vec![0.0])],
        ..batch.clone()
    };
    let length = EvaluationError::Length {
        what: format!("{:?}", Signal::Of { role: Role::TEACHER, part: ModelSignal::Logp }),
        found: 1,
        expected: 2,
    };
    assert_eq!(program.run(&short), Err(length));

    let layout = Layout { sequence_of_token: vec![0, 1], ..batch.layout.clone() };
    let broken = Batch { layout, signals: vec![(Signal::Plain(PlainSignal::Reward), vec![0.0])], ..batch };
    let reward = graph.signal(PlainSignal::Reward);
    let reward = graph.broadcast(reward, Axis::Token);
    let program = Program::compile(&graph, &[reward]).expect("compiles");
    assert_eq!(program.run(&broken), Err(EvaluationError::Layout { element: "token", parent: "sequence" }));
}

#[test]
fn a_graph_that_breaks_the_rules_is_refused() {
    let mut graph = Graph::default();
    let reward = graph.signal(PlainSignal::Reward);
    // A token node without a broadcast would read past the rewards.
    let broken =
        graph.add(Axis::Token, Operation::Apply { function: Function::Negate, operands: vec![reward] });
    assert!(matches!(Program::compile(&graph, &[broken]), Err(CompileError::Malformed(_))));
    assert!(matches!(interpret(&graph, &[broken], &Batch::default()), Err(EvaluationError::Malformed(_))));
    assert_eq!(Program::compile(&Graph::default(), &[NodeId(0)]).err(), Some(CompileError::MissingNode));
}

#[test]
fn programs_are_shared_between_threads() {
    let mut random = Random(11);
    let (graph, outputs) = random.graph(20, 2);
    let program = Program::compile(&graph, &outputs).expect("compiles");
    let batches: Vec<Batch> = (0..4)
        .map(|_| {
            let layout = random.layout();
            random.batch(layout, 2, Random::number)
        })
        .collect();
    let text = |values: crate::values::Values<f32>| {
        outputs.iter().map(|output| format!("{:?}", values.get(*output))).collect::<Vec<_>>()
    };
    let alone: Vec<_> = batches.iter().map(|batch| text(program.run(batch).expect("runs"))).collect();
    let together: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            batches.iter().map(|batch| scope.spawn(|| text(program.run(batch).expect("runs")))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
    });
    assert_eq!(alone, together);
}

/// Lengths around those of tiles, with two functions that are compiled ahead in sequence and one beside
/// them.
#[test]
fn tiles_compute_what_the_definition_says() {
    let mut graph = Graph::default();
    let (logp, reward) = (
        graph.signal(Signal::Of { role: Role::TEACHER, part: ModelSignal::Logp }),
        graph.signal(PlainSignal::Reward),
    );
    let entropy = graph.signal(Signal::Of { role: Role::Student, part: ModelSignal::Entropy });
    let difference = graph.apply(Function::Subtract, &[logp, reward]);
    let ratio = graph.apply(Function::Exp, &[difference]);
    let bounded = graph.apply(Function::Minimum, &[ratio, entropy]);
    let squashed = graph.apply(Function::Tanh, &[bounded]);
    let bonus = graph.apply(Function::Log1p, &[entropy]);
    let product = graph.apply(Function::Multiply, &[squashed, bonus]);
    let output = graph.apply(Function::Add, &[product, difference]);
    let mut random = Random(11);
    for tokens in [TILE - 1, TILE, TILE + WIDTH - 1, TILE + WIDTH, 2 * TILE + 3, 5 * TILE] {
        let layout = Layout {
            sequence_of_token: (0..tokens as u32).map(|token| token / 100).collect(),
            group_of_sequence: vec![0; tokens.div_ceil(100)],
            groups: 1,
            ..Layout::default()
        };
        let batch = random.batch(layout, 0, Random::number);
        assert_same(&graph, &[output, ratio], &batch, &format!("{tokens} tokens"));
    }
}

/// More elements than one thread takes, a number that the threads do not divide, and sequences across their
/// borders.
#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let tokens = 3 * super::ELEMENTS_PER_THREAD + 5;
    let sequences = tokens.div_ceil(1000);
    let mut random = Random(5);
    let layout = Layout {
        sequence_of_token: (0..tokens as u32).map(|token| token / 1000).collect(),
        group_of_sequence: (0..sequences as u32).map(|sequence| sequence / 3).collect(),
        groups: sequences.div_ceil(3) as u32,
        ..Layout::default()
    };
    let batch = random.batch(layout, 0, Random::wild_number);
    let mut graph = Graph::default();
    let (logp, reward) = (
        graph.signal(Signal::Of { role: Role::TEACHER, part: ModelSignal::Logp }),
        graph.signal(PlainSignal::Reward),
    );
    let mean = graph.reduce(Reduction::Mean, reward, Axis::Group, None);
    let sum = graph.apply(Function::Add, &[logp, reward]);
    let sum = graph.apply(Function::Add, &[sum, mean]);
    let output = graph.apply(Function::Exp, &[sum]);
    let program = Program::compile(&graph, &[output]).expect("compiles");
    let mut bits = [1, 2, 3, 7].map(|threads| {
        let mut workspace = Workspace::with_threads(threads);
        // Twice, because the first run's leftovers must make no difference.
        for _ in 0..2 {
            program.run_in(&batch, &mut workspace).expect("the batch has everything");
        }
        workspace.get(output).iter().map(|x| x.to_bits()).collect::<Vec<u32>>()
    });
    assert_eq!(bits[0].len(), tokens);
    let first = std::mem::take(&mut bits[0]);
    assert!(bits[1..].iter().all(|bits| *bits == first));
}

#[test]
fn one_workspace_serves_different_programs_and_batches() {
    let mut workspace = Workspace::default();
    for seed in 0..200 {
        let mut random = Random(seed);
        let (graph, outputs) = random.graph(12, 2);
        let program = Program::compile(&graph, &outputs).expect("compiles");
        let layout = random.layout();
        let batch = random.batch(layout, 2, Random::number);
        program.run_in(&batch, &mut workspace).expect("the batch has everything");
        let fresh = program.run(&batch).expect("the batch has everything");
        for output in &outputs {
            let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
            assert_eq!(bits(workspace.get(*output)), bits(fresh.get(*output)), "graph {seed}");
        }
    }
}
