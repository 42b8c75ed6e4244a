//! Converts tables, and the benchmarks that are columns or that decide about weights.

use mopd_experiment as checked;
use mopd_plan::{Comparison, DataSource, Domain, DomainId, Metric, Origin, TableColumn};

use super::settings::{SettingsConverter, evaluation};
use crate::lower::steps::checked_trains;

/// The domain of a benchmark: a plan lists benchmarks after its domains, as domains without training.
pub(super) fn domain_of(experiment: &checked::Experiment, benchmark: checked::BenchmarkId) -> DomainId {
    DomainId(experiment.domains.len() as u32 + benchmark.0)
}

impl SettingsConverter<'_> {
    /// The benchmarks as domains.
    pub fn benchmarks(&mut self) -> Vec<Domain> {
        let experiment = self.experiment;
        let ids = (0..).map(checked::BenchmarkId);
        experiment.benchmarks.iter().zip(ids).filter_map(|(of, id)| self.benchmark(of, id)).collect()
    }

    fn benchmark(&mut self, benchmark: &checked::Benchmark, id: checked::BenchmarkId) -> Option<Domain> {
        let checked::Benchmark { name, prompts, columns, format, reward, evaluation: _, metrics, origin } =
            benchmark;
        if !self.experiment.comparisons.iter().any(|table| table.benchmarks.contains(&id)) {
            for metric in metrics.iter().filter(|metric| **metric != checked::Metric::PassAt(1)) {
                let construct = format!(
                    "the metric `{metric}` of the benchmark `{name}`, which is only used to judge a stage \
                    by its mean reward"
                );
                self.refuse::<()>(*origin, construct);
            }
        }
        let reward = reward.clone();
        let prompts = DataSource { columns: columns.clone(), ..DataSource::file(prompts.clone()) };
        Some(Domain {
            name: name.clone(),
            tests: Some(prompts.clone()),
            validation: None,
            prompts,
            format: format.clone().unwrap_or_default(),
            reward,
            share: 0.0,
            limit: None,
            origin: *origin,
        })
    }

    pub fn comparison(&mut self, comparison: &checked::Comparison) -> Option<Comparison> {
        let experiment = self.experiment;
        let checked::Comparison {
            name,
            rows,
            domains,
            benchmarks,
            normalized,
            seeds,
            evaluation: of_domains,
            metrics,
            budget,
            origin,
        } = comparison;
        if let Some(budget) = budget {
            self.refuse_unknown_budget(comparison, *budget);
        }
        let metrics = self.metrics(metrics, *origin);
        let mut columns: Vec<TableColumn> = Vec::new();
        for id in domains {
            let verdict = experiment.domain(*id).reward.is_verdict();
            let evaluation = evaluation(of_domains);
            columns.push(TableColumn { domain: *id, metrics: besides_score(&metrics, verdict), evaluation });
        }
        for id in benchmarks {
            let benchmark = &experiment.benchmarks[id.0 as usize];
            let mut asked = self.metrics(&benchmark.metrics, benchmark.origin);
            for metric in &metrics {
                if !asked.contains(metric) {
                    asked.push(*metric);
                }
            }
            columns.push(TableColumn {
                domain: domain_of(experiment, *id),
                evaluation: evaluation(&benchmark.evaluation),
                metrics: besides_score(&asked, benchmark.reward.is_verdict()),
            });
        }
        Some(Comparison {
            name: name.clone(),
            rows: rows.clone(),
            columns,
            normalized: normalized.clone(),
            seeds: *seeds,
            origin: *origin,
        })
    }

    fn metrics(&mut self, metrics: &[checked::Metric], origin: Origin) -> Vec<Metric> {
        let executable = |metric: &checked::Metric| match metric {
            checked::Metric::PassAt(k) => vec![Metric::PassAt { k: *k }],
            checked::Metric::Distinct => vec![Metric::Distinct],
            checked::Metric::Length => vec![Metric::Length],
            // Calibration comes with the share of answers that state a confidence.
            checked::Metric::Calibration => vec![Metric::Ece, Metric::Brier, Metric::Stated],
            checked::Metric::Entropy => {
                self.refuse::<()>(origin, format!("the metric `{metric}`"));
                Vec::new()
            }
        };
        metrics.iter().flat_map(executable).collect()
    }

    /// Refuses a budget that is known only at run time. The checker compared those that are known before, and
    /// could not compare this one.
    fn refuse_unknown_budget(&mut self, comparison: &checked::Comparison, budget: checked::Budget) {
        let unit = match budget.unit {
            checked::BudgetUnit::Steps => "steps",
            checked::BudgetUnit::Sequences => "sequences",
            checked::BudgetUnit::Tokens => {
                self.refuse::<()>(comparison.origin, "a comparison at equal `budget = tokens`");
                return;
            }
        };
        for model in &self.experiment.models {
            if checked_trains(&model.stage).iter().any(|train| budget.unit.spent(train, 1).is_none()) {
                let construct = format!(
                    "a comparison at equal `budget = {unit}` where only the run shows how many `{}` takes",
                    model.name
                );
                self.refuse::<()>(comparison.origin, construct);
            }
        }
    }
}

/// The metrics besides the score, which is pass@1 if rewards are verdicts.
fn besides_score(metrics: &[Metric], verdict: bool) -> Vec<Metric> {
    let score = Metric::PassAt { k: 1 };
    metrics.iter().filter(|metric| !(verdict && **metric == score)).copied().collect()
}
