//! Attention of one new token over the paged cache of keys and values.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
use std::marker::PhantomData;
use std::ops::Range;

use crate::functions::exp;
use crate::lanes::{LANES, folded, summed};
#[cfg(target_arch = "x86_64")]
use crate::lines::LINE;
#[cfg(target_arch = "x86_64")]
pub use crate::registers::LoadF32;
use crate::{CpuFeatures, Scalar, SimdKernel, with_cpu_features};

/// On other architectures, numbers are read one by one.
#[cfg(not(target_arch = "x86_64"))]
pub use Scalar as LoadF32;

/// Most queries per call of a kernel: for more, there are too few registers.
#[cfg(target_arch = "x86_64")]
const QUERIES: usize = 4;

/// Tokens per page. Scores are computed for a register's number of keys at a time, which is one page.
pub const PAGE: usize = LANES;

/// The cached keys and values of one row and one key-value head: `[PAGE, head width]` keys and as many values
/// per page.
pub struct CachedKeysValues<'a, T> {
    pages: &'a [*mut u8],
    /// Offsets of keys and values in every page, in numbers.
    begin: [usize; 2],
    width: usize,
    numbers: PhantomData<&'a mut [T]>,
}

impl<T> Clone for CachedKeysValues<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for CachedKeysValues<'_, T> {}

impl<'a, T: Copy> CachedKeysValues<'a, T> {
    pub fn new(pages: &'a [*mut u8], begin: [usize; 2], width: usize) -> CachedKeysValues<'a, T> {
        CachedKeysValues { pages, begin, width, numbers: PhantomData }
    }

    /// The key and the value at position `place`.
    ///
    /// # Safety
    /// The pages are alive, hold numbers of type `T`, and have the key-value head at the offsets `begin`.
    /// While the slices live, no other code accesses these numbers.
    pub unsafe fn slots(&mut self, place: usize) -> [&'a mut [T]; 2] {
        let page = self.pages[place / PAGE].cast::<T>();
        self.begin.map(|begin| {
            // SAFETY: by the caller's promise.
            unsafe { std::slice::from_raw_parts_mut(page.add(begin + place % PAGE * self.width), self.width) }
        })
    }

    /// The keys (`which` 0) or values (1) of `page` at positions in `places`, of which it has at least one.
    ///
    /// # Safety
    /// As for [`CachedKeysValues::slots`], but other code may read.
    #[inline(always)]
    unsafe fn piece(&self, which: usize, page: usize, places: &Range<usize>) -> &'a [T] {
        let (first, end) = (places.start.max(page * PAGE), places.end.min((page + 1) * PAGE));
        // SAFETY: by the caller's promise.
        unsafe {
            let start =
                self.pages[page].cast::<T>().add(self.begin[which] + (first - page * PAGE) * self.width);
            std::slice::from_raw_parts(start, (end - first) * self.width)
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl<T: Copy> CachedKeysValues<'_, T> {
    /// The address of the next page's keys or values; for the last page, its own.
    #[inline(always)]
    fn ahead(&self, which: usize, page: usize, places: &Range<usize>) -> *const T {
        let next = (page + 1).min(places.end.div_ceil(PAGE) - 1);
        self.pages[next].cast::<T>().wrapping_add(self.begin[which]).cast_const()
    }
}

/// The pages that contain the given positions.
#[inline(always)]
fn pages_of(places: &Range<usize>) -> Range<usize> {
    places.start / PAGE..places.end.div_ceil(PAGE)
}

/// Largest size, in bytes, of a head's keys or values in a page for a prefetch into L1. L1 has few miss
/// buffers, so larger pages are prefetched into L2.
#[cfg(target_arch = "x86_64")]
const NEAR: usize = 2 << 10;

/// Prefetches `count` numbers of rows of `width`. Nothing is read, so `place` may be any address.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn prefetch<T>(place: *const T, count: usize, width: usize) {
    let near = PAGE * width * size_of::<T>() <= NEAR;
    let mut byte = 0;
    while byte < count * size_of::<T>() {
        let line = place.wrapping_byte_add(byte).cast();
        // SAFETY: every CPU that this is compiled for has the instruction.
        unsafe { if near { _mm_prefetch::<_MM_HINT_T0>(line) } else { _mm_prefetch::<_MM_HINT_T1>(line) } };
        byte += LINE;
    }
}

/// The mapping from products of queries and keys to scores.
#[derive(Clone, Copy)]
pub struct ScoreRule {
    pub scale: f64,
    /// `c * tanh(score / c)`
    pub softcap: Option<f64>,
}

/// Attention of the queries of a group: the mean of the values at `places`, weighted by the softmax of the
/// scores. `queries` and `attended` are `[queries, head width]`; all queries share the keys and values.
/// `scratch` is reused between calls.
///
/// # Safety
/// As for [`CachedKeysValues::slots`], but other code may read the keys and values.
pub unsafe fn attend<T: LoadF32>(
    queries: &[f32],
    cached: CachedKeysValues<T>,
    places: Range<usize>,
    scores: ScoreRule,
    scratch: &mut Vec<f32>,
    attended: &mut [f32],
) {
    let width = cached.width;
    assert!(queries.len() == attended.len() && queries.len().is_multiple_of(width));
    assert!(places.start < places.end && places.end <= cached.pages.len() * PAGE);
    AttendedKeysValues { width, cached, places: [places.start, places.end], scores }
        .by(queries, scratch, attended);
}

/// The keys and values that queries attend to.
#[derive(Clone, Copy)]
struct AttendedKeysValues<'a, T: Copy> {
    width: usize,
    /// Readable at `places`, by the promise to [`attend`].
    cached: CachedKeysValues<'a, T>,
    /// Start and end of the range of positions.
    places: [usize; 2],
    scores: ScoreRule,
}

