//! A look at single tokens: a few completions as the objective saw them, and how weights and signals were
//! spread over positions and entropies. Both are bounded in size, however long the training.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::parquet;
use crate::files::WriteError;
use crate::table::table;

/// What a stage's training left to look at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenLog {
    pub samples: Vec<TrainedSequence>,
    /// One per domain, quantity and axis, over all steps.
    pub histograms: Vec<Histogram>,
}

/// A sequence that was trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainedSequence {
    pub seed: u64,
    pub stage: String,
    /// From 0.
    pub step: u32,
    pub domain: String,
    pub teacher: Option<String>,
    /// From 0: several samples may be of one step and domain.
    pub sample: u32,
    /// What the model read before the completion, special tokens by their names; of a long one, its end.
    pub prompt: String,
    /// Tokens before that end; none of what an earlier version kept.
    #[serde(default)]
    pub prompt_left_out: Option<u32>,
    pub reward: Option<f64>,
    /// Tokens trained on, of which [`TrainedSequence::tokens`] are the first.
    pub length: u32,
    pub tokens: Vec<TokenSeen>,
}

/// A token that was trained on, as the objective saw it. Log-probabilities, entropies and advantages are in
/// nats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenSeen {
    /// What it adds to the text, the name of a special token; empty where it is a part of a character, or the
    /// end where that has no name.
    pub text: String,
    pub logp: Option<f32>,
    pub teacher_logp: Option<f32>,
    pub entropy: Option<f32>,
    /// What the objective's `weight` says; absent where nothing is weighted.
    pub weight: Option<f32>,
    /// The size of the per-token signal, before `reduce`.
    pub signal: f32,
    /// The signal with its sign, where a log-probability alone is live: what is above 0 makes the token more
    /// probable.
    pub advantage: Option<f32>,
    /// Whether `select` takes it; absent where nothing is selected.
    pub selected: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenQuantity {
    /// The size of what `weight` says.
    Weight,
    /// The size of the per-token signal, before `reduce`.
    Signal,
}

/// What a token's quantity is looked at over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuantityAxis {
    /// In the completion, from 0.
    Position,
    /// Of the student, in nats.
    Entropy,
}

impl TokenQuantity {
    pub fn name(self) -> &'static str {
        match self {
            TokenQuantity::Weight => "weight",
            TokenQuantity::Signal => "signal",
        }
    }
}

impl QuantityAxis {
    pub fn name(self) -> &'static str {
        match self {
            QuantityAxis::Position => "position",
            QuantityAxis::Entropy => "entropy",
        }
    }

    /// Where bins begin; the last one has no end.
    pub fn edges(self) -> &'static [f64] {
        match self {
            QuantityAxis::Position => &POSITIONS,
            QuantityAxis::Entropy => &ENTROPIES,
        }
    }
}

const POSITIONS: [f64; 31] = [
    0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 192.0, 256.0, 384.0,
    512.0, 768.0, 1024.0, 1536.0, 2048.0, 3072.0, 4096.0, 6144.0, 8192.0, 12288.0, 16384.0, 24576.0, 32768.0,
];
const ENTROPIES: [f64; 16] =
    [0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0];
/// Of weights and signals: doublings, and everything from 0 to the first.
const SIZES: [f64; 16] = [
    0.0,
    1.0 / 256.0,
    1.0 / 128.0,
    1.0 / 64.0,
    1.0 / 32.0,
    1.0 / 16.0,
    1.0 / 8.0,
    1.0 / 4.0,
    1.0 / 2.0,
    1.0,
    2.0,
    4.0,
    8.0,
    16.0,
    32.0,
    64.0,
];

/// How many tokens had which size of a quantity where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    pub seed: u64,
    pub stage: String,
    pub domain: String,
    pub quantity: TokenQuantity,
    pub over: QuantityAxis,
    /// `[bin of over][bin of size]`
    counts: Vec<u64>,
}

impl Histogram {
    pub fn new(
        seed: u64,
        stage: &str,
        domain: &str,
        quantity: TokenQuantity,
        over: QuantityAxis,
    ) -> Histogram {
        let counts = vec![0; over.edges().len() * SIZES.len()];
        Histogram { seed, stage: stage.to_owned(), domain: domain.to_owned(), quantity, over, counts }
    }

    /// Counts a token. Numbers that are not finite have no bin.
    pub fn add(&mut self, place: f64, size: f64) {
        if place.is_finite() && size.is_finite() {
            self.counts[bin(self.over.edges(), place) * SIZES.len() + bin(&SIZES, size.abs())] += 1;
        }
    }
}

