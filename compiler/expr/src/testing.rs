//! Random graphs and batches for tests, determined by a number so that failures can be repeated. Always
//! compiled: behind a feature for tests, every crate above this one would be compiled twice.

use mopd_experiment::{Schedule, ScheduleLength};

use crate::graph::signals::{
    Axis, Deviation, Function, Memory, ModelSignal, PlainSignal, Reduction, Role, Scan, Signal, Statistic,
};

use super::batch::{Batch, Domains, Layout, TokenPartition};
use super::graph::{Graph, LiveId, NodeId, Operation};

/// The axes that a number can have, coarse to fine.
pub const AXES: [Axis; 8] =
    [Axis::Run, Axis::Batch, Axis::Domain, Axis::Group, Axis::Sequence, Axis::Turn, Axis::Block, Axis::Token];

/// The number of random draws that batches have for every axis.
const DRAWS: u32 = 2;

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.bits() % limit as u64) as usize
    }

    pub fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    /// A multiple of 1/256 in [-2, 2]: exact in f32, with room for a finite difference.
    pub fn number(&mut self) -> f32 {
        (self.below(1025) as f32 - 512.0) / 256.0
    }

    /// A mostly ordinary number, but sometimes one that breaks careless code.
    pub fn wild_number(&mut self) -> f32 {
        match self.below(24) {
            0 => f32::NAN,
            1 => f32::INFINITY,
            2 => f32::NEG_INFINITY,
            3 => -0.0,
            4 => 0.0,
            5 => 1e-41,
            6 => 3e38,
            7 => 1.0,
            _ => self.number() * 3.7,
        }
    }

    /// A ragged layout: 1 to 4 groups of 1 to 4 sequences of 1 to 7 tokens. Half of them have domains, turns
    /// and blocks.
    pub fn layout(&mut self) -> Layout {
        let mut layout = Layout { groups: 1 + self.below(4) as u32, ..Layout::default() };
        for group in 0..layout.groups {
            for _ in 0..1 + self.below(4) {
                let sequence = layout.group_of_sequence.len() as u32;
                layout.group_of_sequence.push(group);
                layout.sequence_of_token.extend((0..1 + self.below(7)).map(|_| sequence));
            }
        }
        if self.below(2) == 0 {
            let count = 1 + self.below(3) as u32;
            let of_group = (0..layout.groups).map(|_| self.below(count as usize) as u32).collect();
            layout.domains = Some(Domains { of_group, count });
        }
        if self.below(2) == 0 {
            layout.turns = Some(self.runs(&layout, Axis::Sequence));
        }
        if self.below(2) == 0 {
            layout.blocks = Some(self.runs(&layout, Axis::Turn));
        }
        layout
    }

    /// Cuts the tokens in each element of `coarser` into runs.
    fn runs(&mut self, layout: &Layout, coarser: Axis) -> TokenPartition {
        let mut runs = TokenPartition { of_token: Vec::new(), parent: Vec::new() };
        for token in 0..layout.tokens() {
            let parent = layout.parent(Axis::Token, coarser, token) as u32;
            if runs.parent.last() != Some(&parent) || self.below(3) == 0 {
                runs.parent.push(parent);
            }
            runs.of_token.push(runs.parent.len() as u32 - 1);
        }
        runs
    }

    pub fn batch(
        &mut self,
        layout: Layout,
        live: usize,
        mut number: impl FnMut(&mut Random) -> f32,
    ) -> Batch {
        let signals = [
            Signal::Of { role: Role::TEACHER, part: ModelSignal::Logp },
            Signal::Of { role: Role::Student, part: ModelSignal::Entropy },
            Signal::Plain(PlainSignal::Reward),
            Signal::Plain(PlainSignal::Truncated),
        ];
        let mut signals: Vec<(Signal, Vec<f32>)> = signals
            .into_iter()
            .map(|signal| {
                let values = (0..layout.len(signal.axis())).map(|_| number(self)).collect();
                (signal, values)
            })
            .collect();
        for (draw, axis) in (0..DRAWS).flat_map(|draw| AXES.map(|axis| (draw, axis))) {
            let values = (0..layout.len(axis)).map(|_| self.below(1024) as f32 / 1024.0).collect();
            signals.push((Signal::Uniform { draw, axis }, values));
        }
        let live = (0..live).map(|_| (0..layout.tokens()).map(|_| number(self)).collect()).collect();
        let carried =
            (0..64).step_by(1 + self.below(3)).map(|node| (NodeId(node), f64::from(number(self)))).collect();
        Batch { layout, signals, live, step: 3, steps: 10, carried, measured: Vec::new() }
    }

    /// A leaf of any kind.
    fn leaf(&mut self, graph: &mut Graph, live: usize) -> NodeId {
        match self.below(10) {
            0 => {
                let axis = self.pick(&AXES);
                let value = f64::from(self.number());
                graph.constant(axis, value)
            }
            1 => graph.schedule(Schedule::Linear { from: 0.25, to: 2.0, over: ScheduleLength::Run }),
            2 => graph.signal(PlainSignal::Reward),
            3 => graph.signal(PlainSignal::Truncated),
            4 => graph.signal(Signal::Of { role: Role::Student, part: ModelSignal::Entropy }),
            5 => graph.signal(PlainSignal::Position),
            6 => graph.signal(PlainSignal::Length),
            7 => graph.signal(PlainSignal::Progress),
            8 if live > 0 => graph.live(LiveId(self.below(live) as u32)),
            _ => graph.signal(Signal::Of { role: Role::TEACHER, part: ModelSignal::Logp }),
        }
    }

    fn statistic(&mut self) -> Statistic {
        match self.below(14) {
            0 => Statistic::Zscore { deviation: Deviation::Sample, epsilon: 1e-4 },
            1 => Statistic::Zscore { deviation: Deviation::Population, epsilon: 0.5 },
            2 => Statistic::Minmax,
            3 => Statistic::Winsor { upper: self.below(5) as f64 / 4.0 },
            4 => Statistic::TopFraction { keep: self.below(5) as f64 / 4.0 },
            5 => Statistic::Center,
            6 => Statistic::Rank,
            7 => Statistic::LeaveOneOut,
            8 => Statistic::TopCount { count: self.below(4) as u32 },
            9 => Statistic::SampleWithoutReplacement { keep: self.below(5) as f64 / 4.0 },
            10 => Statistic::Balance,
            11 => Statistic::Chunks { most: self.below(3) as u32, width: 1 + self.below(3) as u32 },
            12 => Statistic::MeanOfSmaller,
            _ => Statistic::Softmax,
        }
    }

    fn scan(&mut self, graph: &mut Graph) -> Scan<NodeId> {
        match self.below(6) {
            0 => Scan::Sum,
            1 => Scan::Product,
            2 => Scan::Minimum,
            3 => Scan::Maximum,
            4 => Scan::Next,
            _ => {
                let discount = self.below(5) as f64 / 4.0;
                Scan::RewardToGo { discount: graph.constant(Axis::Run, discount) }
            }
        }
    }

    /// A graph of `size` operations of any kind over leaves, with up to 4 of them as outputs.
    pub fn graph(&mut self, size: usize, live: usize) -> (Graph, Vec<NodeId>) {
        let mut graph = Graph::default();
        let mut nodes: Vec<NodeId> = (0..4).map(|_| self.leaf(&mut graph, live)).collect();
        for _ in 0..size {
            let node = match self.below(12) {
                0 => self.leaf(&mut graph, live),
                1 | 2 => {
                    let operand = self.pick(&nodes);
                    let axis = graph.axis(operand);
                    let coarser: Vec<Axis> = AXES.into_iter().filter(|other| *other < axis).collect();
                    if coarser.is_empty() {
                        continue;
                    }
                    let over = self.pick(&coarser);
                    let mask = (self.below(2) == 0).then(|| self.pick(&nodes));
                    let mask =
                        mask.filter(|mask| graph.axis(*mask) <= axis).map(|mask| graph.broadcast(mask, axis));
                    let node = match self.below(5) {
                        0 => {
                            let q = self.below(5) as f64 / 4.0;
                            graph.reduce(Reduction::Quantile { q }, operand, over, mask)
                        }
                        1 => {
                            let reduction = self.pick(&Reduction::EACH);
                            graph.reduce(reduction, operand, over, mask)
                        }
                        2 => {
                            let scan = self.scan(&mut graph);
                            graph.scan(scan, operand, over, mask)
                        }
                        _ => {
                            let statistic = self.statistic();
                            if statistic.chooses_at_random() {
                                let draw = self.below(DRAWS as usize) as u32;
                                let noise = graph.signal(Signal::Uniform { draw, axis });
                                graph.random_choice(statistic, operand, over, mask, noise)
                            } else {
                                graph.statistic(statistic, operand, over, mask)
                            }
                        }
                    };
                    let fraction = (self.below(3) == 0).then(|| self.pick(&nodes));
                    match fraction.filter(|fraction| graph.axis(*fraction) <= over) {
                        Some(fraction) => graph.with_fraction(node, fraction),
                        None => node,
                    }
                }
                3 => {
                    let operand = self.pick(&nodes);
                    if graph.axis(operand) > Axis::Batch {
                        continue;
                    }
                    let memory = self.pick(&[Memory::Ema { rate: 0.75 }, Memory::Previous]);
                    graph.memory(memory, operand)
                }
                _ => {
                    let function = self.pick(Function::ALL);
                    let operands: Vec<NodeId> = (0..function.operands()).map(|_| self.pick(&nodes)).collect();
                    if self.below(4) == 0 {
                        // A node that is not simplified.
                        let axis =
                            operands.iter().map(|operand| graph.axis(*operand)).max().unwrap_or(Axis::Run);
                        let operands =
                            operands.iter().map(|operand| graph.broadcast(*operand, axis)).collect();
                        graph.add(axis, Operation::Apply { function, operands })
                    } else {
                        graph.apply(function, &operands)
                    }
                }
            };
            nodes.push(node);
        }
        let outputs =
            (0..1 + self.below(4)).map(|_| nodes[nodes.len() - 1 - self.below(nodes.len() / 2)]).collect();
        (graph, outputs)
    }
}
