//! The nine slots that almost every distillation objective fills, read off the graph. What it does not recognise it calls a
//! custom expression.

use crate::expr::derivative::adjoints;
use crate::expr::graph::{Graph, LiveId, NodeId, Operation};
use crate::expr::text;
use crate::plan::{Axis, DivergenceKind, Function, Keep, Live, NormalForm, Prefixes, Reduction, Role, Sampling, Signal, Support};

/// Longest expression quoted in a slot, in characters.
const QUOTED: usize = 100;

pub(super) struct Shape<'a> {
    pub graph: &'a Graph,
    pub primitives: &'a [Live],
    /// The sum of the terms, per token, without `weight` and `select`.
    pub terms: NodeId,
    pub select: Option<NodeId>,
    pub weight: Option<NodeId>,
    /// Operation, elements, over.
    pub reduce: &'a [(Reduction, Axis, Axis)],
    pub prefixes: &'a Prefixes,
}

pub(super) fn normal_form(shape: &Shape) -> NormalForm {
    let coefficients = coefficients(shape);
    let each = |slot: &dyn Fn(&Live, &Coefficient) -> String| {
        listed(shape.primitives.iter().zip(&coefficients).map(|(live, coefficient)| slot(live, coefficient)), " + ")
    };
    let sampled = |text: &str| text.to_string();
    NormalForm {
        prefixes: prefixes(shape.prefixes),
        sequence_selection: sequence_selection(shape),
        token_allocation: token_allocation(shape),
        support: each(&|live, _| match live {
            Live::Logp => sampled("sampled token"),
            Live::Divergence(divergence) => text::support(&divergence.support),
        }),
        mass: each(&|live, _| match live {
            Live::Logp => sampled("none"),
            Live::Divergence(divergence) => match divergence.support {
                Support::Full => "complete".into(),
                Support::TopK { .. } => text::mass(divergence.mass).into(),
            },
        }),
        divergence: each(&|live, coefficient| match live {
            Live::Logp => coefficient.reading.clone(),
            Live::Divergence(divergence) => {
                let (left, right) = (divergence.left.name(), divergence.right.name());
                match divergence.kind {
                    DivergenceKind::Kl => format!("KL({left} || {right})"),
                    DivergenceKind::Jsd { beta } => format!("JSD({left}, {right}), beta {beta}"),
                    DivergenceKind::TotalVariation => format!("TV({left}, {right})"),
                }
            }
        }),
        evaluation: each(&|live, _| match live {
            Live::Logp => sampled("sampled at y_t"),
            Live::Divergence(divergence) => match divergence.support {
                Support::Full => "exact over the vocabulary".into(),
                Support::TopK { .. } => "exact over the support".into(),
            },
        }),
        shaping: shaping(shape),
        realisation: each(&|live, coefficient| match (live, coefficient.depends_on_live, coefficient.ratio) {
            (Live::Divergence(_), ..) => "direct".into(),
            (Live::Logp, _, true) => "surrogate (ratio)".into(),
            (Live::Logp, true, false) => "surrogate (custom expression)".into(),
            (Live::Logp, false, false) => "score".into(),
        }),
    }
}

/// What stands before a live primitive in the gradient.
struct Coefficient {
    reading: String,
    depends_on_live: bool,
    /// The importance ratio `exp(live student.logp - sampler.logp)` takes part.
    ratio: bool,
}

fn coefficients(shape: &Shape) -> Vec<Coefficient> {
    // On a copy: the plan's graph holds only what is evaluated.
    let mut graph = shape.graph.clone();
    let everything = graph.reduce(Reduction::Sum, shape.terms, Axis::Batch, None);
    let live: Vec<LiveId> = (0..shape.primitives.len() as u32).map(LiveId).collect();
    let Ok(gradients) = adjoints(&mut graph, everything, &live) else {
        unreachable!("the loss has been differentiated through the same terms");
    };
    gradients.into_iter().map(|gradient| coefficient(&graph, gradient)).collect()
}

