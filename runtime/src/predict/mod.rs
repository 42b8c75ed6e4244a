//! What a stage will take, before it runs: a few of its own steps, on its own prompts. Whatever a stage does,
//! this does too, so there is no second description of the work that could drift from the first.
//!
//! Where a step takes seconds, or little of the stage, it is tried as it will be: with all sequences, and
//! with the models that exist already, which write completions of their own lengths. Where fewer sequences
//! take as little, trials have `m` and `2 m` of them, and what a step takes is extrapolated in a straight
//! line. Of other stages both time and memory grow by the same amount with every layer. So with what one step
//! of a shallow model takes written as `t(layers)`, `t(n) = t(1) + (n - 1) (t(4) - t(1)) / 3`; and
//! where the trained model and its teachers differ in depth, each has its own difference. Where even one
//! layer would take too long, these have fewer sequences, too.

mod choosing;
mod estimate;
mod judging;
mod machine;
mod taken;
mod trial;
mod validating;

use std::sync::Arc;

use crate::failure::Result;
use crate::machine::device::kind;
use crate::machine::place::Place;
use crate::model::{Config, Weights};
use crate::prepare::{DomainData, ModelSpec};
use crate::rollout::MemoryBudget;
use crate::tokenizer::Tokenizer;
use mopd_compiler::plan::events::Prediction;
use mopd_compiler::plan::producers::Once;
use mopd_compiler::plan::{ModelId, Objective, Plan, Producer, Reward, Share, Stage, Train, Trainable};

pub use machine::MachineSpeed;
use taken::Taken;
use trial::StageTrial;

/// Multiplications and additions that a step of a shallow trial may take: about a second on one core of a
/// usual processor.
const MOST_WORK: f64 = 2e11;

/// Seconds, roughly estimated, that a step may take to be tried whole, whatever the stage takes.
const FEW_SECONDS: f64 = 8.0;
/// The same where the stage has so many steps at least: the trial is a small part of it.
const MORE_SECONDS: f64 = 30.0;
const MANY_STEPS: u32 = 20;
/// A stage that takes so many times as long as a trial of it is worth one.
const WORTH: f64 = 2.0;
/// Steps with shallow models that trials of a deep one have, about.
const SHALLOW: f64 = 10.0;
/// Seconds of a step that is long enough to be tried once, after the first.
const LONG: f64 = 1.0;
/// Prompts of a domain that a teacher answers at once.
const TOGETHER: u32 = 256;
/// Bytes of an element that trains by itself: its place, and its value among those that train.
const ELEMENT_BYTES: u64 = 8;
/// The part of the memory that is free that a trial may need.
const FREE: f64 = 0.7;

/// Of every model of a plan, what is known before it is made.
pub struct Shapes {
    configs: Vec<Arc<Config>>,
    tokenizers: Vec<Arc<Tokenizer>>,
    /// Weights of its shape, its own or of the model that it descends from; none where these are made in the
    /// run.
    weights: Vec<Option<Weights>>,
}

impl Shapes {
    pub fn parameters(&self, model: ModelId) -> u64 {
        Weights::parameters(&self.configs[model.0 as usize]) as u64
    }

    pub fn new(plan: &Plan, specs: &[ModelSpec]) -> Shapes {
        let mut weights: Vec<Option<Weights>> = Vec::new();
        for (model, spec) in plan.experiment.models.iter().zip(specs) {
            weights.push(match &model.stage {
                Stage::Initialise(_) => None,
                Stage::Load(_) => spec.loaded.as_ref().map(|loaded| loaded.weights.clone()),
                Stage::Merge(merge) => {
                    merge.base.iter().chain(&merge.models).find_map(|id| weights[id.0 as usize].clone())
                }
                stage => stage.start().and_then(|start| weights[start.0 as usize].clone()),
            });
        }
        Shapes {
            configs: specs.iter().map(|spec| spec.config.clone()).collect(),
            tokenizers: specs.iter().map(|spec| spec.tokenizer.clone()).collect(),
            weights,
        }
    }
}