impl<T: LoadF32> AttendedKeysValues<'_, T> {
    fn by(self, queries: &[f32], scratch: &mut Vec<f32>, attended: &mut [f32]) {
        let width = self.width;
        #[cfg(target_arch = "x86_64")]
        if width.is_multiple_of(LANES) {
            let features = CpuFeatures::detect();
            let together = QUERIES * width;
            let parts = queries.chunks(together).zip(attended.chunks_mut(together));
            match features {
                // SAFETY: the processor has the instructions.
                CpuFeatures::Avx512(_) => parts.for_each(|(queries, attended)| unsafe {
                    match queries.len() / width {
                        1 => avx512::attend::<1, T>(queries, self, scratch, attended),
                        2 => avx512::attend::<2, T>(queries, self, scratch, attended),
                        3 => avx512::attend::<3, T>(queries, self, scratch, attended),
                        _ => avx512::attend::<4, T>(queries, self, scratch, attended),
                    }
                }),
                // SAFETY: the processor has the instructions.
                CpuFeatures::Avx2 => parts.for_each(|(queries, attended)| unsafe {
                    match queries.len() / width {
                        1 => avx2::attend::<1, 8, 8, T>(queries, self, scratch, attended),
                        2 => avx2::attend::<2, 4, 4, T>(queries, self, scratch, attended),
                        3 => avx2::attend::<3, 4, 4, T>(queries, self, scratch, attended),
                        _ => avx2::attend::<4, 2, 2, T>(queries, self, scratch, attended),
                    }
                }),
                CpuFeatures::Any => {
                    parts.for_each(|(queries, attended)| self.attend_one_by_one(queries, scratch, attended))
                }
            }
            return;
        }
        self.attend_one_by_one(queries, scratch, attended);
    }

    /// Computes one query after the other.
    fn attend_one_by_one(self, queries: &[f32], scratch: &mut Vec<f32>, attended: &mut [f32]) {
        let width = self.width;
        for (query, attended) in queries.chunks_exact(width).zip(attended.chunks_exact_mut(width)) {
            with_cpu_features(PortableAttention { query, seen: self, scratch: &mut *scratch, attended });
        }
    }
}

/// One query, in loops that the compiler vectorises.
struct PortableAttention<'a, T: Copy> {
    query: &'a [f32],
    seen: AttendedKeysValues<'a, T>,
    scratch: &'a mut Vec<f32>,
    attended: &'a mut [f32],
}

impl<T: Scalar> SimdKernel for PortableAttention<'_, T> {
    #[inline(always)]
    fn run(self) {
        let PortableAttention {
            query,
            seen: AttendedKeysValues { width, cached, places: [first, end], scores },
            scratch,
            attended,
        } = self;
        let places = first..end;
        // Not by extending the vector from an iterator: that would call a function that is compiled for the
        // narrowest registers.
        scratch.resize(places.len(), 0.0);
        let mut done = 0;
        for page in pages_of(&places) {
            // SAFETY: readable by the promise to `attend`.
            let keys = unsafe { cached.piece(0, page, &places) };
            for (score, key) in scratch[done..].iter_mut().zip(keys.chunks_exact(width)) {
                *score = summed(query, key, |query, key| query * key.as_f32()) * scores.scale as f32;
            }
            done += keys.len() / width;
        }
        let total = softmax(scratch, scores.softcap);
        attended.fill(0.0);
        let mut done = 0;
        for page in pages_of(&places) {
            // SAFETY: as above.
            let values = unsafe { cached.piece(1, page, &places) };
            for (weight, value) in scratch[done..].iter().zip(values.chunks_exact(width)) {
                for (attended, value) in attended.iter_mut().zip(value) {
                    *attended += *weight * value.as_f32();
                }
            }
            done += values.len() / width;
        }
        for attended in attended {
            *attended /= total;
        }
    }
}

