//! Which models have a second head: one that predicts the token behind the next one, and how likely it
//! stands.

use super::{Model, ModelId, Producer, Stage, Train};

impl<O> Train<O> {
    /// Whether its student draws two tokens in a step. One that has no second head yet begins with one.
    pub fn trains_second_head(&self) -> bool {
        matches!(&self.rollout.producer, Producer::Student(student) if student.sampling.accept.is_some())
    }
}

/// By model, whether it has one; none where only its files know. A stage that draws one token in a step
/// leaves it out: it would not fit the weights that the stage moves.
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
