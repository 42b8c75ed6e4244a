//! The one training loop: fine-tuning, reinforcement learning and distillation differ in where sequences come
//! from ([`batches`]) and in the objective, which the compiler has made into a graph.
//!
//! A step computes signals and live primitives at the completion tokens, without gradient. The objective's
//! program turns them into the loss and into d loss / d primitive, per token; a second pass over the
//! vocabulary carries that on into the student's last hidden states and LM head ([`vocabulary`]), and
//! libtorch from there into the weights.

mod batches;
mod cached_scores;
mod compose;
mod diagnostics;
mod first_epoch;
mod master;
mod models;
mod noise;
mod non_finite;
mod objective;
mod optimizer;
mod part;
pub mod peft;
mod route;
mod scores;
mod sequences;
pub mod state;
mod tensor_graph;
#[cfg(test)]
mod tests;
mod tokens;
pub mod trained;
mod views;
pub mod vocabulary;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mopd_compiler::expr::batch::Batch;
use mopd_compiler::plan::events::{DomainStep, Event, FailureKind, Seconds, TeacherStep};
use mopd_compiler::plan::results::ScoresFound;
use mopd_compiler::plan::{ModelId, Objective, Origin, Recipe, TeacherChoice, Train};
use tch::{Device, Kind, Tensor, no_grad_guard};

pub use self::batches::{RolloutCache, Written};
use self::cached_scores::CachedScores;
pub use self::cached_scores::{AT_MOST, ScoreCache, ScoredBatch};
use self::diagnostics::{Step, diagnose};
use self::models::Models;
pub use self::models::fits_in_memory;
use self::non_finite::Classified;
use self::objective::Outputs;
use self::optimizer::{Optimizer, gradient_norm};
use self::part::{Evaluated, Part, Rollouts, Scoring};
pub use self::route::{Route, RoutedTeacher};
use self::state::RestoreMode;
use self::trained::Trained;
use crate::control::Control;
use crate::data::Lists;
use crate::data::mixture::MixturePosition;
use crate::environment::Environments;
use crate::failure::{Error, Result};
use crate::model::{Decoder, Gradient, Weights, to_vec};
use crate::prepare::prompts::Prompts;
use crate::random::{Key, Purpose};
use crate::report::Record;
use crate::report::metrics::Row;
use crate::reward::Verifier;
use crate::rollout::Budget;
use crate::store::adapter;
use crate::store::state::TrainState;
use crate::tokenizer::Token;
use crate::zip::zip_equal;
use mopd_kernels::os::trim_heap;

/// A stage that trains, with everything it reads; or a part of it, which has other terms and their rollout.
#[derive(Clone)]
pub struct Stage<'a> {
    pub name: &'a str,
    pub seed: u64,
    /// Selects the stage's random numbers.
    pub stream: u64,
    /// Of the parts of a stage, this one's number: what is drawn for a part is drawn for it alone.
    pub part: u32,
    pub train: &'a Train<Objective>,
    pub steps: u32,
    /// The domains trained on, in the order of the mixture.
    pub sources: Vec<Source<'a>>,
    pub start: Arc<Weights>,
    /// Teachers, references, and models that write rollouts.
    pub models: HashMap<ModelId, Arc<Weights>>,
    /// Whether these stay in memory together; decided by their size where absent.
    pub models_fit: Option<bool>,
    /// Sequences that go through a model together; all of a step where absent.
    pub micro_batch: Option<u32>,
    /// What generation may take.
    pub budget: Budget,
    /// The first so many layers are computed again for the gradient.
    pub recomputed: usize,
    pub device: Device,
    /// What all models compute in: single precision, or half with what is trained in single.
    pub kind: Kind,
    pub environments: Environments<'a>,
    pub control: &'a Control,
}

