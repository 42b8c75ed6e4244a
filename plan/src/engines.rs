//! The stages of a run that another training engine computes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ModelId;

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
