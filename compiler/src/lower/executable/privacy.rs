//! Refusals of stages on differentially private gradients.

use mopd_experiment as checked;
use mopd_plan::{Producer, Rollout};

use super::settings::SettingsConverter;

impl SettingsConverter<'_> {
    /// Refuses what the privacy accountant does not cover: it assumes batches whose records are sampled
    /// independently, each with its own probability, anew in every step.
    pub(super) fn refuse_unaccounted(&mut self, train: &checked::Train, rollout: &Rollout, in_turns: bool) {
        if train.options.private.is_none() {
            return;
        }
        let learns = !train.learned(&self.experiment.teachers).is_empty();
        let drawn = &rollout.producer;
        let one_by_one = matches!(drawn, Producer::Data(_)) || drawn.samples_at_each_step();
        for (unaccounted, beside) in [
            (in_turns, "in a step of `train`"),
            (train.options.passes > 1, "with several `passes`"),
            (train.options.mini_batches > 1, "with several `mini_batches`"),
            (train.filter.is_some(), "with a `filter`"),
            (train.priority.is_some(), "with a `priority`"),
            (!train.ladders().is_empty(), "where a `ladder` moves a rollout"),
            (learns, "where what a teacher sees is `learned`"),
            (train.parts().len() > 1, "together with terms with their own completions"),
            (!one_by_one, "with completions that are not sampled anew for each prompt"),
        ] {
            if unaccounted {
                self.refuse::<()>(train.origins.private, format!("the optimizer `private_adamw` {beside}"));
            }
        }
    }
}
