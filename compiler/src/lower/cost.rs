//! Predicted cost of every stage, an upper bound. What depends on files that are read at run time, the sizes
//! of a loaded model for one, stays unknown here: the worker, which reads them, predicts that.

use crate::plan::producers::Writer;
use crate::plan::{
    Adapter, Architecture, Cost, Experiment, Length, ModelId, Objective, Panel, Projection, Role, Rollout,
    Scorer, Stage, Teacher, Train, Trainable,
};

/// Bytes per trained parameter: weight and gradient, in f32.
const TRAINING_BYTES: u64 = 8;
/// Of each number that the optimizer keeps of it.
const MOMENT_BYTES: u64 = 4;
/// The sum of records' gradients, in f32, beside that of the one at hand.
const PRIVATE_BYTES: u64 = 4;
/// A gradient beside that of the step, in f32.
const GRADIENT_BYTES: u64 = 4;
/// Where the last extrapolation left it; and while candidates are judged, when there is no gradient, the
/// weight as it is and the candidate's.
const EXTRAPOLATED_BYTES: u64 = 8;
/// Where single elements train: the place of one, and its value in a vector of those that train.
const ELEMENT_BYTES: u64 = 8;
/// A weight alone.
const WEIGHT_BYTES: u64 = 4;
/// Multiplications and additions per parameter and token (arXiv:2001.08361, section 2.1): forward, and
/// forward with backward.
const FORWARD: f64 = 2.0;
const TRAINING: f64 = 6.0;

/// One per model, in order.
pub(super) fn costs(experiment: &Experiment<Objective>) -> Vec<Cost> {
    // None where the shape is in a file.
    let mut architectures: Vec<Option<&Architecture>> = Vec::new();
    let mut costs: Vec<Cost> = Vec::new();
    for model in &experiment.models {
        let of = |id: ModelId| architectures[id.0 as usize];
        let inherited = model.stage.start().and_then(of);
        let (architecture, cost) = match &model.stage {
            Stage::Initialise(architecture) => (Some(architecture), weights_alone(parameters(architecture))),
            Stage::Load(_) => (None, weights_alone(None)),
            Stage::Train(train) => (inherited, training(train, inherited, &costs)),
            Stage::Joint(joint) => {
                let each = joint.learners.iter().map(|learner| {
                    let own = training(&learner.train, of(learner.train.start), &costs);
                    own.in_every(learner.every)
                });
                (inherited, each.reduce(Cost::beside).unwrap_or_else(|| weights_alone(None)))
            }
            Stage::Learner { .. } => (inherited, weights_alone(inherited.and_then(parameters))),
            Stage::Merge(merge) => {
                let alone = weights_alone(inherited.and_then(parameters));
                let flops = alone
                    .parameters
                    .map(|parameters| FORWARD * parameters as f64 * merge.models.len() as f64);
                (inherited, Cost { flops, ..alone })
            }
        };
        architectures.push(architecture);
        costs.push(cost);
    }
    costs
}

impl Cost {
    /// Of a turn that comes in every so many steps.
    fn in_every(self, every: u32) -> Cost {
        let part = |all: u64| all / u64::from(every.max(1));
        Cost {
            sequences: self.sequences.map(part),
            tokens: self.tokens.map(part),
            flops: self.flops.map(|flops| flops / f64::from(every.max(1))),
            ..self
        }
    }

    /// Of two models that learn in the same stage: both are in memory.
    fn beside(self, other: Cost) -> Cost {
        let sum = |one: Option<u64>, other: Option<u64>| Some(one?.saturating_add(other?));
        Cost {
            parameters: sum(self.parameters, other.parameters),
            trained: sum(self.trained, other.trained),
            sequences: sum(self.sequences, other.sequences),
            tokens: sum(self.tokens, other.tokens),
            flops: self.flops.zip(other.flops).map(|(one, other)| one + other),
            memory: sum(self.memory, other.memory),
        }
    }
}

fn weights_alone(parameters: Option<u64>) -> Cost {
    let memory = parameters.map(|parameters| parameters.saturating_mul(WEIGHT_BYTES));
    Cost { parameters, trained: Some(0), sequences: Some(0), tokens: Some(0), flops: Some(0.0), memory }
}

