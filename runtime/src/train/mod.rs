//! The one training loop: fine-tuning, reinforcement learning and distillation differ in where sequences come
//! from ([`batches`]) and in the objective, which the compiler has made into a graph.
//!
//! A step computes signals and live primitives at the completion tokens, without gradient. The objective's
//! program turns them into the loss and into d loss / d primitive, per token; a second pass over the
//! vocabulary carries that on into the student's last hidden states and LM head ([`vocabulary`]), and
//! libtorch from there into the weights.

mod agreement;
mod alignment;
mod backward;
mod batches;
mod cached_scores;
mod checkpoints;
mod compose;
mod data_signals;
mod diagnostics;
mod elements;
mod exchange;
mod extrapolate;
mod first_epoch;
pub mod guards;
mod learned;
mod learner_turn;
mod learners;
mod losses;
mod master;
mod models;
mod monitor;
mod noise;
mod non_finite;
mod objective;
mod objective_states;
mod optimizer;
mod other_tokenizer;
mod panels;
mod part;
pub mod peft;
pub mod privacy;
mod progress;
mod recorded_text;
mod remote_scores;
pub mod restore;
mod route;
mod scores;
mod sequences;
mod spans;
mod steps;
mod tensor_graph;
#[cfg(test)]
mod tests;
mod text_spans;
mod tokens;
pub mod trained;
mod update;
mod validation;
mod views;
pub mod vocabulary;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use mopd_plan::events::{Event, Seconds};
use mopd_plan::results::ScoresFound;
use mopd_plan::{ModelId, Objective, Origin, TeacherChoice, Train};
use tch::{Kind, Tensor};

pub use self::batches::{RolloutCache, RolloutsBySource};
pub use self::cached_scores::{AT_MOST, ScoreCache, ScoredBatch};
pub use self::checkpoints::{Checkpoints, Pace};
use self::diagnostics::{StepTotals, diagnose};
use self::extrapolate::Extrapolator;
use self::guards::{GuardedStage, Guards};
pub use self::learner_turn::LearnerTurn;
use self::losses::Losses;
use self::models::Models;
pub use self::models::fits_in_memory;
use self::monitor::Monitor;
use self::non_finite::Classified;
pub use self::non_finite::check_weights;
use self::objective::Outputs;
use self::optimizer::OptimizerState;
use self::part::{EvaluatedBatch, EvaluatedParts, Rollouts, Scoring, StagePart};
use self::privacy::{NoiseSecret, Privacy};
pub use self::route::{RoutedTeacher, SourceTeachers};
pub use self::steps::{train, train_in_turns};
use self::trained::TrainedParameters;
use self::validation::Validator;
use crate::control::Control;
use crate::data::Lists;
use crate::data::mixture::MixturePosition;
use crate::environment::Environments;
use crate::failure::{Error, Result};
use crate::machine::place::Place;
use crate::model::{Decoder, Weights};
use crate::peers::Peers;
use crate::prepare::{DomainData, prompts::Prompts};
use crate::random::{Key, Purpose};
use crate::remote::Servers;
use crate::report::Record;
use crate::reward::Verifier;
use crate::rollout::MemoryBudget;
use crate::store::adapter;
use crate::tokenizer::Token;
use crate::zip::zip_equal;

/// A training stage with everything it reads, or one part of it, which has its own terms and rollout.
#[derive(Clone)]
pub struct Stage<'a> {
    pub name: &'a str,
    pub seed: u64,
    /// Selects the stage's random numbers.
    pub stream: u64,
    /// The secret that a private stage derives its noise and its draws from.
    pub secret: Option<NoiseSecret>,
    /// The number of this part among the stage's parts. [`Stage::key`] mixes it into random keys.
    pub part: u32,
    pub train: &'a Train<Objective>,
    /// The model's turn in a step.
    pub turn: LearnerTurn<'a>,
    pub steps: u32,
    /// The first step that guards look at.
    pub guards_from: u32,
    /// The domains trained on, in the order of the mixture.
    pub sources: Vec<Source<'a>>,
    pub start: Arc<Weights>,
    /// Where other programs find `start`: a name on the hub, or a folder.
    pub start_place: String,
    /// Teachers, references, and models that write rollouts.
    pub models: HashMap<ModelId, Arc<Weights>>,
    /// Whether `models` stay in memory together; `None`: their size decides.
    pub models_fit: Option<bool>,
    /// Sequences per forward pass; `None`: all of a step.
    pub micro_batch: Option<u32>,
    /// The memory that generation may use.
    pub budget: MemoryBudget,
    /// How many of the first layers are recomputed in the backward pass (checkpointing).
    pub recomputed: usize,
    /// Whether generation's settings let it save the activations that the gradient reads.
    pub saves_activations: bool,
    /// The benchmark that decides how far weights are extrapolated, where the stage does that.
    pub judge: Option<&'a DomainData>,
    /// The domains with their validation rows in place of those trained on; empty where the stage does not
    /// validate.
    pub validation: Vec<Source<'a>>,
    pub place: Place,
    /// Compute dtype of all models: f32, or bf16 with trained parameters in f32.
    pub kind: Kind,
    pub environments: Environments<'a>,
    /// The servers of its served teachers.
    pub servers: &'a Servers,
    /// The processes that train the stage together, where there are several.
    pub peers: Option<&'a Peers>,
    pub control: &'a Control,
}