/// What a stage that trains will take on this machine, alone; none for other stages, nor, unless it is
/// `thorough`, for one that is over about as soon as a trial of it. Of several models that learn in turns,
/// the turns add up, and all are in memory during each: weights and moments of all, and besides what the
/// turn itself takes.
pub fn predict(
    plan: &Plan,
    model: ModelId,
    (domains, shapes): (&[DomainData], &Shapes),
    steps: u32,
    machine: &MachineSpeed,
    on: (Place, MemoryBudget),
    thorough: bool,
) -> Result<Option<Prediction>> {
    let stage = &plan.experiment.model(model).stage;
    let of_stage = stage.trains();
    // Before anything is trained, nothing has changed.
    let whole = |train: &&Train<Objective>| Train {
        trainable: train.trainable.whatever_changed(),
        ..(*train).clone()
    };
    let tried: Vec<Train<Objective>> = of_stage.iter().map(whole).collect();
    let learners: Vec<&Train<Objective>> = tried.iter().collect();
    let every = |place: usize| match stage {
        Stage::Joint(joint) => joint.learners[place].every.max(1),
        _ => 1,
    };
    // A turn's own are in what its trial takes.
    let moments = |train: &Train<Objective>| match train.trainable {
        Trainable::Weights { .. } => {
            let parameters = Weights::parameters(&shapes.configs[train.start.0 as usize]) as u64;
            4 * train.optimizer.moments() * parameters
        }
        Trainable::Adapter(_) => 0,
    };
    let elements = |train: &&Train<Objective>| {
        let parameters = Weights::parameters(&shapes.configs[train.start.0 as usize]) as u64;
        if train.trainable.changes().next().is_some() { ELEMENT_BYTES * parameters } else { 0 }
    };
    let all: u64 = learners.iter().copied().map(moments).chain(of_stage.iter().map(elements)).sum();
    let mut whole: Option<Prediction> = None;
    for (place, train) in learners.iter().copied().enumerate() {
        let own = (steps / every(place), thorough);
        let Some(turn) = turn(plan, (&learners, place), domains, shapes, own, machine, on)? else {
            return Ok(None);
        };
        let memory = turn.memory + all - moments(train);
        whole = Some(match whole {
            None => Prediction { memory, ..turn },
            Some(before) => Prediction {
                seconds: before.seconds + turn.seconds,
                rollout: before.rollout + turn.rollout,
                scoring: before.scoring + turn.scoring,
                update: before.update + turn.update,
                memory: before.memory.max(memory),
                resting: before.resting.min(turn.resting),
                range: Some(before.range().plus(turn.range())),
            },
        });
    }
    Ok(whole)
}

