//! The range of a number, whatever is drawn, by interval arithmetic over formulas. The results hold for every
//! model, prompt and step.

use std::rc::Rc;

use mopd_experiment::formula::{
    Adaptive, Amount, Axis, Distribution, Divergence, DivergenceKind, Formula, FormulaKind, FormulaNode,
    Function, Live, Mass, Memory, ModelSignal, PlainSignal, Reduction, Role, Scan, Signal, SignalDefinition,
    Statistic, Support, Unit,
};
use mopd_experiment::{Reward, RolloutSource, Schedule, StageStep, Train};
use mopd_ops::interval::ValueInterval;

use super::USUAL_STEPS;
use super::teachers::Teachers;

/// The possible values of a number, both ends included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ValueRange {
    pub low: f64,
    pub high: f64,
}

pub(super) const ALL: ValueRange = ValueRange { low: f64::NEG_INFINITY, high: f64::INFINITY };
const TRUTH: ValueRange = ValueRange { low: 0.0, high: 1.0 };
const SHARE: ValueRange = TRUTH;
const POSITIVE: ValueRange = ValueRange { low: 0.0, high: f64::INFINITY };
const NEVER: ValueRange = ValueRange { low: 0.0, high: 0.0 };
const ALWAYS: ValueRange = ValueRange { low: 1.0, high: 1.0 };

impl ValueRange {
    pub fn at(value: f64) -> ValueRange {
        ValueRange { low: value, high: value }
    }

    /// The range of these values, in any order; unbounded if one is NaN.
    fn from_values(values: &[f64]) -> ValueRange {
        if values.iter().any(|value| value.is_nan()) {
            return ALL;
        }
        values.iter().fold(ValueRange { low: f64::INFINITY, high: f64::NEG_INFINITY }, |range, value| {
            ValueRange { low: range.low.min(*value), high: range.high.max(*value) }
        })
    }

    pub fn with(self, other: ValueRange) -> ValueRange {
        ValueRange { low: self.low.min(other.low), high: self.high.max(other.high) }
    }

    pub fn is_zero(self) -> bool {
        self == NEVER
    }

    /// Whether a bool is always true.
    pub fn is_true(self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }

    fn sum(self) -> ValueRange {
        // The sum of no elements is 0, and that of many is unbounded.
        let end = |value: f64, far: f64| if value == 0.0 { 0.0 } else { far };
        ValueRange {
            low: end(self.low.min(0.0), f64::NEG_INFINITY),
            high: end(self.high.max(0.0), f64::INFINITY),
        }
    }
}

/// The facts that the ranges of signals depend on.
pub(super) struct RunFacts<'a> {
    pub teachers: &'a Teachers,
    /// The steps of the run; `None` if they are not known.
    pub steps: Option<u32>,
    /// The range of rewards, over all domains that are trained on.
    pub reward: ValueRange,
    /// The most tokens of a completion; infinite if the file does not say.
    pub longest: f64,
}

/// The most tokens of a completion, if the student writes it and no edit changes it.
pub(super) fn longest(train: &Train) -> f64 {
    let own_data = train.objective.terms.iter().any(|term| term.data.is_some());
    match &train.rollout.source {
        RolloutSource::Sample(sampling) if train.rollout.edits.is_empty() && !own_data => {
            sampling.max_tokens.constant().unwrap_or(f64::INFINITY)
        }
        _ => f64::INFINITY,
    }
}

/// The range of the results of domains' verifiers.
pub(super) fn verdicts<'a>(rewards: impl Iterator<Item = &'a Reward>) -> ValueRange {
    let range = |reward: &Reward| {
        let (low, high) = reward.facts().bounds;
        ValueRange { low, high }
    };
    rewards.map(range).reduce(ValueRange::with).unwrap_or(ALL)
}

