//! Content keys: hashes of all that a result depends on. Two tasks with the same key have the same result.
//!
//! Every part of a key is a field of a struct here, which is serialised and hashed with [`keys::VERSION`];
//! the machine's arithmetic is in [`Numeric`].

mod rollouts;

use std::collections::{BTreeMap, BTreeSet};

use mopd_plan::events::Fork;
use mopd_plan::keys;
use mopd_plan::{
    Domain, DomainId, EngineJob, EngineStage, Evaluation, Learner, ModelId, Objective, Plan, PromptFormat,
    RewardMeaning, Rollout, Sampling, Stage, StageFacts, TokenizerSpec, Train,
};
use serde::Serialize;
use serde_json::Value;

use super::{LARGE, Task, Work, stream};
use crate::machine::arithmetic::Numeric;
use crate::model::Weights;
use crate::prepare::prompts::Prompts;
use crate::prepare::{DomainData, ModelSpec};
use crate::remote::Servers;
use crate::tokenizer;
use crate::zip::zip_equal;

/// The keys of every task, of the rollouts that frozen models write for it before its first step, and of
/// their scores of its data.
pub struct Keys {
    tasks: Vec<TaskKeys>,
}

/// Name of a hash of a stage's settings without those of its inputs. It is recorded with the parts of the
/// key, but is not one of them.
pub const OWN_SETTINGS: &str = "own_settings";

struct TaskKeys {
    result: String,
    /// Keys of the other models that the stage trains.
    beside: Vec<String>,
    rollouts: Option<String>,
    scores: Vec<(ModelId, String)>,
    /// The parts of the result's key, where a stage computes it, and [`OWN_SETTINGS`].
    parts: Option<Value>,
}

impl TaskKeys {
    fn of(result: String) -> TaskKeys {
        TaskKeys { result, beside: Vec::new(), rollouts: None, scores: Vec::new(), parts: None }
    }

    /// `own_settings` helps to explain the key, but is not a part of it.
    fn of_stage(key: &StageKey, own_settings: &str) -> TaskKeys {
        let mut parts = serde_json::to_value(key).expect("a key is plain data");
        parts[OWN_SETTINGS] = own_settings.into();
        TaskKeys { parts: Some(parts), ..TaskKeys::of(hashed("mopd result", key)) }
    }
}

/// Increased whenever scores with the same key have other values, or another file format.
const SCORES: u32 = 1;

/// How a result is computed.
#[derive(Clone, Copy, Serialize)]
struct ComputeKey<'a> {
    numeric: &'a Numeric<'a>,
    seed: u64,
    /// Rounding depends on the number of cores.
    cores: usize,
    /// The engine that trains the stage, if it is not this program.
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<EngineKey<'a>>,
}

/// How an engine trains a stage: it rounds, and samples, in its own way.
#[derive(Clone, Copy, Serialize)]
struct EngineKey<'a> {
    name: &'a str,
    versions: &'a BTreeMap<String, String>,
    processes: u32,
    program: &'a str,
}

impl EngineKey<'_> {
    fn new(engine: &EngineJob, model: ModelId) -> Option<EngineKey<'_>> {
        let EngineJob { name, versions, processes, python: _, stages: _ } = engine;
        let EngineStage { program, files: _, model: _, completions: _, models: _ } = engine.stage(model)?;
        Some(EngineKey { name, versions, processes: *processes, program })
    }
}

impl ComputeKey<'_> {
    /// Of what frozen models compute for a stage, which no engine does.
    fn of_frozen_models(self) -> Self {
        ComputeKey { engine: None, ..self }
    }
}

#[derive(Serialize)]
struct StageKey<'a> {
    computed: ComputeKey<'a>,
    /// A forked stage differs from the plan's.
    fork: Option<ForkKey<'a>>,
    /// The plan's settings, without files.
    settings: &'a str,
    /// The tokenizer of a new model, of which the plan's settings have only the path.
    tokenizer: Option<String>,
    /// In the order of the mixture.
    data: Vec<DataKey<'a>>,
    /// The data of the benchmark that a stage adapts to, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    judge: Option<DataKey<'a>>,
    /// The validation data, if the stage validates, in the order of the mixture.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    validation: Vec<DataKey<'a>>,
    /// Hashes of the programs that its rollouts start.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    environments: &'a [String],
    /// Identities of the servers of its teachers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    served: Vec<String>,
    inputs: Vec<&'a str>,
}

#[derive(Serialize)]
struct ForkKey<'a> {
    key: &'a str,
    step: u32,
}

/// Increased whenever the stored fields of answers change.
const ANSWERS: u32 = 3;

/// The data that is read of a domain.
#[derive(Clone, Serialize)]
struct DataKey<'a> {
    rows: Option<&'a str>,
    /// The date, if a chat template reads it.
    day: Option<String>,
    /// Hash of the reward's programs: an edited verifier is another verifier.
    program: Option<String>,
}

