//! A part of a stage: terms of its objective with the completions that they are trained on. Most stages have
//! one part; terms with completions of their own (`data`) are further parts. A step evaluates the parts one
//! after the other and adds up their gradients.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use mopd_expr::batch::Batch;
use mopd_expr::graph::NodeId;
use mopd_plan::producers::Writer;
use mopd_plan::{Ladder, Role, Signal};

use super::agreement::{self, Agreements};
use super::batches::{Batches, RolloutCache};
use super::mini_batches;
use super::models::Models;
use super::non_finite;
use super::objective::{Losses, ObjectiveProgram, Outputs, States, add_uniforms, adjoints};
use super::rollouts::Rollouts;
use super::sampler_gap;
use super::scoring::{
    CachedScores, RecordedTexts, ScoreCache, Scoring, ScoringPass, Tags, rows_at_once, score, score_student,
};
use super::stage::Stage;
use super::student::StudentWeights;
use crate::failure::Result;
use crate::model::{Decoder, Gradient};
use crate::store::state::{PartPosition, StateTensors};

pub struct StagePart<'a> {
    /// The stage, with the rollout and the objective of this part.
    pub stage: &'a Stage<'a>,
    /// The scorers whose logits a step needs.
    roles: Vec<Role>,
    program: ObjectiveProgram<'a>,
    tags: Option<Tags>,
    agreements: Option<Agreements>,
    pub batches: Batches,
    pub kept: Option<CachedScores<'a>>,
    recorded: RecordedTexts,
    /// The numbers of `old` that a step reads.
    of_old: Vec<Signal>,
    /// The rollouts of the next updates from the current batch: its mini-batches in their order.
    pub rollouts: VecDeque<Rollouts>,
    /// The numbers that the objective carries over from the previous step.
    pub carried: HashMap<NodeId, f64>,
}

/// A batch with the inputs and outputs of the objective, before the backward pass.
struct ForwardBatch {
    batch: Batch,
    outputs: Outputs,
    /// The student's forward pass, from which the gradient is computed.
    forward: ScoringPass,
    scored: Instant,
}

/// A batch with the inputs and outputs of the objective, and d loss / d parameters.
pub struct EvaluatedBatch {
    pub batch: Batch,
    pub outputs: Outputs,
    pub gradient: Gradient,
    /// The forward pass without its activations, where other gradients are computed from it.
    pub pass: Option<ScoringPass>,
    /// When all inputs of the objective were computed.
    pub scored: Instant,
}

/// The results of all parts of a stage.
#[derive(Default)]
pub struct EvaluatedParts {
    /// The sum over the parts; `None` where no part has anything to train on, and in a private stage.
    pub gradient: Option<Gradient>,
    /// For each part, inputs and outputs of its objective; `None` where it had nothing to train on.
    pub each: Vec<Option<(Batch, Outputs)>>,
    /// The time from each part's start to its `scored`, summed.
    pub scoring: Duration,
}

