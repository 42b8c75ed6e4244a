//! From rewards to the rows of a table: means, normalized scores, and their intervals.

use std::collections::BTreeMap;

use interval::{Estimate, SeedPromptMatrix};
use mopd_plan::results::{Score, TableRow};
use mopd_plan::{Comparison, DomainId, Metric, ModelId, Objective, Row};
use scale::NormalizedScale;

use super::answers::PromptAnswers;

mod calibration;
pub mod compare;
mod interval;
mod scale;

pub(super) type CompiledExperiment = mopd_plan::Experiment<Objective>;

/// The answers and rewards behind one table, by model, column and seed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TableScores {
    answers: BTreeMap<(ModelId, DomainId, u64), Vec<PromptAnswers>>,
    /// The mean reward of each prompt.
    rewards: BTreeMap<(ModelId, DomainId, u64), Vec<f64>>,
}

/// A table lacks rewards that it needs: an error of the caller, not of the experiment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatisticsError {
    #[error("`{model}` was not evaluated on `{domain}` with seed {seed}")]
    NotEvaluated { model: String, domain: String, seed: u64 },
    #[error("`{domain}` was evaluated on {found} prompts for one model and {wanted} for another")]
    DifferentPrompts { domain: String, wanted: usize, found: usize },
}

impl TableScores {
    /// Records an evaluation, in the order of the test file.
    ///
    /// Every model must be evaluated on the same prompts of a domain: they are compared prompt by prompt.
    pub fn insert(&mut self, model: ModelId, domain: DomainId, seed: u64, answers: Vec<PromptAnswers>) {
        let rewards = answers.iter().map(PromptAnswers::mean_reward).collect();
        self.rewards.insert((model, domain, seed), rewards);
        self.answers.insert((model, domain, seed), answers);
    }

