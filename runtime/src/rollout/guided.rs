//! Sampling with a second model, the guide, that reads the same tokens and helps to choose each next one.

use super::host_sampler::DrawRow;
use super::sampler::{SampledToken, Scratch, TokenDistribution, pick, summed, weigh};
use super::speculative::{Verification, verified};
use crate::random::Uniforms;
use crate::tokenizer::Token;

/// How the second model takes part in the choice of a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GuidanceStep {
    /// Draws from a mixture of both distributions, in which `share` is the weight of the second model's
    /// (MiniLLM, arXiv:2306.08543, section 2.2).
    Mix { share: f64 },
    /// The first model proposes a token. Where it is not among the `top_k` most probable tokens of the
    /// second model, the second model draws one instead (arXiv:2410.11325, algorithm 1).
    Replace { top_k: u32 },
    /// Speculative decoding: the first model drafts, the second verifies.
    Verify(Verification),
}

/// Buffers that are reused from draw to draw.
#[derive(Clone, Debug, Default)]
pub(super) struct GuidedScratch {
    pub(super) own: Scratch,
    guide: Scratch,
    combined: CombinedWeights,
    order: Vec<u32>,
}

/// The weights that two models' distributions make together, and their cumulative sums.
#[derive(Clone, Debug, Default)]
pub(super) struct CombinedWeights {
    weights: Vec<f32>,
    ends: Vec<f64>,
}

impl CombinedWeights {
    /// Replaces the weights. Returns their sum.
    pub(super) fn set(&mut self, weights: impl Iterator<Item = f32>) -> f64 {
        self.weights.clear();
        self.weights.extend(weights);
        summed(&self.weights, &mut self.ends)
    }

    pub(super) fn pick(&self, uniform: f64) -> Option<usize> {
        pick(&self.weights, &self.ends, uniform)
    }
}

/// Draws the row's token from the row of each model's logits, with its log-probability under the combined
/// distribution that it was drawn from. The settings of sampling shape each model's distribution before they
/// are combined. `None` where logits are not finite.
pub(super) fn draw(
    logits: [&[f32]; 2],
    guidance: GuidanceStep,
    row: &mut DrawRow,
    scratch: &mut GuidedScratch,
) -> Option<SampledToken> {
    let DrawRow { sampling, uniforms, seen, verdicts, .. } = row;
    let GuidedScratch { own, guide, combined, order } = scratch;
    let [own, guide] = [weigh(logits[0], sampling, *seen, own)?, weigh(logits[1], sampling, *seen, guide)?];
    match guidance {
        GuidanceStep::Mix { share } => mixed(&own, &guide, share, uniforms.uniform(), combined),
        GuidanceStep::Replace { top_k } => replaced(&own, &guide, top_k, uniforms, order),
        GuidanceStep::Verify(verification) => {
            verified(&own, &guide, verification, verdicts, uniforms, combined)
        }
    }
}

/// Draws from the mixture. The weights of the model with the larger share are not rescaled: where the other
/// model's share is 0, this equals drawing from the one model, to the bit.
fn mixed(
    own: &TokenDistribution,
    guide: &TokenDistribution,
    share: f64,
    uniform: f64,
    mixture: &mut CombinedWeights,
) -> Option<SampledToken> {
    let (more, less, share) = if share <= 0.5 { (own, guide, share) } else { (guide, own, 1.0 - share) };
    let scale = (share / (1.0 - share) * more.total / less.total) as f32;
    mixture.set(more.weights.iter().zip(less.weights).map(|(more, less)| more + scale * less));
    let entry = mixture.pick(uniform)?;
    let logp = log_sum((1.0 - share).ln() + more.logp(entry), share.ln() + less.logp(entry));
    Some(SampledToken::new(entry as Token, logp))
}

