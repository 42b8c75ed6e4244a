//! What can be known of a formula without drawing anything: between which values a number lies, and that no
//! gradient can pass. Interval arithmetic: what it says holds for every model, prompt and step.

use std::collections::HashMap;
use std::rc::Rc;

use mopd_lang::experiment::{Reward, RolloutSource, Schedule, Train};
use mopd_lang::formula::{
    Adaptive, Distribution, Divergence, DivergenceKind, Formula, FormulaKind, FormulaNode, Function, Live,
    Mass, Memory, Part, Reduction, Role, Scan, Signal, Statistic, Support, Unit,
};

use super::cast::Cast;
use super::program::{Program, View};

/// The values that a number can have, both ends included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Range {
    pub low: f64,
    pub high: f64,
}

const ALL: Range = Range { low: f64::NEG_INFINITY, high: f64::INFINITY };
const TRUTH: Range = Range { low: 0.0, high: 1.0 };
const SHARE: Range = TRUTH;
const POSITIVE: Range = Range { low: 0.0, high: f64::INFINITY };
const NEVER: Range = Range { low: 0.0, high: 0.0 };
const ALWAYS: Range = Range { low: 1.0, high: 1.0 };

impl Range {
    fn at(value: f64) -> Range {
        Range { low: value, high: value }
    }

    /// Whatever is between these, in any order; anything where one is no number.
    fn of(values: &[f64]) -> Range {
        if values.iter().any(|value| value.is_nan()) {
            return ALL;
        }
        values.iter().fold(Range { low: f64::INFINITY, high: f64::NEG_INFINITY }, |range, value| Range {
            low: range.low.min(*value),
            high: range.high.max(*value),
        })
    }

    fn with(self, other: Range) -> Range {
        Range { low: self.low.min(other.low), high: self.high.max(other.high) }
    }

    /// Of a rising function.
    fn map(self, rising: impl Fn(f64) -> f64) -> Range {
        Range::of(&[rising(self.low), rising(self.high)])
    }

    pub fn is_zero(self) -> bool {
        self == NEVER
    }

    /// Of a bool.
    pub fn is_true(self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }

    fn sum(self) -> Range {
        // Of no element it is 0, of very many anything.
        let end = |value: f64, far: f64| if value == 0.0 { 0.0 } else { far };
        Range { low: end(self.low.min(0.0), f64::NEG_INFINITY), high: end(self.high.max(0.0), f64::INFINITY) }
    }
}

/// Why a term carries no gradient, or a condition never holds.
pub(super) struct Culprit<'a> {
    /// The part that decides it.
    pub part: &'a Formula,
    pub why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// `select` or `when`, which never holds.
    Never(&'static str),
    /// A weight that is 0.
    Weight,
    /// A factor that is 0.
    Factor,
    /// Bounds that leave nothing of what they bound.
    Bounds,
    /// A divergence of one distribution from itself.
    Same,
}

/// What decides the ranges of signals.
pub(super) struct Facts<'a> {
    pub cast: &'a Cast,
    /// Of the run.
    pub steps: u32,
    /// Of the verdicts of all domains that are trained on.
    pub reward: Range,
    /// Tokens that a completion has at most; infinite where the file doesn't say.
    pub longest: f64,
}

/// The most tokens of a completion, where the student writes it and nothing is done to it afterwards.
pub(super) fn longest(train: &Train) -> f64 {
    let own_data = train.objective.terms.iter().any(|term| term.data.is_some());
    match &train.rollout.source {
        RolloutSource::Sample(sampling) if train.rollout.edits.is_empty() && !own_data => {
            sampling.max_tokens.constant().unwrap_or(f64::INFINITY)
        }
        _ => f64::INFINITY,
    }
}

