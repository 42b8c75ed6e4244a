//! A part of a stage: terms of its objective with the completions that they are trained on. Most stages have
//! one part; terms with completions of their own (`data`) are further parts. A step evaluates the parts one
//! after the other and adds up their gradients.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use mopd_expr::batch::{Batch, TokenPartition};
use mopd_expr::graph::NodeId;
use mopd_plan::producers::Writer;
use mopd_plan::{Ladder, Role};

use super::agreement::{self, Agreements};
use super::alignment::{self, Gradients};
use super::batches::{Batches, RolloutCache};
use super::cached_scores::{CachedScores, ScoreCache};
use super::losses::Losses;
use super::models::Models;
use super::non_finite::{self, Classified};
use super::objective::{ObjectiveProgram, Outputs};
use super::objective_states::States;
use super::recorded_text::RecordedTexts;
use super::scores::{ScoringPass, score};
use super::sequences::Sequences;
use super::text_spans::Tags;
use super::trained::TrainedParameters;
use super::views::StepContext;
use super::vocabulary::Logits;
use super::{Stage, adjoints, exchange, noise};
use crate::failure::{Error, Result};
use crate::model::{Decoder, GeneratedActivations, Gradient, PackedBatch, SavedActivations};

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
    /// The rollouts of the current passes.
    pub rollouts: Option<Rollouts>,
    /// The numbers that the objective carries over from the previous step.
    pub carried: HashMap<NodeId, f64>,
}

/// A batch, with what does not change while the student learns from it.
pub struct Rollouts {
    pub sequences: Sequences,
    /// The sequences that this process scores, where several processes train together.
    pub(super) own: Option<OwnPart>,
    /// Logits of frozen models, where there are several passes.
    pub known: RefCell<Vec<(Role, Vec<Logits>)>>,
    /// Logits of the student at the time of sampling, where several passes read them.
    pub policy: RefCell<Option<Logits>>,
    /// Activations that generation saved, until the student's forward pass takes them.
    pub activations: RefCell<Option<GeneratedActivations>>,
}

/// Part of a batch, and the range of its tokens in the batch.
pub(super) struct OwnPart {
    rollouts: Box<Rollouts>,
    pub(super) tokens: Range<usize>,
}

impl Rollouts {
    pub fn new(stage: &Stage, sequences: Sequences) -> Rollouts {
        let own = stage.peers.map(|peers| {
            let (sequences, tokens) = exchange::own_part(peers, &sequences, stage.sources.len());
            OwnPart { rollouts: Box::new(Rollouts::alone(sequences)), tokens }
        });
        Rollouts { own, ..Rollouts::alone(sequences) }
    }

    /// The rollouts that this process scores.
    pub fn scored(&self) -> &Rollouts {
        self.own.as_ref().map_or(self, |own| &*own.rollouts)
    }

    /// The same with the activations that generation saved.
    fn generated(self, activations: GeneratedActivations) -> Rollouts {
        self.scored().activations.replace(Some(activations));
        self
    }

    /// The student's activations for the whole batch: saved by generation, or from a forward pass.
    pub fn trace(&self, stage: &Stage, model: &Decoder, packed: &PackedBatch) -> SavedActivations {
        let generated = self.activations.take().and_then(|saved| saved.into_trace(model, packed));
        generated.unwrap_or_else(|| model.trace(packed, stage.recomputed))
    }

    /// The rollouts without a division among processes.
    fn alone(sequences: Sequences) -> Rollouts {
        Rollouts {
            sequences,
            own: None,
            known: RefCell::default(),
            policy: RefCell::default(),
            activations: RefCell::default(),
        }
    }
}

/// The student's forward pass over a batch, from which the gradient is computed.
enum Pass {
    /// Over the whole batch.
    Whole(Box<ScoringPass>),
    /// Over the part of this process, with what its objective reads; `None` where that part is empty.
    Own(Option<Box<(Batch, ScoringPass)>>),
}

/// A batch with the inputs and outputs of the objective, before the backward pass.
struct ForwardBatch {
    batch: Batch,
    outputs: Outputs,
    pass: Pass,
    scored: Instant,
}

