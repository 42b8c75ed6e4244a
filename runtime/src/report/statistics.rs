//! From rewards to the rows of a table: means, normalized scores, and intervals by a paired bootstrap.

use std::collections::BTreeMap;

use mopd_compiler::plan::results::{Interval, Score, TableRow};
use mopd_compiler::plan::{Comparison, DomainId, ModelId, Objective};

use crate::random::Uniforms;

pub mod compare;

type Experiment = mopd_compiler::plan::Experiment<Objective>;

/// Resamples behind an interval.
pub const RESAMPLES: usize = 2000;
/// An interval holds the middle 95% of the resamples.
const TAILS: (f64, f64) = (0.025, 0.975);
/// What the row that scores 1 must exceed the row that scores 0 by. Real differences are far larger: the smallest that `n`
/// prompts can show is `1 / n`.
const SMALLEST_GAIN: f64 = 1e-6;

/// The rewards behind one table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    by_prompt: BTreeMap<(ModelId, DomainId, u64), Vec<f64>>,
}

/// The rewards that a table needs and does not have: a mistake of the caller, not of the experiment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatisticsError {
    #[error("`{model}` was not evaluated on `{domain}` with seed {seed}")]
    NotEvaluated { model: String, domain: String, seed: u64 },
    #[error("`{domain}` was evaluated on {found} prompts for one model and {wanted} for another")]
    DifferentPrompts { domain: String, wanted: usize, found: usize },
}

impl Scores {
    /// Records an evaluation: `samples` rewards for each prompt, prompt after prompt, in the order of the test file. What is kept
    /// is each prompt's mean, which with rewards of 0 and 1 estimates pass@1.
    ///
    /// Every model must be evaluated on the same prompts of a domain: they are compared prompt by prompt.
    pub fn insert(&mut self, model: ModelId, domain: DomainId, seed: u64, rewards: &[f64], samples: u32) {
        let means = rewards.chunks(samples.max(1) as usize).map(mean).collect();
        self.by_prompt.insert((model, domain, seed), means);
    }

    /// The mean reward of each prompt, for every model, domain and seed.
    pub fn by_prompt(&self) -> impl Iterator<Item = (ModelId, DomainId, u64, &[f64])> {
        self.by_prompt.iter().map(|((model, domain, seed), means)| (*model, *domain, *seed, means.as_slice()))
    }

