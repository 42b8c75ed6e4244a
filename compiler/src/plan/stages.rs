//! Stages: what makes a model, from which others, and which models learn in it.

use serde::{Deserialize, Serialize};

use super::settings::{Architecture, Merge, ModelId, Pretrained, Train};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum Stage<O> {
    /// Random weights.
    Initialise(Architecture),
    /// Weights that exist already, in files that the plan names.
    Load(Pretrained),
    Train(Box<Train<O>>),
    Merge(Merge),
    /// Several models that learn in turns; this is the first of them.
    Joint(Joint<O>),
    /// Another model of a joint stage, by its place in [`Joint::learners`]. It begins as `start`.
    Learner {
        joint: ModelId,
        learner: u32,
        start: ModelId,
    },
}

/// Several models that learn in turns. Each step gives every one of them its turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Joint<O> {
    pub learners: Vec<Learner<O>>,
}

/// A model that a stage trains, with what it learns from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Learner<O> {
    /// As the author calls it.
    pub name: String,
    /// Of the step that updates it.
    pub step: String,
    /// The place of its turn in a step.
    pub turn: u32,
    /// It learns in every so many steps, in the last of them.
    pub every: u32,
    pub train: Train<O>,
}

impl<O> Stage<O> {
    /// What it trains on, model by model: of most stages, one.
    pub fn trains(&self) -> Vec<&Train<O>> {
        match self {
            Stage::Train(train) => vec![train.as_ref()],
            Stage::Joint(joint) => joint.learners.iter().map(|learner| &learner.train).collect(),
            Stage::Initialise(_) | Stage::Load(_) | Stage::Merge(_) | Stage::Learner { .. } => Vec::new(),
        }
    }

    /// The model that its weights descend from, whose architecture they have.
    pub fn start(&self) -> Option<ModelId> {
        match self {
            Stage::Initialise(_) | Stage::Load(_) => None,
            Stage::Train(_) | Stage::Joint(_) => self.trains().first().map(|train| train.start),
            Stage::Learner { start, .. } => Some(*start),
            Stage::Merge(merge) => merge.base.or(merge.models.first().copied()),
        }
    }

    /// The models that must exist before this stage can run, without repetition.
    pub fn inputs(&self) -> Vec<ModelId> {
        let mut inputs = match self {
            Stage::Initialise(_) | Stage::Load(_) => Vec::new(),
            Stage::Train(_) | Stage::Joint(_) => self.trains().into_iter().flat_map(Train::inputs).collect(),
            Stage::Learner { joint, .. } => vec![*joint],
            Stage::Merge(merge) => merge.base.iter().chain(&merge.models).copied().collect(),
        };
        inputs.sort();
        inputs.dedup();
        inputs
    }
}
