//! Evaluates numbers of the run before it: schedules and expressions of `step` and `progress`, at every step
//! or on intervals of steps.

use std::rc::Rc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::diag::{Code, Diagnostic};
use mopd_experiment::formula::{
    Amount, Axis, DeclaredType, Distribution, Divergence, DivergenceKind, Formula, FormulaKind, FormulaNode,
    Function, GivenParameter, Live, ModelSignal, PlainSignal, PreferenceKind, Scan, Side, Signal, StepNumber,
    Summand, Unit, with_number,
};
use mopd_experiment::{Length, Objective, StageStep};
use mopd_ops::interval::{self, ValueInterval};

use crate::check::formulas::properties::is_zero;
use crate::check::formulas::schedules;
use crate::check::reporter::Reporter;

/// The values of the names in a number of the run.
pub struct Bindings {
    pub step: u32,
    pub steps: u32,
    /// The probabilities that both sides give to the current vocabulary entry.
    pub entry: Option<[f64; 2]>,
}

/// A part of a formula, and the places of its operands.
struct TapePart<'f> {
    node: &'f FormulaNode,
    operands: Vec<usize>,
}

/// The parts of a formula, each once, operands first. Parts may be shared, so that a formula has few parts
/// and very many paths.
pub struct Tape<'f> {
    parts: Vec<TapePart<'f>>,
}

