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

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mopd_compiler::expr::batch::Batch;
use mopd_compiler::expr::graph::NodeId;
use mopd_compiler::plan::events::{DomainStep, Event, FailureKind, Seconds, TeacherStep};
use mopd_compiler::plan::producers::Writer;
use mopd_compiler::plan::results::ScoresFound;
use mopd_compiler::plan::{Ladder, ModelId, Objective, Origin, Recipe, Role, TeacherChoice, Train};
use tch::{Device, Kind, Tensor, no_grad_guard};

use self::batches::Batches;
pub use self::batches::{RolloutCache, Written};
use self::cached_scores::CachedScores;
pub use self::cached_scores::{AT_MOST, ScoreCache, ScoredBatch};
use self::diagnostics::{Step, diagnose};
use self::models::Models;
pub use self::models::fits_in_memory;
use self::non_finite::Classified;
use self::objective::{Outputs, Program};
use self::optimizer::{Optimizer, gradient_norm};
pub use self::route::{Route, RoutedTeacher};
use self::scores::score;
use self::sequences::Sequences;
use self::state::RestoreMode;
use self::trained::Trained;
use self::vocabulary::Logits;
use crate::control::Control;
use crate::data::Lists;
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
use mopd_kernels::os::trim_heap;

/// A stage that trains, with everything it reads.
pub struct Stage<'a> {
    pub name: &'a str,
    pub seed: u64,
    /// Selects the stage's random numbers.
    pub stream: u64,
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
    pub control: &'a Control,
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
    let stopped = |error: Error| Box::new(Stopped { error, last_good: None, record: Record::default() });
    let mut checkpoints = checkpoints;
    let (cache, scores) =
        checkpoints.as_ref().map_or((None, None), |checkpoints| (checkpoints.rollouts, checkpoints.scores));
    let new = || Trainer::with(stage, cache, scores);
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
        let data = trainer.batches.position();
        if let Err((error, finite)) = trainer.step(step, &mut record) {
            // Rollouts that are stopped, or whose judges were stopped along with the run, have changed
            // nothing but the place in the data. Later passes have lost their rollouts.
            let stopped = stage.control.interrupted() || matches!(error, Error::Interrupted);
            let first_pass = step.is_multiple_of(stage.train.passes.max(1));
            if stopped && finite && first_pass && trainer.batches.restore(&data, stage).is_ok() {
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
    let Trainer { model, trained, average, models, program, optimizer, batches, rollouts, kept, .. } =
        trainer;
    let found = kept.map(|kept| kept.found());
    drop((models, program, optimizer, batches, rollouts));
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
    /// The scorers whose logits a step needs.
    roles: Vec<Role>,
    program: Program<'a>,
    optimizer: Optimizer,
    batches: Batches,
    kept: Option<CachedScores<'a>>,
    /// What the passes of now train on.
    rollouts: Option<Rollouts>,
    /// The numbers that the objective carries over from the step before.
    carried: HashMap<NodeId, f64>,
}

/// A batch, and what stays true of it while the student learns from it.
struct Rollouts {
    sequences: Sequences,
    /// Logits of frozen models, where there are several passes.
    known: RefCell<Vec<(Role, Vec<Logits>)>>,
    /// Those of the student as it was when it sampled, where several passes read them.
    policy: RefCell<Option<Logits>>,
}

/// A batch with everything that the objective read and answered, and d loss / d parameters.
struct Evaluated {
    batch: Batch,
    outputs: Outputs,
    gradient: Gradient,
    /// When all that the objective reads was there.
    scored: Instant,
}

impl<'a> Trainer<'a> {
    #[cfg(test)]
    fn new(stage: &'a Stage<'a>) -> Result<Trainer<'a>> {
        Trainer::with(stage, None, None)
    }

    fn with(
        stage: &'a Stage<'a>,
        cache: Option<RolloutCache>,
        scores: Option<ScoreCache<'a>>,
    ) -> Result<Trainer<'a>> {
        let objective = &stage.train.objective;
        let model = Decoder::trainable(&stage.start, stage.device, stage.kind);
        let key = Key::new(stage.seed, stage.stream, Purpose::Initialise, 1);
        let trained = Trained::new(&stage.train.trainable, &stage.start, &model, key)?;
        let average = stage.train.ema.map(|rate| (rate, trained.single(&model).copy()));
        let models = Models::new(stage);
        let policy = stage.train.rollout.producer.kind().policy().ok();
        let writes = |role: Role| policy.is_some_and(|(writer, _)| writer == Writer::Scorer(role));
        let read = |role: Role| objective.reads(role) || (writes(role) && objective.reads(Role::Sampler));
        let roles = stage.train.scorers.scored(read);
        let program = Program::new(objective, stage.device, stage.control);
        let optimizer = {
            let (parameters, decayed) = trained.parameters(&model);
            Optimizer::new(&stage.train.optimizer, &parameters, decayed)
        };
        let batches = Batches::new(stage, &models, cache.as_ref())?;
        let kept = CachedScores::new(stage, scores, &models, &batches, &roles);
        let (rollouts, carried) = (None, HashMap::new());
        Ok(Trainer {
            stage,
            model,
            trained,
            average,
            models,
            roles,
            program,
            optimizer,
            batches,
            kept,
            rollouts,
            carried,
        })
    }

    /// What a step trains on: a batch of its own, or the last one's for another pass.
    fn rollouts_of(&mut self, step: u32) -> Result<Rollouts> {
        match self.rollouts.take() {
            Some(rollouts) if !step.is_multiple_of(self.stage.train.passes.max(1)) => Ok(rollouts),
            _ => {
                let sequences = self.batches.next(self.stage, &self.model, &self.models, step)?;
                Ok(Rollouts { sequences, known: RefCell::default(), policy: RefCell::default() })
            }
        }
    }

    /// The objective on a batch and its gradient, with the weights as they are. An error says whether the
    /// numbers were finite so far.
    fn evaluate(&self, rollouts: &Rollouts, step: u32) -> Result<Evaluated, Classified> {
        let plain = |error: Error| (error, true);
        let objective = &self.stage.train.objective;
        let (mut batch, forward) = score(self, rollouts, step).map_err(plain)?;
        let scored = Instant::now();
        non_finite::check_signals(self.stage, &rollouts.sequences, &batch)?;
        noise::add(self.stage, objective, step, &mut batch);
        batch.carried.clone_from(&self.carried);
        let outputs = self.program.run(&batch).map_err(plain)?;
        non_finite::check(self.stage, &rollouts.sequences, &outputs)?;
        let gradient =
            forward.gradient(self, rollouts, &batch, &adjoints(objective, &outputs)).map_err(plain)?;
        Ok(Evaluated { batch, outputs, gradient, scored })
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
        rollouts: Rollouts,
        started: Instant,
        step: u32,
        record: &mut Record,
    ) -> Result<(), Classified> {
        let Stage { train, control, .. } = self.stage;
        let rolled_out = Instant::now();
        let sequences = &rollouts.sequences;
        let Evaluated { batch, outputs, gradient, scored } = self.evaluate(&rollouts, step)?;
        let loss = f64::from(outputs.get(train.objective.loss)[0]);
        let carried = train.objective.graph.carried(&train.objective.outputs()).into_iter();
        self.carried = carried.map(|(memory, source)| (memory, f64::from(outputs.get(source)[0]))).collect();

        let advances = |ladder: &Ladder| outputs.get(ladder.advance_if)[0] != 0.0;
        self.batches.climb(&train.objective.ladders, step, advances);

        let gradient = self.trained.gradient(gradient);
        let norm = gradient_norm(&gradient);
        if !norm.is_finite() {
            return Err((
                non_finite::gradient(self, &rollouts, &adjoints(&train.objective, &outputs), step),
                false,
            ));
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
            scoring: (scored - rolled_out).as_secs_f64(),
            update: scored.elapsed().as_secs_f64(),
        };
        let experts = self.model.take_expert_load();
        let numbers = Step { step, loss, learning_rate, gradient_norm: norm, seconds, experts };
        let rows = diagnose(self.stage, sequences, &batch, &outputs, &numbers);
        tokens::record(self.stage, sequences, &batch, &outputs, step, &mut record.tokens);
        let tokens = sequences.layout.tokens() as u64;
        self.rollouts = (train.passes > 1).then_some(rollouts);
        let (metric, value) = headline(train.recipe, &rows, loss);
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
            domains: rows.chunk_by(|one, next| one.domain == next.domain).map(domain_step).collect(),
        });
        record.rows.extend(rows);
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
