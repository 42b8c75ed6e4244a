//! Objectives written by hand.

use mopd_expr::derivative::adjoints;
use mopd_expr::graph::{Graph, LiveId, NodeId};
use mopd_plan::*;

/// Function application, for short.
fn apply(graph: &mut Graph, function: Function, operands: &[NodeId]) -> NodeId {
    graph.apply(function, operands)
}

/// An objective of one term over one live primitive. `term` builds the term from the graph and the primitive;
/// it also returns the node that is 1 where a clip is at its bound.
pub fn objective(
    name: &str,
    live: Live,
    term: impl Fn(&mut Graph, NodeId) -> (NodeId, Option<NodeId>),
) -> Objective {
    let mut graph = Graph::default();
    let primitive = graph.live(LiveId(0));
    let (value, clipped) = term(&mut graph, primitive);
    let per_sequence = graph.reduce(Reduction::Mean, value, Axis::Sequence, None);
    let loss = graph.reduce(Reduction::Mean, per_sequence, Axis::Batch, None);
    let total = graph.reduce(Reduction::Sum, value, Axis::Batch, None);
    let derivative = adjoints(&mut graph, total, &[LiveId(0)]).expect("the term is differentiable")[0];
    let signal = apply(&mut graph, Function::Abs, &[derivative]);
    let adjoint = adjoints(&mut graph, loss, &[LiveId(0)]).expect("the loss is differentiable")[0];
    let empty = String::new;
    Objective {
        name: name.to_owned(),
        graph,
        loss,
        live: vec![LivePrimitive { primitive: live, adjoint, origin: Origin(0) }],
        terms: vec![Term { name: "distill".to_owned(), value, origin: Origin(0) }],
        term_losses: Vec::new(),
        term_gradients: Vec::new(),
        denominators: Vec::new(),
        signal,
        clipped,
        selected: None,
        chosen: None,
        weight: None,
        domain_weight: None,
        temperature: 1.0.into(),
        ladders: Vec::new(),
        states: Vec::new(),
        learned: None,
        normal_form: NormalForm {
            prefixes: empty(),
            sequence_selection: empty(),
            token_allocation: empty(),
            support: empty(),
            mass: empty(),
            divergence: empty(),
            evaluation: empty(),
            shaping: empty(),
            realisation: empty(),
            terms: empty(),
        },
        origin: Origin(0),
    }
}

pub fn nll() -> Objective {
    objective("nll", Live::Logp, |graph, logp| (apply(graph, Function::Negate, &[logp]), None))
}

/// The clipped ratio to the student before the updates from a batch, rewards standardised within the group.
pub fn grpo() -> Objective {
    objective("grpo", Live::Logp, |graph, logp| {
        let reward = graph.signal(PlainSignal::Reward);
        let advantage = graph.statistic(
            Statistic::Zscore { deviation: Deviation::Sample, epsilon: 1e-4 },
            reward,
            Axis::Group,
            None,
        );
        let old = graph.signal(Signal::Of { role: Role::Old, part: ModelSignal::Logp });
        let difference = apply(graph, Function::Subtract, &[logp, old]);
        let ratio = apply(graph, Function::Exp, &[difference]);
        let plain = apply(graph, Function::Multiply, &[ratio, advantage]);
        let (low, high) = (graph.constant(Axis::Run, 0.8), graph.constant(Axis::Run, 1.28));
        let clipped = apply(graph, Function::Clip, &[ratio, low, high]);
        let bounded = apply(graph, Function::Multiply, &[clipped, advantage]);
        let smaller = apply(graph, Function::Minimum, &[plain, bounded]);
        let at_bound = apply(graph, Function::NotEqual, &[ratio, clipped]);
        (apply(graph, Function::Negate, &[smaller]), Some(at_bound))
    })
}

/// arXiv:2606.30406, eqs. 2-4.
pub fn mopd(clip_at: f64) -> Objective {
    objective("mopd", Live::Logp, |graph, logp| {
        let (teacher, student) = (
            graph.signal(Signal::Of { role: Role::TEACHER, part: ModelSignal::Logp }),
            graph.signal(Signal::Of { role: Role::Student, part: ModelSignal::Logp }),
        );
        let difference = apply(graph, Function::Subtract, &[teacher, student]);
        let (low, high) = (graph.constant(Axis::Run, -clip_at), graph.constant(Axis::Run, clip_at));
        let advantage = apply(graph, Function::Clip, &[difference, low, high]);
        let product = apply(graph, Function::Multiply, &[advantage, logp]);
        let at_bound = apply(graph, Function::NotEqual, &[difference, advantage]);
        (apply(graph, Function::Negate, &[product]), Some(at_bound))
    })
}

/// Reverse KL to the teacher, differentiated directly.
pub fn direct(support: Support, mass: Mass) -> Objective {
    let live = Live::Divergence(Divergence::between(
        DivergenceKind::Kl,
        Role::Student,
        Role::TEACHER,
        support,
        mass,
    ));
    objective("direct", live, |_, divergence| (divergence, None))
}

/// Divides by zero at `step`.
pub fn poisoned(step: f64) -> Objective {
    objective("poisoned", Live::Logp, |graph, logp| {
        let now = graph.signal(PlainSignal::Step);
        let step = graph.constant(Axis::Run, step);
        let left = apply(graph, Function::Subtract, &[step, now]);
        (apply(graph, Function::Divide, &[logp, left]), None)
    })
}
