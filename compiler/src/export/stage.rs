//! The settings of a stage that all engines share (weights, data, sampling), and the refusals common to all.
//! Engine-specific settings are in the engine's file.

use mopd_experiment as checked;
use mopd_plan::{
    CompletionsFrom, Domain, Dtype, Keep, Length, Model, ModelId, Objective, Origin, Plan, Pool, Pretrained,
    PromptFormat, Recipe, Role, Sampling, Stage, StudentCopy, Teacher, TeacherChoice, Train, Trainable, View,
    WeightFilter,
};

use super::completions;
use super::coverage::Coverage;
use super::names::word;
use super::options;
use super::weights::{WeightsSource, weights};

/// The stage to export, and where its inputs are.
#[derive(Clone, Copy)]
pub struct ExportRequest<'a> {
    pub plan: &'a Plan,
    /// The experiment that the plan was made from, which has the source positions of settings. Without it,
    /// lines are at their stage.
    pub checked: Option<&'a checked::Experiment>,
    /// The stage, as the model that it makes.
    pub model: ModelId,
    /// The folder in which a run leaves a model, as a function of the model's name, and whether it is there.
    pub folder: &'a dyn Fn(&str) -> (String, bool),
    /// Where published weights are, for a program that runs in any folder: an absolute path, or a name on the
    /// hub.
    pub located: &'a dyn Fn(&Pretrained) -> String,
    /// For each domain of the stage the number of rows and the longest prompt in bytes. `None` where the data
    /// was not read.
    pub rows: Option<&'a [RowFacts]>,
    /// Whether a run of mopd starts the program. It then draws prompts, writes the completions that do not
    /// come from the student, and computes rewards.
    pub by_run: bool,
}

impl<'a> ExportRequest<'a> {
    /// A stage whose data was not read, for a program that the user starts.
    pub fn new(
        plan: &'a Plan,
        checked: Option<&'a checked::Experiment>,
        model: ModelId,
        folder: &'a dyn Fn(&str) -> (String, bool),
        located: &'a dyn Fn(&Pretrained) -> String,
    ) -> ExportRequest<'a> {
        ExportRequest { plan, checked, model, folder, located, rows: None, by_run: false }
    }
}

/// The number of rows of a domain, and the length in bytes of its longest prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowFacts {
    pub rows: u32,
    pub longest_prompt: u32,
}

/// A teacher and its name in the rows.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportedTeacher {
    pub model: ModelId,
    pub teacher: Teacher,
    /// The value of the routing column: the teacher's name as one word.
    pub key: String,
    /// Its name in the report.
    pub name: String,
    pub weights: WeightsSource,
    /// What it reads in place of the prompt.
    pub sees: Option<View>,
    /// How its weights follow the student's, from those of the start.
    pub copy: Option<StudentCopy>,
    pub origin: Origin,
}

/// A model that the objective reads by name, or a reference, for the prompts of a domain.
pub struct ScorerOfDomain {
    pub role: Role,
    pub domain: String,
    pub teacher: ExportedTeacher,
}

/// A domain's part in the stage.
pub struct DomainPart<'a> {
    pub domain: &'a Domain,
    pub share: f64,
    /// For each arm of the route, the index of its teacher.
    pub arms: Vec<usize>,
}

/// The settings of a stage that every engine needs.
pub struct ExportSettings<'a> {
    pub name: String,
    pub train: &'a Train<Objective>,
    pub origins: StageOrigins,
    pub seed: u64,
    pub dtype: Dtype,
    pub start: Option<WeightsSource>,
    /// The reference of all domains.
    pub reference: Option<WeightsSource>,
    /// The reference of each domain by its name, where they differ.
    pub references: Vec<(String, WeightsSource)>,
    pub teachers: Vec<ExportedTeacher>,
    /// The models of the roles after the teacher's that the objective reads.
    pub beside: Vec<ScorerOfDomain>,
    pub domains: Vec<DomainPart<'a>>,
    pub completions: CompletionsFrom,
    /// `None` where completions are not the student's.
    pub sampling: Option<&'a Sampling>,
    pub groups: u32,
    /// Samples of each prompt.
    pub samples: u32,
    /// `None` where the length is in epochs and the data was not read.
    pub steps: Option<u32>,
    /// In bytes; 0 where the data was not read.
    pub longest_prompt: u32,
    /// See [`ExportRequest::by_run`].
    pub by_run: bool,
}

