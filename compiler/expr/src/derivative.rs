//! Reverse-mode derivative of a graph, as more nodes of the same graph.
//!
//! The derivatives of elementwise functions are in the operators' table ([`mopd_ops::FunctionDefinition`]). A
//! minimum or maximum over an axis shares its gradient among the elements that attain it; counts pass none.
//!
//! Where a condition leaves an element out (the branch of a `where` that is not taken, an element outside of
//! the mask of a reduction), the gradient of everything that only this element reads is 0, even where the
//! element is infinite or NaN: a product of the gradient 0 with an infinite derivative is replaced by 0.

use mopd_ops::expr::{Arguments, OpExpr};
use mopd_ops::{Backend, Receivers, ReductionGradient};

use crate::graph::signals::{Axis, Function, Reduction, Scan};

use super::graph::{Graph, LiveId, NodeId, Operation};

/// The error that gradient would have to flow through an operation without a derivative here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{operation}` of something `live` has no derivative")]
pub struct NotDifferentiable {
    pub node: NodeId,
    /// The operation's name in the language.
    pub operation: &'static str,
}

/// The derivative of `of`, which has a single element (batch or run axis), with respect to each live
/// primitive in `with_respect_to`: a node on the token axis, one partial derivative per token. Constant 0
/// where `of` does not depend on it differentiably.
///
/// # Errors
/// If `of` depends on one of them through a quantile, a statistic, a scan or memory.
pub fn adjoints(
    graph: &mut Graph,
    of: NodeId,
    with_respect_to: &[LiveId],
) -> Result<Vec<NodeId>, NotDifferentiable> {
    adjoints_beside(graph, of, with_respect_to, &[])
}

/// [`adjoints`] where no gradient flows through the nodes `constants`.
///
/// # Errors
/// As [`adjoints`].
pub fn adjoints_beside(
    graph: &mut Graph,
    of: NodeId,
    with_respect_to: &[LiveId],
    constants: &[NodeId],
) -> Result<Vec<NodeId>, NotDifferentiable> {
    assert!(graph.axis(of) <= Axis::Batch, "only a single number has a gradient");
    let depends = dependents(graph, with_respect_to, constants);
    let mut reverse = Reverse { depends, adjoint: vec![None; graph.len()] };
    let one = graph.constant(graph.axis(of), 1.0);
    reverse.give(graph, of, Adjoint::everywhere(one));
    for index in (0..=of.0).rev() {
        if let Some(gradient) = reverse.adjoint[index as usize].clone() {
            reverse.propagate(graph, NodeId(index), gradient)?;
        }
    }
    let gradients = with_respect_to.iter().map(|live| {
        let node = graph.live(*live);
        match reverse.adjoint.get(node.0 as usize).cloned().flatten() {
            Some(known) => known.guarded(graph).node,
            None => graph.constant(Axis::Token, 0.0),
        }
    });
    Ok(gradients.collect())
}

/// Which nodes depend on the live primitives.
fn dependents(graph: &Graph, with_respect_to: &[LiveId], constants: &[NodeId]) -> Vec<bool> {
    let mut depends = vec![false; graph.len()];
    for (id, node) in graph.nodes() {
        depends[id.0 as usize] = match &node.operation {
            _ if constants.contains(&id) => false,
            Operation::Live { live } => with_respect_to.contains(live),
            _ => graph.operands(id).iter().any(|operand| depends[operand.0 as usize]),
        };
    }
    depends
}

/// The gradient of a node, on the node's axis.
#[derive(Clone, PartialEq)]
struct Adjoint {
    node: NodeId,
    /// Conditions, on this axis or a coarser one, with the value that each must have: elsewhere the gradient
    /// is 0.
    only_where: Vec<(NodeId, bool)>,
    /// Whether `node` may be 0 times infinity, instead of 0, where a condition leaves an element out.
    exposed: bool,
}

