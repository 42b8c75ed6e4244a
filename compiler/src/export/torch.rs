//! Prints expression graphs as Python code for torch: the textual counterpart of the runtime's tensor
//! operations. A function gets a `Batch` of `mopd_tensors.py`, which has the operations across elements.
//!
//! Values and gradients equal those of the interpreter and the compiler's derivative up to rounding. As
//! there, gradient flows only through elementwise functions and reductions.

use std::fmt::Write as _;

use mopd_expr::graph::{Graph, NodeId, Operation};
use mopd_expr::signals::{Axis, Function, ModelSignal, PlainSignal, Reduction, Scan, Signal, Statistic};
use mopd_ops::Backend;
use mopd_ops::expr::Arguments;
use mopd_plan::Objective;
use serde_json::Value;

/// The Python module that generated code calls.
pub const TENSORS: &str = include_str!("python/mopd_tensors.py");

/// A node that can't be printed as code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unprintable {
    /// The construct, as a noun phrase.
    pub construct: String,
    pub why: String,
}

/// The engine's name of a signal, or the reason why the engine does not have it.
pub type Names<'a> = dyn Fn(&Signal) -> Result<String, String> + 'a;

/// A function of a batch that returns the values of `outputs` in order.
///
/// # Errors
/// All nodes that can't be printed, each once.
pub fn function(
    name: &str,
    graph: &Graph,
    outputs: &[NodeId],
    names: &Names,
) -> Result<String, Vec<Unprintable>> {
    let needed = graph.reachable(outputs);
    let mut text = format!("def {name}(batch):\n");
    let mut missing: Vec<Unprintable> = Vec::new();
    for (id, node) in graph.nodes().filter(|(id, _)| needed[id.0 as usize]) {
        match expression(graph, id, names) {
            Ok(code) => {
                let _ = writeln!(text, "    {} = {code}", variable(id));
            }
            Err(found) if missing.contains(&found) => {}
            Err(found) => missing.push(found),
        }
        if node.axis == Axis::Vocab {
            unreachable!("a checked graph has no number per vocabulary entry");
        }
    }
    let results: Vec<String> = outputs.iter().map(|id| variable(*id)).collect();
    let _ = writeln!(text, "    return {}", results.join(", "));
    if missing.is_empty() { Ok(text) } else { Err(missing) }
}

/// The loss of a batch, as a function whose gradient with respect to the live values is the compiler's. The
/// gradient of the formula would differ: no gradient flows through the weights of `by domain`.
///
/// # Errors
/// As [`function`].
pub fn loss(objective: &Objective, names: &Names) -> Result<String, Vec<Unprintable>> {
    let adjoints = objective.live.iter().map(|live| live.adjoint);
    let outputs: Vec<NodeId> = std::iter::once(objective.loss).chain(adjoints).collect();
    let body = function("derivatives", &objective.graph, &outputs, names)?;
    Ok(format!("{body}\n\ndef loss(batch):\n    return mt.with_gradient(derivatives, batch)\n"))
}

/// A function of one number per vocabulary entry. Its arguments are the live primitives, by name, and `step`
/// and `steps`.
///
/// # Panics
/// If the graph is not elementwise. The compiler makes only elementwise summands.
pub fn elementwise(name: &str, graph: &Graph, value: NodeId, live: &[&str]) -> String {
    let needed = graph.reachable(&[value]);
    let mut text = format!("def {name}({}, step, steps):\n", live.join(", "));
    let like = live[0];
    for (id, node) in graph.nodes().filter(|(id, _)| needed[id.0 as usize]) {
        let full = |value: String| format!("torch.full_like({like}, {value})");
        let code = match &node.operation {
            Operation::Constant { value } => full(number(*value)),
            Operation::Schedule { schedule } => full(at_step(schedule, "step, steps")),
            Operation::Signal { signal: Signal::Plain(PlainSignal::Step) } => full("float(step)".to_owned()),
            Operation::Signal { signal: Signal::Plain(PlainSignal::Progress) } => {
                full("step / max(steps, 1)".to_owned())
            }
            Operation::Live { live: id } => live[id.0 as usize].to_owned(),
            Operation::Apply { function, operands } => {
                applied(*function, &operands.iter().map(|id| variable(*id)).collect::<Vec<_>>())
            }
            Operation::Broadcast { operand } => variable(*operand),
            _ => unreachable!("a summand is elementwise"),
        };
        let _ = writeln!(text, "    {} = {code}", variable(id));
    }
    let _ = writeln!(text, "    return {}", variable(value));
    text
}

fn variable(id: NodeId) -> String {
    format!("n{}", id.0)
}

/// A finite number as a Python literal that is read back bit for bit.
pub fn number(value: f64) -> String {
    format!("{value:?}")
}

