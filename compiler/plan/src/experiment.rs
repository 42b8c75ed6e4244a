//! An experiment: its domains, its models, and the tables that compare them.

use mopd_experiment::named_sources;
use serde::{Deserialize, Serialize};

use super::comparisons::Comparison;
use super::data::DataSource;
use super::rewards::Reward;
use super::settings::{Device, DomainId, Dtype, GpuArithmetic, MarkedSetting, ModelId, Origin, PromptFormat};
use super::stages::Stage;

/// One experiment. Models are in topological order: a model's inputs come before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Experiment<O> {
    pub name: String,
    /// The first seed; a comparison over `n` seeds runs `seed, seed + 1, ...`.
    pub seed: u64,
    /// Folder for results, relative to where the command runs.
    pub out: Option<String>,
    /// The device; the best available one where absent.
    pub device: Option<Device>,
    pub dtype: Dtype,
    #[serde(default, skip_serializing_if = "GpuArithmetic::is_default")]
    pub gpu: GpuArithmetic,
    pub domains: Vec<Domain>,
    pub models: Vec<Model<O>>,
    pub comparisons: Vec<Comparison>,
    /// The sources of values, as the author marked them. They change no result.
    pub marks: Vec<MarkedSetting>,
}

impl<O> Experiment<O> {
    pub fn domain(&self, id: DomainId) -> &Domain {
        &self.domains[id.0 as usize]
    }

    pub fn model(&self, id: ModelId) -> &Model<O> {
        &self.models[id.0 as usize]
    }
}

/// A source of prompts with its verifier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Domain {
    pub name: String,
    pub prompts: DataSource,
    /// Held-out prompts for evaluation.
    pub tests: Option<DataSource>,
    /// Rows for the loss of stages that validate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<DataSource>,
    pub format: PromptFormat,
    pub reward: Reward,
    /// Its share of the prompts where several domains are mixed; the shares of all domains sum to 1.
    pub share: f64,
    /// Longest completion in this domain, in tokens, the end token included. The rollout's limit applies as
    /// well.
    pub limit: Option<u32>,
    pub origin: Origin,
}

impl Domain {
    /// The domain's data sources, by the names of their settings.
    pub fn sources(&self) -> impl Iterator<Item = (&'static str, &DataSource)> {
        named_sources(&self.prompts, self.tests.as_ref(), self.validation.as_ref())
    }
}

/// A model: the result of a stage applied to other models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model<O> {
    /// The author's name for it: `start`, `expert[sort]`.
    pub name: String,
    pub stage: Stage<O>,
    pub origin: Origin,
}