impl Stage<'_> {
    /// The parts of the stage: its terms on the stage's rollout, then one part for each of `own`.
    fn parts<'p>(&'p self, own: &'p [Train<Objective>]) -> Vec<Stage<'p>> {
        let own = own.iter().zip(1..).map(|(train, part)| Stage {
            train,
            part,
            saves_activations: train.saves_activations(&train.rollout),
            ..self.clone()
        });
        std::iter::once(self.clone()).chain(own).collect()
    }

    /// The stage as its guards need it.
    fn guarded_stage(&self) -> GuardedStage<'_> {
        let Stage { name, seed, steps, train, turn, guards_from: from, .. } = *self;
        GuardedStage { name, seed, steps, train, turn: turn.name, from }
    }

    /// The key of random numbers that only this part draws; `index` is below 2^48.
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
    /// The routed teachers of its prompts.
    pub route: SourceTeachers,
    /// The scorers after the routed teacher, from the reference on; `None` where one does not score here.
    pub scorers: Vec<Option<TeacherChoice>>,
    pub prompts: &'a Prompts,
    /// The prompts as the student reads them.
    pub tokens: Arc<Lists<Token>>,
    /// Longest completion in this domain.
    pub limit: Option<u32>,
    pub verifier: &'a Verifier,
}

/// Why training stopped early, with the diagnostics of the steps before.
pub struct StoppedTraining {
    pub error: Error,
    /// The weights before the failed step, where it failed because of a number that is not finite.
    pub last_good: Option<Weights>,
    pub record: Record,
}

/// A model that was trained, with the adapter that its weights were merged with: none where they are an
/// average.
pub struct TrainedModel {
    pub weights: Weights,
    pub adapter: adapter::AdapterFiles,
}

/// The result of training.
pub struct FinishedTraining {
    pub weights: Weights,
    /// The adapter that the weights were merged with.
    pub adapter: adapter::AdapterFiles,
    /// The other models that were trained.
    pub others: Vec<TrainedModel>,
    pub record: Record,
    /// `None` where no model's scores are cached.
    pub found: Option<ScoresFound>,
    /// Training time in seconds, from the first step on.
    pub seconds: f64,
}

/// A model that learns, with everything that it learns from.
struct Trainer<'a> {
    stage: &'a Stage<'a>,
    /// The index of this model among the stage's learners.
    place: usize,
    model: Rc<Decoder>,
    trained: TrainedParameters,
    /// Whether the weights are known to differ from those that the stage began with.
    moved: bool,
    /// The rate and the moving average of the weights, where the average is the stage's result.
    average: Option<(f64, Tensor)>,
    models: Models,
    optimizer: OptimizerState,
    privacy: Option<Privacy>,
    extrapolator: Option<Extrapolator<'a>>,
    validator: Option<Validator<'a>>,
    /// The terms on the stage's rollout, then those with completions of their own.
    parts: Vec<StagePart<'a>>,
    /// Whether the warning about a step with nothing to train on was given.
    warned_empty_step: bool,
    losses: Losses,
    guards: Guards<'a>,
    monitor: Monitor,
}