/// What the turns of the model in its place take, so many in all; none where that is not worth a trial.
fn turn(
    plan: &Plan,
    (learners, learner): (&[&Train<Objective>], usize),
    domains: &[DomainData],
    shapes: &Shapes,
    (steps, thorough): (u32, bool),
    machine: &MachineSpeed,
    (place, budget): (Place, MemoryBudget),
) -> Result<Option<Prediction>> {
    let train = learners[learner];
    let model = train.start;
    let kind = kind(plan.experiment.dtype);
    // What is written once for each prompt is tried as drawn at every step.
    let mut afresh = train.clone();
    afresh.each_rollout(|rollout| rollout.producer.draw_afresh());
    let trial = StageTrial {
        train: &afresh,
        learners,
        learner,
        model,
        domains,
        shapes,
        place,
        kind,
        budget,
        completion: completion(plan, train, domains, shapes, model),
    };
    let batch = sequences(train);
    let most = if steps >= MANY_STEPS { MORE_SECONDS } else { FEW_SECONDS };
    if !thorough && !worth_a_trial(&trial, machine, most, steps) {
        return Ok(None);
    }
    let fits = machine.free.is_none_or(|free| trial.needed() <= FREE * free);
    let taken = match most_sequences(&trial, machine, most) {
        Some(part) if fits && part >= batch => whole(&trial, trial.estimated(batch, machine))?,
        Some(part) if fits => {
            let (less, more) = (trial.whole(part, 2, None)?, trial.whole(2 * part, 2, None)?);
            let at = |sequences: u32| {
                less.extrapolated(more, (f64::from(sequences) / f64::from(part) - 1.0).max(0.0))
            };
            // What teachers write once comes before the first step.
            let around = train.rollout.producer.once().map_or(less.around, |once| at(once.sequences).around);
            Taken { around, memory: memory(train, less, more, at(batch)), ..at(batch) }
        }
        _ => extrapolated(&trial)?,
    };
    let (judged, memory) = match &train.extrapolation {
        None => (0.0, taken.memory),
        Some(of) => {
            let judging = trial.judging(of, machine, most)?;
            // Beside the weights, as they were and as a candidate, nothing of a step is there but the
            // moments.
            let held = taken.resting + trial.needed() + judging.answers;
            (judging.seconds * of.evaluations(steps) as f64, taken.memory.max(held) + judging.base)
        }
    };
    let validated = match &train.validation {
        None => 0.0,
        Some(of) => trial.validated(of, machine)? * f64::from(of.times(steps)),
    };
    // Each part's gradient goes through the student's layers once more, as micro-batches do in any case.
    let through = if train.execution.micro_batch.is_some() { 1.0 } else { 1.5 };
    let each = taken.update * through * train.aligned() as f64;
    let aligned = train.alignment.map_or(0.0, |of| each * f64::from(of.times(steps)));
    let chosen = match &train.curriculum {
        None => 0.0,
        Some(of) => trial.choosing(of, taken.rollout * f64::from(train.passes.max(1)), steps),
    };
    let saved = 4.0 * Weights::parameters(&shapes.configs[model.0 as usize]) as f64 / machine.written;
    let steps = f64::from(steps);
    let rollout = taken.rollout * steps * part_written(train, domains, steps) + chosen;
    let (scoring, update) = (taken.scoring * steps, taken.update * steps + aligned);
    let (stepping, rest) = (rollout + scoring + update, taken.around + judged + validated + saved);
    let range = taken.range(stepping, rest);
    let memory = memory as u64 + aligned_bytes(train, &shapes.configs[model.0 as usize]);
    let resting = taken.resting as u64;
    let seconds = stepping + rest;
    Ok(Some(Prediction { seconds, rollout, scoring, update, memory, resting, range: Some(range) }))
}

/// Whether trying a stage takes well less than the stage, both roughly.
fn worth_a_trial(trial: &StageTrial, machine: &MachineSpeed, most: f64, steps: u32) -> bool {
    let batch = sequences(trial.train);
    let step = trial.estimated(batch, machine);
    let tried = match most_sequences(trial, machine, most) {
        Some(part) if part >= batch => f64::from(tried(step)) * step,
        Some(part) => 2.0 * (trial.estimated(part, machine) + trial.estimated(2 * part, machine)),
        None => SHALLOW * MOST_WORK / machine.products,
    };
    WORTH * tried < f64::from(steps) * step
}

/// Steps of a trial of whole steps.
fn tried(estimated: f64) -> u32 {
    // The first step says little about the others: memory that nobody had before is cleared first, page by
    // page.
    if estimated <= LONG { 3 } else { 2 }
}

/// Of gradients that are compared, in single precision, beside that of the step. Of an adapter they are
/// small, and of frozen parts there are none; then it is a bound.
fn aligned_bytes(train: &Train<Objective>, config: &Config) -> u64 {
    match train.trainable {
        Trainable::Weights { .. } => 4 * (train.aligned() * Weights::parameters(config)) as u64,
        Trainable::Adapter(_) => 0,
    }
}

/// The part of the groups of so many steps that must be written, where a prompt has the same whenever it
/// comes.
fn part_written(train: &Train<Objective>, domains: &[DomainData], steps: f64) -> f64 {
    if !train.producers().all(|producer| producer.kind().once_a_prompt()) {
        return 1.0;
    }
    let drawn = (steps / f64::from(train.passes.max(1))).ceil() * f64::from(train.rollout.groups);
    let new = |share: &Share| {
        let prompts = domains[share.domain.0 as usize].rows_of(train).map_or(0, |data| data.dataset.len());
        (drawn * share.share).min(prompts as f64)
    };
    train.mixture.iter().map(new).sum::<f64>() / drawn.max(1.0)
}