impl<'f> Tape<'f> {
    pub fn new(formula: &'f Formula) -> Tape<'f> {
        let mut parts: Vec<TapePart> = Vec::new();
        let mut known: FxHashMap<*const FormulaNode, usize> = FxHashMap::default();
        let mut waiting = vec![formula];
        while let Some(next) = waiting.last().copied() {
            let operands: &[Formula] = match &next.0.kind {
                FormulaKind::Apply { operands, .. } => operands,
                _ => &[],
            };
            let missing: Vec<&Formula> =
                operands.iter().filter(|operand| !known.contains_key(&Rc::as_ptr(&operand.0))).collect();
            if missing.is_empty() {
                waiting.pop();
                let at = parts.len();
                known.entry(Rc::as_ptr(&next.0)).or_insert_with(|| {
                    parts.push(TapePart { node: &next.0, operands: Vec::new() });
                    at
                });
                if parts.len() > at {
                    parts[at].operands =
                        operands.iter().map(|operand| known[&Rc::as_ptr(&operand.0)]).collect();
                }
            } else {
                waiting.extend(missing);
            }
        }
        Tape { parts }
    }

    /// Evaluates the parts with `leaf` and `apply`; `None` where some part is `None`.
    pub fn run<T: Copy>(
        &self,
        leaf: impl Fn(&FormulaNode) -> Option<T>,
        apply: impl Fn(Function, &[T]) -> T,
    ) -> Option<T> {
        let mut values: Vec<T> = Vec::with_capacity(self.parts.len());
        for TapePart { node: part, operands } in &self.parts {
            values.push(match &part.kind {
                FormulaKind::Apply { function, .. } => match *operands.as_slice() {
                    [a] => apply(*function, &[values[a]]),
                    [a, b] => apply(*function, &[values[a], values[b]]),
                    ref more => {
                        apply(*function, &more.iter().map(|operand| values[*operand]).collect::<Vec<T>>())
                    }
                },
                _ => leaf(part)?,
            });
        }
        values.last().copied()
    }

    /// The value, if it depends on the bindings alone.
    pub fn at(&self, bindings: &Bindings) -> Option<f64> {
        let leaf = |part: &FormulaNode| match &part.kind {
            FormulaKind::Number(value) => Some(*value),
            FormulaKind::Schedule(schedule) => Some(schedule.at(bindings.step, bindings.steps)),
            FormulaKind::Signal(Signal::Plain(PlainSignal::Step)) => Some(f64::from(bindings.step)),
            FormulaKind::Signal(Signal::Plain(PlainSignal::Progress)) => {
                Some(f64::from(bindings.step) / f64::from(bindings.steps.max(1)))
            }
            FormulaKind::Entry(entry) => bindings.entry.map(|[p, q]| match entry.side {
                Side::Left => p,
                Side::Right => q,
            }),
            _ => None,
        };
        self.run(leaf, Function::value)
    }
}

/// An interval that contains all values of a number from step `first` to step `last`; `None` where it depends
/// on anything else than the step.
fn bounds(number: &Tape, (first, last): (u32, u32), steps: u32) -> Option<ValueInterval> {
    let leaf = |part: &FormulaNode| match &part.kind {
        FormulaKind::Number(value) => Some((*value, *value)),
        FormulaKind::Schedule(schedule) => Some(interval::proper(schedule.bounds(first, last, steps))),
        FormulaKind::Signal(Signal::Plain(PlainSignal::Step)) => Some((f64::from(first), f64::from(last))),
        FormulaKind::Signal(Signal::Plain(PlainSignal::Progress)) => {
            let steps = f64::from(steps.max(1));
            Some((f64::from(first) / steps, f64::from(last) / steps))
        }
        _ => None,
    };
    number.run(leaf, Function::range)
}

/// An interval that contains all values of a number, for any run, models and data. Unknown parts may have any
/// value.
pub fn possible_values(number: &Formula) -> ValueInterval {
    // The longest possible run, which is long enough for every schedule.
    possible_between(number, (0, u32::MAX), u32::MAX)
}

/// As [`possible_values`], from step `first` to step `last` of a run.
pub fn possible_between(number: &Formula, (first, last): (u32, u32), steps: u32) -> ValueInterval {
    let leaf = |part: &FormulaNode| {
        let (low, high) = match &part.kind {
            FormulaKind::Number(value) => (*value, *value),
            FormulaKind::Schedule(schedule) => interval::proper(schedule.bounds(first, last, steps)),
            FormulaKind::Signal(Signal::Plain(PlainSignal::Step)) => (f64::from(first), f64::from(last)),
            FormulaKind::Signal(Signal::Plain(PlainSignal::Progress)) => {
                let steps = f64::from(steps.max(1));
                (f64::from(first) / steps, f64::from(last) / steps)
            }
            FormulaKind::Signal(Signal::OfSteps { number: StepNumber::Entropy, .. }) => (0.0, f64::INFINITY),
            FormulaKind::Signal(Signal::Of { part: ModelSignal::Entropy, .. }) => (0.0, f64::INFINITY),
            // A state may leave the range of its first value.
            FormulaKind::Signal(Signal::State { .. }) => interval::ANYTHING,
            FormulaKind::Signal(_) | FormulaKind::Variable(_) => match part.unit {
                Unit::Prob | Unit::Fraction | Unit::Bool => (0.0, 1.0),
                Unit::Count => (0.0, f64::INFINITY),
                Unit::Logp => (f64::NEG_INFINITY, 0.0),
                Unit::Number | Unit::Ratio | Unit::Nats | Unit::Real => interval::ANYTHING,
            },
            _ => interval::ANYTHING,
        };
        Some(match &part.declared {
            Some(declared) => (low.max(declared.low), high.min(declared.high)),
            None => (low, high),
        })
    };
    let range = |function: Function, operands: &[ValueInterval]| interval::proper(function.range(operands));
    Tape::new(number).run(leaf, range).unwrap_or(interval::ANYTHING)
}

/// Whether a number stays within its bounds over a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RangeCheck {
    /// It does at every step, or at every step that can be evaluated before the run.
    Within,
    /// The first step at which it leaves them, and its value there.
    Leaves { step: u32, value: f64 },
    /// Unknown: the check would take more than [`MOST_STEPS`] evaluations.
    Unknown,
}

/// The bounds of a number by which something is divided.
const ABOVE_0: (f64, f64) = (f64::MIN_POSITIVE, f64::INFINITY);

/// The longest interval of steps that is evaluated step by step.
const ROW: u32 = 32;

/// The most steps and intervals of steps that are evaluated in all: enough to decide every run of up to about
/// half as many steps.
const MOST_STEPS: u32 = 250_000;

/// Sample lengths of a run in epochs, whose steps are known only when the data is read. A number that leaves
/// its bounds in both does so in nearly every run.
const IN_EPOCHS: [u32; 2] = [1_000, 100_000];

/// The lengths of a run to check.
fn lengths(length: Length) -> Vec<u32> {
    match length {
        Length::Steps(steps) => vec![steps],
        Length::Epochs(_) => IN_EPOCHS.to_vec(),
    }
}

