//! One token from one row of logits.

use mopd_kernels::entries::largest;
use mopd_kernels::functions::exp;
use mopd_kernels::with_cpu_features;
use mopd_plan::Sampling;

use super::speculative::DraftVerdict;
use crate::random::Uniforms;
use crate::tokenizer::Token;

/// A token and its log-probability under the distribution it was drawn from: the softmax of logits /
/// temperature over the entries that `top_k` and `top_p` leave. Greedy choice is certain, so its
/// log-probability is 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampledToken {
    pub token: Token,
    pub logp: f64,
    /// Its origin, if it was drafted and verified.
    pub verdict: Option<DraftVerdict>,
}

impl SampledToken {
    pub fn new(token: Token, logp: f64) -> SampledToken {
        SampledToken { token, logp, verdict: None }
    }
}

/// Entries per piece of the two-level sum of probabilities: drawing finds the piece first, then the entry in
/// it.
pub(super) const PIECE: usize = 256;

/// Buffers that are reused from draw to draw.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    /// Logits after the repetition penalty.
    penalised: Vec<f32>,
    weights: Vec<f32>,
    /// Indices of entries, sorted by weight.
    order: Vec<u32>,
    /// Cumulative sums of the weights at the end of each piece.
    ends: Vec<f64>,
}

/// Lowest positive temperature; lower ones are raised to it. Its inverse is the largest finite f32.
const COLDEST: f64 = 1.0 / f32::MAX as f64;

/// The temperature raised to [`COLDEST`], except 0, which is greedy.
pub(super) fn bounded(temperature: f64) -> f64 {
    if temperature == 0.0 { 0.0 } else { temperature.max(COLDEST) }
}

/// The finite factor that logits are multiplied by at a temperature above 0.
pub(super) fn scale(temperature: f64) -> f32 {
    ((1.0 / bounded(temperature)) as f32).min(f32::MAX)
}

/// The distribution that a token is drawn from: the weights of all entries, divided by their sum.
pub(super) struct TokenDistribution<'s> {
    pub(super) logits: &'s [f32],
    pub(super) weights: &'s [f32],
    ends: &'s [f64],
    largest: f32,
    temperature: f64,
    pub(super) total: f64,
}

/// Draws by inverting the cumulative distribution: probabilities in single precision, their sums in f64.
/// `seen` are the tokens of prompt and completion so far. `None` where the logits are not finite. Exactly one
/// uniform is used, whatever the settings.
pub fn draw(
    logits: &[f32],
    sampling: &Sampling,
    seen: [&[Token]; 2],
    uniforms: &mut Uniforms,
    scratch: &mut Scratch,
) -> Option<SampledToken> {
    let uniform = uniforms.uniform();
    if sampling.is_greedy() {
        let (logits, largest) = shaped(logits, sampling, seen, &mut scratch.penalised)?;
        return Some(SampledToken::new(best(logits, largest) as Token, 0.0));
    }
    let weighed = weigh(logits, sampling, seen, scratch)?;
    let index = weighed.pick(uniform)?;
    Some(SampledToken::new(index as Token, weighed.logp(index)))
}

/// The logits after the repetition penalty, and the largest of them; `None` where they are not finite.
fn shaped<'s>(
    logits: &'s [f32],
    sampling: &Sampling,
    seen: [&[Token]; 2],
    penalised: &'s mut Vec<f32>,
) -> Option<(&'s [f32], f32)> {
    let logits = match sampling.repetition_penalty {
        None => logits,
        Some(penalty) => {
            penalise(logits, penalty, seen, penalised);
            penalised
        }
    };
    largest(logits).map(|largest| (logits, largest))
}

fn best(logits: &[f32], largest: f32) -> usize {
    logits.iter().position(|&logit| logit == largest).expect("some logit is the largest")
}

/// The weights that tokens are drawn by; `None` where the logits are not finite.
pub(super) fn weigh<'s>(
    logits: &'s [f32],
    sampling: &Sampling,
    seen: [&[Token]; 2],
    scratch: &'s mut Scratch,
) -> Option<TokenDistribution<'s>> {
    let Scratch { penalised, weights, order, ends } = scratch;
    let temperature = bounded(sampling.drawn_at());
    let (logits, largest) = shaped(logits, sampling, seen, penalised)?;
    weights.resize(logits.len(), 0.0);
    if temperature == 0.0 {
        weights.fill(0.0);
        weights[best(logits, largest)] = 1.0;
    } else {
        let scale = scale(temperature);
        with_cpu_features(|| {
            for (weight, logit) in weights.iter_mut().zip(logits) {
                *weight = exp((logit - largest) * scale);
            }
        });
        truncate(weights, sampling.top_k, sampling.top_p, order);
    }
    let total = summed(weights, ends);
    Some(TokenDistribution { logits, weights, ends, largest, temperature, total })
}

