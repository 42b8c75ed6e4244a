//! The stages of a run that another training engine computes, and what the folder of an exported stage has
//! for `mopd rewards`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{ModelId, Reward, Teacher};

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
    /// Who writes the completions that it trains on.
    pub completions: CompletionsFrom,
    /// The models beside the student.
    pub models: Vec<EngineModel>,
}

/// Who writes the completions that an engine trains on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompletionsFrom {
    /// The engine samples them from the student.
    Engine,
    /// The run, all of them before the first step.
    Before,
    /// The run, in each step, with the student's weights of that step.
    EachStep,
}

/// A model that an engine loads beside the student.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineModel {
    pub teacher: Teacher,
    /// Its name in the rows.
    pub name: String,
    /// The model whose weights it has, or begins with.
    pub model: ModelId,
}

impl EngineStage {
    /// The name of a model in the rows.
    pub fn name(&self, teacher: &Teacher) -> Option<&str> {
        self.models.iter().find(|model| model.teacher == *teacher).map(|model| model.name.as_str())
    }
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
