//! The one training loop: fine-tuning, reinforcement learning and distillation differ in where sequences come from
//! ([`batches`]) and in the objective, which the compiler has made into a graph.
//!
//! A step computes signals and live primitives at the completion tokens, without gradient. The objective's program turns them
//! into the loss and into d loss / d primitive, per token; a second pass over the vocabulary carries that on into the student's
//! last hidden states and output matrix ([`vocabulary`]), and libtorch from there into the weights.

mod batches;
mod diagnostics;
mod noise;
mod non_finite;
mod objective;
mod optimizer;
mod scores;
mod tensor_graph;
pub mod vocabulary;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use mopd_compiler::expr::graph::NodeId;
use mopd_compiler::plan::events::{Event, FailureKind};
use mopd_compiler::plan::{ModelId, Objective, Origin, Prefixes, Recipe, Role, Train};
use tch::Device;

use self::batches::{Batches, Sequences};
use self::diagnostics::{Seconds, Step, diagnose};
use self::objective::Program;
use self::optimizer::{Optimizer, gradient_norm};
use self::scores::score;
use self::vocabulary::Logits;
use crate::control::Control;
use crate::failure::{Error, Result};
use crate::model::{Decoder, PackedBatch, Weights};
use crate::prepare::Prompts;
use crate::report::metrics::Row;
use crate::reward::Verifier;

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
    pub teachers: HashMap<ModelId, Arc<Weights>>,
    pub device: Device,
    pub control: &'a Control,
}

/// A domain of the mixture.
#[derive(Clone)]
pub struct Source<'a> {
    pub name: &'a str,
    pub origin: Origin,
    pub share: f64,
    /// The routed teacher: its name and its model.
    pub teacher: Option<String>,
    pub teacher_model: Option<ModelId>,
    pub prompts: &'a Prompts,
    pub verifier: &'a Verifier,
}

/// Why training stopped early, with the diagnostics of the steps before.
pub struct Stopped {
    pub error: Error,
    /// The weights before the step that failed, where it failed for a number that is not finite.
    pub last_good: Option<Weights>,
    pub rows: Vec<Row>,
}

/// Trains to the last step. Answers the weights, and one row of diagnostics per step and domain.
pub fn train(stage: &Stage) -> Result<(Weights, Vec<Row>), Box<Stopped>> {
    let mut rows = Vec::new();
    let mut trainer = Trainer::new(stage).map_err(|error| Box::new(Stopped { error, last_good: None, rows: Vec::new() }))?;
    for step in 0..stage.steps {
        match trainer.step(step) {
            Ok(new) => rows.extend(new),
            Err((error, finite)) => {
                let last_good = (!finite).then(|| trainer.model.weights());
                return Err(Box::new(Stopped { error: error.at_step(step), last_good, rows }));
            }
        }
    }
    Ok((trainer.model.weights(), rows))
}

struct Trainer<'a> {
    stage: &'a Stage<'a>,
    model: Decoder,
    /// Each teacher once.
    teachers: HashMap<ModelId, Decoder>,
    reads_teacher: bool,
    program: Program<'a>,
    optimizer: Optimizer,
    batches: Batches,
    /// The numbers that the objective carries over from the step before.
    carried: HashMap<NodeId, f64>,
}