/// The sequences that models of their own depth can try within some seconds: all of a step, or a number that
/// can be tried together with twice as many; none where even one part takes longer.
fn most_sequences(trial: &StageTrial, machine: &MachineSpeed, seconds: f64) -> Option<u32> {
    let batch = sequences(trial.train);
    if trial.estimated(batch, machine) <= seconds {
        return Some(batch);
    }
    let fixed = trial.estimated(0, machine);
    let each = trial.estimated(1, machine) - fixed;
    let part = part(trial.train);
    let parts = ((seconds - 2.0 * fixed) / (3.0 * each * f64::from(part))).floor();
    let parts = (parts as u32).min(batch / 2 / part);
    (parts > 0).then_some(parts * part)
}

/// From a trial of the stage as it will be.
fn whole(trial: &StageTrial, estimated: f64) -> Result<Taken> {
    let tried = tried(estimated);
    let batch = sequences(trial.train);
    let Some(Once { sequences: written, .. }) = trial.train.rollout.producer.once() else {
        return trial.whole(batch, tried, None);
    };
    // Teachers write all before the first step, domain by domain, many sequences at once.
    let chunk = TOGETHER.saturating_mul(trial.train.mixture.len() as u32);
    let few = batch.min(written);
    let affordable = estimated * f64::from(chunk.min(written)) / f64::from(batch.max(1)) <= MORE_SECONDS;
    let many = if affordable { chunk } else { batch.saturating_mul(2) }.min(written);
    let less = trial.whole(batch, tried, Some(few))?;
    if many <= few {
        return Ok(less);
    }
    let more = trial.whole(batch, 1, Some(many))?;
    let at = |sequences: u32| less.extrapolated(more, f64::from(sequences - few) / f64::from(many - few));
    Ok(Taken { around: at(written).around, memory: at(chunk.clamp(few, written)).memory, ..less })
}

/// Layers of the deeper one of two trials, for a model of so many: what disturbs a trial counts for every
/// layer that was not tried.
fn deeper(layers: usize) -> usize {
    layers.clamp(2, 4)
}

/// How often what the deeper trial has more than the one of a single layer is in the model's other layers.
fn further(layers: usize) -> f64 {
    (layers - 1) as f64 / (deeper(layers) - 1) as f64
}

/// From trials with shallow models and, if need be, few sequences.
fn extrapolated(trial: &StageTrial) -> Result<Taken> {
    let train = trial.train;
    let student = trial.shapes.configs[trial.model.0 as usize].layers;
    let teachers = train.asked().map(|id| trial.shapes.configs[id.0 as usize].layers).max();
    let batch = sequences(train);
    let (first, second) = sizes(train, batch, trial.work(batch, 1));
    let at = |batch: u32| -> Result<Taken> {
        let one = trial.cut(batch, 1, 1)?;
        let whole = match teachers {
            // All of one depth grow together.
            Some(teachers) if teachers != student => {
                let (own, others) =
                    (trial.cut(batch, deeper(student), 1)?, trial.cut(batch, 1, deeper(teachers))?);
                let own = one.extrapolated(own, further(student));
                own.plus(one.extrapolated(others, further(teachers)).minus(one))
            }
            _ => one.extrapolated(trial.cut(batch, deeper(student), deeper(student))?, further(student)),
        };
        // A shallow model takes most while it has logits, when its teachers' layers are gone; a deep one may
        // while a teacher scores.
        let grown = trial.while_scored(student, teachers.unwrap_or(student)) - trial.while_scored(1, 1);
        Ok(Taken { memory: whole.memory.max(one.memory + grown), ..whole })
    };
    let taken = match second {
        None => at(first)?,
        Some(second) => {
            let (less, more) = (at(first)?, at(second)?);
            let all = less.extrapolated(more, f64::from(batch - first) / f64::from(second - first));
            Taken { memory: memory(train, less, more, all), ..all }
        }
    };
    Ok(taken.times_written(train))
}

