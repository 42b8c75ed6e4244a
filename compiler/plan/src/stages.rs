//! Stages: the way a model is made, its inputs, and the models that are trained in it.

use serde::{Deserialize, Serialize};

use crate::settings::{Architecture, Merge, ModelId, Pretrained};
use crate::train::Train;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum Stage<O> {
    /// Random weights.
    Initialise(Architecture),
    /// Weights that exist already, in files that the plan names.
    Load(Pretrained),
    Train(Box<Train<O>>),
    Merge(Merge),
    /// Several models that are trained in turns; this is the first of them.
    Joint(Joint<O>),
    /// Another model of a joint stage, by its index in [`Joint::learners`]. Its initial weights are `start`.
    Learner {
        joint: ModelId,
        learner: u32,
        start: ModelId,
    },
}

/// Several models that are trained in turns. Each step has a turn for each model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Joint<O> {
    pub learners: Vec<Learner<O>>,
}

/// A model that a stage trains, with its training loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Learner<O> {
    /// The author's name for it.
    pub name: String,
    /// The name of the step that updates it.
    pub step: String,
    /// The position of the model's turn in a step.
    pub turn: u32,
    /// The interval of updates in steps. The update is in the last step of each interval.
    pub every: u32,
    pub train: Train<O>,
}

impl<O> Stage<O> {
    /// Whether it loads a GGUF file, to which PEFT can't add an adapter.
    pub fn loads_gguf(&self) -> bool {
        matches!(self, Stage::Load(pretrained) if pretrained.source.is_gguf())
    }

    /// The training loops, one for each model. Most stages have one.
    pub fn trains(&self) -> Vec<&Train<O>> {
        match self {
            Stage::Train(train) => vec![train.as_ref()],
            Stage::Joint(joint) => joint.learners.iter().map(|learner| &learner.train).collect(),
            Stage::Initialise(_) | Stage::Load(_) | Stage::Merge(_) | Stage::Learner { .. } => Vec::new(),
        }
    }

    /// The model that the initial weights come from, with the same architecture.
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
