//! Attention of one new token over what came before it.

#[cfg(target_arch = "x86_64")]
mod x86;

use std::ops::Range;

use half::bf16;

use super::exp::exp;
use super::lanes::{folded, summed};
use super::{Instructions, Loop, Stored, round, with_instructions};
#[cfg(target_arch = "x86_64")]
use x86::Wide;

/// Elsewhere all numbers are read one by one.
#[cfg(not(target_arch = "x86_64"))]
use Stored as Wide;

/// What is kept of one row and one key-value head, `[capacity, head width]`.
pub enum Kept<'a> {
    Single { keys: &'a mut [f32], values: &'a mut [f32] },
    Half { keys: &'a mut [bf16], values: &'a mut [bf16] },
}

impl Kept<'_> {
    /// Writes the key and the value of `place`.
    pub fn put(&mut self, place: usize, key: &[f32], value: &[f32]) {
        let range = place * key.len()..(place + 1) * key.len();
        match self {
            Kept::Single { keys, values } => {
                keys[range.clone()].copy_from_slice(key);
                values[range].copy_from_slice(value);
            }
            Kept::Half { keys, values } => {
                round(key, &mut keys[range.clone()]);
                round(value, &mut values[range]);
            }
        }
    }
}

/// How scores are made of products.
#[derive(Clone, Copy)]
pub struct Scores {
    pub scale: f64,
    /// `c * tanh(score / c)`
    pub softcap: Option<f64>,
}

/// What each query of a group sees: the mean of the values at `places`, weighted by the softmax of the scores. `queries` and `attended`
/// are `[queries, head width]`; all of them read the same keys and values. `scratch` is reused between calls.
pub fn attend(
    queries: &[f32],
    width: usize,
    kept: &Kept,
    places: Range<usize>,
    scores: Scores,
    scratch: &mut Vec<f32>,
    attended: &mut [f32],
) {
    assert!(queries.len() == attended.len() && queries.len().is_multiple_of(width));
    let numbers = places.start * width..places.end * width;
    match kept {
        Kept::Single { keys, values } => {
            Seen { width, keys: &keys[numbers.clone()], values: &values[numbers], scores }.by(queries, scratch, attended);
        }
        Kept::Half { keys, values } => {
            Seen { width, keys: &keys[numbers.clone()], values: &values[numbers], scores }.by(queries, scratch, attended);
        }
    }
}

/// What queries look at: keys and values, `[places, head width]`.
#[derive(Clone, Copy)]
struct Seen<'a, T> {
    width: usize,
    keys: &'a [T],
    values: &'a [T],
    scores: Scores,
}

impl<T: Wide> Seen<'_, T> {
    fn by(self, queries: &[f32], scratch: &mut Vec<f32>, attended: &mut [f32]) {
        let width = self.width;
        #[cfg(target_arch = "x86_64")]
        if matches!(Instructions::found(), Instructions::Avx512 { .. }) && width.is_multiple_of(x86::LANES) {
            let together = x86::QUERIES * width;
            for (queries, attended) in queries.chunks(together).zip(attended.chunks_mut(together)) {
                // SAFETY: the processor has the instructions.
                unsafe {
                    match queries.len() / width {
                        1 => x86::attend::<1, T>(queries, self, scratch, attended),
                        2 => x86::attend::<2, T>(queries, self, scratch, attended),
                        3 => x86::attend::<3, T>(queries, self, scratch, attended),
                        _ => x86::attend::<4, T>(queries, self, scratch, attended),
                    }
                }
            }
            return;
        }
        for (query, attended) in queries.chunks_exact(width).zip(attended.chunks_exact_mut(width)) {
            with_instructions(Plain { query, seen: self, scratch: &mut *scratch, attended });
        }
    }
}

/// One query, in loops that the compiler turns into the processor's instructions.
struct Plain<'a, T> {
    query: &'a [f32],
    seen: Seen<'a, T>,
    scratch: &'a mut Vec<f32>,
    attended: &'a mut [f32],
}

