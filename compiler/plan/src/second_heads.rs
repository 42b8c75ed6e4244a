//! The models with a second head, which predicts the token after the next one, and the probability that this
//! token is kept.

use super::{Model, ModelId, Producer, Stage, Train};

impl<O> Train<O> {
    /// Whether the student samples two tokens per step. If it has no second head, it starts with a new one.
    pub fn trains_second_head(&self) -> bool {
        matches!(&self.rollout.producer, Producer::Student(student) if student.sampling.accept.is_some())
    }
}

/// For each model, whether it has a second head. `None` where that depends on its files. A stage that samples
/// one token per step drops the head, which would not fit the changed weights.
pub fn second_heads<O>(models: &[Model<O>]) -> Vec<Option<bool>> {
    let mut found: Vec<Option<bool>> = Vec::with_capacity(models.len());
    for model in models {
        let of = |id: ModelId| found.get(id.0 as usize).copied().flatten();
        found.push(match &model.stage {
            Stage::Load(_) => None,
            Stage::Train(train) => Some(train.trains_second_head()),
            Stage::Merge(_) => model.stage.start().and_then(of),
            Stage::Initialise(_) | Stage::Joint(_) | Stage::Learner { .. } => Some(false),
        });
    }
    found
}
