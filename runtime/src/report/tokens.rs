//! Reports about single tokens: a few completions as the objective saw them, and histograms of weights and
//! signals over positions and entropies. Both have a bounded size, however long the training.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::parquet;
use crate::files::WriteError;
use crate::table::table;

/// The token reports of a stage's training.
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
    /// From 0: a step and domain may have several samples.
    pub sample: u32,
    /// The text before the completion, with special tokens by their names; only its end if it is long.
    pub prompt: String,
    /// Number of tokens left out before that end; `None` in records of earlier versions.
    #[serde(default)]
    pub prompt_left_out: Option<u32>,
    /// In a chat, the prompt as the data has it: the user's words, without the template. `None` where the
    /// model read another prompt than that of the data, and in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_text: Option<String>,
    pub reward: Option<f64>,
    /// Number of tokens trained on; [`TrainedSequence::tokens`] has the first of them.
    pub length: u32,
    pub tokens: Vec<TokenSeen>,
}

/// A token that was trained on, as the objective saw it. Log-probabilities, entropies and advantages are in
/// nats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenSeen {
    /// The token's text, or the name of a special token. Empty if the token is a part of a character, or an
    /// end token without a name.
    pub text: String,
    pub logp: Option<f32>,
    pub teacher_logp: Option<f32>,
    pub entropy: Option<f32>,
    /// The objective's `weight`; absent where nothing is weighted.
    pub weight: Option<f32>,
    /// The size of the per-token signal, before `reduce`.
    pub signal: f32,
    /// The signal with its sign, if only a log-probability is live: above 0, it makes the token more
    /// probable.
    pub advantage: Option<f32>,
    /// Whether `select` takes it; absent where nothing is selected.
    pub selected: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenQuantity {
    /// The absolute value of `weight`.
    Weight,
    /// The size of the per-token signal, before `reduce`.
    Signal,
}

/// The axis of a histogram of a quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuantityAxis {
    /// Position in the completion, from 0.
    Position,
    /// Entropy of the student, in nats.
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

    /// Lower edges of the bins; the last one has no upper edge.
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
/// Lower edges of the bins of weights and signals: powers of two, and one bin below them.
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

/// Counts of tokens by the size of a quantity and by an axis.
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

/// The last bin that begins at or below `value`, which is not negative except by rounding.
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
    prompt_text: Option<String>,
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

/// Writes one row per token, with the fields of its sequence.
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
                prompt_text: sample.prompt_text.clone(),
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
        seed, stage, step, domain, teacher, sample, prompt, prompt_left_out, prompt_text, reward, length, position,
        text, logp, teacher_logp, divergence, entropy,
        weight, signal, advantage, selected,
    );
    parquet::write(table, path)
}

/// A row of `weights.parquet`: a bin with at least one token. `high` and `size_high` are absent if the bin
/// has no upper edge.
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
