//! Weights that are extrapolated, and the benchmarks that decide about them.

use mopd_lang::experiment as wide;

use super::settings::{Settings, evaluation};
use crate::lower::checked_trains;
use crate::plan::{DataSource, Domain, DomainId, Extrapolation, PromptFormat, Trainable};

/// The benchmarks that decide something in a stage, in their order. They stand behind the domains of a plan, as
/// domains that no stage is trained on.
fn judging(experiment: &wide::Experiment) -> Vec<wide::BenchmarkId> {
    let stages = experiment.models.iter().flat_map(|model| checked_trains(&model.stage));
    let judges = stages.filter_map(|train| train.extrapolation.as_ref().map(|found| found.judged_by));
    let mut judges: Vec<wide::BenchmarkId> = judges.collect();
    judges.sort_unstable();
    judges.dedup();
    judges
}

impl Settings<'_> {
    /// What no stage asks for is a column of a table.
    pub(super) fn refuse_columns(&mut self) {
        let experiment = self.experiment;
        let judging = judging(experiment);
        for (benchmark, id) in experiment.benchmarks.iter().zip(0..) {
            let id = wide::BenchmarkId(id);
            let column = experiment.comparisons.iter().any(|table| table.benchmarks.contains(&id));
            if column || !judging.contains(&id) {
                self.refuse::<()>(benchmark.origin, format!("the benchmark `{}`", benchmark.name));
            }
        }
    }

    /// The domains that stand for benchmarks.
    pub fn judges(&mut self) -> Vec<Domain> {
        let experiment = self.experiment;
        let judges = judging(experiment);
        judges.into_iter().filter_map(|id| self.judge(&experiment.benchmarks[id.0 as usize])).collect()
    }

    fn judge(&mut self, benchmark: &wide::Benchmark) -> Option<Domain> {
        let wide::Benchmark { name, prompts, reward, evaluation: _, metrics, origin } = benchmark;
        for metric in metrics.iter().filter(|metric| **metric != wide::Metric::PassAt(1)) {
            let construct = format!(
                "the metric `{metric}` of the benchmark `{name}`, by whose mean reward a stage \
                 goes,"
            );
            self.refuse::<()>(*origin, construct);
        }
        let reward = self.reward(reward, *origin)?;
        let prompts = DataSource::file(prompts.clone());
        Some(Domain {
            name: name.clone(),
            tests: Some(prompts.clone()),
            validation: None,
            prompts,
            format: PromptFormat::default(),
            reward,
            share: 0.0,
            limit: None,
            origin: *origin,
        })
    }

    pub(super) fn extrapolation(&mut self, train: &wide::Train, in_turns: bool) -> Option<Extrapolation> {
        let wide::Extrapolation { factor, rounds, powers_of, judged_by, weights, origin } =
            train.extrapolation.as_ref()?;
        let experiment = self.experiment;
        let private = matches!(train.optimizer, wide::Optimizer::Private { .. });
        let adapter = matches!(train.trainable, Trainable::Adapter(_));
        let conversations = train.mixture.iter().any(|share| {
            let format = &experiment.domain(share.domain).format;
            matches!(format, Some(PromptFormat::Chat { .. }))
        });
        for (unfit, beside) in [
            (in_turns, "in a step of `train`"),
            // What the benchmark says of the weights is not in the budget.
            (private, "with the optimizer `private_adamw`"),
            // Twice as far in both matrices is not twice as far in their product.
            (adapter, "of a stage that trains an adapter"),
            // Other weights would be judged than those that the stage answers.
            (train.ema.is_some(), "with `ema`"),
            (
                conversations,
                "by a benchmark, whose prompts are plain text, of a model that reads conversations",
            ),
        ] {
            if unfit {
                self.refuse::<()>(*origin, format!("`extrapolate` {beside}"));
            }
        }
        let place = judging(experiment).iter().position(|id| id == judged_by)?;
        let benchmark = &experiment.benchmarks[judged_by.0 as usize];
        Some(Extrapolation {
            factor: *factor,
            rounds: *rounds,
            powers_of: *powers_of,
            judged_by: DomainId((experiment.domains.len() + place) as u32),
            evaluation: evaluation(&benchmark.evaluation),
            weights: weights.clone(),
        })
    }
}
