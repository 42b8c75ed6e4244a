//! From a checked experiment to a plan: settings and formulas become what the runtime executes, objectives become graphs with
//! their derivatives, stages get their keys and costs.

mod cost;
mod formula;
mod key;
mod narrow;
mod normal_form;
mod numbers;
mod objective;
#[cfg(test)]
mod tests;

use mopd_lang::diag::Diagnostic;
use mopd_lang::experiment::{self as checked, Origin};
use mopd_lang::source::{Sources, Span};

pub use normal_form::normal_form;

use crate::plan::{Experiment, Model, Objective, Place, Plan, SCHEMA, Stage, StageFacts, Train};

/// Compiles a checked experiment. `origins` is what its [`Origin`]s point into.
///
/// # Errors
/// What the checker can't see and a plan can't hold: what this version can't execute (refused by name, where it was asked for), `live` inside something without a
/// derivative, a `reduce` that does not end in one number, numbers that are not finite.
pub fn compile(
    experiment: &checked::Experiment<checked::Objective>,
    origins: &[Span],
    sources: &Sources,
) -> Result<Plan, Vec<Diagnostic>> {
    let origins = Origins(origins);
    let mut findings = Findings::default();
    let domains = findings.all(experiment.domains.iter().map(|domain| narrow::settings::domain(domain, origins)));
    let comparisons = findings.all(experiment.comparisons.iter().map(narrow::settings::comparison));
    let models = findings.all(experiment.models.iter().map(|model| narrow::settings::model(model, origins)));
    findings.0.extend(numbers::check(&domains, &models, &comparisons, origins));
    let models = findings.all(models.into_iter().map(|model| lowered(model, origins)));
    if !findings.0.is_empty() {
        return Err(findings.0);
    }
    let experiment = Experiment {
        name: experiment.name.clone(),
        seed: experiment.seed,
        out: experiment.out.clone(),
        domains,
        models,
        comparisons,
        marks: experiment.marks.clone(),
    };
    let (keys, streams) = (key::keys(&experiment), key::streams(&experiment));
    let hash = key::plan(&experiment, &keys);
    let costs = cost::costs(&experiment);
    let stages = keys.into_iter().zip(streams).zip(costs);
    let stages = stages.map(|((key, stream), cost)| StageFacts { key, stream, cost }).collect();
    let places =
        origins.0.iter().map(|span| Place { file: sources.file(span.file).path.clone(), start: span.start, end: span.end });
    Ok(Plan { schema: SCHEMA, hash, experiment, stages, places: places.collect() })
}

/// The table that origins point into.
#[derive(Clone, Copy)]
struct Origins<'a>(&'a [Span]);

impl Origins<'_> {
    fn span(self, origin: Origin) -> Span {
        self.0[origin.0 as usize]
    }
}

#[derive(Default)]
struct Findings(Vec<Diagnostic>);

impl Findings {
    /// What could be made; the rest is noted. The members of a family share their objective, and its faults, which are one
    /// finding.
    fn all<T>(&mut self, made: impl Iterator<Item = Result<T, Box<Diagnostic>>>) -> Vec<T> {
        let mut good = Vec::new();
        for made in made {
            match made {
                Ok(made) => good.push(made),
                Err(found) if self.0.contains(&found) => {}
                Err(found) => self.0.push(*found),
            }
        }
        good
    }
}

fn lowered(model: Model<&narrow::settings::Checked>, origins: Origins) -> Result<Model<Objective>, Box<Diagnostic>> {
    let Model { name, stage, origin } = model;
    let stage = match stage {
        Stage::Initialise(architecture) => Stage::Initialise(architecture),
        Stage::Merge(merge) => Stage::Merge(merge),
        Stage::Train(train) => Stage::Train(Box::new(Train {
            recipe: train.recipe,
            start: train.start,
            mixture: train.mixture,
            teachers: train.teachers,
            objective: objective::lower(
                &train.objective.objective,
                normal_form(&train.objective.objective, Some(&train.objective.prefixes)),
                origins,
            )?,
            prefixes: train.prefixes,
            optimizer: train.optimizer,
            steps: train.steps,
            learning_rate: train.learning_rate,
        })),
    };
    Ok(Model { name, stage, origin })
}