impl Adjoint {
    fn everywhere(node: NodeId) -> Adjoint {
        Adjoint { node, only_where: Vec::new(), exposed: false }
    }

    fn and(mut self, condition: NodeId, holds: bool) -> Adjoint {
        if !self.only_where.contains(&(condition, holds)) {
            self.only_where.push((condition, holds));
        }
        self
    }

    /// The same gradient, 0 where a condition leaves an element out.
    fn guarded(self, graph: &mut Graph) -> Adjoint {
        if !self.exposed {
            return self;
        }
        let node = self.only_where.iter().fold(self.node, |node, (condition, holds)| match holds {
            true => choose(graph, *condition, Some(node), None),
            false => choose(graph, *condition, None, Some(node)),
        });
        Adjoint { node, exposed: false, ..self }
    }

    /// The sum of two gradients of a node. Under the same conditions, their sum is guarded once.
    fn plus(self, other: Adjoint, graph: &mut Graph) -> Adjoint {
        let [left, right] = match self.only_where == other.only_where {
            true => [self, other],
            false => [self.guarded(graph), other.guarded(graph)],
        };
        let node = graph.apply(Function::Add, &[left.node, right.node]);
        let exposed = left.exposed || right.exposed;
        let only_where = left.only_where.into_iter();
        let only_where = only_where.filter(|condition| right.only_where.contains(condition)).collect();
        Adjoint { node, only_where, exposed }
    }
}

struct Reverse {
    /// By node of the initial graph; nodes added later are derivatives and are not differentiated.
    depends: Vec<bool>,
    /// Sum of the gradients that reached the node so far.
    adjoint: Vec<Option<Adjoint>>,
}

impl Reverse {
    fn wants(&self, node: NodeId) -> bool {
        self.depends[node.0 as usize]
    }

    fn give(&mut self, graph: &mut Graph, node: NodeId, gradient: Adjoint) {
        if self.wants(node) {
            let sum = match self.adjoint[node.0 as usize].take() {
                Some(so_far) => so_far.plus(gradient, graph),
                None => gradient,
            };
            self.adjoint[node.0 as usize] = Some(sum);
        }
    }

    fn refuse(
        &self,
        node: NodeId,
        operand: NodeId,
        operation: &'static str,
    ) -> Result<(), NotDifferentiable> {
        if self.wants(operand) { Err(NotDifferentiable { node, operation }) } else { Ok(()) }
    }

