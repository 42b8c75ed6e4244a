//! The loss on validation rows, which no stage is trained on, between two updates.

use mopd_plan::{Role, Validation};
use tch::{Kind, Tensor, no_grad_guard};

use super::batches::data::all_examples;
use super::losses::ValidationLoss;
use super::sequences::Sequences;
use super::views::ScorerPrompts;
use super::vocabulary::{LmHead, Logits, Quantity, Vocabulary};
use super::{Stage, Trainer, exchange};
use crate::failure::Result;
use crate::machine::transfer::upload;
use crate::model::Decoder;
use crate::rollout::Sequence;

/// The most rows per forward pass.
const TOGETHER: u32 = 16;

/// Rows per forward pass that a stage has memory for: at most as many as a step trains on at once.
pub fn rows_at_once(stage: &Stage) -> usize {
    let step = stage.train.rollout.sequences();
    stage.micro_batch.unwrap_or(step).clamp(1, TOGETHER) as usize
}

/// The sum of log p over all tokens, at temperature 1. `lm_head` is the student's.
pub fn logp(stage: &Stage, sequences: &Sequences, student: &Decoder, lm_head: &Tensor) -> f64 {
    let members: Vec<usize> = (0..sequences.list.len()).collect();
    let packed = sequences.packed(stage, &members, &ScorerPrompts::Own);
    let logits = Logits::Projected {
        hidden: student.hidden(&packed),
        lm_head: LmHead::Held(lm_head.shallow_clone()),
        softcap: student.config.logit_softcap,
        scalar_head: None,
    };
    let targets = upload(&sequences.targets(), stage.place.device);
    let vocabulary =
        Vocabulary::new(stage.place, &targets, logits, Vec::new(), None, student.tokenizer.ends())
            .without(student.tokenizer.absent());
    let logps = vocabulary.values(&[Quantity::Logp(Role::Student)]);
    logps[0].sum(Kind::Double).double_value(&[])
}

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
        let Some(settings) = &stage.train.validation else { return Ok(None) };
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
}

impl Trainer<'_> {
    /// Computes the validation loss before a step, if it is due.
    pub(super) fn validate(&mut self, step: u32) -> Result<()> {
        let Trainer { model, models, validator: Some(validator), losses, .. } = self else { return Ok(()) };
        if validator.is_due(losses.validated, step) {
            // Sent as bits: JSON has no infinity.
            let loss = || validator.loss(model, &models.compared(model)).map(f64::to_bits);
            let loss = f64::from_bits(exchange::number_of_first(self.stage, loss)?);
            losses.validated = Some(ValidationLoss { step, loss });
        }
        Ok(())
    }
}
