//! The code generated for torch computes what the interpreter computes, and its gradient is the compiler's.

use std::fs;
use std::process::Command;

use mopd_compiler::export::stage::trained;
use mopd_compiler::export::torch::function;
use mopd_expr::batch::Batch;
use mopd_expr::derivative::adjoints;
use mopd_expr::graph::{Graph, LiveId, NodeId, Operation};
use mopd_expr::interpret::interpret_exact;
use mopd_expr::testing::Random;
use mopd_plan::{Axis, ModelSignal, Objective, PlainSignal, Reduction, Signal, Stage};
use mopd_tests::{check_text, files, root};
use serde_json::{Value, json};

use super::{python, run};

/// A signal's name in the generated code. Signals that follow from the batch have names of their own.
fn name(signal: &Signal) -> Result<String, String> {
    Ok(match signal {
        Signal::Plain(PlainSignal::Position) => "position".to_owned(),
        Signal::Plain(PlainSignal::Length) => "length".to_owned(),
        Signal::Plain(PlainSignal::Step) => "step".to_owned(),
        Signal::Plain(PlainSignal::Progress) => "progress".to_owned(),
        Signal::Plain(PlainSignal::Reward) => "reward".to_owned(),
        Signal::Plain(PlainSignal::Correct) => "correct".to_owned(),
        other => serde_json::to_string(other).expect("a signal is data"),
    })
}

fn is_derived(signal: &Signal) -> bool {
    matches!(
        signal,
        Signal::Plain(PlainSignal::Position | PlainSignal::Length)
            | Signal::DomainPlace
            | Signal::Plain(PlainSignal::Step | PlainSignal::Progress | PlainSignal::Correct)
    )
}

/// JSON has no NaN: `null` stands for it.
fn numbers(values: &[f64]) -> Vec<Value> {
    values.iter().map(|value| if value.is_finite() { json!(value) } else { Value::Null }).collect()
}

fn case(
    title: &str,
    graph: &Graph,
    outputs: &[NodeId],
    gradients: &[NodeId],
    batch: &Batch,
) -> Option<Value> {
    let code = function("of", graph, outputs, &name).ok()?;
    let all: Vec<NodeId> = outputs.iter().chain(gradients).copied().collect();
    // In double precision, as the generated code computes it from the step.
    let progress = |id: &NodeId| {
        matches!(
            graph.node(*id).operation,
            Operation::Signal { signal: Signal::Plain(PlainSignal::Progress) }
        )
    };
    let share = f64::from(batch.step) / f64::from(batch.steps.max(1));
    let exact = graph.nodes().map(|(id, _)| id).filter(progress).map(|id| (id, vec![share])).collect();
    let values = interpret_exact(graph, &all, batch, &exact).expect("the batch has everything");
    // A number that is not finite has no finite gradient.
    let infinite = |node: &NodeId| values.get(*node).iter().any(|value| !value.is_finite());
    if all.iter().any(infinite) {
        return None;
    }
    let of = |nodes: &[NodeId]| nodes.iter().map(|node| numbers(values.get(*node))).collect::<Vec<_>>();
    let wide = |values: &[f32]| numbers(&values.iter().map(|value| f64::from(*value)).collect::<Vec<_>>());
    let given = batch.signals.iter().filter(|(signal, _)| !is_derived(signal));
    let signals: serde_json::Map<String, Value> =
        given.map(|(signal, values)| (name(signal).expect("a name"), json!(wide(values)))).collect();
    let layout = &batch.layout;
    Some(json!({
        "name": title,
        "code": code,
        "layout": {
            "sequence_of_token": layout.sequence_of_token,
            "group_of_sequence": layout.group_of_sequence,
            "groups": layout.groups,
            "turns": layout.turns.as_ref().map(|turns| [&turns.of_token, &turns.parent]),
            "domain_of_group": layout.domains.as_ref().map(|domains| &domains.of_group),
            "domains": layout.domains.as_ref().map_or(1, |domains| domains.count),
        },
        "signals": signals,
        "live": batch.live.iter().map(|values| wide(values)).collect::<Vec<_>>(),
        "step": batch.step,
        "steps": batch.steps,
        "values": of(outputs),
        "gradients": of(gradients),
    }))
}