/// The sum of weights; writes the cumulative sums at the end of each piece to `ends`.
pub(super) fn summed(weights: &[f32], ends: &mut Vec<f64>) -> f64 {
    let sum = |piece: &[f32]| {
        let mut lanes = [0.0f64; 8];
        for chunk in piece.chunks(8) {
            for (lane, &weight) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(weight);
            }
        }
        lanes.iter().sum::<f64>()
    };
    ends.clear();
    let mut total = 0.0;
    with_cpu_features(|| {
        for piece in weights.chunks(PIECE) {
            total += sum(piece);
            ends.push(total);
        }
    });
    total
}

/// The first entry whose cumulative mass exceeds `uniform` times the total. An entry without mass is never
/// chosen. `ends` are those of [`summed`].
pub(super) fn pick(weights: &[f32], ends: &[f64], uniform: f64) -> Option<usize> {
    let threshold = uniform * ends.last()?;
    let piece = ends.partition_point(|&end| end <= threshold).min(ends.len() - 1);
    let mut cumulative = if piece == 0 { 0.0 } else { ends[piece - 1] };
    let (mut index, first) = (None, piece * PIECE);
    for (at, &weight) in weights[first..].iter().take(PIECE).enumerate().filter(|(_, weight)| **weight > 0.0)
    {
        index = Some(first + at);
        cumulative += f64::from(weight);
        if cumulative > threshold {
            break;
        }
    }
    index
}

impl TokenDistribution<'_> {
    pub(super) fn pick(&self, uniform: f64) -> Option<usize> {
        pick(self.weights, self.ends, uniform)
    }

    pub(super) fn probability(&self, entry: usize) -> f64 {
        f64::from(self.weights[entry]) / self.total
    }

    /// Log-probability of an entry; negative infinity where it can't be drawn.
    pub(super) fn logp(&self, entry: usize) -> f64 {
        match self.weights[entry] {
            0.0 => f64::NEG_INFINITY,
            _ if self.temperature == 0.0 => 0.0,
            _ => {
                let logit = f64::from(self.logits[entry]) - f64::from(self.largest);
                logit / self.temperature - self.total.ln()
            }
        }
    }
}

/// Makes tokens in `seen` less likely: positive logits are divided by the penalty, negative ones multiplied,
/// once per token however often it occurs (arXiv:1909.05858, section 4.1).
fn penalise(logits: &[f32], penalty: f64, seen: [&[Token]; 2], penalised: &mut Vec<f32>) {
    penalised.clear();
    penalised.extend_from_slice(logits);
    // Keeps finite logits and their differences finite, whatever the penalty.
    const MOST: f32 = f32::MAX / 2.0;
    let penalty = (penalty as f32).clamp(f32::MIN_POSITIVE, f32::MAX);
    for &token in seen.into_iter().flatten() {
        // A prompt's token may have no entry among the logits.
        if let Some(&logit) = logits.get(token as usize) {
            let less = if logit > 0.0 { logit / penalty } else { logit * penalty };
            penalised[token as usize] = if logit.is_finite() { less.clamp(-MOST, MOST) } else { less };
        }
    }
}