    fn propagate(
        &mut self,
        graph: &mut Graph,
        node: NodeId,
        gradient: Adjoint,
    ) -> Result<(), NotDifferentiable> {
        let axis = graph.axis(node);
        match graph.node(node).operation.clone() {
            Operation::Constant { .. }
            | Operation::Schedule { .. }
            | Operation::Signal { .. }
            | Operation::Live { .. } => {}
            Operation::Apply { function, operands } => {
                for (position, operand) in operands.iter().enumerate() {
                    if self.wants(*operand)
                        && let Some(partial) = function.gradient(position)
                    {
                        let factor = !keeps_0(partial) && !multiplies_by_constant(graph, function, &operands);
                        let reverse = Some([&node, &gradient.node]);
                        let arguments = Arguments { operands: &operands, reverse };
                        let partial = partial.evaluate(&mut Nodes { graph, axis }, arguments);
                        let mut partial = Adjoint { node: partial, ..gradient.clone() };
                        if function == Function::Where {
                            partial = partial.and(operands[0], position == 1);
                        }
                        partial.exposed |= factor && !partial.only_where.is_empty();
                        self.give(graph, *operand, partial);
                    }
                }
            }
            // Every fine element is a copy of the coarse one.
            Operation::Broadcast { operand } => {
                let coarse = graph.axis(operand);
                let mut gradient = gradient.guarded(graph);
                gradient.node = graph.reduce(Reduction::Sum, gradient.node, coarse, None);
                gradient.only_where.retain(|(condition, _)| graph.axis(*condition) <= coarse);
                self.give(graph, operand, gradient);
            }
            Operation::Reduce { reduction, operand, mask, .. } => {
                let fine = graph.axis(operand);
                let (receivers, divided) = match reduction.gradient() {
                    ReductionGradient::To { receivers, divided } => (receivers, divided),
                    ReductionGradient::Refused if self.wants(operand) => {
                        return Err(NotDifferentiable { node, operation: reduction.name() });
                    }
                    ReductionGradient::Refused | ReductionGradient::Zero => return Ok(()),
                };
                let within = |graph: &mut Graph, chosen: NodeId| match mask {
                    Some(mask) => graph.apply(Function::And, &[chosen, mask]),
                    None => chosen,
                };
                let chosen = match receivers {
                    Receivers::All => None,
                    Receivers::First | Receivers::Last => {
                        // The first element is where the running count is 1, the last one where the reverse
                        // running count is 1.
                        let ones = graph.constant(fine, 1.0);
                        let scan = match receivers {
                            Receivers::First => Scan::Sum,
                            _ => Scan::RewardToGo { discount: graph.constant(Axis::Run, 1.0) },
                        };
                        let place = graph.scan(scan, ones, axis, mask);
                        let chosen = graph.apply(Function::Equal, &[place, ones]);
                        Some(within(graph, chosen))
                    }
                    Receivers::Attaining => {
                        let extreme = graph.broadcast(node, fine);
                        let attains = graph.apply(Function::Equal, &[operand, extreme]);
                        Some(within(graph, attains))
                    }
                };
                let share = match divided {
                    true => {
                        let among = chosen.unwrap_or_else(|| graph.constant(fine, 1.0));
                        divided_among(graph, gradient.node, among, axis, mask)
                    }
                    false => gradient.node,
                };
                let mut fine_gradient = Adjoint { node: graph.broadcast(share, fine), ..gradient };
                if let Some(takes_part) = chosen.or(mask) {
                    fine_gradient.node = choose(graph, takes_part, Some(fine_gradient.node), None);
                    fine_gradient = fine_gradient.and(takes_part, true);
                }
                self.give(graph, operand, fine_gradient);
            }
            Operation::Statistic { statistic, operand, .. } => {
                self.refuse(node, operand, statistic.name())?
            }
            Operation::Scan { scan, operand, .. } => self.refuse(node, operand, scan.name())?,
            Operation::Memory { memory, operand } => self.refuse(node, operand, memory.name())?,
        }
        Ok(())
    }
}

/// Whether a derivative is 0 wherever the gradient of the output is, whatever the operands are.
fn keeps_0(derivative: &OpExpr) -> bool {
    match derivative {
        OpExpr::Gradient => true,
        OpExpr::Constant(value) => *value == 0.0,
        OpExpr::Apply(Function::Negate, [of]) => keeps_0(of),
        OpExpr::Let(_, of) => keeps_0(of),
        OpExpr::Apply(Function::Where, [_, then, otherwise]) => keeps_0(then) && keeps_0(otherwise),
        _ => false,
    }
}

/// Whether the gradient is multiplied by a finite constant, as that of `-0.1 * x`, or divided by one.
fn multiplies_by_constant(graph: &Graph, function: Function, operands: &[NodeId]) -> bool {
    match (function, operands) {
        (Function::Multiply, operands) => {
            operands.iter().any(|operand| graph.constant_value(*operand).is_some_and(f64::is_finite))
        }
        (Function::Divide, [_, divisor]) => {
            graph.constant_value(*divisor).is_some_and(|value| value.is_finite() && value != 0.0)
        }
        _ => false,
    }
}

