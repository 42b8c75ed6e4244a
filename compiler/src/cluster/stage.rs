//! The tasks of a stage: rollouts, teachers' scores in pieces, what goes over the network, updates.

use std::collections::BTreeMap;

use super::events::{ResourceId, Simulation, TaskId};
use super::{CardPool, Cluster, ClusterError};
use crate::expr::roles::Role;
use crate::expr::signals::{Live, Signal, Support};
use crate::plan::{ModelId, Objective, Plan, Producer, Stage, TokenizerSpec, Train};

/// Steps that are played; more are the same again.
const PLAYED: u32 = 32;

/// Pieces that a step's completions are scored and trained in, at most.
const PIECES: u32 = 64;

/// What a stage would take.
#[derive(Clone, Debug, PartialEq)]
pub struct StagePrediction {
    pub seconds: f64,
    pub steps: u32,
    /// In the order of the file, then the network.
    pub uses: Vec<PoolUse>,
    pub bottleneck: Bottleneck,
}

#[derive(Clone, Debug, PartialEq)]
pub struct PoolUse {
    pub name: String,
    /// Share of the time that it has nothing to do.
    pub idle: f64,
}

/// What most of the time is spent with, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Bottleneck {
    pub name: String,
    /// Its part of the critical path.
    pub share: f64,
    /// The same by what is done there.
    pub kinds: Vec<(&'static str, f64)>,
}

/// One teacher of the stage.
struct Scoring {
    pool: ResourceId,
    pool_name: String,
    parameters: f64,
    share: f64,
}

/// A model or a server that scores.
#[derive(PartialEq)]
enum Scorer {
    Model(ModelId),
    /// By the teacher's name: nothing more is known of what a server has.
    Served(String),
}

