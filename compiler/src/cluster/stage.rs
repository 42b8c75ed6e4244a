//! Simulates a stage: rollouts, teachers' scores in pieces, transfers over the network, and updates.

use std::collections::BTreeMap;

use mopd_expr::roles::Role;
use mopd_expr::signals::{Live, ModelSignal, Signal, Support};
use mopd_plan::{
    Model, ModelId, Objective, Plan, Producer, Stage, TeacherChoice, TokenizerSpec, Train, Trainable, View,
};

use super::events::{ResourceId, Simulation, SimulationOutcome, TaskId};
use super::{CardPool, Cluster, ClusterError};

/// The largest number of pieces in which a step's completions are scored and trained.
const PIECES: u32 = 64;

/// The predicted duration of a stage, in seconds, and the use of its pools.
#[derive(Clone, Debug, PartialEq)]
pub struct StagePrediction {
    pub seconds: f64,
    pub steps: u32,
    /// The pools in the order of their names, then the network.
    pub uses: Vec<PoolUse>,
    pub bottleneck: Bottleneck,
}

#[derive(Clone, Debug, PartialEq)]
pub struct PoolUse {
    pub name: String,
    /// The share of the time in which it is idle, 0 to 1.
    pub idle: f64,
}

/// The pool, or the network, with the largest part of the critical path.
#[derive(Clone, Debug, PartialEq)]
pub struct Bottleneck {
    pub name: String,
    /// Its share of the critical path, 0 to 1.
    pub share: f64,
    /// That share by kind of task.
    pub kinds: Vec<KindShare>,
}

/// The part of the critical path that tasks of one kind take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KindShare {
    pub kind: &'static str,
    /// 0 to 1.
    pub share: f64,
}

/// A model or a server that scores for a role of the objective.
struct Scoring {
    role: Role,
    scorer: Scorer,
    pool: ResourceId,
    pool_name: String,
    parameters: f64,
    share: f64,
    /// Bytes that it returns for a token.
    answer: f64,
    /// Whether it scores again in every pass over a batch: its scores change between passes, or are not kept.
    every_pass: bool,
}

/// A model or a server that computes scores.
#[derive(Clone, PartialEq)]
enum Scorer {
    Model(ModelId),
    /// The teacher's name. Nothing else identifies the model of a server.
    Served(String),
}

/// A stage that samples from the student, scores and trains.
struct SampledStage<'a> {
    train: &'a Train<Objective>,
    /// The most tokens of a completion.
    tokens: f64,
    steps: u32,
}

impl SampledStage<'_> {
    fn of(plan: &Plan, model: ModelId) -> Result<SampledStage<'_>, ClusterError> {
        let named = plan.experiment.model(model);
        let unfit = |why| ClusterError::Stage { stage: named.name.clone(), why };
        let Stage::Train(train) = &named.stage else { return Err(unfit("it does not train a single model")) };
        let Producer::Student(student) = &train.rollout.producer else {
            return Err(unfit("its completions are not sampled by the student"));
        };
        let mopd_plan::Length::Steps(steps) = train.length else {
            return Err(unfit("the number of its steps can only be computed from the data"));
        };
        Ok(SampledStage { train, tokens: f64::from(student.sampling.max_tokens), steps })
    }
}

/// The resources of a cluster in a simulation.
struct ClusterResources<'a> {
    /// By name.
    pools: BTreeMap<&'a str, ResourceId>,
    network: ResourceId,
}

