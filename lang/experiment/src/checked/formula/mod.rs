//! Typed formulas: the values of terms, weights and selections, with the unit and axis of every part.
//!
//! A formula is a tree with shared parts: a `let` is bound once and read often. It has no names, functions or
//! constants: the checker has resolved, inlined and evaluated them.

mod counted;
mod decided;
mod divergences;
mod signals;
mod step_numbers;
mod summand;
pub mod text;

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};

pub use counted::*;
pub use divergences::*;
pub use mopd_ops::{Deviation, Function, Memory, Reduction, Scan, Statistic, Unit};
pub use signals::*;
pub use step_numbers::*;
pub use summand::*;

use crate::checked::{Origin, Rollout, Schedule};

/// The axis along which a number varies, coarse to fine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    Run,
    Batch,
    /// The prompts of one domain in the batch.
    Domain,
    /// The samples of one prompt.
    Group,
    Sequence,
    /// A contiguous run of the student's own tokens; "step" in papers on agents.
    Turn,
    /// A run of tokens inside a turn: a denoiser's block, a chunk judged as one.
    Block,
    Token,
    /// The entries of a next-token distribution. Only divergences consume it.
    Vocab,
}

impl Axis {
    /// Coarse to fine.
    pub const ALL: &'static [Axis] = &[
        Axis::Run,
        Axis::Batch,
        Axis::Domain,
        Axis::Group,
        Axis::Sequence,
        Axis::Turn,
        Axis::Block,
        Axis::Token,
        Axis::Vocab,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Axis::Run => "run",
            Axis::Batch => "batch",
            Axis::Domain => "domain",
            Axis::Group => "group",
            Axis::Sequence => "sequence",
            Axis::Turn => "turn",
            Axis::Block => "block",
            Axis::Token => "token",
            Axis::Vocab => "vocab",
        }
    }
}

/// A schedule that depends on the run: its values can't be known before.
#[derive(Clone, Debug, PartialEq)]
pub enum Adaptive {
    /// Starts at the first value; goes to the next one when the condition holds, tested every `every` steps.
    Ladder { values: Vec<f64>, advance_if: Formula, every: u32 },
    /// Drawn from a learned Beta distribution, held for `hold` steps, trained to raise the discounted `gain`
    /// (arXiv:2605.11458) at the learning rate `lr`.
    Learned { gain: Formula, hold: u32, discount: f64, lr: f64 },
}

/// Formulas with fewer parts than this are traversed without a hash table.
const FEW: usize = 48;

/// A formula with its type. Cheap to clone: parts are shared.
#[derive(Clone)]
pub struct Formula(pub Rc<FormulaNode>);

/// A formula that a `let` or a `where` names.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedFormula {
    pub name: String,
    pub formula: Formula,
}

#[derive(Clone, Debug)]
pub struct FormulaNode {
    pub kind: FormulaKind,
    pub unit: Unit,
    pub axis: Axis,
    /// Whether gradient flows through some part of it.
    pub live: bool,
    pub origin: Origin,
    /// The bounds of the declared type of the parameter that it was given for, if any.
    pub declared: Option<DeclaredType>,
    /// What a number known before the run counts, if its text says so.
    pub counted: Option<CountWord>,
    /// Of a `match` without `else`: whether some arm holds. It must, for every prompt of the stage.
    pub covered: Option<Formula>,
    /// The depth of the tree of its parts: 1 without parts.
    depth: u32,
}

/// The bounds of a parameter's type for a number that changes over the run. They are checked once the length
/// of the run is known.
#[derive(Clone, Debug, PartialEq)]
pub struct DeclaredType {
    /// `w: fraction`
    pub parameter: Rc<str>,
    pub low: f64,
    pub high: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub enum FormulaKind {
    Number(f64),
    Schedule(Schedule),
    Adaptive(Adaptive),
    Signal(Signal),
    Live(Live),
    /// A parameter that has no value yet.
    Variable(Rc<str>),
    /// In the summand of a divergence: a side's probability of the entry.
    Entry(SideProbability),
    Apply {
        function: Function,
        operands: Vec<Formula>,
    },
    /// Reduces the elements of the argument's axis within each element of `over`, which is this formula's
    /// axis. With `among`, only those where it is true; with `on`, those of another rollout of the same
    /// prompts.
    Reduce {
        reduction: Reduction,
        operand: Formula,
        among: Option<Formula>,
        on: Option<Rc<Rollout>>,
        /// The fraction of the reduction where it changes during the run, in place of its own.
        fraction: Option<Formula>,
    },
    /// Compares elements of the argument's axis within each element of `over`. With `among`, only those where
    /// it is true; the others' value is 0.
    Statistic {
        statistic: Statistic,
        operand: Formula,
        over: Axis,
        among: Option<Formula>,
        /// The fraction of the statistic where it changes during the run, in place of its own.
        fraction: Option<Formula>,
    },
    /// Scans along the argument's axis within each element of `over`.
    Scan {
        scan: Scan<Formula>,
        operand: Formula,
        over: Axis,
    },
    Memory {
        memory: Memory,
        operand: Formula,
    },
    /// `softmax(x, across: panel, missing: uniform)`: one member's share among all members' values, of those
    /// where `among` holds.
    Across {
        members: Vec<Formula>,
        among: Vec<Formula>,
        index: usize,
    },
}

impl FormulaNode {
    pub fn is(&self, signal: PlainSignal) -> bool {
        matches!(self.kind, FormulaKind::Signal(Signal::Plain(plain)) if plain == signal)
    }