/// A batch with the inputs and outputs of the objective, and d loss / d parameters.
pub struct EvaluatedBatch {
    pub batch: Batch,
    pub outputs: Outputs,
    pub gradient: Gradient,
    /// Gradients of parts of the loss, at steps that compare them.
    pub of_parts: Gradients,
    /// When all inputs of the objective were computed.
    pub scored: Instant,
}

/// The results of all parts of a stage.
#[derive(Default)]
pub struct EvaluatedParts {
    /// The sum over the parts; `None` where no part has anything to train on, and in a private stage.
    pub gradient: Option<Gradient>,
    pub of_parts: Gradients,
    /// For each part, inputs and outputs of its objective; `None` where it had nothing to train on.
    pub each: Vec<Option<(Batch, Outputs)>>,
    /// The time from each part's start to its `scored`, summed.
    pub scoring: Duration,
}

/// The models that score the completions of a part, with what they need.
#[derive(Clone, Copy)]
pub struct Scoring<'a> {
    pub stage: &'a Stage<'a>,
    /// The student.
    pub model: &'a Decoder,
    /// The student's trained parameters.
    pub trained: &'a TrainedParameters,
    pub models: &'a Models,
    pub roles: &'a [Role],
    pub batches: &'a Batches,
    pub tags: Option<&'a Tags>,
    pub kept: Option<&'a CachedScores<'a>>,
    /// Texts whose log-probability the student computes.
    pub recorded: &'a RecordedTexts,
    /// The losses of the previous step.
    pub losses: &'a Losses,
}

