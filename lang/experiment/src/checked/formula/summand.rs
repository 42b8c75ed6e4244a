//! The summand of a divergence: the contribution of one vocabulary entry.
//!
//! `divergence f(p || q, a: fraction) = <expression>` declares a function of two numbers: `p` is the
//! probability that the left side of a call gives to an entry, `q` that of the right side. The divergence is
//! the sum over the entries that the call's `support` and `mass` leave, after the call's `temperature`. The
//! expression reads one entry at a time and its parameters, nothing else of the run; a parameter may have
//! another value at every token. `f(p || q)` is called as `f(student || teacher)`. `f(p, q)` promises that
//! the order has no meaning (in a family: that swapping the sides reflects its parameter, as `beta` of
//! `jsd`), and is called as `f(student, teacher)`. `f(u)`, of one variable, is the generator of an
//! f-divergence: short for `f(p || q) = q * f(p / q)`.
//!
//! The call decides which side is the student's. Gradient reaches the student through its side, or through
//! both, but not through `detached(...)`, which has the same value and counts as a constant.
//!
//! `sum h(q) = -q * log(q)` is a function of one number, the left side's probability: a sum over the entries
//! of one distribution. It is never 0 by agreement, so that `generalized` has no meaning for it.
//!
//! With `mass: tail` there is one more entry, the rest of both sides; with `renormalized` both sides are
//! divided by their mass on the support; `raw` is the bare sum. With `generalized`, and wherever both sides
//! are complete, the linear term `- c * (p - q)` is added, where `c` is the derivative by `p` where both
//! sides agree: it sums to 0 over complete sides and makes agreement stationary entry by entry. Such a term
//! exists if `c` is the same at every `p`, which holds for every function that is smallest exactly where the
//! sides agree; otherwise nothing is added, and `generalized` is refused.

use std::rc::Rc;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::{Axis, Formula, FormulaKind, FormulaNode, Function, PlainSignal, Signal, Unit};
use crate::checked::Origin;

/// A side's probability of the vocabulary entry at which a divergence is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SideProbability {
    pub side: Side,
    /// Whether no gradient flows through it.
    pub detached: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// `p`
    Left,
    /// `q`
    Right,
}

impl SideProbability {
    pub const ALL: [SideProbability; 4] = [
        SideProbability { side: Side::Left, detached: false },
        SideProbability { side: Side::Right, detached: false },
        SideProbability { side: Side::Left, detached: true },
        SideProbability { side: Side::Right, detached: true },
    ];

    pub fn name(self) -> &'static str {
        match (self.side, self.detached) {
            (Side::Left, false) => "p",
            (Side::Right, false) => "q",
            (Side::Left, true) => "detached(p)",
            (Side::Right, true) => "detached(q)",
        }
    }
}

/// The summand of a declared divergence or `sum`, from the standard library or the author.
#[derive(Clone, Debug, PartialEq)]
pub struct Summand {
    pub name: String,
    /// Whether it is a `sum` over one distribution, the left side.
    pub is_sum: bool,
    /// The side that is the uniform distribution, where a divergence has one: its sum over the other side.
    pub uniform: Option<Side>,
    /// Whether it is declared with `||` between its sides.
    pub directed: bool,
    /// Whether it is declared in the standard library.
    pub standard: bool,
    pub parameters: Vec<GivenParameter>,
    /// An expression of [`FormulaKind::Entry`] and numbers of the run only.
    pub value: Formula,
    pub facts: SummandProperties,
}

/// A parameter and its argument.
#[derive(Clone, Debug, PartialEq)]
pub struct GivenParameter {
    pub name: String,
    pub value: Formula,
    /// Whether the value is the parameter's default.
    pub default: bool,
}

/// Properties of a summand, as found on the test distributions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SummandProperties {
    /// Whether the sum over complete distributions is never negative, and is 0 where they agree.
    pub divergence: bool,
    /// Whether no entry's summand is negative, whatever the other entries are.
    pub never_negative: bool,
    /// The largest sum over complete distributions; infinity where it is unbounded.
    pub most: f64,
    /// Whether the sum is 0 everywhere.
    pub zero: bool,
}

impl Summand {
    /// The entropy, -p * log(p).
    pub fn entropy(origin: Origin) -> Summand {
        let apply = |function, operands: Vec<Formula>, unit| {
            Formula::new(FormulaKind::Apply { function, operands }, unit, Axis::Run, false, origin)
        };
        let entry = FormulaKind::Entry(SideProbability { side: Side::Left, detached: false });
        let p = Formula::new(entry, Unit::Prob, Axis::Run, false, origin);
        let log = apply(Function::Log, vec![p.clone()], Unit::Logp);
        let product = apply(Function::Multiply, vec![p, log], Unit::Number);
        Summand {
            name: "entropy".into(),
            is_sum: true,
            uniform: None,
            directed: false,
            standard: true,
            parameters: Vec::new(),
            value: apply(Function::Negate, vec![product], Unit::Number),
            facts: SummandProperties {
                divergence: false,
                never_negative: true,
                most: f64::INFINITY,
                zero: false,
            },
        }
    }
}