/// Checks a number's bounds over a run, and returns the length of run for which that holds. A number that
/// stays within them for some possible length passes.
pub fn check_range(formula: &Formula, bounds: (f64, f64), length: Length) -> (RangeCheck, u32) {
    let stays: Vec<(RangeCheck, u32)> =
        lengths(length).into_iter().map(|steps| (first_outside(formula, bounds, steps), steps)).collect();
    *stays.iter().find(|(stay, _)| *stay == RangeCheck::Within).unwrap_or(&stays[0])
}

/// Whether a number that depends only on the step is at most 0 at every step, for every length of the run.
pub fn is_never_above_0(formula: &Formula, length: Length) -> bool {
    let at_most_0 = |steps| {
        let first = Bindings { step: 0, steps, entry: None };
        Tape::new(formula).at(&first).is_some()
            && first_outside(formula, (f64::NEG_INFINITY, 0.0), steps) == RangeCheck::Within
    };
    lengths(length).into_iter().all(at_most_0)
}

/// Whether a number stays within its bounds at every step. Intervals of steps where [`bounds`] proves it are
/// skipped; others are split, and the earlier half comes first.
pub fn first_outside(formula: &Formula, (low, high): (f64, f64), steps: u32) -> RangeCheck {
    let outside = |value: f64| !value.is_finite() || !(low..=high).contains(&value);
    let tape = Tape::new(formula);
    let mut waiting = vec![(0, steps.max(1) - 1)];
    let mut left = MOST_STEPS;
    while let Some((first, last)) = waiting.pop() {
        let Some(bounds) = bounds(&tape, (first, last), steps) else { return RangeCheck::Within };
        let within = bounds.0.is_finite() && bounds.1.is_finite() && low <= bounds.0 && bounds.1 <= high;
        let looked_at = if last - first < ROW { last - first + 1 } else { 1 };
        let Some(rest) = left.checked_sub(looked_at) else { return RangeCheck::Unknown };
        left = rest;
        if within {
            continue;
        }
        if last - first >= ROW {
            let middle = first + (last - first) / 2;
            waiting.extend([(middle + 1, last), (first, middle)]);
            continue;
        }
        for step in first..=last {
            match tape.at(&Bindings { step, steps, entry: None }) {
                Some(value) if outside(value) => return RangeCheck::Leaves { step, value },
                _ => {}
            }
        }
    }
    RangeCheck::Within
}

/// The steps to evaluate: all of a short run. For a long one, about `MANY` at equal distances, and those at
/// the corners of schedules.
fn looked_at(numbers: &[Tape], steps: u32) -> Vec<u32> {
    const MANY: u32 = 4_096;
    let steps = steps.max(1);
    if steps <= MANY {
        return (0..steps).collect();
    }
    let mut found: Vec<u32> =
        (0..MANY).map(|at| (u64::from(at) * u64::from(steps - 1) / u64::from(MANY - 1)) as u32).collect();
    for TapePart { node: part, .. } in numbers.iter().flat_map(|number| &number.parts) {
        if let FormulaKind::Schedule(schedule) = &part.kind {
            let turns = schedule.turns(steps).into_iter();
            found.extend(turns.flat_map(|turn| [turn.saturating_sub(1), turn, turn.saturating_add(1)]));
        }
    }
    found.retain(|step| *step < steps);
    found.sort_unstable();
    found.dedup();
    found
}

/// The numbers of the step alone by which a formula divides at every step, so not those in a `where`, nor
/// those whose quotient is bounded, as in `min(1, 5 / step)`.
fn divisors(formula: &Formula) -> Vec<Formula> {
    let mut found: Vec<Formula> = Vec::new();
    let mut seen: FxHashSet<*const FormulaNode> = FxHashSet::default();
    let mut waiting = vec![formula];
    while let Some(next) = waiting.pop() {
        let FormulaKind::Apply { function, operands } = &next.0.kind else { continue };
        let is_chosen =
            matches!(function, Function::Where | Function::Minimum | Function::Maximum | Function::Clip);
        if is_chosen || !seen.insert(Rc::as_ptr(&next.0)) {
            continue;
        }
        if let (Function::Divide, [_, divisor]) = (function, operands.as_slice())
            && divisor.axis() == Axis::Run
            && divisor.constant().is_none()
        {
            found.push(divisor.clone());
        }
        waiting.extend(operands);
    }
    found
}

/// Rounds away the errors of binary fractions.
pub fn readable(number: f64) -> f64 {
    significant(number, 7)
}

