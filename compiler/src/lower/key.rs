//! Keys: hashes of the meaning of stages. The computation of a stage is written as JSON without names and
//! places, with every model replaced by its own key and every domain by its content, and hashed. So renaming,
//! comments and unrelated changes keep a key, and any number that enters the computation changes it. A stage
//! has two keys ([`FileScope`]): one includes the paths of files and identifies the text; the other does
//! not and identifies results, after the files' content is added at run time.

mod fields;
mod objective;

use mopd_plan::keys::{VERSION, hash, text};
use mopd_plan::producers::FieldValue;
use mopd_plan::views::Piece;
use mopd_plan::{
    Architecture, Comparison, Composition, DataFormula, DataSource, Domain, DomainId, Evaluation, Experiment,
    Extrapolation, Feedback, Guard, Learner, Merge, MergeMethod, ModelId, Objective, Panel, Pretrained,
    Producer, PromptFormat, Recipe, RewardMeaning, ServedMeaning, Stage, StudentCopy, TableColumn, Teacher,
    TeacherChoice, TokenizerSpec, Train, Validation, WeightGroup,
};
use serde::Serialize;

use fields::KeyFields;
use objective::ObjectiveMeaning;

/// Raised whenever equal settings select different random numbers than before.
const STREAMS: u32 = 1;

/// The part of files in a key: data, tokenizers, loaded models, dependencies of rewards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileScope {
    ByPath,
    /// They are left out. Their content is added at run time, in the order of the mixture and the inputs.
    ByContent,
    /// They are left out, with the keys of inputs. The hash is no key, but distinguishes a stage that was
    /// edited from one whose inputs were.
    OwnSettings,
}

/// The meaning of a domain for a stage. Its share is in the mixture; its tests are for comparisons only.
#[derive(Serialize)]
struct DomainMeaning<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    prompts: Option<&'a DataSource>,
    /// The domain's index in the stage's mixture.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<usize>,
    format: &'a PromptFormat,
    limit: Option<u32>,
    /// `None` where the stage uses no verifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    reward: Option<RewardMeaning>,
}

impl DomainMeaning<'_> {
    fn without_files(self, files: FileScope, place: Option<usize>) -> Self {
        if files == FileScope::ByPath {
            return self;
        }
        let reward = self.reward.map(|reward| reward.without_paths());
        DomainMeaning { prompts: None, place, reward, ..self }
    }
}

fn domain(experiment: &Experiment<Objective>, id: DomainId) -> DomainMeaning<'_> {
    let Domain { prompts, format, limit, reward, .. } = experiment.domain(id);
    DomainMeaning {
        prompts: Some(prompts),
        place: None,
        format,
        limit: *limit,
        reward: (!reward.is_none()).then(|| reward.clone().meaning()),
    }
}

fn domain_of<'a>(
    experiment: &'a Experiment<Objective>,
    train: &Train<Objective>,
    id: DomainId,
    files: FileScope,
) -> DomainMeaning<'a> {
    let mut meaning = domain(experiment, id);
    meaning.reward = meaning.reward.filter(|_| train.is_judged());
    meaning.without_files(files, train.mixture.iter().position(|share| share.domain == id))
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum StageMeaning<'a> {
    Initialise(Architecture),
    /// `None` where files are left out.
    Load(Option<&'a Pretrained>),
    Train(KeyFields),
    /// For each learner, the position of its turn, its interval in steps, and its training.
    Joint(Vec<(u32, u32, KeyFields)>),
    Learner(String, u32),
    Merge {
        method: &'a MergeMethod,
        base: Option<String>,
        models: Vec<String>,
    },
}

#[derive(Serialize)]
struct ValidationMeaning<'a> {
    #[serde(flatten)]
    settings: &'a Validation,
    /// The validation rows of each domain, in the order of the mixture.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rows: Vec<&'a Option<DataSource>>,
}

