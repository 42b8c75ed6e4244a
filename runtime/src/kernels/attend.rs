//! Attention of one new token over what came before it.

use half::bf16;

use super::exp::exp;
use super::{Instructions, Stored, round};

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

/// The mean of the values at `places`, weighted by the softmax of the scores, into `attended`. `scratch` is reused between calls.
pub fn attend(
    query: &[f32],
    kept: &Kept,
    places: std::ops::Range<usize>,
    scores: Scores,
    scratch: &mut Vec<f32>,
    attended: &mut [f32],
) {
    match kept {
        Kept::Single { keys, values } => dispatch(query, keys, values, places, scores, scratch, attended),
        Kept::Half { keys, values } => dispatch(query, keys, values, places, scores, scratch, attended),
    }
}

fn dispatch<T: Stored>(
    query: &[f32],
    keys: &[T],
    values: &[T],
    places: std::ops::Range<usize>,
    scores: Scores,
    scratch: &mut Vec<f32>,
    attended: &mut [f32],
) {
    match Instructions::found() {
        // SAFETY: the processor has the instructions.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 { .. } => unsafe { avx512(query, keys, values, places, scores, scratch, attended) },
        // SAFETY: the processor has the instructions.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2 => unsafe { avx2(query, keys, values, places, scores, scratch, attended) },
        Instructions::Any => plain(query, keys, values, places, scores, scratch, attended),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn avx512<T: Stored>(
    query: &[f32],
    keys: &[T],
    values: &[T],
    places: std::ops::Range<usize>,
    scores: Scores,
    scratch: &mut Vec<f32>,
    attended: &mut [f32],
) {
    plain(query, keys, values, places, scores, scratch, attended);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<T: Stored>(
    query: &[f32],
    keys: &[T],
    values: &[T],
    places: std::ops::Range<usize>,
    scores: Scores,
    scratch: &mut Vec<f32>,
    attended: &mut [f32],
) {
    plain(query, keys, values, places, scores, scratch, attended);
}

#[inline(always)]
fn plain<T: Stored>(
    query: &[f32],
    keys: &[T],
    values: &[T],
    places: std::ops::Range<usize>,
    scores: Scores,
    scratch: &mut Vec<f32>,
    attended: &mut [f32],
) {
    let width = query.len();
    let scale = scores.scale as f32;
    // Not by an iterator that the vector takes in: that is a function of its own, for the smallest registers.
    scratch.resize(places.len(), 0.0);
    for (score, key) in scratch.iter_mut().zip(keys[places.start * width..places.end * width].chunks_exact(width)) {
        *score = product(query, key) * scale;
    }
    if let Some(cap) = scores.softcap {
        for score in scratch.iter_mut() {
            *score = (f64::from(*score) / cap).tanh() as f32 * cap as f32;
        }
    }
    let largest = folded(scratch, f32::NEG_INFINITY, f32::max);
    for score in scratch.iter_mut() {
        *score = exp(*score - largest);
    }
    let total = folded(scratch, 0.0, |sum, score| sum + score);
    attended.fill(0.0);
    let values = values[places.start * width..places.end * width].chunks_exact(width);
    for (weight, value) in scratch.iter().zip(values) {
        for (attended, value) in attended.iter_mut().zip(value) {
            *attended += *weight * value.single();
        }
    }
    for attended in attended {
        *attended /= total;
    }
}

/// All numbers as one, in sixteen lanes: one after the other, each would wait for the one before.
#[inline(always)]
fn folded(numbers: &[f32], start: f32, with: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; 16];
    let whole = numbers.chunks_exact(16);
    for (lane, number) in lanes.iter_mut().zip(whole.remainder()) {
        *lane = with(*lane, *number);
    }
    for numbers in whole {
        for (lane, number) in lanes.iter_mut().zip(numbers) {
            *lane = with(*lane, *number);
        }
    }
    across(lanes, with)
}

/// The lanes as one, half of them with the other half.
#[inline(always)]
fn across(mut lanes: [f32; 16], with: impl Fn(f32, f32) -> f32) -> f32 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] = with(lanes[lane], lanes[lane + half]);
        }
    }
    lanes[0]
}

/// In sixteen lanes, so that the compiler can keep the sums in registers.
#[inline(always)]
fn product<T: Stored>(a: &[f32], b: &[T]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (a_whole, b_whole) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = a_whole.remainder().iter().zip(b_whole.remainder()).map(|(a, b)| a * b.single()).sum();
    for (a, b) in a_whole.zip(b_whole) {
        for lane in 0..16 {
            lanes[lane] += a[lane] * b[lane].single();
        }
    }
    across(lanes, |sum, lane| sum + lane) + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attention_equals_the_definition() {
        for (width, capacity, places) in [(4, 3, 0..1), (20, 9, 2..7), (64, 40, 0..40)] {
            let number = |i: usize, seed: usize| ((i * 37 + seed * 11) % 101) as f32 / 25.0 - 2.0;
            let query: Vec<f32> = (0..width).map(|i| number(i, 1)).collect();
            let mut keys: Vec<f32> = (0..capacity * width).map(|i| number(i, 2)).collect();
            let mut values: Vec<f32> = (0..capacity * width).map(|i| number(i, 3)).collect();
            let (key, value): (Vec<f32>, Vec<f32>) =
                ((0..width).map(|i| number(i, 4)).collect(), (0..width).map(|i| number(i, 5)).collect());
            for half in [false, true] {
                let mut halves: [Vec<bf16>; 2] = [&keys, &values].map(|all| all.iter().map(|&x| bf16::from_f32(x)).collect());
                let last = places.end - 1;
                let mut attended = vec![0.0; width];
                for softcap in [None, Some(3.0)] {
                    let scores = Scores { scale: 0.3, softcap };
                    let [half_keys, half_values] = &mut halves;
                    let mut kept = if half {
                        Kept::Half { keys: half_keys, values: half_values }
                    } else {
                        Kept::Single { keys: &mut keys, values: &mut values }
                    };
                    kept.put(last, &key, &value);
                    attend(&query, &kept, places.clone(), scores, &mut Vec::new(), &mut attended);
                    let stored = |single: &[f32], halves: &[bf16], at: usize| {
                        if half { f64::from(halves[at].to_f32()) } else { f64::from(single[at]) }
                    };
                    let [half_keys, half_values] = &halves;
                    let weights: Vec<f64> = places
                        .clone()
                        .map(|place| {
                            let product: f64 =
                                (0..width).map(|i| f64::from(query[i]) * stored(&keys, half_keys, place * width + i)).sum();
                            let score = product * 0.3;
                            softcap.map_or(score, |cap| cap * (score / cap).tanh()).exp()
                        })
                        .collect();
                    let total: f64 = weights.iter().sum();
                    for (i, got) in attended.iter().enumerate() {
                        let mean: f64 = places
                            .clone()
                            .zip(&weights)
                            .map(|(place, weight)| weight / total * stored(&values, half_values, place * width + i))
                            .sum();
                        assert!((f64::from(*got) - mean).abs() < 1e-5, "{width} {half}: {got} {mean}");
                    }
                }
            }
        }
    }
}
