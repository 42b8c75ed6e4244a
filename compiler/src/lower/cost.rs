//! Predicted cost of every stage, an upper bound.

use crate::plan::{Architecture, Completions, Cost, Experiment, ModelId, Objective, Prefixes, Role, Stage, Train};

/// Bytes per parameter: weight, gradient and the two moments of Adam, in f32.
const TRAINING_BYTES: u64 = 16;
/// A weight alone.
const WEIGHT_BYTES: u64 = 4;
/// Multiplications and additions per parameter and token (arXiv:2001.08361, section 2.1): forward, and forward with backward.
const FORWARD: f64 = 2.0;
const TRAINING: f64 = 6.0;

/// One per model, in order.
pub(super) fn costs(experiment: &Experiment<Objective>) -> Vec<Cost> {
    let mut architectures: Vec<&Architecture> = Vec::new();
    let mut costs: Vec<Cost> = Vec::new();
    for model in &experiment.models {
        let of = |id: ModelId| architectures[id.0 as usize];
        let (architecture, cost) = match &model.stage {
            Stage::Initialise(architecture) => {
                let parameters = parameters(architecture);
                (architecture, Cost { parameters, memory: parameters.saturating_mul(WEIGHT_BYTES), ..Cost::default() })
            }
            Stage::Train(train) => (of(train.start), training(train, of(train.start), &costs)),
            Stage::Merge(merge) => {
                let Some(first) = merge.base.iter().chain(&merge.models).next() else {
                    unreachable!("the checker refuses a merge of nothing")
                };
                let parameters = parameters(of(*first));
                let flops = FORWARD * parameters as f64 * merge.models.len() as f64;
                let memory = parameters.saturating_mul(WEIGHT_BYTES);
                (of(*first), Cost { parameters, flops, memory, ..Cost::default() })
            }
        };
        architectures.push(architecture);
        costs.push(cost);
    }
    costs
}

/// Every sequence is taken to fill the context, since prompts are not known before the data is read.
fn training(train: &Train<Objective>, architecture: &Architecture, costs: &[Cost]) -> Cost {
    let parameters = parameters(architecture);
    let context = u64::from(architecture.context);
    let steps = u64::from(train.steps);
    let sequences = match &train.prefixes {
        Prefixes::Data { batch, .. } | Prefixes::Teacher { batch, .. } => steps.saturating_mul(u64::from(*batch)),
        Prefixes::Student { prompts, sampling, .. } => {
            steps.saturating_mul(u64::from(*prompts)).saturating_mul(u64::from(sampling.n))
        }
        Prefixes::Pairs { batch, .. } => steps.saturating_mul(u64::from(*batch)).saturating_mul(2),
    };
    let tokens = sequences.saturating_mul(context);
    let of = |model: ModelId| costs[model.0 as usize].parameters;
    // The largest model, where several share the work.
    let teacher = train.teachers.iter().map(|choice| choice.teacher.model().map_or(parameters, of)).max().unwrap_or(0);
    let reference = train.references.iter().map(|choice| of(choice.reference)).max().unwrap_or(0);
    // Rollouts serve as many updates as there are passes.
    let rollouts = FORWARD * tokens as f64 / f64::from(train.passes.max(1));
    let side = |side: &Completions| match side {
        Completions::Data { .. } => 0,
        Completions::Student { .. } => parameters,
        Completions::Teacher { .. } => teacher,
        Completions::Model { model, .. } => of(*model),
    };
    let sampling = match &train.prefixes {
        Prefixes::Data { .. } => 0.0,
        Prefixes::Student { .. } => rollouts * parameters as f64,
        Prefixes::Teacher { sequences, .. } => FORWARD * teacher as f64 * f64::from(*sequences) * context as f64,
        Prefixes::Pairs { chosen, rejected, .. } => rollouts * (side(chosen) + side(rejected)) as f64 / 2.0,
    };
    let scores = [(Role::Teacher, teacher), (Role::Reference, reference)];
    let scores = scores.into_iter().filter(|(role, _)| train.objective.reads(*role));
    let scoring: f64 = scores.map(|(_, parameters)| FORWARD * parameters as f64 * tokens as f64).sum();
    Cost {
        parameters,
        sequences,
        tokens,
        flops: TRAINING * parameters as f64 * tokens as f64 + sampling + scoring,
        memory: parameters.saturating_mul(TRAINING_BYTES),
    }
}

/// Embedding `V W`; per layer queries and output `2 W^2`, keys and values `2 W (kv_heads W / heads)`, SwiGLU `3 W H`, two norms
/// `2 W`; a last norm `W`; an output matrix `V W` of its own where not tied.
pub(super) fn parameters(architecture: &Architecture) -> u64 {
    let (width, hidden) = (u64::from(architecture.width), u64::from(architecture.hidden));
    let vocabulary = u64::from(architecture.tokenizer.vocabulary());
    let head = width / u64::from(architecture.heads.max(1));
    let key_values = head.saturating_mul(u64::from(architecture.key_value_heads));
    let matrices = width.saturating_mul(width).saturating_mul(2);
    let matrices = matrices.saturating_add(width.saturating_mul(key_values).saturating_mul(2));
    let matrices = matrices.saturating_add(width.saturating_mul(hidden).saturating_mul(3));
    let layer = matrices.saturating_add(2 * width);
    let embeddings = vocabulary * width * if architecture.tied { 1 } else { 2 };
    layer.saturating_mul(u64::from(architecture.layers)).saturating_add(embeddings).saturating_add(width)
}
