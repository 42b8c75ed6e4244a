//! The rollouts of a step: its sequences, with what does not change while the student learns from them.

use std::cell::RefCell;

use mopd_expr::batch::Batch;
use mopd_plan::{Role, Signal, StageStep};

use super::sequences::Sequences;
use super::stage::Stage;
use super::vocabulary::Logits;
use crate::model::{Decoder, GeneratedActivations, PackedBatch, SavedActivations};

/// A batch, with what does not change while the student learns from it.
pub struct Rollouts {
    pub sequences: Sequences,
    /// The step that drew them. Its temperature is that of every update from them.
    pub drawn: StageStep,
    /// Logits of frozen models, where several updates read them.
    pub known: RefCell<Vec<(Role, Vec<Logits>)>>,
    /// Logits of the student at the time of sampling, where several updates read them.
    pub policy: RefCell<Option<Logits>>,
    /// The numbers of the student before the first update from these rollouts, where several updates read
    /// them; empty until that update has computed them.
    pub old: RefCell<Vec<(Signal, Vec<f32>)>>,
    /// Activations that generation saved, until the student's forward pass takes them.
    pub activations: RefCell<Option<GeneratedActivations>>,
}

impl Rollouts {
    pub fn new(stage: &Stage, sequences: Sequences, step: u32) -> Rollouts {
        Rollouts {
            sequences,
            drawn: StageStep { step, steps: stage.steps },
            known: RefCell::default(),
            policy: RefCell::default(),
            old: RefCell::default(),
            activations: RefCell::default(),
        }
    }

    /// The same with the activations that generation saved.
    pub fn generated(self, activations: GeneratedActivations) -> Rollouts {
        self.activations.replace(Some(activations));
        self
    }

    /// Keeps the numbers of `old` in a batch of the first update.
    pub fn keep_old(&self, batch: &Batch) {
        if self.old.borrow().is_empty() {
            let of_old = batch.signals.iter().filter(|(signal, _)| signal.of_student_now().is_some());
            self.restore_old(of_old.cloned().collect());
        }
    }

    /// Sets the numbers of `old`, each one per token of the whole batch.
    pub fn restore_old(&self, old: Vec<(Signal, Vec<f32>)>) {
        self.old.replace(old);
    }

    /// The student's activations for the whole batch: saved by generation, or from a forward pass.
    pub fn trace(&self, stage: &Stage, model: &Decoder, packed: &PackedBatch) -> SavedActivations {
        let generated = self.activations.take().and_then(|saved| saved.into_trace(model, packed));
        generated.unwrap_or_else(|| model.trace(packed, stage.recomputed))
    }
}
