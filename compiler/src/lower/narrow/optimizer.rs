//! Optimizers: a plan knows AdamW, and AdamW on gradients that tell little of any record.

use mopd_lang::experiment as wide;

use super::settings::Settings;
use crate::plan::{AdamW, Private, Producer, Rollout};

impl Settings<'_> {
    pub(super) fn optimizer(&mut self, optimizer: &wide::Optimizer) -> Option<(AdamW, Option<Private>)> {
        match optimizer {
            wide::Optimizer::AdamW(adam) => Some((adam.clone(), None)),
            wide::Optimizer::Sgd { origin, .. } => self.refuse(*origin, "the optimizer `sgd`"),
            wide::Optimizer::Private { clip, epsilon, delta, origin: _ } => {
                // The usual values; what is to be clipped is clipped already.
                let adam =
                    AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.0, clip_norm: f64::MAX };
                Some((adam, Some(Private { clip: *clip, epsilon: *epsilon, delta: *delta })))
            }
        }
    }

    /// The accountant knows batches whose records are drawn one by one, each by a chance of its own, anew in
    /// every step.
    pub(super) fn refuse_unaccounted(&mut self, train: &wide::Train, rollout: &Rollout, in_turns: bool) {
        let wide::Optimizer::Private { origin, .. } = train.optimizer else { return };
        let drawn = &rollout.producer;
        let one_by_one = match drawn {
            Producer::Student(_) | Producer::Data(_) => true,
            Producer::Teacher(_) => drawn.once().is_none(),
            _ => false,
        };
        for (unaccounted, beside) in [
            (in_turns, "in a step of `train`"),
            (train.passes > 1, "with several `passes`"),
            (train.filter.is_some(), "with a `filter`"),
            (!train.ladders().is_empty(), "where a `ladder` moves a rollout"),
            (train.parts().len() > 1, "beside terms with completions of their own"),
            (!one_by_one, "with completions that are not drawn anew, prompt by prompt,"),
        ] {
            if unaccounted {
                self.refuse::<()>(origin, format!("the optimizer `private_adamw` {beside}"));
            }
        }
    }
}
