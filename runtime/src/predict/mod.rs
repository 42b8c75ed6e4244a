//! Predicts the time and memory of a stage before it runs, by running a few of its own steps on its own
//! prompts. A trial runs the stage's code, so no second description of the work can drift from the first.
//!
//! If a step takes seconds, or little of the stage, it is tried as it will be: with all sequences, and with
//! the models that exist already, which write completions of their own lengths. If only fewer sequences are
//! that cheap, trials have `m` and `2 m` of them, and a step is extrapolated linearly. In all other cases
//! trials have shallow models: time and memory grow by the same amount with every layer, so if a step takes
//! `t(layers)`, then `t(n) = t(1) + (n - 1) (t(4) - t(1)) / 3`. If the trained model and its teachers differ
//! in depth, each has its own difference. If even one layer would take too long, these trials have fewer
//! sequences, too.

mod choosing;
mod estimate;
mod judging;
mod machine;
mod measurement;
mod trial;
mod validating;

use std::sync::Arc;

use mopd_plan::events::Prediction;
use mopd_plan::producers::PrecomputedRollouts;
use mopd_plan::{ModelId, Objective, Plan, Producer, Reward, Share, Stage, Train, Trainable};

use crate::failure::Result;
use crate::machine::device::kind;
use crate::machine::place::Place;
use crate::model::{Config, Weights};
use crate::prepare::{DomainData, ModelSpec};
use crate::rollout::MemoryBudget;
use crate::tokenizer::Tokenizer;

pub use machine::MachineSpeed;
use measurement::TrialMeasurement;
use trial::StageTrial;

/// Most multiplications and additions of a step in a shallow trial: about a second on one core of a usual
/// CPU.
const MOST_WORK: f64 = 2e11;

/// A step of at most this many estimated seconds is tried whole, however long the stage is.
const FEW_SECONDS: f64 = 8.0;
/// The limit for stages of at least [`MANY_STEPS`] steps, of which the trial is a small part.
const MORE_SECONDS: f64 = 30.0;
const MANY_STEPS: u32 = 20;
/// A trial is worth it if the stage takes more than this many times as long.
const WORTH: f64 = 2.0;
/// About how many steps the shallow trials of a deep model have.
const SHALLOW: f64 = 10.0;
/// A step of more than this many seconds is tried once after the first, a shorter one twice.
const LONG: f64 = 1.0;
/// Prompts of a domain that a teacher answers together.
const TOGETHER: u32 = 256;
/// Bytes of an element that is trained individually: its index, and its value.
const ELEMENT_BYTES: u64 = 8;
/// The fraction of the free memory that a trial may need.
const FREE: f64 = 0.7;
/// Sequences from which the time and memory of any number follow. With more of them, the time and memory of a
/// trial itself would grow with `batch`.
const ENOUGH: u32 = 1024;
/// The largest step that is tried whole.
const WHOLE: u32 = 4 * ENOUGH;

/// The shape and the start weights of every model of a plan before it is trained, by [`ModelId`].
pub struct Shapes {
    configs: Vec<Arc<Config>>,
    tokenizers: Vec<Arc<Tokenizer>>,
    /// Weights of the model's shape, its own or those of the model that it starts from; none if the run
    /// makes them.
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

/// What every trial of a plan's stages needs.
#[derive(Clone, Copy)]
pub struct TrialContext<'a> {
    pub plan: &'a Plan,
    pub domains: &'a [DomainData],
    pub shapes: &'a Shapes,
    pub machine: &'a MachineSpeed,
    pub place: Place,
    /// Memory budget of generation.
    pub budget: MemoryBudget,
}

