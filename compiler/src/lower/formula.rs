//! Lowers typed formulas to graph nodes.
//!
//! Formulas share parts, so each part is lowered once and looked up by its address: traversing them as trees
//! could take exponential time. Lowering is not recursive, because a sum of ten thousand summands is deep.

use std::collections::HashMap;
use std::rc::Rc;

use mopd_experiment::Origin;
use mopd_experiment::formula::{self as checked, Formula, FormulaKind, FormulaNode};
use mopd_expr::graph::{Graph, LiveId, NodeId, Operation};
use mopd_lang::diag::{Code, Diagnostic};
use mopd_plan::{Axis, Function, Live, ModelSignal, PlainSignal, Signal};

use super::executable::formula::{self as executable, CrossRolloutReads, ExecutableKind};
use super::executable::sums;
use super::leaves::GraphLeaf;
use super::parts::{operands, switched_off};
use super::positions;
use crate::lower::refusal::{Origins, refused};

/// A live primitive, and the place that first reads it.
pub(super) struct PrimitiveUse {
    pub live: Live,
    pub origin: Origin,
}

/// A text that was abbreviated, and what it stands for.
struct AbbreviatedText {
    text: String,
    kind: FormulaKind,
}

/// A loss of the current step: the signal that reads it, and its node.
#[derive(Clone)]
pub(super) struct LossNode {
    pub signal: Signal,
    pub node: NodeId,
}

/// What random numbers are drawn for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum RandomSource {
    /// A random statistic, by its address.
    Statistic(*const FormulaNode),
    /// A draw of the objective, by its number there.
    Call(u32),
}

/// Lowers the formulas of one objective into one graph.
pub(super) struct Lowering<'a> {
    pub graph: Graph,
    pub primitives: Vec<PrimitiveUse>,
    /// With [`LeafScope::GraphLeaves`], the leaves of the graph.
    pub leaves: Vec<GraphLeaf>,
    /// Formulas whose value is given, by their address.
    pub given: HashMap<*const FormulaNode, f64>,
    /// Nodes that no gradient flows through, whatever they depend on.
    pub constants: Vec<NodeId>,
    /// Per token: the weight of its domain, where a reduction has a balance.
    pub domain_weight: Option<NodeId>,
    /// The size of the student's vocabulary, where it is known before the run.
    vocabulary: Option<u32>,
    /// The nodes of `loss` and `loss.<term>`, where these refer to the losses of the current step.
    losses: Vec<LossNode>,
    /// Whether numbers of blocks are allowed, as in an objective, which defines the blocks.
    pub blocks: bool,
    /// The mask of the objective's `select`, per token, once it is lowered.
    pub(super) selected: Option<NodeId>,
    /// The node of each lowered formula, by address; the objective keeps the formulas alive.
    known: HashMap<*const FormulaNode, NodeId>,
    /// The place of the formula for which a node was first made.
    places: HashMap<NodeId, Origin>,
    /// The number of the draw of everything random. It is the same wherever the formula is lowered.
    draws: HashMap<RandomSource, u32>,
    /// The signals and primitives with abbreviated names, with these names.
    cut: Vec<AbbreviatedText>,
    elsewhere: CrossRolloutReads<'a>,
    pub(super) supply: LeafScope,
    /// Whether losses on scores and pairs are computed from leaves, instead of being leaves themselves.
    pub(super) opens_losses: bool,
    pub(super) origins: Origins<'a>,
}

/// The signals and live primitives that have values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LeafScope {
    /// Those that the runtime computes. Formulas that read others are refused.
    RuntimeOnly,
    /// All signals and primitives of the language.
    AllSignals,
    /// All. The evaluator of the graph supplies a value for each [`GraphLeaf`].
    GraphLeaves,
}

impl<'a> Lowering<'a> {
    pub fn new(supply: LeafScope, origins: Origins<'a>) -> Lowering<'a> {
        Lowering {
            graph: Graph::default(),
            primitives: Vec::new(),
            leaves: Vec::new(),
            given: HashMap::new(),
            constants: Vec::new(),
            domain_weight: None,
            vocabulary: None,
            losses: Vec::new(),
            blocks: false,
            selected: None,
            known: HashMap::new(),
            places: HashMap::new(),
            draws: HashMap::new(),
            cut: Vec::new(),
            elsewhere: CrossRolloutReads::Refused,
            supply,
            opens_losses: false,
            origins,
        }
    }

    /// Sets the vocabulary size of the student's tokenizer.
    pub fn with_vocabulary(self, vocabulary: Option<u32>) -> Lowering<'a> {
        Lowering { vocabulary, ..self }
    }