/// The memory of a step, from two with fewer sequences and their extrapolation: where sequences go through in
/// parts, more of them are more parts, one after the other.
fn memory(train: &Train<Objective>, less: Taken, more: Taken, extrapolated: Taken) -> f64 {
    if train.execution.micro_batch.is_some() { less.memory.max(more.memory) } else { extrapolated.memory }
}

impl Taken {
    /// Teachers that write once wrote one batch.
    fn times_written(self, train: &Train<Objective>) -> Taken {
        let Some(Once { sequences, .. }) = train.rollout.producer.once() else { return self };
        Taken { around: self.around * f64::from(sequences) / f64::from(train.rollout.groups.max(1)), ..self }
    }
}

/// Sequences of one step, on the stage's rollout: those that terms have of their own come with them.
fn sequences(train: &Train<Objective>) -> u32 {
    train.rollout.sequences()
}

/// Sequences that trials don't cut: a step of fewer parts needs no less memory.
fn part(train: &Train<Objective>) -> u32 {
    train.execution.micro_batch.unwrap_or(1).max(1).next_multiple_of(train.rollout.group())
}

/// How many sequences the trials have: all of a step, or two smaller numbers.
fn sizes(train: &Train<Objective>, batch: u32, work: f64) -> (u32, Option<u32>) {
    let part = part(train);
    let factor = (work / MOST_WORK).max(1.0);
    let first = ((f64::from(batch) / factor / f64::from(part)) as u32).max(1) * part;
    if factor > 1.5 && first.saturating_mul(2) < batch { (first, Some(first * 2)) } else { (batch, None) }
}

/// Answers whose length is asked: enough for a mean.
const SAMPLE: usize = 10_000;

/// Tokens of a completion, on average: of an `exact_match` those of the right answer, since that is where
/// training leads a model that begins at random; else the most that is allowed.
fn completion(
    plan: &Plan,
    train: &Train<Objective>,
    domains: &[DomainData],
    shapes: &Shapes,
    model: ModelId,
) -> u32 {
    let Some(most) = train.producers().find_map(Producer::sampling) else { return 0 };
    let tokenizer = &shapes.tokenizers[model.0 as usize];
    let exists = shapes.weights[model.0 as usize].is_some();
    let mut sum = 0.0;
    for share in &train.mixture {
        let domain = plan.experiment.domain(share.domain);
        let limit = most.max_tokens(domain.limit);
        let answer = match (&domain.reward, domains[share.domain.0 as usize].rows_of(train)) {
            (Reward::ExactMatch { field }, Some(prompts)) if !exists => {
                let answer = |row| prompts.dataset.text(row, field);
                // A completion is its answer and the token that ends it.
                let length = |row| Some(tokenizer.encode(answer(row)?).ok()?.len() + 1);
                let lengths: Vec<usize> = (0..prompts.dataset.len().min(SAMPLE)).filter_map(length).collect();
                (!lengths.is_empty()).then(|| lengths.iter().sum::<usize>() as f64 / lengths.len() as f64)
            }
            _ => None,
        };
        sum += share.share * answer.map_or(f64::from(limit), |answer| answer.min(f64::from(limit)));
    }
    (sum.round() as u32).clamp(1, most.max_tokens.max(1))
}

/// The same shape with so many layers at most.
fn cut(config: &Config, layers: usize) -> Config {
    let layers = layers.min(config.layers);
    let mut config = Config { layers, ..config.clone() };
    config.attention.truncate(layers);
    if let Some(experts) = &mut config.experts {
        experts.layers.truncate(layers);
    }
    config
}

/// A model. Its numbers are of no account, but none of them is denormal or infinite.
fn some_weights(config: Config, tokenizer: &Arc<Tokenizer>) -> Weights {
    let config = Arc::new(config);
    let count = Weights::parameters(&config);
    let mut state = 1u32;
    let values = (0..count).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 * 0.1 - 0.05
    });
    Weights::new(config.clone(), tokenizer.clone(), values.collect())
}
