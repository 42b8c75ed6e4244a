//! The summand of a divergence at one step of the run: its parameters become numbers, and its derivatives are
//! built. If the runtime has a kernel for it, it is recognised by its normal form, whatever its name and
//! notation.
//!
//! The normal form is a sum of products with integer exponents, of both sides' probabilities and of
//! logarithms; the logarithm of a quotient is split: `p * log(p / q)` and `p * (log(p) - log(q))` are one.

use std::collections::BTreeMap;

use super::batch::Batch;
use super::derivative::{NotDifferentiable, adjoints};
use super::graph::{Graph, LiveId, NodeId, Operation};
use crate::graph::signals::{Axis, Function, Reduction, Summand};

/// The smallest probability: smaller ones are replaced by it when a summand is computed. Derivatives divide
/// by squares, and would be 0 / 0 where these underflow. Third powers of this number, and quotients of two,
/// do not underflow or overflow in double precision.
pub const LEAST_PROBABILITY: f64 = 1e-100;

/// A summand with the values of its parameters.
#[derive(Clone, Debug)]
pub struct SummandGraph {
    pub graph: Graph,
    pub value: NodeId,
    /// The derivatives of the value by `p` and `q`, and by the detached `p` and `q`.
    pub gradients: [NodeId; 4],
}

/// Summands for which the runtime has its own loops, or arithmetic in single precision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kernel {
    /// p log(p / q)
    Kl,
    /// p log(p / (lambda p + (1 - lambda) q))
    Skew { lambda: f64 },
    /// beta p log(p / m) + (1 - beta) q log(q / m), m = beta p + (1 - beta) q; divided by beta (1 - beta)
    Jsd { beta: f64, normalized: bool },
}

/// A kernel, and whether its sides are swapped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recognized {
    pub kernel: Kernel,
    pub reversed: bool,
}

/// The live primitives of a summand's graph before its parameters: both sides, with and without gradient.
pub const SIDES: u32 = 4;

impl Summand {
    /// The summand at a step. `given` are the values of its parameters, `None` for those that differ from
    /// token to token: these stay inputs of the graph.
    ///
    /// # Errors
    /// If some operation in it has no derivative.
    pub fn at(
        &self,
        (step, steps): (u32, u32),
        given: &[Option<f64>],
    ) -> Result<SummandGraph, NotDifferentiable> {
        assert_eq!(given.len(), self.parameters.len(), "a value for each parameter");
        let batch = Batch { step, steps, ..Batch::default() };
        let mut graph = Graph::default();
        let needed = self.graph.reachable(&[self.value]);
        let mut known: Vec<Option<NodeId>> = Vec::with_capacity(self.graph.len());
        for (id, node) in self.graph.nodes() {
            let of = |id: &NodeId| known[id.0 as usize].expect("operands stand before their users");
            let made = match &node.operation {
                _ if !needed[id.0 as usize] => None,
                Operation::Constant { value } => Some(graph.constant(node.axis, *value)),
                Operation::Schedule { schedule } => Some(graph.constant(node.axis, schedule.at(step, steps))),
                Operation::Signal { signal } => {
                    let value =
                        batch.values(signal).expect("the compiler lets in what follows from the step");
                    Some(graph.constant(node.axis, f64::from(value[0])))
                }
                Operation::Live { live } => {
                    let parameter = live.0.checked_sub(SIDES).and_then(|parameter| given[parameter as usize]);
                    Some(match parameter {
                        Some(value) => graph.constant(node.axis, value),
                        None => graph.live(*live),
                    })
                }
                Operation::Broadcast { operand } => Some(graph.broadcast(of(operand), node.axis)),
                Operation::Apply { function, operands } => {
                    let operands: Vec<NodeId> = operands.iter().map(of).collect();
                    Some(applied(&mut graph, *function, &operands))
                }
                Operation::Reduce { .. }
                | Operation::Statistic { .. }
                | Operation::Scan { .. }
                | Operation::Memory { .. } => unreachable!("a summand is elementwise"),
            };
            known.push(made);
        }
        let value = known[self.value.0 as usize].expect("it is needed");
        let value = graph.broadcast(value, Axis::Token);
        // Elementwise: the derivative of the sum by each number is that of the number's own summand.
        let sum = graph.reduce(Reduction::Sum, value, Axis::Batch, None);
        let gradients = adjoints(&mut graph, sum, &[0, 1, 2, 3].map(LiveId))?;
        let gradients = [gradients[0], gradients[1], gradients[2], gradients[3]];
        Ok(SummandGraph { graph, value, gradients })
    }
}