/// Every sequence is taken to fill the context, since prompts are not known before the data is read.
fn training(train: &Train<Objective>, architecture: Option<&Architecture>, costs: &[Cost]) -> Cost {
    let second = architecture.filter(|_| train.trains_second_head()).map_or(0, second_head);
    let with_head = |numbers: u64| numbers.saturating_add(second);
    let parameters = architecture.and_then(parameters).map(with_head);
    let trained =
        architecture.and_then(|architecture| trained(&train.trainable, architecture)).map(with_head);
    let context = architecture.map(|architecture| u64::from(architecture.context));
    let steps = match train.length {
        Length::Steps(steps) => Some(u64::from(steps)),
        Length::Epochs(_) => None,
    };
    let of_rollout = |rollout: &Rollout| {
        let rows = u64::from(rollout.group()).saturating_mul(u64::from(rollout.producer.kind().rows()?));
        let each_step = u64::from(rollout.groups).saturating_mul(rows);
        steps.map(|steps| steps.saturating_mul(each_step))
    };
    let tokens_of = |rollout: &Rollout| Some(of_rollout(rollout)?.saturating_mul(context?));
    let sum = |of: &dyn Fn(&Rollout) -> Option<u64>| {
        train.rollouts().map(of).reduce(|all, own| Some(all?.saturating_add(own?))).flatten()
    };
    let (sequences, tokens) = (sum(&of_rollout), sum(&tokens_of));
    // The largest model, where several share the work.
    let largest = |models: &mut dyn Iterator<Item = Option<u64>>| {
        models.collect::<Option<Vec<u64>>>().map(|models| models.into_iter().max().unwrap_or(0))
    };
    let of = |model: ModelId| costs[model.0 as usize].parameters;
    let scorer = |scorer: &Scorer| {
        largest(&mut scorer.choices.iter().map(|choice| match &choice.teacher {
            Teacher::Model(model) => of(*model),
            Teacher::Student(_) => parameters,
            // Those that it is made of are scorers themselves.
            Teacher::Composed(_) => Some(0),
            // Somebody else's work.
            Teacher::Served(_) => Some(0),
            Teacher::Learner { start, .. } => of(*start),
        }))
    };
    let scorers: Option<Vec<(Role, u64)>> =
        train.scorers.iter().map(|(role, known)| Some((role, scorer(known)?))).collect();
    let flops_of = |(rollout, objective): (&Rollout, &Objective)| {
        let (parameters, tokens, scorers) = (parameters?, tokens_of(rollout)? as f64, scorers.as_ref()?);
        let writes = |writer: Writer| match writer {
            Writer::Student => Some(parameters),
            Writer::Scorer(role) | Writer::Guide(role) | Writer::Editor { editor: role, .. } => {
                scorers.iter().find(|(known, _)| *known == role).map(|(_, parameters)| *parameters)
            }
            Writer::Model(model) => of(model),
        };
        let producer = &rollout.producer;
        // Rollouts serve as many updates as there are passes.
        let rollouts = FORWARD * tokens / f64::from(train.passes.max(1));
        let sampling = match producer.once() {
            Some(once) => {
                let writer = producer.drawn().first().and_then(|(writer, _)| writes(*writer))?;
                FORWARD * writer as f64 * f64::from(once.sequences) * context? as f64
            }
            None => rollouts * producer.kind().parameters(&writes)?,
        };
        let scored = train.scorers.scored(|role| objective.reads(role));
        let scores = scorers.iter().filter(|(role, _)| scored.contains(role));
        let scoring: f64 = scores.map(|(_, parameters)| FORWARD * *parameters as f64 * tokens).sum();
        // What panels say, once for the completions of a prompt.
        let spoken = |panel: &Panel| {
            let of = |role: &Role| scorers.iter().find(|(known, _)| known == role);
            let each: u64 = panel.members.iter().filter_map(of).map(|(_, parameters)| *parameters).sum();
            let turns = tokens / f64::from(rollout.group().max(1)) / f64::from(train.passes.max(1));
            FORWARD * each as f64 * f64::from(panel.rounds) * turns
        };
        let talk: f64 = train.panels.iter().map(spoken).sum();
        // What is written about each completion, and the completions of others of the same prompts.
        let beside =
            train.feedback_for(objective).into_iter().map(|place| train.feedback[place as usize].writer);
        let beside = beside.chain(objective.attempts()).map(|role| {
            let writer = scorers.iter().find(|(known, _)| *known == role);
            rollouts * writer.map_or(0.0, |(_, parameters)| *parameters as f64)
        });
        let beside: f64 = beside.sum();
        // What goes on from where blocks begin, behind what stands before each.
        let continued = objective.agreements().into_iter().map(|agreement| {
            let writer = scorers.iter().find(|(known, _)| *known == agreement.role);
            let sequences = tokens / context? as f64;
            let all = tokens * f64::from(agreement.blocks) + sequences * agreement.written();
            Some(FORWARD * writer.map_or(0.0, |(_, parameters)| *parameters as f64) * all)
        });
        let continued: f64 = continued.sum::<Option<f64>>()?;
        // Of recorded text, one for each prompt of a step.
        let prompts = steps? as f64 * f64::from(rollout.groups) * context? as f64;
        let recorded = FORWARD * parameters as f64 * prompts * objective.recorded().len() as f64;
        // Gradients of frozen weights are not computed, those of their inputs are.
        let updates = (TRAINING - FORWARD) * parameters as f64 + FORWARD * trained? as f64;
        // The batch is looked at as a whole, then record by record.
        let times = if train.private.is_some() { 2.0 } else { 1.0 };
        // Gradients of parts of the loss, each through the student alone.
        let aligned = match (train.alignment, train.length) {
            (Some(alignment), Length::Steps(steps)) => {
                let share = f64::from(alignment.times(steps)) / f64::from(steps.max(1));
                train.aligned_in(objective) as f64 * share * updates * tokens
            }
            _ => 0.0,
        };
        Some(times * (updates * tokens + scoring + continued) + aligned + sampling + talk + beside + recorded)
    };
    let memory = parameters.zip(trained).map(|(parameters, trained)| {
        let frozen = parameters.saturating_sub(trained).saturating_mul(WEIGHT_BYTES);
        let each = TRAINING_BYTES
            + MOMENT_BYTES * train.optimizer.moments()
            + if train.private.is_some() { PRIVATE_BYTES } else { 0 }
            + if train.extrapolation.is_some() { EXTRAPOLATED_BYTES } else { 0 }
            + GRADIENT_BYTES * train.aligned() as u64
            + if train.trainable.changes().next().is_some() { ELEMENT_BYTES } else { 0 };
        frozen.saturating_add(trained.saturating_mul(each))
    });
    // How many prompts judge what is extrapolated, how many rows validate, and of how many prompts some are
    // chosen, only their files know.
    let known = train.extrapolation.is_none() && train.validation.is_none() && train.curriculum.is_none();
    let flops = train.objectives().map(flops_of).sum::<Option<f64>>().filter(|_| known);
    Cost { parameters, trained, sequences, tokens, flops, memory }
}

