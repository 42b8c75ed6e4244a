//! Variants of a term's formula: its summands, and the formula without one of its parts.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use mopd_experiment::formula::{Axis, Formula, FormulaKind, FormulaNode, Function};

use super::bounds::never_positive;
use super::evaluate::bounded;
use super::judge::quoted;
use super::view::TermView;
use crate::lower::FormulaGraph;

/// The most summands into which a formula is split.
const MOST_SUMMANDS: usize = 12;

/// The most parts that are left out, one at a time.
const MOST_VARIANTS: usize = 12;

/// Whether some part is bounded by constants.
pub(super) fn has_bounds(view: &TermView) -> bool {
    let lowered = FormulaGraph::from_formulas(None, &view.formulas());
    lowered.is_ok_and(|FormulaGraph { graph, .. }| graph.nodes().any(|(id, _)| bounded(&graph, id).is_some()))
        || view.formulas().into_iter().flat_map(Formula::parts).any(clipped)
}

/// Whether a part is a divergence whose summands are bounded.
fn clipped(part: &Formula) -> bool {
    use mopd_experiment::formula::{Live, Signal};
    match &part.0.kind {
        FormulaKind::Live(Live::Divergence(divergence))
        | FormulaKind::Signal(Signal::Divergence(divergence)) => divergence.clip_each.is_some(),
        _ => false,
    }
}

/// The same function of other operands.
fn rebuilt(formula: &Formula, function: Function, operands: Vec<Formula>) -> Formula {
    let axis = operands.iter().map(Formula::axis).max().unwrap_or(formula.axis());
    let live = operands.iter().any(Formula::live);
    Formula::new(FormulaKind::Apply { function, operands }, formula.unit(), axis, live, formula.0.origin)
}

/// The live summands of a formula, with products and cases multiplied out. If there are too many, only the
/// formula itself.
pub(super) fn summands(formula: &Formula) -> Vec<Formula> {
    let found = expand(formula, 0, &mut HashMap::new());
    if found.len() > MOST_SUMMANDS { vec![formula.clone()] } else { found }
}

/// Expands a formula. A shared part is expanded once, and one with too many summands not at all.
fn expand(
    formula: &Formula,
    depth: usize,
    known: &mut HashMap<*const FormulaNode, Vec<Formula>>,
) -> Vec<Formula> {
    let alone = || vec![formula.clone()];
    let FormulaKind::Apply { function, operands } = &formula.0.kind else { return alone() };
    if depth > 40 {
        return alone();
    }
    let address = Rc::as_ptr(&formula.0);
    if let Some(known) = known.get(&address) {
        return known.clone();
    }
    // A summand without gradient can be left out.
    let live = |summands: Vec<Formula>| summands.into_iter().filter(Formula::live).collect::<Vec<Formula>>();
    let mut inner = |formula: &Formula| expand(formula, depth + 1, known);
    let negated = |summand: Formula| rebuilt(formula, Function::Negate, vec![summand]);
    let mut found: Vec<Formula> = match (function, operands.as_slice()) {
        (Function::Negate, [x]) => inner(x).into_iter().map(negated).collect(),
        (Function::Add, [x, y]) if formula.live() => live(inner(x).into_iter().chain(inner(y)).collect()),
        (Function::Subtract, [x, y]) if formula.live() => {
            live(inner(x).into_iter().chain(inner(y).into_iter().map(negated)).collect())
        }
        (Function::Add, [x, y]) => inner(x).into_iter().chain(inner(y)).collect(),
        (Function::Subtract, [x, y]) => {
            inner(x).into_iter().chain(inner(y).into_iter().map(negated)).collect()
        }
        (Function::Multiply, [x, y]) => {
            let (left, right) = (inner(x), inner(y));
            let product =
                |a: &Formula, b: &Formula| rebuilt(formula, Function::Multiply, vec![a.clone(), b.clone()]);
            left.iter().flat_map(|a| right.iter().map(move |b| product(a, b))).collect()
        }
        (Function::Divide, [x, y]) => inner(x)
            .into_iter()
            .map(|summand| rebuilt(formula, Function::Divide, vec![summand, y.clone()]))
            .collect(),
        (Function::Where, [condition, then, otherwise]) if formula.live() => {
            let zero =
                Formula::new(FormulaKind::Number(0.0), formula.unit(), Axis::Run, false, formula.0.origin);
            let case = |then: Formula, otherwise: Formula| {
                rebuilt(formula, Function::Where, vec![condition.clone(), then, otherwise])
            };
            let taken = inner(then).into_iter().map(|summand| case(summand, zero.clone()));
            let left = inner(otherwise).into_iter().map(|summand| case(zero.clone(), summand));
            live(taken.chain(left).collect())
        }
        _ => alone(),
    };
    if found.len() > MOST_SUMMANDS {
        found = alone();
    }
    known.insert(address, found.clone());
    found
}