impl<'a> StagePart<'a> {
    pub fn new(
        stage: &'a Stage<'a>,
        models: &Models,
        cache: Option<&RolloutCache>,
        scores: Option<ScoreCache<'a>>,
    ) -> Result<StagePart<'a>> {
        let objective = &stage.train.objective;
        let policy = stage.train.rollout.producer.kind().policy().ok();
        let writes = |role: Role| policy.is_some_and(|(writer, _)| writer == Writer::Scorer(role));
        let read = |role: Role| objective.reads(role) || (writes(role) && objective.reads(Role::Sampler));
        let roles = stage.train.scorers.scored(read);
        let program = ObjectiveProgram::new(objective, stage.control);
        let tags = Tags::new(stage.train, &stage.start.tokenizer)?;
        let agreements = Agreements::new(objective, &stage.start.tokenizer)?;
        let batches = Batches::new(stage, models, cache)?;
        let kept = CachedScores::new(stage, scores, models, &batches, &roles);
        let recorded = RecordedTexts::new(
            stage.texts(),
            objective,
            rows_at_once(stage.micro_batch, &stage.train.rollout),
        )?;
        let mut of_old = objective.signals();
        of_old.extend(stage.train.scorers.signals());
        of_old.retain(|signal| signal.of_student_now().is_some());
        Ok(StagePart {
            stage,
            roles,
            program,
            tags,
            agreements,
            batches,
            kept,
            recorded,
            of_old,
            rollouts: VecDeque::new(),
            carried: HashMap::new(),
        })
    }

    pub fn scoring<'t>(
        &'t self,
        student: &'t StudentWeights,
        models: &'t Models,
        losses: &'t Losses,
    ) -> Scoring<'t> {
        let StagePart { stage, roles, tags, batches, kept, recorded, .. } = self;
        let (tags, kept) = (tags.as_ref(), kept.as_ref());
        let StudentWeights { model, trained, .. } = student;
        Scoring { stage, model, trained, models, roles, tags, batches, kept, recorded, losses }
    }

    /// The rollouts of a step: of a new batch, or the last one's for another update. `moved`: the student's
    /// weights differ from those it began with.
    pub fn rollouts_of(
        &mut self,
        model: &Decoder,
        moved: bool,
        models: &Models,
        states: &States,
        step: u32,
    ) -> Result<Rollouts> {
        self.batches.begin(self.stage.keys(), step);
        if !step.is_multiple_of(self.stage.train.options.updates_per_batch())
            && let Some(rollouts) = self.rollouts.pop_front()
        {
            return Ok(rollouts);
        }
        self.rollouts.clear();
        let drawn = self.stage.step(step);
        self.batches.set_states(self.stage, states, step)?;
        if moved && self.stage.saves_activations && model.saves_activations() {
            let (sequences, saved) = self.batches.next_saving(self.stage, model, models, step)?;
            return Ok(Rollouts::new(sequences, drawn).generated(saved));
        }
        let batch = self.batches.next(self.stage, model, models, step)?;
        let Stage { train, sources, .. } = self.stage;
        let parts = train.options.mini_batches.max(1) as usize;
        let parts = mini_batches::divided(parts, batch, sources.len(), self.stage.keys(), step);
        let mut parts = parts.into_iter();
        let first = parts.next().expect("a batch has a mini-batch");
        self.rollouts.extend(parts.map(|part| Rollouts::new(part, drawn)));
        Ok(Rollouts::new(first, drawn))
    }

    /// The terms on a batch and their gradient. `again`: other gradients are computed after it.
    pub fn evaluate(
        &self,
        scoring: &Scoring,
        rollouts: &Rollouts,
        step: u32,
        again: bool,
    ) -> Result<EvaluatedBatch> {
        let ForwardBatch { batch, outputs, forward, scored } = self.forward(scoring, rollouts, step)?;
        let adjoints = adjoints(&self.stage.train.objective, &outputs);
        let pass = again.then(|| forward.without_activations());
        let gradient = forward.gradient(scoring, rollouts, &batch, &adjoints)?;
        Ok(EvaluatedBatch { batch, outputs, gradient, pass, scored })
    }

    /// The terms on a batch without their gradient, and when their inputs were computed.
    pub fn terms(
        &self,
        scoring: &Scoring,
        rollouts: &Rollouts,
        step: u32,
    ) -> Result<(Batch, Outputs, Instant)> {
        let ForwardBatch { batch, outputs, scored, .. } = self.forward(scoring, rollouts, step)?;
        Ok((batch, outputs, scored))
    }

    fn forward(&self, scoring: &Scoring, rollouts: &Rollouts, step: u32) -> Result<ForwardBatch> {
        let objective = &self.stage.train.objective;
        let (mut batch, forward) = score(scoring, rollouts, step)?;
        if self.stage.train.options.updates_per_batch() > 1 {
            rollouts.keep_old(&batch);
        }
        let scored = self.stage.place.now();
        non_finite::check_signals(objective, &self.stage.sources, &rollouts.sequences, &batch)?;
        sampler_gap::check(self.stage, rollouts, &batch, step)?;
        add_uniforms(self.stage.keys(), objective, step, &mut batch);
        batch.carried.clone_from(&self.carried);
        agreement::add_blocks(scoring, &self.program, self.agreements.as_ref(), rollouts, step, &mut batch)?;
        let outputs = self.program.run(&batch)?;
        non_finite::check(objective, &self.stage.sources, &rollouts.sequences, &outputs)?;
        Ok(ForwardBatch { batch, outputs, forward, scored })
    }

    /// Computes, before the first update from a batch, the numbers of `old` for its later mini-batches.
    pub fn score_old(&self, scoring: &Scoring, step: u32) -> Result<()> {
        for rollouts in &self.rollouts {
            let known = self.of_old.is_empty() || !rollouts.old.borrow().is_empty();
            if !known && !rollouts.sequences.list.is_empty() {
                rollouts.keep_old(&score_student(scoring, rollouts, &self.of_old, step)?.0);
            }
        }
        Ok(())
    }

    /// Keeps what the next step reads from this one.
    pub fn learn(&mut self, outputs: &Outputs, step: u32) {
        let objective = &self.stage.train.objective;
        let carried = objective.graph.carried(&objective.outputs()).into_iter();
        self.carried = carried.map(|(memory, source)| (memory, f64::from(outputs.get(source)[0]))).collect();
        let advances = |ladder: &Ladder| outputs.get(ladder.advance_if)[0] != 0.0;
        self.batches.climb(&objective.ladders, step, advances);
        if let Some(learned) = &objective.learned {
            self.batches.learn(f64::from(outputs.get(learned.gain)[0]));
        }
    }
}

impl StagePart<'_> {
    /// The state, whose tensors are added to `tensors`.
    pub fn save(&self, tensors: &mut StateTensors) -> PartPosition {
        let stored = self.rollouts.iter().enumerate();
        let mut stored = stored.map(|(index, rollouts)| rollouts.save(self.stage.keys(), index, tensors));
        let (rollouts, mini_batches) = (stored.next(), stored.collect());
        let mut carried: Vec<(NodeId, u64)> =
            self.carried.iter().map(|(node, value)| (*node, value.to_bits())).collect();
        carried.sort_unstable();
        PartPosition {
            batches: self.batches.save(self.stage.keys(), tensors),
            carried,
            rollouts,
            mini_batches,
        }
    }

    /// Restores a state of the same stage. `model` is the student.
    pub fn restore(
        &mut self,
        model: &Decoder,
        position: &PartPosition,
        tensors: &StateTensors,
    ) -> Result<(), String> {
        let PartPosition { batches, carried, rollouts, mini_batches } = position;
        self.batches.restore(self.stage, model, batches, tensors)?;
        self.carried =
            carried.iter().map(|(node, bits)| (*node, f64::from_bits(*bits))).collect::<HashMap<_, _>>();
        let stored = rollouts.iter().chain(mini_batches);
        self.rollouts = Rollouts::restored(self.stage, model, stored, tensors)?;
        let has_draws =
            |rollouts: &Rollouts| rollouts.sequences.draws.len() == rollouts.sequences.layout.groups as usize;
        if self.kept.is_some() && !self.rollouts.iter().all(has_draws) {
            return Err("it has no valid positions of its sequences in the data".to_owned());
        }
        Ok(())
    }
}
