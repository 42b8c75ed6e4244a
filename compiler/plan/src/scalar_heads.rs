//! The models with a scalar head: one number per prefix besides the next-token distribution, as in reward
//! models, discriminators and critics.

use super::{Live, Model, ModelId, Objective, Stage, Train};

impl Train<Objective> {
    /// Whether an objective trains the student's own scalar head. A student without one starts with a head of
    /// zeros.
    pub fn trains_scalar_head(&self) -> bool {
        let mut live = self.objectives().flat_map(|(_, objective)| &objective.live);
        live.any(|live| live.primitive == Live::Value)
    }
}

/// For each model, whether it has a scalar head. `None` where that depends on its files.
pub fn scalar_heads(models: &[Model<Objective>]) -> Vec<Option<bool>> {
    let mut found: Vec<Option<bool>> = Vec::with_capacity(models.len());
    for model in models {
        let of = |id: ModelId| found.get(id.0 as usize).copied().flatten();
        let trained =
            |train: &Train<Objective>| if train.trains_scalar_head() { Some(true) } else { of(train.start) };
        found.push(match &model.stage {
            Stage::Initialise(_) => Some(false),
            Stage::Load(_) => None,
            Stage::Train(train) => trained(train),
            Stage::Joint(joint) => joint.learners.first().and_then(|learner| trained(&learner.train)),
            Stage::Merge(_) => model.stage.start().and_then(of),
            Stage::Learner { joint, learner, .. } => {
                let Some(Model { stage: Stage::Joint(joint), .. }) = models.get(joint.0 as usize) else {
                    unreachable!("a learner is one of a joint stage's")
                };
                joint.learners.get(*learner as usize).and_then(|learner| trained(&learner.train))
            }
        });
    }
    found
}