/// The formula without one factor or summand, for each one that is not live and differs from token to token,
/// with the text of that part. A product keeps its sign and all other factors.
pub(super) fn without_parts(formula: &Formula) -> Vec<(String, Formula)> {
    let mut found = Vec::new();
    let leaves = |dropped: &Formula| !dropped.live() && dropped.axis() > Axis::Run;
    // The factors inside a product that is split as a whole.
    let mut inside: HashSet<*const FormulaNode> = HashSet::new();
    for part in formula.parts() {
        let FormulaKind::Apply { function, operands } = &part.0.kind else { continue };
        match (function, operands.as_slice()) {
            // A shared product is split separately, since it can be replaced everywhere at once.
            (Function::Multiply | Function::Divide, _)
                if !inside.contains(&Rc::as_ptr(&part.0)) || Rc::strong_count(&part.0) > 1 =>
            {
                let product = Factors::new(part, &mut inside);
                for place in 0..product.factors.len() {
                    let dropped = product.factors[place].formula;
                    if leaves(dropped) {
                        found.extend(
                            product
                                .without(place)
                                .map(|rest| (quoted(dropped), replaced(formula, part, &rest))),
                        );
                    }
                }
            }
            (Function::Add, [left, right]) => {
                let rest = [(left, right), (right, left)].into_iter().filter(|(dropped, _)| leaves(dropped));
                found.extend(rest.map(|(dropped, rest)| (quoted(dropped), replaced(formula, part, rest))));
            }
            (Function::Subtract, [left, right]) => {
                if leaves(right) {
                    found.push((quoted(right), replaced(formula, part, left)));
                }
                if leaves(left) {
                    let rest = rebuilt(part, Function::Negate, vec![right.clone()]);
                    found.push((quoted(left), replaced(formula, part, &rest)));
                }
            }
            _ => {}
        }
    }
    found.retain(|(_, rest)| rest.live());
    found.truncate(MOST_VARIANTS);
    found
}

/// A product without its factors that carry no gradient and differ from token to token. `None` if it has
/// none.
pub(super) fn live_factors(formula: &Formula) -> Option<Formula> {
    let product = Factors::new(formula, &mut HashSet::new());
    let kept = |factor: &ProductFactor| factor.formula.live() || factor.formula.axis() <= Axis::Run;
    if product.factors.iter().all(kept) {
        return None;
    }
    let mut left = product.factors.iter().filter(|factor| kept(factor));
    let first = left.next().filter(|factor| !factor.divides)?.formula.clone();
    let rest = left.fold(first, |rest, factor| {
        let function = if factor.divides { Function::Divide } else { Function::Multiply };
        rebuilt(formula, function, vec![rest, factor.formula.clone()])
    });
    let rest = if product.negative { rebuilt(formula, Function::Negate, vec![rest]) } else { rest };
    rest.live().then_some(rest)
}

/// The numbers by which a live part of the formula is multiplied, of which single factors may be negative.
pub(super) fn weights(formula: &Formula) -> Vec<&Formula> {
    let mut found = Vec::new();
    for part in formula.parts().into_iter().filter(|part| part.live()) {
        if let FormulaKind::Apply { function: Function::Multiply, operands } = &part.0.kind {
            found.extend(operands.iter().filter(|operand| !operand.live()));
        }
    }
    found
}

/// A product, split into factors.
struct Factors<'a> {
    whole: &'a Formula,
    negative: bool,
    /// In source order.
    factors: Vec<ProductFactor<'a>>,
}

/// A factor of a product.
#[derive(Clone, Copy)]
struct ProductFactor<'a> {
    formula: &'a Formula,
    /// Whether it is a divisor.
    divides: bool,
}

impl<'a> Factors<'a> {
    fn new(whole: &'a Formula, inside: &mut HashSet<*const FormulaNode>) -> Factors<'a> {
        let mut product = Factors { whole, negative: false, factors: Vec::new() };
        let mut pending = vec![ProductFactor { formula: whole, divides: false }];
        while let Some(factor) = pending.pop() {
            let ProductFactor { formula, divides } = factor;
            match &formula.0.kind {
                // Shared parts may have very many paths.
                _ if product.factors.len() + pending.len() > 2 * MOST_VARIANTS => {
                    product.factors.push(factor)
                }
                FormulaKind::Apply { function: Function::Negate, operands } => {
                    product.negative = !product.negative;
                    pending.push(ProductFactor { formula: &operands[0], divides });
                }
                FormulaKind::Apply {
                    function: function @ (Function::Multiply | Function::Divide),
                    operands,
                } => {
                    inside.insert(Rc::as_ptr(&formula.0));
                    // The first operand is on top.
                    let divided = divides != (*function == Function::Divide);
                    pending.push(ProductFactor { formula: &operands[1], divides: divided });
                    pending.push(ProductFactor { formula: &operands[0], divides });
                }
                _ => product.factors.push(factor),
            }
        }
        product
    }

    /// The product of all factors but one. `None` if no live factor would be left.
    fn without(&self, place: usize) -> Option<Formula> {
        let rest =
            || self.factors.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, factor)| factor);
        let mut above = rest().filter(|factor| !factor.divides).map(|factor| factor.formula.clone());
        let mut product = above.next()?;
        for factor in above {
            product = rebuilt(self.whole, Function::Multiply, vec![product, factor]);
        }
        for factor in rest().filter(|factor| factor.divides) {
            product = rebuilt(self.whole, Function::Divide, vec![product, factor.formula.clone()]);
        }
        // A factor that is left out takes its magnitude with it, but not its sign.
        let negative = self.negative != never_positive(self.factors[place].formula);
        Some(if negative { rebuilt(self.whole, Function::Negate, vec![product]) } else { product })
    }
}

/// `formula` with `old` replaced by `new`.
fn replaced(formula: &Formula, old: &Formula, new: &Formula) -> Formula {
    fn walk(formula: &Formula, known: &mut HashMap<*const FormulaNode, Formula>, depth: usize) -> Formula {
        if let Some(known) = known.get(&Rc::as_ptr(&formula.0)) {
            return known.clone();
        }
        let result = match &formula.0.kind {
            FormulaKind::Apply { function, operands } if depth < 200 => {
                let operands: Vec<Formula> =
                    operands.iter().map(|operand| walk(operand, known, depth + 1)).collect();
                rebuilt(formula, *function, operands)
            }
            _ => formula.clone(),
        };
        known.insert(Rc::as_ptr(&formula.0), result.clone());
        result
    }
    walk(formula, &mut HashMap::from([(Rc::as_ptr(&old.0), new.clone())]), 0)
}
