//! Upper bounds of the cost of every stage. Costs that depend on files which are read at run time, such as
//! the size of a loaded model, are `None` here: the worker reads these files and predicts them.

use mopd_plan::producers::Writer;
use mopd_plan::{
    Adapter, Architecture, Cost, Experiment, Family, Length, ModelId, Objective, Panel, Projection, Role,
    Rollout, Scorer, Stage, Teacher, Train, Trainable,
};

/// Bytes per trained parameter: weight and gradient, in f32.
const TRAINING_BYTES: u64 = 8;
/// Bytes per number of the optimizer's state.
const MOMENT_BYTES: u64 = 4;
/// Bytes per parameter for the sum of the records' gradients in f32, besides the current record's gradient.
const PRIVATE_BYTES: u64 = 4;
/// Bytes per parameter for another gradient besides that of the step, in f32.
const GRADIENT_BYTES: u64 = 4;
/// Bytes per parameter for the weights at the last extrapolation and, while candidates are evaluated and
/// there is no gradient, the current weights and the candidate's.
const EXTRAPOLATED_BYTES: u64 = 8;
/// Bytes per single trained element: its index, and its value in the vector of trained elements.
const ELEMENT_BYTES: u64 = 8;
/// Bytes per weight.
const WEIGHT_BYTES: u64 = 4;
/// Floating-point operations per parameter and token (arXiv:2001.08361, section 2.1): forward, and forward
/// with backward.
const FORWARD: f64 = 2.0;
const TRAINING: f64 = 6.0;

