//! The loss on validation rows, which no stage is trained on, between two updates.

use mopd_plan::{Signal, Validation};
use tch::{Tensor, no_grad_guard};

use super::{SavedState, StepHook};
use crate::control::Control;
use crate::failure::Result;
use crate::model::Decoder;
use crate::report::metrics::StepMetrics;
use crate::rollout::Sequence;
use crate::store::state::{HookNumbers, StateTensors};
use crate::train::batches::all_examples;
use crate::train::models::Models;
use crate::train::objective::Losses;
use crate::train::scoring::{logp, rows_at_once};
use crate::train::sequences::Sequences;
use crate::train::stage::{Packing, Stage, Texts};
use crate::train::student::StudentWeights;

/// The validation of a stage.
pub struct Validator<'a> {
    settings: &'a Validation,
    /// The domains with their validation rows, as the model reads them.
    packing: Packing<'a>,
    control: &'a Control,
    /// The rows, sorted by length, in batches.
    batches: Vec<Sequences>,
    last: Option<ValidationLoss>,
}

/// A loss on validation rows, in nats per token, and the step before which it was computed.
#[derive(Clone, Copy)]
struct ValidationLoss {
    step: u32,
    loss: f64,
}

/// `None` where the stage does not validate.
pub fn of_stage<'a>(stage: &'a Stage<'a>) -> Result<Option<Validator<'a>>> {
    let Some(settings) = &stage.train.options.validation else { return Ok(None) };
    let sources = &stage.validation;
    let examples = all_examples(Texts { sources, ..stage.texts() }, &settings.target)?;
    let read = examples.into_iter().flat_map(|rows| {
        let count = settings.rows_of(rows.len());
        rows.into_iter().take(count)
    });
    let mut rows: Vec<Sequence> = read.collect();
    rows.sort_by_key(|row| row.prompt(sources).len() + row.completion.len());
    let rows = rows.chunks(rows_at_once(stage.micro_batch, &stage.train.rollout));
    let batches = rows.map(|rows| Sequences::new(rows.to_vec(), 1, sources.len())).collect();
    let packing = Packing { sources, ..stage.packing() };
    Ok(Some(Validator { settings, packing, control: stage.control, batches, last: None }))
}

impl Validator<'_> {
    fn is_due(&self, step: u32) -> bool {
        self.last.is_none_or(|last| step >= last.step.saturating_add(self.settings.every))
    }

    /// The mean over all tokens of -log p. `lm_head` is the student's.
    fn loss(&self, student: &Decoder, lm_head: &Tensor) -> Result<f64> {
        let _guard = no_grad_guard();
        let (mut sum, mut count) = (0.0, 0);
        for sequences in &self.batches {
            self.control.check()?;
            sum -= logp(self.packing, sequences, student, lm_head);
            count += sequences.layout.tokens();
        }
        // This load of experts belongs to no step's metrics.
        let _ = student.take_expert_load();
        Ok(sum / count as f64)
    }
}

impl StepHook for Validator<'_> {
    fn before_batch(
        &mut self,
        step: u32,
        student: &StudentWeights,
        models: &Models,
        read: &mut Losses,
    ) -> Result<()> {
        if self.is_due(step) {
            let loss = self.loss(&student.model, &models.compared(&student.model))?;
            self.last = Some(ValidationLoss { step, loss });
            read.measure(Signal::ValidationLoss, loss);
        }
        Ok(())
    }

    fn end_of_step(&mut self, step: u32, rows: &mut [Vec<StepMetrics>]) {
        let now = self.last.filter(|last| last.step == step).map(|last| last.loss);
        rows.iter_mut().flatten().for_each(|row| row.validation_loss = now);
    }

    fn save(&self, numbers: &mut HookNumbers, _: &mut StateTensors) {
        numbers.validated = self.last.map(|ValidationLoss { step, loss }| (step, loss.to_bits()));
    }

    /// A fork computes the loss of its own weights before its first step.
    fn restore(&mut self, state: &SavedState, read: &mut Losses) -> Result<(), String> {
        if let (Some((step, bits)), false) = (state.numbers.validated, state.is_fork) {
            let loss = f64::from_bits(bits);
            self.last = Some(ValidationLoss { step, loss });
            read.measure(Signal::ValidationLoss, loss);
        }
        Ok(())
    }
}
