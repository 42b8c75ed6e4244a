//! Bounds around the ratio of the student to the sampler that rounding alone exceeds: the engine that draws
//! and the trainer that scores compute the same number in another order.

use crate::diag::{Code, Diagnostic};
use crate::source::Span;
use mopd_experiment::formula::{Formula, FormulaKind, Function, Reduction};
use mopd_experiment::{Dtype, Objective, Rollout, RolloutSource, Stage, Train};

use crate::check::data::domains::ExperimentHeader;
use crate::check::declarations::Declarations;
use crate::check::reporter::Reporter;
use crate::check::stages::streams::corrects_for_sampler;

/// How far the log-probability of a token is apart on average in generation and in training, in bfloat16, as
/// measured in a step of SmolLM2-135M; one token of that step had 0.12.
const ROUNDING: f64 = 0.022;

/// A number that is the gap between student and sampler.
#[derive(Clone, Copy, PartialEq)]
enum Gap {
    /// In nats: 0 without a gap.
    Log,
    /// 1 without a gap.
    Ratio,
}

impl Gap {
    /// The gap in nats at which a number of this kind reaches the bound.
    fn nats(self, bound: f64) -> f64 {
        match self {
            Gap::Log => bound.abs(),
            Gap::Ratio => bound.ln().abs(),
        }
    }
}

/// Whether a formula is the gap between student and sampler. A mean over a completion is one only where
/// gradient flows: without, it is a mask of the mismatch itself.
fn gap(formula: &Formula) -> Option<Gap> {
    if corrects_for_sampler(&formula.0) {
        return Some(Gap::Log);
    }
    match &formula.0.kind {
        FormulaKind::Reduce { reduction: Reduction::Mean, operand, .. } if formula.live() => gap(operand),
        FormulaKind::Apply { function, operands } => match (function, operands.as_slice()) {
            (Function::Exp, [log]) if gap(log) == Some(Gap::Log) => Some(Gap::Ratio),
            (Function::Abs | Function::Negate, [log]) => gap(log).filter(|gap| *gap == Gap::Log),
            // For a small gap, the ratio less 1 is the gap in nats.
            (Function::Subtract, [ratio, one]) if one.constant() == Some(1.0) => {
                gap(ratio).filter(|gap| *gap == Gap::Ratio).map(|_| Gap::Log)
            }
            _ => None,
        },
        _ => None,
    }
}

/// The gap in nats at which a bound acts that rounding reaches. A bound of exactly no gap is meant as one
/// side.
fn narrow(part: &Formula) -> Option<f64> {
    let FormulaKind::Apply { function, operands } = &part.0.kind else { return None };
    let bounds: Vec<(&Formula, &Formula)> = match (function, operands.as_slice()) {
        (Function::Clip, [value, low, high]) => vec![(value, low), (value, high)],
        (
            Function::Less
            | Function::LessEqual
            | Function::Greater
            | Function::GreaterEqual
            | Function::Minimum
            | Function::Maximum,
            [left, right],
        ) => vec![(left, right), (right, left)],
        _ => return None,
    };
    let acts = bounds.into_iter().filter_map(|(value, bound)| Some(gap(value)?.nats(bound.constant()?)));
    acts.filter(|nats| *nats > 0.0 && *nats < ROUNDING).reduce(f64::min)
}

fn narrow_in(objective: &Objective) -> Option<(&Formula, f64)> {
    let parts = objective.formulas().into_iter().flat_map(Formula::parts);
    parts.filter_map(|part| Some((part, narrow(part)?))).next()
}

/// The place where a server draws some of the completions.
fn served(rollout: &Rollout) -> Option<&Rollout> {
    rollout.all().into_iter().find(|of| matches!(of.source, RolloutSource::SampledBy { .. }))
}

/// Warns of such bounds in the stages of an experiment whose arithmetic rounds so.
pub fn warn_of_narrow_bounds(declarations: &mut Declarations, header: Option<&ExperimentHeader>) {
    let half = header.and_then(|header| header.dtype.as_ref()).filter(|of| of.value == Dtype::Bfloat16);
    let half = half.map(|dtype| declarations.span(dtype.origin));
    let mut found: Vec<(Span, Diagnostic)> = Vec::new();
    for model in &declarations.parts.models {
        let Stage::Train(train) = &model.stage else { continue };
        let Some((span, diagnostic)) = narrow_bound(declarations, train, half) else { continue };
        if found.iter().all(|(known, _)| *known != span) {
            found.push((span, diagnostic));
        }
    }
    found.into_iter().for_each(|(_, diagnostic)| declarations.report(diagnostic));
}

fn narrow_bound(reporter: &Reporter, train: &Train, half: Option<Span>) -> Option<(Span, Diagnostic)> {
    let served = served(&train.rollout).map(|rollout| reporter.span(rollout.origin));
    let (place, why) = match (half, served) {
        (Some(place), _) => (place, "engine and trainer round differently in bfloat16"),
        (None, Some(place)) => (place, "another engine computes what is recorded"),
        (None, None) => return None,
    };
    let (part, nats) = narrow_in(&train.objective)?;
    let span = reporter.span(part.0.origin);
    let text = format!(
        "this bound acts at {nats:.1e} nats from the sampler, within the {ROUNDING} nats that rounding alone \
         can be"
    );
    let diagnostic = Diagnostic::warning(Code::NarrowBound, span, text)
        .label("reached by rounding, also where the student has not moved")
        .note(place, why)
        .help(
            "the ratio to the student before the updates is exactly 1 in the first: `ratio`, or \
             `student.logp - old.logp`",
        );
    Some((span, diagnostic))
}