impl<'a> DataKey<'a> {
    /// `readers` are the tokenizers of the models that read the prompts.
    fn new<'t>(
        data: &'a DomainData,
        prompts: Option<&'a Prompts>,
        readers: impl IntoIterator<Item = &'t tokenizer::Tokenizer>,
    ) -> DataKey<'a> {
        DataKey {
            rows: prompts.map(|prompts| prompts.dataset.hash.as_str()),
            day: prompts.and_then(|prompts| prompts.day(readers)),
            program: data.program(),
        }
    }
}

/// The key of a folder with a frozen model's scores of a stage's data, which is listed and pruned as a whole.
/// The names of its entries identify the scored batches.
#[derive(Serialize)]
struct ScoresKey<'a> {
    version: u32,
    computed: ComputeKey<'a>,
    stream: u64,
    prefixes: &'a Rollout,
    model: &'a str,
    rollouts: Option<&'a str>,
    data: Vec<DataKey<'a>>,
}

#[derive(Serialize)]
struct EvaluationKey<'a> {
    computed: ComputeKey<'a>,
    answers: u32,
    samples: u32,
    temperature: f64,
    max_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repetition_penalty: Option<f64>,
    stop: &'a [String],
    prompts: Option<u32>,
    reward: RewardMeaning,
    format: &'a PromptFormat,
    data: DataKey<'a>,
    model: &'a str,
}

fn hashed(kind: &str, key: &impl Serialize) -> String {
    keys::hash(kind, keys::VERSION, key).to_hex().to_string()
}

/// The key of one of the models that a stage trains, by its index.
fn learner_key(joint: &str, learner: u32) -> String {
    hashed("mopd learner", &(joint, learner))
}

/// What the keys of a plan's tasks are made from. Rounding may depend on `widths`.
pub struct KeyInputs<'a> {
    pub plan: &'a Plan,
    pub tasks: &'a [Task],
    pub specs: &'a [ModelSpec],
    pub domains: &'a [DomainData],
    /// Hashes of the programs of each model's stage.
    pub environments: &'a [Vec<String>],
    pub servers: &'a Servers,
    pub numeric: &'a Numeric<'a>,
    pub forks: &'a [Fork],
    /// Number of cores of each task.
    pub widths: &'a [usize],
    /// The engine that trains some stages.
    pub engine: Option<&'a EngineJob>,
}

impl Keys {
    pub fn new(inputs: &KeyInputs) -> Keys {
        let mut made: Vec<TaskKeys> = Vec::with_capacity(inputs.tasks.len());
        for (task, width) in zip_equal(inputs.tasks, inputs.widths) {
            made.push(inputs.task(task, *width, &made));
        }
        Keys { tasks: made }
    }

    pub fn of(&self, task: usize) -> &str {
        &self.tasks[task].result
    }

    /// The key of a loaded model as the base of adapters, if its file can't be one.
    pub fn of_base(&self, task: usize) -> String {
        hashed("mopd base", &self.of(task))
    }

    /// The parts of the key of a computed stage, and [`OWN_SETTINGS`].
    pub fn parts(&self, task: usize) -> Option<&Value> {
        self.tasks[task].parts.as_ref()
    }

    /// Keys of the other models that a stage trains.
    pub fn other_models(&self, task: usize) -> &[String] {
        &self.tasks[task].beside
    }

    /// Keys of all results of a task.
    pub fn all_of(&self, task: usize) -> impl Iterator<Item = &str> {
        std::iter::once(self.of(task)).chain(self.other_models(task).iter().map(String::as_str))
    }

    /// The key of a model's scores of a stage's data, where they are stored.
    pub fn of_scores(&self, task: usize, model: ModelId) -> Option<&str> {
        self.tasks[task].scores.iter().find(|(known, _)| *known == model).map(|(_, key)| key.as_str())
    }

    /// The keys of all models' scores of a stage's data.
    pub fn all_scores(&self, task: usize) -> impl Iterator<Item = &str> {
        self.tasks[task].scores.iter().map(|(_, key)| key.as_str())
    }

    /// The key of the rollouts that frozen models write for a stage before its first step, if any.
    pub fn of_rollouts(&self, task: usize) -> Option<&str> {
        self.tasks[task].rollouts.as_deref()
    }
}

