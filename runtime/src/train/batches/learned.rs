//! `learned(...)`: a number between 0 and 1 that the run itself learns (arXiv:2605.11458). It is drawn from a
//! Beta distribution and held for some steps. Then REINFORCE updates the distribution: along the gradient of
//! the log-density at the drawn value, times the discounted sum of the gains, standardised among all such
//! sums so far.
//!
//! Everything is in float64, and a draw follows from the seed, the stage and the step alone.

use mopd_plan::Learned;
use statrs::function::beta::beta_reg;
use statrs::function::gamma::digamma;

use crate::random::Purpose;
use crate::train::stage::StageKeys;

/// Drawn values keep this distance from 0 and 1, where a log-density may be infinite.
const MARGIN: f64 = 1e-9;
/// Bisection steps on [0, 1] after which a quantile is known to the last bit.
const HALVINGS: u32 = 64;

/// The distribution, and the value that was drawn from it.
#[derive(Clone, Debug, PartialEq)]
pub struct LearnedPolicy {
    settings: Learned,
    /// Of Beta(1 + softplus(theta_a), 1 + softplus(theta_b)). Both start at 0, so that its mean is 1/2.
    thetas: [f64; 2],
    /// The value that is held; `None` before the next draw.
    value: Option<f64>,
    /// The number of gains since it was drawn.
    gains: u32,
    /// The discounted sum of these gains.
    sum: f64,
    returns: Returns,
}

/// The discounted sums so far: their number, their mean, and the sum of squared distances from it (Welford).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Returns {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Returns {
    /// Adds a sum; returns its z-score among all so far, itself included: 0 where it is the only one, or
    /// where all are equal.
    fn standardised(&mut self, new: f64) -> f64 {
        self.count += 1.0;
        let before = new - self.mean;
        self.mean += before / self.count;
        self.squares += before * (new - self.mean);
        let deviation = (self.squares / (self.count - 1.0)).sqrt();
        if self.count > 1.0 && deviation > 0.0 { (new - self.mean) / deviation } else { 0.0 }
    }
}

/// ln(1 + e^x)
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

impl LearnedPolicy {
    pub fn new(settings: &Learned) -> LearnedPolicy {
        LearnedPolicy {
            settings: settings.clone(),
            thetas: [0.0; 2],
            value: None,
            gains: 0,
            sum: 0.0,
            returns: Returns::default(),
        }
    }

    /// The value that is held.
    pub fn value(&self) -> Option<f64> {
        self.value
    }

    /// Before a step: draws a value if none is held.
    pub fn begin(&mut self, keys: StageKeys, step: u32) {
        let uniform = || keys.key(Purpose::Learned, u64::from(step)).row(0, 0).uniform();
        self.value.get_or_insert_with(|| quantile(parameters(self.thetas), uniform()));
    }

    /// After a step: adds its gain. After the last step of a value, updates the distribution.
    pub fn learn(&mut self, gain: f64) {
        let Some(value) = self.value else { return };
        self.sum += self.settings.discount.powi(self.gains as i32) * gain;
        self.gains += 1;
        if self.gains < self.settings.hold {
            return;
        }
        let advantage = self.returns.standardised(self.sum);
        let gradient = score(self.thetas, value);
        for (theta, gradient) in self.thetas.iter_mut().zip(gradient) {
            *theta += self.settings.learning_rate * advantage * gradient;
        }
        (self.value, self.gains, self.sum) = (None, 0, 0.0);
    }

    /// The state as bits: JSON has no infinity.
    pub fn numbers(&self) -> Vec<u64> {
        let [a, b] = self.thetas;
        let Returns { count, mean, squares } = self.returns;
        let value = self.value.unwrap_or(f64::NAN);
        [a, b, value, f64::from(self.gains), self.sum, count, mean, squares].map(f64::to_bits).to_vec()
    }

    /// Restores the state that `numbers` returned.
    pub fn restore(&mut self, numbers: &[u64]) -> Result<(), String> {
        let problem = || "it has no valid state of the learned policy".to_owned();
        let &[a, b, value, gains, sum, count, mean, squares] = numbers else { return Err(problem()) };
        let [a, b, value, gains, sum, count, mean, squares] =
            [a, b, value, gains, sum, count, mean, squares].map(f64::from_bits);
        let value = (!value.is_nan()).then_some(value);
        let finite = [a, b].iter().all(|theta| theta.is_finite());
        let held = value.is_none_or(|value| (0.0..=1.0).contains(&value));
        if !finite || !held || !(0.0..f64::from(self.settings.hold)).contains(&gains) {
            return Err(problem());
        }
        self.thetas = [a, b];
        (self.value, self.gains, self.sum) = (value, gains as u32, sum);
        self.returns = Returns { count, mean, squares };
        Ok(())
    }
}

/// The parameters a, b of the Beta distribution.
fn parameters(thetas: [f64; 2]) -> [f64; 2] {
    thetas.map(|theta| 1.0 + softplus(theta))
}

/// The quantile at `of`, by bisection of the distribution function.
fn quantile([a, b]: [f64; 2], of: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..HALVINGS {
        let middle = 0.5 * (low + high);
        if beta_reg(a, b, middle) < of {
            low = middle;
        } else {
            high = middle;
        }
    }
    (0.5 * (low + high)).clamp(MARGIN, 1.0 - MARGIN)
}

/// d log-density at `value` / d thetas.
fn score(thetas: [f64; 2], value: f64) -> [f64; 2] {
    let [a, b] = parameters(thetas);
    let both = digamma(a + b);
    let [of_a, of_b] = [value.ln() - digamma(a) + both, (-value).ln_1p() - digamma(b) + both];
    [of_a * sigmoid(thetas[0]), of_b * sigmoid(thetas[1])]
}

