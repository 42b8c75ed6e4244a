//! How a stage updates its weights: the optimizer, its learning rate, and what saves memory meanwhile.

use mopd_plan::{Checkpointing, Optimizer, StepFunction};

use super::coverage::Coverage;
use super::stage::ExportSettings;
use super::torch;

/// The optimizer, if it is AdamW. Any other is refused.
pub fn adamw<'a>(settings: &'a ExportSettings, coverage: &mut Coverage) -> Option<&'a mopd_plan::AdamW> {
    match &settings.train.optimizer {
        Optimizer::AdamW(adamw) => Some(adamw),
        Optimizer::Sgd(_) => {
            coverage.refuse("`optimizer = sgd`", settings.origins.model, "the exporter supports AdamW only");
            None
        }
    }
}

/// Sequences per forward pass: the largest divisor of the batch that is at most `micro_batch`.
pub fn micro_batch(settings: &ExportSettings) -> u32 {
    let groups = settings.groups.div_ceil(settings.train.options.mini_batches.max(1));
    let all = groups.saturating_mul(settings.samples).max(1);
    let wanted = settings.train.options.execution.micro_batch.unwrap_or(all).clamp(1, all);
    (1..=wanted).rev().find(|part| all.is_multiple_of(*part)).unwrap_or(1)
}

pub fn checkpointed(settings: &ExportSettings) -> bool {
    settings.train.options.execution.checkpointing != Checkpointing::None
}

/// The learning rate as Python code, a function of the step.
pub fn rate(settings: &ExportSettings, coverage: &mut Coverage) -> Option<String> {
    let at = settings.origins.model;
    match &settings.train.learning_rate {
        StepFunction::Schedule(schedule) => {
            coverage.exact("`lr`", at);
            let shape = serde_json::to_value(schedule).ok()?;
            Some(format!(
                "def learning_rate(step, steps):\n    return mt.schedule({}, step, steps)\n",
                torch::literal(&shape)
            ))
        }
        StepFunction::Formula(_) => {
            coverage.refuse("a formula for `lr`", at, "the exporter supports schedules only");
            None
        }
    }
}
