//! Hashes of meaning. What a stage computes is written down as JSON without names and places, with every model replaced by
//! its own key and every domain by its content, and hashed. So renaming, comments and unrelated changes keep a key, and any
//! number that enters the computation changes it.

use serde::Serialize;

use crate::expr::graph::{Graph, NodeId};
use crate::plan::{
    AdamW, Architecture, Comparison, Completions, DataFormula, DataSource, Domain, DomainId, Evaluation, Experiment, Formula,
    Length, Live, MergeMethod, ModelId, Objective, Prefixes, Pretrained, PromptFormat, Recipe, Reward, Sampling, Schedule, Stage,
    StudentCopy, Teacher, Train, Trainable,
};

/// Raised whenever the same settings come to mean something else, so that old results are not taken for new ones.
const VERSION: u32 = 2;

/// The same of random numbers.
const STREAMS: u32 = 1;

/// What a domain is to a stage. Its share is in the stage's mixture; its tests are for comparisons only.
#[derive(Serialize)]
struct DomainMeaning<'a> {
    prompts: &'a DataSource,
    format: &'a PromptFormat,
    limit: Option<u32>,
    reward: &'a Reward,
}

fn domain(experiment: &Experiment<Objective>, id: DomainId) -> DomainMeaning<'_> {
    let Domain { prompts, format, limit, reward, .. } = experiment.domain(id);
    DomainMeaning { prompts, format, limit: *limit, reward }
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum StageMeaning<'a> {
    Initialise(&'a Architecture),
    /// What the files hold is added at run time.
    Load(&'a Pretrained),
    Train(Box<TrainMeaning<'a>>),
    Merge {
        method: &'a MergeMethod,
        base: Option<&'a str>,
        models: Vec<&'a str>,
    },
}

#[derive(Serialize)]
struct TrainMeaning<'a> {
    recipe: Recipe,
    start: &'a str,
    mixture: Vec<(DomainMeaning<'a>, f64)>,
    teachers: Vec<ArmMeaning<'a>>,
    references: Vec<(DomainMeaning<'a>, &'a str)>,
    prefixes: PrefixesMeaning<'a>,
    passes: u32,
    filter: &'a Option<Formula>,
    objective: ObjectiveMeaning<'a>,
    trainable: &'a Trainable,
    optimizer: &'a AdamW,
    length: Length,
    learning_rate: &'a Schedule,
    ema: Option<f64>,
    /// It moves the rounding of sums; layers that are computed again give the same bits.
    micro_batch: Option<u32>,
}

/// An arm of a route.
#[derive(Serialize)]
#[serde(untagged)]
enum ArmMeaning<'a> {
    All(DomainMeaning<'a>, TeacherMeaning<'a>),
    Where(DomainMeaning<'a>, &'a DataFormula, TeacherMeaning<'a>),
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum TeacherMeaning<'a> {
    Model(&'a str),
    Student(StudentCopy),
}

#[derive(Serialize)]
#[serde(untagged)]
enum PrefixesMeaning<'a> {
    /// What names no model.
    Plain(&'a Prefixes),
    Pairs {
        chosen: CompletionsMeaning<'a>,
        rejected: CompletionsMeaning<'a>,
        batch: u32,
    },
}

#[derive(Serialize)]
#[serde(untagged)]
enum CompletionsMeaning<'a> {
    Plain(&'a Completions),
    Model { model: &'a str, sampling: &'a Sampling },
}

/// An objective without its name, its terms' names and its normal form, which only describes.
#[derive(Serialize)]
struct ObjectiveMeaning<'a> {
    graph: &'a Graph,
    loss: NodeId,
    live: Vec<(&'a Live, NodeId)>,
    terms: Vec<NodeId>,
    signal: NodeId,
    clipped: Option<NodeId>,
    selected: Option<NodeId>,
    weight: Option<NodeId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
}

impl<'a> ObjectiveMeaning<'a> {
    fn of(objective: &'a Objective) -> ObjectiveMeaning<'a> {
        ObjectiveMeaning {
            graph: &objective.graph,
            loss: objective.loss,
            live: objective.live.iter().map(|live| (&live.primitive, live.adjoint)).collect(),
            terms: objective.terms.iter().map(|term| term.value).collect(),
            signal: objective.signal,
            clipped: objective.clipped,
            selected: objective.selected,
            weight: objective.weight,
            temperature: Some(objective.temperature).filter(|temperature| *temperature != 1.0),
        }
    }
}

/// One per model, in order.
pub(super) fn keys(experiment: &Experiment<Objective>) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    for model in &experiment.models {
        let of = |id: &ModelId| keys[id.0 as usize].as_str();
        let meaning = match &model.stage {
            Stage::Initialise(architecture) => StageMeaning::Initialise(architecture),
            Stage::Load(pretrained) => StageMeaning::Load(pretrained),
            Stage::Merge(merge) => StageMeaning::Merge {
                method: &merge.method,
                base: merge.base.as_ref().map(of),
                models: merge.models.iter().map(of).collect(),
            },
            Stage::Train(train) => StageMeaning::Train(Box::new(TrainMeaning {
                recipe: train.recipe,
                start: of(&train.start),
                mixture: mixture(experiment, train),
                teachers: train
                    .teachers
                    .iter()
                    .map(|choice| {
                        let teacher = match &choice.teacher {
                            Teacher::Model(model) => TeacherMeaning::Model(of(model)),
                            Teacher::Student(copy) => TeacherMeaning::Student(*copy),
                        };
                        let domain = domain(experiment, choice.domain);
                        match &choice.when {
                            None => ArmMeaning::All(domain, teacher),
                            Some(when) => ArmMeaning::Where(domain, when, teacher),
                        }
                    })
                    .collect(),
                references: train
                    .references
                    .iter()
                    .map(|choice| (domain(experiment, choice.domain), of(&choice.reference)))
                    .collect(),
                prefixes: match &train.prefixes {
                    Prefixes::Pairs { chosen, rejected, batch } => {
                        let [chosen, rejected] = [chosen, rejected].map(|side| completions(side, &keys));
                        PrefixesMeaning::Pairs { chosen, rejected, batch: *batch }
                    }
                    plain => PrefixesMeaning::Plain(plain),
                },
                passes: train.passes,
                filter: &train.filter,
                objective: ObjectiveMeaning::of(&train.objective),
                trainable: &train.trainable,
                optimizer: &train.optimizer,
                length: train.length,
                learning_rate: &train.learning_rate,
                ema: train.ema,
                micro_batch: train.execution.micro_batch,
            })),
        };
        // Where it is computed is added at run time.
        let key = hash(&("mopd stage", VERSION, experiment.dtype, meaning)).to_hex().to_string();
        keys.push(key);
    }
    keys
}

fn completions<'a>(side: &'a Completions, keys: &'a [String]) -> CompletionsMeaning<'a> {
    match side {
        Completions::Model { model, sampling } => CompletionsMeaning::Model { model: &keys[model.0 as usize], sampling },
        plain => CompletionsMeaning::Plain(plain),
    }
}

fn mixture<'a>(experiment: &'a Experiment<Objective>, train: &Train<Objective>) -> Vec<(DomainMeaning<'a>, f64)> {
    train.mixture.iter().map(|share| (domain(experiment, share.domain), share.share)).collect()
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum StreamMeaning<'a> {
    Initialise,
    /// Prompts and shares: another verifier judges the same rollouts.
    Train {
        recipe: Recipe,
        start: u64,
        mixture: Vec<(&'a str, f64)>,
    },
    Merge {
        base: Option<u64>,
        models: Vec<u64>,
    },
}

/// One per model, in order: what its random numbers depend on besides the seed.
pub(super) fn streams(experiment: &Experiment<Objective>) -> Vec<u64> {
    let mut streams: Vec<u64> = Vec::new();
    for model in &experiment.models {
        let of = |id: &ModelId| streams[id.0 as usize];
        let meaning = match &model.stage {
            // Trained from whatever weights, the same prompts are drawn.
            Stage::Initialise(_) | Stage::Load(_) => StreamMeaning::Initialise,
            Stage::Train(train) => {
                let prompts = |domain: DomainId| experiment.domain(domain).prompts.path.as_str();
                let mixture = train.mixture.iter().map(|share| (prompts(share.domain), share.share)).collect();
                StreamMeaning::Train { recipe: train.recipe, start: of(&train.start), mixture }
            }
            Stage::Merge(merge) => {
                StreamMeaning::Merge { base: merge.base.as_ref().map(of), models: merge.models.iter().map(of).collect() }
            }
        };
        let hash = hash(&("mopd stream", STREAMS, meaning));
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
    domains: &'a [DomainId],
    zero: Option<Vec<&'a str>>,
    one: Option<Vec<&'a str>>,
    seeds: u32,
    evaluation: &'a Evaluation,
}

/// The hash of the whole plan.
pub(super) fn plan(experiment: &Experiment<Objective>, keys: &[String]) -> String {
    let of = |models: &[ModelId]| models.iter().map(|id| keys[id.0 as usize].as_str()).collect::<Vec<&str>>();
    let comparisons =
        experiment.comparisons.iter().map(|Comparison { rows, domains, normalized, seeds, evaluation, .. }| ComparisonMeaning {
            rows: rows.iter().map(|row| of(&row.models)).collect(),
            domains,
            zero: normalized.as_ref().map(|normalized| of(&normalized.zero)),
            one: normalized.as_ref().map(|normalized| of(&normalized.one)),
            seeds: *seeds,
            evaluation,
        });
    let domains = experiment
        .domains
        .iter()
        .zip(0..)
        .map(|(each, index)| (domain(experiment, DomainId(index)), each.share, each.tests.as_ref()));
    let meaning = PlanMeaning { seed: experiment.seed, keys, domains: domains.collect(), comparisons: comparisons.collect() };
    hash(&("mopd plan", VERSION, meaning)).to_hex().to_string()
}

/// Fields are written in the order of their declaration, so the text is the same for the same meaning.
fn hash(meaning: &impl Serialize) -> blake3::Hash {
    blake3::hash(serde_json::to_string(meaning).expect("a meaning is plain data").as_bytes())
}