/// Writes squares as products and square roots as `sqrt`, not as powers.
fn applied(graph: &mut Graph, function: Function, operands: &[NodeId]) -> NodeId {
    match (function, operands) {
        (Function::Power, &[x, exponent]) if graph.constant_value(exponent) == Some(2.0) => {
            graph.apply(Function::Multiply, &[x, x])
        }
        (Function::Power, &[x, exponent]) if graph.constant_value(exponent) == Some(0.5) => {
            graph.apply(Function::Sqrt, &[x])
        }
        _ => graph.apply(function, operands),
    }
}

/// The factors of a product, which have integer exponents.
#[derive(Clone, Debug, PartialEq)]
enum Atom {
    Live(u32),
    /// The logarithm of a sum whose coefficients sum to 1, or of a single atom.
    Log(Sum),
    /// A sum of several products, in a denominator.
    Whole(Sum),
    /// Any other node; equal nodes are one atom.
    Node(NodeId),
}

/// Pairs of an atom, by index, and its exponent.
type Product = Vec<(usize, i32)>;
type Sum = BTreeMap<Product, f64>;

/// Sums with more products than this are not expanded.
const MOST: usize = 64;

/// Coefficients that differ by less than this are equal.
const ROUNDING: f64 = 1e-12;

struct Expansion<'g> {
    graph: &'g Graph,
    atoms: Vec<Atom>,
}

fn same(left: &Sum, right: &Sum) -> bool {
    left.len() == right.len()
        && left.iter().zip(right).all(|((a, x), (b, y))| a == b && (x - y).abs() <= ROUNDING)
}

fn plus(mut left: Sum, right: &Sum, times: f64) -> Sum {
    for (product, coefficient) in right {
        *left.entry(product.clone()).or_insert(0.0) += times * coefficient;
    }
    left.retain(|_, coefficient| coefficient.abs() > ROUNDING);
    left
}

fn joined(left: &Product, right: &Product, times: i32) -> Product {
    let mut product = left.clone();
    for (atom, exponent) in right {
        match product.iter_mut().find(|(known, _)| known == atom) {
            Some((_, known)) => *known += times * exponent,
            None => product.push((*atom, times * exponent)),
        }
    }
    product.retain(|(_, exponent)| *exponent != 0);
    product.sort_unstable();
    product
}

impl Expansion<'_> {
    fn atom(&mut self, atom: Atom) -> usize {
        let equal = |known: &Atom| match (known, &atom) {
            (Atom::Log(known), Atom::Log(sum)) | (Atom::Whole(known), Atom::Whole(sum)) => same(known, sum),
            (known, atom) => known == atom,
        };
        self.atoms.iter().position(equal).unwrap_or_else(|| {
            self.atoms.push(atom);
            self.atoms.len() - 1
        })
    }

    fn of_atom(&mut self, atom: Atom) -> Sum {
        Sum::from([(vec![(self.atom(atom), 1)], 1.0)])
    }

    fn expand(&mut self, id: NodeId) -> Sum {
        use Function::*;
        match &self.graph.node(id).operation {
            Operation::Constant { value } => plus(Sum::new(), &Sum::from([(vec![], *value)]), 1.0),
            Operation::Live { live } => self.of_atom(Atom::Live(live.0)),
            Operation::Apply { function, operands } => match (function, operands.as_slice()) {
                (Negate, [x]) => plus(Sum::new(), &self.expand(*x), -1.0),
                (Add, [x, y]) => plus(self.expand(*x), &self.expand(*y), 1.0),
                (Subtract, [x, y]) => plus(self.expand(*x), &self.expand(*y), -1.0),
                (Multiply, [x, y]) => {
                    let (x, y) = (self.expand(*x), self.expand(*y));
                    if x.len() * y.len() > MOST { self.of_atom(Atom::Node(id)) } else { times(&x, &y) }
                }
                (Divide, [x, y]) => {
                    let (x, y) = (self.expand(*x), self.expand(*y));
                    let (below, by) = match y.iter().next() {
                        None => return self.of_atom(Atom::Node(id)),
                        Some((product, coefficient)) if y.len() == 1 => (product.clone(), *coefficient),
                        Some(_) => (vec![(self.atom(Atom::Whole(y)), 1)], 1.0),
                    };
                    let above = x.iter().map(|(product, times)| (joined(product, &below, -1), times / by));
                    above.collect()
                }
                (Log, [x]) => {
                    let x = self.expand(*x);
                    self.log(&x).unwrap_or_else(|| self.of_atom(Atom::Node(id)))
                }
                _ => self.of_atom(Atom::Node(id)),
            },
            _ => self.of_atom(Atom::Node(id)),
        }
    }

    /// The logarithm of a sum. `None` where the sum may be negative.
    fn log(&mut self, of: &Sum) -> Option<Sum> {
        if of.len() != 1 {
            let total: f64 = of.values().sum();
            if total <= 0.0 {
                return None;
            }
            let share = plus(Sum::new(), of, 1.0 / total);
            let log = self.of_atom(Atom::Log(share));
            return Some(plus(log, &Sum::from([(vec![], total.ln())]), 1.0));
        }
        let (product, coefficient) = of.iter().next()?;
        if *coefficient <= 0.0 {
            return None;
        }
        let mut sum = plus(Sum::new(), &Sum::from([(vec![], coefficient.ln())]), 1.0);
        for (atom, exponent) in product {
            let log = match self.atoms[*atom].clone() {
                Atom::Whole(inner) => self.log(&inner)?,
                _ => self.of_atom(Atom::Log(Sum::from([(vec![(*atom, 1)], 1.0)]))),
            };
            sum = plus(sum, &log, f64::from(*exponent));
        }
        Some(sum)
    }
}