/// `gradient / number of elements where among is 1`. Where there is none the value is unused, but must be
/// finite.
fn divided_among(
    graph: &mut Graph,
    gradient: NodeId,
    among: NodeId,
    over: Axis,
    mask: Option<NodeId>,
) -> NodeId {
    let count = graph.reduce(Reduction::Sum, among, over, mask);
    let one = graph.constant(over, 1.0);
    let count = graph.apply(Function::Maximum, &[count, one]);
    graph.apply(Function::Divide, &[gradient, count])
}

/// `where(condition, then, else)`; a missing branch is 0. Unlike a product with the condition, it keeps
/// infinity and NaN of the other branch out of the result.
fn choose(graph: &mut Graph, condition: NodeId, then: Option<NodeId>, otherwise: Option<NodeId>) -> NodeId {
    let zero = graph.constant(graph.axis(condition), 0.0);
    graph.apply(Function::Where, &[condition, then.unwrap_or(zero), otherwise.unwrap_or(zero)])
}

/// Builds nodes on one axis from the table's expressions.
struct Nodes<'a> {
    graph: &'a mut Graph,
    axis: Axis,
}

impl Backend for Nodes<'_> {
    type Value = NodeId;

    fn constant(&mut self, value: f64) -> NodeId {
        self.graph.constant(self.axis, value)
    }

    fn apply(&mut self, function: Function, operands: &[NodeId]) -> NodeId {
        self.graph.apply(function, operands)
    }
}

#[cfg(test)]
mod tests {
    use crate::graph::signals::{ModelSignal, PlainSignal, Role, Signal, Statistic};

    use super::*;
    use crate::batch::Batch;
    use crate::interpret::interpret;
    use crate::testing::Random;

    /// Small enough that the error of a central difference is tiny, and exact in f32 next to
    /// [`Random::number`].
    const STEP: f32 = 1.0 / 131_072.0;

    /// Differentiable functions, combined so that values stay moderate.
    fn smooth_step(random: &mut Random, graph: &mut Graph, nodes: &[NodeId]) -> NodeId {
        use Function::*;
        let (a, b, c) = (random.pick(nodes), random.pick(nodes), random.pick(nodes));
        let (half, two) = (graph.constant(Axis::Run, 0.5), graph.constant(Axis::Run, 2.0));
        let positive = |graph: &mut Graph, x| {
            let square = graph.apply(Multiply, &[x, x]);
            graph.apply(Add, &[square, half])
        };
        let bounded = |graph: &mut Graph, x| graph.apply(Tanh, &[x]);
        match random.below(19) {
            0 => graph.apply(Negate, &[a]),
            1 => graph.apply(Abs, &[a]),
            2 => {
                let small = bounded(graph, a);
                graph.apply(Exp, &[small])
            }
            3 => {
                let x = positive(graph, a);
                graph.apply(Log, &[x])
            }
            4 => {
                let x = positive(graph, a);
                graph.apply(Log1p, &[x])
            }
            5 => {
                let x = positive(graph, a);
                graph.apply(Sqrt, &[x])
            }
            6 => bounded(graph, a),
            7 => graph.apply(Sigmoid, &[a]),
            8 => graph.apply(Relu, &[a]),
            9 => graph.apply(Add, &[a, b]),
            10 => graph.apply(Subtract, &[a, b]),
            11 => {
                let small = bounded(graph, b);
                graph.apply(Multiply, &[a, small])
            }
            12 => {
                let x = positive(graph, b);
                graph.apply(Divide, &[a, x])
            }
            13 => {
                let (x, exponent) = (positive(graph, a), bounded(graph, b));
                graph.apply(Power, &[x, exponent])
            }
            14 => graph.apply(Power, &[a, two]),
            15 => graph.apply(random.pick(&[Minimum, Maximum]), &[a, b]),
            16 => {
                let low = graph.apply(Subtract, &[b, half]);
                let high = graph.apply(Add, &[b, half]);
                graph.apply(Clip, &[a, low, high])
            }
            17 => {
                let condition = graph.apply(Less, &[a, b]);
                graph.apply(Where, &[condition, b, c])
            }
            _ => {
                let axis = graph.axis(a);
                let over = random.pick(&[
                    Axis::Batch,
                    Axis::Domain,
                    Axis::Group,
                    Axis::Sequence,
                    Axis::Turn,
                    Axis::Block,
                ]);
                if over >= axis {
                    return graph.apply(Negate, &[a]);
                }
                let mask = (random.below(2) == 0).then(|| {
                    let reward = graph.signal(PlainSignal::Reward);
                    let mask = graph.apply(Greater, &[reward, half]);
                    (graph.axis(mask) <= axis).then(|| graph.broadcast(mask, axis))
                });
                let mut smooth = Reduction::EACH.to_vec();
                smooth.retain(|each| each.gradient() != ReductionGradient::Refused);
                graph.reduce(random.pick(&smooth), a, over, mask.flatten())
            }
        }
    }

