//! Builds graphs: operands are broadcast to one axis, constants are folded, and operations that change
//! nothing in IEEE arithmetic are left out.

use mopd_experiment::Schedule;

use crate::graph::signals::{Axis, Function, Memory, Reduction, Scan, Signal, Statistic};

use super::graph::{Graph, LiveId, NodeId, Operation};

impl Graph {
    pub fn constant(&mut self, axis: Axis, value: f64) -> NodeId {
        self.add(axis, Operation::Constant { value })
    }

    pub fn schedule(&mut self, schedule: Schedule) -> NodeId {
        match schedule {
            Schedule::Constant { value } => self.constant(Axis::Run, value),
            _ => self.add(Axis::Run, Operation::Schedule { schedule }),
        }
    }

    pub fn signal(&mut self, signal: impl Into<Signal>) -> NodeId {
        let signal = signal.into();
        self.add(signal.axis(), Operation::Signal { signal })
    }

    pub fn live(&mut self, live: LiveId) -> NodeId {
        self.add(Axis::Token, Operation::Live { live })
    }

    /// The value of a constant node.
    pub fn constant_value(&self, id: NodeId) -> Option<f64> {
        match self.node(id).operation {
            Operation::Constant { value } => Some(value),
            _ => None,
        }
    }

    /// `function` of operands on any axes; the result has the finest of these.
    pub fn apply(&mut self, function: Function, operands: &[NodeId]) -> NodeId {
        assert_eq!(operands.len(), function.operands());
        let axis = operands.iter().map(|operand| self.axis(*operand)).max().unwrap_or(Axis::Run);
        let operands: Vec<NodeId> = operands.iter().map(|operand| self.broadcast(*operand, axis)).collect();
        match self.simplified(axis, function, &operands) {
            Some(simpler) => simpler,
            None => self.add(axis, Operation::Apply { function, operands }),
        }
    }

    /// Added from left to right; `None` without nodes.
    pub fn sum(&mut self, nodes: impl IntoIterator<Item = NodeId>) -> Option<NodeId> {
        nodes.into_iter().reduce(|left, right| self.apply(Function::Add, &[left, right]))
    }

    /// An existing node, or a constant, with the value of `function(operands)`. A product with 0 is kept,
    /// because folding it would hide infinity and NaN.
    fn simplified(&mut self, axis: Axis, function: Function, operands: &[NodeId]) -> Option<NodeId> {
        use Function::*;
        let constants: Vec<Option<f64>> =
            operands.iter().map(|operand| self.constant_value(*operand)).collect();
        if let Some(values) = constants.iter().copied().collect::<Option<Vec<f64>>>() {
            let folded = function.value(&values);
            // JSON has no infinity and NaN. They are computed, and reported, at run time.
            return folded.is_finite().then(|| self.constant(axis, folded));
        }
        match (function, operands, constants.as_slice()) {
            (Multiply, &[x, _], [_, Some(1.0)]) | (Multiply, &[_, x], [Some(1.0), _]) => Some(x),
            (Multiply, &[x, _], [_, Some(-1.0)]) | (Multiply, &[_, x], [Some(-1.0), _]) => {
                Some(self.apply(Negate, &[x]))
            }
            (Divide, &[x, _], [_, Some(1.0)]) | (Power, &[x, _], [_, Some(1.0)]) => Some(x),
            // Also where x is NaN (IEEE 754).
            (Power, _, [_, Some(0.0)]) => Some(self.constant(axis, 1.0)),
            (Add, &[x, _], [_, Some(0.0)])
            | (Add, &[_, x], [Some(0.0), _])
            | (Subtract, &[x, _], [_, Some(0.0)]) => Some(x),
            (Where, &[_, then, otherwise], [Some(condition), ..]) => {
                Some(if *condition != 0.0 { then } else { otherwise })
            }
            // A common minuend or subtrahend cancels, possibly with a model's whole forward pass.
            (Subtract, &[left, right], _) => {
                let (a, b) = self.difference(left)?;
                let (c, d) = self.difference(right)?;
                let cancels = b == d && matches!(self.node(b).operation, Operation::Signal { .. });
                cancels.then(|| self.apply(Subtract, &[a, c]))
            }
            (Negate, &[x], _) => match self.node(x).operation {
                Operation::Apply { function: Negate, ref operands } => Some(operands[0]),
                _ => None,
            },
            _ => None,
        }
    }

