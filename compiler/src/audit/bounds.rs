//! Bounds of a formula's parts, known without evaluating it. They show parts that no gradient can pass,
//! whatever is drawn, and conditions that never hold.

use std::collections::HashMap;
use std::rc::Rc;

use mopd_experiment::formula::{Formula, FormulaKind, FormulaNode, Function, Live};

use super::range::{self, ALL, RunFacts, ValueRange, is_of_itself, is_one};
use super::teachers::Teachers;
use super::view::TermView;
use crate::lower::ordered;

/// The cause of a term without gradient, or of a condition that never holds.
pub(super) struct Culprit<'a> {
    /// The part that causes it.
    pub part: &'a Formula,
    pub cause: ZeroGradientCause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ZeroGradientCause {
    /// `select` or `when` never holds.
    Never(&'static str),
    /// A weight that is 0.
    Weight,
    /// A factor that is 0.
    Factor,
    /// A `clip`, `min` or `max` whose bound always applies.
    Bounds,
    /// A divergence of one distribution from itself.
    Same,
}

/// A part that stops all gradient of another one, and why.
#[derive(Clone, Copy)]
struct GradientStop {
    place: usize,
    cause: ZeroGradientCause,
}

impl GradientStop {
    fn new(place: usize, cause: ZeroGradientCause) -> GradientStop {
        GradientStop { place, cause }
    }
}

/// The ranges of all parts of some formulas, and the parts that no gradient can pass.
pub(super) struct Bounds<'a> {
    /// Operands before users.
    parts: Vec<&'a Formula>,
    places: HashMap<*const FormulaNode, usize>,
    ranges: Vec<ValueRange>,
    /// For each part, the part that stops all its gradient, and why; `None` if some gradient may pass.
    dead: Vec<Option<GradientStop>>,
}