impl ExportSettings<'_> {
    /// The batches of rollouts that the steps train on.
    pub fn batches(&self) -> Option<u32> {
        self.steps.map(|steps| steps.div_ceil(self.train.options.updates_per_batch()))
    }
}

/// The source positions of the parts of a stage.
#[derive(Clone, Copy)]
pub struct StageOrigins {
    pub model: Origin,
    pub rollout: Origin,
    pub objective: Origin,
}

/// The training stages of a plan. Those of `train` are among them; [`settings`] refuses them.
pub fn trained(plan: &Plan) -> impl Iterator<Item = (ModelId, &Model<Objective>)> {
    let models = plan.experiment.models.iter().enumerate();
    models.filter_map(|(at, model)| {
        matches!(model.stage, Stage::Train(_) | Stage::Joint(_)).then_some((ModelId(at as u32), model))
    })
}

/// The settings of a stage, with their lines of the report. `None` where it trains several models.
pub fn settings<'a>(request: ExportRequest<'a>, coverage: &mut Coverage) -> Option<ExportSettings<'a>> {
    let ExportRequest { plan, checked, model: id, .. } = request;
    let model = plan.experiment.model(id);
    let train = match &model.stage {
        Stage::Train(train) => train.as_ref(),
        _ => {
            let why = "engines train one model at a time";
            coverage.refuse(
                format!("`train`, which trains several models in turn: `{}`", model.name),
                model.origin,
                why,
            );
            return None;
        }
    };
    let of_checked = match checked.map(|checked| &checked.model(id).stage) {
        Some(checked::Stage::Train(own)) => Some(own.as_ref()),
        _ => None,
    };
    let origins = StageOrigins {
        model: model.origin,
        rollout: of_checked.map_or(model.origin, |own| own.rollout.origin),
        objective: of_checked.map_or(model.origin, |own| own.objective.origin),
    };
    let start = weights(request, train.start, "start", coverage);
    let domains: Vec<DomainPart> = train
        .mixture
        .iter()
        .map(|share| DomainPart {
            domain: plan.experiment.domain(share.domain),
            share: share.share,
            arms: Vec::new(),
        })
        .collect();
    let longest_prompt = request.rows.unwrap_or_default().iter().map(|of| of.longest_prompt).max();
    let mut settings = ExportSettings {
        name: model.name.clone(),
        train,
        origins,
        seed: plan.experiment.seed,
        dtype: plan.experiment.dtype,
        start,
        reference: None,
        references: Vec::new(),
        teachers: Vec::new(),
        beside: Vec::new(),
        completions: match request.by_run {
            true => completions::completions_from(train, &domains),
            false => CompletionsFrom::Engine,
        },
        domains,
        sampling: None,
        groups: train.rollout.groups,
        samples: train.rollout.group(),
        steps: steps(train, request.rows),
        longest_prompt: longest_prompt.unwrap_or(0),
        by_run: request.by_run,
    };
    match train.length {
        Length::Steps(steps) => coverage.exact(format!("`steps = {steps}`"), origins.model),
        Length::Epochs(epochs) => coverage.approximate(
            format!("`steps = {epochs} epochs`"),
            origins.model,
            "only whole batches are trained on; the rows left over at the end are dropped",
        ),
    }
    if plan.experiment.domains.is_empty() {
        coverage.refuse("a stage without data", origins.model, "engines read prompts from a file");
    }
    teachers(request, &mut settings, of_checked, coverage);
    data(&settings, coverage);
    completions::report(&mut settings, coverage);
    refusals(&settings, of_checked, coverage);
    Some(settings)
}

fn steps(train: &Train<Objective>, rows: Option<&[RowFacts]>) -> Option<u32> {
    match train.length {
        Length::Steps(steps) => Some(steps),
        Length::Epochs(epochs) => {
            let all: u32 = rows?.iter().map(|of| of.rows).sum();
            let batches = all.saturating_mul(epochs) / train.rollout.groups.max(1);
            Some(batches.saturating_mul(train.options.updates_per_batch()))
        }
    }
}

