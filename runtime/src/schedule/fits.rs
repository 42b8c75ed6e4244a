//! Refuses stages that can't fit in memory, before they allocate anything.

use std::sync::Arc;

use mopd_plan::events::{FailureKind, RunJob};
use mopd_plan::producers::Writer;
use mopd_plan::{
    Dtype, Model, ModelId, Objective, Plan, Producer, Stage, StudentCopy, Teacher, Train, Trainable,
};

use super::memory_budget::DeviceMemoryBudget;
use super::predicted::Predicted;
use super::{Task, Work};
use crate::control::Control;
use crate::failure::{Error, Result};
use crate::model::{Config, Weights};
use crate::prepare::ModelSpec;
use crate::rollout::Sequence;

/// Warns of a stage that is predicted to take more than this part of the memory, since predictions are off by
/// some per cent.
const TIGHT: f64 = 0.9;

/// The number of parameters of each model of a plan, as far as it is known.
pub(super) struct ModelSizes(Vec<Option<u64>>);

impl ModelSizes {
    pub fn of_specs(specs: &[ModelSpec]) -> ModelSizes {
        ModelSizes(specs.iter().map(|spec| Some(Weights::parameters(&spec.config) as u64)).collect())
    }

    pub fn of_configs(configs: &[Option<Arc<Config>>]) -> ModelSizes {
        let size = |config: &Option<Arc<Config>>| Some(Weights::parameters(config.as_ref()?) as u64);
        ModelSizes(configs.iter().map(size).collect())
    }

    /// `None` where it is not known.
    pub fn parameters(&self, model: ModelId) -> Option<u64> {
        self.0[model.0 as usize]
    }
}

/// Refuses a task without a stored result whose weights alone exceed the memory, with gradients and moments
/// where all weights train. It needs no allocation. Models of unknown size are left out.
pub(super) fn weights(
    job: &RunJob,
    tasks: &[Task],
    sizes: &ModelSizes,
    device_memory: &DeviceMemoryBudget,
    waiting: impl Fn(usize) -> bool,
) -> Result<()> {
    let Some(bytes) = device_memory.bytes() else { return Ok(()) };
    for (_, task) in tasks.iter().enumerate().filter(|(index, _)| waiting(*index)) {
        let (id, held) = match task.work {
            Work::Stage(id) => (id, least_of_stage(job, sizes, id)),
            Work::Evaluate { model, .. } => (model, weights_alone(job, sizes, model)),
        };
        let Some(Held { bytes: needed, what, way }) = held else { continue };
        if needed > bytes {
            let model = job.plan.experiment.model(id);
            let (needed, bytes) = (gib(needed), gib(bytes));
            let message = format!(
                "`{}` cannot fit in memory: {what} {needed}, but only {bytes} are available",
                model.name
            );
            return Err(Error::new(FailureKind::Memory, message).help(way).at(model.origin));
        }
    }
    Ok(())
}

/// Bytes that are held at one time, what they are, and what takes fewer.
struct Held {
    bytes: u64,
    what: String,
    way: String,
}

const SMALLER: &str = "take a smaller model or a machine with more memory; training a large model with an \
    `adapter`, `freeze` or `sgd` needs less memory than training all weights with AdamW";

impl Held {
    fn weights(bytes: u64, what: impl Into<String>) -> Held {
        Held { bytes, what: what.into(), way: SMALLER.to_owned() }
    }
}

/// The weights of a model in the dtype that it computes in.
fn weights_alone(job: &RunJob, sizes: &ModelSizes, id: ModelId) -> Option<Held> {
    let bytes = computed(job.plan.experiment.dtype) * sizes.parameters(id)?;
    Some(Held::weights(bytes, "its weights alone are"))
}

/// Bytes that a stage holds for any batch size; those of models of unknown size are left out.
pub(super) fn least(job: &RunJob, sizes: &ModelSizes, id: ModelId) -> u64 {
    least_of_stage(job, sizes, id).map_or(0, |held| held.bytes)
}

