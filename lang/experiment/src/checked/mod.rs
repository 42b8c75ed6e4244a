//! The data types of a checked experiment: every setting evaluated, every name resolved, every family
//! expanded.
//!
//! These types hold everything that the language can express. The plan's types are narrower: they hold what a
//! run can execute, and the compiler refuses the rest.

mod commands;
mod data;
mod dependencies;
pub mod formula;
mod guards;
mod objectives;
mod optimizers;
mod options;
mod parts;
mod rewards;
mod rollouts;
mod schedules;
mod stages;
mod tables;
mod teachers;
mod trainable;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use commands::without_absolute_paths;
pub use data::*;
pub use guards::*;
pub use objectives::*;
pub use optimizers::*;
pub use options::*;
pub use rewards::*;
pub use rollouts::*;
pub use schedules::*;
pub use stages::*;
pub use tables::*;
pub use teachers::*;
pub use trainable::*;

/// The place in the source that a value comes from: an index into a table of places. A failure in the run can
/// then name its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Origin(pub u32);

/// A value, and the place that it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WithOrigin<T> {
    pub value: T,
    pub origin: Origin,
}

/// Index into [`Experiment::domains`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DomainId(pub u32);

impl DomainId {
    /// A domain that no experiment declares.
    pub const UNDECLARED: DomainId = DomainId(u32::MAX);
}

/// Index into [`Experiment::models`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ModelId(pub u32);

/// Index into [`Experiment::teachers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TeacherId(pub u32);

/// Index into [`Experiment::panels`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PanelId(pub u32);

/// Index into [`Experiment::benchmarks`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BenchmarkId(pub u32);

/// One experiment. Models are in topological order: a model's inputs come before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Experiment {
    pub name: String,
    /// The first seed; a comparison over `n` seeds runs `seed, seed + 1, ...`.
    pub seed: u64,
    /// Folder for results, relative to where the command runs.
    pub out: Option<String>,
    pub device: Option<WithOrigin<Device>>,
    pub dtype: Option<WithOrigin<Dtype>>,
    pub gpu: GpuArithmetic,
    pub domains: Vec<Domain>,
    pub teachers: Vec<Teacher>,
    pub panels: Vec<Panel>,
    pub models: Vec<Model>,
    pub benchmarks: Vec<Benchmark>,
    pub comparisons: Vec<Comparison>,
    /// The grid of experiments in this file; empty for a single experiment.
    pub sweep: Vec<SweepAxis>,
    /// The sources of values, as the author marked them. They change no result.
    pub marks: Vec<MarkedSetting>,
}

impl Experiment {
    pub fn domain(&self, id: DomainId) -> &Domain {
        &self.domains[id.0 as usize]
    }

    pub fn model(&self, id: ModelId) -> &Model {
        &self.models[id.0 as usize]
    }

    pub fn teacher(&self, id: TeacherId) -> &Teacher {
        &self.teachers[id.0 as usize]
    }

    /// The models that no table needs, so that a run leaves them out. Empty where there is no table: then all
    /// are trained.
    pub fn left_out(&self) -> Vec<ModelId> {
        if self.comparisons.is_empty() {
            return Vec::new();
        }
        let mut needed = vec![false; self.models.len()];
        let of_table = |table: &'_ Comparison| {
            let scale = table.normalized.iter().flat_map(|scale| scale.zero.iter().chain(&scale.one));
            table.rows.iter().flat_map(|row| &row.models).chain(scale).copied().collect::<Vec<_>>()
        };
        self.comparisons.iter().flat_map(of_table).for_each(|model| needed[model.0 as usize] = true);
        for (index, model) in self.models.iter().enumerate().rev() {
            if needed[index] {
                let inputs = model.stage.inputs(&self.teachers);
                inputs.into_iter().for_each(|input| needed[input.0 as usize] = true);
            }
        }
        let made = |stage: &Stage| match stage {
            Stage::Initialise(_) | Stage::Load(_) | Stage::Parameter => false,
            Stage::Train(_) | Stage::Merge(_) | Stage::Joint(_) => true,
            // Models trained together with a needed one are needed as well.
            Stage::Member { joint, .. } => !needed[joint.0 as usize],
        };
        let left_out =
            self.models.iter().enumerate().filter(|(index, model)| !needed[*index] && made(&model.stage));
        left_out.map(|(index, _)| ModelId(index as u32)).collect()
    }
}