fn at_step(schedule: &mopd_experiment::Schedule, at: &str) -> String {
    let shape = serde_json::to_value(schedule).expect("schedules are numbers and names");
    format!("mt.schedule({}, {at})", literal(&shape))
}

/// JSON as a Python literal.
pub fn literal(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number.to_string(),
        // JSON's escapes are valid in Python, except surrogate pairs, which `serde_json` does not write.
        Value::String(_) => value.to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(literal).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let field = |(key, value): (&String, &Value)| {
                format!("{}: {}", Value::String(key.clone()), literal(value))
            };
            format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
    }
}

/// The axis in the engines, where a turn is one block.
fn axis(axis: Axis) -> &'static str {
    match axis {
        Axis::Run => "run",
        Axis::Batch => "batch",
        Axis::Domain => "domain",
        Axis::Group => "group",
        Axis::Sequence => "sequence",
        Axis::Turn | Axis::Block => "turn",
        Axis::Token => "token",
        Axis::Vocab => unreachable!("a checked graph has no number per vocabulary entry"),
    }
}

fn expression(graph: &Graph, id: NodeId, names: &Names) -> Result<String, Unprintable> {
    let node = graph.node(id);
    let own = axis(node.axis);
    let mask =
        |mask: &Option<NodeId>| mask.map_or(String::new(), |mask| format!(", mask={}", variable(mask)));
    let refuse = |construct: String, why: &str| Err(Unprintable { construct, why: why.to_owned() });
    Ok(match &node.operation {
        Operation::Constant { value } => format!("batch.full(\"{own}\", {})", number(*value)),
        Operation::Schedule { schedule } => {
            format!("batch.full(\"{own}\", {})", at_step(schedule, "batch.step, batch.steps"))
        }
        Operation::Signal { signal } => match names(signal) {
            Ok(name) => format!("batch.signal({}, \"{own}\")", Value::String(name)),
            Err(why) => return refuse(format!("`{}`", signal_name(signal)), &why),
        },
        Operation::Live { live } => format!("batch.live[{}]", live.0),
        Operation::Apply { function, operands } => {
            applied(*function, &operands.iter().map(|id| variable(*id)).collect::<Vec<_>>())
        }
        Operation::Broadcast { operand } => {
            format!("batch.broadcast({}, \"{}\", \"{own}\")", variable(*operand), axis(graph.axis(*operand)))
        }
        Operation::Reduce { fraction: Some(_), .. } | Operation::Statistic { fraction: Some(_), .. } => {
            return refuse(
                "a fraction that changes during the run".to_owned(),
                "the exporter supports only constants there",
            );
        }
        Operation::Reduce { reduction, operand, mask: by, fraction: None } => {
            let settings = match reduction {
                Reduction::Quantile { q } => format!(", q={}", number(*q)),
                Reduction::Stddev { deviation } => format!(", deviation={:?}", deviation.name()),
                _ => String::new(),
            };
            let fine = axis(graph.axis(*operand));
            let (name, operand) = (reduction.name(), variable(*operand));
            format!("batch.reduce(\"{name}\", {operand}, \"{fine}\", \"{own}\"{}{settings})", mask(by))
        }
        Operation::Statistic { statistic, operand, over, mask: by, noise, fraction: None } => {
            let settings = match statistic {
                Statistic::Zscore { deviation, epsilon } => {
                    format!(", deviation={:?}, epsilon={}", deviation.name(), number(*epsilon))
                }
                Statistic::Winsor { upper } => format!(", upper={}", number(*upper)),
                Statistic::TopFraction { keep } => format!(", keep={}", number(*keep)),
                Statistic::TopCount { count } => format!(", count={count}"),
                Statistic::Center
                | Statistic::Rank
                | Statistic::LeaveOneOut
                | Statistic::MeanOfSmaller
                | Statistic::Minmax
                | Statistic::Softmax => String::new(),
                Statistic::SampleWithoutReplacement { keep } => format!(", keep={}", number(*keep)),
                Statistic::Chunks { most, width } => format!(", most={most}, width={width}"),
                Statistic::Balance => String::new(),
            };
            let noise = noise.map_or(String::new(), |noise| format!(", noise={}", variable(noise)));
            let (name, over) = (statistic.name(), axis(*over));
            let operand = variable(*operand);
            format!(
                "batch.statistic(\"{name}\", {operand}, \"{own}\", \"{over}\"{}{noise}{settings})",
                mask(by)
            )
        }
        Operation::Scan { scan, operand, over, mask: by } => {
            let discount = match scan {
                Scan::RewardToGo { discount } => format!(", discount={}[0]", variable(*discount)),
                _ => String::new(),
            };
            let (name, over, operand) = (scan.name(), axis(*over), variable(*operand));
            format!("batch.scan(\"{name}\", {operand}, \"{own}\", \"{over}\"{}{discount})", mask(by))
        }
        Operation::Memory { .. } => {
            return refuse(
                "a value that is kept from the previous step".to_owned(),
                "the engine's checkpoints do not contain it",
            );
        }
    })
}