/// Sets all weights to 0 except the `top_k` largest (arXiv:1805.04833), and of these the fewest that together
/// hold `top_p` of their mass (arXiv:1904.09751). Ties keep the lower entry; at least one entry stays.
fn truncate(weights: &mut [f32], top_k: Option<u32>, top_p: Option<f64>, order: &mut Vec<u32>) {
    if top_k.is_none() && top_p.is_none() {
        return;
    }
    let weight = |entry: u32| weights[entry as usize];
    let heavier = |a: &u32, b: &u32| weight(*b).total_cmp(&weight(*a)).then(a.cmp(b));
    order.clear();
    order.extend((0..weights.len() as u32).filter(|entry| weight(*entry) > 0.0));
    if let Some(k) = top_k.filter(|_| !order.is_empty()) {
        let k = (k as usize).clamp(1, order.len());
        order.select_nth_unstable_by(k - 1, heavier);
        order.truncate(k);
        order.sort_unstable_by(heavier);
    }
    if let Some(p) = top_p {
        let enough = p * order.iter().map(|entry| f64::from(weight(*entry))).sum::<f64>();
        // Few entries hold most of the mass, so only the heaviest are sorted, and more as needed.
        let (mut kept, mut mass, mut next) = (0, 0.0, 64);
        'found: while kept < order.len() {
            let rest = &mut order[kept..];
            let sorted = next.min(rest.len());
            rest.select_nth_unstable_by(sorted - 1, heavier);
            rest[..sorted].sort_unstable_by(heavier);
            for &entry in &rest[..sorted] {
                mass += f64::from(weight(entry));
                kept += 1;
                if mass >= enough {
                    break 'found;
                }
            }
            next *= 4;
        }
        order.truncate(kept);
    }
    let Some(&last) = order.last() else { return };
    let least = weight(last);
    for (entry, weight) in weights.iter_mut().enumerate() {
        if *weight < least || (*weight == least && entry > last as usize) {
            *weight = 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};

    fn uniforms() -> Uniforms {
        Key::new(1, 0, Purpose::Sample, 0).row(0, 0)
    }

    fn draw_unfiltered(logits: &[f32], temperature: f64, uniforms: &mut Uniforms) -> Option<SampledToken> {
        draw(logits, &Sampling::new(1, temperature, 1), [&[], &[]], uniforms, &mut Scratch::default())
    }

    #[test]
    fn frequencies_and_log_probabilities_follow_the_softmax() {
        let logits = [1.0f32, -0.5, 2.0, -40.0];
        for temperature in [0.5, 1.0, 2.0] {
            let weights: Vec<f64> =
                logits.iter().map(|&logit| (f64::from(logit) / temperature).exp()).collect();
            let total: f64 = weights.iter().sum();
            let (mut uniforms, n) = (uniforms(), 40_000);
            let mut counts = [0.0; 4];
            for _ in 0..n {
                let draw = draw_unfiltered(&logits, temperature, &mut uniforms).unwrap();
                let expected = (weights[draw.token as usize] / total).ln();
                // As exact as single precision is.
                assert!((draw.logp - expected).abs() < 1e-6);
                counts[draw.token as usize] += 1.0 / f64::from(n);
            }
            for (count, weight) in counts.iter().zip(&weights) {
                assert!((count - weight / total).abs() < 0.01, "{counts:?} at {temperature}");
            }
        }
    }

    #[test]
    fn temperature_zero_is_greedy_and_certain() {
        let draw = draw_unfiltered(&[1.0, 3.0, 3.0], 0.0, &mut uniforms()).unwrap();
        assert_eq!(draw, SampledToken::new(1, 0.0));
    }

    #[test]
    fn logits_that_are_not_finite_are_refused() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(draw_unfiltered(&[0.0, bad], 1.0, &mut uniforms()), None);
        }
    }

    #[test]
    fn any_temperature_above_zero_can_be_drawn_at() {
        let logits = [1.0f32, -0.5, 3.0, 2.999_999_8];
        for temperature in [f64::from_bits(1), 1e-310, 1e-40, 2.9e-39, 2.95e-39, 1e-38, 1e-30] {
            for (top_k, top_p) in [(None, None), (Some(1), None), (Some(3), Some(0.5)), (None, Some(1e-300))]
            {
                let sampling = Sampling { top_k, top_p, ..Sampling::new(1, temperature, 1) };
                let drawn = draw(&logits, &sampling, [&[], &[]], &mut uniforms(), &mut Scratch::default());
                assert_eq!(drawn, Some(SampledToken::new(2, 0.0)), "{sampling:?}");
            }
        }
        // Those that are as likely as the largest.
        let sampling = Sampling { top_k: Some(2), ..Sampling::new(1, 1e-40, 1) };
        let mut uniforms = uniforms();
        let mut draw = || draw(&[1.0, 1.0], &sampling, [&[], &[]], &mut uniforms, &mut Scratch::default());
        let drawn: Vec<SampledToken> = (0..100).map(|_| draw().unwrap()).collect();
        assert!(drawn.iter().all(|of| (of.logp - 0.5f64.ln()).abs() < 1e-12));
        assert!([0, 1].iter().all(|token| drawn.iter().any(|of| of.token == *token)));
        let hot =
            draw_unfiltered(&logits, f64::MAX, &mut Key::new(1, 0, Purpose::Sample, 0).row(0, 0)).unwrap();
        assert!((hot.logp - 0.25f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn any_penalty_leaves_logits_finite() {
        for (penalty, likely) in
            [(f64::from_bits(1), 0), (1e-300, 0), (1e-40, 0), (1e40, 1), (1e300, 1), (f64::MAX, 1)]
        {
            for temperature in [1e-40, 1.0, 1e300] {
                let sampling =
                    Sampling { repetition_penalty: Some(penalty), ..Sampling::new(1, temperature, 1) };
                // Those that were seen: a positive logit, 0, and a negative one.
                let seen: [&[Token]; 2] = [&[0, 2, 3], &[]];
                let mut scratch = Scratch::default();
                let logits = [2.0f32, 1.0, 0.0, -1.0];
                let drawn = draw(&logits, &sampling, seen, &mut uniforms(), &mut scratch).unwrap();
                assert!(scratch.penalised.iter().all(|logit| logit.is_finite()), "{sampling:?}");
                assert!(drawn.logp.is_finite() && drawn.logp <= 0.0, "{sampling:?}: {drawn:?}");
                if temperature < 1.0 {
                    assert_eq!(drawn, SampledToken::new(likely, 0.0), "{sampling:?}");
                }
            }
        }
        let sampling = Sampling { repetition_penalty: Some(2.0), ..Sampling::new(1, 1.0, 1) };
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let seen: [&[Token]; 2] = [&[1], &[]];
            assert_eq!(draw(&[0.0, bad], &sampling, seen, &mut uniforms(), &mut Scratch::default()), None);
        }
    }

    /// By definition, in f64: all entries sorted, cut, and divided by what is left.
    fn by_definition(logits: &[f32], sampling: &Sampling, seen: &[Token]) -> Vec<f64> {
        let penalty = sampling.repetition_penalty.unwrap_or(1.0);
        let penalised = |(entry, logit): (usize, &f32)| {
            let logit = f64::from(*logit);
            match (seen.contains(&(entry as Token)), logit > 0.0) {
                (false, _) => logit,
                (true, true) => logit / penalty,
                (true, false) => logit * penalty,
            }
        };
        let mut weights: Vec<f64> =
            logits.iter().enumerate().map(|of| (penalised(of) / sampling.drawn_at()).exp()).collect();
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| weights[*b].total_cmp(&weights[*a]));
        order.truncate(sampling.top_k.map_or(usize::MAX, |k| k as usize));
        let total: f64 = order.iter().map(|entry| weights[*entry]).sum();
        let (mut mass, mut kept) = (0.0, Vec::new());
        for entry in order {
            if mass < sampling.top_p.unwrap_or(1.0) * total {
                kept.push(entry);
                mass += weights[entry];
            }
        }
        for (entry, weight) in weights.iter_mut().enumerate() {
            *weight = if kept.contains(&entry) { *weight / mass } else { 0.0 };
        }
        weights
    }

    #[test]
    fn truncation_and_penalty_are_those_of_the_definition() {
        let logits: Vec<f32> = (0..400u32).map(|entry| (entry * 7919 % 401) as f32 / 50.0 - 4.0).collect();
        let seen: [&[Token]; 2] = [&[3, 3, 399, 70_000], &[250, 3]];
        let all: Vec<Token> = seen.concat();
        let mut uniforms = uniforms();
        let mut scratch = Scratch::default();
        for (top_k, top_p, penalty) in [
            (Some(1), None, None),
            (Some(5), None, None),
            (Some(1000), None, None),
            (None, Some(0.3), None),
            (None, Some(0.95), None),
            (None, Some(1e-9), None),
            (Some(20), Some(0.8), Some(1.2)),
            (None, None, Some(1.5)),
        ] {
            let sampling = Sampling { top_k, top_p, repetition_penalty: penalty, ..Sampling::new(1, 0.7, 1) };
            let expected = by_definition(&logits, &sampling, &all);
            let mut counts = vec![0.0; logits.len()];
            let n = 4000;
            for _ in 0..n {
                let draw = draw(&logits, &sampling, seen, &mut uniforms, &mut scratch).unwrap();
                let probability = expected[draw.token as usize];
                assert!(probability > 0.0, "{sampling:?}: {} was left out", draw.token);
                assert!((draw.logp - probability.ln()).abs() < 2e-6, "{sampling:?}: {draw:?}");
                counts[draw.token as usize] += 1.0 / f64::from(n);
            }
            for (count, expected) in counts.iter().zip(&expected) {
                assert!((count - expected).abs() < 0.04, "{sampling:?}: {count} {expected}");
            }
        }
    }

    #[test]
    fn top_k_ties_keep_the_lower_index() {
        let sampling = Sampling { top_k: Some(2), ..Sampling::new(1, 1.0, 1) };
        let mut uniforms = uniforms();
        for _ in 0..100 {
            let draw =
                draw(&[0.0, 1.0, 1.0, 1.0], &sampling, [&[], &[]], &mut uniforms, &mut Scratch::default());
            assert!([1, 2].contains(&draw.unwrap().token));
        }
    }
}
