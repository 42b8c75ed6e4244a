//! Paged attention with AVX2 and FMA: sixteen registers of eight lanes hold the sums of several keys or
//! values at a time.
//!
//! Pages are anywhere in memory, and the hardware prefetcher stops at 4 KiB, not much more than one head's
//! keys in a page. So the next page's keys are prefetched while those of this page are read.

use std::arch::x86_64::*;

use super::{AttendedKeysValues, pages_of, prefetch, softmax};
use crate::registers::{LoadF32, sums_of_eight};

const LANES: usize = 8;

/// Attention of `Q` queries, `[Q, width]`; `width` is a multiple of a register's lanes. Multiplies `K` keys
/// and sums `R` registers of values at a time.
#[target_feature(enable = "avx2,fma")]
pub fn attend<const Q: usize, const K: usize, const R: usize, T: LoadF32>(
    queries: &[f32],
    seen: AttendedKeysValues<T>,
    scratch: &mut Vec<f32>,
    attended: &mut [f32],
) {
    let AttendedKeysValues { width, cached, places: [start, end], scores } = seen;
    let (range, places) = (start..end, end - start);
    assert!(width.is_multiple_of(LANES) && queries.len() == Q * width && attended.len() == Q * width);
    // For each query, a number per position.
    scratch.resize(Q * places, 0.0);
    let mut first = 0;
    for page in pages_of(&range) {
        // SAFETY: readable by the promise of the caller of `super::attend`.
        let keys = unsafe { cached.piece(0, page, &range) };
        let next = cached.ahead(0, page, &range);
        let count = keys.len() / width;
        let mut key = 0;
        while key < count {
            let together = if count - key < K { 1 } else { K };
            let (keys, next) = (&keys[key * width..(key + together) * width], next.wrapping_add(key * width));
            let mut products = [[0.0; K]; Q];
            if together == K {
                multiply::<Q, K, T>(queries, keys, next, &mut products);
            } else {
                let mut one = [[0.0]; Q];
                multiply::<Q, 1, T>(queries, keys, next, &mut one);
                for (products, [one]) in products.iter_mut().zip(one) {
                    products[0] = one;
                }
            }
            for (query, products) in products.iter().enumerate() {
                let to = &mut scratch[query * places + first + key..][..together];
                for (to, product) in to.iter_mut().zip(products) {
                    *to = product * scores.scale as f32;
                }
            }
            key += together;
        }
        first += count;
    }
    let mut totals = [0.0; Q];
    for (weights, total) in scratch.chunks_exact_mut(places).zip(&mut totals) {
        *total = softmax(weights, scores.softcap);
    }
    attended.fill(0.0);
    let mut first = 0;
    for page in pages_of(&range) {
        // SAFETY: as above.
        let values = unsafe { cached.piece(1, page, &range) };
        let next = cached.ahead(1, page, &range);
        let weights = &scratch[first..];
        let mut at = 0;
        while at < width {
            if width - at < R * LANES {
                accumulate::<Q, 1, T>(weights, places, values, next, at, attended);
                at += LANES;
            } else {
                accumulate::<Q, R, T>(weights, places, values, next, at, attended);
                at += R * LANES;
            }
        }
        first += values.len() / width;
    }
    for (attended, total) in attended.chunks_exact_mut(width).zip(totals) {
        attended.iter_mut().for_each(|sum| *sum /= total);
    }
}

