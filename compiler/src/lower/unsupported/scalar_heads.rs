//! Checks of `value`, `score` and `bradley_terry`, which need a model whose scalar head some stage trained.

use mopd_lang::diag::{Code, Diagnostic};
use mopd_plan::{
    Model, ModelId, ModelSignal, Objective, Role, Signal, Stage, Teacher, TeacherChoice, Train, Trainable,
    scalar_heads,
};

use crate::lower::refusal::{Origins, refused};

const HELP: &str = "a step of a stage `train` gives a model one: `live bradley_terry(...)`, `live \
    mse(student.score, ...)` or `live mse(student.value, ...)`";

/// Refuses reads of scalar heads that models do not have, and merges in which only some models have one.
pub fn refusals(models: &[Model<Objective>], origins: Origins) -> Vec<Diagnostic> {
    let heads = scalar_heads(models);
    let trains = models.iter().flat_map(|model| {
        let beside: &[_] = if let Stage::Joint(joint) = &model.stage { &joint.learners } else { &[] };
        let trains_head =
            |learner: u32| beside.get(learner as usize).is_some_and(|of| of.train.trains_scalar_head());
        let trains = model.stage.trains().into_iter();
        trains.map(move |train| (train, trains_head)).collect::<Vec<_>>()
    });
    let of_stages = trains.filter_map(|(train, trains_head)| {
        let of_model = |id: ModelId| heads.get(id.0 as usize).copied().flatten() != Some(false);
        let has = |choice: &TeacherChoice| match &choice.teacher {
            Teacher::Model(id) => of_model(*id),
            Teacher::Learner { learner, start } => trains_head(*learner) || of_model(*start),
            Teacher::Student(_) => train.trains_scalar_head() || of_model(train.start),
            Teacher::Composed(_) | Teacher::Served(_) => false,
        };
        of_stage(train, &has, of_model(train.start), origins)
    });
    of_stages.chain(of_merges(models, &heads, origins)).collect()
}

/// Refuses such merges: they are computed weight by weight, so all models must have a head or none.
fn of_merges(models: &[Model<Objective>], heads: &[Option<bool>], origins: Origins) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for model in models {
        let Stage::Merge(merge) = &model.stage else { continue };
        let all = || merge.base.iter().chain(&merge.models);
        let first = |has: bool| all().find(|id| heads.get(id.0 as usize).copied().flatten() == Some(has));
        let (Some(with), Some(without)) = (first(true), first(false)) else { continue };
        let [with, without] = [with, without].map(|id| &models[id.0 as usize].name);
        let text = format!("`{with}` has a scalar head and `{without}` has none: they can't be merged");
        let diagnostic = Diagnostic::error(Code::TypeMismatch, origins.span(model.origin), text)
            .label("computed weight by weight")
            .help(
                "merge models that all have a scalar head, or models without one: `live \
                bradley_terry(...)` and `live mse(student.score, ...)` add one to a model",
            );
        found.push(diagnostic);
    }
    found
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
        return Some((*refused(at, "training a scalar head together with an adapter")).help(help));
    }
    train.objectives().find_map(|(_, objective)| {
        let at = origins.span(objective.origin);
        let signals = objective.signals().into_iter().chain(train.scorers.signals());
        signals.into_iter().find_map(|signal| match signal {
            Signal::Of { role: Role::Student, part: ModelSignal::Value } if !own && !start_has => {
                Some((*refused(at, "a scalar head that nothing trains (`student.value`)")).help(HELP))
            }
            Signal::Of { role, part: ModelSignal::Value } => {
                let without = train.scorers.choices(role).iter().find(|choice| !has(choice))?;
                let construct = match without.teacher {
                    Teacher::Composed(_) => format!(
                        "a score by `{}`, which has its own temperature or is \
                        composed of other teachers",
                        without.name
                    ),
                    _ => format!("a score by `{}`, which has no scalar head", without.name),
                };
                Some((*refused(at, construct)).help(HELP))
            }
            _ => None,
        })
    })
}
