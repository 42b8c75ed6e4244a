//! Whether generation saves activations of the student's completions, so that their gradient needs no forward
//! pass; and the execution settings that affect the rounding of a step's result, and therefore its key.

use serde::Serialize;

use super::{Checkpointing, Producer, Rollout, Train};

#[derive(Serialize)]
pub struct Rounding {
    /// Changes the order of sums.
    micro_batch: Option<u32>,
    /// Recomputed layers have the bits of a forward pass, but not those of the activations that generation
    /// saves.
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpointing: Option<Checkpointing>,
}

impl<O> Train<O> {
    /// Whether a step trains on the completions of a rollout as the student wrote them, and holds all their
    /// activations at once anyway. Saved activations are useless for completions that a filter leaves out,
    /// for examples with a gradient each, and from the second update from a batch on: the weights have
    /// changed then. With several passes the first computes its own too: its log-probabilities are those that
    /// the later ones are compared with, and generation rounds differently.
    pub fn saves_activations(&self, rollout: &Rollout) -> bool {
        let rewritten = self.sees.as_ref().is_some_and(|view| view.of_completions());
        let as_written = matches!(rollout.producer, Producer::Student(_)) && !rewritten;
        let whole = self.options.updates_per_batch() <= 1 && self.options.execution.micro_batch.is_none();
        as_written && whole && self.filter.is_none() && self.options.private.is_none()
    }

    pub fn rounding(&self) -> Rounding {
        let saves = self.rollouts().any(|rollout| self.saves_activations(rollout));
        let checkpointing =
            Some(self.options.execution.checkpointing).filter(|of| *of != Checkpointing::None);
        Rounding {
            micro_batch: self.options.execution.micro_batch,
            checkpointing: checkpointing.filter(|_| saves),
        }
    }
}