    /// The answers to each prompt, for every model, domain and seed.
    pub fn by_prompt(&self) -> impl Iterator<Item = (ModelId, DomainId, u64, &[PromptAnswers])> {
        self.answers
            .iter()
            .map(|((model, domain, seed), prompts)| (*model, *domain, *seed, prompts.as_slice()))
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The rows of one table, in the order of the comparison, and warnings for the reader.
///
/// Intervals are over test prompts and seeds (see [`interval`]); with a single seed, over prompts only. The
/// interval of a normalized score includes the variation of its zero and one, paired by prompt and seed, so
/// that variation common to all of them cancels. `keys` are the content keys of the models' stages.
pub fn table_rows(
    experiment: &CompiledExperiment,
    keys: &[&str],
    comparison: &Comparison,
    seeds: &[u64],
    scores: &TableScores,
) -> Result<(Vec<TableRow>, Vec<String>), StatisticsError> {
    let gather = |models: &[ModelId]| TableEntry::gather(experiment, keys, comparison, seeds, scores, models);
    let rows = comparison.rows.iter().map(|row| gather(&row.models)).collect::<Result<Vec<_>, _>>()?;
    let anchors = match &comparison.normalized {
        Some(normalized) => Some((gather(&normalized.zero)?, gather(&normalized.one)?)),
        None => None,
    };
    let sizes = prompts(
        experiment,
        comparison,
        rows.iter().chain(anchors.iter().flat_map(|(zero, one)| [zero, one])),
    )?;
    let domain = |column: usize| experiment.domain(comparison.columns[column].domain);
    let names: Vec<&str> = (0..sizes.len()).map(|column| domain(column).name.as_str()).collect();

    let mut warnings = Vec::new();
    let mut warn = |what: String| warnings.push(format!("compare \"{}\": {what}", comparison.name));
    let anchors = anchors.as_ref();
    let bounded: Vec<bool> = (0..sizes.len()).map(|column| domain(column).reward.range().is_unit()).collect();
    let scale =
        anchors.and_then(|(zero, one)| NormalizedScale::new(zero, one, &names, &bounded, seeds, &mut warn));
    for (name, size) in names.iter().zip(&sizes) {
        if *size == 1 {
            warn(format!("`{name}` has one test prompt: its intervals cannot account for other prompts"));
        }
    }

    let mut table = Vec::with_capacity(rows.len());
    for (row, named) in rows.iter().zip(&comparison.rows) {
        let means = row.means(0..seeds.len());
        let score = |column: usize| {
            let estimate = Estimate { columns: vec![combined(&[(1.0, &row.0[column])], bounded[column])] };
            let (low, high) = estimate.interval();
            let (n, by_seed) = (sizes[column] as u32, estimate.of_seeds());
            let samples = Some(comparison.columns[column].evaluation.samples());
            (names[column].to_owned(), Score { mean: means[column], low, high, n, samples, by_seed })
        };
        table.push(TableRow {
            model: named.label.clone(),
            scores: (0..sizes.len()).map(score).collect(),
            normalized: scale.as_ref().map(|scale| scale.mean_of(row, &means)),
            normalized_by_seed: scale.as_ref().map_or_else(Vec::new, |scale| scale.by_seed(row)),
            spread: scale.as_ref().map(|scale| population_deviation(&scale.scores(&means))),
            metrics: metrics_of_row(experiment, comparison, seeds, scores, named, &mut warn),
        });
    }
    Ok((table, warnings))
}

/// The further metrics of a row's cells, by metric and domain; its answers are known to exist.
fn metrics_of_row(
    experiment: &CompiledExperiment,
    comparison: &Comparison,
    seeds: &[u64],
    scores: &TableScores,
    row: &Row,
    warn: &mut impl FnMut(String),
) -> BTreeMap<String, BTreeMap<String, Score>> {
    let mut found: BTreeMap<String, BTreeMap<String, Score>> = BTreeMap::new();
    for (column, model) in comparison.columns.iter().zip(&row.models) {
        let answers = |seed: &u64| &scores.answers[&(*model, column.domain, *seed)];
        for metric in &column.metrics {
            let name = experiment.domain(column.domain).name.clone();
            let estimate = |seed: &u64| {
                let answers = answers(seed);
                let means: Option<Vec<f64>> = answers.iter().map(|prompt| prompt.metric(*metric)).collect();
                means.or_else(|| calibration::linear(answers, *metric))
            };
            let estimated: Option<Vec<Vec<f64>>> = seeds.iter().map(estimate).collect();
            if let Some(numbers) = estimated {
                let bounds = metric.is_share().then_some((0.0, 1.0));
                let estimate = Estimate { columns: vec![SeedPromptMatrix { numbers, bounds }] };
                let score = score_of(&estimate, column.evaluation.samples());
                found.entry(metric.to_string()).or_default().insert(name, score);
            } else if *metric == Metric::Ece {
                let of: Vec<String> =
                    (seeds.iter().filter(|seed| estimate(seed).is_none())).map(u64::to_string).collect();
                warn(format!(
                    "no `calibration` of `{}` on `{name}`: with seed {}, no answer states a confidence \
                    such as `Confidence: 85`, a whole number from 0 to 100; let the prompt ask for one",
                    row.label,
                    of.join(", "),
                ));
            }
        }
    }
    found
}

/// The score of an estimate: a mean over prompts and seeds, or a statistic linearised by [`calibration`].
fn score_of(estimate: &Estimate, samples: u32) -> Score {
    let (low, high) = estimate.interval();
    let prompts = estimate.columns.first().and_then(|column| column.numbers.first()).map_or(0, Vec::len);
    Score {
        mean: estimate.value(),
        low,
        high,
        n: prompts as u32,
        samples: Some(samples),
        by_seed: estimate.of_seeds(),
    }
}

/// A weighted sum of rewards by seed and prompt; `bounded` if they are from 0 to 1.
fn combined(parts: &[(f64, &ModelRewards)], bounded: bool) -> SeedPromptMatrix {
    let (_, first) = parts[0];
    let numbers = (0..first.seeds.len())
        .map(|seed| {
            let at = |prompt: usize| parts.iter().map(|(weight, of)| weight * of.seeds[seed][prompt]).sum();
            (0..first.seeds[seed].len()).map(at).collect()
        })
        .collect();
    SeedPromptMatrix { numbers, bounds: bounded.then(|| bounds(parts)) }
}

/// The bounds of a weighted sum of rewards from 0 to 1. Weights of the same model are added up first, so that
/// an anchor of a normalized score has bounds of exactly 0 or 1 in its own scale.
fn bounds(parts: &[(f64, &ModelRewards)]) -> (f64, f64) {
    let mut distinct: Vec<(f64, &ModelRewards)> = Vec::new();
    for (weight, rewards) in parts {
        match distinct.iter_mut().find(|(_, known)| known == rewards) {
            Some((known, _)) => *known += weight,
            None => distinct.push((*weight, rewards)),
        }
    }
    let [least, most] =
        [f64::min, f64::max].map(|end| distinct.iter().map(|(weight, _)| end(*weight, 0.0)).sum());
    (least, most)
}

/// The rewards of a model in a column. They are the same if they are of the same model, whatever its name.
#[derive(Clone, Debug, PartialEq)]
struct ModelRewards<'a> {
    /// The content key of its stage.
    key: &'a str,
    /// By seed, then by prompt.
    seeds: Vec<&'a [f64]>,
}

/// The rewards of one row, by column.
struct TableEntry<'a>(Vec<ModelRewards<'a>>);

