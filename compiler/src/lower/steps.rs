//! The steps from a checked experiment to a plan, with a type each: the settings are converted to an
//! [`ExecutableExperiment`], the objectives are [`Lowered`] to graphs, and the [`Plan`] adds keys, costs and
//! places.

use mopd_experiment as checked;
use mopd_lang::check::allow::is_allowed;
use mopd_lang::diag::{Code, Diagnostic};
use mopd_lang::source::Sources;
use mopd_plan::{
    Comparison, Domain, Experiment, Joint, Learner, Model, ModelId, Objective, Plan, SCHEMA, Schedule,
    SourcePlace, Stage, StageFacts, Train,
};

use super::executable::settings::SettingsConverter;
use super::key::{self, FileScope};
use super::unsupported::{scalar_heads, second_heads};
use super::{cost, executable, finite, trained};
use crate::lower::refusal::Origins;

/// The settings of an experiment as the runtime executes them, with the checker's objectives.
pub(super) struct ExecutableExperiment<'a> {
    checked: &'a checked::Experiment,
    origins: Origins<'a>,
    domains: Vec<Domain>,
    models: Vec<Model<&'a checked::Train>>,
    comparisons: Vec<Comparison>,
    /// The refusals so far; refused parts are missing above.
    refusals: Refusals,
}

/// An experiment that the runtime can execute, without refusals.
pub(super) struct Lowered<'a> {
    experiment: Experiment<Objective>,
    origins: Origins<'a>,
}

/// Refusals without duplicates: the members of a family share their objective and its errors.
struct Refusals(Vec<Diagnostic>);

impl Refusals {
    fn add(&mut self, found: impl IntoIterator<Item = Diagnostic>) {
        for refusal in found {
            if !self.0.contains(&refusal) {
                self.0.push(refusal);
            }
        }
    }
}

impl<'a> ExecutableExperiment<'a> {
    pub(super) fn from_checked(
        experiment: &'a checked::Experiment,
        origins: Origins<'a>,
    ) -> ExecutableExperiment<'a> {
        let mut settings = SettingsConverter::new(experiment, origins);
        let mut domains: Vec<Domain> =
            experiment.domains.iter().filter_map(|domain| settings.domain(domain)).collect();
        domains.extend(settings.benchmarks());
        let models: Vec<_> = experiment.models.iter().filter_map(|model| settings.model(model)).collect();
        let comparisons: Vec<Comparison> =
            experiment.comparisons.iter().filter_map(|comparison| settings.comparison(comparison)).collect();
        let mut refusals = Refusals(settings.refusals);
        refusals.add(finite::check(&domains, &models, &comparisons, origins));
        for model in &experiment.models {
            for train in checked_trains(&model.stage) {
                let roles = &executable::roles::find(train, experiment).roles;
                refusals.add(executable::formula::refusals(&train.objective, Origins { roles, ..origins }));
            }
        }
        ExecutableExperiment { checked: experiment, origins, domains, models, comparisons, refusals }
    }

    /// Lowers the objectives to graphs, in the arithmetic of [`mopd_expr::graph::Graph::fused`].
    pub(super) fn lower(self, fused: bool) -> Result<Lowered<'a>, Vec<Diagnostic>> {
        let ExecutableExperiment { checked, origins, domains, models, comparisons, mut refusals } = self;
        let tokens = vocabularies(&models);
        let of_start = |start: ModelId| tokens.get(start.0 as usize).copied().flatten();
        let mut lowered = Vec::with_capacity(models.len());
        for Model { name, stage, origin } in models {
            let train = |of: Train<&checked::Train>| {
                let tokens = of_start(of.start);
                trained(of, tokens, checked, origins, fused)
            };
            match lowered_stage(stage, &train) {
                Ok(stage) => lowered.push(Model { name, stage, origin }),
                Err(found) => refusals.add([*found]),
            }
        }
        if refusals.0.is_empty() {
            refusals.add(scalar_heads::refusals(&lowered, origins));
            refusals.add(second_heads::refusals(&lowered, origins));
        }
        if !refusals.0.is_empty() {
            refusals.0.sort_by_key(|refusal| (refusal.primary.span, refusal.code));
            return Err(refusals.0);
        }
        let experiment = Experiment {
            name: checked.name.clone(),
            seed: checked.seed,
            out: checked.out.clone(),
            device: checked.device.map(|device| device.value),
            dtype: checked.dtype.map(|dtype| dtype.value).unwrap_or_default(),
            gpu: checked.gpu,
            domains,
            models: lowered,
            comparisons,
            marks: checked.marks.clone(),
        };
        Ok(Lowered { experiment, origins })
    }
}