/// Rounds to `digits` significant digits.
pub fn significant(number: f64, digits: usize) -> f64 {
    format!("{number:.*e}", digits.saturating_sub(1)).parse().unwrap_or(number)
}

/// Whether a number stays within bounds over a run. Reports the first step at which it does not.
pub fn stays_within(
    reporter: &mut Reporter,
    formula: &Formula,
    what: &str,
    (low, high): (f64, f64),
    length: Length,
) -> bool {
    let (stay, steps) = check_range(formula, (low, high), length);
    if stay == RangeCheck::Within {
        return true;
    }
    let span = reporter.span(formula.0.origin);
    let bounds = match (low.is_finite(), high.is_finite()) {
        _ if low == ABOVE_0.0 && high == ABOVE_0.1 => "above 0".to_owned(),
        (true, true) => format!("between {low} and {high}"),
        (true, false) => format!("at least {low}"),
        _ => format!("at most {high}"),
    };
    let diagnostic = Diagnostic::error(
        Code::ScheduleRange,
        span,
        format!("{what} must stay {bounds} during the whole run"),
    );
    reporter.report(match stay {
        RangeCheck::Leaves { step, value } => diagnostic
            .label(format!("is {} at step {step} of {steps}", readable(value)))
            .help("change its ends, hold it with `clip(...)`, or end the run before"),
        _ => diagnostic
            .label(format!("the check gave up after looking at {MOST_STEPS} of {steps} steps"))
            .help("hold it with `clip(...)`, or write it as a schedule, such as `linear(a -> b)`"),
    });
    false
}

/// Reports a share that reaches an end at which a family of divergences is 0 everywhere, as at both ends
/// of `jsd`: the gradient is 0 there too.
fn leaves_dead_ends(reporter: &mut Reporter, summand: &Summand, length: Length) -> bool {
    let moving =
        |given: &&GivenParameter| given.value.unit() == Unit::Fraction && given.value.constant().is_none();
    for GivenParameter { name, value, .. } in summand.parameters.iter().filter(moving) {
        let dead =
            |end: f64| is_zero(&with_number(&summand.value, value, end), StageStep { step: 1, steps: 3 });
        let low = if dead(0.0) { f64::MIN_POSITIVE } else { 0.0 };
        let high = if dead(1.0) { 1.0f64.next_down() } else { 1.0 };
        // That it stays within 0 and 1 is checked elsewhere.
        let (RangeCheck::Leaves { step, value: at }, steps) = check_range(value, (low, high), length) else {
            continue;
        };
        if check_range(value, (0.0, 1.0), length).0 != RangeCheck::Within {
            continue;
        }
        let span = reporter.span(value.0.origin);
        let text = format!("`{}` with {name} = {at} is 0 everywhere", summand.name);
        let diagnostic = Diagnostic::error(Code::ScheduleRange, span, text)
            .label(format!("is {at} at step {step} of {steps}"));
        reporter.report(diagnostic.help(
            "keep it away from there, or take a member of the family that has a limit: `jsd(...)` with \
             `normalized: true` ends in the two directions of `kl`",
        ));
        return false;
    }
    true
}

/// Checks the parameters of an objective's divergences over the whole run of the stage that uses it.
pub fn check_ranges(reporter: &mut Reporter, objective: &Objective, length: Length) -> bool {
    let mut good = true;
    for denominator in objective.denominators() {
        good &= stays_within(reporter, denominator, "a denominator", ABOVE_0, length);
    }
    // A condition may leave out the steps at which a divisor is 0.
    if objective.select.is_none() {
        let terms = objective.terms.iter().filter(|term| term.when.is_none());
        let divisors = terms.flat_map(|term| divisors(&term.value));
        good &= divisors.fold(true, |good, divisor| good & is_never_0(reporter, &divisor, length));
    }
    for part in objective.formulas().into_iter().flat_map(Formula::parts) {
        good &= match &part.0.kind {
            FormulaKind::Scan { scan: Scan::RewardToGo { discount }, .. } => {
                stays_within(reporter, discount, "a discount", (0.0, 1.0), length)
            }
            FormulaKind::Reduce { fraction: Some(fraction), .. }
            | FormulaKind::Statistic { fraction: Some(fraction), .. } => {
                stays_within(reporter, fraction, "a fraction", (0.0, 1.0), length)
            }
            FormulaKind::Live(Live::Preference(preference)) => match &preference.kind {
                PreferenceKind::Dpo { beta } => {
                    stays_within(reporter, beta, "`beta`", (0.0, f64::INFINITY), length)
                }
                PreferenceKind::BradleyTerry => true,
            },
            _ => true,
        };
        let divergence = match &part.0.kind {
            FormulaKind::Signal(Signal::Divergence(divergence))
            | FormulaKind::Live(Live::Divergence(divergence)) => divergence,
            _ => continue,
        };
        if let DivergenceKind::Entrywise(summand) = &divergence.kind {
            good &= leaves_dead_ends(reporter, summand, length);
        }
        if let Amount::Formula(temperature) = &divergence.temperature {
            good &= stays_within(reporter, temperature, "`temperature`", ABOVE_0, length);
        }
        good &= shares_add_up(reporter, divergence, length);
    }
    good
}