impl<T: Stored> Loop for Plain<'_, T> {
    #[inline(always)]
    fn run(self) {
        let Plain { query, seen: Seen { width, keys, values, scores }, scratch, attended } = self;
        // Not by an iterator that the vector takes in: that is a function of its own, for the smallest registers.
        scratch.resize(keys.len() / width, 0.0);
        for (score, key) in scratch.iter_mut().zip(keys.chunks_exact(width)) {
            *score = summed(query, key, |query, key| query * key.single()) * scores.scale as f32;
        }
        let total = softmax(scratch, scores.softcap);
        attended.fill(0.0);
        for (weight, value) in scratch.iter().zip(values.chunks_exact(width)) {
            for (attended, value) in attended.iter_mut().zip(value) {
                *attended += *weight * value.single();
            }
        }
        for attended in attended {
            *attended /= total;
        }
    }
}

/// The softmax of scores before it is divided by the total, which this answers.
#[inline(always)]
fn softmax(scores: &mut [f32], softcap: Option<f64>) -> f32 {
    if let Some(cap) = softcap {
        for score in scores.iter_mut() {
            *score = (f64::from(*score) / cap).tanh() as f32 * cap as f32;
        }
    }
    let largest = folded(scores, f32::NEG_INFINITY, f32::max);
    for score in scores.iter_mut() {
        *score = exp(*score - largest);
    }
    folded(scores, 0.0, |sum, score| sum + score)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Head widths that fill registers and that don't, as many queries as share keys in published models, windows, both kinds of numbers.
    #[test]
    fn attention_equals_the_definition() {
        let number = |i: usize, seed: usize| ((i * 37 + seed * 11) % 101) as f32 / 25.0 - 2.0;
        let numbers = |count: usize, seed: usize| (0..count).map(|i| number(i, seed)).collect::<Vec<f32>>();
        for (queries, width, capacity, places) in
            [(1, 4, 3, 0..1), (3, 20, 9, 2..7), (1, 64, 40, 0..40), (3, 64, 21, 4..20), (7, 80, 37, 0..17), (6, 128, 50, 15..50)]
        {
            let (all, mut keys, mut values) =
                (numbers(queries * width, 1), numbers(capacity * width, 2), numbers(capacity * width, 3));
            let (key, value) = (numbers(width, 4), numbers(width, 5));
            for (half, softcap) in [(false, None), (false, Some(3.0)), (true, None), (true, Some(3.0))] {
                let mut halves: [Vec<bf16>; 2] = [&keys, &values].map(|all| all.iter().map(|&x| bf16::from_f32(x)).collect());
                let [half_keys, half_values] = &mut halves;
                let mut kept = if half {
                    Kept::Half { keys: half_keys, values: half_values }
                } else {
                    Kept::Single { keys: &mut keys, values: &mut values }
                };
                kept.put(places.end - 1, &key, &value);
                let mut attended = vec![f32::NAN; queries * width];
                attend(&all, width, &kept, places.clone(), Scores { scale: 0.3, softcap }, &mut vec![7.0; 3], &mut attended);
                let stored =
                    |single: &[f32], halves: &[bf16], at: usize| f64::from(if half { halves[at].to_f32() } else { single[at] });
                let [half_keys, half_values] = &halves;
                for (query, attended) in all.chunks(width).zip(attended.chunks(width)) {
                    let weight = |place: usize| {
                        let products = (0..width).map(|i| f64::from(query[i]) * stored(&keys, half_keys, place * width + i));
                        let score = products.sum::<f64>() * 0.3;
                        softcap.map_or(score, |cap| cap * (score / cap).tanh()).exp()
                    };
                    let weights: Vec<f64> = places.clone().map(weight).collect();
                    let total: f64 = weights.iter().sum();
                    for (i, got) in attended.iter().enumerate() {
                        let terms = places.clone().zip(&weights);
                        let mean: f64 =
                            terms.map(|(place, weight)| weight / total * stored(&values, half_values, place * width + i)).sum();
                        assert!((f64::from(*got) - mean).abs() < 1e-5, "{queries} {width} {half}: {got} {mean}");
                    }
                }
            }
        }
    }
}