impl<'a> ClusterResources<'a> {
    fn new(cluster: &'a Cluster, simulation: &mut Simulation) -> ClusterResources<'a> {
        let pools = cluster.pools.keys().map(|name| (name.as_str(), simulation.resource())).collect();
        ClusterResources { pools, network: simulation.resource() }
    }

    /// The pools in the order of their names, then the network.
    fn named(&self) -> impl Iterator<Item = (ResourceId, &str)> {
        let pools = self.pools.iter().map(|(name, id)| (*id, *name));
        pools.chain(std::iter::once((self.network, "the network")))
    }
}

/// Batches that take equally long, and the simulation of one of them.
struct SimulatedBatches {
    count: f64,
    outcome: SimulationOutcome,
}

/// # Errors
/// If the stage is not one that samples from the student, scores and trains, or if the file lacks a number.
pub fn simulate(plan: &Plan, model: ModelId, cluster: &Cluster) -> Result<StagePrediction, ClusterError> {
    cluster.check()?;
    cluster.check_names(plan)?;
    let stage = SampledStage::of(plan, model)?;
    let mut empty = Simulation::default();
    let resources = ClusterResources::new(cluster, &mut empty);
    let scoring = scorings(plan, stage.train, cluster, &resources.pools)?;
    let student = StudentSize::from_plan(plan, model, stage.train, cluster)?;
    fits(cluster, &student, &scoring)?;
    let work = BatchWork::new(&stage, &student, cluster, &resources, &scoring);
    // A batch is finished before the next one is drawn, so all batches take equally long, except that the
    // last may have fewer updates.
    let each = stage.train.options.updates_per_batch();
    let batches = [(f64::from(stage.steps / each), each), (1.0, stage.steps % each)];
    let simulated: Vec<SimulatedBatches> = batches
        .into_iter()
        .filter(|(count, updates)| *count > 0.0 && *updates > 0)
        .map(|(count, updates)| SimulatedBatches { count, outcome: work.simulate(empty.clone(), updates) })
        .collect();
    Ok(StagePrediction::new(stage.steps, &simulated, &resources))
}

impl StagePrediction {
    fn new(steps: u32, simulated: &[SimulatedBatches], resources: &ClusterResources) -> StagePrediction {
        let seconds: f64 = simulated.iter().map(|of| of.count * of.outcome.makespan).sum();
        let busy =
            |id: ResourceId| -> f64 { simulated.iter().map(|of| of.count * of.outcome.busy[id.0]).sum() };
        let share = |of: f64| if seconds > 0.0 { of / seconds } else { 0.0 };
        let uses = resources
            .named()
            .map(|(id, name)| PoolUse { name: name.to_owned(), idle: 1.0 - share(busy(id)) });
        StagePrediction {
            seconds,
            steps,
            uses: uses.collect(),
            bottleneck: bottleneck(simulated, resources, share),
        }
    }
}

/// The work of one batch. Times are in seconds, sizes those of a piece.
struct BatchWork<'a> {
    cluster: &'a Cluster,
    trainer: &'a CardPool,
    scoring: &'a [Scoring],
    network: ResourceId,
    /// The student's pool.
    own: ResourceId,
    /// To draw the whole batch.
    draw: f64,
    /// To update the student on a piece.
    update: f64,
    /// The pieces of an update.
    pieces: u32,
    /// The mini-batches of a batch.
    mini_batches: u32,
    sequences: f64,
    /// Of a completion.
    tokens: f64,
    /// Of a prompt and its completion.
    whole: f64,
}

impl<'a> BatchWork<'a> {
    fn new(
        stage: &SampledStage,
        student: &StudentSize,
        cluster: &'a Cluster,
        resources: &ClusterResources,
        scoring: &'a [Scoring],
    ) -> BatchWork<'a> {
        let (train, tokens, parameters) = (stage.train, stage.tokens, student.parameters);
        let sequences = train.rollout.sequences();
        let whole = tokens + cluster.prompt_tokens;
        let trainer = &cluster.pools[&cluster.student];
        let (flops, read) = rates(cluster, trainer);
        // One token of every sequence per forward: bound by reading all weights, or by the products.
        let draw =
            (2.0 * parameters * f64::from(sequences) / flops).max(parameters * cluster.weight_bytes / read);
        let prefill = 2.0 * parameters * cluster.prompt_tokens * f64::from(sequences) / flops;
        let mini_batches = train.options.mini_batches.max(1);
        let of_update = f64::from(sequences) / f64::from(mini_batches);
        let piece =
            train.options.execution.micro_batch.map_or(of_update, f64::from).clamp(1.0, of_update.max(1.0));
        let pieces = ((of_update / piece).ceil() as u32).clamp(1, PIECES);
        let of_piece = of_update / f64::from(pieces);
        BatchWork {
            cluster,
            trainer,
            scoring,
            network: resources.network,
            own: resources.pools[cluster.student.as_str()],
            draw: draw * tokens + prefill,
            update: student.update() * whole * of_piece / flops,
            pieces,
            mini_batches,
            sequences: of_piece,
            tokens,
            whole,
        }
    }

    /// Simulates one batch and the updates that it is used for.
    fn simulate(&self, mut simulation: Simulation, updates: u32) -> SimulationOutcome {
        let mut before = vec![simulation.task(self.own, "rollout", self.draw, Vec::new())];
        for update in 0..updates {
            let first_pass = update < self.mini_batches;
            let mut pieces = Vec::new();
            for _ in 0..self.pieces {
                let mut scored = before.clone();
                let asked_now = |of: &&Scoring| of.share > 0.0 && (first_pass || of.every_pass);
                for teacher in self.scoring.iter().filter(asked_now) {
                    scored.push(self.score(&mut simulation, teacher, &before));
                }
                pieces.push(simulation.task(self.own, "update", self.update, scored));
            }
            before = pieces;
        }
        simulation.run()
    }

    /// Adds the scores of one teacher for one piece, which can be computed after `before`.
    fn score(&self, simulation: &mut Simulation, teacher: &Scoring, before: &[TaskId]) -> TaskId {
        let pool = &self.cluster.pools[&teacher.pool_name];
        let sequences = self.sequences * teacher.share;
        let far = pool.node != self.trainer.node;
        let over = |simulation: &mut Simulation, kind, bytes: f64, after| {
            let seconds = self.cluster.network.latency + bytes / self.cluster.network.bandwidth;
            simulation.task(self.network, kind, seconds, after)
        };
        let asked = match far {
            true => vec![over(simulation, "requests", self.whole * sequences * 4.0, before.to_vec())],
            false => before.to_vec(),
        };
        let seconds = 2.0 * teacher.parameters * self.whole * sequences / rates(self.cluster, pool).0;
        let done = simulation.task(teacher.pool, "scores", seconds, asked);
        let bytes = teacher.answer * self.tokens * sequences;
        if far { over(simulation, "answers", bytes, vec![done]) } else { done }
    }
}