fn coefficient(graph: &Graph, node: NodeId) -> Coefficient {
    let reachable = graph.reachable(&[node]);
    let operations = || graph.nodes().filter(|(id, _)| reachable[id.0 as usize]).map(|(_, node)| &node.operation);
    let is_logp = |id: NodeId, wanted: Role| match &graph.node(id).operation {
        Operation::Signal { signal: Signal::Logp { role } } => *role == wanted,
        _ => false,
    };
    let is_live = |id: NodeId| matches!(graph.node(id).operation, Operation::Live { .. });
    let difference = |id: NodeId| match &graph.node(id).operation {
        Operation::Apply { function: Function::Subtract, operands } => Some((operands[0], operands[1])),
        _ => None,
    };
    let log_ratio = graph.nodes().any(|(id, _)| {
        reachable[id.0 as usize]
            && difference(id).is_some_and(|(left, right)| {
                (is_logp(left, Role::Teacher) && is_logp(right, Role::Student))
                    || (is_logp(left, Role::Student) && is_logp(right, Role::Teacher))
            })
    });
    let ratio = operations().any(|operation| match operation {
        Operation::Apply { function: Function::Exp, operands } => {
            difference(operands[0]).is_some_and(|(left, right)| is_live(left) && is_logp(right, Role::Sampler))
        }
        _ => false,
    });
    let signals = graph.signals(&[node]);
    let reward = signals.iter().any(|signal| matches!(signal, Signal::Reward | Signal::Correct));
    // The sampler's log-probability alone belongs to the ratio.
    let other = signals.iter().any(|signal| !matches!(signal, Signal::Logp { role: Role::Sampler }));
    let reading = match (log_ratio, reward) {
        (true, true) => "sampled log-ratio and reward",
        (true, false) => "sampled log-ratio",
        (false, true) => "reward",
        (false, false) if other => "custom expression",
        (false, false) => "likelihood",
    };
    let depends_on_live = operations().any(|operation| matches!(operation, Operation::Live { .. }));
    Coefficient { reading: reading.into(), depends_on_live, ratio }
}

fn prefixes(prefixes: &Prefixes) -> String {
    let sampled = |sampling: &Sampling| match sampling.temperature {
        0.0 => "greedy".to_string(),
        temperature => format!("temperature {temperature}"),
    };
    match prefixes {
        Prefixes::Data { field, .. } => format!("data (field `{field}`)"),
        Prefixes::Student { sampling, .. } => format!("student rollouts ({} per prompt, {})", sampling.n, sampled(sampling)),
        Prefixes::Teacher { sampling, .. } => format!("teacher rollouts (made once, {})", sampled(sampling)),
    }
}

fn sequence_selection(shape: &Shape) -> String {
    let kept = match shape.prefixes {
        Prefixes::Teacher { keep: Keep::Correct, .. } => Some("correct rollouts".to_string()),
        _ => None,
    };
    let selected = shape.select.filter(|select| shape.graph.axis(*select) < Axis::Token);
    let selected = selected.map(|select| format!("where {}", quoted(shape, select)));
    let parts: Vec<String> = kept.into_iter().chain(selected).collect();
    if parts.is_empty() { "all".into() } else { parts.join(", ") }
}

fn token_allocation(shape: &Shape) -> String {
    let selected = shape.select.filter(|select| shape.graph.axis(*select) == Axis::Token);
    let selected = selected.map_or("all tokens".to_string(), |select| format!("tokens where {}", quoted(shape, select)));
    let weight = shape.weight.map(|weight| format!("weight {}", quoted(shape, weight)));
    let steps = shape.reduce.iter().map(|(operation, elements, over)| {
        format!("{} over the {}s of each {}", text::reduction(*operation), elements.name(), over.name())
    });
    let steps = steps.collect::<Vec<String>>().join(", then ").replace("of each batch", "of the batch");
    std::iter::once(selected).chain(weight).chain([steps]).collect::<Vec<String>>().join("; ")
}

fn quoted(shape: &Shape, node: NodeId) -> String {
    text::expression(shape.graph, node, shape.primitives, QUOTED)
}

/// The nonlinear functions and the statistics in the terms.
fn shaping(shape: &Shape) -> String {
    use Function::*;
    let reachable = shape.graph.reachable(&[shape.terms]);
    let nodes = shape.graph.nodes().filter(|(id, _)| reachable[id.0 as usize]);
    let found = nodes.filter_map(|(_, node)| match &node.operation {
        Operation::Statistic { statistic, over, .. } => Some(format!("{} over {}", text::statistic(*statistic), over.name())),
        Operation::Apply { function: Clip, operands } => {
            let bound = |position: usize| shape.graph.constant_value(operands[position]);
            Some(match (bound(1), bound(2)) {
                (Some(low), Some(high)) if low == -high => format!("clip ±{high}"),
                (Some(low), Some(high)) => format!("clip to [{low}, {high}]"),
                _ => "clip".into(),
            })
        }
        Operation::Apply {
            function: function @ (Minimum | Maximum | Abs | Relu | Tanh | Sigmoid | Sqrt | Log1p | Power),
            ..
        } => Some(text::function(*function).to_string()),
        _ => None,
    });
    let found = listed(found, ", ");
    if found.is_empty() { "none".into() } else { found }
}

/// Each once, in order.
fn listed(parts: impl Iterator<Item = String>, separator: &str) -> String {
    let mut once: Vec<String> = Vec::new();
    for part in parts {
        if !once.contains(&part) {
            once.push(part);
        }
    }
    once.join(separator)
}