impl GivenParameter {
    /// Whether its value depends on more of the run than the step.
    pub fn reads_the_run(&self) -> bool {
        let of_step = |node: &FormulaNode| {
            matches!(
                node.kind,
                FormulaKind::Number(_)
                    | FormulaKind::Schedule(_)
                    | FormulaKind::Variable(_)
                    | FormulaKind::Entry(_)
                    | FormulaKind::Apply { .. }
                    | FormulaKind::Signal(Signal::Plain(PlainSignal::Step | PlainSignal::Progress))
            )
        };
        self.value.any(|node| !of_step(node))
    }
}

impl SummandProperties {
    /// The properties of a summand with a parameter that has no value yet.
    pub const UNKNOWN: SummandProperties =
        SummandProperties { divergence: true, never_negative: false, most: f64::INFINITY, zero: false };
}

impl Summand {
    /// Whether the value is in nats: both branches of every choice contain a logarithm. (The alpha divergence
    /// is a plain number, although KL divergences are limits of it.)
    pub fn in_nats(&self) -> bool {
        fn walk(formula: &Formula, known: &mut FxHashMap<*const FormulaNode, bool>) -> bool {
            if let Some(known) = known.get(&Rc::as_ptr(&formula.0)) {
                return *known;
            }
            let found = match &formula.0.kind {
                FormulaKind::Apply { function: Function::Log | Function::Log1p, .. } => true,
                FormulaKind::Apply { function: Function::Where, operands } => {
                    operands[1..].iter().all(|chosen| walk(chosen, known))
                }
                FormulaKind::Apply { operands, .. } => operands.iter().any(|operand| walk(operand, known)),
                _ => false,
            };
            known.insert(Rc::as_ptr(&formula.0), found);
            found
        }
        crate::stack::with_room(|| walk(&self.value, &mut FxHashMap::default()))
    }
}

/// The same number, but no gradient flows through it to the sides.
pub fn detached(formula: &Formula) -> Formula {
    rebuilt(formula, &|part| match &part.0.kind {
        FormulaKind::Entry(entry) => {
            let entry = FormulaKind::Entry(SideProbability { detached: true, ..*entry });
            Some(of_kind(part, entry))
        }
        _ => None,
    })
}

/// The formula with a number in place of one of its parts.
pub fn with_number(formula: &Formula, part: &Formula, number: f64) -> Formula {
    rebuilt(formula, &|other| is_parameter(other, part).then(|| of_kind(other, FormulaKind::Number(number))))
}

/// The formula with others in place of some of its parts.
pub(super) fn with_parts(formula: &Formula, parts: &[(Formula, Formula)]) -> Formula {
    rebuilt(formula, &|other| {
        parts.iter().find(|(part, _)| is_parameter(other, part)).map(|(_, by)| by.clone())
    })
}

/// The summand where one side has the same number at every entry. The other side is then the left one.
pub fn with_alike_side(formula: &Formula, alike: Side, number: &Formula) -> Formula {
    rebuilt(formula, &|part| match &part.0.kind {
        FormulaKind::Entry(entry) if entry.side == alike => Some(number.clone()),
        FormulaKind::Entry(entry) => {
            Some(of_kind(part, FormulaKind::Entry(SideProbability { side: Side::Left, ..*entry })))
        }
        _ => None,
    })
}

/// Whether a part of a summand is the value of a parameter. A function whose own parameter has a type copies
/// it.
pub fn is_parameter(part: &Formula, value: &Formula) -> bool {
    Rc::ptr_eq(&part.0, &value.0) || part.0.kind == value.0.kind
}

fn of_kind(formula: &Formula, kind: FormulaKind) -> Formula {
    let node = &*formula.0;
    Formula::new(kind, node.unit, node.axis, node.live, node.origin)
}

/// An elementwise formula in which `other` replaces some parts. Shared parts stay shared.
fn rebuilt(formula: &Formula, other: &dyn Fn(&Formula) -> Option<Formula>) -> Formula {
    type Known = FxHashMap<*const FormulaNode, Formula>;
    fn walk(formula: &Formula, other: &dyn Fn(&Formula) -> Option<Formula>, known: &mut Known) -> Formula {
        if let Some(known) = known.get(&Rc::as_ptr(&formula.0)) {
            return known.clone();
        }
        let built = other(formula).unwrap_or_else(|| match &formula.0.kind {
            FormulaKind::Apply { function, operands } => {
                let operands = operands.iter().map(|operand| walk(operand, other, known)).collect();
                of_kind(formula, FormulaKind::Apply { function: *function, operands })
            }
            _ => formula.clone(),
        });
        known.insert(Rc::as_ptr(&formula.0), built.clone());
        built
    }
    crate::stack::with_room(|| walk(formula, other, &mut FxHashMap::default()))
}