impl Stage<'_> {
    /// The stage with its terms on its own rollout, then with each of the others' (`own`).
    fn parts<'p>(&'p self, own: &'p [Train<Objective>]) -> Vec<Stage<'p>> {
        let own = own.iter().zip(1..).map(|(train, part)| Stage { train, part, ..self.clone() });
        std::iter::once(self.clone()).chain(own).collect()
    }

    /// Of random numbers of the part's own; `index` is below 2^48.
    pub fn key(&self, purpose: Purpose, index: u64) -> Key {
        Key::new(self.seed, self.stream, purpose, u64::from(self.part) << 48 | index)
    }
}

/// A domain of the mixture.
#[derive(Clone)]
pub struct Source<'a> {
    pub name: &'a str,
    pub origin: Origin,
    pub share: f64,
    /// Who judges its prompts.
    pub route: Route,
    /// The scorers after the routed teacher, from the reference on; none where one has nothing to say here.
    pub scorers: Vec<Option<TeacherChoice>>,
    pub prompts: &'a Prompts,
    /// The prompts as the student reads them.
    pub tokens: Arc<Lists<Token>>,
    /// Longest completion in this domain.
    pub limit: Option<u32>,
    pub verifier: &'a Verifier,
}

/// Why training stopped early, with the diagnostics of the steps before.
pub struct Stopped {
    pub error: Error,
    /// The weights before the step that failed, where it failed for a number that is not finite.
    pub last_good: Option<Weights>,
    pub record: Record,
}

/// What training leaves.
pub struct Finished {
    pub weights: Weights,
    /// The adapter that the weights were merged with.
    pub adapter: adapter::Files,
    pub record: Record,
    /// None where no model's scores are kept.
    pub found: Option<ScoresFound>,
    /// That it took, from the first step on.
    pub seconds: f64,
}

/// What a stage goes on from, and where its state goes between steps.
pub struct Checkpoints<'a> {
    pub from: Option<(TrainState, RestoreMode)>,
    pub rollouts: Option<RolloutCache<'a>>,
    pub scores: Option<ScoreCache<'a>>,
    pub pace: Pace,
    /// Makes a state durable. Where that fails, training goes on.
    pub keep: &'a dyn Fn(&TrainState) -> Result<()>,
}

/// When a state is written down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    Every(Duration),
    /// Every minute, and less often where that would take more than a fiftieth of the time.
    Sparing,
}

impl Pace {
    /// `since` the last one, which took `took`.
    fn due(self, since: Duration, took: Duration) -> bool {
        match self {
            Pace::Every(interval) => since >= interval,
            Pace::Sparing => since >= Duration::from_secs(60).max(took.saturating_mul(50)),
        }
    }
}

