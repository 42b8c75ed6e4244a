//! Content keys: what a result depends on, hashed. Two tasks with the same key have the same result.

use std::collections::BTreeSet;

use mopd_compiler::plan::events::Fork;
use mopd_compiler::plan::{
    Completions, Domain, Evaluation, ModelId, Objective, Plan, Prefixes, Reward, Sampling, Stage, Teacher,
    Tokenizer, Train,
};

use super::{LARGE, Task, Work, stream};
use crate::arithmetic::Numeric;
use crate::evaluate::samples;
use crate::model::Weights;
use crate::prepare::{DomainData, Form};
use crate::zip::zip_equal;

/// The key of every task, of the rollouts that frozen models write for it before its first step, and of what
/// they say of its data.
pub struct Keys {
    tasks: Vec<String>,
    rollouts: Vec<Option<String>>,
    scores: Vec<Vec<(ModelId, String)>>,
}

/// Raised whenever scores of the same name are other numbers, or are written down otherwise.
const SCORES: u32 = 1;

impl Keys {
    /// `widths` are the cores of each task: others may round differently.
    pub fn new(
        plan: &Plan,
        tasks: &[Task],
        forms: &[Form],
        domains: &[DomainData],
        numeric: &Numeric,
        widths: &[usize],
        forks: &[Fork],
    ) -> Keys {
        let numeric = serde_json::to_string(numeric).expect("arithmetic is plain data");
        let mut keys: Vec<String> = Vec::with_capacity(tasks.len());
        let mut rollouts: Vec<Option<String>> = vec![None; tasks.len()];
        let mut scores: Vec<Vec<(ModelId, String)>> = vec![Vec::new(); tasks.len()];
        for (index, (task, width)) in zip_equal(tasks, widths).enumerate() {
            let loaded = match task.work {
                Work::Stage(model) => forms[model.0 as usize].loaded.as_ref(),
                Work::Evaluate { .. } => None,
            };
            if let Some(loaded) = loaded {
                // Neither its name nor the seed changes what it is.
                keys.push(
                    blake3::hash(format!("content {}", loaded.content).as_bytes()).to_hex().to_string(),
                );
                continue;
            }
            let mut parts = vec![numeric.clone(), format!("seed {}", task.seed)];
            if *width > 1 {
                parts.push(format!("cores {width}"));
            }
            match &task.work {
                Work::Stage(model) => {
                    // What goes on from elsewhere is not what the plan says.
                    if let Some(Fork { key, step, .. }) = fork_of(forks, plan, task) {
                        parts.push(format!("forked from {key} at step {step}"));
                    }
                    parts.push(format!("stage {}", plan.stages[model.0 as usize].content_key));
                    // The compiler knows its path only.
                    if let Stage::Initialise(architecture) = &plan.experiment.model(*model).stage
                        && architecture.tokenizer != Tokenizer::Bytes
                    {
                        parts.push(format!("tokenizer {}", forms[model.0 as usize].tokenizer.hash()));
                    }
                    if let Stage::Train(train) = &plan.experiment.model(*model).stage {
                        let mut read = Vec::new();
                        for share in &train.mixture {
                            let data = &domains[share.domain.0 as usize];
                            read.extend(
                                data.train.iter().map(|train| format!("data {}", train.dataset.hash)),
                            );
                            read.extend(
                                data.train
                                    .iter()
                                    .filter_map(|train| train.day(&forms[model.0 as usize].tokenizer)),
                            );
                            read.extend(program(data));
                        }
                        if let Prefixes::Teacher { sequences, keep, sampling, .. } = &train.prefixes {
                            let mut own = vec![
                                numeric.clone(),
                                format!("seed {} stream {}", task.seed, stream(plan, *model, domains)),
                            ];
                            own.push(format!(
                                "{width} cores, {sequences} rollouts, {keep:?} of them kept, {sampling:?}"
                            ));
                            own.push(format!("tokenizer {}", forms[model.0 as usize].tokenizer.hash()));
                            for share in &train.mixture {
                                let Domain { reward, format, limit, .. } =
                                    plan.experiment.domain(share.domain);
                                own.push(format!(
                                    "share {} {} {format:?} {limit:?}",
                                    share.share,
                                    judged(reward)
                                ));
                                for arm in train.arms(share.domain) {
                                    let writer = match arm.teacher {
                                        Teacher::Model(id) => id,
                                        // Before the first step it is what the stage starts from.
                                        Teacher::Student(_) => train.start,
                                    };
                                    own.extend(arm.when.as_ref().map(|when| format!("where {when:?}")));
                                    let made = |need: &&usize| tasks[**need].work == Work::Stage(writer);
                                    own.extend(
                                        task.needs
                                            .iter()
                                            .find(made)
                                            .map(|need| format!("by {}", keys[*need])),
                                    );
                                }
                            }
                            own.extend(read.iter().cloned());
                            rollouts[index] =
                                Some(blake3::hash(own.join("\n").as_bytes()).to_hex().to_string());
                        }
                        let stream = stream(plan, *model, domains);
                        for scorer in scorers(train).into_iter().filter(|id| large(&forms[id.0 as usize])) {
                            // What they read is in the names of the entries: this is what is listed and
                            // pruned together.
                            let mut own =
                                vec![format!("scores {SCORES}"), numeric.clone(), format!("cores {width}")];
                            own.push(format!("seed {} stream {stream} {:?}", task.seed, train.prefixes));
                            let made = |need: &&usize| tasks[**need].work == Work::Stage(scorer);
                            own.extend(
                                task.needs.iter().find(made).map(|need| format!("by {}", keys[*need])),
                            );
                            own.extend(rollouts[index].iter().cloned());
                            own.extend(read.iter().filter(|what| !what.starts_with(PROGRAM)).cloned());
                            let key = blake3::hash(own.join("\n").as_bytes()).to_hex().to_string();
                            scores[index].push((scorer, key));
                        }
                        parts.extend(read);
                    }
                }
                Work::Evaluate { model, domain, comparisons } => {
                    let Domain { reward, format, limit, .. } = plan.experiment.domain(*domain);
                    let Evaluation { sampling, prompts } = super::evaluation(plan, comparisons);
                    let data = &domains[domain.0 as usize];
                    parts.push(format!(
                        "evaluation of {} on {} {format:?} {prompts:?}",
                        samples(sampling),
                        judged(reward)
                    ));
                    let Sampling { n: _, temperature, max_tokens: _, top_p, top_k, stop } = sampling;
                    parts.push(format!("temperature {temperature} tokens {}", sampling.max_tokens(*limit)));
                    parts.push(format!("of {top_p:?} {top_k:?} up to {stop:?}"));
                    parts.extend(data.tests.iter().map(|tests| format!("data {}", tests.dataset.hash)));
                    parts.extend(
                        data.tests.iter().filter_map(|tests| tests.day(&forms[model.0 as usize].tokenizer)),
                    );
                    parts.extend(program(data));
                }
            }
            parts.extend(task.needs.iter().map(|need| format!("input {}", keys[*need])));
            keys.push(blake3::hash(parts.join("\n").as_bytes()).to_hex().to_string());
        }
        Keys { tasks: keys, rollouts, scores }
    }