impl<'a> Trainer<'a> {
    fn new(stage: &'a Stage<'a>) -> Result<Trainer<'a>> {
        let objective = &stage.train.objective;
        let model = Decoder::trainable(&stage.start, stage.device);
        let writes = matches!(stage.train.prefixes, Prefixes::Teacher { .. });
        let reads_teacher = objective.reads(Role::Teacher) || (writes && objective.reads(Role::Sampler));
        let mut teachers = HashMap::new();
        if reads_teacher || writes {
            for source in &stage.sources {
                if let Some(id) = source.teacher_model
                    && let Some(weights) = stage.teachers.get(&id)
                {
                    teachers.entry(id).or_insert_with(|| Decoder::frozen(weights, stage.device));
                }
            }
        }
        let program = Program::new(objective, stage.device, stage.control);
        let optimizer = Optimizer::new(&stage.train.optimizer, &model);
        let routed: Vec<_> = stage.sources.iter().map(|source| teachers.get(&source.teacher_model?)).collect();
        let batches = Batches::new(stage, &routed)?;
        Ok(Trainer { stage, model, teachers, reads_teacher, program, optimizer, batches, carried: HashMap::new() })
    }

    /// One update of the weights. An error says whether the numbers were finite so far.
    fn step(&mut self, step: u32) -> Result<Vec<Row>, (Error, bool)> {
        let plain = |error: Error| (error, true);
        let Stage { train, control, .. } = self.stage;
        let started = Instant::now();
        control.check().map_err(plain)?;
        let sequences = self.batches.next(self.stage, &self.model, step).map_err(non_finite::classify)?;
        let rolled_out = Instant::now();
        let packed = PackedBatch::new(sequences.pairs(self.stage, 0..self.stage.sources.len()), self.stage.device);
        let (mut batch, forward) = score(self, &sequences, &packed, step).map_err(plain)?;
        let scored = Instant::now();
        non_finite::check_signals(self.stage, &sequences, &batch)?;
        noise::add(self.stage, &train.objective, step, &mut batch);
        batch.carried = std::mem::take(&mut self.carried);
        let outputs = self.program.run(&batch).map_err(plain)?;
        let loss = f64::from(outputs.get(train.objective.loss)[0]);
        non_finite::check(self.stage, &sequences, &outputs)?;
        let carried = train.objective.graph.carried(&train.objective.outputs()).into_iter();
        self.carried = carried.map(|(memory, source)| (memory, f64::from(outputs.get(source)[0]))).collect();

        let adjoints: Vec<&[f32]> = train.objective.live.iter().map(|live| outputs.get(live.adjoint)).collect();
        let gradient = forward.gradient(&self.model, &train.objective, &batch, &adjoints).map_err(plain)?;
        let norm = gradient_norm(&gradient);
        if !norm.is_finite() {
            return Err((non_finite::gradient(self, &sequences, &adjoints, step), false));
        }
        let learning_rate = train.learning_rate.at(step, self.stage.steps);
        self.optimizer.step(&self.model, &gradient, norm, learning_rate);

        let seconds = Seconds {
            rollout: (rolled_out - started).as_secs_f64(),
            scoring: (scored - rolled_out).as_secs_f64(),
            update: scored.elapsed().as_secs_f64(),
        };
        let experts = self.model.take_expert_load();
        let numbers = Step { step, loss, learning_rate, gradient_norm: norm, seconds, experts };
        let rows = diagnose(self.stage, &sequences, &batch, &outputs, &numbers);
        let (metric, value) = headline(train.recipe, &rows, loss);
        control.emit(&Event::Step {
            stage: self.stage.name.to_owned(),
            seed: self.stage.seed,
            step,
            steps: self.stage.steps,
            metric: metric.to_owned(),
            value,
        });
        Ok(rows)
    }

    /// The teachers' logits at every completion token, each by the teacher of its own domain, in the order of the batch.
    fn teacher_logits(&self, sequences: &Sequences) -> Result<Vec<Logits>> {
        let _guard = tch::no_grad_guard();
        let mut parts = Vec::new();
        let sources = &self.stage.sources;
        // Sequences of a source are adjacent, so parts end to end are in the order of the batch. Sources that follow each other
        // with one teacher are one part: it is less work, and a teacher equal to the student then sees the student's own batch
        // and answers with the same bits.
        let mut first = 0;
        for run in sources.chunk_by(|one, next| one.teacher_model == next.teacher_model) {
            let range = first..first + run.len();
            first = range.end;
            let pairs = sequences.pairs(self.stage, range);
            if pairs.clone().next().is_none() {
                continue;
            }
            let teacher = run[0].teacher_model.and_then(|id| self.teachers.get(&id)).ok_or_else(|| {
                let message = format!("no teacher is routed to the domain `{}`, but the objective reads one", run[0].name);
                Error::new(FailureKind::Runtime, message)
            })?;
            let hidden = teacher.hidden(&PackedBatch::new(pairs, self.stage.device));
            parts.push(Logits::projected(&hidden, teacher.matrix()));
        }
        Ok(parts)
    }
}

/// The number that tells whether a recipe makes progress, over the whole step.
fn headline(recipe: Recipe, rows: &[Row], loss: f64) -> (&'static str, f64) {
    let mean = |value: fn(&Row) -> Option<f64>, share: fn(&Row) -> f64| {
        let parts: Option<Vec<f64>> = rows.iter().map(|row| Some(value(row)? * share(row))).collect();
        parts.map(|parts| parts.iter().sum())
    };
    let special = match recipe {
        Recipe::Sft => None,
        Recipe::Grpo => mean(|row| row.reward, |row| row.prompt_share).map(|value| ("reward", value)),
        Recipe::Distill => mean(|row| row.divergence, |row| row.token_share).map(|value| ("divergence", value)),
    };
    special.unwrap_or(("loss", loss))
}
