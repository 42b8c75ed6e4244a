//! Converts the extrapolation of weights, and refuses comparisons of gradients.

use mopd_experiment as checked;
use mopd_plan::{Extrapolation, PromptFormat, Trainable};

use super::comparisons::domain_of;
use super::settings::{SettingsConverter, evaluation};

impl SettingsConverter<'_> {
    pub(super) fn extrapolation(&mut self, train: &checked::Train, in_turns: bool) -> Option<Extrapolation> {
        let checked::Extrapolation { factor, rounds, powers_of, judged_by, weights, origin } =
            train.extrapolation.as_ref()?;
        let experiment = self.experiment;
        let private = train.options.private.is_some();
        let adapter = matches!(train.trainable, Trainable::Adapter(_));
        let benchmark = &experiment.benchmarks[judged_by.0 as usize];
        let plain = !matches!(benchmark.format, Some(PromptFormat::Chat { .. }));
        let conversations = train.mixture.iter().any(|share| {
            let format = &experiment.domain(share.domain).format;
            matches!(format, Some(PromptFormat::Chat { .. }))
        });
        for (unsupported, beside) in [
            (in_turns, "in a step of `train`"),
            // The privacy budget does not cover the benchmark's scores of the weights.
            (private, "with the optimizer `private_adamw`"),
            // Doubling the change of both matrices does not double that of their product.
            (adapter, "of a stage that trains an adapter"),
            // The benchmark would judge weights other than the stage's result.
            (train.options.ema.is_some(), "with `ema`"),
            (
                conversations && plain,
                "by a benchmark, whose prompts are plain text, of a model that reads conversations",
            ),
        ] {
            if unsupported {
                self.refuse::<()>(*origin, format!("`extrapolate` {beside}"));
            }
        }
        Some(Extrapolation {
            factor: *factor,
            rounds: *rounds,
            powers_of: *powers_of,
            judged_by: domain_of(experiment, *judged_by),
            evaluation: evaluation(&benchmark.evaluation),
            weights: weights.clone(),
        })
    }

    pub(super) fn refuse_alignment(&mut self, train: &checked::Train, in_turns: bool) {
        if train.options.alignment.is_none() {
            return;
        }
        if in_turns {
            self.refuse::<()>(train.origins.alignment, "`gradient_alignment` in a step of `train`");
        }
        // The privacy budget does not cover what gradients reveal about the records.
        if train.options.private.is_some() {
            let construct = "`gradient_alignment` with the optimizer `private_adamw`";
            self.refuse::<()>(train.origins.alignment, construct);
        }
    }
}