    pub fn of(&self, task: usize) -> &str {
        &self.tasks[task]
    }

    /// Of what a model says of a stage's data, where that is kept.
    pub fn of_scores(&self, task: usize, model: ModelId) -> Option<&str> {
        self.scores[task].iter().find(|(known, _)| *known == model).map(|(_, key)| key.as_str())
    }

    /// Of what all models say of a stage's data.
    pub fn all_scores(&self, task: usize) -> impl Iterator<Item = &str> {
        self.scores[task].iter().map(|(_, key)| key.as_str())
    }

    /// Of the rollouts that frozen models write for a stage before its first step, where there are any.
    pub fn of_rollouts(&self, task: usize) -> Option<&str> {
        self.rollouts[task].as_deref()
    }
}

/// The models beside the student whose view of the stage's completions can be kept: those that do not change,
/// of completions that are not written anew in every step.
fn scorers(train: &Train<Objective>) -> BTreeSet<ModelId> {
    let fixed = match &train.prefixes {
        Prefixes::Data { .. } | Prefixes::Teacher { .. } => true,
        Prefixes::Pairs { chosen, rejected, .. } => {
            [chosen, rejected].iter().all(|side| matches!(side, Completions::Data { .. }))
        }
        Prefixes::Student { .. } => false,
    };
    let teachers = train.teachers.iter().filter_map(|choice| choice.teacher.model());
    let models = teachers.chain(train.references.iter().map(|choice| choice.reference));
    models.filter(|_| fixed).collect()
}

/// Whether a model takes longer to score a batch than to read what it said: that depends on the model alone,
/// as a stage's result must not depend on how long something took.
fn large(form: &Form) -> bool {
    Weights::parameters(&form.config) >= LARGE
}

/// What a task is to go on from, where it is a stage that is forked.
pub fn fork_of<'f>(forks: &'f [Fork], plan: &Plan, task: &Task) -> Option<&'f Fork> {
    let Work::Stage(model) = task.work else { return None };
    forks.iter().find(|fork| fork.seed == task.seed && fork.stage == plan.experiment.model(model).name)
}

const PROGRAM: &str = "program";

/// An edited verifier is another verifier.
fn program(data: &DomainData) -> Option<String> {
    data.program.as_ref().map(|hash| format!("{PROGRAM} {hash}"))
}

/// How a completion is judged, apart from the content of files.
fn judged(reward: &Reward) -> String {
    serde_json::to_string(&reward.without_paths()).expect("a reward is plain data")
}