/// The resource with the largest part of the critical path.
fn bottleneck(
    simulated: &[SimulatedBatches],
    resources: &ClusterResources,
    share: impl Fn(f64) -> f64,
) -> Bottleneck {
    let mut by_resource: BTreeMap<usize, Vec<KindShare>> = BTreeMap::new();
    for SimulatedBatches { count, outcome } in simulated {
        for part in &outcome.critical {
            let kinds = by_resource.entry(part.resource.0).or_default();
            let own = share(count * part.seconds);
            match kinds.iter_mut().find(|known| known.kind == part.kind) {
                Some(known) => known.share += own,
                None => kinds.push(KindShare { kind: part.kind, share: own }),
            }
        }
    }
    let whole = |kinds: &[KindShare]| kinds.iter().map(|known| known.share).sum::<f64>();
    let most = by_resource.into_iter().max_by(|a, b| whole(&a.1).total_cmp(&whole(&b.1)));
    let (resource, mut kinds) = most.unwrap_or_default();
    kinds.sort_by(|a, b| b.share.total_cmp(&a.share));
    let name = resources.named().find(|(id, _)| id.0 == resource).map(|(_, name)| name.to_owned());
    Bottleneck { name: name.unwrap_or_default(), share: whole(&kinds), kinds }
}

/// Numbers of parameters of the student: all, and trained ones.
struct StudentSize {
    parameters: f64,
    trained: f64,
    /// Whether the trained parameters are an adapter's, in addition to the weights.
    adapter: bool,
}

impl StudentSize {
    fn from_plan(
        plan: &Plan,
        model: ModelId,
        train: &Train<Objective>,
        cluster: &Cluster,
    ) -> Result<StudentSize, ClusterError> {
        let parameters = parameters(plan, train.start, cluster)?;
        let stage = &plan.experiment.model(model).name;
        let of_file = cluster.trained.get(stage).copied();
        let (trained, adapter) = match &train.trainable {
            // Where some are frozen and the file does not say how many, the number of all is an upper bound.
            Trainable::Weights { .. } => (of_file.unwrap_or(parameters), false),
            Trainable::Adapter(_) => {
                let known = plan.stages[model.0 as usize].cost.trained.map(|count| count as f64);
                let unknown = || ClusterError::Trained { stage: stage.clone() };
                (of_file.or(known).ok_or_else(unknown)?, true)
            }
        };
        Ok(StudentSize { parameters, trained, adapter })
    }

    /// Operations of an update per token. For each parameter: 2 forward, 2 for the gradient of the input, and
    /// 2 for its own gradient unless it is frozen (arXiv:2001.08361, section 2.1).
    fn update(&self) -> f64 {
        let beside = if self.adapter { 4.0 * self.trained } else { 0.0 };
        4.0 * self.parameters + 2.0 * self.trained + beside
    }

    /// Bytes of the weights and of the training state: for each trained parameter a gradient, two moments and
    /// the weight itself in single precision.
    fn bytes(&self, weight_bytes: f64) -> f64 {
        let beside = if self.adapter { self.trained } else { 0.0 };
        (self.parameters + beside) * weight_bytes + self.trained * 16.0
    }
}

/// Operations and bytes per second of all GPUs of a pool.
fn rates(cluster: &Cluster, pool: &CardPool) -> (f64, f64) {
    let node = &cluster.nodes[&pool.node];
    (node.flops * f64::from(pool.gpus), node.memory_bandwidth * f64::from(pool.gpus))
}

fn parameters(plan: &Plan, model: ModelId, cluster: &Cluster) -> Result<f64, ClusterError> {
    let Model { name, stage, .. } = plan.experiment.model(model);
    let of_file = cluster.parameters.get(name).copied();
    let known = plan.stages[model.0 as usize].cost.parameters.map(|count| count as f64);
    match (of_file.or(known), stage.start()) {
        (Some(count), _) => Ok(count),
        // Training changes no number of parameters.
        (None, Some(start)) => parameters(plan, start, cluster),
        (None, None) => Err(ClusterError::Parameters { model: name.clone() }),
    }
}