/// Draws as [`GuidanceStep::Replace`]. With m the mass that the first model gives to tokens outside the
/// `top_k`, a token's probability is m times the second model's, plus the first model's where the token is
/// among the `top_k`.
fn replaced(
    own: &TokenDistribution,
    guide: &TokenDistribution,
    top_k: u32,
    uniforms: &mut Uniforms,
    order: &mut Vec<u32>,
) -> Option<SampledToken> {
    let proposed = own.pick(uniforms.uniform())?;
    order.clear();
    order.extend(0..guide.logits.len() as u32);
    let k = (top_k as usize).clamp(1, order.len());
    // Ties go to the lower entry.
    let likelier = |a: &u32, b: &u32| {
        let [one, other] = [a, b].map(|entry| guide.logits[*entry as usize]);
        other.total_cmp(&one).then(a.cmp(b))
    };
    order.select_nth_unstable_by(k - 1, likelier);
    let (top, rest) = order.split_at(k);
    let replaced = rest.iter().map(|entry| f64::from(own.weights[*entry as usize])).sum::<f64>() / own.total;
    let is_top = |entry: usize| top.iter().any(|top| *top as usize == entry);
    let token = if is_top(proposed) { proposed } else { guide.pick(uniforms.uniform())? };
    let kept = if is_top(token) { own.logp(token) } else { f64::NEG_INFINITY };
    Some(SampledToken::new(token as Token, log_sum(kept, replaced.ln() + guide.logp(token))))
}

/// ln(exp(a) + exp(b)); exactly one of them where the other is negative infinity.
fn log_sum(a: f64, b: f64) -> f64 {
    let (more, less) = if a >= b { (a, b) } else { (b, a) };
    if less == f64::NEG_INFINITY { more } else { more + (less - more).exp().ln_1p() }
}

#[cfg(test)]
mod tests {
    use mopd_plan::Sampling;

    use super::*;
    use crate::random::{Key, Purpose};

    const OWN: [f32; 5] = [1.0, -0.5, 2.0, -40.0, 0.3];
    const GUIDE: [f32; 5] = [-1.0, 1.5, 0.5, 0.5, -2.0];

    fn uniforms() -> Uniforms {
        Key::new(1, 0, Purpose::Sample, 0).row(0, 0)
    }

    fn row<'a>(sampling: &'a Sampling, uniforms: &'a mut Uniforms) -> DrawRow<'a> {
        DrawRow { sampling, uniforms, place: 0, seen: [&[], &[]], verdicts: &[] }
    }

    fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
        let weights: Vec<f64> = logits.iter().map(|logit| (f64::from(*logit) / temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        weights.into_iter().map(|weight| weight / total).collect()
    }

    /// Checks that tokens are drawn as often as `expected`, and come with its log-probabilities.
    fn follows(guidance: GuidanceStep, sampling: &Sampling, expected: &[f64]) {
        let (mut uniforms, mut scratch, n) = (uniforms(), GuidedScratch::default(), 40_000);
        let mut counts = [0.0; 5];
        for _ in 0..n {
            let mut row = row(sampling, &mut uniforms);
            let drawn = draw([&OWN, &GUIDE], guidance, &mut row, &mut scratch).unwrap();
            let wanted = expected[drawn.token as usize].ln();
            assert!((drawn.logp - wanted).abs() < 1e-6, "{guidance:?}: {drawn:?}, {wanted}");
            counts[drawn.token as usize] += 1.0 / f64::from(n);
        }
        for (count, expected) in counts.iter().zip(expected) {
            assert!((count - expected).abs() < 0.01, "{guidance:?}: {counts:?}");
        }
    }

    #[test]
    fn tokens_and_their_log_probabilities_follow_the_mixture() {
        for temperature in [0.7, 1.0] {
            let (own, guide) = (softmax(&OWN, temperature), softmax(&GUIDE, temperature));
            for share in [0.0, 0.2, 0.5, 0.8, 1.0] {
                let mix = own.iter().zip(&guide).map(|(own, guide)| (1.0 - share) * own + share * guide);
                follows(
                    GuidanceStep::Mix { share },
                    &Sampling::new(1, temperature, 1),
                    &mix.collect::<Vec<_>>(),
                );
            }
        }
        // Each distribution is truncated to its own two best entries before they are mixed.
        let two = Sampling { top_k: Some(2), ..Sampling::new(1, 1.0, 1) };
        let (a, b) = (2f64.exp() / (1f64.exp() + 2f64.exp()), 1.5f64.exp() / (0.5f64.exp() + 1.5f64.exp()));
        follows(
            GuidanceStep::Mix { share: 0.25 },
            &two,
            &[0.75 * (1.0 - a), 0.25 * b, 0.75 * a + 0.25 * (1.0 - b), 0.0, 0.0],
        );
    }

    #[test]
    fn tokens_outside_the_top_are_replaced() {
        let (own, guide) = (softmax(&OWN, 1.0), softmax(&GUIDE, 1.0));
        // The guide's order: 1, then 2 before 3, which is equally probable.
        for (top_k, top) in [(1, vec![1]), (2, vec![1, 2]), (3, vec![1, 2, 3]), (5, vec![0, 1, 2, 3, 4])] {
            let kept: f64 = top.iter().map(|entry| own[*entry]).sum();
            let of = |entry: usize| {
                let proposed = if top.contains(&entry) { own[entry] } else { 0.0 };
                proposed + (1.0 - kept) * guide[entry]
            };
            let expected: Vec<f64> = (0..5).map(of).collect();
            follows(GuidanceStep::Replace { top_k }, &Sampling::new(1, 1.0, 1), &expected);
        }
    }

    /// Without the guide's influence, tokens and log-probabilities are those of the first model, to the bit.
    #[test]
    fn guidance_of_share_zero_equals_unguided() {
        let sampling = Sampling { top_p: Some(0.95), ..Sampling::new(1, 0.8, 1) };
        let by = |guidance: Option<GuidanceStep>, logits: [&[f32]; 2]| -> Vec<SampledToken> {
            let (mut uniforms, mut scratch) = (uniforms(), GuidedScratch::default());
            let mut one = || match guidance {
                Some(guidance) => {
                    draw(logits, guidance, &mut row(&sampling, &mut uniforms), &mut scratch).unwrap()
                }
                None => {
                    let scratch = &mut scratch.own;
                    super::super::sampler::draw(logits[0], &sampling, [&[], &[]], &mut uniforms, scratch)
                        .unwrap()
                }
            };
            (0..500).map(|_| one()).collect()
        };
        let alone = by(None, [&OWN, &GUIDE]);
        assert_eq!(by(Some(GuidanceStep::Mix { share: 0.0 }), [&OWN, &GUIDE]), alone);
        assert_eq!(by(Some(GuidanceStep::Mix { share: 1.0 }), [&GUIDE, &OWN]), alone);
        assert_eq!(by(Some(GuidanceStep::Replace { top_k: 5 }), [&OWN, &GUIDE]), alone);
        assert_eq!(by(Some(GuidanceStep::Replace { top_k: 500 }), [&OWN, &GUIDE]), alone);
        assert_ne!(by(Some(GuidanceStep::Mix { share: 0.1 }), [&OWN, &GUIDE]), alone);
    }

    #[test]
    fn logits_that_are_not_finite_are_refused() {
        let (bad, sampling) = ([f32::NAN; 5], Sampling::new(1, 1.0, 1));
        for logits in [[&bad, &GUIDE], [&OWN, &bad]] {
            let logits = logits.map(<[f32; 5]>::as_slice);
            let (mut uniforms, mut scratch) = (uniforms(), GuidedScratch::default());
            let guidance = GuidanceStep::Mix { share: 0.2 };
            assert_eq!(draw(logits, guidance, &mut row(&sampling, &mut uniforms), &mut scratch), None);
        }
    }
}