/// The costs of all models, in order.
pub(super) fn costs(experiment: &Experiment<Objective>) -> Vec<Cost> {
    // `None` where a model's shape is in a file.
    let mut architectures: Vec<Option<&Architecture>> = Vec::new();
    let mut costs: Vec<Cost> = Vec::new();
    for model in &experiment.models {
        let of = |id: ModelId| architectures[id.0 as usize];
        let inherited = model.stage.start().and_then(of);
        let (architecture, cost) = match &model.stage {
            Stage::Initialise(architecture) => (Some(architecture), weights_alone(parameters(architecture))),
            Stage::Load(_) => (None, weights_alone(None)),
            Stage::Train(train) => (inherited, training(train, inherited, &costs)),
            Stage::Joint(stage) => {
                let each = stage.learners.iter().map(|learner| {
                    let own = training(&learner.train, of(learner.train.start), &costs);
                    in_every(own, learner.every)
                });
                (inherited, each.reduce(joint).unwrap_or_else(|| weights_alone(None)))
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

/// The cost of a learner whose steps are every `every`-th of the stage.
fn in_every(own: Cost, every: u32) -> Cost {
    let part = |all: u64| all / u64::from(every.max(1));
    Cost {
        sequences: own.sequences.map(part),
        drawn: own.drawn.map(part),
        tokens: own.tokens.map(part),
        flops: own.flops.map(|flops| flops / f64::from(every.max(1))),
        ..own
    }
}

/// The cost of two models that are trained in one stage, so that both are in memory.
fn joint(one: Cost, other: Cost) -> Cost {
    let sum = |one: Option<u64>, other: Option<u64>| Some(one?.saturating_add(other?));
    Cost {
        parameters: sum(one.parameters, other.parameters),
        trained: sum(one.trained, other.trained),
        sequences: sum(one.sequences, other.sequences),
        drawn: match (one.drawn, other.drawn) {
            (None, None) => None,
            (own, its) => sum(own.or(one.sequences), its.or(other.sequences)),
        },
        tokens: sum(one.tokens, other.tokens),
        flops: one.flops.zip(other.flops).map(|(one, other)| one + other),
        memory: sum(one.memory, other.memory),
    }
}

fn weights_alone(parameters: Option<u64>) -> Cost {
    let memory = parameters.map(|parameters| parameters.saturating_mul(WEIGHT_BYTES));
    let none = Some(0);
    Cost { parameters, trained: none, sequences: none, drawn: None, tokens: none, flops: Some(0.0), memory }
}

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
    let sequences_of = |rollout: &Rollout| {
        // A step trains on one mini-batch.
        Some(sequences(rollout, steps)? / u64::from(train.options.mini_batches.max(1)))
    };
    let tokens_of = |rollout: &Rollout| Some(sequences_of(rollout)?.saturating_mul(context?));
    let sum = |of: &dyn Fn(&Rollout) -> Option<u64>| {
        train.rollouts().map(of).reduce(|all, own| Some(all?.saturating_add(own?))).flatten()
    };
    let (sequences, tokens) = (sum(&sequences_of), sum(&tokens_of));
    let drawn = sum(&|rollout| {
        let (drawn, kept) = (rollout.producer.kind().drawn_group(), rollout.group());
        Some(sequences_of(rollout)? / u64::from(kept) * u64::from(drawn.max(kept)))
    });
    let drawn = drawn.filter(|drawn| Some(*drawn) != sequences);
    // Unknown without reading files: the number of prompts that evaluate extrapolations, of validation rows,
    // and of prompts to choose from.
    let chosen = train.curriculum.as_ref().is_none_or(|chosen| !chosen.draws());
    let known = train.extrapolation.is_none() && train.options.validation.is_none() && chosen;
    let flops = || {
        let models = Models::of(train, parameters?, trained?, costs)?;
        let each = train.objectives().map(|(rollout, objective)| {
            let (steps, context) = (steps? as f64, context? as f64);
            let size = Size { steps, context, tokens: tokens_of(rollout)? as f64 };
            Operations { train, rollout, objective, models: &models, size }.all()
        });
        each.sum()
    };
    let sizes =
        parameters.zip(trained).map(|(parameters, trained)| StudentSize::of(train, parameters, trained));
    let memory = sizes.map(|student| memory(train, student));
    Cost { parameters, trained, sequences, drawn, tokens, flops: known.then(flops).flatten(), memory }
}

/// The numbers of a student, of which some are trained.
#[derive(Clone, Copy)]
struct StudentSize {
    /// Parameters of the model without its adapter.
    parameters: u64,
    frozen: u64,
    trained: u64,
}

impl StudentSize {
    fn of(train: &Train<Objective>, parameters: u64, trained: u64) -> StudentSize {
        let frozen = match train.trainable {
            Trainable::Weights { .. } => parameters.saturating_sub(trained),
            // The numbers of an adapter are beside those of the model.
            Trainable::Adapter(_) => parameters,
        };
        StudentSize { parameters, frozen, trained }
    }

    /// Operations of an update per token. Frozen weights have no gradients, but their inputs do. An upper
    /// bound: the student's forward pass is included, which a CPU skips where generation
    /// [saves activations](Train::saves_activations).
    fn update(self) -> f64 {
        (TRAINING - FORWARD) * self.frozen as f64 + TRAINING * self.trained as f64
    }
}

/// Weights, gradients and the optimizer's state, in bytes.
fn memory(train: &Train<Objective>, student: StudentSize) -> u64 {
    let frozen = student.frozen.saturating_mul(WEIGHT_BYTES);
    let each = TRAINING_BYTES
        + MOMENT_BYTES * train.optimizer.moments()
        + if train.options.private.is_some() { PRIVATE_BYTES } else { 0 }
        + if train.extrapolation.is_some() { EXTRAPOLATED_BYTES } else { 0 }
        + GRADIENT_BYTES * train.aligned() as u64
        + if train.trainable.changes().next().is_some() { ELEMENT_BYTES } else { 0 };
    frozen.saturating_add(student.trained.saturating_mul(each))
}

/// The number of sequences of a stage's rollout. `None` where the number of steps or rows is in a file.
fn sequences(rollout: &Rollout, steps: Option<u64>) -> Option<u64> {
    let rows = u64::from(rollout.group()).saturating_mul(u64::from(rollout.producer.kind().rows()?));
    let each_step = u64::from(rollout.groups).saturating_mul(rows);
    steps.map(|steps| steps.saturating_mul(each_step))
}

/// The amount of data of a stage.
struct Size {
    steps: f64,
    context: f64,
    /// Tokens of all sequences, each as long as the context: prompts are not known before the data is read.
    tokens: f64,
}

/// The sizes of the models that a stage computes with, in parameters.
struct Models<'a> {
    student: StudentSize,
    scorers: Vec<(Role, u64)>,
    costs: &'a [Cost],
}

impl Models<'_> {
    fn of<'a>(
        train: &Train<Objective>,
        parameters: u64,
        trained: u64,
        costs: &'a [Cost],
    ) -> Option<Models<'a>> {
        let student = StudentSize::of(train, parameters, trained);
        let of = |model: ModelId| costs[model.0 as usize].parameters;
        let choice = |teacher: &Teacher| match teacher {
            Teacher::Model(model) => of(*model),
            Teacher::Student(_) => Some(parameters),
            // The members are scorers of their own.
            Teacher::Composed(_) => Some(0),
            // The server computes it.
            Teacher::Served(_) => Some(0),
            Teacher::Learner { start, .. } => of(*start),
        };
        // Where several models share the work, the largest is assumed.
        let scorer = |scorer: &Scorer| {
            let models = scorer.choices.iter().map(|of| choice(&of.teacher)).collect::<Option<Vec<u64>>>();
            models.map(|models| models.into_iter().max().unwrap_or(0))
        };
        let scorers = train.scorers.iter().map(|(role, known)| Some((role, scorer(known)?)));
        Some(Models { student, scorers: scorers.collect::<Option<_>>()?, costs })
    }

    fn scorer(&self, role: Role) -> Option<u64> {
        self.scorers.iter().find(|(known, _)| *known == role).map(|(_, parameters)| *parameters)
    }

    fn writer(&self, writer: Writer) -> Option<u64> {
        match writer {
            Writer::Student => Some(self.student.parameters),
            Writer::Scorer(role) | Writer::Guide(role) | Writer::Editor { editor: role, .. } => {
                self.scorer(role)
            }
            Writer::Model(model) => self.costs[model.0 as usize].parameters,
        }
    }
}