/// Trains to the last step. Asked to stop, it leaves a checkpoint: of the step at whose rollouts it was, else
/// of the next one.
pub fn train(stage: &Stage, checkpoints: Option<Checkpoints>) -> Result<Finished, Box<Stopped>> {
    let started = Instant::now();
    let own = stage.train.own_parts();
    let stages = stage.parts(&own);
    let stopped = |error: Error| Box::new(Stopped { error, last_good: None, record: Record::default() });
    let mut checkpoints = checkpoints;
    let (cache, scores) =
        checkpoints.as_ref().map_or((None, None), |checkpoints| (checkpoints.rollouts, checkpoints.scores));
    let new = || Trainer::with(&stages, cache, scores);
    let mut trainer = new().map_err(stopped)?;
    let (mut first, mut before, mut record) = (0, 0.0, Record::default());
    if let Some((state, mode)) = checkpoints.as_mut().and_then(|checkpoints| checkpoints.from.take()) {
        match (trainer.restore(&state, mode), mode) {
            (Ok(()), _) => {
                (first, before, record) = (state.position.step, state.position.seconds, state.record)
            }
            (Err(problem), RestoreMode::Resume) => {
                let step = state.position.step;
                stage.control.warn(format!(
                    "the checkpoint of `{}` at step {step} can't be restored, so the stage starts again from \
                     its first step: {problem}",
                    stage.name
                ));
                trainer = new().map_err(stopped)?;
            }
            (Err(problem), RestoreMode::Fork) => return Err(stopped(no_fork(&state, &problem))),
        }
    }
    let seconds = || before + started.elapsed().as_secs_f64();
    let (mut last, mut took, mut kept, mut failed) = (Instant::now(), Duration::ZERO, first, false);
    let mut keep = |trainer: &Trainer, step: u32, record: &mut Record, now: bool| {
        let Some(Checkpoints { pace, keep, .. }) = &checkpoints else { return };
        if step == kept || !(now || pace.due(last.elapsed(), took)) {
            return;
        }
        let begun = Instant::now();
        let state = trainer.state(step, seconds(), std::mem::take(record));
        let outcome = keep(&state);
        *record = state.record;
        match outcome {
            Ok(()) => (kept, failed) = (step, false),
            // A disk that stays full is said once, and again where it costs something.
            Err(error) if now || !failed => {
                failed = true;
                let next =
                    if now { "so the next run goes on from an earlier one" } else { "training goes on" };
                stage
                    .control
                    .warn(format!("no checkpoint of `{}` at step {step}, {next}: {error}", stage.name));
            }
            Err(_) => {}
        }
        (took, last) = (begun.elapsed(), Instant::now());
    };
    for step in first..stage.steps {
        if let Err(error) = stage.control.check() {
            keep(&trainer, step, &mut record, true);
            return Err(Box::new(Stopped { error, last_good: None, record }));
        }
        let data = trainer.positions();
        if let Err((error, finite)) = trainer.step(step, &mut record) {
            // Rollouts that are stopped, or whose judges were stopped along with the run, have changed
            // nothing but the place in the data. Later passes have lost their rollouts.
            let stopped = stage.control.interrupted() || matches!(error, Error::Interrupted);
            let first_pass = step.is_multiple_of(stage.train.passes.max(1));
            if stopped && finite && first_pass && trainer.restore_positions(&data).is_ok() {
                keep(&trainer, step, &mut record, true);
            }
            let last_good =
                (!finite).then(|| stage.start.with_values(trainer.trained.numbers(&trainer.model)));
            return Err(Box::new(Stopped { error: error.at_step(step), last_good, record }));
        }
        if step + 1 < stage.steps {
            keep(&trainer, step + 1, &mut record, false);
        }
    }
    // What is only needed to go on leaves before the answer takes its room.
    let Trainer { model, trained, average, models, optimizer, parts, .. } = trainer;
    let found = parts[0].kept.as_ref().map(CachedScores::found);
    drop((models, optimizer, parts));
    if trained.adapter().is_some() {
        // The answer is one block, and larger than any that adapters left: it would come on top of all of
        // them.
        trim_heap();
    }
    let weights = stage.start.with_values(answer(&model, &trained, average));
    drop(model);
    let adapter = match trained.adapter() {
        Some(adapted) => match peft::files(adapted) {
            Ok(files) => files,
            Err(error) => return Err(Box::new(Stopped { error, last_good: None, record })),
        },
        None => adapter::Files::new(),
    };
    Ok(Finished { weights, adapter, record, found, seconds: seconds() })
}

/// The numbers that a stage answers.
fn answer(model: &Decoder, trained: &Trained, average: Option<(f64, Tensor)>) -> Vec<f32> {
    match average {
        Some((_, average)) => to_vec(&average),
        None => trained.numbers(model),
    }
}

fn no_fork(state: &TrainState, problem: &str) -> Error {
    let message = format!("cannot fork from the checkpoint of step {}: {problem}", state.position.step);
    Error::new(FailureKind::Runtime, message).help("run it without the fork: it begins with its first step")
}

struct Trainer<'a> {
    stage: &'a Stage<'a>,
    model: Decoder,
    trained: Trained,
    /// The moving average of the weights and its rate, where that is the stage's answer.
    average: Option<(f64, Tensor)>,
    models: Models,
    optimizer: Optimizer,
    /// The terms on the stage's rollout, then those with completions of their own.
    parts: Vec<Part<'a>>,
}

