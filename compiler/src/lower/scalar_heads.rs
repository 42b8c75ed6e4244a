//! Whom `value`, `score` and `bradley_terry` can be asked of: a model that some stage has trained a scalar
//! head of.

use mopd_lang::diag::Diagnostic;

use crate::plan::{
    Model, ModelId, Objective, Role, Signal, Stage, Teacher, TeacherChoice, Train, Trainable, scalar_heads,
};
use crate::refusal::{Origins, refused};

const HELP: &str = "a step of a stage `train` gives a model one: `live bradley_terry(...)`, `live mse(student.score, ...)` \
                    or `live mse(student.value, ...)`";

/// What is asked of models without one.
pub fn unfit(models: &[Model<Objective>], origins: Origins) -> Vec<Diagnostic> {
    let heads = scalar_heads(models);
    let trains = models.iter().flat_map(|model| {
        let beside: &[_] = if let Stage::Joint(joint) = &model.stage { &joint.learners } else { &[] };
        let trains_head =
            |learner: u32| beside.get(learner as usize).is_some_and(|of| of.train.trains_scalar_head());
        let trains = model.stage.trains().into_iter();
        trains.map(move |train| (train, trains_head)).collect::<Vec<_>>()
    });
    let unfit = trains.filter_map(|(train, trains_head)| {
        let of_model = |id: ModelId| heads.get(id.0 as usize).copied().flatten() != Some(false);
        let has = |choice: &TeacherChoice| match &choice.teacher {
            Teacher::Model(id) => of_model(*id),
            Teacher::Learner { learner, start } => trains_head(*learner) || of_model(*start),
            Teacher::Student(_) => train.trains_scalar_head() || of_model(train.start),
            Teacher::Composed(_) | Teacher::Served(_) => false,
        };
        of_stage(train, &has, of_model(train.start), origins)
    });
    unfit.collect()
}

fn of_stage(
    train: &Train<Objective>,
    has: &dyn Fn(&TeacherChoice) -> bool,
    start_has: bool,
    origins: Origins,
) -> Option<Diagnostic> {
    let own = train.trains_scalar_head();
    if own && matches!(train.trainable, Trainable::Adapter(_)) {
        let at = origins.span(train.objective.origin);
        let help = "train all weights of a model that scores, or freeze some of them: `train_only`";
        return Some(
            (*refused(at, "a scalar head beside an adapter, which is all that is trained,")).help(help),
        );
    }
    train.objectives().find_map(|(_, objective)| {
        let at = origins.span(objective.origin);
        let signals = objective.signals().into_iter().chain(train.scorers.signals());
        signals.into_iter().find_map(|signal| match signal {
            Signal::Value { role: Role::Student } if !own && !start_has => {
                Some((*refused(at, "a scalar head that nothing trains (`student.value`)")).help(HELP))
            }
            Signal::Value { role } => {
                let without = train.scorers.choices(role).iter().find(|choice| !has(choice))?;
                let what = match without.teacher {
                    Teacher::Composed(_) => "which is made of several",
                    _ => "which has no scalar head",
                };
                let construct = format!("a score by `{}`, {what},", without.name);
                Some((*refused(at, construct)).help(HELP))
            }
            _ => None,
        })
    })
}