impl Lowered<'_> {
    /// Adds the key of each stage's result, the costs, and the places in the source.
    pub(super) fn plan(self, sources: &Sources) -> Plan {
        let Lowered { experiment, origins } = self;
        let (keys, streams) = (key::keys(&experiment, FileScope::ByPath), key::streams(&experiment));
        let hash = key::plan(&experiment, &keys);
        let content_keys = key::keys(&experiment, FileScope::ByContent);
        let keys = keys.into_iter().zip(content_keys).zip(key::keys(&experiment, FileScope::OwnSettings));
        let stages = keys.zip(streams).zip(cost::costs(&experiment));
        let stages = stages
            .map(|((((key, content_key), own_settings), stream), cost)| StageFacts {
                key,
                content_key,
                own_settings,
                stream,
                cost,
                allowed_schedules: Vec::new(),
            })
            .collect();
        let places = origins.spans.iter().map(|span| SourcePlace {
            file: sources.file(span.file).path.clone(),
            start: span.start,
            end: span.end,
        });
        Plan { schema: SCHEMA, hash, experiment, stages, places: places.collect() }
    }
}

/// The schedules that a comment lets be longer than their stage, whose steps only a run knows.
pub(super) fn allowed_schedules(
    stage: &checked::Stage,
    teachers: &[checked::Teacher],
    origins: Origins,
    sources: &Sources,
) -> Vec<Schedule> {
    let is_allowed = |origin| is_allowed(sources, Code::UnfinishedSchedule, origins.span(origin));
    let schedules = stage.schedules_in_epochs(teachers).into_iter();
    schedules.filter(|(origin, _)| is_allowed(*origin)).map(|(_, schedule)| schedule.clone()).collect()
}

/// The vocabulary size of each model's tokenizer, where it is known without reading a file.
fn vocabularies(models: &[Model<&checked::Train>]) -> Vec<Option<u32>> {
    let mut found: Vec<Option<u32>> = Vec::with_capacity(models.len());
    for model in models {
        let of = |id: ModelId| found.get(id.0 as usize).copied().flatten();
        let tokens = match &model.stage {
            Stage::Initialise(architecture) => architecture.tokenizer.vocabulary(),
            _ => model.stage.start().and_then(of),
        };
        found.push(tokens);
    }
    found
}

/// The training loops of a stage, one for each model.
pub(super) fn checked_trains(stage: &checked::Stage) -> Vec<&checked::Train> {
    match stage {
        checked::Stage::Train(train) => vec![train.as_ref()],
        checked::Stage::Joint(joint) => joint.steps.iter().map(|step| &step.train).collect(),
        _ => Vec::new(),
    }
}

fn lowered_stage<'a>(
    stage: Stage<&'a checked::Train>,
    train: &dyn Fn(Train<&'a checked::Train>) -> Result<Train<Objective>, Box<Diagnostic>>,
) -> Result<Stage<Objective>, Box<Diagnostic>> {
    Ok(match stage {
        Stage::Initialise(architecture) => Stage::Initialise(architecture),
        Stage::Load(pretrained) => Stage::Load(pretrained),
        Stage::Merge(merge) => Stage::Merge(merge),
        Stage::Learner { joint, learner, start } => Stage::Learner { joint, learner, start },
        Stage::Train(of) => Stage::Train(Box::new(train(*of)?)),
        Stage::Joint(joint) => {
            let learner = |Learner { name, step, turn, every, train: of }| {
                Ok(Learner { name, step, turn, every, train: train(of)? })
            };
            let learners = joint.learners.into_iter().map(learner);
            Stage::Joint(Joint { learners: learners.collect::<Result<_, Box<Diagnostic>>>()? })
        }
    })
}