    /// Its direct parts, including those inside divergences.
    pub fn operands(&self) -> Vec<&Formula> {
        let mut operands = Vec::new();
        add_operands(&self.kind, &mut operands);
        operands
    }
}

fn add_operands<'a>(kind: &'a FormulaKind, to: &mut Vec<&'a Formula>) {
    match kind {
        FormulaKind::Apply { operands, .. } => to.extend(operands),
        FormulaKind::Reduce { operand, among, fraction, .. }
        | FormulaKind::Statistic { operand, among, fraction, .. } => {
            to.push(operand);
            to.extend(among);
            to.extend(fraction);
        }
        FormulaKind::Scan { scan: Scan::RewardToGo { discount }, operand, .. } => {
            to.extend([operand, discount]);
        }
        FormulaKind::Scan { operand, .. } | FormulaKind::Memory { operand, .. } => to.push(operand),
        FormulaKind::Across { members, among, .. } => to.extend(members.iter().chain(among)),
        FormulaKind::Signal(Signal::Divergence(divergence))
        | FormulaKind::Live(Live::Divergence(divergence)) => to.extend(divergence.formulas()),
        FormulaKind::Live(Live::SquaredError { target, .. } | Live::BinaryCrossEntropy { target, .. }) => {
            to.push(target);
        }
        FormulaKind::Live(Live::Preference(preference)) => match &preference.kind {
            PreferenceKind::Dpo { beta } => to.push(beta),
            PreferenceKind::BradleyTerry => {}
        },
        FormulaKind::Adaptive(
            Adaptive::Ladder { advance_if: formula, .. } | Adaptive::Learned { gain: formula, .. },
        ) => to.push(formula),
        FormulaKind::Number(_)
        | FormulaKind::Schedule(_)
        | FormulaKind::Signal(_)
        | FormulaKind::Live(_)
        | FormulaKind::Variable(_)
        | FormulaKind::Entry(_) => {}
    }
}

/// From this depth on, a comparison visits each shared part once: there may be far more paths than parts.
const DEEP: u32 = 12;

/// From this depth on, a formula is freed on a stack that is large enough.
const VERY_DEEP: u32 = 512;

impl Drop for FormulaNode {
    fn drop(&mut self) {
        // Freed recursively, level by level: the current stack may be too small for that.
        if self.depth > VERY_DEEP {
            let kind = std::mem::replace(&mut self.kind, FormulaKind::Number(0.0));
            crate::stack::with_room(move || drop(kind));
        }
    }
}

impl PartialEq for FormulaNode {
    fn eq(&self, other: &FormulaNode) -> bool {
        (self.depth, self.unit, self.axis, self.live, self.origin)
            == (other.depth, other.unit, other.axis, other.live, other.origin)
            && (&self.declared, self.counted, &self.covered)
                == (&other.declared, other.counted, &other.covered)
            && self.kind == other.kind
    }
}

thread_local! {
    /// The pairs that the comparison under way has visited; empty where none is under way.
    static COMPARED: RefCell<FxHashSet<[*const FormulaNode; 2]>> = RefCell::default();
}

/// Compares each pair of parts once, however many paths lead to it: in a chain of `let`s, each may use the
/// last one twice.
impl PartialEq for Formula {
    fn eq(&self, other: &Formula) -> bool {
        if Rc::ptr_eq(&self.0, &other.0) {
            return true;
        }
        if self.depth() != other.depth() || self.depth() < DEEP {
            return self.0 == other.0;
        }
        let pair = [Rc::as_ptr(&self.0), Rc::as_ptr(&other.0)];
        let (first, new) = COMPARED.with_borrow_mut(|compared| (compared.is_empty(), compared.insert(pair)));
        // If an earlier visit found a difference, the whole differs whatever is returned here.
        let same = !new || crate::stack::with_room(|| self.0 == other.0);
        if first {
            COMPARED.with_borrow_mut(FxHashSet::clear);
        }
        same
    }
}

impl fmt::Debug for Formula {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Formula {
    pub fn new(kind: FormulaKind, unit: Unit, axis: Axis, live: bool, origin: Origin) -> Formula {
        let depth = match &kind {
            FormulaKind::Number(_)
            | FormulaKind::Schedule(_)
            | FormulaKind::Variable(_)
            | FormulaKind::Entry(_) => 0,
            FormulaKind::Apply { operands, .. } => {
                operands.iter().map(Formula::depth).max().unwrap_or_default()
            }
            other => {
                let mut operands = Vec::new();
                add_operands(other, &mut operands);
                operands.into_iter().map(Formula::depth).max().unwrap_or_default()
            }
        };
        Formula(Rc::new(FormulaNode {
            kind,
            unit,
            axis,
            live,
            origin,
            declared: None,
            counted: None,
            covered: None,
            depth: depth.saturating_add(1),
        }))
    }