    /// The operands of a subtraction.
    fn difference(&self, id: NodeId) -> Option<(NodeId, NodeId)> {
        match &self.node(id).operation {
            Operation::Apply { function: Function::Subtract, operands } => Some((operands[0], operands[1])),
            _ => None,
        }
    }

    /// `operand` broadcast to `axis`, which is its own or a finer one.
    pub fn broadcast(&mut self, operand: NodeId, axis: Axis) -> NodeId {
        let from = self.axis(operand);
        assert!(from <= axis, "a broadcast goes to a finer axis");
        if from == axis {
            return operand;
        }
        match self.node(operand).operation {
            Operation::Constant { value } => self.constant(axis, value),
            Operation::Broadcast { operand } => self.add(axis, Operation::Broadcast { operand }),
            _ => self.add(axis, Operation::Broadcast { operand }),
        }
    }

    /// The reduction of `operand` within each element of `over`; `mask` as in [`Operation::Reduce`].
    pub fn reduce(
        &mut self,
        reduction: Reduction,
        operand: NodeId,
        over: Axis,
        mask: Option<NodeId>,
    ) -> NodeId {
        self.add(over, Operation::Reduce { reduction, operand, mask, fraction: None })
    }

    /// A statistic that is not random; `mask` as in [`Operation::Statistic`].
    pub fn statistic(
        &mut self,
        statistic: Statistic,
        operand: NodeId,
        over: Axis,
        mask: Option<NodeId>,
    ) -> NodeId {
        let axis = self.axis(operand);
        self.add(axis, Operation::Statistic { statistic, operand, over, mask, noise: None, fraction: None })
    }

    /// A random statistic, from the uniform numbers in `noise`.
    pub fn random_choice(
        &mut self,
        statistic: Statistic,
        operand: NodeId,
        over: Axis,
        mask: Option<NodeId>,
        noise: NodeId,
    ) -> NodeId {
        let axis = self.axis(operand);
        let noise = Some(noise);
        self.add(axis, Operation::Statistic { statistic, operand, over, mask, noise, fraction: None })
    }

    /// A reduction or statistic with a number in place of its fraction, on an axis that is not finer than
    /// that of the elements that are taken together. All others stay as they are.
    pub fn with_fraction(&mut self, id: NodeId, number: NodeId) -> NodeId {
        let mut node = self.node(id).clone();
        match &mut node.operation {
            Operation::Reduce { fraction, .. } => *fraction = Some(self.broadcast(number, node.axis)),
            Operation::Statistic { over, fraction, .. } => *fraction = Some(self.broadcast(number, *over)),
            _ => {}
        }
        self.add(node.axis, node.operation)
    }

    /// A scan; `mask` as in [`Operation::Scan`].
    pub fn scan(&mut self, scan: Scan<NodeId>, operand: NodeId, over: Axis, mask: Option<NodeId>) -> NodeId {
        let axis = self.axis(operand);
        self.add(axis, Operation::Scan { scan, operand, over, mask })
    }

    pub fn memory(&mut self, memory: Memory, operand: NodeId) -> NodeId {
        let axis = self.axis(operand);
        self.add(axis, Operation::Memory { memory, operand })
    }
}

#[cfg(test)]
mod tests {
    use crate::graph::signals::Role;

    use super::*;
    use crate::graph::signals::{ModelSignal, PlainSignal};

    #[test]
    fn the_same_computation_is_one_node() {
        let mut graph = Graph::default();
        let (first, second) = (graph.signal(PlainSignal::Reward), graph.signal(PlainSignal::Reward));
        assert_eq!(first, second);
        let sums = [first, second].map(|operand| graph.apply(Function::Add, &[operand, first]));
        assert_eq!(sums[0], sums[1]);
        assert_ne!(graph.constant(Axis::Run, f64::NAN), graph.constant(Axis::Run, f64::INFINITY));
        assert_ne!(graph.constant(Axis::Run, 0.0), graph.constant(Axis::Run, -0.0));
    }

