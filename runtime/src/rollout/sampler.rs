//! One token from one row of logits.

use crate::model::Token;
use crate::random::Uniforms;

/// A token and its log-probability under the distribution it was drawn from: the softmax of logits / temperature over
/// the whole vocabulary. Greedy choice is certain, so its log-probability is 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    pub token: Token,
    pub logp: f64,
}

/// Draws by inverting the cumulative distribution, in f64. `None` where the logits are not finite. `scratch` is reused
/// between calls. Exactly one uniform is used, whatever the temperature.
pub fn draw(logits: &[f32], temperature: f64, uniforms: &mut Uniforms, scratch: &mut Vec<f64>) -> Option<Draw> {
    let uniform = uniforms.uniform();
    let (mut best, mut largest) = (0, f32::NEG_INFINITY);
    for (index, &logit) in logits.iter().enumerate() {
        if !logit.is_finite() {
            return None;
        }
        if logit > largest {
            (best, largest) = (index, logit);
        }
    }
    if temperature == 0.0 {
        return Some(Draw { token: best as Token, logp: 0.0 });
    }
    let largest = f64::from(largest);
    scratch.clear();
    let mut total = 0.0;
    scratch.extend(logits.iter().map(|&logit| {
        total += ((f64::from(logit) - largest) / temperature).exp();
        total
    }));
    let threshold = uniform * total;
    // The first entry whose cumulative mass exceeds the threshold: an entry of no mass is never chosen.
    let index = scratch.partition_point(|&cumulative| cumulative <= threshold).min(logits.len() - 1);
    let logp = (f64::from(logits[index]) - largest) / temperature - total.ln();
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
            let weights: Vec<f64> = logits.iter().map(|&logit| (f64::from(logit) / temperature).exp()).collect();
            let total: f64 = weights.iter().sum();
            let (mut uniforms, mut scratch, n) = (uniforms(), Vec::new(), 40_000);
            let mut counts = [0.0; 4];
            for _ in 0..n {
                let draw = draw(&logits, temperature, &mut uniforms, &mut scratch).unwrap();
                let expected = (weights[draw.token as usize] / total).ln();
                assert!((draw.logp - expected).abs() < 1e-12);
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
