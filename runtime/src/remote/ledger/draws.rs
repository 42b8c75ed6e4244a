//! A test of a teacher's log-probabilities by the draws of the sampler. Tokens that were drawn from p have
//! E[q(token) / p(token)] <= 1 for every distribution q, because the sum of q over the vocabulary is one.
//! So a product of such ratios is a supermartingale, and by Ville's inequality it ever reaches 1 / alpha with
//! a probability of at most alpha. Numbers that are no log-probabilities of the drawn tokens (all 0, of base
//! 10) make it grow with every token.
//!
//! A product over all tokens would be nearly 0 after some honest steps, and a later fault would not show. So
//! one bet begins at every sequence, with a weight, and the weights add up to 1. A mixture of
//! supermartingales is one too, so the bound holds for the whole run, however long it is.

/// The probability that an honest server is ever refused, at most.
pub const ALPHA: f64 = 1e-6;

/// What each token costs, in nats: listed probabilities may add up to more than 1 by this much, which is the
/// rounding of half precision.
pub const TOLL: f64 = 2e-2;

/// The wealth of the bets against a server.
#[derive(Clone, Debug)]
pub struct DrawTest {
    /// ln(1 / alpha)
    limit: f64,
    /// ln of the wealth, without what is not yet bet.
    log_wealth: f64,
    /// Number of bets so far.
    bets: u64,
}

impl DrawTest {
    pub fn new(alpha: f64) -> DrawTest {
        DrawTest { limit: -alpha.ln(), log_wealth: f64::NEG_INFINITY, bets: 0 }
    }

    /// Adds the bet that begins at a sequence, and multiplies the wealth by the sequence's ratios. `scored`
    /// has the teacher's log-probabilities of its tokens and `drawn` those with which they were drawn, at the
    /// temperature of sampling. Returns the number of tokens after which the server is refused.
    pub fn add(&mut self, scored: &[f32], drawn: &[f32]) -> Option<usize> {
        assert_eq!(scored.len(), drawn.len(), "a number of each side for every token");
        self.bets += 1;
        self.log_wealth = log_sum(self.log_wealth, weight(self.bets).ln());
        for (index, (scored, drawn)) in scored.iter().zip(drawn).enumerate() {
            self.log_wealth += f64::from(*scored) - f64::from(*drawn) - TOLL;
            if self.log_wealth >= self.limit {
                return Some(index + 1);
            }
        }
        None
    }

    /// ln of the factor by which the drawn tokens multiplied the bets.
    pub fn log_wealth(&self) -> f64 {
        self.log_wealth
    }
}

/// The share of the wealth that is bet from the sequence of this number on, counted from 1: the decrease of 1
/// / (1 + ln(1 + n)), so that all shares add up to 1. After a billion sequences, a fault needs 27 nats more.
fn weight(bet: u64) -> f64 {
    let left = |bets: u64| 1.0 / (1.0 + ((bets + 1) as f64).ln());
    left(bet - 1) - left(bet)
}