    fn value(graph: &Graph, of: NodeId, batch: &Batch, live: usize, token: usize, change: f32) -> f64 {
        let mut batch = batch.clone();
        batch.live[live][token] += change;
        interpret(graph, &[of], &batch).expect("the batch has everything").get(of)[0]
    }

    #[test]
    fn adjoints_agree_with_finite_differences() {
        let (mut compared, mut kinks, mut moving) = (0, 0, 0);
        for seed in 0..1_200 {
            let mut random = Random(seed);
            let mut graph = Graph::default();
            let mut nodes = vec![
                graph.live(LiveId(0)),
                graph.live(LiveId(1)),
                graph.live(LiveId(0)),
                graph.signal(Signal::Of { role: Role::TEACHER, part: ModelSignal::Logp }),
                graph.signal(PlainSignal::Reward),
            ];
            for _ in 0..3 + random.below(9) {
                let node = smooth_step(&mut random, &mut graph, &nodes);
                nodes.push(node);
            }
            let last = graph.broadcast(nodes[nodes.len() - 1], Axis::Token);
            let last = graph.apply(Function::Tanh, &[last]);
            let loss = graph.reduce(Reduction::Sum, last, Axis::Batch, None);
            let gradients = adjoints(&mut graph, loss, &[LiveId(0), LiveId(1)]).expect("no statistics");
            graph.check().expect("derivatives keep the rules");
            let layout = random.layout();
            let batch = random.batch(layout, 2, Random::number);
            let values = interpret(&graph, &gradients, &batch).expect("the batch has everything");
            for (live, gradient) in gradients.iter().enumerate() {
                for token in 0..batch.layout.tokens() {
                    let derivative = |step: f32| {
                        let (above, below) = (
                            value(&graph, loss, &batch, live, token, step),
                            value(&graph, loss, &batch, live, token, -step),
                        );
                        (above - below) / (2.0 * f64::from(step))
                    };
                    let (near, far) = (derivative(STEP), derivative(2.0 * STEP));
                    let one_sided = (value(&graph, loss, &batch, live, token, STEP)
                        - value(&graph, loss, &batch, live, token, 0.0))
                        / f64::from(STEP);
                    // At a kink, the one-sided derivatives differ, or those of the two steps.
                    let scale = 1.0 + near.abs();
                    if (near - far).abs() > 1e-6 * scale || (near - one_sided).abs() > 1e-2 * scale {
                        kinks += 1;
                        continue;
                    }
                    let exact = values.get(*gradient)[token];
                    assert!((exact - near).abs() <= 1e-5 * scale, "graph {seed}: {exact} is not {near}");
                    compared += 1;
                    moving += usize::from(exact != 0.0);
                }
            }
        }
        assert!(moving > 10_000, "{moving} of {compared} derivatives are not 0");
        assert!(kinks * 10 < compared, "{kinks} kinks, {compared} derivatives");
    }