impl<'a> KeyInputs<'a> {
    /// `before` are the keys of the earlier tasks, which include its inputs.
    fn task(&self, task: &Task, cores: usize, before: &[TaskKeys]) -> TaskKeys {
        let engine = match task.work {
            Work::Stage(model) => self.engine.and_then(|engine| EngineKey::new(engine, model)),
            Work::Evaluate { .. } => None,
        };
        let computed = ComputeKey { numeric: self.numeric, seed: task.seed, cores, engine };
        match &task.work {
            Work::Stage(model) => match &self.specs[model.0 as usize].loaded {
                // A loaded model depends neither on its name nor on the seed.
                Some(loaded) => TaskKeys::of(hashed("mopd loaded", &loaded.content)),
                None => self.stage(task, *model, computed, before),
            },
            Work::Evaluate { model, domain, evaluation, comparisons: _ } => {
                let key = self.evaluation(task, *model, *domain, evaluation, computed, before);
                TaskKeys::of(hashed("mopd evaluation", &key))
            }
        }
    }

    fn spec(&self, model: ModelId) -> &'a ModelSpec {
        &self.specs[model.0 as usize]
    }

    /// The data that a stage reads of its domains.
    fn data(&self, train: &'a Train<Objective>) -> impl Iterator<Item = DataKey<'a>> {
        train.mixture.iter().map(|share| {
            let data = &self.domains[share.domain.0 as usize];
            let rows = data.rows_of(train).map(|rows| &**rows);
            let key = DataKey::new(data, rows, readers(train, share.domain, self.specs));
            DataKey { program: key.program.filter(|_| train.is_judged()), ..key }
        })
    }

    fn validation(&self, train: &'a Train<Objective>) -> impl Iterator<Item = DataKey<'a>> {
        let spec = self.spec(train.start);
        train.mixture.iter().filter(|_| train.options.validation.is_some()).map(|share| {
            let data = &self.domains[share.domain.0 as usize];
            // Validation computes a loss and uses no verifier.
            DataKey { program: None, ..DataKey::new(data, data.validation.as_deref(), [&*spec.tokenizer]) }
        })
    }

    fn stage(&self, task: &Task, model: ModelId, computed: ComputeKey<'a>, before: &[TaskKeys]) -> TaskKeys {
        let (stage, spec) = (&self.plan.experiment.model(model).stage, self.spec(model));
        let StageFacts { content_key, own_settings, .. } = &self.plan.stages[model.0 as usize];
        let mut key = StageKey {
            computed,
            fork: fork_of(self.forks, self.plan, task)
                .map(|Fork { key, step, .. }| ForkKey { key, step: *step }),
            settings: content_key,
            tokenizer: None,
            data: Vec::new(),
            judge: None,
            validation: Vec::new(),
            environments: &self.environments[model.0 as usize],
            served: stage.trains().into_iter().flat_map(|train| self.servers.identities(train)).collect(),
            inputs: task.needs.iter().map(|need| before[*need].result.as_str()).collect(),
        };
        let (mut rollouts, mut scores) = (None, Vec::new());
        match stage {
            Stage::Initialise(architecture) => {
                key.tokenizer =
                    (architecture.tokenizer != TokenizerSpec::Bytes).then(|| spec.tokenizer.hash());
            }
            Stage::Load(_) | Stage::Merge(_) => {}
            Stage::Learner { learner, .. } => {
                return TaskKeys::of(learner_key(&before[task.needs[0]].result, *learner));
            }
            // For learners that take turns, rollouts and scores of frozen models are not stored.
            Stage::Joint(joint) => {
                for Learner { train, .. } in &joint.learners {
                    key.data.extend(self.data(train));
                    key.validation.extend(self.validation(train));
                }
                let keys = TaskKeys::of_stage(&key, own_settings);
                let others = 1..joint.learners.len() as u32;
                let beside = others.map(|learner| learner_key(&keys.result, learner)).collect();
                return TaskKeys { beside, ..keys };
            }
            Stage::Train(train) => {
                let stream = stream(self.plan, model, self.domains);
                key.data = self.data(train).collect();
                key.judge = train.extrapolation.as_ref().map(|extrapolation| {
                    let data = &self.domains[extrapolation.judged_by.0 as usize];
                    DataKey::new(data, data.tests.as_deref(), [&*spec.tokenizer])
                });
                key.validation = self.validation(train).collect();
                let result_of = |wanted: ModelId| {
                    let made = |need: &&usize| self.tasks[**need].work == Work::Stage(wanted);
                    let need = task.needs.iter().find(made).expect("a stage's inputs are among its needs");
                    before[*need].result.as_str()
                };
                rollouts = self
                    .rollouts(train, spec, &key, stream, &result_of)
                    .map(|key| hashed("mopd rollouts", &key));
                let large = scorers(train).into_iter().filter(|id| large(self.spec(*id)));
                scores = large
                    .map(|scorer| {
                        let key = ScoresKey {
                            version: SCORES,
                            computed: computed.of_frozen_models(),
                            stream,
                            prefixes: &train.rollout,
                            model: result_of(scorer),
                            rollouts: rollouts.as_deref(),
                            // Scores of tokens do not depend on verifiers.
                            data: key
                                .data
                                .iter()
                                .map(|data| DataKey { program: None, ..data.clone() })
                                .collect(),
                        };
                        (scorer, hashed("mopd scores", &key))
                    })
                    .collect();
            }
        }
        TaskKeys { rollouts, scores, ..TaskKeys::of_stage(&key, own_settings) }
    }

    fn evaluation<'k>(
        &'k self,
        task: &Task,
        model: ModelId,
        domain: DomainId,
        evaluation: &'k Evaluation,
        computed: ComputeKey<'k>,
        before: &'k [TaskKeys],
    ) -> EvaluationKey<'k> {
        let Domain { reward, format, limit, .. } = self.plan.experiment.domain(domain);
        let Evaluation { sampling, prompts } = evaluation;
        let data = &self.domains[domain.0 as usize];
        // Evaluations never change `max_tokens` or `temperature`, or draw two tokens in a step.
        let Sampling {
            n: _,
            temperature,
            max_tokens: _,
            max_tokens_moves: _,
            top_p,
            top_k,
            repetition_penalty,
            accept: _,
            stop,
        } = sampling;
        EvaluationKey {
            computed,
            answers: ANSWERS,
            samples: evaluation.samples(),
            temperature: temperature.constant().expect("an evaluation has one temperature"),
            max_tokens: sampling.max_tokens(*limit),
            top_p: *top_p,
            top_k: *top_k,
            repetition_penalty: *repetition_penalty,
            stop,
            prompts: *prompts,
            reward: reward.without_paths().meaning(),
            format,
            data: DataKey::new(data, data.tests.as_deref(), [&*self.spec(model).tokenizer]),
            model: &before[task.needs[0]].result,
        }
    }
}