    /// Enables the computation of losses on scores and on pairs from given numbers.
    pub fn opening_losses(self) -> Lowering<'a> {
        Lowering { opens_losses: true, ..self }
    }

    /// Sets the mask of `selected`.
    pub fn select(&mut self, mask: NodeId) {
        self.selected = Some(mask);
    }

    /// Sets the losses of the current step, for the update of states at its end.
    pub fn end_of_step(&mut self, losses: Vec<LossNode>) {
        self.losses = losses;
        // A `let` that reads a loss may have been lowered with that of the previous step.
        self.known.clear();
    }

    /// Sets how reductions over other rollouts are converted.
    pub fn read(&mut self, elsewhere: CrossRolloutReads<'a>) {
        self.elsewhere = elsewhere;
    }

    /// The random numbers of a source, one for each element of the axis.
    pub(super) fn uniform(&mut self, source: RandomSource, axis: Axis) -> NodeId {
        let draws = self.draws.len() as u32;
        let draw = *self.draws.entry(source).or_insert(draws);
        self.graph.signal(Signal::Uniform { draw, axis })
    }

    fn loss(&self, of: &Signal) -> Option<NodeId> {
        self.losses.iter().find(|known| known.signal == *of).map(|known| known.node)
    }

    /// The place of the formula for which a node was made.
    pub fn place(&self, node: NodeId) -> Option<Origin> {
        self.places.get(&node).copied()
    }

    /// The node that computes `formula`, on the formula's own axis.
    pub fn lower(&mut self, formula: &Formula) -> Result<NodeId, Box<Diagnostic>> {
        let mut pending = vec![formula];
        while let Some(formula) = pending.last().copied() {
            let address = Rc::as_ptr(&formula.0);
            if self.known.contains_key(&address) {
                pending.pop();
                continue;
            }
            let before = pending.len();
            pending.extend(
                self.parts(&formula.0)
                    .into_iter()
                    .filter(|operand| !self.known.contains_key(&Rc::as_ptr(&operand.0))),
            );
            if pending.len() == before {
                let node = match self.leaf(formula) {
                    Some(leaf) => leaf,
                    None => self.summed(formula)?,
                };
                self.places.entry(node).or_insert(formula.0.origin);
                self.known.insert(address, node);
                pending.pop();
            }
        }
        Ok(self.lowered(formula))
    }

    pub(super) fn lowered(&self, formula: &Formula) -> NodeId {
        self.known[&Rc::as_ptr(&formula.0)]
    }

    /// The formulas that must be lowered before this one.
    fn parts<'f>(&self, formula: &'f FormulaNode) -> Vec<&'f Formula> {
        match formula.kind {
            _ if self.given.contains_key(&std::ptr::from_ref(formula)) => Vec::new(),
            // The reduction becomes a signal of its own.
            FormulaKind::Reduce { on: Some(_), .. } if self.elsewhere.is_read() => Vec::new(),
            FormulaKind::Signal(_) | FormulaKind::Live(_) if self.supply == LeafScope::GraphLeaves => {
                formula.operands()
            }
            _ => operands(formula),
        }
    }

    /// The leaf of a formula whose operands are lowered. Equal leaves are merged.
    pub(super) fn leaf(&mut self, formula: &Formula) -> Option<NodeId> {
        if self.supply != LeafScope::GraphLeaves {
            return None;
        }
        if let Some(value) = self.given.get(&Rc::as_ptr(&formula.0)) {
            return Some(self.graph.constant(Axis::Run, *value));
        }
        let axis = formula.axis();
        match &formula.0.kind {
            FormulaKind::Signal(checked::Signal::Plain(PlainSignal::Selected)) => {
                return Some(self.selected.unwrap_or_else(|| self.graph.constant(axis, 1.0)));
            }
            FormulaKind::Signal(checked::Signal::Random { draw, axis }) => {
                return Some(self.uniform(RandomSource::Call(*draw), *axis));
            }
            FormulaKind::Signal(_)
            | FormulaKind::Live(_)
            | FormulaKind::Adaptive(_)
            | FormulaKind::Variable(_)
            | FormulaKind::Entry(_) => {}
            _ => return None,
        }
        if let Some(made) = self.of_given(&formula.0) {
            return Some(made);
        }
        let loss = match &formula.0.kind {
            FormulaKind::Signal(checked::Signal::Plain(PlainSignal::Loss)) => {
                self.loss(&Signal::Plain(PlainSignal::Loss))
            }
            FormulaKind::Signal(checked::Signal::TermLoss { term }) => {
                self.loss(&Signal::TermLoss { term: term.clone() })
            }
            _ => None,
        };
        if loss.is_some() {
            return loss;
        }
        if let Some(known) = self.leaves.iter().find(|leaf| leaf.formula.0.kind == formula.0.kind) {
            return Some(known.node);
        }
        let number = self.leaves.len() as u32;
        let node = match formula.0.kind {
            FormulaKind::Live(_) if axis == Axis::Token => self.graph.live(LiveId(number)),
            _ => self.graph.signal(Signal::Other { text: number.to_string(), axis }),
        };
        let operands = self.parts(&formula.0).into_iter().map(|part| self.lowered(part)).collect();
        self.leaves.push(GraphLeaf { node, formula: formula.clone(), operands });
        Some(node)
    }

    /// All live primitives, and whether each is a log-probability.
    pub fn live_numbers(&self) -> Vec<(LiveId, bool)> {
        let primitives =
            self.primitives.iter().zip(0..).map(|(primitive, index)| {
                (LiveId(index), matches!(primitive.live, Live::Logp | Live::EndLogp))
            });
        // If there are leaves, there are no primitives.
        let leaves = self.leaves.iter().filter_map(|leaf| {
            let FormulaKind::Live(live) = &leaf.formula.0.kind else { return None };
            let Operation::Live { live: id } = self.graph.node(leaf.node).operation else { return None };
            Some((
                id,
                matches!(
                    live,
                    checked::Live::Part(checked::ModelSignal::Logp | checked::ModelSignal::EndLogp)
                ),
            ))
        });
        primitives.chain(leaves).collect()
    }

    /// Lowers a formula whose operands are lowered; if it reads teachers combined by `sum`, once for each.
    fn summed(&mut self, formula: &Formula) -> Result<NodeId, Box<Diagnostic>> {
        let members = match self.supply {
            LeafScope::RuntimeOnly => sums::members(formula, self.origins.roles),
            LeafScope::AllSignals | LeafScope::GraphLeaves => None,
        };
        let Some(members) = members else { return self.node(&formula.0) };
        let mut sum = None;
        for (weight, member) in members {
            let (member, weight) = (self.summed(&member)?, self.graph.constant(Axis::Run, weight));
            let member = self.graph.apply(Function::Multiply, &[weight, member]);
            sum = Some(sum.map_or(member, |sum| self.graph.apply(Function::Add, &[sum, member])));
        }
        Ok(sum.expect("several teachers are added up"))
    }

    /// Lowers a formula whose operands are lowered.
    fn node(&mut self, formula: &FormulaNode) -> Result<NodeId, Box<Diagnostic>> {
        let span = self.origins.span(formula.origin);
        Ok(match self.executable(formula)? {
            ExecutableKind::Number(value) if !value.is_finite() => {
                let message = format!("the number {value} is not finite");
                return Err(self.error(formula, Code::OutOfRange, message));
            }
            // A product of constants is folded before it is rounded to the precision of objectives.
            ExecutableKind::Number(value) if !is_single(value) => {
                let end = if value.abs() < 1.0 { "0" } else { "infinite" };
                let message = format!("the number {value:e} is {end} in single precision");
                let help = "objectives are computed with numbers from about 1e-38 to 3e38";
                return Err(self.error(formula, Code::OutOfRange, message).help(help).into());
            }
            ExecutableKind::Number(value) => self.graph.constant(formula.axis, value),
            ExecutableKind::PerSequence(value) => self.graph.constant(Axis::Sequence, value),
            ExecutableKind::PerDomain(value) => self.graph.constant(Axis::Domain, value),
            ExecutableKind::InDomain(place) => positions::in_domain(&mut self.graph, place),
            ExecutableKind::Schedule(schedule) if !super::finite::schedule_is_finite(&schedule) => {
                let message = "a schedule has a bound that is not finite";
                return Err(self.error(formula, Code::OutOfRange, message));
            }
            ExecutableKind::Schedule(schedule) => self.graph.schedule(schedule),
            ExecutableKind::Signal(Signal::Plain(PlainSignal::VocabularySize))
                if let Some(tokens) = self.vocabulary =>
            {
                self.graph.constant(Axis::Run, f64::from(tokens))
            }
            ExecutableKind::Signal(Signal::Uniform { draw, axis }) => {
                self.uniform(RandomSource::Call(draw), axis)
            }
            ExecutableKind::Signal(signal) => match self.loss(&signal) {
                Some(loss) => loss,
                None => self.graph.signal(signal),
            },
            ExecutableKind::Remaining => positions::remaining(&mut self.graph),
            ExecutableKind::Turn => positions::turn(&mut self.graph),
            ExecutableKind::InFinalTurn => positions::in_final_turn(&mut self.graph),
            ExecutableKind::Selected => self.selected.ok_or_else(|| {
                let text = "`selected` is read where nothing has been selected yet";
                Box::new(
                    Diagnostic::error(Code::Cycle, span, text)
                        .help("leave `among: selected` out: all trained tokens count then"),
                )
            })?,
            ExecutableKind::Live(live) => self.live(live, formula.origin),
            ExecutableKind::Score { of: Some(role), on } => {
                let value = self.graph.signal(Signal::Of { role, part: ModelSignal::Value });
                self.score(value, on, formula.origin)
            }
            ExecutableKind::Score { of: None, on } => self.live_score(on, formula.origin),
            ExecutableKind::Dpo => {
                let beta = self.operand(formula);
                self.dpo(beta, formula.origin)
            }
            ExecutableKind::BradleyTerry { on } => self.bradley_terry(on, formula.origin),
            ExecutableKind::SquaredError { on } => {
                let target = self.operand(formula);
                self.squared_error(on, target, formula.origin)
            }
            ExecutableKind::Confidence => self.live_confidence(formula.origin),
            ExecutableKind::CrossEntropy => {
                let target = self.operand(formula);
                self.cross_entropy(target, formula.origin)
            }
            // A literal factor 0 switches the product off, with all parts that only it reads.
            ExecutableKind::Apply(Function::Multiply) if switched_off(formula) => {
                self.graph.constant(formula.axis, 0.0)
            }
            ExecutableKind::Apply(function) => {
                let nodes: Vec<NodeId> =
                    operands(formula).into_iter().map(|operand| self.lowered(operand)).collect();
                self.graph.apply(function, &nodes)
            }
            ExecutableKind::Reduce(reduction) => {
                let over = formula.axis;
                let (operand, among) = self.peers(formula, over, reduction.name())?;
                let reduced = self.graph.reduce(reduction, operand, over, among);
                self.with_fraction(formula, reduced)
            }
            ExecutableKind::Statistic { statistic, over } => self.statistic(formula, statistic, over)?,
            ExecutableKind::Scan { scan, over } => self.scan(formula, scan, over)?,
            ExecutableKind::Memory(memory) => self.memory(formula, memory)?,
            ExecutableKind::Across { index } => {
                let FormulaKind::Across { members, among, .. } = &formula.kind else {
                    unreachable!("only such a formula converts to it")
                };
                let nodes = |formulas: &[Formula]| {
                    formulas.iter().map(|part| self.lowered(part)).collect::<Vec<NodeId>>()
                };
                let (members, among) = (nodes(members), nodes(among));
                self.across(&members, &among, index)
            }
        })
    }

    /// The executable form of a formula, apart from its operands, with the given supply.
    fn executable(&mut self, formula: &FormulaNode) -> Result<ExecutableKind, Box<Diagnostic>> {
        let site = self.origins.at(formula.origin);
        Ok(match self.supply {
            LeafScope::RuntimeOnly if formula.axis == Axis::Block && !self.blocks => {
                let span = self.origins.span(formula.origin);
                return Err(refused(span, "one number per block in this place"));
            }
            LeafScope::RuntimeOnly => executable::kind_with(formula, site, self.elsewhere)?,
            LeafScope::AllSignals | LeafScope::GraphLeaves => {
                match executable::kind_of_anything(formula, site)? {
                    ExecutableKind::Signal(Signal::Other { text, axis }) => {
                        ExecutableKind::Signal(Signal::Other { text: self.distinct(text, formula), axis })
                    }
                    ExecutableKind::Live(Live::Other { text }) => {
                        ExecutableKind::Live(Live::Other { text: self.distinct(text, formula) })
                    }
                    kind => kind,
                }
            }
        })
    }

    pub(super) fn error(
        &self,
        formula: &FormulaNode,
        code: Code,
        message: impl Into<String>,
    ) -> Box<Diagnostic> {
        Diagnostic::error(code, self.origins.span(formula.origin), message).into()
    }

    /// The operand of a formula that has exactly one.
    pub(super) fn operand(&mut self, formula: &FormulaNode) -> NodeId {
        let [operand] = operands(formula)[..] else { unreachable!("the checker gave it one operand") };
        self.lowered(operand)
    }

    pub(super) fn live(&mut self, live: Live, origin: Origin) -> NodeId {
        let known = self.primitives.iter().position(|primitive| primitive.live == live);
        let index = known.unwrap_or_else(|| {
            self.primitives.push(PrimitiveUse { live, origin });
            self.primitives.len() - 1
        });
        self.graph.live(LiveId(index as u32))
    }

    /// A unique name. Long texts are abbreviated; two with equal abbreviations get different names.
    fn distinct(&mut self, text: String, formula: &FormulaNode) -> String {
        if !text.contains("...") {
            return text;
        }
        let others = self.cut.iter().filter(|other| other.text == text);
        let place = others.clone().position(|other| other.kind == formula.kind);
        let number = place.unwrap_or_else(|| others.count());
        if place.is_none() {
            self.cut.push(AbbreviatedText { text: text.clone(), kind: formula.kind.clone() });
        }
        if number == 0 { text } else { format!("{text} (number {})", number + 1) }
    }
}

/// Whether a number is neither infinite nor 0 in single precision, unless it is 0 itself.
fn is_single(value: f64) -> bool {
    let single = value as f32;
    single.is_finite() && (single != 0.0) == (value != 0.0)
}
