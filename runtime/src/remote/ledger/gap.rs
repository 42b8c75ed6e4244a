//! The gap between the log-probabilities with which a sampler says that it drew its tokens, and the trainer's
//! of the same tokens. With the same weights they differ by rounding. And whatever weights drew the tokens,
//! the mean of exp(trainer - sampler) over its own draws is 1, because the trainer's probabilities add up to
//! 1: this also tests tokens that were drawn with earlier weights.

use std::collections::{HashMap, HashSet};

use mopd_plan::{Dtype, Engine};

use crate::tokenizer::Token;

/// The largest mean gap in float32 from `mopd serve`: sums in different orders.
const EXACT: f64 = 1e-3;
/// The same in bfloat16, or with another engine's arithmetic.
pub const ROUNDED: f64 = 5e-2;
/// How far the mean ratio of one step may be from 1, in standard errors. Beyond it are 2 of 10^9 honest steps
/// whose gaps are as large as the tolerance, and far fewer with gaps as they are.
const ERRORS: f64 = 6.0;

/// The probability that two requests of a prompt have the same seed, at most.
const SAME_SEED: f64 = 1.0 / (1u64 << 29) as f64;
/// The share that is bet on the next completion being a copy.
const COPY_SHARE: f64 = 0.01;
/// ln of the factor of a step at which copies are refused: 1 of 10^13 honest steps.
const COPY_LIMIT: f64 = 30.0;

/// The largest mean gap that rounding explains.
pub fn tolerance(engine: Engine, dtype: Dtype) -> f64 {
    if engine == Engine::Mopd && dtype == Dtype::Float32 { EXACT } else { ROUNDED }
}

/// Mean absolute difference; infinity where lengths differ or a number is not finite.
pub fn mean_difference(one: &[f32], other: &[f32]) -> f64 {
    let pairs = one.iter().zip(other).map(|(one, other)| f64::from((one - other).abs()));
    let mean = pairs.sum::<f64>() / one.len().max(1) as f64;
    if one.len() == other.len() && mean.is_finite() { mean } else { f64::INFINITY }
}

/// The gap over some tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerGap {
    /// Mean and maximum of |trainer - sampler|, in nats.
    pub mean: f64,
    pub max: f64,
    /// Mean of exp(trainer - sampler).
    pub ratio: f64,
}

impl SamplerGap {
    /// Over pairs of the trainer's and the sampler's log-probabilities; `None` where there are none.
    pub fn of(pairs: impl Iterator<Item = (f32, f32)>) -> Option<SamplerGap> {
        let (mut tokens, mut sum, mut max, mut ratios) = (0u64, 0.0, 0.0f64, 0.0);
        for (trainer, sampler) in pairs {
            let gap = f64::from(trainer) - f64::from(sampler);
            (tokens, sum, max, ratios) =
                (tokens + 1, sum + gap.abs(), max.max(gap.abs()), ratios + gap.exp());
        }
        let of = tokens as f64;
        (tokens > 0).then(|| SamplerGap { mean: sum / of, max, ratio: ratios / of })
    }
}

/// A completion with both sides' log-probabilities of its tokens.
#[derive(Clone, Debug)]
pub struct ComparedCompletion {
    /// Its index among the step's.
    pub index: usize,
    /// The completions of a prompt are one group.
    pub group: u32,
    pub tokens: Vec<Token>,
    pub trainer: Vec<f32>,
    pub sampler: Vec<f32>,
    /// Whether the trainer's numbers are of the weights that drew it.
    pub same_weights: bool,
}

impl ComparedCompletion {
    pub fn pairs(&self) -> impl Iterator<Item = (f32, f32)> {
        assert!(
            self.tokens.len() == self.trainer.len() && self.tokens.len() == self.sampler.len(),
            "a number of each side for every token"
        );
        self.trainer.iter().copied().zip(self.sampler.iter().copied())
    }

    /// `token 7 of completion 3 (id 123): -1.0000 by the server, -5.3412 by the student's weights`
    fn worst(&self) -> String {
        let far = |(trainer, sampler): (f32, f32)| (trainer - sampler).abs();
        let place = self.pairs().enumerate().max_by(|(_, one), (_, other)| far(*one).total_cmp(&far(*other)));
        let Some((place, (trainer, sampler))) = place else { return String::new() };
        format!(
            "the largest difference is at token {place} of completion {} (id {}): {sampler:.4} by the server, \
            {trainer:.4} by the student's weights",
            self.index, self.tokens[place]
        )
    }
}