/// Reports the first step at which a divisor is 0, if it depends on the step alone.
fn is_never_0(reporter: &mut Reporter, divisor: &Formula, length: Length) -> bool {
    let tape = Tape::new(divisor);
    let zero = |steps: u32| {
        let at = |step: u32| tape.at(&Bindings { step, steps, entry: None }) == Some(0.0);
        at(0).then_some(0).or_else(|| {
            let steps = looked_at(std::slice::from_ref(&tape), steps);
            steps.into_iter().find(|step| at(*step))
        })
    };
    let found: Option<Vec<u32>> = lengths(length).into_iter().map(zero).collect();
    let Some(step) = found.and_then(|found| found.first().copied()) else { return true };
    let span = reporter.span(divisor.0.origin);
    reporter.report(
        Diagnostic::error(Code::ScheduleRange, span, "a divisor must not be 0 at any step of the run")
            .label(format!("is 0 at step {step}"))
            .help("hold it above 0 with `max(...)`, or leave the step out with `where(...)`"),
    );
    false
}

/// Checks that the shares of blends are a distribution at every step.
fn shares_add_up(reporter: &mut Reporter, divergence: &Divergence, length: Length) -> bool {
    for side in [&divergence.left, &divergence.right] {
        let mut side = side;
        while let Distribution::Detached(inner) = side {
            side = inner;
        }
        let Distribution::Blend(parts) = side else { continue };
        if !parts
            .iter()
            .all(|part| stays_within(reporter, &part.weight, "a share of a blend", (0.0, 1.0), length))
        {
            return false;
        }
        let shares: Vec<Tape> = parts.iter().map(|part| Tape::new(&part.weight)).collect();
        let off = |steps: u32| {
            let total = |step| -> Option<f64> {
                shares.iter().map(|share| share.at(&Bindings { step, steps, entry: None })).sum()
            };
            let found =
                |step| Some((step, steps, total(step)?)).filter(|(.., total)| (total - 1.0).abs() > 1e-9);
            looked_at(&shares, steps).into_iter().find_map(found)
        };
        let found: Option<Vec<(u32, u32, f64)>> = lengths(length).into_iter().map(off).collect();
        let Some((step, steps, total)) = found.and_then(|found| found.first().copied()) else { continue };
        let span = reporter.span(parts[0].weight.0.origin);
        reporter.report(
            Diagnostic::error(
                Code::ShareSum,
                span,
                "the shares of this blend must add up to 1 during the whole run",
            )
            .label(format!("they add up to {} at step {step} of {steps}", readable(total)))
            .help("write the last one as the rest: `blend(teacher: a, student: 1 - a)`"),
        );
        return false;
    }
    true
}

/// Checks changing numbers that are given for parameters with a bounded type, over the whole run of the
/// stage.
pub fn check_declared(reporter: &mut Reporter, objective: &Objective, length: Length) -> bool {
    let mut good = true;
    for part in objective.formulas().into_iter().flat_map(Formula::parts) {
        let Some(DeclaredType { parameter, low, high }) = &part.0.declared else { continue };
        good &= schedules::within(reporter, part, parameter, (*low, *high), Some(length));
    }
    good
}

#[cfg(test)]
mod tests {
    use super::*;
    use mopd_experiment::formula::{Function, Unit};
    use mopd_experiment::{Origin, Schedule, ScheduleLength};

    fn made(kind: FormulaKind) -> Formula {
        Formula::new(kind, Unit::Number, Axis::Run, false, Origin(0))
    }