impl<'a> Trainer<'a> {
    #[cfg(test)]
    fn new(stage: &'a Stage<'a>) -> Result<Trainer<'a>> {
        Trainer::with(std::slice::from_ref(stage), None, None)
    }

    /// `stages` are the stage's parts.
    #[cfg(test)]
    fn with(
        stages: &'a [Stage<'a>],
        cache: Option<RolloutCache>,
        scores: Option<ScoreCache<'a>>,
    ) -> Result<Trainer<'a>> {
        Trainer::among(stages, 0, &[student(&stages[0])], cache, scores)
    }

    /// The trainer of the learner at index `place`. `stages` are the parts of its stage.
    fn among(
        stages: &'a [Stage<'a>],
        place: usize,
        learners: &[Rc<Decoder>],
        cache: Option<RolloutCache>,
        scores: Option<ScoreCache<'a>>,
    ) -> Result<Trainer<'a>> {
        let stage = &stages[0];
        let model = learners[place].clone();
        let key = Key::new(stage.seed, stage.stream, Purpose::Initialise, 1);
        let trained = TrainedParameters::new(stage, &model, key)?;
        let average = stage.train.ema.map(|rate| (rate, trained.to_f32(&model).copy()));
        let models = Models::new(stage)?.with_learners(learners);
        let optimizer = update::optimizer(stage, &trained, &model);
        let privacy = Privacy::of_stage(stage)?;
        let extrapolator = Extrapolator::new(stage.train, stage.judge, (&trained, &model))?;
        let validator = Validator::new(stage)?;
        let mut parts = vec![StagePart::new(stage, &models, cache.as_ref(), scores)?];
        for own in &stages[1..] {
            parts.push(StagePart::new(own, &models, None, None)?);
        }
        let domains = stage.sources.iter().map(|source| source.name);
        let losses = Losses::first(stages.iter().map(|part| &part.train.objective), domains);
        Ok(Trainer {
            stage,
            place,
            model,
            trained,
            moved: false,
            average,
            models,
            optimizer,
            privacy,
            extrapolator,
            validator,
            parts,
            warned_empty_step: false,
            losses,
            guards: Guards::new(stage.guarded_stage()),
            monitor: Monitor::new(stage),
        })
    }

    /// The rollouts of a step, part by part: a new batch, or the last one's for another pass.
    fn rollouts_of(&mut self, step: u32) -> Result<Vec<Rollouts>> {
        let Trainer { model, moved, models, parts, losses, .. } = self;
        let states = &losses.states;
        let rollouts = parts.iter_mut().map(|part| part.rollouts_of((model, *moved), models, states, step));
        let rollouts = rollouts.collect::<Result<_>>()?;
        // A run that is stopped before this draws the same prompts again.
        parts.iter().for_each(|part| part.batches.commit());
        Ok(rollouts)
    }

    /// The position of each part in the data.
    fn positions(&self) -> Vec<MixturePosition> {
        self.parts.iter().map(|part| part.batches.position()).collect()
    }

    fn restore_positions(&mut self, positions: &[MixturePosition]) -> Result<(), String> {
        let mut parts = zip_equal(&mut self.parts, positions);
        parts.try_for_each(|(part, position)| part.batches.restore(position, part.stage))
    }

    fn scoring(&self, part: usize) -> Scoring<'_> {
        self.parts[part].scoring((&self.model, &self.trained), &self.models, &self.losses)
    }

    /// The terms of a part on its batch and their gradient, at the current weights. An error includes whether
    /// the numbers were finite so far.
    fn evaluate(&self, part: usize, rollouts: &Rollouts, step: u32) -> Result<EvaluatedBatch, Classified> {
        self.parts[part].evaluate(&self.scoring(part), rollouts, step, &|of| self.trained.gradient(of))
    }

    /// Evaluates all parts and sums their gradients. A private stage reads the gradients of its records, and
    /// not that of the batch, unless the step reports it.
    fn evaluate_all(&self, rollouts: &[Rollouts], step: u32) -> Result<EvaluatedParts, Classified> {
        let mut all = EvaluatedParts::default();
        let compared = self.stage.train.alignment.is_some_and(|alignment| alignment.is_due(step));
        for (part, rollouts) in rollouts.iter().enumerate() {
            if rollouts.sequences.list.is_empty() {
                all.each.push(None);
                continue;
            }
            let begun = Instant::now();
            if self.privacy.is_some() && !compared {
                let (batch, outputs, scored) = self.parts[part].terms(&self.scoring(part), rollouts, step)?;
                all.scoring += scored - begun;
                all.each.push(Some((batch, outputs)));
                continue;
            }
            let EvaluatedBatch { batch, outputs, gradient, of_parts, scored } =
                self.evaluate(part, rollouts, step)?;
            alignment::join(&mut all.of_parts, of_parts);
            all.scoring += scored - begun;
            all.gradient = Some(match all.gradient.take() {
                None => gradient,
                Some(sum) => sum.plus(gradient),
            });
            all.each.push(Some((batch, outputs)));
        }
        Ok(all)
    }

    /// One update of the weights, whose metrics are added to `record`. An error includes whether the numbers
    /// were finite so far.
    fn step(&mut self, step: u32, record: &mut Record) -> Result<Event, Classified> {
        self.validate(step).map_err(non_finite::classify)?;
        self.moved = self.moved || record.moved();
        let started = Instant::now();
        let rollouts = self.rollouts_of(step).map_err(non_finite::classify)?;
        self.update(rollouts, started, step, record)
    }

    /// The rest of `step`, on rollouts that were begun at `started`.
    fn update(
        &mut self,
        rollouts: Vec<Rollouts>,
        started: Instant,
        step: u32,
        record: &mut Record,
    ) -> Result<Event, Classified> {
        let train = self.stage.train;
        let rolled_out = self.stage.place.now();
        let EvaluatedParts { gradient, of_parts, each: evaluated, scoring } =
            self.evaluate_all(&rollouts, step)?;
        let gradient = match &self.privacy {
            None => gradient.map(|sum| self.trained.gradient(sum)),
            // Noise is added even where no record was drawn: leaving it out would reveal that.
            Some(privacy) => Some(privacy.gradient(self, &rollouts[0], step)?),
        };
        if gradient.is_none() && !std::mem::replace(&mut self.warned_empty_step, true) {
            self.stage.control.warn(format!(
                "`{}`: all completions of step {step} were dropped, so it does not change the weights. \
                This warning is given once: `dropped` in `metrics.parquet` counts the dropped \
                completions of every step",
                self.stage.name
            ));
        }
        let states = self.losses.states.values();
        let learned = self.parts[0].batches.learned();
        for (part, evaluated) in zip_equal(&mut self.parts, &evaluated) {
            if let Some((_, outputs)) = evaluated {
                part.learn(outputs, step);
            }
        }
        let objectives = self.parts.iter().map(|part| &part.stage.train.objective);
        let loss = self.losses.learn(zip_equal(objectives, evaluated.iter().map(Option::as_ref)));

        let plain = |error: Error| (error, true);
        let (gradient, norm) = self.reduced(gradient).map_err(plain)?;
        if !norm.is_finite() {
            return Err((non_finite::gradient(self, &rollouts, &evaluated, step), false));
        }
        let learning_rate = self.apply(gradient, norm, step).map_err(plain)?;
        let experts = self.expert_load().map_err(plain)?;
        let (trains, sequences) = (self.trained.parameters(&self.model).0, &rollouts[0].sequences);
        self.monitor.look(self.stage, sequences, &trains, (norm, learning_rate), step);

        let seconds = Seconds {
            rollout: (rolled_out - started).as_secs_f64(),
            scoring: scoring.as_secs_f64(),
            update: (self.stage.place.now() - rolled_out - scoring).as_secs_f64(),
        };
        let batches = &self.parts[0].batches;
        let chosen = (0..self.stage.sources.len()).map(|source| batches.chosen(source)).collect();
        let numbers = StepTotals {
            step,
            loss,
            validation_loss: self.losses.validated_before(step),
            states,
            learning_rate,
            learned,
            chosen,
            gradient_norm: norm,
            alignment: alignment::columns(of_parts),
            seconds,
            experts,
            trained_share: self.trained.share(),
        };
        let several = self.parts.len() > 1;
        let (mut rows, mut tokens) = (Vec::new(), 0);
        for (part, (rollouts, evaluated)) in zip_equal(&mut self.parts, zip_equal(rollouts, &evaluated)) {
            let sequences = &rollouts.sequences;
            rows.push(diagnose(part.stage, sequences, evaluated.as_ref(), &numbers, several));
            if let (Some((batch, outputs)), (0, 0)) = (evaluated, (self.place, part.stage.part)) {
                tokens::record(part.stage, sequences, batch, outputs, step, &mut record.tokens);
            }
            tokens += sequences.layout.tokens() as u64;
            part.rollouts = (train.passes > 1).then_some(rollouts);
        }
        progress::finish(&mut rows);
        let event = self.event(step, &rows, tokens, seconds, loss);
        self.guards.look(step, &rows[0].iter().collect::<Vec<_>>());
        record.rows.extend(rows.into_iter().flatten());
        Ok(event)
    }
}

/// The weights that a stage's student begins with. A model that learns scores gets a scalar head; a model
/// that draws two tokens per step gets a second head, and every other model loses it.
pub fn beginning(train: &Train<Objective>, start: &Arc<Weights>, (seed, stream): (u64, u64)) -> Arc<Weights> {
    let start = if train.trains_scalar_head() { start.with_scalar_head() } else { start.clone() };
    match train.trains_second_head() {
        true => start.with_second_head(Key::new(seed, stream, Purpose::Initialise, 2)),
        false => start.without_second_head(),
    }
}

/// The student of a stage before its first step.
fn student(stage: &Stage) -> Rc<Decoder> {
    Rc::new(Decoder::trainable(&stage.start, stage.place, stage.kind))
}

fn adjoints<'o>(objective: &Objective, outputs: &'o Outputs) -> Vec<&'o [f32]> {
    objective.live.iter().map(|live| outputs.get(live.adjoint)).collect()
}