    /// Mean reward over prompts and samples.
    pub fn mean(&self, model: ModelId, domain: DomainId, seed: u64) -> Option<f64> {
        Some(mean(self.by_prompt.get(&(model, domain, seed))?))
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The rows of one table, in the order of the comparison, and what a reader should be warned of.
///
/// Intervals are percentiles of a bootstrap over test prompts and seeds: each of [`RESAMPLES`] draws takes seeds, and within
/// each domain prompts, with replacement, and takes the *same* for every model. So a normalized score moves with its own
/// zero and one, and chance that hits all models alike cancels out. With a single seed, the spread between training runs is
/// not in the interval.
///
/// Nothing else is random than `uniforms`.
pub fn table_rows(
    experiment: &Experiment,
    comparison: &Comparison,
    seeds: &[u64],
    scores: &Scores,
    mut uniforms: Uniforms,
) -> Result<(Vec<TableRow>, Vec<String>), StatisticsError> {
    let gather = |models: &[ModelId]| Entry::gather(experiment, comparison, seeds, scores, models);
    let rows = comparison.rows.iter().map(|row| gather(&row.models)).collect::<Result<Vec<_>, _>>()?;
    let anchors = match &comparison.normalized {
        Some(normalized) => Some((gather(&normalized.zero)?, gather(&normalized.one)?)),
        None => None,
    };
    let sizes = prompts(experiment, comparison, rows.iter().chain(anchors.iter().flat_map(|(zero, one)| [zero, one])))?;

    let mut warnings = Vec::new();
    let everything = Weights::even(seeds.len(), &sizes);
    let scale = |weights: &Weights| anchors.as_ref().map(|(zero, one)| Scale::new(&zero.means(weights), &one.means(weights)));
    let name = |column: usize| &experiment.domain(comparison.domains[column]).name;
    let warn = |column: usize, scale: &Scale, when: &str| {
        format!(
            "compare \"{}\": no normalized score{when}: on `{}` the row that scores 1 has {:.3}, which does not exceed the {:.3} of the \
             row that scores 0",
            comparison.name,
            name(column),
            scale.zero[column] + scale.gain[column],
            scale.zero[column],
        )
    };

    // The estimates: from all prompts and seeds, each once.
    let whole = scale(&everything);
    let whole = match whole.as_ref().map(|scale| (scale, scale.flat())) {
        Some((scale, Some(column))) => {
            warnings.push(warn(column, scale, ""));
            None
        }
        _ => whole,
    };
    let mut of_seed = Vec::new();
    if whole.is_some() {
        for (index, seed) in seeds.iter().enumerate() {
            let weights = Weights::one_seed(index, seeds.len(), &sizes);
            let Some(scale) = scale(&weights) else { break };
            if let Some(column) = scale.flat() {
                warnings.push(warn(column, &scale, &format!(" per seed, because of seed {seed}")));
                of_seed.clear();
                break;
            }
            of_seed.push((weights, scale));
        }
    }

    // The intervals.
    let mut drawn_means = vec![vec![Vec::with_capacity(RESAMPLES); sizes.len()]; rows.len()];
    let mut drawn_normalized = vec![Vec::with_capacity(RESAMPLES); rows.len()];
    for _ in 0..RESAMPLES {
        let weights = Weights::drawn(seeds.len(), &sizes, &mut uniforms);
        let scale = scale(&weights).filter(|scale| whole.is_some() && scale.flat().is_none());
        for (index, row) in rows.iter().enumerate() {
            let means = row.means(&weights);
            drawn_normalized[index].extend(scale.as_ref().map(|scale| mean(&scale.normalized(&means))));
            for (drawn, mean) in drawn_means[index].iter_mut().zip(means) {
                drawn.push(mean);
            }
        }
    }
    let kept = drawn_normalized.first().map_or(RESAMPLES, Vec::len);
    if whole.is_some() && (kept as f64) < RESAMPLES as f64 * TAILS.1 {
        warnings.push(format!(
            "compare \"{}\": the intervals of normalized scores are unreliable: in {} of {RESAMPLES} resamples the row that scores 1 \
             does not exceed the row that scores 0 on every domain, and those are left out",
            comparison.name,
            RESAMPLES - kept,
        ));
    }

    let mut table = Vec::with_capacity(rows.len());
    for (index, (row, named)) in rows.iter().zip(&comparison.rows).enumerate() {
        let means = row.means(&everything);
        let score = |column: usize| {
            let (low, high) = middle(&mut drawn_means[index][column].clone()).unwrap_or((means[column], means[column]));
            (name(column).clone(), Score { mean: means[column], low, high, n: sizes[column] as u32 })
        };
        let normalized = whole.as_ref().map(|scale| scale.normalized(&means));
        let interval = |values: &Vec<f64>| {
            let (low, high) = middle(&mut drawn_normalized[index].clone())?;
            Some(Interval { mean: mean(values), low, high })
        };
        table.push(TableRow {
            model: named.label.clone(),
            scores: (0..sizes.len()).map(score).collect(),
            normalized: normalized.as_ref().and_then(interval),
            normalized_by_seed: of_seed.iter().map(|(weights, scale)| mean(&scale.normalized(&row.means(weights)))).collect(),
            spread: normalized.as_deref().map(population_deviation),
        });
    }
    Ok((table, warnings))
}

/// The rewards of one row: `[column][seed][prompt]`.
struct Entry<'a>(Vec<Vec<&'a [f64]>>);

impl<'a> Entry<'a> {
    fn gather(
        experiment: &Experiment,
        comparison: &Comparison,
        seeds: &[u64],
        scores: &'a Scores,
        models: &[ModelId],
    ) -> Result<Entry<'a>, StatisticsError> {
        let find = |(domain, model): (&DomainId, &ModelId), seed: u64| {
            let found = scores.by_prompt.get(&(*model, *domain, seed)).filter(|rewards| !rewards.is_empty());
            found.map(Vec::as_slice).ok_or_else(|| StatisticsError::NotEvaluated {
                model: experiment.model(*model).name.clone(),
                domain: experiment.domain(*domain).name.clone(),
                seed,
            })
        };
        let columns = comparison.domains.iter().zip(models);
        let columns = columns.map(|column| seeds.iter().map(|seed| find(column, *seed)).collect());
        Ok(Entry(columns.collect::<Result<_, _>>()?))
    }