impl<'a> TableEntry<'a> {
    fn gather(
        experiment: &'a CompiledExperiment,
        keys: &[&'a str],
        comparison: &Comparison,
        seeds: &[u64],
        scores: &'a TableScores,
        models: &[ModelId],
    ) -> Result<TableEntry<'a>, StatisticsError> {
        let find = |(domain, model): (&DomainId, &ModelId), seed: u64| {
            let found = scores.rewards.get(&(*model, *domain, seed)).filter(|rewards| !rewards.is_empty());
            found.map(Vec::as_slice).ok_or_else(|| StatisticsError::NotEvaluated {
                model: experiment.model(*model).name.clone(),
                domain: experiment.domain(*domain).name.clone(),
                seed,
            })
        };
        let columns = comparison.columns.iter().map(|column| &column.domain).zip(models);
        let key = |model: &ModelId| match keys.get(model.0 as usize) {
            Some(key) => *key,
            None => experiment.model(*model).name.as_str(),
        };
        let of_column = |column: (&DomainId, &ModelId)| {
            let seeds = seeds.iter().map(|seed| find(column, *seed)).collect::<Result<_, _>>()?;
            Ok(ModelRewards { key: key(column.1), seeds })
        };
        Ok(TableEntry(columns.map(of_column).collect::<Result<_, _>>()?))
    }

    /// One mean per column, over some seeds.
    fn means(&self, seeds: std::ops::Range<usize>) -> Vec<f64> {
        let column = |column: &ModelRewards| {
            mean(&column.seeds[seeds.clone()].iter().map(|rewards| mean(rewards)).collect::<Vec<f64>>())
        };
        self.0.iter().map(column).collect()
    }
}

/// The number of prompts in each column, which is the same for every row and seed.
fn prompts<'a>(
    experiment: &CompiledExperiment,
    comparison: &Comparison,
    entries: impl Iterator<Item = &'a TableEntry<'a>>,
) -> Result<Vec<usize>, StatisticsError> {
    let mut sizes: Vec<Option<usize>> = vec![None; comparison.columns.len()];
    for TableEntry(columns) in entries {
        for (index, column) in columns.iter().enumerate() {
            for rewards in &column.seeds {
                let wanted = *sizes[index].get_or_insert(rewards.len());
                if wanted != rewards.len() {
                    let domain = experiment.domain(comparison.columns[index].domain).name.clone();
                    return Err(StatisticsError::DifferentPrompts { domain, wanted, found: rewards.len() });
                }
            }
        }
    }
    Ok(sizes.into_iter().map(Option::unwrap_or_default).collect())
}

fn population_deviation(values: &[f64]) -> f64 {
    let center = mean(values);
    mean(&values.iter().map(|value| (value - center).powi(2)).collect::<Vec<_>>()).sqrt()
}

#[cfg(test)]
pub(super) mod tests;