#[cfg(test)]
mod tests {
    use mopd_expr::graph::NodeId;

    use super::*;
    use crate::random::Key;

    fn policy(hold: u32, discount: f64, learning_rate: f64) -> LearnedPolicy {
        LearnedPolicy::new(&Learned { gain: NodeId(0), hold, discount, learning_rate })
    }

    /// Thetas, value, and the derivatives of log(x^(a - 1) (1 - x)^(b - 1) / B(a, b)), computed numerically
    /// by mpmath with 40 digits.
    const GRADIENTS: &[([f64; 2], f64, [f64; 2])] = &[
        ([0.0, 0.0], 0.5, [0.08431548081488648, 0.08431548081488648]),
        ([0.0, 0.0], 0.125, [-0.6088316997450588, 0.3641233747825978]),
        ([1.5, -2.0], 0.75, [0.09899307729089099, 0.024520484212360857]),
        ([-3.0, 4.0], 0.0625, [-0.02629436069496248, 0.14090037856665025]),
        ([8.0, 7.5], 0.5, [-0.00041826072495607363, 0.06006942483708454]),
        ([20.0, -20.0], 0.984375, [0.031870690676394586, -1.0584526375671017e-09]),
        ([-40.0, 0.25], 0.001, [-2.3276488139438872e-17, 0.3073209773282591]),
    ];

    #[test]
    fn the_gradient_is_that_of_the_log_density() {
        for (thetas, value, expected) in GRADIENTS {
            for (found, expected) in score(*thetas, *value).into_iter().zip(expected) {
                let error = (found - expected).abs() / expected.abs().max(1.0);
                assert!(error < 1e-12, "{thetas:?} at {value}: {found} {expected}");
            }
        }
    }

    /// Beta(2, 2) has the distribution function 3 x^2 - 2 x^3, Beta(1, 1) is uniform, Beta(1, 3) has 1 - (1 -
    /// x)^3.
    #[test]
    fn quantiles_of_known_distributions() {
        for of in [0.001, 0.1, 0.3, 0.5, 0.77, 0.999] {
            let x = quantile([2.0, 2.0], of);
            assert!((3.0 * x * x - 2.0 * x * x * x - of).abs() < 1e-12, "{x} {of}");
            assert!((quantile([1.0, 1.0], of) - of).abs() < 1e-12);
            assert!((quantile([1.0, 3.0], of) - (1.0 - (1.0 - of).cbrt())).abs() < 1e-12);
        }
        assert!([0.0, 1.0].map(|of| quantile([1.7, 1.7], of)).iter().all(|x| *x > 0.0 && *x < 1.0));
    }

    /// Computed by hand: three values are held for two steps each. The first return has a z-score of 0.
    #[test]
    fn an_update_is_the_standardised_return_times_the_gradient() {
        let mut policy = policy(2, 0.5, 0.2);
        let mut thetas = [0.0; 2];
        // Returns 2 + 0.5 * 4 = 4, then 1 + 0.5 * 2 = 2, then 6 + 0.
        let deviations = [0.0, -1.0 / 2f64.sqrt(), 1.0];
        for ((value, gains), standardised) in
            [(0.25, [2.0, 4.0]), (0.5, [1.0, 2.0]), (0.875, [6.0, 0.0])].into_iter().zip(deviations)
        {
            policy.value = Some(value);
            policy.learn(gains[0]);
            assert_eq!((policy.value, policy.thetas), (Some(value), thetas), "it is held");
            policy.learn(gains[1]);
            let gradient = score(thetas, value);
            for (theta, gradient) in thetas.iter_mut().zip(gradient) {
                *theta += 0.2 * standardised * gradient;
            }
            assert_eq!(policy.value, None);
            for (found, expected) in policy.thetas.iter().zip(thetas) {
                assert!((found - expected).abs() < 1e-14, "{found} {expected}");
            }
            thetas = policy.thetas;
        }
        assert_eq!(policy.returns.count, 3.0);
    }

    /// Draws as in a stage, with gains for values that are high, low, or near 0.3.
    #[test]
    fn learned_policy_moves_towards_higher_gains() {
        let learned = |gain: &dyn Fn(f64) -> f64| {
            let mut policy = policy(3, 0.9, 0.1);
            for step in 0..1800u32 {
                let uniform = Key::new(5, 6, Purpose::Learned, u64::from(step)).row(0, 0).uniform();
                let value = *policy.value.get_or_insert_with(|| quantile(parameters(policy.thetas), uniform));
                policy.learn(gain(value));
            }
            let [a, b] = parameters(policy.thetas);
            a / (a + b)
        };
        let (high, low) = (learned(&|value| value), learned(&|value| -value));
        let between = learned(&|value| -(value - 0.3).abs());
        assert!(high > 0.8 && low < 0.2, "{high} {low}");
        assert!((between - 0.3).abs() < 0.1, "{between}");
        let nothing = learned(&|_| 1.5);
        assert_eq!(nothing, 0.5, "all are the same");
    }

    #[test]
    fn learned_policy_state_survives_saving() {
        let mut one = policy(3, 0.9, 0.1);
        one.value = Some(0.25);
        for gain in [1.0, -2.0, 0.5] {
            one.learn(gain);
        }
        one.value = Some(0.625);
        one.learn(f64::INFINITY);
        let mut other = policy(3, 0.9, 0.1);
        other.restore(&one.numbers()).unwrap();
        assert_eq!(other, one);
        let problem = "it has no valid state of the learned policy";
        assert_eq!(other.restore(&one.numbers()[1..]), Err(problem.to_owned()));
        assert_eq!(policy(1, 0.9, 0.1).restore(&one.numbers()), Err(problem.to_owned()), "it holds for less");
    }
}