/// The range of a formula, given the ranges of its operands.
pub(super) fn of_formula(formula: &Formula, facts: &RunFacts, given: &[ValueRange]) -> ValueRange {
    let none = |range: ValueRange| range.with(ValueRange::at(0.0));
    let range = match &formula.0.kind {
        FormulaKind::Number(value) => ValueRange::at(*value),
        FormulaKind::Schedule(schedule) => scheduled(schedule),
        FormulaKind::Adaptive(Adaptive::Ladder { values, .. }) => ValueRange::from_values(values),
        FormulaKind::Adaptive(Adaptive::Learned { .. }) => SHARE,
        FormulaKind::Entry(_) => SHARE,
        FormulaKind::Variable(_) => match formula.unit() {
            Unit::Fraction | Unit::Prob | Unit::Bool => SHARE,
            Unit::Count | Unit::Ratio => POSITIVE,
            _ => ALL,
        },
        FormulaKind::Signal(signal) => of_signal(signal, facts, given),
        FormulaKind::Live(live) => match live {
            Live::Part(part) => declared_range(part.definition()),
            Live::Divergence(divergence) => of_divergence(divergence, facts, given),
            Live::Likelihood { .. }
            | Live::Ranking { .. }
            | Live::SquaredError { .. }
            | Live::BinaryCrossEntropy { .. } => POSITIVE,
            Live::Preference(_) => POSITIVE,
        },
        FormulaKind::Apply { function: Function::Subtract, operands }
            if is_same(&operands[0], &operands[1], facts) =>
        {
            ValueRange::at(0.0)
        }
        FormulaKind::Apply { function: Function::Multiply, operands }
            if Rc::ptr_eq(&operands[0].0, &operands[1].0) =>
        {
            apply(Function::Power, &[given[0], ValueRange::at(2.0)])
        }
        FormulaKind::Apply { function, .. } => apply(*function, given),
        FormulaKind::Reduce { reduction, operand, on, .. } => {
            // Completions of another rollout have lengths of their own.
            let of = if on.is_some() && reads_length(operand) { ALL } else { given[0] };
            match reduction {
                Reduction::Sum => of.sum(),
                Reduction::Any if of.is_zero() => NEVER,
                Reduction::All if of.is_true() => ALWAYS,
                Reduction::Any | Reduction::All => TRUTH,
                Reduction::Count if of.is_zero() => NEVER,
                Reduction::Count => POSITIVE,
                Reduction::Stddev { .. } if of.low == of.high => ValueRange::at(0.0),
                Reduction::Stddev { .. } => POSITIVE,
                _ => none(of),
            }
        }
        FormulaKind::Statistic { statistic, .. } => match statistic {
            Statistic::Zscore { .. } | Statistic::Center if given[0].low == given[0].high => {
                ValueRange::at(0.0)
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
            Statistic::LeaveOneOut | Statistic::MeanOfSmaller | Statistic::Winsor { .. } => none(given[0]),
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
        Some(declared) => {
            ValueRange { low: range.low.max(declared.low), high: range.high.min(declared.high) }
        }
        None => range,
    }
}

fn reads_length(formula: &Formula) -> bool {
    let of_length = |signal: &Signal| {
        matches!(signal, Signal::Plain(PlainSignal::Length | PlainSignal::Position | PlainSignal::Remaining))
    };
    formula
        .parts()
        .iter()
        .any(|part| matches!(&part.0.kind, FormulaKind::Signal(signal) if of_length(signal)))
}

/// Whether a node is the mean over a completion's tokens of something live: it divides by the length, which
/// the drawn end token decides.
pub(super) fn divides_by_length(node: &FormulaNode) -> bool {
    matches!(&node.kind, FormulaKind::Reduce { reduction: Reduction::Mean, operand, .. }
        if node.live && node.axis <= Axis::Sequence && operand.axis() > Axis::Sequence)
}

/// Whether two formulas are one shared part, or the same signal. Larger formulas are not compared, because
/// shared parts may have very many paths.
pub(super) fn is_one(left: &Formula, right: &Formula) -> bool {
    Rc::ptr_eq(&left.0, &right.0)
        || match (&left.0.kind, &right.0.kind) {
            (FormulaKind::Signal(left), FormulaKind::Signal(right)) => {
                !matches!(left, Signal::Divergence(_)) && left == right
            }
            _ => false,
        }
}

/// Whether two formulas read one number under two names, as for a teacher that is the student.
fn is_same(left: &Formula, right: &Formula, facts: &RunFacts) -> bool {
    let read = |formula: &Formula| match &formula.0.kind {
        FormulaKind::Signal(Signal::Of { role, part }) if part.definition().from_distribution => {
            Some((owner(role, facts), *part))
        }
        FormulaKind::Live(Live::Part(part @ (ModelSignal::Logp | ModelSignal::EndLogp))) => {
            Some((Role::Student, *part))
        }
        _ => None,
    };
    match (read(left), read(right)) {
        (Some(left), Some(right)) => left == right,
        _ => is_one(left, right),
    }
}

fn owner(role: &Role, facts: &RunFacts) -> Role {
    let steps = facts.steps.unwrap_or(USUAL_STEPS);
    let always = [0, steps / 2, steps.saturating_sub(1)]
        .iter()
        .all(|step| facts.teachers.is_student(role, StageStep { step: *step, steps }));
    if always { Role::Student } else { role.clone() }
}

fn declared_range(definition: &SignalDefinition) -> ValueRange {
    ValueRange { low: definition.low, high: definition.high }
}

fn of_signal(signal: &Signal, facts: &RunFacts, given: &[ValueRange]) -> ValueRange {
    match signal {
        Signal::Of { part, .. } => declared_range(part.definition()),
        Signal::Divergence(divergence) => of_divergence(divergence, facts, given),
        Signal::Overlap { .. } | Signal::Mass { .. } | Signal::Random { .. } => SHARE,
        // The last step is before the end: `progress` never reaches 1.
        Signal::Plain(PlainSignal::Progress) => {
            let last = |steps: u32| StageStep { step: steps.saturating_sub(1), steps }.progress();
            ValueRange { low: 0.0, high: facts.steps.map_or(1.0f64.next_down(), last) }
        }
        Signal::Agreement { samples, .. } => ValueRange { low: 0.0, high: f64::from(*samples) },
        Signal::Plain(PlainSignal::Step) => {
            let last = facts.steps.map_or(f64::INFINITY, |steps| f64::from(steps.saturating_sub(1)));
            ValueRange { low: 0.0, high: last }
        }
        Signal::Plain(PlainSignal::Position | PlainSignal::Remaining) => {
            ValueRange { low: 0.0, high: (facts.longest - 1.0).max(0.0) }
        }
        Signal::Plain(PlainSignal::Length) => ValueRange { low: 0.0, high: facts.longest },
        Signal::Plain(PlainSignal::Reward) => facts.reward,
        // The weights of the reward's parts sum to less than 1, up to the rounding of the sum.
        Signal::Plain(PlainSignal::Correct) if facts.reward.high < 1.0 - 1e-9 => NEVER,
        Signal::Plain(plain) => declared_range(plain.definition()),
        Signal::State { .. } => ALL,
        _ => match signal.unit() {
            Unit::Bool => TRUTH,
            Unit::Count => POSITIVE,
            _ => ALL,
        },
    }
}

fn of_divergence(divergence: &Divergence, facts: &RunFacts, given: &[ValueRange]) -> ValueRange {
    if is_of_itself(divergence, facts, given) {
        return ValueRange::at(0.0);
    }
    let whole = divergence.support == Support::Full || divergence.mass != Mass::Raw;
    match &divergence.kind {
        DivergenceKind::Gaussian { .. } => POSITIVE,
        _ if divergence.clip_each.is_some() => ALL,
        DivergenceKind::SortedL1 => SHARE,
        DivergenceKind::Entrywise(own) if own.facts.divergence && (whole || own.facts.never_negative) => {
            ValueRange { high: own.facts.most, ..POSITIVE }
        }
        DivergenceKind::Entrywise(own) if own.facts.never_negative => POSITIVE,
        DivergenceKind::Kl if whole => POSITIVE,
        _ => ALL,
    }
}

/// Whether a divergence is 0 everywhere, because of a parameter or its sides.
pub(super) fn is_of_itself(divergence: &Divergence, facts: &RunFacts, given: &[ValueRange]) -> bool {
    let parameters = match &divergence.kind {
        DivergenceKind::Entrywise(own) if own.facts.zero => return true,
        // A cross-entropy, for example, is the entropy where both sides are one.
        DivergenceKind::Entrywise(own) if !own.facts.divergence => return false,
        DivergenceKind::Entrywise(own) => own.parameters.len(),
        DivergenceKind::Gaussian { .. } => return false,
        DivergenceKind::Kl | DivergenceKind::SortedL1 => 0,
    };
    let temperature = usize::from(matches!(divergence.temperature, Amount::Formula(_)));
    let mut shares = given.iter().skip(parameters + temperature);
    let (left, right) =
        (side(&divergence.left, facts, &mut shares), side(&divergence.right, facts, &mut shares));
    left.is_some() && left == right
}

/// The roles of a side, with the shares of a blend that are not 0. `None` if the shares are not known.
fn side<'r>(
    side_: &Distribution,
    facts: &RunFacts,
    shares: &mut impl Iterator<Item = &'r ValueRange>,
) -> Option<Vec<(Role, f64)>> {
    let mut parts: Vec<(Role, f64)> = Vec::new();
    match side_ {
        Distribution::Role(role) => parts.push((owner(role, facts), 1.0)),
        Distribution::Detached(inner) => return side(inner, facts, shares),
        Distribution::Blend(blend) => {
            // Takes all shares of this side, so that the other side's come next.
            let given: Vec<Option<&ValueRange>> = blend.iter().map(|_| shares.next()).collect();
            for (part, share) in blend.iter().zip(given) {
                let share = share.filter(|share| share.low == share.high)?.low;
                let role = owner(&part.role, facts);
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

/// The range of a schedule over all steps.
pub(super) fn scheduled(schedule: &Schedule) -> ValueRange {
    match schedule {
        Schedule::Constant { value } => ValueRange::at(*value),
        Schedule::Linear { from, to, .. }
        | Schedule::Cosine { from, to, .. }
        | Schedule::Exponential { from, to, .. } => ValueRange::from_values(&[*from, *to]),
        Schedule::Piecewise { pieces } => {
            ValueRange::from_values(&pieces.iter().map(|(_, value)| *value).collect::<Vec<f64>>())
        }
        Schedule::Alternate { values, .. } => ValueRange::from_values(values),
        Schedule::Warmup { then, .. } => scheduled(then).with(ValueRange::at(0.0)),
    }
}

/// The range of a function, given the ranges of its operands. No number of a run is infinite.
fn apply(function: Function, given: &[ValueRange]) -> ValueRange {
    let operands: Vec<ValueInterval> = given.iter().map(|range| (range.low, range.high)).collect();
    let (low, high) = function.finite_range(&operands);
    ValueRange { low, high }
}