impl<'a> Bounds<'a> {
    pub fn new(roots: &[&'a Formula], facts: &RunFacts) -> Bounds<'a> {
        let parts = ordered(roots.iter().copied(), Formula::operands);
        let places = parts.iter().enumerate().map(|(place, part)| (Rc::as_ptr(&part.0), place)).collect();
        let mut bounds = Bounds { parts, places, ranges: Vec::new(), dead: Vec::new() };
        for place in 0..bounds.parts.len() {
            let formula = bounds.parts[place];
            let range = range::of_formula(formula, facts, &bounds.operand_ranges(place));
            bounds.ranges.push(range);
            let dead = bounds.stops(place, facts);
            bounds.dead.push(dead);
        }
        bounds
    }

    /// The range of one of the roots or their parts.
    pub fn range(&self, formula: &Formula) -> ValueRange {
        self.places.get(&Rc::as_ptr(&formula.0)).map_or(ALL, |place| self.ranges[*place])
    }

    fn operands(&self, place: usize) -> impl Iterator<Item = usize> + '_ {
        self.parts[place].operands().into_iter().map(|operand| self.places[&Rc::as_ptr(&operand.0)])
    }

    /// The part because of which a part is 0.
    fn source(&self, place: usize) -> usize {
        let literal = |place: usize| matches!(self.parts[place].0.kind, FormulaKind::Number(_));
        let mut at = place;
        while let Some(inner) =
            self.operands(at).find(|inner| self.ranges[*inner].is_zero() && !literal(*inner))
        {
            at = inner;
        }
        at
    }

    fn is_live(&self, place: usize) -> bool {
        self.parts[place].live()
    }

    /// What stops all gradient of a part. `None` if some gradient may pass.
    fn stops(&self, place: usize, facts: &RunFacts) -> Option<GradientStop> {
        let formula = self.parts[place];
        if !formula.live() {
            return None;
        }
        let inner: Vec<usize> = self.operands(place).collect();
        match &formula.0.kind {
            FormulaKind::Live(Live::Divergence(divergence)) => {
                is_of_itself(divergence, facts, &self.operand_ranges(place))
                    .then_some(GradientStop::new(place, ZeroGradientCause::Same))
            }
            FormulaKind::Apply { function, .. } => match (function, inner.as_slice()) {
                (Function::Multiply | Function::Divide | Function::Power | Function::Abs, _) => {
                    self.scaled_to_zero(place, *function, &inner)
                }
                (Function::Minimum | Function::Maximum, [left, right]) => {
                    // The other operand can't get past the bound, so always the bound is chosen. Where it
                    // touches the bound, it is at its own extremum, and its gradient is 0.
                    let (a, b) = (self.ranges[*left], self.ranges[*right]);
                    let least = *function == Function::Minimum;
                    let first = if least { a.high <= b.low } else { a.low >= b.high };
                    let second = if least { b.high <= a.low } else { b.low >= a.high };
                    let cases = if first {
                        &inner[..1]
                    } else if second {
                        &inner[1..]
                    } else {
                        &inner
                    };
                    self.chosen(place, cases, ZeroGradientCause::Bounds)
                }
                (Function::Clip, [x, low, high]) => {
                    let (value, low_range, high_range) =
                        (self.ranges[*x], self.ranges[*low], self.ranges[*high]);
                    let fixed = low_range.low >= high_range.high
                        || value.high <= low_range.low
                        || value.low >= high_range.high;
                    let bounds = if fixed { &inner[1..] } else { &inner[..] };
                    self.chosen(place, bounds, ZeroGradientCause::Bounds)
                }
                (Function::Relu, [x]) if self.ranges[*x].high <= 0.0 => {
                    Some(GradientStop::new(place, ZeroGradientCause::Bounds))
                }
                (Function::Where, [condition, then, otherwise]) => {
                    let truth = self.ranges[*condition];
                    let cases: &[usize] = match () {
                        () if truth.is_zero() => &[*otherwise],
                        () if truth.is_true() => &[*then],
                        () => &[*then, *otherwise],
                    };
                    match self.chosen(place, cases, ZeroGradientCause::Factor) {
                        Some(stop) if stop.place == place => {
                            Some(GradientStop::new(*condition, ZeroGradientCause::Factor))
                        }
                        found => found,
                    }
                }
                (_, operands) => self.all_stop(operands),
            },
            FormulaKind::Reduce { .. } | FormulaKind::Scan { .. } => self.all_stop(&inner[..1]),
            _ => None,
        }
    }

    /// What stops all gradient of a product, quotient, power or absolute value: mostly a factor that is 0.
    fn scaled_to_zero(&self, place: usize, function: Function, inner: &[usize]) -> Option<GradientStop> {
        let zero = |at: usize| {
            let own = matches!(self.parts[at].0.kind, FormulaKind::Number(_));
            self.ranges[at].is_zero().then(|| {
                GradientStop::new(if own { place } else { self.source(at) }, ZeroGradientCause::Factor)
            })
        };
        // The gradient of this factor of a product.
        let scaled = |at: usize, by: usize| {
            if self.is_live(at) { self.dead[at].or_else(|| zero(by)).map(Some) } else { Some(None) }
        };
        match (function, inner) {
            (Function::Multiply, [left, right]) => {
                let (one, other) = (scaled(*left, *right)?, scaled(*right, *left)?);
                one.or(other)
            }
            (Function::Divide, [above, below]) => {
                let one = if self.is_live(*above) { Some(self.dead[*above]?) } else { None };
                let other = match self.is_live(*below) {
                    true => Some(self.dead[*below].or_else(|| zero(*above))?),
                    false => None,
                };
                one.or(other)
            }
            // The power is flat where its base is 0.
            (Function::Power, [base, exponent])
                if self.ranges[*base].is_zero()
                    && self.ranges[*exponent].low > 1.0
                    && !self.is_live(*exponent) =>
            {
                Some(GradientStop::new(self.source(*base), ZeroGradientCause::Factor))
            }
            (Function::Abs, [x]) if self.ranges[*x].is_zero() => {
                Some(GradientStop::new(self.source(*x), ZeroGradientCause::Factor))
            }
            (_, operands) => self.all_stop(operands),
        }
    }

    /// If none of these carries gradient, the reason of the first.
    fn all_stop(&self, places: &[usize]) -> Option<GradientStop> {
        let live = places.iter().filter(|at| self.is_live(**at));
        let found: Option<Vec<GradientStop>> = live.map(|at| self.dead[*at]).collect();
        found?.first().copied()
    }

    /// If no possible choice carries gradient: the reason of the first live one, or the choice itself if none
    /// is live.
    fn chosen(&self, place: usize, cases: &[usize], cause: ZeroGradientCause) -> Option<GradientStop> {
        let live: Vec<usize> = cases.iter().copied().filter(|at| self.is_live(*at)).collect();
        match live.as_slice() {
            [] => Some(GradientStop::new(place, cause)),
            live => live.iter().map(|at| self.dead[*at]).collect::<Option<Vec<_>>>()?.first().copied(),
        }
    }

    fn operand_ranges(&self, place: usize) -> Vec<ValueRange> {
        self.operands(place).map(|operand| self.ranges[operand]).collect()
    }

    fn culprit(&self, stop: GradientStop) -> Culprit<'a> {
        Culprit { part: self.parts[stop.place], cause: stop.cause }
    }
}

