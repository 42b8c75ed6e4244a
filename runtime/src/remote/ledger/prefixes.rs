//! A log-probability depends on the tokens before it and on no others. So sequences with a common prefix must
//! have equal numbers there, whatever follows: numbers that were shifted, permuted, or that come from another
//! request differ. The last token before two sequences part shows the most, because the others may be shifted
//! alike, and the first shows what was moved to the front.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::tokenizer::Token;

/// Most numbers that are remembered; beyond, the table begins again.
const MOST: usize = 1 << 16;
/// Rounding in half precision, and in batches of other sizes, stays below this difference.
const NOISE: f64 = 0.1;
/// Comparisons that are judged together.
const BLOCK: u32 = 16;
/// Differences above this one are reason to ask again.
const SUSPECT: f64 = 0.5;

/// The numbers of one sequence.
pub struct SequenceNumbers<'a> {
    pub prompt: &'a [Token],
    pub completion: &'a [Token],
    /// Which tokens of the completion have numbers; all where absent.
    pub scored: Option<&'a [bool]>,
    /// For each scored token, its log-probability, or another number that depends on it and on the tokens
    /// before it.
    pub of_tokens: Vec<f32>,
    /// For each scored token, a number that depends on the tokens before it only; empty where there is none.
    pub of_prefixes: Vec<f32>,
}

/// The numbers of prefixes so far, and how they differed when they came again.
#[derive(Default)]
pub struct PrefixNumbers {
    /// The number and the sequence that it came with, by a hash of the prefix.
    numbers: HashMap<u64, (f32, u64)>,
    /// Sequences so far.
    sequences: u64,
    compared: u32,
    above_noise: u32,
}

/// The result of a comparison.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrefixDifference {
    pub difference: f64,
    /// How many sequences before this one the other was; 0 for this one itself.
    pub back: u64,
    /// Index of the token in the completion.
    pub token: usize,
}

impl PrefixDifference {
    pub fn is_suspect(self) -> bool {
        self.difference > SUSPECT
    }
}

/// The difference of two sequences from those of the numbers that they share: that of the last number, before
/// they part, that of the first, or the mean. A maximum over many tokens would rise with their number.
fn apart(shared: &[PrefixDifference]) -> Option<PrefixDifference> {
    let (first, last) = (*shared.first()?, *shared.last()?);
    let mean = shared.iter().map(|of| of.difference).sum::<f64>() / shared.len() as f64;
    let mean = PrefixDifference { difference: mean, ..last };
    [first, last, mean].into_iter().max_by(|one, other| one.difference.total_cmp(&other.difference))
}

impl PrefixNumbers {
    /// Compares the numbers of a sequence with those of earlier ones, and remembers them.
    pub fn compare(&mut self, sequence: &SequenceNumbers) -> Option<PrefixDifference> {
        let SequenceNumbers { prompt, completion, scored, of_tokens, of_prefixes } = sequence;
        self.sequences += 1;
        if self.numbers.len() + 2 * completion.len() > MOST {
            self.numbers.clear();
        }
        let mut prefix = DefaultHasher::new();
        prompt.hash(&mut prefix);
        let (mut row, mut shared) = (0, Vec::new());
        for (index, token) in completion.iter().enumerate() {
            let before = prefix.finish();
            token.hash(&mut prefix);
            if scored.is_some_and(|scored| !scored[index]) {
                continue;
            }
            let numbers = [
                // Another key than that of the token before, whose hash is the same.
                (before.rotate_left(32) ^ 1, of_prefixes.get(row)),
                (prefix.finish(), of_tokens.get(row)),
            ];
            row += 1;
            for (key, number) in numbers {
                let Some(number) = number else { continue };
                let (earlier, with) = *self.numbers.entry(key).or_insert((*number, self.sequences));
                if with != self.sequences {
                    let difference = f64::from((earlier - number).abs());
                    shared.push(PrefixDifference { difference, back: self.sequences - with, token: index });
                }
            }
        }
        let found = apart(&shared)?;
        self.compared += 1;
        self.above_noise += u32::from(found.difference > NOISE);
        Some(found)
    }

    /// Whether most of a block of comparisons differ by more than rounding; begins the next block. If one
    /// honest comparison of a hundred does (experts that are routed otherwise in another batch), nine of
    /// sixteen do with a probability of 1e-14.
    pub fn differ(&mut self) -> Option<(u32, u32)> {
        if self.compared < BLOCK {
            return None;
        }
        let (compared, above) = (std::mem::take(&mut self.compared), std::mem::take(&mut self.above_noise));
        (2 * above > compared).then_some((above, compared))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(table: &mut PrefixNumbers, tokens: &[Token], numbers: &[f32]) -> Option<PrefixDifference> {
        table.compare(&SequenceNumbers {
            prompt: &[1, 2],
            completion: tokens,
            scored: None,
            of_tokens: numbers.to_vec(),
            of_prefixes: Vec::new(),
        })
    }

    #[test]
    fn the_last_common_token_is_compared() {
        let mut table = PrefixNumbers::default();
        assert_eq!(add(&mut table, &[5, 6, 7], &[-1.0, -2.0, -3.0]), None);
        assert_eq!(add(&mut table, &[8], &[-1.5]), None);
        let same = add(&mut table, &[5, 6, 9], &[-1.0, -2.0, -4.0]).unwrap();
        assert_eq!((same.difference, same.back, same.token), (0.0, 2, 1));
        // Shifted by a position.
        let shifted = add(&mut table, &[5, 6, 4], &[-2.0, -4.5, -1.0]).unwrap();
        assert_eq!((shifted.difference, shifted.is_suspect()), (2.5, true));
        // The whole sequence again, by other weights.
        let again = add(&mut table, &[5, 6, 7], &[-1.0, -3.5, -3.0]).unwrap();
        assert_eq!(again.difference, 0.5);
    }

    #[test]
    fn tokens_without_numbers_belong_to_the_prefix() {
        let mut table = PrefixNumbers::default();
        let mut masked = |tokens: &[Token], numbers: &[f32]| {
            table.compare(&SequenceNumbers {
                prompt: &[1],
                completion: tokens,
                scored: Some(&[true, false, true]),
                of_tokens: numbers.to_vec(),
                of_prefixes: numbers.iter().map(|number| number + 1.0).collect(),
            })
        };
        assert_eq!(masked(&[5, 6, 7], &[-1.0, -2.0]), None);
        assert_eq!(masked(&[5, 8, 7], &[-1.0, -9.0]).unwrap().difference, 0.0);
        // The last number of the prefix `5, 6`, which the first sequence has, too.
        let most_probable = masked(&[5, 6, 4], &[-1.0, -3.0]).unwrap();
        assert_eq!((most_probable.difference, most_probable.token), (1.0, 2));
    }

    /// Noise of half precision, with a few tokens far off: no alarm in a million comparisons. Every second
    /// number off: an alarm within two blocks.
    #[test]
    fn a_majority_of_a_block_is_an_alarm() {
        let mut table = PrefixNumbers::default();
        let mut state = 7u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / f64::from(1 << 24)
        };
        for _ in 0..1_000_000 {
            table.compared += 1;
            table.above_noise += u32::from(random() < 0.01);
            assert_eq!(table.differ(), None);
        }
        let mut alarms = 0;
        for _ in 0..32 {
            table.compared += 1;
            table.above_noise += u32::from(random() < 0.8);
            alarms += usize::from(table.differ().is_some());
        }
        assert!(alarms > 0);
    }
}
