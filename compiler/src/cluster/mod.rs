//! Predicts how long a stage would take on several machines, by simulating its steps over a description of
//! nodes, GPUs and the network between them.
//!
//! It computes with the numbers of operations and bytes in a plan: completions are as long as their limits,
//! and every GPU reaches the rate given for its node. `tools/benches/cluster.py` compares it with measured
//! runs.

mod events;
mod stage;

use std::collections::{BTreeMap, BTreeSet};

use mopd_lang::diag::nearest;
use mopd_plan::{Plan, Trainable};
use serde::Deserialize;

pub use stage::{Bottleneck, KindShare, PoolUse, StagePrediction, simulate};

/// A description of a cluster, as the author's file has it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    pub nodes: BTreeMap<String, ClusterNode>,
    #[serde(default)]
    pub network: Network,
    pub pools: BTreeMap<String, CardPool>,
    /// The pool that the student generates and is trained on.
    pub student: String,
    /// The pool of each teacher, by its name, and of the reference. `teacher` is the pool of all others.
    #[serde(default)]
    pub teachers: BTreeMap<String, String>,
    pub teacher: Option<String>,
    /// Numbers of parameters by name, where the plan does not have them: of models that are loaded, and of
    /// served teachers.
    #[serde(default)]
    pub parameters: BTreeMap<String, f64>,
    /// Numbers of trained parameters by the stage's name, where the stage trains an adapter or a part of the
    /// weights.
    #[serde(default)]
    pub trained: BTreeMap<String, f64>,
    /// Tokens in the vocabulary, where the plan does not have the number.
    pub vocabulary: Option<u32>,
    /// Mean tokens of a prompt.
    #[serde(default = "prompt_tokens")]
    pub prompt_tokens: f64,
    /// Bytes per weight.
    #[serde(default = "weight_bytes")]
    pub weight_bytes: f64,
}

fn prompt_tokens() -> f64 {
    256.0
}

fn weight_bytes() -> f64 {
    2.0
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterNode {
    pub gpus: u32,
    /// Operations per second that one GPU reaches.
    pub flops: f64,
    /// Bytes per second that one GPU reads from its memory, as reached.
    pub memory_bandwidth: f64,
    /// Bytes of memory of one GPU.
    pub memory: f64,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Bytes per second from one node to another.
    pub bandwidth: f64,
    /// Seconds until the first byte arrives.
    pub latency: f64,
}

impl Default for Network {
    fn default() -> Network {
        Network { bandwidth: 1.25e9, latency: 1e-4 }
    }
}

/// GPUs of one node that run one task at a time.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardPool {
    pub node: String,
    pub gpus: u32,
}

/// A mistake in a description, in the author's words.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ClusterError {
    #[error("the pool `{pool}` is on the node `{node}`, which the file does not define")]
    UnknownNode { pool: String, node: String },
    #[error("`{user}` is on the pool `{pool}`, which the file does not define")]
    UnknownPool { user: String, pool: String },
    #[error("the file has no pool for the teacher `{teacher}`")]
    NoPool { teacher: String },
    #[error("the pools of node `{node}` have {asked} cards in total, but the node has {has}")]
    TooManyCards { node: String, asked: u32, has: u32 },
    #[error("`{what}` must be more than 0")]
    NotPositive { what: String },
    #[error("the number of parameters of `{model}` can only be read from its files")]
    Parameters { model: String },
    #[error("the number of parameters of the served teacher `{teacher}` is not known")]
    Served { teacher: String },
    #[error(
        "the number of parameters of the adapter of `{stage}` can only be computed from the files of \
        its model"
    )]
    Trained { stage: String },
    #[error("[{table}] names `{name}`, but the experiment has {none}")]
    UnknownName { table: &'static str, name: String, none: &'static str, near: Option<String> },
    #[error("the size of the vocabulary can only be read from files")]
    Vocabulary,
    #[error("the weights on the pool `{pool}` take {needed:.1} GB, but its cards have {has:.1} GB")]
    Memory { pool: String, needed: f64, has: f64 },
    #[error("`{stage}` is not simulated: {why}")]
    Stage { stage: String, why: &'static str },
}

impl ClusterError {
    /// How the author can mend it.
    pub fn help(&self) -> Option<String> {
        let text = match self {
            ClusterError::NoPool { .. } => "name it under [teachers], or write `teacher = \"POOL\"` for all",
            ClusterError::Parameters { .. } => "write it under [parameters]: `small = 0.6e9`",
            ClusterError::Served { .. } => "write it under [parameters], by the teacher's name: `far = 32e9`",
            ClusterError::Trained { stage } => {
                return Some(format!(
                    "write it under [trained]: `{stage} = 20e6`; LoRA of rank r has r (m + n) for a matrix \
                     of m by n"
                ));
            }
            ClusterError::UnknownName { near, .. } => {
                return near.as_ref().map(|near| format!("did you mean `{near}`?"));
            }
            ClusterError::Vocabulary => "write `vocabulary = 151936`",
            ClusterError::Memory { .. } => "give the pool more cards, or put a teacher on another pool",
            _ => return None,
        };
        Some(text.to_owned())
    }
}