impl<'a> ValidationMeaning<'a> {
    fn new(
        experiment: &'a Experiment<Objective>,
        train: &'a Train<Objective>,
        files: FileScope,
    ) -> Option<ValidationMeaning<'a>> {
        let settings = train.options.validation.as_ref()?;
        let rows = match files {
            FileScope::ByPath => {
                let domains = train.mixture.iter().map(|share| experiment.domain(share.domain));
                domains.map(|domain| &domain.validation).collect()
            }
            FileScope::ByContent | FileScope::OwnSettings => Vec::new(),
        };
        Some(ValidationMeaning { settings, rows })
    }
}

#[derive(Serialize)]
struct ExtrapolationMeaning<'a> {
    factor: f64,
    rounds: u32,
    powers_of: u32,
    weights: &'a [WeightGroup],
    judged_by: DomainMeaning<'a>,
    evaluation: &'a Evaluation,
}

impl<'a> ExtrapolationMeaning<'a> {
    fn new(
        experiment: &'a Experiment<Objective>,
        extrapolation: &'a Extrapolation,
        files: FileScope,
    ) -> ExtrapolationMeaning<'a> {
        let Extrapolation { factor, rounds, powers_of, judged_by, evaluation, weights } = extrapolation;
        let judged_by = domain(experiment, *judged_by).without_files(files, None);
        let (factor, rounds, powers_of) = (*factor, *rounds, *powers_of);
        ExtrapolationMeaning { factor, rounds, powers_of, weights, judged_by, evaluation }
    }
}

/// An arm of a route.
#[derive(Serialize)]
#[serde(untagged)]
enum ArmMeaning<'a> {
    All(DomainMeaning<'a>, TeacherMeaning<'a>),
    Where(DomainMeaning<'a>, &'a DataFormula, TeacherMeaning<'a>),
}

/// The arms of a route. `of` is the key of a model.
fn arms<'a>(
    experiment: &'a Experiment<Objective>,
    train: &'a Train<Objective>,
    choices: &'a [TeacherChoice],
    files: FileScope,
    of: &dyn Fn(&ModelId) -> String,
) -> Vec<ArmMeaning<'a>> {
    let arm = |choice: &'a TeacherChoice| {
        let weights = match &choice.teacher {
            Teacher::Model(model) => WeightsMeaning::Model(of(model)),
            Teacher::Student(copy) => WeightsMeaning::Student(*copy),
            Teacher::Composed(composition) => WeightsMeaning::Composed(composition),
            Teacher::Learner { learner, .. } => WeightsMeaning::Learner(*learner),
            Teacher::Served(served) => WeightsMeaning::Served(served.meaning()),
        };
        let sees = choice.sees.as_ref().map(|view| view.pieces.as_slice());
        let teacher = TeacherMeaning { weights, sees, own_tokens: choice.own_tokens };
        let domain = domain_of(experiment, train, choice.domain, files);
        match &choice.when {
            None => ArmMeaning::All(domain, teacher),
            Some(when) => ArmMeaning::Where(domain, when, teacher),
        }
    };
    choices.iter().map(arm).collect()
}