/// The floating-point operations of a part of a stage, in all its steps.
struct Operations<'a> {
    train: &'a Train<Objective>,
    rollout: &'a Rollout,
    objective: &'a Objective,
    models: &'a Models<'a>,
    size: Size,
}

impl Operations<'_> {
    fn all(&self) -> Option<f64> {
        // The gradient is computed for the batch as a whole, and then record by record.
        let times = if self.train.options.private.is_some() { 2.0 } else { 1.0 };
        let updates =
            self.models.student.update() * self.size.tokens + self.scoring() + self.old() + self.continued();
        let aligned = self.aligned();
        Some(
            times * updates
                + aligned
                + self.sampling()?
                + self.talk()
                + self.side_generation()
                + self.recorded(),
        )
    }

    /// Operations per parameter of a model that reads all completions. Passes share a rollout.
    fn rollouts(&self) -> f64 {
        FORWARD * self.size.tokens / f64::from(self.train.options.passes.max(1))
    }

    fn sampling(&self) -> Option<f64> {
        let producer = &self.rollout.producer;
        match producer.once() {
            Some(once) => {
                let writer = producer.drawn().first().and_then(|(writer, _)| self.models.writer(*writer))?;
                Some(FORWARD * writer as f64 * f64::from(once.sequences) * self.size.context)
            }
            None => Some(self.rollouts() * producer.kind().parameters(&|of| self.models.writer(of))?),
        }
    }

    fn scoring(&self) -> f64 {
        let scored = self.train.scorers.scored(|role| self.objective.reads(role));
        let scores = self.models.scorers.iter().filter(|(role, _)| scored.contains(role));
        scores.map(|(_, parameters)| FORWARD * *parameters as f64 * self.size.tokens).sum()
    }

    /// Operations of scoring the later mini-batches of each batch before its first update.
    fn old(&self) -> f64 {
        if !self.objective.reads(Role::Old) {
            return 0.0;
        }
        let parts = f64::from(self.train.options.mini_batches.max(1));
        self.rollouts() * self.models.student.parameters as f64 * (parts - 1.0) / parts
    }

    /// Operations of the panels' discussions, one for the completions of a prompt.
    fn talk(&self) -> f64 {
        let turns = self.rollouts() / f64::from(self.rollout.group().max(1));
        let spoken = |panel: &Panel| {
            let each: u64 = panel.members.iter().filter_map(|role| self.models.scorer(*role)).sum();
            each as f64 * f64::from(panel.rounds) * turns
        };
        self.train.panels.iter().map(spoken).sum()
    }

    /// Operations of writing feedback about completions, and others' completions of the same prompts.
    fn side_generation(&self) -> f64 {
        let feedback = self.train.feedback_for(self.objective).into_iter();
        let feedback = feedback.map(|place| self.train.feedback[place as usize].writer);
        let writers = feedback.chain(self.objective.attempts());
        writers.map(|role| self.rollouts() * self.models.scorer(role).unwrap_or(0) as f64).sum()
    }

    /// Operations of continuing completions from the starts of blocks, each after its prefix.
    fn continued(&self) -> f64 {
        let sequences = self.size.tokens / self.size.context;
        let each = self.objective.agreements().into_iter().map(|agreement| {
            let writer = self.models.scorer(agreement.role).unwrap_or(0) as f64;
            let all = self.size.tokens * f64::from(agreement.blocks) + sequences * agreement.written();
            FORWARD * writer * all
        });
        each.sum()
    }

    /// Operations of reading recorded texts, one for each prompt of a step.
    fn recorded(&self) -> f64 {
        let groups = f64::from(self.rollout.groups) / f64::from(self.train.options.mini_batches.max(1));
        let prompts = self.size.steps * groups * self.size.context;
        FORWARD * self.models.student.parameters as f64 * prompts * self.objective.recorded().len() as f64
    }

    /// Operations of the gradients of parts of the loss, each through the student alone.
    fn aligned(&self) -> f64 {
        let (Some(alignment), Length::Steps(steps)) = (self.train.options.alignment, self.train.length)
        else {
            return 0.0;
        };
        let share = f64::from(alignment.times(steps)) / f64::from(steps.max(1));
        self.train.aligned_in(self.objective) as f64 * share * self.models.student.update() * self.size.tokens
    }
}