/// The device of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    Cpu,
    Cuda,
}

/// The compute dtype of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    #[default]
    Float32,
    /// 16 bits for models; trained weights also have a 32-bit copy.
    Bfloat16,
}

impl Dtype {
    pub fn name(self) -> &'static str {
        match self {
            Dtype::Float32 => "float32",
            Dtype::Bfloat16 => "bfloat16",
        }
    }
}

/// How a GPU computes. The CPU has no such settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuArithmetic {
    /// Whether it computes the same bits each time, where libtorch has a deterministic operator.
    pub deterministic: bool,
    /// Whether factors of float32 matrix products may be rounded to TF32, which has 10 bits of mantissa.
    pub tf32: bool,
}

impl GpuArithmetic {
    pub fn is_default(&self) -> bool {
        *self == GpuArithmetic::default()
    }
}

impl Default for GpuArithmetic {
    fn default() -> GpuArithmetic {
        GpuArithmetic { deterministic: true, tf32: false }
    }
}

/// `beta in [0.1, 0.5]` of a `sweep`: values of a `param`, as written.
#[derive(Clone, Debug, PartialEq)]
pub struct SweepAxis {
    pub parameter: String,
    pub values: Vec<WithOrigin<SweptTo>>,
    pub origin: Origin,
}

/// A value of a swept `param`, as it is shown: a number, or the name that the file gives to any other value.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum SweptTo {
    Number(f64),
    Name(String),
}

impl fmt::Display for SweptTo {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            SweptTo::Number(number) => number.fmt(out),
            SweptTo::Name(name) => name.fmt(out),
        }
    }
}

/// A mark on a setting: `lr = 1e-6 @unpublished`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkedSetting {
    /// The model, objective or block that the setting belongs to.
    pub owner: String,
    pub setting: String,
    pub mark: SettingMark,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mark", rename_all = "snake_case")]
pub enum SettingMark {
    /// This value is not published: a reproduction must not be mistaken for the original.
    Unpublished { note: Option<String> },
    /// Where the value is published.
    Source { text: String },
}

/// A source of prompts with its verifier.
#[derive(Clone, Debug, PartialEq)]
pub struct Domain {
    pub name: String,
    pub prompts: DataSource,
    /// Held-out prompts for evaluation.
    pub tests: Option<DataSource>,
    /// Rows for the loss of stages that validate.
    pub validation: Option<DataSource>,
    /// Columns of fields with other names, for all of these sources.
    pub columns: Vec<FieldColumn>,
    /// The format of prompts; text where absent.
    pub format: Option<PromptFormat>,
    pub reward: Reward,
    /// Its share of the prompts where several domains are mixed; the shares of all domains sum to 1.
    pub share: f64,
    /// Longest completion in this domain, in tokens; the rollout's own limit where absent.
    pub limit: Option<WithOrigin<u32>>,
    pub origin: Origin,
}

/// The data sources of a domain, before or after it was made executable, by the names of their settings.
pub fn named_sources<'d, S>(
    prompts: &'d S,
    tests: Option<&'d S>,
    validation: Option<&'d S>,
) -> impl Iterator<Item = (&'static str, &'d S)> {
    let others = [("tests", tests), ("validation", validation)].into_iter();
    let others = others.filter_map(|(name, source)| Some((name, source?)));
    std::iter::once(("prompts", prompts)).chain(others)
}

impl Domain {
    /// Its data sources, by the names of their settings.
    pub fn sources(&self) -> impl Iterator<Item = (&'static str, &DataSource)> {
        named_sources(&self.prompts, self.tests.as_ref(), self.validation.as_ref())
    }
}