impl<'a> Trainer<'a> {
    #[cfg(test)]
    fn new(stage: &'a Stage<'a>) -> Result<Trainer<'a>> {
        Trainer::with(std::slice::from_ref(stage), None, None)
    }

    /// `stages` are the stage's parts.
    fn with(
        stages: &'a [Stage<'a>],
        cache: Option<RolloutCache>,
        scores: Option<ScoreCache<'a>>,
    ) -> Result<Trainer<'a>> {
        let stage = &stages[0];
        let model = Decoder::trainable(&stage.start, stage.device, stage.kind);
        let key = Key::new(stage.seed, stage.stream, Purpose::Initialise, 1);
        let trained = Trained::new(&stage.train.trainable, &stage.start, &model, key)?;
        let average = stage.train.ema.map(|rate| (rate, trained.single(&model).copy()));
        let models = Models::new(stage);
        let optimizer = {
            let (parameters, decayed) = trained.parameters(&model);
            Optimizer::new(&stage.train.optimizer, &parameters, decayed)
        };
        let mut parts = vec![Part::new(stage, &models, cache.as_ref(), scores)?];
        for own in &stages[1..] {
            parts.push(Part::new(own, &models, None, None)?);
        }
        Ok(Trainer { stage, model, trained, average, models, optimizer, parts })
    }

    /// What a step trains on, part by part: a batch of its own, or the last one's for another pass.
    fn rollouts_of(&mut self, step: u32) -> Result<Vec<Rollouts>> {
        let Trainer { model, models, parts, .. } = self;
        let rollouts = parts.iter_mut().map(|part| part.rollouts_of(model, models, step));
        let rollouts = rollouts.collect::<Result<_>>()?;
        // Whoever is stopped before draws the same again.
        parts.iter().for_each(|part| part.batches.commit());
        Ok(rollouts)
    }

    /// Where the parts stand in the data.
    fn positions(&self) -> Vec<MixturePosition> {
        self.parts.iter().map(|part| part.batches.position()).collect()
    }

    fn restore_positions(&mut self, positions: &[MixturePosition]) -> Result<(), String> {
        let mut parts = zip_equal(&mut self.parts, positions);
        parts.try_for_each(|(part, position)| part.batches.restore(position, part.stage))
    }

    fn scoring(&self, part: usize) -> Scoring<'_> {
        self.parts[part].scoring(&self.model, &self.models)
    }

    /// A part's terms on its batch and their gradient, with the weights as they are. An error says whether the
    /// numbers were finite so far.
    fn evaluate(&self, part: usize, rollouts: &Rollouts, step: u32) -> Result<Evaluated, Classified> {
        self.parts[part].evaluate(&self.scoring(part), rollouts, step)
    }

    /// One update of the weights; what it did joins the record. An error says whether the numbers were finite
    /// so far.
    fn step(&mut self, step: u32, record: &mut Record) -> Result<(), Classified> {
        let started = Instant::now();
        let rollouts = self.rollouts_of(step).map_err(non_finite::classify)?;
        self.update(rollouts, started, step, record)
    }

    /// The same on rollouts that were `started` then.
    fn update(
        &mut self,
        rollouts: Vec<Rollouts>,
        started: Instant,
        step: u32,
        record: &mut Record,
    ) -> Result<(), Classified> {
        let Stage { train, control, .. } = self.stage;
        let rolled_out = Instant::now();
        let (mut scoring, mut sum) = (Duration::ZERO, None);
        let mut evaluated: Vec<(Batch, Outputs)> = Vec::with_capacity(rollouts.len());
        for (part, rollouts) in rollouts.iter().enumerate() {
            let begun = Instant::now();
            let Evaluated { batch, outputs, gradient, scored } = self.evaluate(part, rollouts, step)?;
            scoring += scored - begun;
            sum = Some(match sum {
                None => gradient,
                Some(sum) => Gradient::plus(sum, gradient),
            });
            evaluated.push((batch, outputs));
        }
        let gradient = self.trained.gradient(sum.expect("an objective has a term"));
        let mut loss = 0.0;
        for (part, (_, outputs)) in zip_equal(&mut self.parts, &evaluated) {
            loss += part.learn(outputs, step);
        }

        let norm = gradient_norm(&gradient);
        if !norm.is_finite() {
            return Err((non_finite::gradient(self, &rollouts, &evaluated, step), false));
        }
        let learning_rate = train.learning_rate.at(step, self.stage.steps);
        self.optimizer.step(&mut self.trained.parameters(&self.model).0, gradient, norm, learning_rate);
        self.trained.apply(&self.model);
        if let Some((rate, average)) = &mut self.average {
            let _guard = no_grad_guard();
            let _ = average.lerp_(&self.trained.single(&self.model), 1.0 - *rate);
        }
        self.models.follow(&self.model, || self.trained.single(&self.model), step + 1);

        let seconds = Seconds {
            rollout: (rolled_out - started).as_secs_f64(),
            scoring: scoring.as_secs_f64(),
            update: (rolled_out.elapsed() - scoring).as_secs_f64(),
        };
        let experts = self.model.take_expert_load();
        let numbers = Step { step, loss, learning_rate, gradient_norm: norm, seconds, experts };
        let several = self.parts.len() > 1;
        let (mut rows, mut tokens) = (Vec::new(), 0);
        for (part, (rollouts, (batch, outputs))) in
            zip_equal(&mut self.parts, zip_equal(rollouts, &evaluated))
        {
            let sequences = &rollouts.sequences;
            rows.push(diagnose(part.stage, sequences, batch, outputs, &numbers, several));
            if part.stage.part == 0 {
                tokens::record(part.stage, sequences, batch, outputs, step, &mut record.tokens);
            }
            tokens += sequences.layout.tokens() as u64;
            part.rollouts = (train.passes > 1).then_some(rollouts);
        }
        // Progress is that on the first part's completions.
        let (metric, value) = headline(train.recipe, &rows[0], loss);
        control.emit(&Event::Step {
            stage: self.stage.name.to_owned(),
            seed: self.stage.seed,
            step,
            steps: self.stage.steps,
            metric: metric.to_owned(),
            value,
            tokens,
            seconds,
            loss,
            domains: rows[0].chunk_by(|one, next| one.domain == next.domain).map(domain_step).collect(),
        });
        record.rows.extend(rows.into_iter().flatten());
        Ok(())
    }
}