/// The cause that stops all gradient of a term. `None` if some gradient may pass.
pub(super) fn silent<'a>(view: &TermView<'a>, facts: &RunFacts) -> Option<Culprit<'a>> {
    let bounds = Bounds::new(&view.formulas(), facts);
    for (name, condition) in [("select", view.select), ("when", view.when)] {
        if let Some(part) = condition.filter(|condition| cannot_hold(condition, &bounds)) {
            return Some(Culprit { part, cause: ZeroGradientCause::Never(name) });
        }
    }
    for weight in view.weight.into_iter().chain(view.own_weight) {
        if bounds.range(weight).is_zero() {
            let place = bounds.places[&Rc::as_ptr(&weight.0)];
            return Some(Culprit {
                part: bounds.parts[bounds.source(place)],
                cause: ZeroGradientCause::Weight,
            });
        }
    }
    let place = bounds.places[&Rc::as_ptr(&view.value.0)];
    bounds.dead[place].map(|found| bounds.culprit(found))
}

/// The range of a number in any run.
pub(super) fn range_of(formula: &Formula) -> ValueRange {
    let facts = RunFacts { teachers: &Teachers::default(), steps: None, reward: ALL, longest: f64::INFINITY };
    Bounds::new(&[formula], &facts).range(formula)
}

/// Whether a number is never above 0 whatever is drawn, and not always 0, so that its sign, where it has one,
/// is negative.
pub(super) fn never_positive(formula: &Formula) -> bool {
    let range = range_of(formula);
    range.high <= 0.0 && !range.is_zero()
}

/// Whether a condition can't hold.
pub(super) fn cannot_hold(condition: &Formula, bounds: &Bounds) -> bool {
    bounds.range(condition).is_zero() || contradicts_itself(condition)
}

/// `position < 5 and position > 10`, `correct and not correct`: conditions that exclude each other.
fn contradicts_itself(condition: &Formula) -> bool {
    let mut asked: Vec<(&Formula, ValueRange, [bool; 2])> = Vec::new();
    let (mut holds, mut fails): (Vec<&Formula>, Vec<&Formula>) = (Vec::new(), Vec::new());
    let mut pending = vec![condition];
    while let Some(formula) = pending.pop() {
        let FormulaKind::Apply { function, operands } = &formula.0.kind else {
            holds.push(formula);
            continue;
        };
        let (left, right) = match operands.as_slice() {
            [inner] if *function == Function::Not => {
                fails.push(inner);
                continue;
            }
            [left, right] if *function == Function::And => {
                pending.extend([left, right]);
                continue;
            }
            [left, right] => (left, right),
            _ => continue,
        };
        let (number, bound, function) = match (left.constant(), right.constant()) {
            (None, Some(bound)) => (left, bound, *function),
            (Some(bound), None) => (right, bound, mirrored(*function)),
            _ => continue,
        };
        // The bounds of the range, and whether each is excluded.
        let (range, open) = match function {
            Function::Less => (ValueRange { high: bound, ..ALL }, [false, true]),
            Function::LessEqual => (ValueRange { high: bound, ..ALL }, [false; 2]),
            Function::Greater => (ValueRange { low: bound, ..ALL }, [true, false]),
            Function::GreaterEqual => (ValueRange { low: bound, ..ALL }, [false; 2]),
            Function::Equal => (ValueRange::at(bound), [false; 2]),
            _ => continue,
        };
        match asked.iter_mut().find(|(known, ..)| is_one(known, number)) {
            Some((_, known, ends)) => {
                if range.low > known.low || (range.low == known.low && open[0]) {
                    (known.low, ends[0]) = (range.low, open[0]);
                }
                if range.high < known.high || (range.high == known.high && open[1]) {
                    (known.high, ends[1]) = (range.high, open[1]);
                }
                if known.low > known.high || (known.low == known.high && (ends[0] || ends[1])) {
                    return true;
                }
            }
            None => asked.push((number, range, open)),
        }
    }
    fails.iter().any(|fails| holds.iter().any(|holds| is_one(holds, fails)))
}

fn mirrored(function: Function) -> Function {
    match function {
        Function::Less => Function::Greater,
        Function::LessEqual => Function::GreaterEqual,
        Function::Greater => Function::Less,
        Function::GreaterEqual => Function::LessEqual,
        other => other,
    }
}