    fn number(value: f64) -> Formula {
        made(FormulaKind::Number(value))
    }

    fn apply(function: Function, operands: &[&Formula]) -> Formula {
        made(FormulaKind::Apply { function, operands: operands.iter().copied().cloned().collect() })
    }

    /// Formulas of every function, over schedules, `step` and `progress`.
    fn formulas() -> Vec<Formula> {
        let (step, progress) = (
            Formula::signal(PlainSignal::Step, Origin(0)),
            Formula::signal(PlainSignal::Progress, Origin(0)),
        );
        let linear =
            made(FormulaKind::Schedule(Schedule::Linear { from: -1.0, to: 2.0, over: ScheduleLength::Run }));
        let alternating =
            made(FormulaKind::Schedule(Schedule::Alternate { values: vec![0.5, -0.25], every: 3 }));
        let leaves = [step, progress, linear, alternating, number(0.5), number(-2.0), number(3.0)];
        let mut made: Vec<Formula> = leaves.to_vec();
        for function in Function::ALL {
            for a in &leaves {
                for b in &leaves {
                    let operands = [a, b, &leaves[1]];
                    made.push(apply(*function, &operands[..function.operands()]));
                }
            }
        }
        // Two levels: `log(1 - progress)`, `(progress - 0.5)^2`, ...
        let inner: Vec<Formula> = made.iter().skip(leaves.len()).step_by(23).cloned().collect();
        for function in Function::ALL {
            for a in &inner {
                let operands = [a, &leaves[1], &inner[0]];
                made.push(apply(*function, &operands[..function.operands()]));
            }
        }
        made
    }

    #[test]
    fn the_first_step_outside_is_that_of_looking_at_every_step() {
        let bounds = [(0.0, 1.0), (0.0, f64::INFINITY), (-1.0, 2.0), (f64::MIN_POSITIVE, 0.9)];
        let (mut within, mut leaves) = (0, 0);
        for formula in formulas() {
            for steps in [1, 40, 257] {
                for (low, high) in bounds {
                    let expected = (0..steps).find_map(|step| {
                        let value = Tape::new(&formula).at(&Bindings { step, steps, entry: None })?;
                        (!value.is_finite() || !(low..=high).contains(&value)).then_some(step)
                    });
                    match (first_outside(&formula, (low, high), steps), expected) {
                        (RangeCheck::Within, None) => within += 1,
                        (RangeCheck::Leaves { step, .. }, Some(expected)) if step == expected => leaves += 1,
                        (found, expected) => {
                            panic!("{formula:?} in {low}..={high} of {steps}: {found:?}, not {expected:?}")
                        }
                    }
                }
            }
        }
        assert!(within > 500 && leaves > 500, "{within} {leaves}");
    }

    #[test]
    fn a_part_that_is_used_twice_is_worked_out_once() {
        let mut formula = Formula::signal(PlainSignal::Progress, Origin(0));
        for _ in 0..1_000 {
            let half = apply(Function::Multiply, &[&number(0.5), &formula]);
            formula = apply(Function::Add, &[&half, &half]);
        }
        assert_eq!(first_outside(&formula, (0.0, 1.0), 100), RangeCheck::Within);
    }

    #[test]
    fn no_check_is_linear_in_the_number_of_steps() {
        let steps = 1_000_000_000;
        let progress = Formula::signal(PlainSignal::Progress, Origin(0));
        let rest = apply(Function::Subtract, &[&number(1.0), &progress]);
        let hump = apply(Function::Multiply, &[&progress, &rest]);
        assert_eq!(first_outside(&hump, (0.0, 1.0), steps), RangeCheck::Within);
        assert_eq!(first_outside(&hump, (0.0, 0.25), 1_000_000), RangeCheck::Within);
        let late = RangeCheck::Leaves { step: 900_000_001, value: 0.900_000_001 };
        assert_eq!(first_outside(&progress, (0.0, 0.9), steps), late);
        // The minimum of p * p - p + 0.25 is 0, in the middle: rounding decides, and there are too many steps
        // near it to look at.
        let square = apply(Function::Multiply, &[&progress, &progress]);
        let touching =
            apply(Function::Add, &[&apply(Function::Subtract, &[&square, &progress]), &number(0.25)]);
        assert_ne!(first_outside(&touching, (0.0, 1.0), steps), RangeCheck::Within);
    }
}
