//! Converts optimizers: AdamW and SGD, and AdamW on differentially private gradients.

use mopd_experiment as checked;
use mopd_plan::{AdamW, Optimizer, Private, Producer, Rollout};

use super::settings::SettingsConverter;

/// The optimizer in the plan's form, and the privacy settings of a private one.
pub(super) fn executable(optimizer: &checked::Optimizer) -> (Optimizer, Option<Private>) {
    match optimizer {
        checked::Optimizer::AdamW(adam) => (Optimizer::AdamW(adam.clone()), None),
        checked::Optimizer::Sgd(sgd) => (Optimizer::Sgd(sgd.clone()), None),
        checked::Optimizer::Private { clip, epsilon, delta, origin: _ } => {
            // The usual values. The gradients of records are already clipped.
            let adam =
                AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.0, clip_norm: f64::MAX };
            let private = Private { clip: *clip, epsilon: *epsilon, delta: *delta };
            (Optimizer::AdamW(adam), Some(private))
        }
    }
}

impl SettingsConverter<'_> {
    /// Refuses what the privacy accountant does not cover: it assumes batches whose records are sampled
    /// independently, each with its own probability, anew in every step.
    pub(super) fn refuse_unaccounted(&mut self, train: &checked::Train, rollout: &Rollout, in_turns: bool) {
        let checked::Optimizer::Private { origin, .. } = train.optimizer else { return };
        let learns = !train.learned(&self.experiment.teachers).is_empty();
        let drawn = &rollout.producer;
        let one_by_one = matches!(drawn, Producer::Data(_)) || drawn.samples_at_each_step();
        for (unaccounted, beside) in [
            (in_turns, "in a step of `train`"),
            (train.passes > 1, "with several `passes`"),
            (train.mini_batches > 1, "with several `mini_batches`"),
            (train.filter.is_some(), "with a `filter`"),
            (train.priority.is_some(), "with a `priority`"),
            (!train.ladders().is_empty(), "where a `ladder` moves a rollout"),
            (learns, "where what a teacher sees is `learned`"),
            (train.parts().len() > 1, "together with terms with their own completions"),
            (!one_by_one, "with completions that are not sampled anew for each prompt"),
        ] {
            if unaccounted {
                self.refuse::<()>(origin, format!("the optimizer `private_adamw` {beside}"));
            }
        }
    }
}