/// Of what a domain's verifier can say.
pub(super) fn verdicts<'a>(rewards: impl Iterator<Item = &'a Reward>) -> Range {
    fn of(reward: &Reward) -> Range {
        match reward {
            Reward::ExactMatch { .. }
            | Reward::Numeric { .. }
            | Reward::Regex { .. }
            | Reward::JsonSchema { .. }
            | Reward::UnitTests { .. } => SHARE,
            Reward::Command { .. } | Reward::Http { .. } => ALL,
            Reward::Parts(parts) => parts.iter().fold(Range::at(0.0), |sum, part| {
                let own = of(&part.reward);
                add(sum, product(own, Range::at(part.weight)))
            }),
        }
    }
    rewards.map(of).reduce(Range::with).unwrap_or(ALL)
}

/// The ranges of all parts of some formulas, and where gradient can't pass.
pub(super) struct Bounds<'a> {
    program: Program<'a>,
    places: HashMap<*const FormulaNode, usize>,
    ranges: Vec<Range>,
    /// By part: the part that keeps all gradient away and why; nothing where some may pass.
    dead: Vec<Option<(usize, Why)>>,
}

impl<'a> Bounds<'a> {
    pub fn of(roots: &[&'a Formula], facts: &Facts) -> Bounds<'a> {
        let (program, _) = Program::of(roots);
        let places = program
            .steps
            .iter()
            .enumerate()
            .map(|(place, step)| (Rc::as_ptr(&step.formula.0), place))
            .collect();
        let mut bounds = Bounds { program, places, ranges: Vec::new(), dead: Vec::new() };
        for place in 0..bounds.program.steps.len() {
            let range = bounds.compute(place, facts);
            bounds.ranges.push(range);
            let dead = bounds.stops(place, facts);
            bounds.dead.push(dead);
        }
        bounds
    }

    /// Of one of the roots or their parts.
    pub fn range(&self, formula: &Formula) -> Range {
        self.places.get(&Rc::as_ptr(&formula.0)).map_or(ALL, |place| self.ranges[*place])
    }

    fn operands(&self, place: usize) -> impl Iterator<Item = usize> + '_ {
        self.program.steps[place].operands.iter().map(|(operand, _)| *operand)
    }

    fn compute(&self, place: usize, facts: &Facts) -> Range {
        let formula = self.program.steps[place].formula;
        let given: Vec<Range> = self.operands(place).map(|operand| self.ranges[operand]).collect();
        let none = |range: Range| range.with(Range::at(0.0));
        let range = match &formula.0.kind {
            FormulaKind::Number(value) => Range::at(*value),
            FormulaKind::Schedule(schedule) => scheduled(schedule),
            FormulaKind::Adaptive(Adaptive::Ladder { values, .. }) => Range::of(values),
            FormulaKind::Adaptive(Adaptive::Learned { .. }) => SHARE,
            FormulaKind::Entry(_) => SHARE,
            FormulaKind::Variable(_) => match formula.unit() {
                Unit::Fraction | Unit::Prob | Unit::Bool => SHARE,
                Unit::Count | Unit::Ratio => POSITIVE,
                _ => ALL,
            },
            FormulaKind::Signal(signal) => of_signal(signal, facts, &given),
            FormulaKind::Live(live) => match live {
                Live::Part(part) => of_part(part),
                Live::Divergence(divergence) => of_divergence(divergence, facts, &given),
                Live::Likelihood { .. }
                | Live::Ranking { .. }
                | Live::SquaredError { .. }
                | Live::BinaryCrossEntropy { .. } => POSITIVE,
                Live::Preference(_) => POSITIVE,
            },
            FormulaKind::Apply { function: Function::Subtract, operands }
                if is_same(&operands[0], &operands[1], facts) =>
            {
                Range::at(0.0)
            }
            FormulaKind::Apply { function, operands } => apply(*function, operands, &given),
            FormulaKind::Reduce { reduction, .. } => match reduction {
                Reduction::Sum => given[0].sum(),
                Reduction::Any if given[0].is_zero() => NEVER,
                Reduction::All if given[0].is_true() => ALWAYS,
                Reduction::Any | Reduction::All => TRUTH,
                Reduction::Count if given[0].is_zero() => NEVER,
                Reduction::Count => POSITIVE,
                _ => none(given[0]),
            },
            FormulaKind::Statistic { statistic, .. } => match statistic {
                Statistic::Zscore { .. } | Statistic::Center if given[0].low == given[0].high => {
                    Range::at(0.0)
                }
                Statistic::Zscore { .. } | Statistic::Center => ALL,
                Statistic::Rank | Statistic::Minmax | Statistic::Softmax => SHARE,
                Statistic::TopFraction { keep } | Statistic::SampleWithoutReplacement { keep }
                    if *keep <= 0.0 =>
                {
                    NEVER
                }
                Statistic::TopCount { count: 0 }
                | Statistic::Chunks { most: 0, .. }
                | Statistic::Chunks { width: 0, .. } => NEVER,
                Statistic::TopFraction { .. }
                | Statistic::SampleWithoutReplacement { .. }
                | Statistic::TopCount { .. }
                | Statistic::Balance
                | Statistic::Chunks { .. } => TRUTH,
                Statistic::LeaveOneOut | Statistic::Winsor { .. } => none(given[0]),
            },
            FormulaKind::Scan { scan, .. } => match scan {
                Scan::Minimum | Scan::Maximum => given[0],
                Scan::Next => none(given[0]),
                Scan::Sum => given[0].sum(),
                Scan::RewardToGo { .. } if given[1].low >= 0.0 => given[0].sum(),
                Scan::Product if given[0].low >= 0.0 && given[0].high <= 1.0 => SHARE,
                Scan::Product | Scan::RewardToGo { .. } => ALL,
            },
            FormulaKind::Memory { memory: Memory::Ema { .. } | Memory::Previous, .. } => none(given[0]),
            FormulaKind::Across { .. } => SHARE,
        };
        let range = if range.low.is_nan() || range.high.is_nan() { ALL } else { range };
        match &formula.0.declared {
            Some(declared) => Range { low: range.low.max(declared.low), high: range.high.min(declared.high) },
            None => range,
        }
    }

    /// The part that makes another one 0.
    fn source(&self, place: usize) -> usize {
        let literal =
            |place: usize| matches!(self.program.steps[place].formula.0.kind, FormulaKind::Number(_));
        let mut at = place;
        while let Some(inner) =
            self.operands(at).find(|inner| self.ranges[*inner].is_zero() && !literal(*inner))
        {
            at = inner;
        }
        at
    }

    /// What keeps all gradient of a part away.
    fn stops(&self, place: usize, facts: &Facts) -> Option<(usize, Why)> {
        let formula = self.program.steps[place].formula;
        if !formula.live() {
            return None;
        }
        let inner: Vec<usize> = self.operands(place).collect();
        let live = |place: usize| self.program.steps[place].formula.live();
        // All of these carry none: the first says why.
        let all = |places: &[usize]| {
            let found: Option<Vec<(usize, Why)>> =
                places.iter().filter(|at| live(**at)).map(|at| self.dead[*at]).collect();
            found.and_then(|found| found.first().copied())
        };
        let zero = |at: usize| {
            let own = matches!(self.program.steps[at].formula.0.kind, FormulaKind::Number(_));
            self.ranges[at]
                .is_zero()
                .then(|| if own { (place, Why::Factor) } else { (self.source(at), Why::Factor) })
        };
        // Of a product, this factor's gradient.
        let scaled = |at: usize, by: usize| {
            if live(at) { self.dead[at].or_else(|| zero(by)).map(Some) } else { Some(None) }
        };
        match &formula.0.kind {
            FormulaKind::Live(Live::Divergence(divergence)) => {
                is_of_itself(divergence, facts, &self.given(place)).then_some((place, Why::Same))
            }
            FormulaKind::Apply { function, .. } => match (function, inner.as_slice()) {
                (Function::Multiply, [left, right]) => {
                    let (one, other) = (scaled(*left, *right)?, scaled(*right, *left)?);
                    one.or(other)
                }
                (Function::Divide, [above, below]) => {
                    let one = if live(*above) { Some(self.dead[*above]?) } else { None };
                    let other =
                        if live(*below) { Some(self.dead[*below].or_else(|| zero(*above))?) } else { None };
                    one.or(other)
                }
                // Flat where they are 0.
                (Function::Power, [base, exponent])
                    if self.ranges[*base].is_zero()
                        && self.ranges[*exponent].low > 1.0
                        && !live(*exponent) =>
                {
                    Some((self.source(*base), Why::Factor))
                }
                (Function::Abs, [x]) if self.ranges[*x].is_zero() => Some((self.source(*x), Why::Factor)),
                (Function::Minimum | Function::Maximum, [left, right]) => {
                    // Of the bound alone, once the other can't reach it.
                    let (a, b) = (self.ranges[*left], self.ranges[*right]);
                    let first = if *function == Function::Minimum { a.high < b.low } else { a.low > b.high };
                    let second = if *function == Function::Minimum { b.high < a.low } else { b.low > a.high };
                    let cases = if first {
                        &inner[..1]
                    } else if second {
                        &inner[1..]
                    } else {
                        &inner
                    };
                    self.chosen(place, cases, Why::Bounds)
                }
                (Function::Clip, [x, low, high]) => {
                    let (value, low_range, high_range) =
                        (self.ranges[*x], self.ranges[*low], self.ranges[*high]);
                    let fixed = low_range.low >= high_range.high
                        || value.high < low_range.low
                        || value.low > high_range.high;
                    let bounds = if fixed { &inner[1..] } else { &inner[..] };
                    self.chosen(place, bounds, Why::Bounds)
                }
                (Function::Relu, [x]) if self.ranges[*x].high <= 0.0 => Some((place, Why::Bounds)),
                (Function::Where, [condition, then, otherwise]) => {
                    let truth = self.ranges[*condition];
                    let cases: &[usize] = match () {
                        () if truth.is_zero() => &[*otherwise],
                        () if truth.is_true() => &[*then],
                        () => &[*then, *otherwise],
                    };
                    match self.chosen(place, cases, Why::Factor) {
                        Some((at, _)) if at == place => Some((*condition, Why::Factor)),
                        found => found,
                    }
                }
                (_, operands) => all(operands),
            },
            FormulaKind::Reduce { .. } | FormulaKind::Scan { .. } => all(&inner[..1]),
            _ => None,
        }
    }

    /// Of those that may be chosen, none carries gradient: the first live one says why, the choice itself
    /// where none is live.
    fn chosen(&self, place: usize, cases: &[usize], why: Why) -> Option<(usize, Why)> {
        let live: Vec<usize> =
            cases.iter().copied().filter(|at| self.program.steps[*at].formula.live()).collect();
        match live.as_slice() {
            [] => Some((place, why)),
            live => live.iter().map(|at| self.dead[*at]).collect::<Option<Vec<_>>>()?.first().copied(),
        }
    }

    fn given(&self, place: usize) -> Vec<Range> {
        self.operands(place).map(|operand| self.ranges[operand]).collect()
    }

    fn culprit(&self, (place, why): (usize, Why)) -> Culprit<'a> {
        Culprit { part: self.program.steps[place].formula, why }
    }
}