/// ln(exp(one) + exp(other))
fn log_sum(one: f64, other: f64) -> f64 {
    let (small, large) = if one < other { (one, other) } else { (other, one) };
    if large == f64::NEG_INFINITY { large } else { large + (small - large).exp().ln_1p() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose, Uniforms};

    const VOCABULARY: usize = 16;

    /// A random distribution, more or less peaked, as log-probabilities.
    fn distribution(random: &mut Uniforms, peak: f64) -> Vec<f64> {
        let logits: Vec<f64> = (0..VOCABULARY).map(|_| peak * (random.uniform() - 0.5)).collect();
        let total = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
        logits.into_iter().map(|logit| logit - total).collect()
    }

    fn draw(random: &mut Uniforms, logps: &[f64]) -> usize {
        let mut left = random.uniform();
        logps
            .iter()
            .position(|logp| {
                left -= logp.exp();
                left < 0.0
            })
            .unwrap_or(VOCABULARY - 1)
    }

    fn random(number: u64) -> Uniforms {
        Key::new(67, 1, Purpose::Sample, number).row(0, 0)
    }

    #[test]
    fn shares_of_all_bets_add_up_to_one_at_most() {
        let some: f64 = (1..100_000).map(weight).sum();
        assert!(some < 1.0 && some > 0.9, "{some}");
        assert!(weight(1_000_000_000) > 0.0);
    }

    /// A million steps of honest teachers, near the sampler and far from it: no alarm. The sequences are
    /// short because they are many.
    #[test]
    fn a_million_honest_steps_raise_no_alarm() {
        let mut random = random(1);
        let sampler: Vec<_> = (0..64).map(|of| distribution(&mut random, 1.0 + f64::from(of % 8))).collect();
        let teacher: Vec<_> = (0..64)
            .map(|of| match of % 4 {
                0 => sampler[of].clone(),
                _ => distribution(&mut random, 1.0 + (of % 16) as f64),
            })
            .collect();
        let mut test = DrawTest::new(ALPHA);
        let mut highest = f64::NEG_INFINITY;
        for step in 0..1_000_000 {
            let place = step % 64;
            let tokens = [(); 3].map(|()| draw(&mut random, &sampler[place]));
            let scored = tokens.map(|token| teacher[place][token] as f32);
            let drawn = tokens.map(|token| sampler[place][token] as f32);
            assert_eq!(test.add(&scored, &drawn), None, "step {step}");
            highest = highest.max(test.log_wealth());
        }
        assert!(highest < -ALPHA.ln(), "{highest}");
    }

    /// Ville's bound itself, at an alpha that can be measured: of 4000 honest runs of 300 sequences, at most
    /// one in twenty is refused. The toll is far below what these teachers lose or win by chance.
    #[test]
    fn honest_runs_are_refused_as_seldom_as_the_bound_says() {
        const RUNS: u64 = 4000;
        let refused = (0..RUNS)
            .filter(|run| {
                let mut random = random(100 + run);
                let mut test = DrawTest::new(0.05);
                let (sampler, teacher) = (distribution(&mut random, 4.0), distribution(&mut random, 4.0));
                (0..300).any(|_| {
                    let tokens = [(); 2].map(|()| draw(&mut random, &sampler));
                    let of = |logps: &[f64]| tokens.map(|token| logps[token] as f32);
                    test.add(&of(&teacher), &of(&sampler)).is_some()
                })
            })
            .count();
        assert!(refused as f64 <= 0.05 * RUNS as f64, "{refused} of {RUNS}");
        assert!(refused > 0, "the test has no power");
    }

    /// All 0, and logarithms of base 10, of a teacher that is the sampler itself, over a vocabulary of 256:
    /// refused within ten tokens, also after many honest sequences.
    #[test]
    fn numbers_that_are_no_log_probabilities_are_refused_within_ten_tokens() {
        let drawn = [-5.3f32, -5.8, -5.1, -6.0, -5.5, -5.6, -5.2, -5.9, -5.4, -5.7];
        for (lie, of) in [("all 0", 0.0f32), ("base 10", std::f32::consts::LOG10_E)] {
            for before in [0, 1000] {
                let mut test = DrawTest::new(ALPHA);
                for _ in 0..before {
                    let honest = drawn.map(|logp| logp - 0.3);
                    assert_eq!(test.add(&honest, &drawn), None);
                }
                let scored = drawn.map(|logp| logp * of);
                let refused = test.add(&scored, &drawn);
                assert!(refused.is_some_and(|tokens| tokens <= 10), "{lie} after {before}: {refused:?}");
            }
        }
        // The token that is refused is counted.
        assert_eq!(DrawTest::new(ALPHA).add(&[0.0, 100.0, 0.0], &[0.0; 3]), Some(2));
    }
}