/// Whether a gap is larger than a limit, or no number.
pub(super) fn exceeds(gap: f64, limit: f64) -> bool {
    gap.is_nan() || gap > limit
}

/// Checks a step's completions. The error says what differs, to be written after the server's name.
pub fn check(completions: &[ComparedCompletion], tolerance: f64) -> Result<(), String> {
    let same = || completions.iter().filter(|of| of.same_weights);
    let furthest = |of: &mut dyn Iterator<Item = &ComparedCompletion>| {
        let mean = |of: &ComparedCompletion| SamplerGap::of(of.pairs()).map_or(0.0, |gap| gap.mean);
        let worst = of.max_by(|one, other| mean(one).total_cmp(&mean(other)));
        worst.map(ComparedCompletion::worst).unwrap_or_default()
    };
    if let Some(gap) = SamplerGap::of(same().flat_map(ComparedCompletion::pairs))
        && exceeds(gap.mean, tolerance)
    {
        return Err(format!(
            "returned log-probabilities that are not those of the student's weights: they differ by {:.4} on \
            average over the step's tokens, more than {tolerance}; {}",
            gap.mean,
            furthest(&mut same())
        ));
    }
    // One completion among many hardly changes the mean.
    let off = same().find(|of| {
        let sum: f64 = of.pairs().map(|(trainer, sampler)| f64::from((trainer - sampler).abs())).sum();
        exceeds(sum, tolerance * (10.0 + 4.0 * of.tokens.len() as f64))
    });
    if let Some(off) = off {
        return Err(format!(
            "returned a completion whose log-probabilities are not those of the student's weights: {}",
            off.worst()
        ));
    }
    check_copies(completions)?;
    let ratios = || {
        let pairs = completions.iter().flat_map(ComparedCompletion::pairs);
        pairs.map(|(trainer, sampler)| (f64::from(trainer) - f64::from(sampler)).exp())
    };
    let tokens = ratios().count() as f64;
    if tokens == 0.0 {
        return Ok(());
    }
    let mean = ratios().sum::<f64>() / tokens;
    let deviation = (ratios().map(|ratio| (ratio - mean).powi(2)).sum::<f64>() / tokens).sqrt();
    let limit = tolerance / 5.0 + ERRORS * deviation.max(tolerance) / tokens.sqrt();
    if (mean - 1.0).abs() <= limit {
        return Ok(());
    }
    Err(format!(
        "returned log-probabilities with which it did not draw its tokens: the mean of exp(trainer - sampler) \
        is {mean:.4} over {tokens} tokens, and must be 1 within {limit:.4}; {}",
        furthest(&mut completions.iter())
    ))
}