/// What keeps all gradient of a term away; none where some may pass.
pub(super) fn silent<'a>(view: &View<'a>, facts: &Facts) -> Option<Culprit<'a>> {
    let bounds = Bounds::of(&view.formulas(), facts);
    for (name, condition) in [("select", view.select), ("when", view.when)] {
        if let Some(part) = condition.filter(|condition| never(condition, &bounds)) {
            return Some(Culprit { part, why: Why::Never(name) });
        }
    }
    for weight in view.weight.into_iter().chain(view.own_weight) {
        if bounds.range(weight).is_zero() {
            let place = bounds.places[&Rc::as_ptr(&weight.0)];
            return Some(Culprit {
                part: bounds.program.steps[bounds.source(place)].formula,
                why: Why::Weight,
            });
        }
    }
    let place = bounds.places[&Rc::as_ptr(&view.value.0)];
    bounds.dead[place].map(|found| bounds.culprit(found))
}

/// Whether a number is below 0 whatever is drawn, or 0.
pub(super) fn is_negative(formula: &Formula) -> bool {
    let facts = Facts { cast: &Cast::default(), steps: 1, reward: ALL, longest: f64::INFINITY };
    Bounds::of(&[formula], &facts).range(formula).high <= 0.0
}

/// Whether a condition can't hold.
pub(super) fn never(condition: &Formula, bounds: &Bounds) -> bool {
    bounds.range(condition).is_zero() || contradicts_itself(condition)
}