/// The last bin that begins at or before `value`, which is not negative beyond rounding.
fn bin(edges: &[f64], value: f64) -> usize {
    edges.partition_point(|edge| *edge <= value).saturating_sub(1)
}

/// A row of `samples.parquet`.
struct TokenRow {
    seed: u64,
    stage: String,
    step: u32,
    domain: String,
    teacher: Option<String>,
    sample: u32,
    prompt: String,
    prompt_left_out: Option<u32>,
    reward: Option<f64>,
    length: u32,
    position: u32,
    text: String,
    logp: Option<f32>,
    teacher_logp: Option<f32>,
    divergence: Option<f32>,
    entropy: Option<f32>,
    weight: Option<f32>,
    signal: f32,
    advantage: Option<f32>,
    selected: Option<bool>,
}

/// Writes one row per token, with what is known of its sequence.
pub fn write_samples(samples: &[TrainedSequence], path: &Path) -> Result<(), WriteError> {
    let mut rows = Vec::new();
    for sample in samples {
        for (position, token) in sample.tokens.iter().enumerate() {
            rows.push(TokenRow {
                seed: sample.seed,
                stage: sample.stage.clone(),
                step: sample.step,
                domain: sample.domain.clone(),
                teacher: sample.teacher.clone(),
                sample: sample.sample,
                prompt: sample.prompt.clone(),
                prompt_left_out: sample.prompt_left_out,
                reward: sample.reward,
                length: sample.length,
                position: position as u32,
                text: token.text.clone(),
                logp: token.logp,
                teacher_logp: token.teacher_logp,
                divergence: token.logp.zip(token.teacher_logp).map(|(student, teacher)| student - teacher),
                entropy: token.entropy,
                weight: token.weight,
                signal: token.signal,
                advantage: token.advantage,
                selected: token.selected,
            });
        }
    }
    let table = table!(rows;
        seed, stage, step, domain, teacher, sample, prompt, prompt_left_out, reward, length, position,
        text, logp, teacher_logp, divergence, entropy,
        weight, signal, advantage, selected,
    );
    parquet::write(table, path)
}

/// A row of `weights.parquet`: a bin that has tokens. `high` and `size_high` are absent where the bin has no
/// end.
struct BinRow {
    seed: u64,
    stage: String,
    domain: String,
    quantity: &'static str,
    over: &'static str,
    low: f64,
    high: Option<f64>,
    size_low: f64,
    size_high: Option<f64>,
    tokens: u64,
}

pub fn write_histograms(histograms: &[Histogram], path: &Path) -> Result<(), WriteError> {
    let mut rows = Vec::new();
    for histogram in histograms {
        let places = histogram.over.edges();
        for (index, tokens) in histogram.counts.iter().enumerate().filter(|(_, tokens)| **tokens > 0) {
            let (place, size) = (index / SIZES.len(), index % SIZES.len());
            rows.push(BinRow {
                seed: histogram.seed,
                stage: histogram.stage.clone(),
                domain: histogram.domain.clone(),
                quantity: histogram.quantity.name(),
                over: histogram.over.name(),
                low: places[place],
                high: places.get(place + 1).copied(),
                size_low: SIZES[size],
                size_high: SIZES.get(size + 1).copied(),
                tokens: *tokens,
            });
        }
    }
    parquet::write(
        table!(rows; seed, stage, domain, quantity, over, low, high, size_low, size_high, tokens),
        path,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bin_holds_its_lower_edge() {
        for edges in [&POSITIONS[..], &ENTROPIES, &SIZES] {
            assert!(edges.is_sorted() && edges[0] == 0.0);
            for (index, edge) in edges.iter().enumerate() {
                assert_eq!(bin(edges, *edge), index);
                assert_eq!(bin(edges, edge * 1.000_001 + 1e-9), index);
            }
        }
        assert_eq!(bin(&ENTROPIES, 1e9), 15);
        // An entropy that rounding made negative.
        assert_eq!(bin(&ENTROPIES, -1e-8), 0);
    }

    #[test]
    fn tokens_are_counted_by_place_and_size() {
        let mut histogram =
            Histogram::new(1, "student", "sort", TokenQuantity::Signal, QuantityAxis::Position);
        for (place, size) in [(0.0, 0.3), (0.0, -0.3), (5.0, 100.0), (5.0, f64::NAN), (f64::INFINITY, 1.0)] {
            histogram.add(place, size);
        }
        let filled: Vec<_> = histogram.counts.iter().enumerate().filter(|(_, count)| **count > 0).collect();
        assert_eq!(filled, [(7, &2), (4 * 16 + 15, &1)]);
    }
}
