//! A model that learns: one step of its training, from rollouts to the update.

mod restore;

use std::rc::Rc;
use std::time::{Duration, Instant};

use mopd_expr::batch::Batch;
use mopd_plan::events::{Event, Seconds};

pub use self::restore::RestoreMode;
use super::batches::RolloutCache;
use super::diagnostics::{StepTotals, diagnose};
use super::hooks::{self, GradientPass, Hooks, Update};
use super::models::Models;
use super::non_finite;
use super::objective::{Losses, Outputs};
use super::optimizer::gradient_norm;
use super::part::{EvaluatedBatch, EvaluatedParts, StagePart};
use super::privacy::Privacy;
use super::progress;
use super::rollouts::Rollouts;
use super::scoring::{ScoreCache, Scoring};
use super::stage::Stage;
use super::student::StudentWeights;
use super::tokens;
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
    /// The settings of private steps.
    privacy: Option<Privacy>,
    /// The terms on the stage's rollout, then those with completions of their own.
    pub parts: Vec<StagePart<'a>>,
    pub losses: Losses,
    pub hooks: Hooks<'a>,
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
        Trainer::among(stages, 0, &[Rc::new(stages[0].student())], cache, scores)
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
        let hooks = hooks::of_stage(stage, &student)?;
        let mut parts = vec![StagePart::new(stage, &models, cache.as_ref(), scores)?];
        for own in &stages[1..] {
            parts.push(StagePart::new(own, &models, None, None)?);
        }
        let domains = stage.sources.iter().map(|source| source.name);
        let losses = Losses::first(stages.iter().map(|part| &part.train.objective), domains);
        Ok(Trainer { stage, place, student, models, privacy, parts, losses, hooks })
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
        parts.try_for_each(|(part, position)| part.batches.restore_data(position, part.stage.keys()))
    }

    pub fn scoring(&self, part: usize) -> Scoring<'_> {
        self.parts[part].scoring(&self.student, &self.models, &self.losses)
    }

    /// The terms of a part on its batch and their gradient, at the current weights.
    pub fn evaluate(&self, part: usize, rollouts: &Rollouts, step: u32) -> Result<EvaluatedBatch> {
        let again = self.hooks.iter().any(|hook| hook.reads_gradients(step));
        self.parts[part].evaluate(&self.scoring(part), rollouts, step, again)
    }

    /// Evaluates all parts and sums their gradients. A private stage reads the gradients of its records, and
    /// not that of the batch, unless a hook does.
    pub fn evaluate_all(&mut self, rollouts: &[Rollouts], step: u32) -> Result<EvaluatedParts> {
        let mut all = EvaluatedParts::default();
        let reads_gradients = self.hooks.iter().any(|hook| hook.reads_gradients(step));
        for (part, rollouts) in rollouts.iter().enumerate() {
            if rollouts.sequences.list.is_empty() {
                all.each.push(None);
                continue;
            }
            let begun = Instant::now();
            if self.privacy.is_some() && !reads_gradients {
                let (batch, outputs, scored) = self.parts[part].terms(&self.scoring(part), rollouts, step)?;
                all.scoring += scored - begun;
                all.each.push(Some((batch, outputs)));
                continue;
            }
            let evaluated = self.evaluate(part, rollouts, step)?;
            self.after_gradient(part, rollouts, &evaluated)?;
            let EvaluatedBatch { batch, outputs, gradient, pass: _, scored } = evaluated;
            all.scoring += scored - begun;
            all.gradient = Some(match all.gradient.take() {
                None => gradient,
                Some(sum) => sum.plus(gradient),
            });
            all.each.push(Some((batch, outputs)));
        }
        Ok(all)
    }

    /// Gives the pass of a part to the hooks, where one of them reads it.
    fn after_gradient(&mut self, part: usize, rollouts: &Rollouts, evaluated: &EvaluatedBatch) -> Result<()> {
        let EvaluatedBatch { batch, outputs, pass: Some(pass), .. } = evaluated else { return Ok(()) };
        let Trainer { student, models, parts, losses, hooks, .. } = self;
        let scoring = &parts[part].scoring(student, models, losses);
        let trained = &|of| student.gradient(of);
        let read = GradientPass { scoring, pass, rollouts, batch, outputs, trained };
        hooks.iter_mut().try_for_each(|hook| hook.after_gradient(&read))
    }

    /// The gradient of a private step.
    pub fn private_gradient(&self, privacy: &Privacy, rollouts: &Rollouts, step: u32) -> Result<Gradient> {
        let of_record = |record: &Rollouts| Ok(self.evaluate(0, record, step)?.gradient);
        let gradient = privacy.gradient(&self.student, rollouts, self.stage.secret, step, of_record);
        gradient.map_err(|error| error.at(self.stage.train.objective.origin))
    }

    /// Updates the weights and the copies of the student; returns the learning rate.
    pub fn apply(&mut self, gradient: Option<Gradient>, norm: f64, step: u32) -> f64 {
        let factor: f64 = self.hooks.iter().map(|hook| hook.rate_factor()).product();
        let learning_rate = self.stage.train.learning_rate.at(step, self.stage.steps) * factor;
        self.student.update(gradient, norm, learning_rate);
        self.models.follow(&self.student.model, || self.student.to_f32(), step + 1);
        learning_rate
    }

    /// Before the batch of a step is drawn.
    pub fn before_batch(&mut self, step: u32) -> Result<()> {
        let Trainer { student, models, losses, hooks, .. } = self;
        hooks.iter_mut().try_for_each(|hook| hook.before_batch(step, student, models, losses))
    }

    /// Between two steps, after `steps` of them.
    pub fn between_steps(&mut self, steps: u32, record: &mut Record) -> Result<()> {
        let Trainer { student, hooks, .. } = self;
        hooks.iter_mut().try_for_each(|hook| hook.between_steps(steps, student, record))
    }

    /// One update of the weights, whose metrics are added to `record`.
    pub fn step(&mut self, step: u32, record: &mut Record) -> Result<Event> {
        self.before_batch(step)?;
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
        let rolled_out = self.stage.place.now();
        for part in 0..self.parts.len() {
            self.parts[part].score_old(&self.scoring(part), step)?;
        }
        let of_old = self.stage.place.now() - rolled_out;
        let EvaluatedParts { gradient, each: evaluated, scoring } = self.evaluate_all(&rollouts, step)?;
        let scoring = of_old + scoring;
        let gradient = match &self.privacy {
            None => gradient.map(|sum| self.student.gradient(sum)),
            // Noise is added even where no record was drawn: leaving it out would reveal that.
            Some(privacy) => Some(self.private_gradient(privacy, &rollouts[0], step)?),
        };
        let (states, learned) = (self.losses.states.values(), self.parts[0].batches.learned());
        let loss = self.learn(&evaluated, step);
        let norm = gradient.as_ref().map(gradient_norm);
        if !norm.is_none_or(f64::is_finite) {
            let scoring = (0..self.parts.len()).map(|part| self.scoring(part));
            return Err(non_finite::gradient(
                self.stage.train.objective.origin,
                scoring,
                &rollouts,
                &evaluated,
                step,
            ));
        }
        let learning_rate = self.apply(gradient, norm.unwrap_or(0.0), step);
        let experts = self.student.expert_load();
        let update = Update { step, student: &self.student, rollouts: &rollouts[0], norm, learning_rate };
        self.hooks.iter_mut().for_each(|hook| hook.after_update(&update));
        let totals = StepTotals {
            step,
            loss,
            states,
            learning_rate,
            drawn: rollouts[0].drawn,
            learned,
            chosen: self.chosen(),
            gradient_norm: norm.unwrap_or(0.0),
            seconds: self.seconds(started, rolled_out, scoring),
            experts,
            trained_share: self.student.trained.share(),
        };
        Ok(self.record(rollouts, &evaluated, &totals, record))
    }

    /// Keeps what the next step reads from this one; returns the loss of the step.
    pub fn learn(&mut self, evaluated: &[Option<(Batch, Outputs)>], step: u32) -> f64 {
        for (part, evaluated) in zip_equal(&mut self.parts, evaluated) {
            if let Some((_, outputs)) = evaluated {
                part.learn(outputs, step);
            }
        }
        let objectives = self.parts.iter().map(|part| &part.stage.train.objective);
        self.losses.learn(zip_equal(objectives, evaluated.iter().map(Option::as_ref)))
    }

    /// By source: the number of chosen prompts and their mean priority.
    pub fn chosen(&self) -> Vec<Option<(usize, Option<f64>)>> {
        let batches = &self.parts[0].batches;
        (0..self.stage.sources.len()).map(|source| batches.chosen(source)).collect()
    }

    fn seconds(&self, started: Instant, rolled_out: Instant, scoring: Duration) -> Seconds {
        Seconds {
            rollout: (rolled_out - started).as_secs_f64(),
            scoring: scoring.as_secs_f64(),
            update: (self.stage.place.now() - rolled_out - scoring).as_secs_f64(),
        }
    }

    /// Adds the step's metrics and tokens to the record, and keeps the rollouts that a later pass reads.
    fn record(
        &mut self,
        rollouts: Vec<Rollouts>,
        evaluated: &[Option<(Batch, Outputs)>],
        totals: &StepTotals,
        record: &mut Record,
    ) -> Event {
        let StepTotals { step, loss, seconds, .. } = *totals;
        let several = self.parts.len() > 1;
        let (mut rows, mut tokens) = (Vec::new(), 0);
        for (part, (rollouts, evaluated)) in zip_equal(&mut self.parts, zip_equal(rollouts, evaluated)) {
            let sequences = &rollouts.sequences;
            rows.push(diagnose(part.stage, sequences, evaluated.as_ref(), totals, several));
            if let (Some((batch, outputs)), (0, 0)) = (evaluated, (self.place, part.stage.part)) {
                tokens::record(part.stage, sequences, batch, outputs, step, &mut record.tokens);
            }
            tokens += sequences.layout.tokens() as u64;
            // The next pass begins with the first mini-batch again.
            part.rollouts.extend((self.stage.train.options.passes > 1).then_some(rollouts));
        }
        progress::finish(&mut rows);
        self.hooks.iter_mut().for_each(|hook| hook.end_of_step(step, &mut rows));
        let event = progress::event(self.stage, step, &rows, tokens, seconds, loss);
        record.rows.extend(rows.into_iter().flatten());
        event
    }
}
