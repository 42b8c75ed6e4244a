//! Extrapolation of weights along their change so far, where a benchmark improves.

use mopd_experiment::powers_up_to;
use serde::{Deserialize, Serialize};

use super::{DomainId, Evaluation, WeightGroup};

/// After some steps the weights are moved along their change since the last extrapolation (at first: since
/// the start of the stage), beyond their current values (arXiv:2605.11739). A candidate is kept while it
/// improves a benchmark. The first one that does not is dropped, and ends the extrapolation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Extrapolation {
    pub factor: f64,
    /// The most candidates of an extrapolation.
    pub rounds: u32,
    /// Extrapolations come after steps 1, `powers_of`, `powers_of`^2, and so on.
    pub powers_of: u32,
    /// The benchmark that decides. No stage is trained on it.
    pub judged_by: DomainId,
    /// The settings for the benchmark's evaluation.
    pub evaluation: Evaluation,
    /// The weights that are moved; all trained ones where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<WeightGroup>,
}

impl Extrapolation {
    /// Whether an extrapolation comes after this many steps.
    pub fn is_due(&self, steps: u32) -> bool {
        let mut rest = steps;
        while rest > 1 && rest.is_multiple_of(self.powers_of.max(2)) {
            rest /= self.powers_of.max(2);
        }
        rest == 1
    }

    /// The most evaluations of the benchmark in this many steps: of the current weights, and of each
    /// candidate.
    pub fn evaluations(&self, steps: u32) -> u64 {
        u64::from(powers_up_to(self.powers_of, steps)) * (1 + u64::from(self.rounds))
    }

    /// The distance of a candidate as a multiple of the change; 0 stands for the current weights. The paper
    /// multiplies the change by `1 + f` for each candidate, where `f` is at first the factor and afterwards
    /// `f / (1 + f)`: the product of the first `n` is `1 + n * factor`.
    pub fn multiple(&self, candidate: u32) -> f64 {
        1.0 + f64::from(candidate) * self.factor
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sampling;

    fn extrapolation(factor: f64, powers_of: u32) -> Extrapolation {
        let evaluation = Evaluation { sampling: Sampling::new(1, 0.0, 8), prompts: None };
        let (rounds, judged_by, weights) = (5, DomainId(0), Vec::new());
        Extrapolation { factor, rounds, powers_of, judged_by, evaluation, weights }
    }

    #[test]
    fn extrapolation_is_due_after_powers_of_its_base() {
        let steps = |powers_of: u32| {
            (0..100).filter(|steps| extrapolation(2.0, powers_of).is_due(*steps)).collect::<Vec<u32>>()
        };
        assert_eq!(steps(2), [1, 2, 4, 8, 16, 32, 64]);
        assert_eq!(steps(3), [1, 3, 9, 27, 81]);
        for (powers_of, last) in [(2, 0), (2, 1), (2, 16), (2, 31), (3, 26), (3, 27), (10, 1000)] {
            let one = extrapolation(2.0, powers_of);
            let counted = (0..=last).filter(|steps| one.is_due(*steps)).count() as u32;
            assert_eq!(one.evaluations(last), 6 * u64::from(counted));
        }
    }

    /// The reference is computed candidate by candidate, as in the paper.
    #[test]
    fn the_multiple_is_the_product_of_the_papers_factors() {
        for factor in [2.0, 1.5, 7.0] {
            let one = extrapolation(factor, 2);
            let (mut product, mut f) = (1.0, factor);
            assert_eq!(one.multiple(0), 1.0);
            for candidate in 1..=8 {
                product *= 1.0 + f;
                f /= 1.0 + f;
                assert!((one.multiple(candidate) - product).abs() < 1e-12 * product, "{candidate}");
            }
        }
        let published: Vec<f64> =
            (1..=5).map(|candidate| extrapolation(2.0, 2).multiple(candidate)).collect();
        assert_eq!(published, [3.0, 5.0, 7.0, 9.0, 11.0]);
    }
}
