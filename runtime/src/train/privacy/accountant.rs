//! The privacy loss of a single record in a private stage: the sum of the Rényi divergences of its steps.

/// Orders of the divergence that are tried. Each gives a bound; the smallest one is used.
const ORDERS: [u32; 72] = orders();
/// The noise that is tried, a standard deviation in units of the clip: the largest, and the steps per unit.
const MOST: u32 = 1_000;
const PARTS: u32 = 1_000;

const fn orders() -> [u32; 72] {
    let last = [72, 80, 96, 128, 192, 256, 384, 512, 1024];
    let mut orders = [0; 72];
    let mut at = 0;
    while at < orders.len() {
        orders[at] = if at < 63 { at as u32 + 2 } else { last[at - 63] };
        at += 1;
    }
    orders
}

/// The Rényi divergence of one step, at an integer order: every record is independently in the batch with
/// probability `rate`, and the sum of the records' gradients, each of norm 1 at most, gets normal noise of
/// standard deviation `noise` (arXiv:1908.10530, section 3.3, equation 9).
fn divergence(rate: f64, noise: f64, order: u32) -> f64 {
    let of = f64::from(order);
    if rate >= 1.0 {
        return of / (2.0 * noise * noise);
    }
    // The logarithm of the binomial coefficient: `order` choose `chosen`.
    let mut ways = 0.0;
    let terms: Vec<f64> = (0..=order)
        .map(|chosen| {
            let k = f64::from(chosen);
            if chosen > 0 {
                ways += ((of - k + 1.0) / k).ln();
            }
            ways + k * rate.ln() + (of - k) * (-rate).ln_1p() + (k * k - k) / (2.0 * noise * noise)
        })
        .collect();
    let largest = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (largest + terms.iter().map(|term| (term - largest).exp()).sum::<f64>().ln()) / (of - 1.0)
}

/// The privacy loss of `steps` steps: a bound on epsilon at `delta` (arXiv:2004.00010, proposition 12).
pub fn epsilon(rate: f64, noise: f64, steps: u32, delta: f64) -> f64 {
    let at = |order: u32| {
        let of = f64::from(order);
        let spent = f64::from(steps) * divergence(rate, noise, order);
        spent + (-1.0 / of).ln_1p() - (delta * of).ln() / (of - 1.0)
    };
    ORDERS.into_iter().map(at).fold(f64::INFINITY, f64::min).max(0.0)
}

/// The least noise, in units of the clip and rounded up to thousandths, with which `steps` steps stay within
/// `budget` at `delta`; `None` where even the largest noise does not.
pub fn least_noise(rate: f64, steps: u32, budget: f64, delta: f64) -> Option<f64> {
    let noise = |parts: u32| f64::from(parts) / f64::from(PARTS);
    let keeps = |parts: u32| epsilon(rate, noise(parts), steps, delta) <= budget;
    let (mut below, mut enough) = (0, MOST * PARTS);
    if !keeps(enough) {
        return None;
    }
    while enough - below > 1 {
        let middle = below + (enough - below) / 2;
        if keeps(middle) { enough = middle } else { below = middle }
    }
    Some(noise(enough))
}

/// The privacy loss with the largest noise.
pub fn least_epsilon(rate: f64, steps: u32, delta: f64) -> f64 {
    epsilon(rate, f64::from(MOST), steps, delta)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected numbers were made by `accountant.py`.
    #[test]
    fn epsilon_agrees_with_an_independent_accountant() {
        let cases: Vec<(f64, f64, u32, f64, f64)> =
            serde_json::from_str(include_str!("accountant.json")).unwrap();
        assert!(cases.len() > 150);
        for (rate, noise, steps, delta, expected) in cases {
            let got = epsilon(rate, noise, steps, delta);
            let place = format!("rate {rate}, noise {noise}, {steps} steps, delta {delta}");
            assert!((got - expected).abs() < 1e-9 * expected.max(1.0), "{place}: {got} {expected}");
        }
    }

    #[test]
    fn the_least_noise_keeps_to_the_budget_and_less_does_not() {
        for (rate, steps, budget) in [(0.01, 1_000, 2.0), (0.2, 20, 0.5), (1.0, 5, 8.0)] {
            let noise = least_noise(rate, steps, budget, 1e-5).unwrap();
            assert!(epsilon(rate, noise, steps, 1e-5) <= budget);
            assert!(epsilon(rate, noise - 1e-3, steps, 1e-5) > budget);
            assert!(epsilon(rate, noise, steps + 1, 1e-5) > epsilon(rate, noise, steps, 1e-5));
        }
        assert_eq!(least_noise(0.5, 1_000, 1e-3, 1e-9), None);
    }
}