/// The scorers that the objective reads, role by role, each with its share of the prompts. Several arms in a
/// domain get equal shares, because only the data has the true ones.
fn scorings(
    plan: &Plan,
    train: &Train<Objective>,
    cluster: &Cluster,
    pools: &BTreeMap<&str, ResourceId>,
) -> Result<Vec<Scoring>, ClusterError> {
    let mut found: Vec<Scoring> = Vec::new();
    let reads = |role: Role| train.objectives().any(|(_, objective)| objective.reads(role));
    for role in train.scorers.scored(reads) {
        let choices = train.scorers.choices(role);
        let answer = answer_bytes(plan, train, cluster, role)?;
        // Runs keep the scores of a role for all passes, unless some teacher's prompts change, or its tokens
        // are those of another tokenizer.
        let moves = |choice: &TeacherChoice| !choice.sees.as_ref().is_none_or(View::is_fixed);
        let every_pass = choices.iter().any(|choice| choice.own_tokens || moves(choice));
        for share in &train.mixture {
            let arms: Vec<_> = choices.iter().filter(|choice| choice.domain == share.domain).collect();
            for choice in &arms {
                let scorer = match (choice.teacher.spec_model(), choice.teacher.served()) {
                    (Some(model), _) => Scorer::Model(model),
                    (None, Some(_)) => Scorer::Served(choice.name.clone()),
                    (None, None) => {
                        return Err(ClusterError::Stage {
                            stage: choice.name.clone(),
                            why: "a composed teacher, or one that is the student, has no weights of \
                                  its own",
                        });
                    }
                };
                let part = share.share / arms.len() as f64;
                let same = |of: &&mut Scoring| of.role == role && of.scorer == scorer;
                if let Some(known) = found.iter_mut().find(same) {
                    known.share += part;
                    continue;
                }
                let pool = cluster.teachers.get(&choice.name).or(cluster.teacher.as_ref());
                let pool = pool.ok_or_else(|| ClusterError::NoPool { teacher: choice.name.clone() })?;
                let parameters = match &scorer {
                    Scorer::Model(model) => parameters(plan, *model, cluster)?,
                    Scorer::Served(name) => {
                        let written = cluster.parameters.get(name).copied();
                        written.ok_or_else(|| ClusterError::Served { teacher: name.clone() })?
                    }
                };
                found.push(Scoring {
                    role,
                    scorer,
                    pool: pools[pool.as_str()],
                    pool_name: pool.clone(),
                    parameters,
                    share: part,
                    answer,
                    every_pass,
                });
            }
        }
    }
    Ok(found)
}

/// Checks that weights (one copy of a model per pool) and training state fit in the memory of each pool.
fn fits(cluster: &Cluster, student: &StudentSize, scoring: &[Scoring]) -> Result<(), ClusterError> {
    for (name, pool) in &cluster.pools {
        let trained = if *name == cluster.student { student.bytes(cluster.weight_bytes) } else { 0.0 };
        let here = || scoring.iter().filter(|of| of.pool_name == *name);
        let first = |(at, of): &(usize, &Scoring)| !here().take(*at).any(|other| other.scorer == of.scorer);
        let teachers = here().enumerate().filter(first);
        let needed = trained + teachers.map(|(_, of)| of.parameters * cluster.weight_bytes).sum::<f64>();
        let has = cluster.nodes[&pool.node].memory * f64::from(pool.gpus);
        if needed > has {
            return Err(ClusterError::Memory { pool: name.clone(), needed: needed / 1e9, has: has / 1e9 });
        }
    }
    Ok(())
}

/// Bytes that the scorer of a role returns for a token.
fn answer_bytes(
    plan: &Plan,
    train: &Train<Objective>,
    cluster: &Cluster,
    role: Role,
) -> Result<f64, ClusterError> {
    let of_support = |support: &Support| match support {
        Support::TopK { role: of, k } if *of == role => Some(8.0 * f64::from(*k)),
        Support::Sampled => Some(4.0),
        _ => None,
    };
    let mut most = 0.0f64;
    let mut whole = false;
    for objective in train.objectives().map(|(_, objective)| objective) {
        let divergences = objective.divergences();
        for divergence in divergences.iter().filter(|divergence| divergence.roles().contains(&role)) {
            match of_support(&divergence.support) {
                Some(bytes) => most = most.max(bytes),
                None => whole = true,
            }
        }
        for signal in objective.signals().iter().filter(|signal| signal.roles().contains(&role)) {
            match signal {
                Signal::Divergence(_) => {}
                Signal::Of { part: ModelSignal::Logp | ModelSignal::Entropy | ModelSignal::Top1, .. } => {
                    most = most.max(4.0);
                }
                _ => whole = true,
            }
        }
        let likelihood = |live: &Live| matches!(live, Live::Likelihood { of } if *of == role);
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
