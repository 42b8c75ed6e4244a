//! Normalized scores, on a scale between a row that scores 0 and a row that scores 1.

use std::ops::Range;

use mopd_plan::results::Interval;

use super::interval::{Estimate, SeedPromptMatrix};
use super::{ModelRewards, TableEntry, combined, mean};

/// Smallest difference of the rows that score 1 and 0. Real differences are far larger: the smallest that
/// `n` prompts can show is `1 / n`.
const SMALLEST_GAIN: f64 = 1e-6;

/// The scale of normalized scores, over all seeds and for each seed.
pub(super) struct NormalizedScale<'a> {
    zero: &'a TableEntry<'a>,
    one: &'a TableEntry<'a>,
    whole: Scale,
    /// One scale per seed; empty if the scale of some seed is degenerate.
    of_seeds: Vec<Scale>,
}

impl<'a> NormalizedScale<'a> {
    /// The scale of columns with these names. `None`, with a warning, if the row that scores 1 does not
    /// exceed the row that scores 0. Also warns of a difference that may be chance.
    pub fn new(
        zero: &'a TableEntry<'a>,
        one: &'a TableEntry<'a>,
        names: &[&str],
        bounded: &[bool],
        seeds: &[u64],
        warn: &mut dyn FnMut(String),
    ) -> Option<NormalizedScale<'a>> {
        let scale = |seeds: Range<usize>| Scale::new(&zero.means(seeds.clone()), &one.means(seeds), bounded);
        let flat = |scale: &Scale, column: usize, when: &str| {
            format!(
                "no normalized score{when}: on `{}` the row that scores 1 has {:.3}, which does not exceed \
                 the {:.3} of the row that scores 0",
                names[column],
                scale.zero[column] + scale.gain[column],
                scale.zero[column],
            )
        };
        let whole = scale(0..seeds.len());
        if let Some(column) = whole.flat() {
            warn(flat(&whole, column, ""));
            return None;
        }
        let mut of_seeds = Vec::with_capacity(seeds.len());
        for (index, seed) in seeds.iter().enumerate() {
            let scale = scale(index..index + 1);
            if let Some(column) = scale.flat() {
                warn(flat(&scale, column, &format!(" per seed, because of seed {seed}")));
                of_seeds.clear();
                break;
            }
            of_seeds.push(scale);
        }
        for (column, name) in names.iter().enumerate() {
            let parts = [(1.0, &one.0[column]), (-1.0, &zero.0[column])];
            let lead = Estimate { columns: vec![combined(&parts, bounded[column])] };
            if lead.interval().0 <= 0.0 {
                warn(format!(
                    "the intervals of normalized scores are unreliable: on `{name}` the row that scores 1 \
                    exceeds the row that scores 0 by {:.3}, which may be random variation",
                    whole.gain[column],
                ));
            }
        }
        Some(NormalizedScale { zero, one, whole, of_seeds })
    }

    /// A row's normalized score on each column.
    pub fn scores(&self, means: &[f64]) -> Vec<f64> {
        self.whole.normalized(means)
    }

    /// The mean of the row's normalized scores over columns, with its interval.
    pub fn mean_of(&self, row: &TableEntry, means: &[f64]) -> Interval {
        let mean = mean(&self.scores(means));
        let columns = self.whole.linear(means, &row.0, &self.zero.0, &self.one.0);
        let (low, high) = Estimate { columns }.interval_around(mean);
        Interval { mean, low, high }
    }

    /// The mean normalized score for each seed alone.
    pub fn by_seed(&self, row: &TableEntry) -> Vec<f64> {
        let seeds = self.of_seeds.iter().enumerate();
        seeds.map(|(seed, scale)| mean(&scale.normalized(&row.means(seed..seed + 1)))).collect()
    }
}

/// The rewards that score 0 and 1 in each column.
pub(super) struct Scale {
    zero: Vec<f64>,
    /// `one - zero`
    gain: Vec<f64>,
    /// Whether rewards are from 0 to 1.
    bounded: Vec<bool>,
}

impl Scale {
    pub fn new(zero: &[f64], one: &[f64], bounded: &[bool]) -> Scale {
        let gain = one.iter().zip(zero).map(|(one, zero)| one - zero).collect();
        Scale { zero: zero.to_vec(), gain, bounded: bounded.to_vec() }
    }

    /// The first column where the scale is degenerate.
    pub fn flat(&self) -> Option<usize> {
        self.gain.iter().position(|gain| *gain < SMALLEST_GAIN)
    }

    /// `(s_d - zero_d) / (one_d - zero_d)` of each column (arXiv:2606.30406, headline metric).
    pub fn normalized(&self, means: &[f64]) -> Vec<f64> {
        means
            .iter()
            .zip(&self.zero)
            .zip(&self.gain)
            .map(|((mean, zero), gain)| (mean - zero) / gain)
            .collect()
    }

    /// The first-order effect of each answer on the normalized score, per column: `(s - (1 - n) zero - n one)
    /// / gain`, where n is the column's normalized score, divided by the number of columns.
    pub fn linear(
        &self,
        means: &[f64],
        row: &[ModelRewards],
        zero: &[ModelRewards],
        one: &[ModelRewards],
    ) -> Vec<SeedPromptMatrix> {
        let normalized = self.normalized(means);
        let columns = normalized.len() as f64;
        let column = |index: usize| {
            let (share, n) = (1.0 / (self.gain[index] * columns), normalized[index]);
            let parts = [(share, &row[index]), (-(1.0 - n) * share, &zero[index]), (-n * share, &one[index])];
            combined(&parts, self.bounded[index])
        };
        (0..normalized.len()).map(column).collect()
    }
}