impl TrialContext<'_> {
    /// Time and memory of a training stage that runs alone on this machine. `None` for other stages and,
    /// unless `thorough`, for a stage that takes hardly longer than a trial of it. If several models learn in
    /// turns, the times of their turns add up, and the memory of a turn includes the weights and moments of
    /// all models.
    pub fn predict(self, model: ModelId, steps: u32, thorough: bool) -> Result<Option<Prediction>> {
        let TrialContext { plan, shapes, .. } = self;
        let stage = &plan.experiment.model(model).stage;
        let of_stage = stage.trains();
        // No elements have changed before training, so a stage that trains only changed ones is tried with
        // all.
        let whole = |train: &&Train<Objective>| Train {
            trainable: train.trainable.as_fully_trainable(),
            ..(*train).clone()
        };
        let tried: Vec<Train<Objective>> = of_stage.iter().map(whole).collect();
        let learners: Vec<&Train<Objective>> = tried.iter().collect();
        let every = |place: usize| match stage {
            Stage::Joint(joint) => joint.learners[place].every.max(1),
            _ => 1,
        };
        // The trial of a turn includes the moments of its own model.
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
            let Some(turn) = self.turn(&learners, place, steps / every(place), thorough)? else {
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

    /// Time and memory of `steps` turns of one learner; `None` if that is not worth a trial.
    fn turn(
        self,
        learners: &[&Train<Objective>],
        learner: usize,
        steps: u32,
        thorough: bool,
    ) -> Result<Option<Prediction>> {
        let train = learners[learner];
        // In a trial, completions that the stage writes once per prompt are drawn at every step.
        let mut afresh = train.clone();
        afresh.each_rollout(|rollout| rollout.producer.redraw_each_step());
        let trial = StageTrial {
            context: self,
            train: &afresh,
            learners,
            learner,
            model: train.start,
            kind: kind(self.plan.experiment.dtype),
            completion: completion(self, train),
        };
        let most = if steps >= MANY_STEPS { MORE_SECONDS } else { FEW_SECONDS };
        if !thorough && !worth_a_trial(&trial, most, steps) {
            return Ok(None);
        }
        let measured = measured_step(&trial, train, most)?;
        self.whole_stage(&trial, train, measured, most, steps).map(Some)
    }

    /// Time and memory of `steps` steps and of all around them, from those of a step.
    fn whole_stage(
        self,
        trial: &StageTrial,
        train: &Train<Objective>,
        measured: TrialMeasurement,
        most: f64,
        steps: u32,
    ) -> Result<Prediction> {
        let config = &self.shapes.configs[train.start.0 as usize];
        let (judged, memory) = match &train.extrapolation {
            None => (0.0, measured.memory),
            Some(of) => {
                let judging = trial.judging(of, most)?;
                // During an evaluation memory holds the old and the candidate weights and the moments, but no
                // activations of a step.
                let held = measured.resting + trial.needed() + judging.answers;
                (judging.seconds * of.evaluations(steps) as f64, measured.memory.max(held) + judging.base)
            }
        };
        let validated = match &train.options.validation {
            None => 0.0,
            Some(of) => trial.validated(of)? * f64::from(of.times(steps)),
        };
        // Each part's gradient goes back through the student's layers separately, as it does with
        // micro-batches.
        let through = if train.options.execution.micro_batch.is_some() { 1.0 } else { 1.5 };
        let each = measured.update * through * train.aligned() as f64;
        let aligned = train.options.alignment.map_or(0.0, |of| each * f64::from(of.times(steps)));
        let chosen = match &train.curriculum {
            None => 0.0,
            Some(of) => {
                trial.choosing(of, measured.rollout * f64::from(train.options.updates_per_batch()), steps)
            }
        };
        let saved = 4.0 * Weights::parameters(config) as f64 / self.machine.written;
        let steps = f64::from(steps);
        let rollout = measured.rollout * steps * part_written(train, self.domains, steps) + chosen;
        let (scoring, update) = (measured.scoring * steps, measured.update * steps + aligned);
        let (stepping, rest) = (rollout + scoring + update, measured.around + judged + validated + saved);
        let range = measured.range(stepping, rest);
        let memory = memory as u64 + aligned_bytes(train, config);
        let resting = measured.resting as u64;
        let seconds = stepping + rest;
        Ok(Prediction { seconds, rollout, scoring, update, memory, resting, range: Some(range) })
    }
}

/// Tries steps of a stage with settings `train`, whole ones or smaller ones, which are extrapolated.
fn measured_step(trial: &StageTrial, train: &Train<Objective>, most: f64) -> Result<TrialMeasurement> {
    let batch = sequences(train);
    Ok(match most_sequences(trial, most) {
        Some(part) if part >= batch => whole(trial, trial.estimated(batch))?,
        Some(part) => {
            let (less, more) = (trial.whole(part, 2, None)?, trial.whole(2 * part, 2, None)?);
            let at = |sequences: u32| {
                less.extrapolated(more, (f64::from(sequences) / f64::from(part) - 1.0).max(0.0))
            };
            // Completions that teachers write once are written before the first step.
            let around = train.rollout.producer.once().map_or(less.around, |once| at(once.sequences).around);
            TrialMeasurement { around, memory: memory(trial, (part, less), (2 * part, more)), ..at(batch) }
        }
        _ => extrapolated(trial)?,
    })
}

/// Whether a trial takes much less time than the stage, by rough estimates of both.
fn worth_a_trial(trial: &StageTrial, most: f64, steps: u32) -> bool {
    let batch = sequences(trial.train);
    let step = trial.estimated(batch);
    let tried = match most_sequences(trial, most) {
        Some(part) if part >= batch => f64::from(tried(step)) * step,
        Some(part) => 2.0 * (trial.estimated(part) + trial.estimated(2 * part)),
        None => SHALLOW * MOST_WORK / trial.context.machine.products,
    };
    // A trial of a step is of all updates from a batch.
    WORTH * tried < f64::from(steps) / f64::from(trial.train.options.mini_batches.max(1)) * step
}

/// The number of steps in a trial of whole steps of `estimated` seconds.
fn tried(estimated: f64) -> u32 {
    // The first step says little about the others: the system clears newly allocated memory page by page.
    if estimated <= LONG { 3 } else { 2 }
}

/// Bytes of the f32 gradients that are compared, beside the gradient of the step. Those of an adapter are
/// small and count as 0; with frozen parts this is an upper bound.
fn aligned_bytes(train: &Train<Objective>, config: &Config) -> u64 {
    match train.trainable {
        Trainable::Weights { .. } => 4 * (train.aligned() * Weights::parameters(config)) as u64,
        Trainable::Adapter(_) => 0,
    }
}

/// The fraction of the groups drawn in `steps` steps that must be written, if a prompt has the same
/// completions whenever it is drawn.
fn part_written(train: &Train<Objective>, domains: &[DomainData], steps: f64) -> f64 {
    if !train.producers().all(|producer| producer.kind().cached_per_prompt()) {
        return 1.0;
    }
    let drawn =
        (steps / f64::from(train.options.updates_per_batch())).ceil() * f64::from(train.rollout.groups);
    let new = |share: &Share| {
        let prompts = domains[share.domain.0 as usize].rows_of(train).map_or(0, |data| data.dataset.len());
        (drawn * share.share).min(prompts as f64)
    };
    train.mixture.iter().map(new).sum::<f64>() / drawn.max(1.0)
}

/// How many sequences a trial with models of full depth can have within `seconds` and the free memory: all of
/// a step, or a number for which trials of it and of twice as many fit; none if even one part is too much.
fn most_sequences(trial: &StageTrial, seconds: f64) -> Option<u32> {
    let batch = sequences(trial.train);
    let fits = |sequences: u32| {
        let needed = trial.needed() + trial.activations(sequences);
        trial.context.machine.free.is_none_or(|free| needed <= FREE * free)
    };
    if batch <= WHOLE && trial.estimated(batch) <= seconds && fits(batch) {
        return Some(batch);
    }
    let fixed = trial.estimated(0);
    let each = trial.estimated(1) - fixed;
    let part = part(trial.train);
    let parts = ((seconds - 2.0 * fixed) / (3.0 * each * f64::from(part))).floor();
    let parts = (parts as u32).min(batch / 2 / part).min(ENOUGH.div_ceil(part));
    (parts > 0 && fits(2 * parts * part)).then_some(parts * part)
}

/// Tries whole steps of the stage with its own models.
fn whole(trial: &StageTrial, estimated: f64) -> Result<TrialMeasurement> {
    let tried = tried(estimated);
    let batch = sequences(trial.train);
    let Some(PrecomputedRollouts { sequences: written, .. }) = trial.train.rollout.producer.once() else {
        return trial.whole(batch, tried, None);
    };
    // Teachers write all completions before the first step, domain by domain, many at once.
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
    Ok(TrialMeasurement { around: at(written).around, memory: at(chunk.clamp(few, written)).memory, ..less })
}

/// Layers of the deeper of two trials, for a model of `layers` layers. A larger difference in depth reduces
/// the effect of noise, which extrapolation multiplies.
fn deeper(layers: usize) -> usize {
    layers.clamp(2, 4)
}

/// The factor by which the difference between the deeper and the one-layer trial is extrapolated.
fn further(layers: usize) -> f64 {
    (layers - 1) as f64 / (deeper(layers) - 1) as f64
}

/// Extrapolates from trials with shallow models and, if need be, few sequences.
fn extrapolated(trial: &StageTrial) -> Result<TrialMeasurement> {
    let train = trial.train;
    let student = trial.context.shapes.configs[trial.model.0 as usize].layers;
    let teachers =
        train.scorer_and_writer_models().map(|id| trial.context.shapes.configs[id.0 as usize].layers).max();
    let batch = sequences(train);
    let (first, second) = sizes(train, batch, trial.work(batch, 1));
    let at = |batch: u32| -> Result<TrialMeasurement> {
        let one = trial.cut(batch, 1, 1)?;
        let whole = match teachers {
            // Models of one depth grow together.
            Some(teachers) if teachers != student => {
                let (own, others) =
                    (trial.cut(batch, deeper(student), 1)?, trial.cut(batch, 1, deeper(teachers))?);
                let own = one.extrapolated(own, further(student));
                own.plus(one.extrapolated(others, further(teachers)).minus(one))
            }
            _ => one.extrapolated(trial.cut(batch, deeper(student), deeper(student))?, further(student)),
        };
        // A shallow model takes most memory while it has logits, when its teachers' layers are freed; a deep
        // one may take most while a teacher scores.
        let grown = trial.memory_while_scoring(student, teachers.unwrap_or(student))
            - trial.memory_while_scoring(1, 1);
        Ok(TrialMeasurement { memory: whole.memory.max(one.memory + grown), ..whole })
    };
    let measured = match second {
        None => at(first)?,
        Some(second) => {
            let (less, more) = (at(first)?, at(second)?);
            let all = less.extrapolated(more, f64::from(batch - first) / f64::from(second - first));
            TrialMeasurement { memory: memory(trial, (first, less), (second, more)), ..all }
        }
    };
    Ok(measured.times_written(train))
}

/// The memory of a step, from two trials with fewer sequences. Micro-batches come one after the other, so
/// activations grow up to one of them; what is kept of every sequence is too little to show in small trials.
fn memory(
    trial: &StageTrial,
    (fewer, less): (u32, TrialMeasurement),
    (further, more): (u32, TrialMeasurement),
) -> f64 {
    let batch = sequences(trial.train);
    let at_once =
        trial.train.options.execution.micro_batch.map_or(batch, |size| size.min(batch)).max(further);
    let units = f64::from(at_once - fewer) / f64::from(further - fewer);
    less.extrapolated(more, units).memory + trial.held_until_update(batch.saturating_sub(at_once))
}

impl TrialMeasurement {
    /// Scales the time around the steps to all that teachers write once: in the trial they wrote one batch.
    fn times_written(self, train: &Train<Objective>) -> TrialMeasurement {
        let Some(PrecomputedRollouts { sequences, .. }) = train.rollout.producer.once() else { return self };
        TrialMeasurement {
            around: self.around * f64::from(sequences) / f64::from(train.rollout.groups.max(1)),
            ..self
        }
    }
}

/// Sequences of one step in the stage's main rollout. Rollouts of single terms are in proportion to them.
fn sequences(train: &Train<Objective>) -> u32 {
    train.rollout.sequences()
}

/// Sequences of the smallest trial: a part of a step for each mini-batch. Trials have whole parts: a step of
/// fewer parts needs no less memory.
fn part(train: &Train<Objective>) -> u32 {
    let part = train.options.execution.micro_batch.unwrap_or(1).clamp(1, ENOUGH);
    let part = part.next_multiple_of(train.rollout.group());
    part.saturating_mul(train.options.mini_batches.max(1)).min(sequences(train).max(part))
}

/// The numbers of sequences in trials: all of a step, or two smaller numbers.
fn sizes(train: &Train<Objective>, batch: u32, work: f64) -> (u32, Option<u32>) {
    let part = part(train);
    let factor = (work / MOST_WORK).max(1.0);
    let parts = ((f64::from(batch) / factor / f64::from(part)) as u32).max(1);
    let first = parts.min(ENOUGH.div_ceil(part)).saturating_mul(part);
    let smaller = factor > 1.5 || batch > WHOLE;
    if smaller && first.saturating_mul(2) < batch { (first, Some(first * 2)) } else { (batch, None) }
}

/// Answers whose length is measured: enough for a mean.
const SAMPLE: usize = 10_000;

/// Mean tokens of a completion. For `exact_match` and a randomly initialised model they are those of the
/// right answer, which training leads to; else the most that are allowed.
fn completion(context: TrialContext, train: &Train<Objective>) -> u32 {
    let TrialContext { plan, domains, shapes, .. } = context;
    let model = train.start;
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

/// The same configuration with at most `layers` layers.
fn cut(config: &Config, layers: usize) -> Config {
    let layers = layers.min(config.layers);
    let mut config = Config { layers, ..config.clone() };
    config.attention.truncate(layers);
    if let Some(experts) = &mut config.experts {
        experts.layers.truncate(layers);
    }
    if let Some(delta) = &mut config.gated_delta {
        delta.layers.truncate(layers);
    }
    if let Some(conv) = &mut config.short_conv {
        conv.layers.truncate(layers);
    }
    config
}

/// Made-up weights for a trial; none of them is denormal or infinite, which would change its speed.
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