fn teachers(
    request: ExportRequest,
    settings: &mut ExportSettings,
    of_checked: Option<&checked::Train>,
    coverage: &mut Coverage,
) {
    let train = settings.train;
    let at = |number: usize| {
        let arms = of_checked.map(|own| own.teachers.as_slice()).unwrap_or_default();
        arms.get(number).map_or(settings.origins.model, |arm| arm.origin)
    };
    let mut found: Vec<ExportedTeacher> = Vec::new();
    let mut arms: Vec<Vec<usize>> = train.mixture.iter().map(|_| Vec::new()).collect();
    for (number, choice) in train.scorers.routed().iter().enumerate() {
        let name = format!("teacher `{}`", choice.name);
        let Some((model, copy)) = model_of(choice, &name, train.start, at(number), coverage) else {
            continue;
        };
        let Some(weights) = weights(request, model, &name, coverage) else { continue };
        let same = |other: &ExportedTeacher| {
            (&other.weights, &other.sees, other.copy) == (&weights, &choice.sees, copy)
        };
        let teacher = found.iter().position(same).unwrap_or_else(|| {
            let key = word(&choice.name, &found.iter().collect::<Vec<_>>());
            let (sees, origin) = (choice.sees.clone(), at(number));
            let teacher = choice.teacher.clone();
            found.push(ExportedTeacher { model, teacher, key, name, weights, sees, copy, origin });
            found.len() - 1
        });
        if let Some(part) = train.mixture.iter().position(|share| share.domain == choice.domain) {
            arms[part].push(teacher);
        }
    }
    if found.len() > 1 {
        coverage.exact(format!("`route` to {} teachers, by a column of the rows", found.len()), at(0));
    }
    settings.teachers = found;
    for (part, arms) in settings.domains.iter_mut().zip(arms) {
        part.arms = arms;
    }
    for (role, scorer) in train.scorers.iter().skip(2).filter(|(role, _)| train.objective.reads(*role)) {
        for choice in &scorer.choices {
            let name = format!("teacher `{}`", choice.name);
            let origin = settings.origins.objective;
            let Some((model, copy)) = model_of(choice, &name, train.start, origin, coverage) else {
                continue;
            };
            let Some(weights) = weights(request, model, &name, coverage) else { continue };
            let before: Vec<&ExportedTeacher> = settings
                .teachers
                .iter()
                .chain(settings.beside.iter().map(|scorer| &scorer.teacher))
                .collect();
            let same = before.iter().find(|other| other.teacher == choice.teacher);
            let key = same.map_or_else(|| word(&choice.name, &before), |other| other.key.clone());
            let (teacher, sees) = (choice.teacher.clone(), choice.sees.clone());
            let teacher = ExportedTeacher { model, teacher, key, name, weights, sees, copy, origin };
            let domain = request.plan.experiment.domain(choice.domain).name.clone();
            settings.beside.push(ScorerOfDomain { role, domain, teacher });
        }
    }
    let references: Vec<_> = train.scorers.references().collect();
    match references.as_slice() {
        [] => {}
        [(_, first), others @ ..] if others.iter().all(|(_, other)| other == first) => {
            settings.reference = weights(request, *first, "reference", coverage);
        }
        _ => {
            let of_domain = |(domain, model): &(mopd_plan::DomainId, ModelId)| {
                let name = request.plan.experiment.domain(*domain).name.clone();
                let what = format!("reference of domain `{name}`");
                Some((name, weights(request, *model, &what, coverage)?))
            };
            settings.references = references.iter().filter_map(of_domain).collect();
        }
    }
}

/// The model whose weights a teacher begins with, and how they follow the student's. Refuses others.
fn model_of(
    choice: &TeacherChoice,
    name: &str,
    start: ModelId,
    origin: Origin,
    coverage: &mut Coverage,
) -> Option<(ModelId, Option<StudentCopy>)> {
    if choice.own_tokens {
        coverage.refuse(
            format!("{name} with another tokenizer (`align = tokens`)"),
            origin,
            "in the engines, teacher and student share a vocabulary",
        );
        return None;
    }
    match &choice.teacher {
        Teacher::Model(model) => return Some((*model, None)),
        Teacher::Student(copy) => return Some((start, Some(*copy))),
        // Objectives read its members.
        Teacher::Composed(of) if of.pool == Pool::Sum => {
            coverage.exact(format!("{name}, a `{}`, by its members", of.pool.name()), origin);
        }
        Teacher::Composed(of) => {
            let why = "in the engines, each prompt has one teacher";
            coverage.refuse(format!("{name}, a `{}` of several models", of.pool.name()), origin, why);
        }
        Teacher::Served(_) => {
            let why = "the engine loads a teacher's weights itself";
            coverage.refuse(format!("{name} on a server"), origin, why);
        }
        Teacher::Learner { .. } => {
            coverage.refuse(
                format!("{name}, which is trained too"),
                origin,
                "in the engines, a teacher's weights are constant",
            );
        }
    }
    None
}