    pub fn depth(&self) -> u32 {
        self.0.depth
    }

    /// The same number with the bounds of a parameter's type, in addition to those it has.
    pub fn declared(&self, declared: DeclaredType) -> Formula {
        let (low, high) = self.0.declared.as_ref().map_or((declared.low, declared.high), |before| {
            (declared.low.max(before.low), declared.high.min(before.high))
        });
        let mut node = FormulaNode::clone(&self.0);
        node.declared = Some(DeclaredType { low, high, ..declared });
        Formula(Rc::new(node))
    }

    /// The value of a `match` without `else`, with whether some arm holds.
    pub fn covering(&self, covered: Formula) -> Formula {
        let mut node = FormulaNode::clone(&self.0);
        node.covered = Some(match node.covered.take() {
            None => covered,
            Some(inside) => {
                let (axis, origin) = (covered.axis().max(inside.axis()), covered.0.origin);
                let kind = FormulaKind::Apply { function: Function::And, operands: vec![covered, inside] };
                Formula::new(kind, Unit::Bool, axis, false, origin)
            }
        });
        Formula(Rc::new(node))
    }

    /// The same number in another unit. `None` for a random number and one that is carried from step to step:
    /// a copy would be another number.
    pub fn of_unit(&self, unit: Unit, origin: Origin) -> Option<Formula> {
        if self.unit() == unit {
            return Some(self.clone());
        }
        if !matches!(self.0.kind, FormulaKind::Signal(_) | FormulaKind::Live(_) | FormulaKind::Apply { .. }) {
            return None;
        }
        let mut node = FormulaNode::clone(&self.0);
        (node.unit, node.origin) = (unit, origin);
        Some(Formula(Rc::new(node)))
    }

    /// A number that has just been made, with what it counts.
    pub fn counting(mut self, counted: Option<CountWord>) -> Formula {
        if let Some(node) = Rc::get_mut(&mut self.0) {
            node.counted = counted;
        }
        self
    }

    /// A signal, with its own unit and axis.
    pub fn signal(signal: impl Into<Signal>, origin: Origin) -> Formula {
        let signal = signal.into();
        let (unit, axis) = (signal.unit(), signal.axis());
        Formula::new(FormulaKind::Signal(signal), unit, axis, false, origin)
    }

    pub fn unit(&self) -> Unit {
        self.0.unit
    }

    pub fn axis(&self) -> Axis {
        self.0.axis
    }

    pub fn live(&self) -> bool {
        self.0.live
    }

    /// A number known before the run.
    pub fn constant(&self) -> Option<f64> {
        match self.0.kind {
            FormulaKind::Number(value) => Some(value),
            _ => None,
        }
    }

    /// Its direct parts, including those inside divergences.
    pub fn operands(&self) -> Vec<&Formula> {
        self.0.operands()
    }

    /// Every part, itself included, each once. Shared parts are visited once: a chain of `let`s that each use
    /// the last one twice has few parts but very many paths.
    pub fn parts(&self) -> Vec<&Formula> {
        let mut parts = Vec::new();
        self.look_through(&mut parts, |_| false);
        parts
    }

    /// Whether some part passes the test.
    pub fn any(&self, test: impl Fn(&FormulaNode) -> bool) -> bool {
        self.look_through(&mut Vec::new(), |part| test(&part.0))
    }

    /// Lists the parts, each once, up to the first for which `found` is true.
    fn look_through<'a>(&'a self, parts: &mut Vec<&'a Formula>, found: impl Fn(&Formula) -> bool) -> bool {
        let mut seen: FxHashSet<*const FormulaNode> = FxHashSet::default();
        let mut waiting = vec![self];
        while let Some(formula) = waiting.pop() {
            // Most formulas are small: searching the list is faster than hashing. Only a shared node can be
            // reached twice.
            let again = Rc::strong_count(&formula.0) > 1
                && if parts.len() < FEW {
                    parts.iter().any(|part| Rc::ptr_eq(&part.0, &formula.0))
                } else {
                    if seen.is_empty() {
                        seen.extend(parts.iter().map(|part| Rc::as_ptr(&part.0)));
                    }
                    !seen.insert(Rc::as_ptr(&formula.0))
                };
            if !again {
                if found(formula) {
                    return true;
                }
                parts.push(formula);
                add_operands(&formula.0.kind, &mut waiting);
            }
        }
        false
    }

    /// Whether some part reads the distribution of `role`.
    pub fn reads(&self, role: &Role) -> bool {
        self.any(|node| match &node.kind {
            FormulaKind::Signal(signal) => signal.roles().contains(role),
            FormulaKind::Live(live) => live.roles().contains(role),
            _ => false,
        })
    }
}
