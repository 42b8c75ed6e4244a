//! Functions that papers use by name: means, deviations, softmax, the clipped surrogate. Plain loops over
//! vectors.

pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The root of the mean square distance from the mean; of the sample, divided by n - 1.
pub fn deviation(values: &[f64], of_sample: bool) -> f64 {
    let centre = mean(values);
    let squares: f64 = values.iter().map(|x| (x - centre).powi(2)).sum();
    (squares / (values.len() - usize::from(of_sample)) as f64).sqrt()
}

/// (x - mean) / (deviation of the sample + 1e-4): the advantage of GRPO (arXiv:2402.03300, section 4.1.2),
/// with the constant of its implementations.
pub fn standardised(x: f64, among: &[f64]) -> f64 {
    (x - mean(among)) / (deviation(among, true) + 1e-4)
}

/// The same with the population's deviation.
pub fn standardised_population(x: f64, among: &[f64]) -> f64 {
    (x - mean(among)) / (deviation(among, false) + 1e-4)
}

/// exp(x) / sum of exp over `among`.
pub fn softmax(x: f64, among: &[f64]) -> f64 {
    x.exp() / among.iter().map(|other| other.exp()).sum::<f64>()
}

pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

pub fn smallest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

pub fn largest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// The value below which the share `q` lies, on the straight line between the two order statistics around q *
/// (n - 1).
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = q * (sorted.len() - 1) as f64;
    let below = sorted[place as usize];
    below + (place - place.floor()) * (sorted[(place as usize + 1).min(sorted.len() - 1)] - below)
}

/// Scales values so that the smallest is 0 and the largest is 1.
pub fn minmax(values: &[f64]) -> Vec<f64> {
    let (low, high) = (smallest(values), largest(values));
    values.iter().map(|x| (x - low) / (high - low)).collect()
}

/// True for the `count` largest.
pub fn top(values: &[f64], count: usize) -> Vec<bool> {
    values.iter().map(|x| values.iter().filter(|other| *other > x).count() < count).collect()
}

/// ceil(share * n)
pub fn part(share: f64, n: usize) -> usize {
    (share * n as f64).ceil() as usize
}

/// -min(ratio * A, clip(ratio, 1 - low, 1 + high) * A) (PPO, arXiv:1707.06347, eq. 7), negative because it is
/// a loss.
pub fn clipped(ratio: f64, advantage: f64, low: f64, high: f64) -> f64 {
    -(ratio * advantage).min(ratio.clamp(1.0 - low, 1.0 + high) * advantage)
}

/// Its derivative in log p: -ratio * A, but 0 where the ratio has left its bounds on the side that the
/// advantage pulls to.
pub fn clipped_derivative(ratio: f64, advantage: f64, low: f64, high: f64) -> f64 {
    let beyond = advantage > 0.0 && ratio > 1.0 + high || advantage < 0.0 && ratio < 1.0 - low;
    if beyond { 0.0 } else { -ratio * advantage }
}

pub fn log_odds(p: f64) -> f64 {
    (p / (1.0 - p)).ln()
}
