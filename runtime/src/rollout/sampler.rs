//! One token from one row of logits.

use crate::random::Uniforms;
use crate::tokenizer::Token;
use mopd_kernels::functions::exp;
use mopd_kernels::with_cpu_features;

/// A token and its log-probability under the distribution it was drawn from: the softmax of logits /
/// temperature over all that are given. Greedy choice is certain, so its log-probability is 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    pub token: Token,
    pub logp: f64,
}

/// Entries whose probabilities are summed before the sums are: drawing looks for the piece, then for the
/// entry.
const PIECE: usize = 256;

/// Draws by inverting the cumulative distribution: probabilities in single precision, their sums in f64.
/// `None` where the logits are not finite. `scratch` is reused between calls. Exactly one uniform is used,
/// whatever the temperature.
pub fn draw(
    logits: &[f32],
    temperature: f64,
    uniforms: &mut Uniforms,
    scratch: &mut Vec<f32>,
) -> Option<Draw> {
    let uniform = uniforms.uniform();
    let (mut largest, mut finite) = (f32::NEG_INFINITY, true);
    with_cpu_features(|| {
        for &logit in logits {
            finite &= logit.is_finite();
            largest = if logit > largest { logit } else { largest };
        }
    });
    if !finite {
        return None;
    }
    if temperature == 0.0 {
        let best = logits.iter().position(|&logit| logit == largest).expect("some logit is the largest");
        return Some(Draw { token: best as Token, logp: 0.0 });
    }
    let scale = (1.0 / temperature) as f32;
    scratch.resize(logits.len(), 0.0);
    with_cpu_features(|| {
        for (weight, logit) in scratch.iter_mut().zip(logits) {
            *weight = exp((logit - largest) * scale);
        }
    });
    let sum = |piece: &[f32]| {
        let mut lanes = [0.0f64; 8];
        for chunk in piece.chunks(8) {
            for (lane, &weight) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(weight);
            }
        }
        lanes.iter().sum::<f64>()
    };
    let mut ends = Vec::with_capacity(logits.len().div_ceil(PIECE));
    let mut total = 0.0;
    with_cpu_features(|| {
        for piece in scratch.chunks(PIECE) {
            total += sum(piece);
            ends.push(total);
        }
    });
    // The first entry whose cumulative mass exceeds the threshold: an entry of no mass is never chosen.
    let threshold = uniform * total;
    let piece = ends.partition_point(|&end| end <= threshold).min(ends.len() - 1);
    let mut cumulative = if piece == 0 { 0.0 } else { ends[piece - 1] };
    let (mut index, first) = (None, piece * PIECE);
    for (at, &weight) in scratch[first..].iter().take(PIECE).enumerate().filter(|(_, weight)| **weight > 0.0)
    {
        index = Some(first + at);
        cumulative += f64::from(weight);
        if cumulative > threshold {
            break;
        }
    }
    let index = index?;
    let logp = (f64::from(logits[index]) - f64::from(largest)) / temperature - total.ln();
    Some(Draw { token: index as Token, logp })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};

    fn uniforms() -> Uniforms {
        Key::new(1, 0, Purpose::Sample, 0).row(0, 0)
    }

    #[test]
    fn frequencies_and_log_probabilities_follow_the_softmax() {
        let logits = [1.0f32, -0.5, 2.0, -40.0];
        for temperature in [0.5, 1.0, 2.0] {
            let weights: Vec<f64> =
                logits.iter().map(|&logit| (f64::from(logit) / temperature).exp()).collect();
            let total: f64 = weights.iter().sum();
            let (mut uniforms, mut scratch, n) = (uniforms(), Vec::new(), 40_000);
            let mut counts = [0.0; 4];
            for _ in 0..n {
                let draw = draw(&logits, temperature, &mut uniforms, &mut scratch).unwrap();
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
        let draw = draw(&[1.0, 3.0, 3.0], 0.0, &mut uniforms(), &mut Vec::new()).unwrap();
        assert_eq!(draw, Draw { token: 1, logp: 0.0 });
    }

    #[test]
    fn logits_that_are_not_finite_are_refused() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(draw(&[0.0, bad], 1.0, &mut uniforms(), &mut Vec::new()), None);
        }
    }
}