/// `position < 5 and position > 10`, `correct and not correct`: what is asked of one number leaves nothing.
fn contradicts_itself(condition: &Formula) -> bool {
    let mut asked: Vec<(&Formula, Range, [bool; 2])> = Vec::new();
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
        // The ends, and whether they are left out.
        let (range, open) = match function {
            Function::Less => (Range { high: bound, ..ALL }, [false, true]),
            Function::LessEqual => (Range { high: bound, ..ALL }, [false; 2]),
            Function::Greater => (Range { low: bound, ..ALL }, [true, false]),
            Function::GreaterEqual => (Range { low: bound, ..ALL }, [false; 2]),
            Function::Equal => (Range::at(bound), [false; 2]),
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

/// One part of the formula, or one signal written twice. Larger parts are not compared: shared ones stand for
/// very many.
fn is_one(left: &Formula, right: &Formula) -> bool {
    Rc::ptr_eq(&left.0, &right.0)
        || match (&left.0.kind, &right.0.kind) {
            (FormulaKind::Signal(left), FormulaKind::Signal(right)) => {
                !matches!(left, Signal::Divergence(_)) && left == right
            }
            _ => false,
        }
}

/// Two names of one number: of a teacher that is the student, and of the student.
fn is_same(left: &Formula, right: &Formula, facts: &Facts) -> bool {
    let read = |formula: &Formula| match &formula.0.kind {
        FormulaKind::Signal(Signal::Of {
            role,
            part: part @ (Part::Logp | Part::Entropy | Part::Top1 | Part::EndLogp | Part::Rank),
        }) => Some((owner(role, facts), part.clone())),
        FormulaKind::Live(Live::Part(part @ (Part::Logp | Part::EndLogp))) => {
            Some((Role::Student, part.clone()))
        }
        _ => None,
    };
    match (read(left), read(right)) {
        (Some(left), Some(right)) => left == right,
        _ => is_one(left, right),
    }
}

fn owner(role: &Role, facts: &Facts) -> Role {
    let always = [0, facts.steps / 2, facts.steps.saturating_sub(1)]
        .iter()
        .all(|step| facts.cast.is_student(role, (*step, facts.steps)));
    if always { Role::Student } else { role.clone() }
}

fn of_part(part: &Part) -> Range {
    match part {
        Part::Logp | Part::EndLogp => Range { high: 0.0, ..ALL },
        Part::Entropy | Part::Deviation => POSITIVE,
        Part::Top1 | Part::Confidence | Part::Correct => SHARE,
        Part::Rank => Range { low: 1.0, ..ALL },
        Part::Mean | Part::Score | Part::Value | Part::StatedConfidence => ALL,
    }
}

fn of_signal(signal: &Signal, facts: &Facts, given: &[Range]) -> Range {
    match signal {
        Signal::Of { part, .. } => of_part(part),
        Signal::Divergence(divergence) => of_divergence(divergence, facts, given),
        Signal::Overlap { .. } | Signal::Mass { .. } | Signal::Progress => SHARE,
        Signal::Agreement { samples, .. } => Range { low: 0.0, high: f64::from(*samples) },
        Signal::Step => Range { low: 0.0, high: f64::from(facts.steps.saturating_sub(1)) },
        Signal::Position | Signal::Remaining => Range { low: 0.0, high: (facts.longest - 1.0).max(0.0) },
        Signal::Length => Range { low: 0.0, high: facts.longest },
        Signal::Reward => facts.reward,
        // Of parts whose weights don't reach 1. Their sum is rounded.
        Signal::Correct if facts.reward.high < 1.0 - 1e-9 => NEVER,
        Signal::SpanScore { .. }
        | Signal::RewardPart { .. }
        | Signal::Data { .. }
        | Signal::Loss
        | Signal::TermLoss { .. }
        | Signal::HeldOutLoss => ALL,
        _ => match signal.unit() {
            Unit::Bool => TRUTH,
            Unit::Count => POSITIVE,
            _ => ALL,
        },
    }
}

fn of_divergence(divergence: &Divergence, facts: &Facts, given: &[Range]) -> Range {
    if is_of_itself(divergence, facts, given) {
        return Range::at(0.0);
    }
    let whole = divergence.support == Support::Full || divergence.mass != Mass::Raw;
    match &divergence.kind {
        DivergenceKind::Gaussian { .. } => POSITIVE,
        _ if divergence.clip_each.is_some() => ALL,
        DivergenceKind::SortedL1 => SHARE,
        DivergenceKind::Entrywise(own) if own.facts.divergence && (whole || own.facts.never_negative) => {
            Range { high: own.facts.most, ..POSITIVE }
        }
        DivergenceKind::Entrywise(own) if own.facts.never_negative => POSITIVE,
        DivergenceKind::Kl if whole => POSITIVE,
        _ => ALL,
    }
}

/// A parameter or its sides make a divergence 0 everywhere.
fn is_of_itself(divergence: &Divergence, facts: &Facts, given: &[Range]) -> bool {
    let parameters = match &divergence.kind {
        DivergenceKind::Entrywise(own) if own.facts.zero => return true,
        DivergenceKind::Entrywise(own) => own.parameters.len(),
        DivergenceKind::Gaussian { .. } => return false,
        DivergenceKind::Kl | DivergenceKind::SortedL1 => 0,
    };
    let mut shares = given.iter().skip(parameters);
    let (left, right) =
        (side(&divergence.left, facts, &mut shares), side(&divergence.right, facts, &mut shares));
    left.is_some() && left == right
}

/// Whose distribution a side is, with the shares of a blend that are not 0; none where they are not known.
fn side<'r>(
    side_: &Distribution,
    facts: &Facts,
    shares: &mut impl Iterator<Item = &'r Range>,
) -> Option<Vec<(Role, f64)>> {
    let mut parts: Vec<(Role, f64)> = Vec::new();
    match side_ {
        Distribution::Role(role) => parts.push((owner(role, facts), 1.0)),
        Distribution::Detached(inner) => return side(inner, facts, shares),
        Distribution::Blend(blend) => {
            // All shares are taken, so that the other side's come next.
            let given: Vec<Option<&Range>> = blend.iter().map(|_| shares.next()).collect();
            for ((_, role), share) in blend.iter().zip(given) {
                let share = share.filter(|share| share.low == share.high)?.low;
                let role = owner(role, facts);
                match parts.iter_mut().find(|(known, _)| *known == role) {
                    Some((_, known)) => *known += share,
                    None => parts.push((role, share)),
                }
            }
        }
    }
    parts.retain(|(_, share)| *share != 0.0);
    parts.sort_by(|(a, _), (b, _)| a.name().cmp(b.name()));
    Some(parts)
}

fn scheduled(schedule: &Schedule) -> Range {
    match schedule {
        Schedule::Constant { value } => Range::at(*value),
        Schedule::Linear { from, to, .. }
        | Schedule::Cosine { from, to, .. }
        | Schedule::Exponential { from, to, .. } => Range::of(&[*from, *to]),
        Schedule::Piecewise { pieces } => {
            Range::of(&pieces.iter().map(|(_, value)| *value).collect::<Vec<f64>>())
        }
        Schedule::Alternate { values, .. } => Range::of(values),
        Schedule::Warmup { then, .. } => scheduled(then).with(Range::at(0.0)),
    }
}

fn add(a: Range, b: Range) -> Range {
    Range { low: a.low + b.low, high: a.high + b.high }
}

fn product(a: Range, b: Range) -> Range {
    // 0 times what may be anything is 0: no signal is infinite.
    let times = |a: f64, b: f64| if a == 0.0 || b == 0.0 { 0.0 } else { a * b };
    Range::of(&[times(a.low, b.low), times(a.low, b.high), times(a.high, b.low), times(a.high, b.high)])
}

fn apply(function: Function, operands: &[Formula], given: &[Range]) -> Range {
    use Function::*;
    use mopd_ops::Range::Increasing;
    let truth = |always: bool, never: bool| match (always, never) {
        (true, _) => ALWAYS,
        (_, true) => NEVER,
        _ => TRUTH,
    };
    let negative = |range: Range| Range { low: -range.high, high: -range.low };
    match (function, given) {
        (Negate, [x]) => negative(*x),
        (Not, [x]) => truth(x.is_zero(), x.is_true()),
        (Abs, [x]) if x.low >= 0.0 => *x,
        (Abs, [x]) if x.high <= 0.0 => negative(*x),
        (Abs, [x]) => Range { low: 0.0, high: x.high.max(-x.low) },
        (Cos, _) => Range { low: -1.0, high: 1.0 },
        (Add, [x, y]) => add(*x, *y),
        (Subtract, [x, y]) => add(*x, negative(*y)),
        (Multiply, [x, y]) if Rc::ptr_eq(&operands[0].0, &operands[1].0) => {
            let square = product(*x, *y);
            Range { low: square.low.max(0.0), ..square }
        }
        (Multiply, [x, y]) => product(*x, *y),
        (Divide, [x, _]) if x.is_zero() => Range::at(0.0),
        (Divide, [x, y]) if y.low > 0.0 || y.high < 0.0 => {
            product(*x, Range::of(&[1.0 / y.low, 1.0 / y.high]))
        }
        (Divide, [x, y]) if x.low >= 0.0 && y.low >= 0.0 => POSITIVE,
        (Power, [x, y]) if x.low >= 0.0 && y.low == y.high && y.low > 0.0 => {
            x.map(|x| Power.value(&[x, y.low]))
        }
        (Power, [x, y]) if y.low == y.high && y.low > 0.0 && y.low % 2.0 == 0.0 => {
            Range { low: 0.0, high: Power.value(&[x.low.abs().max(x.high.abs()), y.low]) }
        }
        (Power, [x, _]) if x.low >= 0.0 => POSITIVE,
        (Minimum, [x, y]) => Range { low: x.low.min(y.low), high: x.high.min(y.high) },
        (Maximum, [x, y]) => Range { low: x.low.max(y.low), high: x.high.max(y.high) },
        (Less, [x, y]) => truth(x.high < y.low, x.low >= y.high),
        (LessEqual, [x, y]) => truth(x.high <= y.low, x.low > y.high),
        (Greater, [x, y]) => truth(x.low > y.high, x.high <= y.low),
        (GreaterEqual, [x, y]) => truth(x.low >= y.high, x.high < y.low),
        (Equal, [x, y]) => truth(x.low == x.high && x == y, x.high < y.low || y.high < x.low),
        (NotEqual, [x, y]) => truth(x.high < y.low || y.high < x.low, x.low == x.high && x == y),
        (And, [x, y]) => truth(x.is_true() && y.is_true(), x.is_zero() || y.is_zero()),
        (Or, [x, y]) => truth(x.is_true() || y.is_true(), x.is_zero() && y.is_zero()),
        (Clip, [x, low, high]) => {
            let (least, most) = (x.low.max(low.low).min(high.high), x.high.max(low.low).min(high.high));
            Range { low: least, high: most.max(least) }
        }
        (Where, [condition, _, otherwise]) if condition.is_zero() => *otherwise,
        (Where, [condition, then, _]) if condition.is_true() => *then,
        (Where, [_, then, otherwise]) => then.with(*otherwise),
        (function, [x]) if matches!(function.definition().range, Increasing) => {
            x.map(|x| function.value(&[x]))
        }
        _ => ALL,
    }
}