fn data(settings: &ExportSettings, coverage: &mut Coverage) {
    for part in &settings.domains {
        let Domain { name, prompts, format, limit, origin, tests, validation, reward: _, share: _ } =
            part.domain;
        coverage.exact(format!("prompts of domain `{name}`: {}", prompts.path), *origin);
        // Completions that a run has written keep to it.
        if let Some(limit) = limit.filter(|_| settings.completions == CompletionsFrom::Engine) {
            coverage.refuse(
                format!("`limit = {limit}` of domain `{name}`"),
                *origin,
                "engines have one token limit for all rows",
            );
        }
        if let PromptFormat::Chat { .. } = format {
            coverage.exact(format!("`format = chat` of domain `{name}`"), *origin);
        }
        // Only other stages and tables read these two.
        let _ = (tests, validation);
    }
    if settings.domains.len() > 1 {
        coverage.exact(
            "shares of the domains, in every step: the rows are written in the order of training",
            settings.origins.model,
        );
    }
    if settings.by_run {
        return;
    }
    coverage.approximate(
        "order of the prompts",
        settings.origins.model,
        "each prompt of a domain is used once before any is used twice, in another order than in a run",
    );
}

/// Refuses the constructs that no engine has.
fn refusals(settings: &ExportSettings, of_checked: Option<&checked::Train>, coverage: &mut Coverage) {
    let Train {
        recipe,
        start: _,
        mixture: _,
        sees,
        scorers: _,
        panels,
        feedback,
        rollout,
        options,
        filter,
        curriculum,
        shares,
        objective: _,
        own_data,
        trainable,
        optimizer: _,
        length: _,
        learning_rate: _,
        guards,
        extrapolation,
    } = settings.train;
    let at = settings.origins.model;
    let (by_engine, by_run) = (settings.completions == CompletionsFrom::Engine, settings.by_run);
    let mut refuse = |holds: bool, construct: &str, why: &str| {
        if holds {
            coverage.refuse(construct, at, why);
        }
    };
    refuse(matches!(recipe, Recipe::Dpo), "`dpo`", "the engines' distillation has no loss over pairs");
    refuse(sees.is_some() && !by_run, "`sees` of the student", "engines pass it the prompt of the row");
    refuse(!panels.is_empty(), "`panel`", "the engines' teachers only score");
    refuse(!feedback.is_empty(), "feedback written by a model", "the engines' teachers only score");
    refuse(rollout.keep != Keep::All, "`keep` of rollouts", "engines train on all completions of a step");
    refuse(filter.is_some(), "`filter` of prompts", "engines train on all prompts of a step");
    refuse(curriculum.is_some() && by_engine, "selection of prompts", "engines keep the order of the file");
    refuse(
        shares.is_some() && by_engine,
        "`shares` that change during the run",
        "engines keep the order of the file",
    );
    refuse(!own_data.is_empty(), "terms with completions of their own", "an engine's step has one rollout");
    refuse(extrapolation.is_some(), "`extrapolate`", "engines have no extrapolation of weights");
    if let Trainable::Weights { only, except } = trainable {
        let parts = only.iter().flatten().chain(except);
        let changed = parts.clone().any(|part| matches!(part, WeightFilter::Changed(_)));
        refuse(changed, "`changed` weights", "engines can't freeze single elements of a weight");
        refuse(
            only.is_some() || !except.is_empty(),
            "training some of the weights",
            "engines train all weights, or adapters",
        );
    }
    options::refuse(options, by_engine, at, coverage);
    for (number, guard) in guards.iter().enumerate() {
        let own = of_checked.and_then(|own| own.guards.get(number)).map_or(at, |own| own.origin);
        let action = guard.action.name();
        coverage.refuse(format!("guard with the action `{action}`"), own, "engines do not check metrics");
    }
}
