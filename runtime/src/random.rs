//! Random numbers without state: a draw is a function of its purpose and place, so it depends neither on how
//! work was split into batches nor on which thread came first.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// The purpose of a draw. Purposes never share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Initialise = 1,
    Shuffle = 2,
    Rollout = 3,
    TeacherRollout = 4,
    Evaluate = 5,
    Drop = 6,
    Sample = 7,
    /// Random selections by an objective.
    Select = 9,
    /// Which of several sources a sequence comes from.
    Mix = 10,
    /// Seeds of environments.
    Environment = 11,
    /// Turns of panels.
    Debate = 12,
    /// Answers to the benchmark that judges extrapolated weights.
    Judge = 13,
    /// Completions of other models whose correctness an objective reads.
    Attempt = 14,
    /// Feedback that models write about completions.
    Feedback = 15,
    /// Derived prompts: the texts that teachers write for them, and the order of their parts.
    Derived = 16,
    /// Values of `learned` settings.
    Learned = 17,
    /// Completions that measure prompts, to choose among them.
    Measure = 18,
    /// Teachers' continuations of the student's blocks.
    Agreement = 19,
    /// The division of a batch into mini-batches.
    MiniBatch = 20,
}

/// A family of streams: one per pair of indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key([u64; 4]);

impl Key {
    /// `stream` selects the stage (or the domain, for evaluation), `step` the training step or epoch.
    pub fn new(seed: u64, stream: u64, purpose: Purpose, step: u64) -> Key {
        Key([seed, stream, purpose as u64, step])
    }

    /// A key from secret bytes: without them, its numbers can't be predicted.
    pub fn of_secret(bytes: [u8; 32]) -> Key {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Key(words)
    }

    /// The key of a further turn of the same step; the first is 0.
    pub fn turn(self, turn: u32) -> Key {
        let Key([seed, stream, purpose, step]) = self;
        Key([seed, stream, purpose, step | u64::from(turn) << 32])
    }

    /// The uniforms of one row: `(prompt, sample)` for rollouts. Draw `i` belongs to position `i`.
    pub fn row(self, prompt: u32, sample: u32) -> Uniforms {
        let mut seed = [0; 32];
        for (bytes, word) in seed.chunks_exact_mut(8).zip(self.0) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let mut generator = ChaCha8Rng::from_seed(seed);
        generator.set_stream(u64::from(prompt) << 32 | u64::from(sample));
        Uniforms(generator)
    }
}

/// One stream of numbers.
pub struct Uniforms(ChaCha8Rng);

impl Uniforms {
    /// The same numbers from draw `i` on, where each takes one draw.
    pub fn from_draw(mut self, i: u64) -> Uniforms {
        self.0.set_word_pos(2 * u128::from(i));
        self
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in 0..n.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.0.next_u64()) * n as u128) >> 64) as usize
    }

    /// Two independent standard normals (Box-Muller).
    pub fn normals(&mut self) -> [f64; 2] {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        let angle = std::f64::consts::TAU * self.uniform();
        [radius * angle.cos(), radius * angle.sin()]
    }
}

/// A random order of 0..n (Fisher and Yates).
pub fn permutation(mut uniforms: Uniforms, n: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n as u32).collect();
    for last in (1..n).rev() {
        order.swap(last, uniforms.below(last + 1));
    }
    order
}

/// A stream number from text, stable across platforms and versions.
pub fn stream_of(text: &str) -> u64 {
    let hash = blake3::hash(text.as_bytes());
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_does_not_depend_on_other_rows() {
        let key = Key::new(1, 2, Purpose::Rollout, 3);
        let alone: Vec<f64> = {
            let mut row = key.row(5, 6);
            (0..100).map(|_| row.uniform()).collect()
        };
        let mut other = key.row(5, 7);
        let mut again = key.row(5, 6);
        for value in alone {
            assert_ne!(other.uniform(), value);
            assert_eq!(again.uniform(), value);
        }
    }

    #[test]
    fn a_row_can_be_read_from_any_draw_on() {
        let key = Key::new(1, 2, Purpose::Drop, 0);
        let mut row = key.row(3, 0);
        let all: Vec<f64> = (0..300).map(|_| row.uniform()).collect();
        for first in [0, 1, 7, 8, 255] {
            let mut from = key.row(3, 0).from_draw(first as u64);
            assert_eq!((from.uniform(), from.uniform()), (all[first], all[first + 1]), "{first}");
        }
    }

    #[test]
    fn every_part_of_the_key_counts() {
        let draw = |key: Key, prompt, sample| key.row(prompt, sample).uniform();
        let base = draw(Key::new(1, 2, Purpose::Rollout, 3), 4, 5);
        for other in [
            draw(Key::new(9, 2, Purpose::Rollout, 3), 4, 5),
            draw(Key::new(1, 9, Purpose::Rollout, 3), 4, 5),
            draw(Key::new(1, 2, Purpose::Evaluate, 3), 4, 5),
            draw(Key::new(1, 2, Purpose::Rollout, 9), 4, 5),
            draw(Key::new(1, 2, Purpose::Rollout, 3).turn(1), 4, 5),
            draw(Key::new(1, 2, Purpose::Rollout, 3), 9, 5),
            draw(Key::new(1, 2, Purpose::Rollout, 3), 4, 9),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn moments_of_uniforms_and_normals() {
        let n = 20_000;
        let mut row = Key::new(0, 0, Purpose::Initialise, 0).row(0, 0);
        let mean = (0..n).map(|_| row.uniform()).sum::<f64>() / n as f64;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        let normals: Vec<f64> = (0..n).flat_map(|_| row.normals()).collect();
        let mean = normals.iter().sum::<f64>() / normals.len() as f64;
        let variance = normals.iter().map(|x| x * x).sum::<f64>() / normals.len() as f64;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
    }

    #[test]
    fn a_permutation_holds_everything_once() {
        let key = Key::new(0, 0, Purpose::Shuffle, 0);
        let mut order = permutation(key.row(0, 0), 100);
        assert_ne!(order, permutation(key.row(1, 0), 100));
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<u32>>());
    }
}