/// # Errors
/// Where the stage is none that writes, scores and learns, or the file says too little.
pub fn simulate(plan: &Plan, model: ModelId, cluster: &Cluster) -> Result<StagePrediction, ClusterError> {
    cluster.check()?;
    let named = plan.experiment.model(model);
    let unfit = |why| ClusterError::Stage { stage: named.name.clone(), why };
    let Stage::Train(train) = &named.stage else { return Err(unfit("it trains no single model")) };
    let Producer::Student(student) = &train.rollout.producer else {
        return Err(unfit("its completions are not the student's"));
    };
    let crate::plan::Length::Steps(steps) = train.length else {
        return Err(unfit("the number of its steps is known from the data alone"));
    };
    let mut simulation = Simulation::default();
    let pools: BTreeMap<&str, ResourceId> =
        cluster.pools.keys().map(|name| (name.as_str(), simulation.resource())).collect();
    let network = simulation.resource();
    let scoring = scorings(plan, train, cluster, &pools)?;
    let parameters = parameters(plan, train.start, cluster)?;
    fits(cluster, parameters, &scoring)?;
    let sequences = train.rollout.sequences();
    let tokens = f64::from(student.sampling.max_tokens);
    let whole = tokens + cluster.prompt_tokens;
    let answer = answer_bytes(plan, train, cluster)?;
    let trainer = &cluster.pools[&cluster.student];
    let (flops, read) = rates(cluster, trainer);
    // A token of each sequence is drawn at once: what is slower of reading all weights and of the products.
    let draw =
        (2.0 * parameters * f64::from(sequences) / flops).max(parameters * cluster.weight_bytes / read);
    let prefill = 2.0 * parameters * cluster.prompt_tokens * f64::from(sequences) / flops;
    let piece = train.execution.micro_batch.unwrap_or(sequences).clamp(1, sequences.max(1));
    let pieces = sequences.div_ceil(piece).clamp(1, PIECES);
    let of_piece = f64::from(sequences) / f64::from(pieces);
    let own = pools[cluster.student.as_str()];
    let played = steps.clamp(1, PLAYED);
    let mut before: Vec<TaskId> = Vec::new();
    for _ in 0..played {
        let rollout = simulation.task(own, "rollout", draw * tokens + prefill, before);
        let mut updates = Vec::new();
        for _ in 0..pieces {
            let mut scored = vec![rollout];
            for teacher in scoring.iter().filter(|teacher| teacher.share > 0.0) {
                let pool = &cluster.pools[&teacher.pool_name];
                let sequences = of_piece * teacher.share;
                let far = pool.node != trainer.node;
                let over = |simulation: &mut Simulation, kind, bytes: f64, after| {
                    let seconds = cluster.network.latency + bytes / cluster.network.bandwidth;
                    simulation.task(network, kind, seconds, vec![after])
                };
                let asked = if far {
                    over(&mut simulation, "requests", whole * sequences * 4.0, rollout)
                } else {
                    rollout
                };
                let seconds = 2.0 * teacher.parameters * whole * sequences / rates(cluster, pool).0;
                let done = simulation.task(teacher.pool, "scores", seconds, vec![asked]);
                let bytes = answer * tokens * sequences;
                scored.push(if far { over(&mut simulation, "answers", bytes, done) } else { done });
            }
            let seconds = 6.0 * parameters * whole * of_piece / flops;
            updates.push(simulation.task(own, "update", seconds, scored));
        }
        before = updates;
    }
    let outcome = simulation.run();
    let scale = f64::from(steps) / f64::from(played);
    let mut names: Vec<(ResourceId, String)> =
        pools.iter().map(|(name, id)| (*id, (*name).to_owned())).collect();
    names.push((network, "the network".to_owned()));
    let share = |seconds: f64| if outcome.makespan > 0.0 { seconds / outcome.makespan } else { 0.0 };
    let uses =
        names.iter().map(|(id, name)| PoolUse { name: name.clone(), idle: 1.0 - share(outcome.busy[id.0]) });
    let mut by_resource: BTreeMap<usize, Vec<(&'static str, f64)>> = BTreeMap::new();
    for (resource, kind, seconds) in &outcome.critical {
        by_resource.entry(resource.0).or_default().push((kind, share(*seconds)));
    }
    let whole = |kinds: &[(&'static str, f64)]| kinds.iter().map(|(_, share)| share).sum::<f64>();
    let most = by_resource.into_iter().max_by(|a, b| whole(&a.1).total_cmp(&whole(&b.1)));
    let (resource, kinds) = most.expect("a step has a task");
    let name = names.iter().find(|(id, _)| id.0 == resource).map(|(_, name)| name.clone());
    Ok(StagePrediction {
        seconds: outcome.makespan * scale,
        steps,
        uses: uses.collect(),
        bottleneck: Bottleneck { name: name.unwrap_or_default(), share: whole(&kinds), kinds },
    })
}

/// Operations and bytes a second of all its cards.
fn rates(cluster: &Cluster, pool: &CardPool) -> (f64, f64) {
    let node = &cluster.nodes[&pool.node];
    (node.flops * f64::from(pool.gpus), node.memory_bandwidth * f64::from(pool.gpus))
}

fn parameters(plan: &Plan, model: ModelId, cluster: &Cluster) -> Result<f64, ClusterError> {
    let name = &plan.experiment.model(model).name;
    let of_file = cluster.parameters.get(name).copied();
    let known = plan.stages[model.0 as usize].cost.parameters.map(|count| count as f64);
    of_file.or(known).ok_or_else(|| ClusterError::Parameters { model: name.clone() })
}

/// The teachers, each with its part of the prompts. An arm of several in a domain has an equal part of it,
/// since the data alone says more.
fn scorings(
    plan: &Plan,
    train: &Train<Objective>,
    cluster: &Cluster,
    pools: &BTreeMap<&str, ResourceId>,
) -> Result<Vec<Scoring>, ClusterError> {
    let mut found: Vec<(Scorer, Scoring)> = Vec::new();
    for share in &train.mixture {
        let arms: Vec<_> = train.arms(share.domain).collect();
        for choice in &arms {
            let scorer = match (choice.teacher.spec_model(), choice.teacher.served()) {
                (Some(model), _) => Scorer::Model(model),
                (None, Some(_)) => Scorer::Served(choice.name.clone()),
                (None, None) => {
                    return Err(ClusterError::Stage {
                        stage: choice.name.clone(),
                        why: "a teacher that is put together, or that is the student, has no weights of its own",
                    });
                }
            };
            let part = share.share / arms.len() as f64;
            if let Some((_, known)) = found.iter_mut().find(|(known, _)| *known == scorer) {
                known.share += part;
                continue;
            }
            let pool = cluster.teachers.get(&choice.name).or(cluster.teacher.as_ref());
            let pool = pool.ok_or_else(|| ClusterError::NoPool { teacher: choice.name.clone() })?;
            let scoring = Scoring {
                pool: pools[pool.as_str()],
                pool_name: pool.clone(),
                parameters: match &scorer {
                    Scorer::Model(model) => parameters(plan, *model, cluster)?,
                    Scorer::Served(name) => {
                        let written = cluster.parameters.get(name).copied();
                        written.ok_or_else(|| ClusterError::Served { teacher: name.clone() })?
                    }
                },
                share: part,
            };
            found.push((scorer, scoring));
        }
    }
    Ok(found.into_iter().map(|(_, scoring)| scoring).collect())
}

/// Weights, and of the student what training keeps beside: a gradient and two moments in single precision,
/// and weights in it.
fn fits(cluster: &Cluster, student: f64, scoring: &[Scoring]) -> Result<(), ClusterError> {
    for (name, pool) in &cluster.pools {
        let trained = if *name == cluster.student { student * (cluster.weight_bytes + 16.0) } else { 0.0 };
        let teachers = scoring.iter().filter(|teacher| teacher.pool_name == *name);
        let needed = trained + teachers.map(|teacher| teacher.parameters * cluster.weight_bytes).sum::<f64>();
        let has = cluster.nodes[&pool.node].memory * f64::from(pool.gpus);
        if needed > has {
            return Err(ClusterError::Memory { pool: name.clone(), needed: needed / 1e9, has: has / 1e9 });
        }
    }
    Ok(())
}

/// Bytes that a teacher answers for a token.
fn answer_bytes(plan: &Plan, train: &Train<Objective>, cluster: &Cluster) -> Result<f64, ClusterError> {
    let of_support = |support: &Support| match support {
        Support::TopK { role: Role::TEACHER, k } => Some(8.0 * f64::from(*k)),
        Support::Sampled => Some(4.0),
        _ => None,
    };
    let mut most = 0.0f64;
    let mut whole = false;
    for objective in train.objectives().map(|(_, objective)| objective) {
        let divergences = objective.divergences();
        for divergence in divergences.iter().filter(|divergence| divergence.roles().contains(&Role::TEACHER))
        {
            match of_support(&divergence.support) {
                Some(bytes) => most = most.max(bytes),
                None => whole = true,
            }
        }
        for signal in objective.signals().iter().filter(|signal| signal.roles().contains(&Role::TEACHER)) {
            match signal {
                Signal::Divergence(_) => {}
                Signal::Logp { .. } | Signal::Entropy { .. } | Signal::Top1 { .. } => most = most.max(4.0),
                _ => whole = true,
            }
        }
        let likelihood = |live: &Live| matches!(live, Live::Likelihood { of: Role::TEACHER });
        if objective.live.iter().any(|live| likelihood(&live.primitive)) {
            most = most.max(4.0);
        }
    }
    if !whole {
        return Ok(most);
    }
    let vocabulary = cluster.vocabulary.or_else(|| vocabulary(plan, train.start));
    vocabulary.map(|tokens| 4.0 * f64::from(tokens)).ok_or(ClusterError::Vocabulary)
}

fn vocabulary(plan: &Plan, model: ModelId) -> Option<u32> {
    match &plan.experiment.model(model).stage {
        Stage::Initialise(architecture) => {
            let tokenizer: &TokenizerSpec = &architecture.tokenizer;
            tokenizer.vocabulary()
        }
        stage => vocabulary(plan, stage.start()?),
    }
}
