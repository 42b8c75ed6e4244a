//! The stages of a run that another training engine computes, and what the folder of an exported stage has
//! for `mopd rewards`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{ModelId, Reward};

/// The files of an exported folder with its [`ExportedRewards`], and with an [`ExportedRecord`] a line.
pub const REWARDS_FILE: &str = "rewards.json";
pub const RECORDS_FILE: &str = "records.jsonl";

/// An engine, and the stages that it trains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineJob {
    /// `trl`
    pub name: String,
    /// The Python that has the engine.
    pub python: String,
    /// The versions of the packages that results depend on, and the kind of device.
    pub versions: BTreeMap<String, String>,
    /// The number of processes that train each stage together.
    pub processes: u32,
    pub stages: Vec<EngineStage>,
}

/// The program that trains a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineStage {
    pub model: ModelId,
    /// Its files by their paths, without the rows of data.
    pub files: BTreeMap<String, String>,
    /// A hash of its files, without the places of weights.
    pub program: String,
    /// The names of the routed teachers in the rows, by model.
    pub teachers: Vec<(ModelId, String)>,
}

impl EngineJob {
    /// The stage that makes a model, if the engine trains it.
    pub fn stage(&self, model: ModelId) -> Option<&EngineStage> {
        self.stages.iter().find(|stage| stage.model == model)
    }
}

/// How completions are judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExportedRewards {
    /// The folder of the experiment's file, which the paths of rewards are relative to.
    pub base: String,
    /// By the name of the domain.
    pub domains: BTreeMap<String, Reward>,
}

/// What the verifier of a domain gets with each completion of a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExportedRecord {
    pub domain: String,
    pub prompt: String,
    pub record: Map<String, Value>,
}