/// A batch of whole completions, with a number for each signal that the objective reads.
fn batch(random: &mut Random, objective: &Objective) -> Batch {
    let mut layout = random.layout();
    (layout.turns, layout.blocks) = (None, None);
    let live = objective.live.len();
    let mut batch = random.batch(layout, live, |random| random.number());
    batch.signals.clear();
    for signal in objective.graph.signals(&objective.outputs()) {
        let truth = matches!(
            signal,
            Signal::Plain(PlainSignal::Truncated)
                | Signal::Chosen
                | Signal::InSpan { .. }
                | Signal::InNucleus { .. }
                | Signal::Available { .. }
                | Signal::Of { part: ModelSignal::Correct, .. }
                | Signal::DataIs { .. }
        );
        let positive = matches!(
            signal,
            Signal::Of { part: ModelSignal::Entropy, .. }
                | Signal::Of { part: ModelSignal::Top1, .. }
                | Signal::Mass { .. }
                | Signal::Of { part: ModelSignal::Rank, .. }
                | Signal::Divergence(_)
                | Signal::Plain(PlainSignal::VocabularySize)
                | Signal::State { .. }
        );
        let uniform = matches!(signal, Signal::Uniform { .. });
        let of = |random: &mut Random| match (truth, positive) {
            _ if uniform => random.below(1 << 16) as f32 / 65536.0,
            (true, _) => f32::from(random.below(2) as u8),
            (_, true) => random.number().abs() + 0.25,
            _ => random.number(),
        };
        let count = batch.layout.len(signal.axis());
        let values = (0..count).map(|_| of(random)).collect();
        batch.signals.push((signal, values));
    }
    batch.signals.retain(|(signal, _)| !is_derived(signal));
    if objective.graph.signals(&objective.outputs()).contains(&Signal::Plain(PlainSignal::Correct))
        && !batch.signals.iter().any(|(signal, _)| *signal == Signal::Plain(PlainSignal::Reward))
    {
        let values = (0..batch.layout.sequences()).map(|_| f32::from(random.below(2) as u8)).collect();
        batch.signals.push((Signal::Plain(PlainSignal::Reward), values));
    }
    batch
}

/// The objectives of all methods.
fn of_methods(cases: &mut Vec<Value>) -> usize {
    let mut random = Random(7);
    let mut without = 0;
    for path in files(&root().join("tests/methods"), ".mopd") {
        let text = fs::read_to_string(&path).expect("a program");
        let analysis = check_text(&path.file_name().expect("a file").to_string_lossy(), &text);
        let experiment = analysis.experiment.as_ref().expect("an experiment");
        let Ok(plan) = mopd_compiler::compile(experiment, &analysis.origins, &analysis.sources, true) else {
            continue;
        };
        for (_, model) in trained(&plan) {
            let Stage::Train(train) = &model.stage else { continue };
            let objective = &train.objective;
            let gradients: Vec<NodeId> = objective.live.iter().map(|live| live.adjoint).collect();
            for _ in 0..4 {
                let batch = batch(&mut random, objective);
                let title = format!("{}: {}", path.display(), model.name);
                match case(&title, &objective.graph, &[objective.loss], &gradients, &batch) {
                    Some(case) => cases.push(case),
                    None => without += 1,
                }
            }
        }
    }
    without
}

/// Random graphs with every kind of node, on batches with domains.
fn at_random(cases: &mut Vec<Value>) {
    for seed in 0..400 {
        let mut random = Random(seed);
        let mut layout = random.layout();
        layout.blocks = None;
        let live = 2;
        let (mut graph, outputs) = random.graph(12, live);
        let batch = random.batch(layout, live, |random| random.number());
        cases.extend(case(&format!("graph {seed}"), &graph, &outputs, &[], &batch));
        // The gradient of a single number, where the compiler can derive one.
        if graph.axis(outputs[0]) <= Axis::Batch {
            continue;
        }
        let one = graph.reduce(Reduction::Sum, outputs[0], Axis::Batch, None);
        if let Ok(gradients) = adjoints(&mut graph, one, &[LiveId(0), LiveId(1)]) {
            cases.extend(case(&format!("gradient of graph {seed}"), &graph, &[one], &gradients, &batch));
        }
    }
}

#[test]
fn generated_code_computes_what_the_interpreter_does() {
    let mut cases = Vec::new();
    let without = of_methods(&mut cases);
    let of_methods = cases.len();
    at_random(&mut cases);
    // There are cases to compare, also if no environment of engines is given.
    assert!(of_methods > 300, "{of_methods} cases of methods, {without} without code");
    assert!(cases.len() - of_methods > 200, "{} random graphs", cases.len() - of_methods);
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cases.json");
    fs::write(&path, json!(cases).to_string()).expect("a file");
    let script = root().join("tests/engines/check_torch.py");
    print!("{}", run(Command::new(python).arg(script).arg(&path)));
}
