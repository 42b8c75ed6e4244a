//! Refuses settings that are not finite, before the plan is made: a plan is JSON, which has no infinity and
//! no NaN.

use mopd_lang::diag::{Code, Diagnostic};
use mopd_plan::{
    Comparison, Domain, MergeMethod, Model, Optimizer, Sampling, Schedule, Stage, StepFunction, Train,
};

use crate::lower::refusal::Origins;

/// Numbers with their names in messages.
type NamedNumbers = Vec<(&'static str, f64)>;

pub(super) fn check<O>(
    domains: &[Domain],
    models: &[Model<O>],
    comparisons: &[Comparison],
    origins: Origins,
) -> Vec<Diagnostic> {
    let mut diagnostics = Vec::new();
    let mut finite = |numbers: NamedNumbers, what: &str, origin| {
        for (name, number) in numbers.iter().filter(|(_, number)| !number.is_finite()) {
            let message = format!("the {name} of {what} is {number}, which is not a finite number");
            diagnostics.push(Diagnostic::error(Code::OutOfRange, origins.span(origin), message));
        }
    };
    for domain in domains {
        let what = format!("domain `{}`", domain.name);
        finite(vec![("share", domain.share)], &what, domain.origin);
        finite(domain.reward.facts().numbers, &what, domain.origin);
    }
    for model in models {
        finite(of_stage(&model.stage), &format!("model `{}`", model.name), model.origin);
    }
    for comparison in comparisons {
        let what = format!("comparison \"{}\"", comparison.name);
        let temperatures =
            comparison.columns.iter().flat_map(|column| temperature(&column.evaluation.sampling));
        finite(temperatures.collect(), &what, comparison.origin);
    }
    diagnostics
}

fn of_stage<O>(stage: &Stage<O>) -> NamedNumbers {
    match stage {
        Stage::Initialise(architecture) => vec![
            ("`rope_theta`", architecture.rope_theta),
            ("`norm_epsilon`", architecture.norm_epsilon),
            ("`initial_deviation`", architecture.initial_deviation),
        ],
        Stage::Load(_) | Stage::Learner { .. } => vec![],
        Stage::Train(_) | Stage::Joint(_) => stage.trains().into_iter().flat_map(of_train).collect(),
        Stage::Merge(merge) => match merge.method {
            MergeMethod::Average => vec![],
            MergeMethod::TaskArithmetic { scale } => vec![("scale", scale)],
            MergeMethod::Ties { scale, density } => vec![("scale", scale), ("density", density)],
            MergeMethod::Dare { scale, drop } => vec![("scale", scale), ("dropped fraction", drop)],
        },
    }
}

fn of_train<O>(train: &Train<O>) -> NamedNumbers {
    let mut numbers = match &train.optimizer {
        Optimizer::AdamW(adam) => vec![
            ("`beta1`", adam.beta1),
            ("`beta2`", adam.beta2),
            ("`epsilon`", adam.epsilon),
            ("weight decay", adam.weight_decay),
            ("gradient clip", adam.clip_norm),
        ],
        Optimizer::Sgd(sgd) => vec![("`momentum`", sgd.momentum), ("gradient clip", sgd.clip_norm)],
    };
    if let Some(private) = train.options.private {
        numbers.extend([
            ("record's gradient clip", private.clip),
            ("privacy budget", private.epsilon),
            ("`delta`", private.delta),
        ]);
    }
    if let Some(extrapolation) = &train.extrapolation {
        numbers.push(("extrapolation's factor", extrapolation.factor));
        numbers.extend(temperature(&extrapolation.evaluation.sampling));
    }
    numbers.extend(train.mixture.iter().map(|share| ("share", share.share)));
    // A computed rate has its constants in a graph, where all are finite.
    if let StepFunction::Schedule(rate) = &train.learning_rate
        && !schedule_is_finite(rate)
    {
        numbers.push(("learning rate", f64::INFINITY));
    }
    let producers = train.producers().chain(train.measured());
    let samplings = producers.flat_map(|producer| producer.drawn());
    numbers.extend(samplings.flat_map(|(_, sampling)| temperature(sampling)));
    numbers
}

/// The checker has looked at the values of a schedule.
fn temperature(sampling: &Sampling) -> Option<(&'static str, f64)> {
    Some(("temperature", sampling.temperature.constant()?))
}

pub(super) fn schedule_is_finite(schedule: &Schedule) -> bool {
    match schedule {
        Schedule::Constant { value } => value.is_finite(),
        Schedule::Linear { from, to, .. }
        | Schedule::Cosine { from, to, .. }
        | Schedule::Exponential { from, to, .. } => from.is_finite() && to.is_finite(),
        Schedule::Piecewise { pieces } => pieces.iter().all(|(_, value)| value.is_finite()),
        Schedule::Alternate { values, .. } => values.iter().all(|value| value.is_finite()),
        Schedule::Warmup { then, .. } => schedule_is_finite(then),
    }
}
