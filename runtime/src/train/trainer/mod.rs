//! A model that learns: one step of its training, from rollouts to the update.

mod private;
mod restore;

use std::rc::Rc;
use std::time::Instant;

use mopd_plan::events::{Event, Seconds};

pub use self::restore::RestoreMode;
use super::alignment;
use super::batches::RolloutCache;
use super::diagnostics::{StepTotals, diagnose};
use super::extrapolate::Extrapolator;
use super::guards::{GuardedStage, Guards};
use super::models::Models;
use super::monitor::Monitor;
use super::non_finite;
use super::objective::Losses;
use super::optimizer::gradient_norm;
use super::part::{EvaluatedBatch, EvaluatedParts, StagePart};
use super::privacy::Privacy;
use super::progress;
use super::rollouts::Rollouts;
use super::scoring::{ScoreCache, Scoring};
use super::stage::Stage;
use super::student::StudentWeights;
use super::tokens;
use super::validation::Validator;
use crate::data::mixture::MixturePosition;
use crate::failure::Result;
use crate::model::{Decoder, Gradient};
use crate::report::Record;
use crate::zip::zip_equal;

/// A model that learns, with everything that it learns from.
pub struct Trainer<'a> {
    pub stage: &'a Stage<'a>,
    /// The index of this model among the stage's learners.
    pub place: usize,
    pub student: StudentWeights,
    pub models: Models,
    pub privacy: Option<Privacy>,
    pub extrapolator: Option<Extrapolator<'a>>,
    pub validator: Option<Validator<'a>>,
    /// The terms on the stage's rollout, then those with completions of their own.
    pub parts: Vec<StagePart<'a>>,
    /// Whether the warning about a step with nothing to train on was given.
    pub warned_empty_step: bool,
    pub losses: Losses,
    pub guards: Guards<'a>,
    pub monitor: Monitor,
}

