//! A plan is JSON, which has no infinity and no NaN: settings that are not finite are refused before the plan
//! is made.

use mopd_lang::diag::{Code, Diagnostic};

use crate::plan::{
    Comparison, Domain, MergeMethod, Model, OfStep, Optimizer, Reward, RewardPart, Sampling, Schedule, Stage,
};
use crate::refusal::Origins;

pub(super) fn check<O>(
    domains: &[Domain],
    models: &[Model<O>],
    comparisons: &[Comparison],
    origins: Origins,
) -> Vec<Diagnostic> {
    let mut diagnostics = Vec::new();
    let mut finite = |numbers: &[(&str, f64)], what: &str, origin| {
        for (name, number) in numbers.iter().filter(|(_, number)| !number.is_finite()) {
            let message = format!("the {name} of {what} is {number}, which is not a finite number");
            diagnostics.push(Diagnostic::error(Code::OutOfRange, origins.span(origin), message));
        }
    };
    for domain in domains {
        let what = format!("domain `{}`", domain.name);
        finite(&[("share", domain.share)], &what, domain.origin);
        finite(&of_reward(&domain.reward), &what, domain.origin);
    }
    for model in models {
        let what = format!("model `{}`", model.name);
        match &model.stage {
            Stage::Initialise(architecture) => {
                let numbers = [
                    ("`rope_theta`", architecture.rope_theta),
                    ("`norm_epsilon`", architecture.norm_epsilon),
                    ("`initial_deviation`", architecture.initial_deviation),
                ];
                finite(&numbers, &what, model.origin);
            }
            Stage::Load(_) | Stage::Learner { .. } => {}
            Stage::Train(_) | Stage::Joint(_) => model.stage.trains().into_iter().for_each(|train| {
                let numbers = match &train.optimizer {
                    Optimizer::AdamW(adam) => vec![
                        ("`beta1`", adam.beta1),
                        ("`beta2`", adam.beta2),
                        ("`epsilon`", adam.epsilon),
                        ("weight decay", adam.weight_decay),
                        ("gradient clip", adam.clip_norm),
                    ],
                    Optimizer::Sgd(sgd) => {
                        vec![("`momentum`", sgd.momentum), ("gradient clip", sgd.clip_norm)]
                    }
                };
                finite(&numbers, &what, model.origin);
                if let Some(private) = train.private {
                    let numbers = [
                        ("record's gradient clip", private.clip),
                        ("privacy budget", private.epsilon),
                        ("`delta`", private.delta),
                    ];
                    finite(&numbers, &what, model.origin);
                }
                if let Some(extrapolation) = &train.extrapolation {
                    let numbers = [
                        ("extrapolation's factor", extrapolation.factor),
                        temperature(&extrapolation.evaluation.sampling),
                    ];
                    finite(&numbers, &what, model.origin);
                }
                let shares: Vec<(&str, f64)> =
                    train.mixture.iter().map(|share| ("share", share.share)).collect();
                finite(&shares, &what, model.origin);
                // Computed numbers have their constants in a graph, which only has finite ones.
                if let OfStep::Schedule(rate) = &train.learning_rate
                    && !schedule_is_finite(rate)
                {
                    finite(&[("learning rate", f64::INFINITY)], &what, model.origin);
                }
                let producers = train.producers().chain(train.measured());
                let samplings = producers.flat_map(|producer| producer.drawn());
                let temperatures: Vec<_> = samplings.map(|(_, sampling)| temperature(sampling)).collect();
                finite(&temperatures, &what, model.origin);
            }),
            Stage::Merge(merge) => {
                let numbers = match merge.method {
                    MergeMethod::Average => vec![],
                    MergeMethod::TaskArithmetic { scale } => vec![("scale", scale)],
                    MergeMethod::Ties { scale, density } => vec![("scale", scale), ("density", density)],
                    MergeMethod::Dare { scale, drop } => vec![("scale", scale), ("dropped fraction", drop)],
                };
                finite(&numbers, &what, model.origin);
            }
        }
    }
    for comparison in comparisons {
        let what = format!("comparison \"{}\"", comparison.name);
        let temperatures = comparison.columns.iter().map(|column| temperature(&column.evaluation.sampling));
        finite(&temperatures.collect::<Vec<_>>(), &what, comparison.origin);
    }
    diagnostics
}

fn of_reward(reward: &Reward) -> Vec<(&'static str, f64)> {
    match reward {
        Reward::Numeric { tolerance, .. } => vec![("tolerance", *tolerance)],
        Reward::Command { time_limit_seconds, .. }
        | Reward::Python { time_limit_seconds, .. }
        | Reward::UnitTests { time_limit_seconds, .. }
        | Reward::Http { time_limit_seconds, .. } => vec![("reward's time limit", *time_limit_seconds)],
        Reward::Parts { parts } => {
            let of_part =
                |part: &RewardPart| [vec![("weight", part.weight)], of_reward(&part.reward)].concat();
            parts.iter().flat_map(of_part).collect()
        }
        Reward::ExactMatch { .. } | Reward::Regex { .. } | Reward::JsonSchema { .. } => Vec::new(),
    }
}

fn temperature(sampling: &Sampling) -> (&'static str, f64) {
    ("temperature", sampling.temperature)
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