impl Cluster {
    /// # Errors
    /// For names that are not declared in the file, and for numbers that are not positive.
    pub fn check(&self) -> Result<(), ClusterError> {
        let positive = |what: &str, value: f64| {
            let holds = value.is_finite() && value > 0.0;
            if holds { Ok(()) } else { Err(ClusterError::NotPositive { what: what.to_owned() }) }
        };
        for (name, node) in &self.nodes {
            positive(&format!("gpus of node {name}"), f64::from(node.gpus))?;
            positive(&format!("flops of node {name}"), node.flops)?;
            positive(&format!("memory_bandwidth of node {name}"), node.memory_bandwidth)?;
            positive(&format!("memory of node {name}"), node.memory)?;
        }
        positive("bandwidth", self.network.bandwidth)?;
        positive("weight_bytes", self.weight_bytes)?;
        positive("prompt_tokens", self.prompt_tokens)?;
        if !(self.network.latency >= 0.0 && self.network.latency.is_finite()) {
            return Err(ClusterError::NotPositive { what: "latency".to_owned() });
        }
        for (name, parameters) in &self.parameters {
            positive(&format!("parameters of {name}"), *parameters)?;
        }
        for (name, trained) in &self.trained {
            positive(&format!("trained of {name}"), *trained)?;
        }
        let mut cards: BTreeMap<&str, u32> = BTreeMap::new();
        for (name, pool) in &self.pools {
            positive(&format!("gpus of pool {name}"), f64::from(pool.gpus))?;
            if !self.nodes.contains_key(&pool.node) {
                return Err(ClusterError::UnknownNode { pool: name.clone(), node: pool.node.clone() });
            }
            let sum = cards.entry(&pool.node).or_default();
            *sum = sum.saturating_add(pool.gpus);
        }
        for (node, asked) in cards {
            let has = self.nodes[node].gpus;
            if asked > has {
                return Err(ClusterError::TooManyCards { node: node.to_owned(), asked, has });
            }
        }
        let student = [("student", &self.student)].into_iter();
        let teachers = self.teachers.iter().map(|(name, pool)| (name.as_str(), pool));
        let others = self.teacher.iter().map(|pool| ("teacher", pool));
        for (user, pool) in student.chain(teachers).chain(others) {
            if !self.pools.contains_key(pool) {
                return Err(ClusterError::UnknownPool { user: user.to_owned(), pool: pool.clone() });
            }
        }
        Ok(())
    }

    /// # Errors
    /// For names that the experiment does not have: their settings would have no effect.
    pub fn check_names(&self, plan: &Plan) -> Result<(), ClusterError> {
        let models = &plan.experiment.models;
        let trains = || models.iter().flat_map(|model| model.stage.trains());
        let teachers: BTreeSet<&str> = trains()
            .flat_map(|train| train.scorers.iter())
            .flat_map(|(_, scorer)| &scorer.choices)
            .map(|choice| choice.name.as_str())
            .collect();
        let served: BTreeSet<&str> = trains()
            .flat_map(|train| train.scorers.iter())
            .flat_map(|(_, scorer)| &scorer.choices)
            .filter(|choice| choice.teacher.served().is_some())
            .map(|choice| choice.name.as_str())
            .collect();
        let sized: BTreeSet<&str> = models.iter().map(|model| model.name.as_str()).chain(served).collect();
        let partly = |trainable: &Trainable| match trainable {
            Trainable::Adapter(_) => true,
            Trainable::Weights { only, except } => only.is_some() || !except.is_empty(),
        };
        let part: BTreeSet<&str> = models
            .iter()
            .filter(|model| model.stage.trains().iter().any(|train| partly(&train.trainable)))
            .map(|model| model.name.as_str())
            .collect();
        let known = |table, written: Vec<&String>, names: &BTreeSet<&str>, none| {
            let unknown = written.into_iter().find(|name| !names.contains(name.as_str()));
            unknown.map_or(Ok(()), |name| {
                let near = nearest(name, names.iter().copied()).map(str::to_owned);
                Err(ClusterError::UnknownName { table, name: name.clone(), none, near })
            })
        };
        known("teachers", self.teachers.keys().collect(), &teachers, "no such teacher")?;
        let none = "no such model, and no such teacher on a server";
        known("parameters", self.parameters.keys().collect(), &sized, none)?;
        let none = "no such stage that trains an adapter or a part of the weights";
        known("trained", self.trained.keys().collect(), &part, none)
    }
}