/// Replaces scores by the exponentials of a softmax, and returns their total, by which they are not divided.
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
    use half::bf16;

    use super::*;

    /// Head widths that fill registers and that don't, as many queries as share keys in published models,
    /// windows, both kinds of numbers.
    #[test]
    fn attention_equals_the_definition() {
        let number = |i: usize, seed: usize| ((i * 37 + seed * 11) % 101) as f32 / 25.0 - 2.0;
        let numbers = |count: usize, seed: usize| (0..count).map(|i| number(i, seed)).collect::<Vec<f32>>();
        for (queries, width, capacity, places) in [
            (1, 4, 3, 0..1),
            (3, 20, 9, 2..7),
            (1, 32, 33, 17..32),
            (2, 24, 33, 0..33),
            (1, 64, 40, 0..40),
            (3, 64, 21, 4..20),
            (7, 80, 37, 0..17),
            (6, 128, 50, 15..50),
        ] {
            let (all, mut keys, mut values) =
                (numbers(queries * width, 1), numbers(capacity * width, 2), numbers(capacity * width, 3));
            let (key, value) = (numbers(width, 4), numbers(width, 5));
            for softcap in [None, Some(3.0)] {
                let scores = ScoreRule { scale: 0.3, softcap };
                let written = [(&mut keys, &key), (&mut values, &value)];
                written.into_iter().for_each(|(all, one)| {
                    all[(places.end - 1) * width..places.end * width].copy_from_slice(one)
                });
                compare::<f32>(&all, [&keys, &values], width, places.clone(), scores);
                compare::<bf16>(&all, [&keys, &values], width, places.clone(), scores);
            }
        }
    }

    fn compare<T: LoadF32>(
        queries: &[f32],
        [keys, values]: [&[f32]; 2],
        width: usize,
        places: Range<usize>,
        scores: ScoreRule,
    ) {
        let block = PAGE * width;
        // NaN stands before, between and after the two blocks.
        let begin = [3, 3 + block + 5];
        let mut pages: Vec<Vec<T>> =
            vec![vec![T::from_f32(f32::NAN); 2 * block + 10]; places.end.div_ceil(PAGE)];
        let starts: Vec<*mut u8> = pages.iter_mut().map(|page| page.as_mut_ptr().cast()).collect();
        let mut cached = CachedKeysValues::<T>::new(&starts, begin, width);
        for place in 0..places.end {
            // SAFETY: the pages have these blocks.
            let slots = unsafe { cached.slots(place) };
            for (slot, numbers) in slots.into_iter().zip([keys, values]) {
                slot.iter_mut()
                    .zip(&numbers[place * width..])
                    .for_each(|(to, from)| *to = T::from_f32(*from));
            }
        }
        let mut attended = vec![f32::NAN; queries.len()];
        // SAFETY: as above.
        unsafe { attend(queries, cached, places.clone(), scores, &mut vec![7.0; 3], &mut attended) };
        let stored = |numbers: &[f32], at: usize| f64::from(T::from_f32(numbers[at]).as_f32());
        for (query, attended) in queries.chunks(width).zip(attended.chunks(width)) {
            let weight = |place: usize| {
                let products = (0..width).map(|i| f64::from(query[i]) * stored(keys, place * width + i));
                let score = products.sum::<f64>() * scores.scale;
                scores.softcap.map_or(score, |cap| cap * (score / cap).tanh()).exp()
            };
            let weights: Vec<f64> = places.clone().map(weight).collect();
            let total: f64 = weights.iter().sum();
            for (i, got) in attended.iter().enumerate() {
                let terms = places.clone().zip(&weights);
                let mean: f64 =
                    terms.map(|(place, weight)| weight / total * stored(values, place * width + i)).sum();
                assert!((f64::from(*got) - mean).abs() < 1e-5, "{} {width}: {got} {mean}", queries.len());
            }
        }
    }
}