/// Products of each query with each of `K` contiguous keys. `next` is the address of the next page's keys.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn multiply<const Q: usize, const K: usize, T: LoadF32>(
    queries: &[f32],
    keys: &[T],
    next: *const T,
    products: &mut [[f32; K]; Q],
) {
    let width = queries.len() / Q;
    assert!(keys.len() == K * width && queries.len() == Q * width && width.is_multiple_of(LANES));
    prefetch(next, K * width, width);
    // Addresses are computed once: bounds checks of every index would take longer than the products.
    let mut query_rows = [queries.as_ptr(); Q];
    let mut key_rows = [keys.as_ptr(); K];
    for (row, place) in query_rows.iter_mut().enumerate() {
        *place = place.wrapping_add(row * width);
    }
    for (row, place) in key_rows.iter_mut().enumerate() {
        *place = place.wrapping_add(row * width);
    }
    let mut sums = [[_mm256_setzero_ps(); K]; Q];
    let mut at = 0;
    while at < width {
        let mut query = [_mm256_setzero_ps(); Q];
        let mut index = 0;
        while index < Q {
            // SAFETY: `at + LANES <= width`, and there are as many queries.
            query[index] = unsafe { _mm256_loadu_ps(query_rows[index].add(at)) };
            index += 1;
        }
        let mut place = 0;
        while place < K {
            // SAFETY: as above, and there are as many keys.
            let key = unsafe { T::load_x8(key_rows[place].add(at)) };
            let mut index = 0;
            while index < Q {
                sums[index][place] = _mm256_fmadd_ps(query[index], key, sums[index][place]);
                index += 1;
            }
            place += 1;
        }
        at += LANES;
    }
    for first in (0..Q * K).step_by(8) {
        let mut eight = [_mm256_setzero_ps(); 8];
        for (index, eight) in (first..Q * K).zip(&mut eight) {
            *eight = sums[index / K][index % K];
        }
        for (index, sum) in (first..Q * K).zip(sums_of_eight(eight)) {
            products[index / K][index % K] = sum;
        }
    }
}

/// Adds the values of a page, times their weights, to `R` registers of every query's sum, from `at` on.
/// `weights` has a number per value, with stride `places` between queries. `next` is the address of the next
/// page's values.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn accumulate<const Q: usize, const R: usize, T: LoadF32>(
    weights: &[f32],
    places: usize,
    values: &[T],
    next: *const T,
    at: usize,
    attended: &mut [f32],
) {
    let width = attended.len() / Q;
    let count = values.len() / width;
    assert!(weights.len() >= (Q - 1) * places + count && at + R * LANES <= width);
    let mut weight_rows = [weights.as_ptr(); Q];
    let mut sum_rows = [attended.as_mut_ptr().wrapping_add(at); Q];
    for row in 0..Q {
        weight_rows[row] = weight_rows[row].wrapping_add(row * places);
        sum_rows[row] = sum_rows[row].wrapping_add(row * width);
    }
    let mut sums = [[_mm256_setzero_ps(); R]; Q];
    for (sums, row) in sums.iter_mut().zip(sum_rows) {
        for (register, sum) in sums.iter_mut().enumerate() {
            // SAFETY: `at + R * LANES <= width`, and there are as many queries.
            *sum = unsafe { _mm256_loadu_ps(row.add(register * LANES)) };
        }
    }
    let (mut value_row, mut next) = (values.as_ptr().wrapping_add(at), next.wrapping_add(at));
    for row in 0..count {
        prefetch(next, R * LANES, width);
        let mut weight = [_mm256_setzero_ps(); Q];
        let mut query = 0;
        while query < Q {
            // SAFETY: each query has as many weights as there are values.
            weight[query] = _mm256_set1_ps(unsafe { *weight_rows[query].add(row) });
            query += 1;
        }
        let mut register = 0;
        while register < R {
            // SAFETY: a row of `values` has `width` numbers, and `at + R * LANES <= width`.
            let value = unsafe { T::load_x8(value_row.add(register * LANES)) };
            let mut query = 0;
            while query < Q {
                sums[query][register] = _mm256_fmadd_ps(weight[query], value, sums[query][register]);
                query += 1;
            }
            register += 1;
        }
        (value_row, next) = (value_row.wrapping_add(width), next.wrapping_add(width));
    }
    for (sums, row) in sums.into_iter().zip(sum_rows) {
        for (register, sum) in sums.into_iter().enumerate() {
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(row.add(register * LANES), sum) };
        }
    }
}