/// The source text of a signal.
pub fn signal_name(signal: &Signal) -> String {
    let of = |role: &mopd_expr::signals::Role, name: &str| format!("{}.{name}", role.name());
    match signal {
        Signal::Of { role, part } if *part != ModelSignal::StatedConfidence => of(role, part.name()),
        Signal::Mass { role, .. } => of(role, "mass"),
        Signal::InNucleus { role, .. } => format!("in_nucleus({})", role.name()),
        Signal::Overlap { left, right, .. } => format!("overlap({}, {})", left.name(), right.name()),
        Signal::Available { role } => of(role, "available"),
        Signal::Divergence(_) => "a divergence without gradient".to_owned(),
        Signal::State { name, .. } => format!("state {name}"),
        Signal::TermLoss { term } => format!("loss.{term}"),
        Signal::DomainPlace => "domain".to_owned(),
        Signal::Data { field } | Signal::DataIs { field, .. } => format!("data.{field}"),
        Signal::RewardPart { part } => format!("reward.{part}"),
        Signal::Other { text, .. } => text.clone(),
        other => match serde_json::to_value(other) {
            Ok(Value::Object(fields)) => {
                fields.get("signal").and_then(Value::as_str).unwrap_or("a signal").to_owned()
            }
            _ => "a signal".to_owned(),
        },
    }
}

/// The code of a function of tensors of one shape.
fn applied(function: Function, operands: &[String]) -> String {
    use Function::*;
    if let Some(body) = function.body() {
        return body.evaluate(&mut Inline { like: &operands[0] }, Arguments { operands, reverse: None });
    }
    let truth = |holds: String| format!("mt.truth({holds}, {})", operands[0]);
    match (function, operands) {
        (Negate, [x]) => format!("(-{x})"),
        (Not, [x]) => truth(format!("{x} == 0")),
        (Relu, [x]) => format!("mt.relu({x})"),
        (Abs, [x]) => format!("torch.abs({x})"),
        (Exp, [x]) => format!("torch.exp({x})"),
        (Log, [x]) => format!("torch.log({x})"),
        (Log1p, [x]) => format!("torch.log1p({x})"),
        (Sqrt, [x]) => format!("torch.sqrt({x})"),
        (Tanh, [x]) => format!("torch.tanh({x})"),
        (Sigmoid, [x]) => format!("torch.sigmoid({x})"),
        (Cos, [x]) => format!("torch.cos({x})"),
        (Floor, [x]) => format!("torch.floor({x})"),
        (Add, [a, b]) => format!("({a} + {b})"),
        (Subtract, [a, b]) => format!("({a} - {b})"),
        (Multiply, [a, b]) => format!("({a} * {b})"),
        (Divide, [a, b]) => format!("({a} / {b})"),
        (Power, [a, b]) => format!("torch.pow({a}, {b})"),
        (Minimum, [a, b]) => format!("mt.minimum({a}, {b})"),
        (Maximum, [a, b]) => format!("mt.maximum({a}, {b})"),
        (Equal, [a, b]) => truth(format!("{a} == {b}")),
        (NotEqual, [a, b]) => truth(format!("{a} != {b}")),
        (Less, [a, b]) => truth(format!("{a} < {b}")),
        (LessEqual, [a, b]) => truth(format!("{a} <= {b}")),
        (Greater, [a, b]) => truth(format!("{a} > {b}")),
        (GreaterEqual, [a, b]) => truth(format!("{a} >= {b}")),
        (And, [a, b]) => truth(format!("({a} != 0) & ({b} != 0)")),
        (Or, [a, b]) => truth(format!("({a} != 0) | ({b} != 0)")),
        (Clip, [x, low, high]) => format!("mt.minimum(mt.maximum({x}, {low}), {high})"),
        (Where, [condition, then, otherwise]) => {
            format!("torch.where({condition} != 0, {then}, {otherwise})")
        }
        _ => unreachable!("a checked graph gives {function:?} {} operands", function.operands()),
    }
}

/// Prints the body of a function as one expression.
struct Inline<'a> {
    like: &'a str,
}

impl Backend for Inline<'_> {
    type Value = String;

    fn constant(&mut self, value: f64) -> String {
        format!("torch.full_like({}, {})", self.like, number(value))
    }

    fn apply(&mut self, function: Function, operands: &[String]) -> String {
        applied(function, operands)
    }
}