    /// What a condition leaves out may be infinite: no gradient, and no NaN, comes from it.
    #[test]
    fn no_gradient_comes_from_what_a_condition_leaves_out() {
        use Function::*;
        // The token's place in the sequence, counted from 0, as the divisor.
        let gradient = |loss: &dyn Fn(&mut Graph, [NodeId; 3]) -> NodeId| {
            let mut graph = Graph::default();
            let (live, place) = (graph.live(LiveId(0)), graph.signal(PlainSignal::Position));
            let zero = graph.constant(Axis::Token, 0.0);
            let later = graph.apply(Greater, &[place, zero]);
            let loss = loss(&mut graph, [live, place, later]);
            let node = adjoints(&mut graph, loss, &[LiveId(0)]).expect("differentiable")[0];
            graph.check().expect("derivatives keep the rules");
            let layout = crate::batch::Layout {
                sequence_of_token: vec![0, 0, 0],
                group_of_sequence: vec![0],
                groups: 1,
                ..Default::default()
            };
            let signals = vec![(Signal::Plain(PlainSignal::Position), vec![0.0, 1.0, 2.0])];
            let batch = Batch { layout, signals, live: vec![vec![1.0; 3]], ..Batch::default() };
            interpret(&graph, &[node], &batch).expect("runs").get(node).to_vec()
        };
        let sum = |graph: &mut Graph, of, mask| graph.reduce(Reduction::Sum, of, Axis::Batch, mask);
        let when = gradient(&|graph, [live, place, later]| {
            let (quotient, zero) = (graph.apply(Divide, &[live, place]), graph.constant(Axis::Token, 0.0));
            let kept = graph.apply(Where, &[later, quotient, zero]);
            sum(graph, kept, None)
        });
        assert_eq!(when, [0.0, 1.0, 0.5]);
        let otherwise = gradient(&|graph, [live, place, later]| {
            let first = graph.apply(Not, &[later]);
            let (quotient, zero) = (graph.apply(Divide, &[live, place]), graph.constant(Axis::Token, 0.0));
            let kept = graph.apply(Where, &[first, zero, quotient]);
            sum(graph, kept, None)
        });
        assert_eq!(otherwise, [0.0, 1.0, 0.5]);
        let select = gradient(&|graph, [live, place, later]| {
            let quotient = graph.apply(Divide, &[live, place]);
            sum(graph, quotient, Some(later))
        });
        assert_eq!(select, [0.0, 1.0, 0.5]);
        // The token that is left out is read by another term.
        let both = gradient(&|graph, [live, place, later]| {
            let (quotient, zero) = (graph.apply(Divide, &[live, place]), graph.constant(Axis::Token, 0.0));
            let kept = graph.apply(Where, &[later, quotient, zero]);
            let total = graph.apply(Add, &[kept, live]);
            sum(graph, total, None)
        });
        assert_eq!(both, [1.0, 2.0, 1.5]);
    }

    #[test]
    fn a_gradient_without_conditions_is_not_guarded() {
        let mut graph = Graph::default();
        let (live, place) = (graph.live(LiveId(0)), graph.signal(PlainSignal::Position));
        let quotient = graph.apply(Function::Divide, &[live, place]);
        let loss = graph.reduce(Reduction::Mean, quotient, Axis::Batch, None);
        adjoints(&mut graph, loss, &[LiveId(0)]).expect("differentiable");
        let guards = |graph: &Graph| {
            let is_where = |operation: &Operation| {
                matches!(operation, Operation::Apply { function: Function::Where, .. })
            };
            graph.nodes().filter(|(_, node)| is_where(&node.operation)).count()
        };
        assert_eq!(guards(&graph), 0);
    }