fn least_of_stage(job: &RunJob, sizes: &ModelSizes, id: ModelId) -> Option<Held> {
    let experiment = &job.plan.experiment;
    let stage = &experiment.model(id).stage;
    match stage {
        // Their weights stay in files.
        Stage::Load(_) | Stage::Learner { .. } => None,
        Stage::Initialise(_) | Stage::Merge(_) => {
            Some(Held::weights(4 * sizes.parameters(id)?, "its weights alone are"))
        }
        Stage::Train(_) | Stage::Joint(_) => {
            let trains = stage.trains();
            let trained = trains.iter().filter_map(|train| {
                Some(bytes_per_parameter(train, experiment.dtype) * sizes.parameters(train.start)?)
            });
            let trained =
                Held::weights(trained.sum(), "its trained weights with gradients and moments alone are");
            let steps = trains.iter().map(|train| sequences(train));
            // Scorers pass through memory layer by layer, but a model that writes is there as a whole.
            let writes = trains.iter().flat_map(|train| writers(train)).filter_map(|writer| {
                let name = &experiment.model(writer).name;
                let Held { bytes, .. } = weights_alone(job, sizes, writer)?;
                Some(Held::weights(bytes, format!("the weights of `{name}`, which writes for it, alone are")))
            });
            writes.chain(steps).chain([trained]).max_by_key(|held| held.bytes)
        }
    }
}

/// The sequences that are in memory at one time, without their tokens: those of a step, or those that are
/// written before the first one.
fn sequences(train: &Train<Objective>) -> Held {
    let (rollout, written) = (&train.rollout, train.rollout.producer.once());
    let (count, when, setting) = match written.map_or(0, |once| once.sequences) {
        once if once > rollout.sequences() => (once, "before its first step", format!("`sequences: {once}`")),
        _ => (rollout.sequences(), "of a step", rollout.producer.kind().groups_setting(rollout.groups)),
    };
    let bytes = u64::from(count) * size_of::<Sequence>() as u64;
    let what = format!("its {count} sequences {when}, without their tokens, alone are");
    Held { bytes, what, way: format!("lower {setting}") }
}

/// The frozen models that write completions of a stage.
fn writers(train: &Train<Objective>) -> Vec<ModelId> {
    let drawn = train.producers().flat_map(Producer::drawn);
    let of = |(writer, _): (Writer, _)| match writer {
        Writer::Student => Vec::new(),
        Writer::Model(id) => vec![id],
        Writer::Scorer(role) | Writer::Editor { editor: role, .. } | Writer::Guide(role) => {
            train.scorers.choices(role).iter().filter_map(|choice| choice.teacher.model()).collect()
        }
    };
    drawn.flat_map(of).collect()
}

fn computed(dtype: Dtype) -> u64 {
    if dtype == Dtype::Bfloat16 { 2 } else { 4 }
}

/// Least bytes per parameter of a trained model.
fn bytes_per_parameter(train: &Train<Objective>, dtype: Dtype) -> u64 {
    // The moving average and every delayed copy of the student have weights of their own, an average in
    // single precision beside those that it computes with.
    let mut copies: Vec<StudentCopy> = Vec::new();
    for choice in train.scorers.iter().flat_map(|(_, scorer)| &scorer.choices) {
        if let Teacher::Student(copy) = choice.teacher
            && copy != StudentCopy::Current
            && !copies.contains(&copy)
        {
            copies.push(copy);
        }
    }
    let computed = computed(dtype);
    let of_copy = |copy: &StudentCopy| match copy {
        StudentCopy::Average { .. } if computed < 4 => computed + 4,
        _ => computed,
    };
    let copied: u64 = copies.iter().map(of_copy).sum();
    if train.trainable.is_all() {
        4 + computed + copied + 4 * train.optimizer.moments()
    } else {
        computed + copied
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
        match train.options.execution.micro_batch {
            None => ways.push("set `micro_batch = 1`".to_owned()),
            Some(1) => {}
            Some(size) => ways.push(format!("lower `micro_batch = {size}`")),
        }
        if train.options.execution.checkpointing.layers() == 0 {
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
