//! From a checked experiment to a plan: objectives become graphs with their derivatives, stages get their keys and costs.

mod cost;
mod formula;
mod key;
mod normal_form;
mod numbers;
mod objective;
#[cfg(test)]
mod tests;

use mopd_lang::diag::Diagnostic;
use mopd_lang::experiment::{self as checked, Origin};
use mopd_lang::source::{Sources, Span};

use crate::plan::{Experiment, Model, Objective, Place, Plan, SCHEMA, Stage, StageFacts, Train};

/// Compiles a checked experiment. `origins` is what its [`Origin`]s point into.
///
/// # Errors
/// What the checker can't see and a plan can't hold: `live` inside something without a derivative, a `reduce` that does
/// not end in one number, numbers that are not finite.
pub fn compile(
    experiment: &Experiment<checked::Objective>,
    origins: &[Span],
    sources: &Sources,
) -> Result<Plan, Vec<Diagnostic>> {
    let origins = Origins(origins);
    let mut diagnostics = numbers::check(experiment, origins);
    let mut models = Vec::with_capacity(experiment.models.len());
    for model in &experiment.models {
        match stage(&model.stage, origins) {
            Ok(stage) => models.push(Model { name: model.name.clone(), stage, origin: model.origin }),
            // The members of a family share their objective, and its faults.
            Err(found) if diagnostics.contains(&found) => {}
            Err(found) => diagnostics.push(*found),
        }
    }
    if !diagnostics.is_empty() {
        return Err(diagnostics);
    }
    let experiment = Experiment {
        name: experiment.name.clone(),
        seed: experiment.seed,
        out: experiment.out.clone(),
        domains: experiment.domains.clone(),
        models,
        comparisons: experiment.comparisons.clone(),
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

fn stage(stage: &Stage<checked::Objective>, origins: Origins) -> Result<Stage<Objective>, Box<Diagnostic>> {
    Ok(match stage {
        Stage::Initialise(architecture) => Stage::Initialise(architecture.clone()),
        Stage::Merge(merge) => Stage::Merge(merge.clone()),
        Stage::Train(train) => Stage::Train(Box::new(Train {
            recipe: train.recipe,
            start: train.start,
            mixture: train.mixture.clone(),
            teachers: train.teachers.clone(),
            prefixes: train.prefixes.clone(),
            objective: objective::lower(&train.objective, &train.prefixes, origins)?,
            optimizer: train.optimizer.clone(),
            steps: train.steps,
            learning_rate: train.learning_rate.clone(),
        })),
    })
}