/// Embedding `V W`; per layer queries and output `2 W^2`, keys and values `2 W (kv_heads W / heads)`, SwiGLU
/// `3 W H`, two norms `2 W`; a last norm `W`; an LM head `V W` of its own where not tied. What a family
/// has besides, biases and norms of heads, is less than a thousandth of it and left out. None where the
/// vocabulary is in a file.
pub(super) fn parameters(architecture: &Architecture) -> Option<u64> {
    let width = u64::from(architecture.width);
    let matrices = Projection::ATTENTION.iter().chain(Projection::FEED_FORWARD).map(|projection| {
        let (rows, columns) = shape(*projection, architecture);
        rows.saturating_mul(columns)
    });
    let layer = matrices.fold(2 * width, u64::saturating_add);
    let embeddings =
        u64::from(architecture.tokenizer.vocabulary()?) * width * if architecture.tied { 1 } else { 2 };
    Some(
        layer.saturating_mul(u64::from(architecture.layers)).saturating_add(embeddings).saturating_add(width),
    )
}

/// Of a second head: `2 W^2` in, `W^2` out, and `W` for its confidence.
fn second_head(architecture: &Architecture) -> u64 {
    let width = u64::from(architecture.width);
    (3 * width).saturating_mul(width).saturating_add(width)
}

/// Rows and columns of a layer's matrix.
fn shape(projection: Projection, architecture: &Architecture) -> (u64, u64) {
    let (width, hidden) = (u64::from(architecture.width), u64::from(architecture.hidden));
    let head = width / u64::from(architecture.heads.max(1));
    let key_values = head.saturating_mul(u64::from(architecture.key_value_heads));
    match projection {
        Projection::Query | Projection::Output => (width, width),
        Projection::Key | Projection::Value => (key_values, width),
        Projection::Gate | Projection::Up => (hidden, width),
        Projection::Down => (width, hidden),
    }
}

/// How many numbers a stage changes. Where some of the weights are frozen, that is a bound: all of them.
fn trained(trainable: &Trainable, architecture: &Architecture) -> Option<u64> {
    match trainable {
        Trainable::Weights { .. } => parameters(architecture),
        Trainable::Adapter(adapter) => {
            let numbers = |projection: &Projection| {
                let (rows, columns) = shape(*projection, architecture);
                let norms = if adapter.kind == crate::plan::AdapterKind::Dora { rows } else { 0 };
                (rows + columns).saturating_mul(u64::from(adapter.rank)).saturating_add(norms)
            };
            let layer = adapter.targets.iter().map(numbers).fold(0, u64::saturating_add);
            Some(layer.saturating_mul(layers(adapter, architecture)))
        }
    }
}

fn layers(adapter: &Adapter, architecture: &Architecture) -> u64 {
    let all = u64::from(architecture.layers);
    adapter
        .layers
        .map_or(all, |(first, last)| (u64::from(last) + 1).min(all).saturating_sub(u64::from(first)))
}