/// The tokenizers that read the prompts of a domain: the student's, and those of teachers with another
/// tokenizer.
fn readers<'f>(
    train: &Train<Objective>,
    domain: DomainId,
    specs: &'f [ModelSpec],
) -> Vec<&'f tokenizer::Tokenizer> {
    let others = train.scorers.readers(domain).filter(|choice| choice.own_tokens);
    let others = others.filter_map(|choice| choice.teacher.model());
    std::iter::once(train.start).chain(others).map(|id| &*specs[id.0 as usize].tokenizer).collect()
}

/// The models whose scores of the stage's completions can be stored: frozen ones, where completions are not
/// sampled anew in every step.
fn scorers(train: &Train<Objective>) -> BTreeSet<ModelId> {
    train.scorers.models().filter(|_| !train.rollout.producer.is_redrawn()).collect()
}

/// Whether a model is so large that reading stored scores is faster than scoring. The rule is by size,
/// because a stage's result must not depend on measured times.
fn large(spec: &ModelSpec) -> bool {
    Weights::parameters(&spec.config) >= LARGE
}

/// The fork that a task resumes from, if it is a forked stage.
pub fn fork_of<'f>(forks: &'f [Fork], plan: &Plan, task: &Task) -> Option<&'f Fork> {
    let Work::Stage(model) = task.work else { return None };
    forks.iter().find(|fork| fork.seed == task.seed && fork.stage == plan.experiment.model(model).name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compiled;
    use crate::model::tests::tiny;
    use crate::tokenizer::tests::pretrained;

    /// How many tokenizers read the prompts, if `teacher` has another one.
    fn tokenizers(teacher: &str) -> usize {
        let plan = compiled::plan(format!(
            "use std.cross_tokenizer.uld\n\
             experiment \"t\" {{ seed = 1 }}\n\
             domain d {{ prompts = \"d.jsonl\", format = chat, reward = exact_match }}\n\
             model base = hf(\"small\")\n\
             teacher one = hf(\"one\"){teacher}\n\
             route {{ else -> one }}\n\
             model student = distill(base) {{ objective = uld(), rollout = sample(n: 1, temperature: 1, \
             max_tokens: 8), prompts = 2, steps = 10, lr = 1e-3 }}\n"
        ));
        let train = compiled::train(&plan, "student");
        let spec = |id: usize| {
            let tokenizer =
                if id == train.start.0 as usize { tokenizer::Tokenizer::Bytes } else { pretrained("llama3") };
            ModelSpec { config: tiny().into(), tokenizer: tokenizer.into(), loaded: None, of_files: false }
        };
        let specs: Vec<ModelSpec> = (0..plan.experiment.models.len()).map(spec).collect();
        let mut found = readers(train, train.mixture[0].domain, &specs);
        found.dedup_by_key(|tokenizer| tokenizer.hash());
        found.len()
    }

    /// The key of a domain includes what each reader's chat template makes of the prompts.
    #[test]
    fn a_teacher_with_another_tokenizer_reads_the_prompts_by_its_own() {
        assert_eq!(tokenizers(" { origin = foreign, align = tokens }"), 2);
        assert_eq!(tokenizers(" { origin = same }"), 1, "it reads the student's tokens");
    }
}
