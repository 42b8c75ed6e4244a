//! The loss on validation rows, which no stage is trained on, between two updates.

use mopd_plan::Validation;
use tch::{Tensor, no_grad_guard};

use super::batches::all_examples;
use super::models::Models;
use super::objective::ValidationLoss;
use super::scoring::{logp, rows_at_once};
use super::sequences::Sequences;
use super::stage::Stage;
use crate::failure::Result;
use crate::model::Decoder;
use crate::rollout::Sequence;

/// The validation of a stage.
pub struct Validator<'a> {
    settings: &'a Validation,
    /// The stage, with the validation rows of its domains in place of those that it trains on.
    stage: Stage<'a>,
    /// The rows, sorted by length, in batches.
    batches: Vec<Sequences>,
}

impl<'a> Validator<'a> {
    /// `None` where the stage does not validate.
    pub fn new(stage: &Stage<'a>) -> Result<Option<Validator<'a>>> {
        let Some(settings) = &stage.train.options.validation else { return Ok(None) };
        let stage = Stage { sources: stage.validation.clone(), ..stage.clone() };
        let examples = all_examples(&stage, &settings.target)?;
        let read = examples.into_iter().flat_map(|rows| {
            let count = settings.rows_of(rows.len());
            rows.into_iter().take(count)
        });
        let mut rows: Vec<Sequence> = read.collect();
        rows.sort_by_key(|row| row.prompt(&stage).len() + row.completion.len());
        let domains = stage.sources.len();
        let batches =
            rows.chunks(rows_at_once(&stage)).map(|rows| Sequences::new(rows.to_vec(), 1, domains)).collect();
        Ok(Some(Validator { settings, stage, batches }))
    }

    fn is_due(&self, last: Option<ValidationLoss>, step: u32) -> bool {
        last.is_none_or(|last| step >= last.step.saturating_add(self.settings.every))
    }

    /// The mean over all tokens of -log p. `lm_head` is the student's.
    fn loss(&self, student: &Decoder, lm_head: &Tensor) -> Result<f64> {
        let _guard = no_grad_guard();
        let (mut sum, mut count) = (0.0, 0);
        for sequences in &self.batches {
            self.stage.control.check()?;
            sum -= logp(&self.stage, sequences, student, lm_head);
            count += sequences.layout.tokens();
        }
        // This load of experts belongs to no step's metrics.
        let _ = student.take_expert_load();
        Ok(sum / count as f64)
    }

    /// The loss before a step, where it is due; `last` is the last one.
    pub fn before_step(
        &self,
        student: &Decoder,
        models: &Models,
        last: Option<ValidationLoss>,
        step: u32,
    ) -> Result<Option<ValidationLoss>> {
        if !self.is_due(last, step) {
            return Ok(None);
        }
        let loss = self.loss(student, &models.compared(student))?;
        Ok(Some(ValidationLoss { step, loss }))
    }
}