    #[test]
    fn a_statistic_of_something_live_is_refused_by_name() {
        let mut graph = Graph::default();
        let live = graph.live(LiveId(0));
        let ranked = graph.statistic(Statistic::Minmax, live, Axis::Batch, None);
        let loss = graph.reduce(Reduction::Mean, ranked, Axis::Batch, None);
        let refused = adjoints(&mut graph, loss, &[LiveId(0)]);
        assert_eq!(refused, Err(NotDifferentiable { node: ranked, operation: "minmax" }));
        // A detached factor needs no derivative.
        let entropy = graph.signal(Signal::Of { role: Role::Student, part: ModelSignal::Entropy });
        let weight = graph.statistic(Statistic::Minmax, entropy, Axis::Batch, None);
        let term = graph.apply(Function::Multiply, &[weight, live]);
        let loss = graph.reduce(Reduction::Sum, term, Axis::Batch, None);
        assert!(adjoints(&mut graph, loss, &[LiveId(0)]).is_ok());
    }

    #[test]
    fn derivative_at_ties_and_bounds() {
        let gradient = |build: &dyn Fn(&mut Graph, NodeId) -> NodeId, at: f32| {
            let mut graph = Graph::default();
            let live = graph.live(LiveId(0));
            let y = build(&mut graph, live);
            let y = graph.broadcast(y, Axis::Token);
            let loss = graph.reduce(Reduction::Sum, y, Axis::Batch, None);
            let node = adjoints(&mut graph, loss, &[LiveId(0)]).expect("differentiable")[0];
            let layout = crate::batch::Layout {
                sequence_of_token: vec![0, 0],
                group_of_sequence: vec![0],
                groups: 1,
                ..Default::default()
            };
            let batch = Batch { layout, live: vec![vec![at, at]], ..Batch::default() };
            interpret(&graph, &[node], &batch).expect("runs").get(node).to_vec()
        };
        let clip = |graph: &mut Graph, x| {
            let (low, high) = (graph.constant(Axis::Run, -1.0), graph.constant(Axis::Run, 1.0));
            graph.apply(Function::Clip, &[x, low, high])
        };
        assert_eq!(gradient(&clip, 1.0), [1.0, 1.0]);
        assert_eq!(gradient(&clip, 1.25), [0.0, 0.0]);
        assert_eq!(gradient(&clip, -1.0), [1.0, 1.0]);
        // Bounds that cross: the value is the upper one, also where `x` is below both.
        let between = |graph: &mut Graph, low: NodeId, high: NodeId| {
            let x = graph.constant(Axis::Run, -3.0);
            graph.apply(Function::Clip, &[x, low, high])
        };
        let low = |graph: &mut Graph, x| {
            let high = graph.constant(Axis::Run, 1.0);
            between(graph, x, high)
        };
        let high = |graph: &mut Graph, x| {
            let low = graph.constant(Axis::Run, 1.0);
            between(graph, low, x)
        };
        assert_eq!([gradient(&low, 2.0), gradient(&high, 0.0)], [[0.0, 0.0], [1.0, 1.0]]);
        assert_eq!([gradient(&low, -2.0), gradient(&high, 2.0)], [[1.0, 1.0], [0.0, 0.0]]);
        let tie = |graph: &mut Graph, x| {
            let tripled = graph.constant(Axis::Run, 3.0);
            let tripled = graph.apply(Function::Multiply, &[x, tripled]);
            graph.apply(Function::Minimum, &[x, tripled])
        };
        assert_eq!(gradient(&tie, 0.0), [1.0, 1.0]);
        assert_eq!(gradient(&|graph, x| graph.apply(Function::Abs, &[x]), 0.0), [0.0, 0.0]);
        assert_eq!(gradient(&|graph, x| graph.apply(Function::Relu, &[x]), 0.0), [0.0, 0.0]);
        // Two equal tokens attain the maximum, which is broadcast to two tokens: half of 2 each.
        let peak = |graph: &mut Graph, x| graph.reduce(Reduction::Maximum, x, Axis::Sequence, None);
        assert_eq!(gradient(&peak, 0.5), [1.0, 1.0]);
    }
}