fn times(left: &Sum, right: &Sum) -> Sum {
    let mut product = Sum::new();
    for (a, x) in left {
        for (b, y) in right {
            product = plus(product, &Sum::from([(joined(a, b, 1), x * y)]), 1.0);
        }
    }
    product
}

impl SummandGraph {
    /// The kernel for the summand, if there is one.
    pub fn recognized(&self) -> Option<Recognized> {
        let mut form = Expansion { graph: &self.graph, atoms: Vec::new() };
        let sum = form.expand(self.value);
        // No kernel has more products than this.
        if sum.len() > 4 {
            return None;
        }
        let [p, q] = [0, 1].map(|live| form.atom(Atom::Live(live)));
        let one = |atom: usize| Sum::from([(vec![(atom, 1)], 1.0)]);
        let [log_p, log_q] = [p, q].map(|side| form.atom(Atom::Log(one(side))));
        // The logarithm of a mixture of both sides, and the left side's share.
        let mixture = form.atoms.iter().enumerate().find_map(|(place, atom)| match atom {
            Atom::Log(mixed) if mixed.len() == 2 => {
                let share = |side: usize| mixed.get(&vec![(side, 1)]).copied().filter(|share| *share > 0.0);
                Some((place, share(p)?, share(q)?))
            }
            _ => None,
        });
        let coefficient = |side: usize, log: usize| {
            let product = joined(&vec![(side, 1)], &vec![(log, 1)], 1);
            sum.get(&product).copied().unwrap_or(0.0)
        };
        let is = |value: f64, expected: f64| (value - expected).abs() <= ROUNDING * expected.abs().max(1.0);
        let plain = |own: (usize, usize), other: usize| {
            sum.len() == 2 && is(coefficient(own.0, own.1), 1.0) && is(coefficient(own.0, other), -1.0)
        };
        let found = |kernel, reversed| Some(Recognized { kernel, reversed });
        if plain((p, log_p), log_q) {
            return found(Kernel::Kl, false);
        }
        if plain((q, log_q), log_p) {
            return found(Kernel::Kl, true);
        }
        let (log_m, of_p, of_q) = mixture?;
        if plain((p, log_p), log_m) {
            return found(Kernel::Skew { lambda: of_p }, false);
        }
        if plain((q, log_q), log_m) {
            return found(Kernel::Skew { lambda: of_q }, true);
        }
        let scale = coefficient(p, log_p) / of_p;
        let jensen_shannon = sum.len() == 4
            && is(coefficient(p, log_m), -scale * of_p)
            && is(coefficient(q, log_q), scale * of_q)
            && is(coefficient(q, log_m), -scale * of_q);
        match jensen_shannon {
            true if is(scale, 1.0) => found(Kernel::Jsd { beta: of_p, normalized: false }, false),
            true if is(scale, 1.0 / (of_p * of_q)) => {
                found(Kernel::Jsd { beta: of_p, normalized: true }, false)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Build = fn(&mut Graph, [NodeId; 2]) -> NodeId;

    fn recognized(build: Build) -> Option<Recognized> {
        let mut graph = Graph::default();
        let sides = [0, 1].map(|live| graph.live(LiveId(live)));
        let value = build(&mut graph, sides);
        Summand { graph, value, parameters: Vec::new() }.at((0, 1), &[]).unwrap().recognized()
    }

    fn constant(graph: &mut Graph, value: f64) -> NodeId {
        graph.constant(Axis::Run, value)
    }

    #[test]
    fn a_divergence_is_known_by_what_it_is() {
        use Function::*;
        let kl: Build = |g, [p, q]| {
            let ratio = g.apply(Divide, &[p, q]);
            let log = g.apply(Log, &[ratio]);
            g.apply(Multiply, &[p, log])
        };
        let taken_apart: Build = |g, [p, q]| {
            let logs = [p, q].map(|side| g.apply(Log, &[side]));
            let difference = g.apply(Subtract, &logs);
            g.apply(Multiply, &[difference, p])
        };
        // q * f(p / q), f(u) = u * log(u)
        let generated: Build = |g, [p, q]| {
            let u = g.apply(Divide, &[p, q]);
            let log = g.apply(Log, &[u]);
            let f = g.apply(Multiply, &[u, log]);
            g.apply(Multiply, &[q, f])
        };
        for build in [kl, taken_apart, generated] {
            assert_eq!(recognized(build), Some(Recognized { kernel: Kernel::Kl, reversed: false }));
        }
        // p * log(2 * p / (p + q)) / 2 + q * log(2 * q / (p + q)) / 2
        let jensen_shannon: Build = |g, [p, q]| {
            let (both, two, half) = (g.apply(Add, &[p, q]), constant(g, 2.0), constant(g, 0.5));
            let parts = [p, q].map(|side| {
                let twice = g.apply(Multiply, &[two, side]);
                let ratio = g.apply(Divide, &[twice, both]);
                let log = g.apply(Log, &[ratio]);
                let part = g.apply(Multiply, &[side, log]);
                g.apply(Multiply, &[part, half])
            });
            g.apply(Add, &parts)
        };
        let expected = Recognized { kernel: Kernel::Jsd { beta: 0.5, normalized: false }, reversed: false };
        assert_eq!(recognized(jensen_shannon), Some(expected));
        // q * log(q / (0.25 * p + 0.75 * q))
        let skewed: Build = |g, [p, q]| {
            let (a, b) = (constant(g, 0.25), constant(g, 0.75));
            let parts = [(a, p), (b, q)].map(|(share, side)| g.apply(Multiply, &[share, side]));
            let mixed = g.apply(Add, &parts);
            let ratio = g.apply(Divide, &[q, mixed]);
            let log = g.apply(Log, &[ratio]);
            g.apply(Multiply, &[q, log])
        };
        let expected = Recognized { kernel: Kernel::Skew { lambda: 0.75 }, reversed: true };
        assert_eq!(recognized(skewed), Some(expected));
    }

    #[test]
    fn near_divergences_are_not_fused() {
        use Function::*;
        let twice: Build = |g, [p, q]| {
            let (ratio, two) = (g.apply(Divide, &[p, q]), constant(g, 2.0));
            let log = g.apply(Log, &[ratio]);
            let kl = g.apply(Multiply, &[p, log]);
            g.apply(Multiply, &[kl, two])
        };
        let symmetric: Build = |g, [p, q]| {
            let ratio = g.apply(Divide, &[p, q]);
            let (log, difference) = (g.apply(Log, &[ratio]), g.apply(Subtract, &[p, q]));
            g.apply(Multiply, &[difference, log])
        };
        let detached: Build = |g, [p, q]| {
            let constant = g.live(LiveId(2));
            let ratio = g.apply(Divide, &[p, q]);
            let log = g.apply(Log, &[ratio]);
            g.apply(Multiply, &[constant, log])
        };
        let square: Build = |g, [p, q]| {
            let difference = g.apply(Subtract, &[p, q]);
            g.apply(Multiply, &[difference, difference])
        };
        for build in [twice, symmetric, detached, square] {
            assert_eq!(recognized(build), None);
        }
    }
}
