//! The results that plans compute. A stage's key has neither the seed nor the arithmetic of the experiment,
//! which every computed result depends on.

use std::collections::HashMap;
use std::ops::Range;

use serde_json::json;

use super::Plan;
use crate::{Device, ModelId, Stage};

/// A stage with the seeds that a plan computes it with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ComputedStage<'a> {
    key: &'a str,
    /// Empty for a loaded model, which depends neither on the seed nor on the arithmetic.
    arithmetic: String,
    seeds: Range<u64>,
}

/// The stages of a plan, in its order.
pub fn computed(plan: &Plan) -> Vec<ComputedStage<'_>> {
    let experiment = &plan.experiment;
    let (seeds, arithmetic) = (seeds(plan), arithmetic(plan));
    let stages = experiment.models.iter().zip(&plan.stages).zip(seeds);
    stages
        .map(|((model, facts), seeds)| match model.stage {
            Stage::Load(_) => ComputedStage { key: &facts.key, arithmetic: String::new(), seeds: 0..1 },
            _ => {
                let seeds = experiment.seed..experiment.seed.saturating_add(seeds);
                ComputedStage { key: &facts.key, arithmetic: arithmetic.clone(), seeds }
            }
        })
        .collect()
}

/// How many seeds each model is trained with: as many as a table has that needs it, itself or as an input.
fn seeds(plan: &Plan) -> Vec<u64> {
    let experiment = &plan.experiment;
    let mut seeds = vec![1; experiment.models.len()];
    let mut need = |model: ModelId, count: u64| {
        let known: &mut u64 = &mut seeds[model.0 as usize];
        *known = count.max(*known);
        *known
    };
    for table in &experiment.comparisons {
        for (model, _) in table.evaluations() {
            need(model, u64::from(table.seeds));
        }
    }
    // Inputs come before the models that need them.
    for (index, model) in experiment.models.iter().enumerate().rev() {
        let count = need(ModelId(index as u32), 1);
        for input in model.stage.inputs() {
            need(input, count);
        }
    }
    seeds
}

/// What all stages of a plan compute with, as text.
fn arithmetic(plan: &Plan) -> String {
    let experiment = &plan.experiment;
    let device = experiment.device.as_ref();
    // A CPU reads none of the settings of a GPU.
    let on_gpu = !matches!(device, Some(Device::Cpu));
    let gpu = on_gpu.then_some((experiment.gpu.deterministic, experiment.gpu.tf32));
    json!([experiment.dtype, device, gpu]).to_string()
}

/// The results of some plans.
pub struct KnownResults<'a> {
    seeds: HashMap<(&'a str, String), Vec<Range<u64>>>,
}

impl<'a> KnownResults<'a> {
    pub fn new(plans: impl Iterator<Item = &'a Plan>) -> KnownResults<'a> {
        let mut known: HashMap<(&str, String), Vec<Range<u64>>> = HashMap::new();
        for ComputedStage { key, arithmetic, seeds } in plans.flat_map(computed) {
            let ranges = known.entry((key, arithmetic)).or_default();
            if !ranges.contains(&seeds) {
                ranges.push(seeds);
            }
        }
        KnownResults { seeds: known }
    }

    /// Whether no result of a stage is missing.
    pub fn has(&self, stage: &ComputedStage) -> bool {
        let ComputedStage { key, arithmetic, seeds } = stage;
        let Some(ranges) = self.seeds.get(&(*key, arithmetic.clone())) else { return false };
        seeds.clone().all(|seed| ranges.iter().any(|range| range.contains(&seed)))
    }
}