impl Scoring<'_> {
    pub fn now(&self, step: u32) -> StepContext {
        StepContext { step, learned: self.batches.learned() }
    }
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
        let tags = Tags::of_stage(stage)?;
        let agreements = Agreements::of_stage(stage)?;
        let batches = Batches::new(stage, models, cache)?;
        let kept = CachedScores::new(stage, scores, models, &batches, &roles);
        let recorded = RecordedTexts::of_stage(stage)?;
        let (rollouts, carried) = (None, HashMap::new());
        Ok(StagePart { stage, roles, program, tags, agreements, batches, kept, recorded, rollouts, carried })
    }

    pub fn scoring<'t>(
        &'t self,
        (model, trained): (&'t Decoder, &'t TrainedParameters),
        models: &'t Models,
        losses: &'t Losses,
    ) -> Scoring<'t> {
        let StagePart { stage, roles, tags, batches, kept, recorded, .. } = self;
        let (tags, kept) = (tags.as_ref(), kept.as_ref());
        Scoring { stage, model, trained, models, roles, tags, batches, kept, recorded, losses }
    }

    /// The rollouts of a step: a new batch, or the last one for another pass. `moved`: the student's weights
    /// differ from those it began with.
    pub fn rollouts_of(
        &mut self,
        (model, moved): (&Decoder, bool),
        models: &Models,
        states: &States,
        step: u32,
    ) -> Result<Rollouts> {
        self.batches.begin(self.stage, step);
        match self.rollouts.take() {
            Some(rollouts) if !step.is_multiple_of(self.stage.train.passes.max(1)) => Ok(rollouts),
            _ => {
                self.batches.set_shares(self.stage, states, step)?;
                if !(moved && self.stage.saves_activations && model.saves_activations()) {
                    let sequences = self.batches.next(self.stage, model, models, step)?;
                    return Ok(Rollouts::new(self.stage, sequences));
                }
                let (sequences, saved) = self.batches.next_saving(self.stage, model, models, step)?;
                Ok(Rollouts::new(self.stage, sequences).generated(saved))
            }
        }
    }

    /// The terms on a batch and their gradient. `trained` maps the gradient of all weights to that of the
    /// trained parameters. An error includes whether the numbers were finite so far.
    pub fn evaluate(
        &self,
        scoring: &Scoring,
        rollouts: &Rollouts,
        step: u32,
        trained: &dyn Fn(Gradient) -> Gradient,
    ) -> Result<EvaluatedBatch, Classified> {
        let plain = |error: Error| (error, true);
        let ForwardBatch { batch, outputs, pass, scored } = self.forward(scoring, rollouts, step)?;
        let adjoints = adjoints(&self.stage.train.objective, &outputs);
        let forward = match pass {
            Pass::Whole(forward) => forward,
            Pass::Own(own) => {
                let gradient = own_gradient(scoring, rollouts, own, &adjoints).map_err(plain)?;
                return Ok(EvaluatedBatch { batch, outputs, gradient, of_parts: Vec::new(), scored });
            }
        };
        let of_parts = alignment::prepared(scoring, &forward, rollouts, &outputs, step);
        let gradient = forward.gradient(scoring, rollouts, &batch, &adjoints).map_err(plain)?;
        let of_parts = alignment::gradients(of_parts, scoring, rollouts, &batch, trained).map_err(plain)?;
        Ok(EvaluatedBatch { batch, outputs, gradient, of_parts, scored })
    }

    /// The terms on a batch without their gradient, and when their inputs were computed.
    pub fn terms(
        &self,
        scoring: &Scoring,
        rollouts: &Rollouts,
        step: u32,
    ) -> Result<(Batch, Outputs, Instant), Classified> {
        let ForwardBatch { batch, outputs, scored, .. } = self.forward(scoring, rollouts, step)?;
        Ok((batch, outputs, scored))
    }

    fn forward(&self, scoring: &Scoring, rollouts: &Rollouts, step: u32) -> Result<ForwardBatch, Classified> {
        let plain = |error: Error| (error, true);
        let objective = &self.stage.train.objective;
        let (mut batch, pass) = self.scored(scoring, rollouts, step).map_err(plain)?;
        let scored = self.stage.place.now();
        non_finite::check_signals(self.stage, &rollouts.sequences, &batch)?;
        noise::add(self.stage, objective, step, &mut batch);
        batch.carried.clone_from(&self.carried);
        if let Some(chosen) = objective.chosen {
            // The program itself determines which tokens form a block, so its terms apply to the same tokens.
            agreement::fill_placeholders(objective, &mut batch);
            let outputs = self.program.run(&batch).map_err(plain)?;
            let chosen = outputs.get(chosen);
            batch.layout.blocks = Some(TokenPartition::of_chosen(&batch.layout, chosen));
            if let Some(agreements) = &self.agreements {
                let asked = agreements.add(scoring, &rollouts.sequences, chosen, step, &mut batch);
                asked.map_err(plain)?;
            }
        }
        let outputs = self.program.run(&batch).map_err(plain)?;
        non_finite::check(self.stage, &rollouts.sequences, &outputs)?;
        Ok(ForwardBatch { batch, outputs, pass, scored })
    }

    /// The objective's inputs for the whole batch. Where several processes train together, each computes them
    /// for its part, and all processes exchange them.
    fn scored(&self, scoring: &Scoring, rollouts: &Rollouts, step: u32) -> Result<(Batch, Pass)> {
        let (Some(peers), Some(OwnPart { rollouts: own, .. })) = (self.stage.peers, &rollouts.own) else {
            let (batch, forward) = score(scoring, rollouts, step)?;
            return Ok((batch, Pass::Whole(Box::new(forward))));
        };
        let some = !own.sequences.list.is_empty();
        let own = some.then(|| score(scoring, own, step)).transpose();
        let (own, known) = match own {
            Ok(own) => (own, None),
            Err(error) => (None, Some(error)),
        };
        let known = known.map_or_else(|| Ok(own.as_ref().map(|(batch, _)| batch)), Err);
        let (layout, steps) = (rollouts.sequences.layout.clone(), self.stage.steps);
        let whole = Batch { layout, step, steps, ..Batch::default() };
        Ok((exchange::signals(self.stage, peers, known, whole)?, Pass::Own(own.map(Box::new))))
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

/// The share of the batch's gradient that comes from the tokens of this process.
fn own_gradient(
    scoring: &Scoring,
    rollouts: &Rollouts,
    own: Option<Box<(Batch, ScoringPass)>>,
    adjoints: &[&[f32]],
) -> Result<Gradient> {
    let part = rollouts.own.as_ref().expect("a part was scored");
    let gradient = match own {
        None => Ok(scoring.trained.no_gradient(scoring.model, Gradient::zero)),
        Some(own) => {
            let (batch, forward) = *own;
            let adjoints: Vec<&[f32]> = adjoints.iter().map(|all| &all[part.tokens.clone()]).collect();
            forward.gradient(scoring, &part.rollouts, &batch, &adjoints)
        }
    };
    exchange::all_or_none(scoring.stage, gradient)
}
