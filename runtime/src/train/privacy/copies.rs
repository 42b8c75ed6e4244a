//! Prompts that several rows of a private stage's data share.

use std::collections::BTreeSet;

use super::{Privacy, accountant};
use crate::data::{Dataset, prompt_hash};

/// How many parts of delta are tried; each is half of the previous one.
const HALVINGS: i32 = 200;

/// Rows that share their prompt with other rows. The budget bounds the privacy loss of a single row; several
/// rows with one prompt together lose more.
pub struct SharedRows {
    /// The number of draws whose prompt is also another draw's.
    pub rows: usize,
    /// The first of them: its source and its number there.
    pub first: (usize, usize),
    /// The draws in each source of the prompt with the largest loss.
    pub most: Vec<u32>,
    /// The privacy loss of these draws together.
    pub epsilon: f64,
}

/// Finds shared prompts in the data of all sources; `None` where there are none.
pub fn copies(privacy: &Privacy, sources: &[&Dataset]) -> Option<SharedRows> {
    let mut draws: Vec<([u8; 32], usize, usize)> = Vec::new();
    for (source, dataset) in sources.iter().enumerate() {
        draws.extend((0..dataset.draws()).map(|draw| (hash(dataset, draw), source, draw)));
    }
    draws.sort_unstable();
    let (mut rows, mut first, mut kinds) = (0, None, BTreeSet::new());
    for alike in draws.chunk_by(|one, next| one.0 == next.0).filter(|alike| alike.len() > 1) {
        let mut by_source = vec![0; sources.len()];
        alike.iter().for_each(|(_, source, _)| by_source[*source] += 1);
        let here = alike.iter().map(|(_, source, draw)| (*source, *draw)).min();
        (rows, first) = (rows + alike.len(), first.into_iter().chain(here).min());
        kinds.insert(by_source);
    }
    let of = |counts: Vec<u32>| (epsilon(privacy, &counts), counts);
    let (epsilon, most) = kinds.into_iter().map(of).max_by(|one, next| one.0.total_cmp(&next.0))?;
    Some(SharedRows { rows, first: first?, most, epsilon })
}

/// The privacy loss of this many rows of each source together, over all steps: the smaller of two bounds.
fn epsilon(privacy: &Privacy, counts: &[u32]) -> f64 {
    let rows = counts.iter().sum();
    one_by_one(privacy, rows).unwrap_or(f64::INFINITY).min(all_at_once(privacy, counts))
}

/// Group privacy: if each row has (e, d), all n rows have (n e, d (1 + exp(e) + ... + exp((n - 1) e))).
/// `None` where no tried part of delta is small enough.
fn one_by_one(privacy: &Privacy, rows: u32) -> Option<f64> {
    let delta = privacy.budget.delta;
    (0..HALVINGS).find_map(|halvings| {
        let part = delta * 0.5_f64.powi(halvings);
        let one = accountant::epsilon(privacy.rate(), privacy.noise, privacy.steps, part);
        let all = f64::from(rows) * one;
        let times = if one > 0.0 { all.exp_m1() / one.exp_m1() } else { f64::from(rows) };
        (part * times <= delta).then_some(all)
    })
}

/// Without the rows, the sum of a step differs only if one of them is drawn, by at most the clip for each.
/// The divergence is convex, so it is largest if all rows are drawn together: one row with n times the clip.
fn all_at_once(privacy: &Privacy, counts: &[u32]) -> f64 {
    let rows: u32 = counts.iter().sum();
    let none = |(count, rate): (&u32, &f64)| (1.0 - rate).powf(f64::from(*count));
    let none: f64 = counts.iter().zip(&privacy.rates).map(none).product();
    let noise = privacy.noise / f64::from(rows);
    accountant::epsilon(1.0 - none, noise, privacy.steps, privacy.budget.delta)
}

/// A hash of all prompts of a draw.
fn hash(dataset: &Dataset, draw: usize) -> [u8; 32] {
    let mut all = blake3::Hasher::new();
    for row in dataset.of_draw(draw) {
        all.update(prompt_hash(dataset, row).as_bytes());
    }
    *all.finalize().as_bytes()
}