/// Tests that completions of a prompt were drawn independently, by the sampler's own numbers. A draw is equal
/// to one of the earlier ones with the sum of their probabilities at most; seeds of 29 bits may be equal,
/// too. So a factor of 1 - share + share / sum for an equal draw, and of 1 - share for another, has a mean of
/// at most 1.
fn check_copies(completions: &[ComparedCompletion]) -> Result<(), String> {
    let mut earlier: HashMap<u32, (f64, HashSet<&[Token]>)> = HashMap::new();
    let (mut log_wealth, mut copies) = (0.0, Vec::new());
    for of in completions {
        let probability = of.sampler.iter().copied().map(f64::from).sum::<f64>().exp();
        let (sum, known) = earlier.entry(of.group).or_default();
        if known.insert(&of.tokens) {
            *sum += probability.min(1.0) + SAME_SEED;
            log_wealth += (1.0 - COPY_SHARE).ln();
        } else {
            log_wealth += (1.0 - COPY_SHARE + COPY_SHARE / sum.min(1.0)).ln();
            copies.push(of);
        }
    }
    match copies.first() {
        Some(first) if log_wealth > COPY_LIMIT => Err(format!(
            "returned completions that were not drawn independently: {} of the step repeat another of their \
            prompt, first completion {} with {} tokens",
            copies.len(),
            first.index,
            first.tokens.len()
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};

    fn completion(index: usize, numbers: &[(f32, f32)], same_weights: bool) -> ComparedCompletion {
        ComparedCompletion {
            index,
            group: index as u32,
            tokens: (0..numbers.len()).map(|place| place as Token).collect(),
            trainer: numbers.iter().map(|(trainer, _)| *trainer).collect(),
            sampler: numbers.iter().map(|(_, sampler)| *sampler).collect(),
            same_weights,
        }
    }

    #[test]
    fn the_gap_is_measured() {
        let gap = SamplerGap::of([(-1.0, -1.5), (-2.0, -1.75)].into_iter()).unwrap();
        let ratio = (0.5f64.exp() + (-0.25f64).exp()) / 2.0;
        assert_eq!((gap.mean, gap.max), (0.375, 0.5));
        assert!((gap.ratio - ratio).abs() < 1e-12);
        assert_eq!(SamplerGap::of(std::iter::empty()), None);
    }

    #[test]
    fn the_worst_token_is_named() {
        let one = completion(3, &[(-1.0, -1.0), (-5.25, -1.0)], true);
        let said = check(&[one], ROUNDED).unwrap_err();
        assert!(said.contains("token 1 of completion 3 (id 1): -1.0000 by the server, -5.2500"), "{said}");
        assert!(check(&[completion(0, &[(f32::NAN, -1.0)], true)], ROUNDED).is_err());
    }

    /// One wrong completion of a thousand.
    #[test]
    fn a_single_completion_is_found() {
        let mut all: Vec<_> = (0..1000).map(|index| completion(index, &[(-1.0, -1.001); 20], true)).collect();
        assert_eq!(check(&all, ROUNDED), Ok(()));
        all[417] = completion(417, &[(-1.0, -1.5); 20], true);
        let said = check(&all, ROUNDED).unwrap_err();
        assert!(said.contains("of completion 417"), "{said}");
    }

    /// Draws by earlier weights: both sides are normalised over the same entries, so the mean ratio is 1.
    #[test]
    fn ratios_of_honest_draws_are_one_whatever_drew_them() {
        let mut random = Key::new(67, 2, Purpose::Sample, 0).row(0, 0);
        for step in 0..2000 {
            let mut logits = || -> Vec<f64> { (0..8).map(|_| 2.0 * random.uniform()).collect() };
            let normalised = |logits: &[f64]| -> Vec<f32> {
                let total = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
                logits.iter().map(|logit| (logit - total) as f32).collect()
            };
            let sampler = logits();
            let trainer: Vec<f64> =
                logits().iter().zip(&sampler).map(|(new, old)| 0.9 * old + 0.1 * new).collect();
            let (sampler, trainer) = (normalised(&sampler), normalised(&trainer));
            let mut drawn = || {
                let mut left = random.uniform();
                let of = |logp: &f32| {
                    left -= f64::from(logp.exp());
                    left < 0.0
                };
                sampler.iter().position(of).unwrap_or(7)
            };
            let pairs: Vec<_> = (0..64).map(|_| drawn()).map(|id| (trainer[id], sampler[id])).collect();
            assert_eq!(check(&[completion(0, &pairs, false)], ROUNDED), Ok(()), "step {step}");
            let lies: Vec<_> = pairs.iter().map(|(trainer, sampler)| (*trainer, sampler - 0.5)).collect();
            assert!(check(&[completion(0, &lies, false)], ROUNDED).is_err(), "step {step}");
        }
    }

    /// A million steps whose gaps are those of bfloat16 (measured: 0.022 nats on average, at most 0.12).
    #[test]
    fn a_million_honest_steps_pass() {
        let mut random = Key::new(67, 3, Purpose::Sample, 0).row(0, 0);
        let gaps: Vec<f32> =
            (0..4096).map(|_| (0.028 * random.normals()[0]).clamp(-0.12, 0.12) as f32).collect();
        for step in 0..1_000_000 {
            let first = random.below(4096 - 8);
            let pairs: Vec<_> = gaps[first..first + 8].iter().map(|gap| (-2.0 + gap, -2.0f32)).collect();
            assert_eq!(check(&[completion(0, &pairs, true)], ROUNDED), Ok(()), "step {step}");
        }
    }
}
