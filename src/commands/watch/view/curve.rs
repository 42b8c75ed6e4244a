//! Curves by step, and their smoothing.

/// The most points of a curve; beyond that, every other one is dropped.
const POINTS: usize = 2000;

/// Values by step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve {
    points: Vec<(f64, f64)>,
    /// Only steps that are multiples of this are kept.
    every: u32,
}

impl Curve {
    pub fn add(&mut self, step: u32, value: f64) {
        let every = self.every.max(1);
        if !step.is_multiple_of(every) || !value.is_finite() {
            return;
        }
        self.points.push((f64::from(step), value));
        if self.points.len() > POINTS {
            self.every = every * 2;
            self.points.retain(|(step, _)| (*step as u32).is_multiple_of(every * 2));
        }
    }

    pub fn points(&self) -> &[(f64, f64)] {
        &self.points
    }

    /// Drops the points from this step on, which will be computed again.
    pub fn cut(&mut self, step: u32) {
        self.points.retain(|(of, _)| *of < f64::from(step));
    }

    /// Exponential moving average, as in TensorBoard: divided by the sum of the weights, so that the first
    /// points are not biased to 0.
    pub fn smoothed(&self, weight: f64) -> Vec<(f64, f64)> {
        let (mut sum, mut weights) = (0.0, 0.0);
        let average = |(step, value): &(f64, f64)| {
            sum = sum * weight + (1.0 - weight) * value;
            weights = weights * weight + (1.0 - weight);
            (*step, sum / weights)
        };
        self.points.iter().map(average).collect()
    }
}