/// The number of parameters: embedding `V W`; per layer queries and output `2 W^2`, keys and values `2 W
/// (kv_heads W / heads)`, SwiGLU `3 W H`, two norms `2 W`, and what the family adds; a last norm `W`; an LM
/// head `V W` if not tied. `None` where the vocabulary is in a file.
pub(super) fn parameters(architecture: &Architecture) -> Option<u64> {
    let width = u64::from(architecture.width);
    let matrices = Projection::ATTENTION.iter().chain(Projection::FEED_FORWARD).map(|projection| {
        let (rows, columns) = shape(*projection, architecture);
        rows.saturating_mul(columns)
    });
    let layer = matrices.fold(2 * width + of_family(architecture), u64::saturating_add);
    let embeddings =
        u64::from(architecture.tokenizer.vocabulary()?) * width * if architecture.tied { 1 } else { 2 };
    Some(
        layer.saturating_mul(u64::from(architecture.layers)).saturating_add(embeddings).saturating_add(width),
    )
}

/// Parameters of a layer that only some families have: the biases of queries, keys and values, or the norms
/// of a head's queries and keys.
fn of_family(architecture: &Architecture) -> u64 {
    let rows = |projection| shape(projection, architecture).0;
    match architecture.family {
        Family::Qwen2 => [Projection::Query, Projection::Key, Projection::Value].map(rows).iter().sum(),
        Family::Qwen3 => 2 * u64::from(architecture.width / architecture.heads.max(1)),
        Family::Llama | Family::Gemma => 0,
    }
}

/// Parameters of a second head: `2 W^2` in, `W^2` out, and `W` for its confidence.
fn second_head(architecture: &Architecture) -> u64 {
    let width = u64::from(architecture.width);
    (3 * width).saturating_mul(width).saturating_add(width)
}

/// Rows and columns of a layer's matrix.
fn shape(projection: Projection, architecture: &Architecture) -> (u64, u64) {
    let (width, hidden) = (u64::from(architecture.width), u64::from(architecture.intermediate_size));
    let head = width / u64::from(architecture.heads.max(1));
    let key_values = head.saturating_mul(u64::from(architecture.key_value_heads));
    match projection {
        Projection::Query | Projection::Output => (width, width),
        Projection::Key | Projection::Value => (key_values, width),
        Projection::Gate | Projection::Up => (hidden, width),
        Projection::Down => (width, hidden),
        // No family that the language makes has them.
        Projection::DeltaInput
        | Projection::DeltaGate
        | Projection::DeltaStrength
        | Projection::DeltaDecay
        | Projection::DeltaOutput
        | Projection::ConvInput
        | Projection::ConvOutput => (0, 0),
    }
}

/// The number of trained parameters. Where some of the weights are frozen, an upper bound: all of them.
fn trained(trainable: &Trainable, architecture: &Architecture) -> Option<u64> {
    match trainable {
        Trainable::Weights { .. } => parameters(architecture),
        Trainable::Adapter(adapter) => {
            let numbers = |projection: &Projection| {
                let (rows, columns) = shape(*projection, architecture);
                let norms = if adapter.kind == mopd_plan::AdapterKind::Dora { rows } else { 0 };
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