    /// One weighted mean per column.
    fn means(&self, weights: &Weights) -> Vec<f64> {
        let column = |(column, of_prompt): (&Vec<&[f64]>, &Vec<f64>)| {
            let of_seed = |(rewards, weight): (&&[f64], &f64)| {
                // Most weights of a single seed are 0.
                if *weight == 0.0 { 0.0 } else { weight * rewards.iter().zip(of_prompt).map(|(r, w)| r * w).sum::<f64>() }
            };
            let sum: f64 = column.iter().zip(&weights.of_seed).map(of_seed).sum();
            sum / (weights.of_seed.iter().sum::<f64>() * of_prompt.iter().sum::<f64>())
        };
        self.0.iter().zip(&weights.of_prompt).map(column).collect()
    }
}

/// The number of prompts in each column, which is the same for every row and seed.
fn prompts<'a>(
    experiment: &Experiment,
    comparison: &Comparison,
    entries: impl Iterator<Item = &'a Entry<'a>>,
) -> Result<Vec<usize>, StatisticsError> {
    let mut sizes: Vec<Option<usize>> = vec![None; comparison.domains.len()];
    for Entry(columns) in entries {
        for (index, column) in columns.iter().enumerate() {
            for rewards in column {
                let wanted = *sizes[index].get_or_insert(rewards.len());
                if wanted != rewards.len() {
                    let domain = experiment.domain(comparison.domains[index]).name.clone();
                    return Err(StatisticsError::DifferentPrompts { domain, wanted, found: rewards.len() });
                }
            }
        }
    }
    Ok(sizes.into_iter().map(Option::unwrap_or_default).collect())
}

/// How often each seed, and each prompt of each column, counts.
struct Weights {
    of_seed: Vec<f64>,
    of_prompt: Vec<Vec<f64>>,
}

impl Weights {
    fn even(seeds: usize, sizes: &[usize]) -> Weights {
        Weights { of_seed: vec![1.0; seeds], of_prompt: sizes.iter().map(|size| vec![1.0; *size]).collect() }
    }

    fn one_seed(index: usize, seeds: usize, sizes: &[usize]) -> Weights {
        let of_seed = (0..seeds).map(|seed| f64::from(u8::from(seed == index))).collect();
        Weights { of_seed, ..Weights::even(seeds, sizes) }
    }

    /// As many as there are, with replacement: seeds first, then the prompts of one column after the other.
    fn drawn(seeds: usize, sizes: &[usize], uniforms: &mut Uniforms) -> Weights {
        let mut draw = |count: usize| {
            let mut weights = vec![0.0; count];
            for _ in 0..count {
                weights[uniforms.below(count)] += 1.0;
            }
            weights
        };
        let of_seed = draw(seeds);
        Weights { of_seed, of_prompt: sizes.iter().map(|size| draw(*size)).collect() }
    }
}

/// What 0 and 1 mean in each column.
struct Scale {
    zero: Vec<f64>,
    /// `one - zero`
    gain: Vec<f64>,
}

impl Scale {
    fn new(zero: &[f64], one: &[f64]) -> Scale {
        Scale { zero: zero.to_vec(), gain: one.iter().zip(zero).map(|(one, zero)| one - zero).collect() }
    }

    /// The first column where the scale has no length.
    fn flat(&self) -> Option<usize> {
        self.gain.iter().position(|gain| *gain < SMALLEST_GAIN)
    }

    /// `(s_d - zero_d) / (one_d - zero_d)` of each column (arXiv:2606.30406, headline metric).
    fn normalized(&self, means: &[f64]) -> Vec<f64> {
        means.iter().zip(&self.zero).zip(&self.gain).map(|((mean, zero), gain)| (mean - zero) / gain).collect()
    }
}

/// The bounds of the middle 95%, between neighbours by linear interpolation; none of no values.
fn middle(values: &mut [f64]) -> Option<(f64, f64)> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    let at = |fraction: f64| {
        let place = fraction * last as f64;
        let (floor, rest) = (place.floor() as usize, place.fract());
        values[floor] + rest * (values[(floor + 1).min(last)] - values[floor])
    };
    Some((at(TAILS.0), at(TAILS.1)))
}

fn population_deviation(values: &[f64]) -> f64 {
    let center = mean(values);
    mean(&values.iter().map(|value| (value - center).powi(2)).collect::<Vec<_>>()).sqrt()
}

#[cfg(test)]
pub(super) mod tests;
