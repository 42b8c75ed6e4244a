//! Checks of objectives on trajectories that are sampled with drafts. The rejected tokens of a draft form a
//! row beside the trajectory. Its tokens count among those of the batch, but the row is no completion: there
//! are no averages over completions and no numbers of completions.

use mopd_expr::graph::{Graph, NodeId, Operation};
use mopd_lang::diag::Diagnostic;
use mopd_plan::{
    Axis, Divergence, DivergenceParameter, Objective, PlainSignal, Producer, Rollout, Scorers, Signal,
};

use crate::lower::refusal::{Origins, refused};

const HELP: &str =
    "a rejected draft is no completion: count tokens, `reduce = sum(token, over: batch) / ...`";

/// The first thing that an objective needs and such completions do not have.
pub fn refusal(
    objective: &Objective,
    rollout: &Rollout,
    scorers: &Scorers,
    origins: Origins,
) -> Option<Diagnostic> {
    let at = origins.span(objective.origin);
    if !matches!(rollout.producer, Producer::Speculative(_)) {
        let name = objective.signals().iter().find_map(of_drafts)?;
        let construct = format!("the signal `{name}` of completions that are not sampled with drafts");
        return Some(
            (*refused(at, construct)).help("train on drafts: `speculative(block: 16, sample(...))`"),
        );
    }
    let outputs = objective.outputs();
    let divergences = objective.divergences();
    let inside = divergences.iter().flat_map(Divergence::parameters);
    let choices = scorers.iter().flat_map(|(_, scorer)| &scorer.choices);
    let members = choices.filter_map(|choice| choice.teacher.composition()).flat_map(|of| &of.members);
    let formulas = inside.chain(members.map(|member| &member.weight)).filter_map(|number| match number {
        DivergenceParameter::Number(_) => None,
        DivergenceParameter::Formula(formula) => Some((&formula.graph, vec![formula.value])),
    });
    let construct = formulas
        .chain([(&objective.graph, outputs)])
        .find_map(|(graph, roots)| unavailable_number(graph, &roots))?;
    Some((*refused(at, format!("{construct} in an objective on the rollout `speculative`"))).help(HELP))
}

fn of_drafts(signal: &Signal) -> Option<&'static str> {
    match signal {
        Signal::Plain(plain) if plain.definition().drafts_only => Some(plain.name()),
        _ => None,
    }
}

/// The first number that a graph needs of completions, of their turns, or of the completions of a prompt.
fn unavailable_number(graph: &Graph, roots: &[NodeId]) -> Option<String> {
    let needed = graph.reachable(roots);
    let nodes = graph.nodes().filter(|(id, _)| needed[id.0 as usize]).map(|(_, node)| node);
    let finer = |axis: Axis| {
        matches!(axis, Axis::Block | Axis::Turn | Axis::Sequence | Axis::Group).then(|| axis.name())
    };
    nodes.into_iter().find_map(|node| match &node.operation {
        Operation::Signal { signal } => of_completion(signal).map(|name| format!("the signal `{name}`")),
        Operation::Reduce { operand, .. } => {
            let of = finer(node.axis).or_else(|| finer(graph.axis(*operand)))?;
            Some(format!("a number of each {of}"))
        }
        Operation::Statistic { over, .. } | Operation::Scan { over, .. } => {
            let of = finer(*over).or_else(|| finer(node.axis))?;
            Some(format!("a comparison over each {of}"))
        }
        _ => None,
    })
}

/// The name of a signal that is a number of a completion, or of a token's position in it.
fn of_completion(signal: &Signal) -> Option<&'static str> {
    match signal {
        Signal::Plain(plain) if *plain == PlainSignal::Position || plain.axis() == Axis::Sequence => {
            Some(plain.name())
        }
        Signal::InSpan { .. } => Some("span"),
        Signal::RewardPart { .. } => Some("a part of the reward"),
        Signal::Chosen => Some("chosen"),
        Signal::Uniform { axis: Axis::Group | Axis::Sequence | Axis::Turn, .. } => Some("random"),
        _ => None,
    }
}