#[derive(Serialize)]
struct TeacherMeaning<'a> {
    #[serde(flatten)]
    weights: WeightsMeaning<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sees: Option<&'a [Piece]>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    own_tokens: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum WeightsMeaning<'a> {
    Model(String),
    Student(StudentCopy),
    /// The roles are indices into the list of scorers.
    Composed(&'a Composition),
    /// The learner's index in the stage.
    Learner(u32),
    Served(ServedMeaning<'a>),
}

/// The keys of all models, in order.
pub(super) fn keys(experiment: &Experiment<Objective>, files: FileScope) -> Vec<String> {
    texts(experiment, files).iter().map(|text| hashed(text)).collect()
}

fn hashed(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// The texts whose hashes are the keys.
pub(super) fn texts(experiment: &Experiment<Objective>, files: FileScope) -> Vec<String> {
    let (mut keys, mut texts): (Vec<String>, Vec<String>) = Default::default();
    for model in &experiment.models {
        let inputs = model.stage.inputs();
        let of = |id: &ModelId| {
            let key = &keys[id.0 as usize];
            let place = inputs.iter().position(|input| input == id).expect("it is an input of its stage");
            match files {
                FileScope::ByPath => key.clone(),
                // Two models from files that are left out have equal keys.
                FileScope::ByContent => format!("{key} input {place}"),
                FileScope::OwnSettings => format!("input {place}"),
            }
        };
        let meaning = match &model.stage {
            Stage::Initialise(architecture) => {
                let mut architecture = architecture.clone();
                if let TokenizerSpec::File(path) = &mut architecture.tokenizer
                    && files != FileScope::ByPath
                {
                    path.clear();
                }
                StageMeaning::Initialise(architecture)
            }
            Stage::Load(pretrained) => StageMeaning::Load((files == FileScope::ByPath).then_some(pretrained)),
            Stage::Merge(Merge { method, base, models }) => StageMeaning::Merge {
                method,
                base: base.as_ref().map(of),
                models: models.iter().map(of).collect(),
            },
            Stage::Train(train) => StageMeaning::Train(training(experiment, train, files, &of)),
            Stage::Joint(joint) => {
                let learners =
                    joint.learners.iter().map(|Learner { name: _, step: _, turn, every, train }| {
                        (*turn, *every, training(experiment, train, files, &of))
                    });
                StageMeaning::Joint(learners.collect())
            }
            Stage::Learner { joint, learner, .. } => StageMeaning::Learner(of(joint), *learner),
        };
        // The device and its settings are added at run time.
        texts.push(text("mopd stage", VERSION, &(experiment.dtype, meaning)));
        keys.extend(texts.last().map(|text| hashed(text)));
    }
    texts
}

/// The meaning of a training loop. `model` is the key of a model.
fn training(
    experiment: &Experiment<Objective>,
    train: &Train<Objective>,
    files: FileScope,
    model: &dyn Fn(&ModelId) -> String,
) -> KeyFields {
    // Every field is named, so that a new one does not compile before it is in the meaning or left out here.
    let Train {
        recipe,
        start,
        mixture,
        sees,
        scorers,
        panels,
        feedback,
        rollout,
        options,
        filter,
        curriculum,
        shares,
        objective,
        own_data,
        trainable,
        optimizer,
        length,
        learning_rate,
        guards,
        extrapolation,
    } = train;
    let arms = |choices| arms(experiment, train, choices, files, model);
    let domain = |id: DomainId| domain_of(experiment, train, id, files);
    let writer = |id: ModelId| FieldValue::Text(model(&id));
    let programs = train.producers().flat_map(Producer::programs).filter(|_| files == FileScope::ByPath);
    let mut fields = KeyFields::default();
    fields.add("recipe", recipe);
    fields.add("start", &model(start));
    fields.add_list("mixture", mixture.iter().map(|share| (domain(share.domain), share.share)));
    fields.add_some("sees", sees.as_ref().map(|view| &view.pieces));
    fields.add("teachers", &arms(scorers.routed()));
    let references = scorers.references().map(|(id, reference)| (domain(id), model(&reference)));
    fields.add("references", &references.collect::<Vec<_>>());
    // Those that the objective reads by name, in the order in which it does.
    fields.add_list("scorers", scorers.named().iter().map(|scorer| arms(&scorer.choices)));
    fields.add_list("panels", panels.iter().map(Panel::meaning));
    fields.add_list("feedback", feedback.iter().map(Feedback::meaning));
    fields.add("prefixes", &rollout.key(&writer));
    // With their paths, where files are not left out.
    fields.add_list("programs", programs.map(|program| (program.command, program.depends)));
    fields.add("filter", filter);
    fields.add_some("curriculum", curriculum.as_ref().map(|curriculum| curriculum.meaning(&writer)));
    fields.add_some("shares", shares.as_ref());
    fields.add("objective", &ObjectiveMeaning::new(objective));
    let own_data =
        own_data.iter().map(|own| (own.rollout.key(&writer), ObjectiveMeaning::new(&own.objective)));
    fields.add_list("own_data", own_data);
    fields.add("trainable", &trainable.map(model));
    fields.add("optimizer", optimizer);
    fields.add("length", length);
    fields.add("learning_rate", learning_rate);
    // Those that change a result.
    fields.add_list("guards", guards.iter().filter_map(Guard::meaning));
    let extrapolation = extrapolation.as_ref();
    fields
        .add_some("extrapolation", extrapolation.map(|of| ExtrapolationMeaning::new(experiment, of, files)));
    fields.add_fields(options);
    fields.replace("validation", ValidationMeaning::new(experiment, train, files));
    // As far as results depend on it.
    fields.remove("execution");
    fields.add_fields(&train.rounding());
    fields
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum StreamMeaning {
    Initialise,
    /// The mixture as shares; prompts are added at run time. The verifier does not affect random numbers.
    Train {
        recipe: Recipe,
        start: u64,
        mixture: Vec<f64>,
    },
    /// The shares of each model.
    Joint(Vec<(u64, Vec<f64>)>),
    Learner(u64, u32),
    Merge {
        base: Option<u64>,
        models: Vec<u64>,
    },
}

/// For each model, in order, the number that selects its random numbers besides the seed.
pub(super) fn streams(experiment: &Experiment<Objective>) -> Vec<u64> {
    let mut streams: Vec<u64> = Vec::new();
    for model in &experiment.models {
        let of = |id: &ModelId| streams[id.0 as usize];
        let meaning = match &model.stage {
            // The same prompts are drawn for any initial weights.
            Stage::Initialise(_) | Stage::Load(_) => StreamMeaning::Initialise,
            Stage::Train(train) => {
                let mixture = train.mixture.iter().map(|share| share.share).collect();
                StreamMeaning::Train { recipe: train.recipe, start: of(&train.start), mixture }
            }
            Stage::Joint(_) => {
                let shares = |train: &Train<Objective>| {
                    let shares = train.mixture.iter().map(|share| share.share);
                    (of(&train.start), shares.collect())
                };
                StreamMeaning::Joint(model.stage.trains().into_iter().map(shares).collect())
            }
            Stage::Learner { joint, learner, .. } => StreamMeaning::Learner(of(joint), *learner),
            Stage::Merge(merge) => StreamMeaning::Merge {
                base: merge.base.as_ref().map(of),
                models: merge.models.iter().map(of).collect(),
            },
        };
        let hash = hash("mopd stream", STREAMS, &meaning);
        let (first, _) = hash.as_bytes().split_first_chunk::<8>().expect("a hash has 32 bytes");
        streams.push(u64::from_le_bytes(*first));
    }
    streams
}

#[derive(Serialize)]
struct PlanMeaning<'a> {
    seed: u64,
    keys: &'a [String],
    domains: Vec<(DomainMeaning<'a>, f64, Option<&'a DataSource>)>,
    comparisons: Vec<ComparisonMeaning<'a>>,
}

#[derive(Serialize)]
struct ComparisonMeaning<'a> {
    rows: Vec<Vec<&'a str>>,
    columns: &'a [TableColumn],
    zero: Option<Vec<&'a str>>,
    one: Option<Vec<&'a str>>,
    seeds: u32,
}

/// The hash of the whole plan.
pub(super) fn plan(experiment: &Experiment<Objective>, keys: &[String]) -> String {
    let of = |models: &[ModelId]| models.iter().map(|id| keys[id.0 as usize].as_str()).collect::<Vec<&str>>();
    let comparisons =
        experiment.comparisons.iter().map(|Comparison { rows, columns, normalized, seeds, .. }| {
            ComparisonMeaning {
                rows: rows.iter().map(|row| of(&row.models)).collect(),
                columns,
                zero: normalized.as_ref().map(|normalized| of(&normalized.zero)),
                one: normalized.as_ref().map(|normalized| of(&normalized.one)),
                seeds: *seeds,
            }
        });
    let domains = experiment.domains.iter().zip(0..);
    let domains =
        domains.map(|(each, index)| (domain(experiment, DomainId(index)), each.share, each.tests.as_ref()));
    let (domains, comparisons) = (domains.collect(), comparisons.collect());
    let meaning = PlanMeaning { seed: experiment.seed, keys, domains, comparisons };
    hash("mopd plan", VERSION, &meaning).to_hex().to_string()
}