fn adjoints<'o>(objective: &Objective, outputs: &'o Outputs) -> Vec<&'o [f32]> {
    objective.live.iter().map(|live| outputs.get(live.adjoint)).collect()
}

/// From the rows of a domain: one for each teacher.
fn domain_step(rows: &[Row]) -> DomainStep {
    // JSON has no other numbers.
    let finite = |value: Option<f64>| value.filter(|value| value.is_finite());
    let mean = |value: fn(&Row) -> Option<f64>, share: fn(&Row) -> f64| {
        let whole: f64 = rows.iter().map(share).sum();
        rows.iter().map(|row| Some(value(row)? * (share(row) / whole))).sum::<Option<f64>>()
    };
    let teacher =
        |row: &Row| Some(TeacherStep { teacher: row.teacher.clone()?, divergence: finite(row.divergence) });
    DomainStep {
        domain: rows[0].domain.clone(),
        teachers: rows.iter().filter_map(teacher).collect(),
        divergence: finite(mean(|row| row.divergence, |row| row.token_share)),
        reward: finite(mean(|row| row.reward, |row| row.prompt_share)),
    }
}

/// The number that tells whether a recipe makes progress, over the whole step.
fn headline(recipe: Recipe, rows: &[Row], loss: f64) -> (&'static str, f64) {
    let mean = |value: fn(&Row) -> Option<f64>, share: fn(&Row) -> f64| {
        let parts: Option<Vec<f64>> = rows.iter().map(|row| Some(value(row)? * share(row))).collect();
        parts.map(|parts| parts.iter().sum())
    };
    let special = match recipe {
        Recipe::Sft | Recipe::Dpo => None,
        Recipe::Grpo => mean(|row| row.reward, |row| row.prompt_share).map(|value| ("reward", value)),
        Recipe::Distill => {
            mean(|row| row.divergence, |row| row.token_share).map(|value| ("divergence", value))
        }
    };
    special.unwrap_or(("loss", loss))
}