impl<'a> Trainer<'a> {
    #[cfg(test)]
    pub fn new(stage: &'a Stage<'a>) -> Result<Trainer<'a>> {
        Trainer::with(std::slice::from_ref(stage), None, None)
    }

    /// `stages` are the stage's parts.
    #[cfg(test)]
    pub fn with(
        stages: &'a [Stage<'a>],
        cache: Option<RolloutCache>,
        scores: Option<ScoreCache<'a>>,
    ) -> Result<Trainer<'a>> {
        Trainer::among(stages, 0, &[StudentWeights::decoder(&stages[0])], cache, scores)
    }

    /// The trainer of the learner at index `place`. `stages` are the parts of its stage.
    pub fn among(
        stages: &'a [Stage<'a>],
        place: usize,
        learners: &[Rc<Decoder>],
        cache: Option<RolloutCache>,
        scores: Option<ScoreCache<'a>>,
    ) -> Result<Trainer<'a>> {
        let stage = &stages[0];
        let student = StudentWeights::new(stage, learners[place].clone())?;
        let models = Models::new(stage)?.with_learners(learners);
        let privacy = Privacy::of_stage(stage)?;
        let extrapolator = Extrapolator::new(stage.train, stage.judge, &student)?;
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
            student,
            models,
            privacy,
            extrapolator,
            validator,
            parts,
            warned_empty_step: false,
            losses,
            guards: Guards::new(GuardedStage::of(stage)),
            monitor: Monitor::new(stage),
        })
    }

    /// The rollouts of a step, part by part: of a new batch, or the last one's for another update.
    pub fn rollouts_of(&mut self, step: u32) -> Result<Vec<Rollouts>> {
        let Trainer { student, models, parts, losses, .. } = self;
        let states = &losses.states;
        let rollouts = parts
            .iter_mut()
            .map(|part| part.rollouts_of(&student.model, student.moved, models, states, step));
        let rollouts = rollouts.collect::<Result<_>>()?;
        // A run that is stopped before this draws the same prompts again.
        parts.iter().for_each(|part| part.batches.commit());
        Ok(rollouts)
    }

    /// The position of each part in the data.
    pub fn positions(&self) -> Vec<MixturePosition> {
        self.parts.iter().map(|part| part.batches.data()).collect()
    }

    pub fn restore_positions(&mut self, positions: &[MixturePosition]) -> Result<(), String> {
        let mut parts = zip_equal(&mut self.parts, positions);
        parts.try_for_each(|(part, position)| part.batches.restore_data(position, part.stage))
    }

    pub fn scoring(&self, part: usize) -> Scoring<'_> {
        self.parts[part].scoring(&self.student, &self.models, &self.losses)
    }

    /// The terms of a part on its batch and their gradient, at the current weights.
    pub fn evaluate(&self, part: usize, rollouts: &Rollouts, step: u32) -> Result<EvaluatedBatch> {
        self.parts[part].evaluate(&self.scoring(part), rollouts, step, &|of| self.student.gradient(of))
    }

    /// Evaluates all parts and sums their gradients. A private stage reads the gradients of its records, and
    /// not that of the batch, unless the step reports it.
    pub fn evaluate_all(&self, rollouts: &[Rollouts], step: u32) -> Result<EvaluatedParts> {
        let mut all = EvaluatedParts::default();
        let compared = self.stage.train.options.alignment.is_some_and(|alignment| alignment.is_due(step));
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

    /// Computes the validation loss before a step, if it is due.
    pub fn validate(&mut self, step: u32) -> Result<()> {
        let Some(validator) = &self.validator else { return Ok(()) };
        let last = self.losses.validated;
        if let Some(loss) = validator.before_step(&self.student.model, &self.models, last, step)? {
            self.losses.validated = Some(loss);
        }
        Ok(())
    }

    /// Extrapolates the weights after `steps` steps, where the stage does that.
    pub fn extrapolate(&mut self, steps: u32, record: &mut Record) -> Result<()> {
        let Trainer { stage, student, extrapolator, .. } = self;
        let Some(extrapolator) = extrapolator else { return Ok(()) };
        extrapolator.extrapolate(stage, student, steps, record)
    }

    /// Updates the weights and the copies of the student; returns the learning rate.
    pub fn apply(&mut self, gradient: Option<Gradient>, norm: f64, step: u32) -> f64 {
        let learning_rate = self.stage.train.learning_rate.at(step, self.stage.steps) * self.guards.factor;
        self.student.update(gradient, norm, learning_rate);
        self.models.follow(&self.student.model, || self.student.to_f32(), step + 1);
        learning_rate
    }

    /// One update of the weights, whose metrics are added to `record`.
    pub fn step(&mut self, step: u32, record: &mut Record) -> Result<Event> {
        self.validate(step)?;
        self.student.moved = self.student.moved || record.moved();
        let started = Instant::now();
        let rollouts = self.rollouts_of(step)?;
        self.update(rollouts, started, step, record)
    }

    /// The rest of `step`, on rollouts that were begun at `started`.
    pub fn update(
        &mut self,
        rollouts: Vec<Rollouts>,
        started: Instant,
        step: u32,
        record: &mut Record,
    ) -> Result<Event> {
        let train = self.stage.train;
        let rolled_out = self.stage.place.now();
        for part in 0..self.parts.len() {
            self.parts[part].score_old(&self.scoring(part), step)?;
        }
        let of_old = self.stage.place.now() - rolled_out;
        let EvaluatedParts { gradient, of_parts, each: evaluated, scoring } =
            self.evaluate_all(&rollouts, step)?;
        let scoring = of_old + scoring;
        let gradient = match &self.privacy {
            None => gradient.map(|sum| self.student.gradient(sum)),
            // Noise is added even where no record was drawn: leaving it out would reveal that.
            Some(privacy) => Some(self.private_gradient(privacy, &rollouts[0], step)?),
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

        let norm = gradient.as_ref().map_or(0.0, gradient_norm);
        if !norm.is_finite() {
            let scoring = (0..self.parts.len()).map(|part| self.scoring(part));
            return Err(non_finite::gradient(self.stage, scoring, &rollouts, &evaluated, step));
        }
        let learning_rate = self.apply(gradient, norm, step);
        let experts = self.student.expert_load();
        let (trains, sequences) = (self.student.parameters(), &rollouts[0].sequences);
        self.monitor.look(self.stage, sequences, &trains, norm, learning_rate, step);

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
            drawn: rollouts[0].drawn,
            learned,
            chosen,
            gradient_norm: norm,
            alignment: alignment::columns(of_parts),
            seconds,
            experts,
            trained_share: self.student.trained.share(),
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
            // The next pass begins with the first mini-batch again.
            part.rollouts.extend((train.options.passes > 1).then_some(rollouts));
        }
        progress::finish(&mut rows);
        let event = progress::event(self.stage, step, &rows, tokens, seconds, loss);
        self.guards.look(step, &rows[0].iter().collect::<Vec<_>>());
        record.rows.extend(rows.into_iter().flatten());
        Ok(event)
    }
}