    #[test]
    fn constants_fold_unless_the_result_is_not_finite() {
        let mut graph = Graph::default();
        let (one, zero) = (graph.constant(Axis::Run, 1.0), graph.constant(Axis::Token, 0.0));
        let two = graph.apply(Function::Add, &[one, one]);
        assert_eq!(graph.constant_value(two), Some(2.0));
        let quotient = graph.apply(Function::Divide, &[one, zero]);
        assert_eq!((graph.constant_value(quotient), graph.axis(quotient)), (None, Axis::Token));
        assert_eq!(graph.check(), Ok(()));
    }

    #[test]
    fn neutral_elements_go_and_products_with_0_stay() {
        let mut graph = Graph::default();
        let x = graph.signal(Signal::Of { role: Role::TEACHER, part: ModelSignal::Logp });
        let [zero, one, minus_one] = [0.0, 1.0, -1.0].map(|value| graph.constant(Axis::Run, value));
        for (function, operands) in [
            (Function::Multiply, [x, one]),
            (Function::Multiply, [one, x]),
            (Function::Divide, [x, one]),
            (Function::Power, [x, one]),
            (Function::Add, [x, zero]),
            (Function::Add, [zero, x]),
            (Function::Subtract, [x, zero]),
        ] {
            assert_eq!(graph.apply(function, &operands), x, "{function:?}");
        }
        let negated = graph.apply(Function::Negate, &[x]);
        assert_eq!(graph.apply(Function::Multiply, &[minus_one, x]), negated);
        assert_eq!(graph.apply(Function::Negate, &[negated]), x);
        // A number that both sides subtract is not computed.
        let (y, z) = (
            graph.signal(Signal::Of { role: Role::Student, part: ModelSignal::Logp }),
            graph.signal(Signal::Of { role: Role::Sampler, part: ModelSignal::Logp }),
        );
        let (first, second) =
            (graph.apply(Function::Subtract, &[x, z]), graph.apply(Function::Subtract, &[y, z]));
        let direct = graph.apply(Function::Subtract, &[x, y]);
        assert_eq!(graph.apply(Function::Subtract, &[first, second]), direct);
        let power = graph.apply(Function::Power, &[x, zero]);
        assert_eq!((graph.constant_value(power), graph.axis(power)), (Some(1.0), Axis::Token));
        // 0 * infinity is NaN, which must be kept.
        let product = graph.apply(Function::Multiply, &[zero, x]);
        assert_eq!(graph.constant_value(product), None);
    }

    #[test]
    fn numbers_over_several_prompts_are_told_from_those_of_one() {
        let graph = |number: &dyn Fn(&mut Graph, NodeId) -> NodeId| {
            let mut graph = Graph::default();
            let reward = graph.signal(PlainSignal::Reward);
            number(&mut graph, reward);
            graph
        };
        for (over, several) in [(Axis::Batch, true), (Axis::Domain, true), (Axis::Group, false)] {
            let reduced = graph(&|graph, x| graph.reduce(Reduction::Mean, x, over, None));
            let centred = graph(&|graph, x| graph.statistic(Statistic::Center, x, over, None));
            let summed = graph(&|graph, x| graph.scan(Scan::Sum, x, over, None));
            for graph in [reduced, centred, summed] {
                assert_eq!(graph.compares_prompts(), several, "{over:?}");
            }
        }
    }

    #[test]
    fn coarse_operands_are_broadcast_to_the_finest() {
        let mut graph = Graph::default();
        let (reward, logp) = (
            graph.signal(PlainSignal::Reward),
            graph.signal(Signal::Of { role: Role::Student, part: ModelSignal::Logp }),
        );
        let product = graph.apply(Function::Multiply, &[reward, logp]);
        assert_eq!(graph.axis(product), Axis::Token);
        assert_eq!(graph.operands(graph.operands(product)[0]), [reward]);
        assert_eq!(graph.check(), Ok(()));
    }
}
