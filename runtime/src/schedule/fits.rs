//! Refuses stages that can't fit in memory, before they allocate anything.

use mopd_plan::events::{FailureKind, RunJob};
use mopd_plan::{Dtype, Model, ModelId, Objective, Plan, Stage, Train, Trainable};

use super::memory_budget::DeviceMemoryBudget;
use super::predicted::Predicted;
use super::{Task, Work};
use crate::control::Control;
use crate::failure::{Error, Result};
use crate::model::Weights;
use crate::prepare::ModelSpec;

/// Warns of a stage that is predicted to take more than this part of the memory, since predictions are off by
/// some per cent.
const TIGHT: f64 = 0.9;

/// Refuses a stage without a stored result whose weights alone exceed the memory, with gradients and moments
/// where all weights train. It needs no allocation.
pub(super) fn weights(
    job: &RunJob,
    tasks: &[Task],
    specs: &[ModelSpec],
    device_memory: &DeviceMemoryBudget,
    waiting: impl Fn(usize) -> bool,
) -> Result<()> {
    let Some(bytes) = device_memory.bytes() else { return Ok(()) };
    let plan = &job.plan;
    for (_, task) in tasks.iter().enumerate().filter(|(index, _)| waiting(*index)) {
        let Work::Stage(id) = task.work else { continue };
        let model = plan.experiment.model(id);
        let needed = least(job, specs, id);
        if needed > bytes {
            let (needed, bytes) = (gib(needed), gib(bytes));
            let what = if model.stage.trains().is_empty() {
                "its weights alone are"
            } else {
                "its trained weights with gradients and moments alone are"
            };
            let message = format!(
                "`{}` cannot fit in memory: {what} {needed}, but only {bytes} are available",
                model.name
            );
            let way = "take a smaller model or a machine with more memory; training a large model with an \
                `adapter`, `freeze` or `sgd` needs less memory than training all weights with AdamW";
            return Err(Error::new(FailureKind::Memory, message).help(way).at(model.origin));
        }
    }
    Ok(())
}

/// Bytes that a stage holds for any batch size.
pub(super) fn least(job: &RunJob, specs: &[ModelSpec], id: ModelId) -> u64 {
    let parameters = |id: ModelId| Weights::parameters(&specs[id.0 as usize].config) as u64;
    let experiment = &job.plan.experiment;
    let stage = &experiment.model(id).stage;
    match stage {
        // Their weights stay in files.
        Stage::Load(_) | Stage::Learner { .. } => 0,
        Stage::Initialise(_) | Stage::Merge(_) => 4 * parameters(id),
        Stage::Train(_) | Stage::Joint(_) => {
            let trains = stage.trains();
            trains
                .into_iter()
                .map(|train| {
                    bytes_per_parameter(train, experiment.dtype, job.processes) * parameters(train.start)
                })
                .sum()
        }
    }
}

/// Least bytes per parameter of a trained model, over all processes that train it. Each process has all
/// parameters, but the moments are sharded.
fn bytes_per_parameter(train: &Train<Objective>, dtype: Dtype, processes: u32) -> u64 {
    let computed = if dtype == Dtype::Bfloat16 { 2 } else { 4 };
    if train.trainable.is_all() {
        u64::from(processes) * (4 + computed) + 4 * train.optimizer.moments()
    } else {
        u64::from(processes) * computed
    }
}

/// Refuses a stage that is predicted to exceed the memory, and warns of one that nearly does.
pub(super) fn predicted(
    plan: &Plan,
    tasks: &[Task],
    predicted: &Predicted,
    device_memory: &DeviceMemoryBudget,
    control: &Control,
) -> Result<()> {
    let Some(bytes) = device_memory.bytes() else { return Ok(()) };
    let mut told: Vec<ModelId> = Vec::new();
    for task in tasks {
        let Work::Stage(id) = task.work else { continue };
        let Some(prediction) = predicted.stage(id).filter(|_| !told.contains(&id)) else { continue };
        told.push(id);
        let model = plan.experiment.model(id);
        let (name, needed) = (&model.name, prediction.memory);
        let numbers = format!("{}, but only {} are available", gib(needed), gib(bytes));
        if needed > bytes {
            let message = format!("`{name}` cannot fit in memory: it is predicted to take {numbers}");
            return Err(Error::new(FailureKind::Memory, message).help(lower(model)).at(model.origin));
        }
        if needed as f64 > TIGHT * bytes as f64 {
            control.warn(format!("`{name}` may not fit in memory: it is predicted to take {numbers}"));
        }
    }
    Ok(())
}

/// Advice on which settings of a stage to change so that it takes less memory.
fn lower(model: &Model<Objective>) -> String {
    let mut ways: Vec<String> = Vec::new();
    for train in model.stage.trains() {
        match train.execution.micro_batch {
            None => ways.push("set `micro_batch = 1`".to_owned()),
            Some(1) => {}
            Some(size) => ways.push(format!("lower `micro_batch = {size}`")),
        }
        if train.execution.checkpointing.layers() == 0 {
            ways.push("set `checkpointing = all`".to_owned());
        }
        ways.push(format!("lower {}", train.rollout.producer.kind().groups_setting(train.rollout.groups)));
        if let Some(sampling) = train.rollout.producer.sampling() {
            ways.push(format!("lower `max_tokens = {}`", sampling.max_tokens));
        }
        if !matches!(train.trainable, Trainable::Adapter(_)) {
            ways.push("train an `adapter`".to_owned());
        }
    }
    ways.dedup();
    format!(
        "{}, or take a machine with more memory; `--predict=never` runs it without this check",
        ways.join(", ")
    )
}

fn gib(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30))
}
