//! Paged attention with AVX-512, for several queries that share keys and values: each key and value is read
//! once for all of them, and sums stay in registers. Loops that the compiler vectorises, one query after the
//! other, take two and a half times as long.

use std::arch::x86_64::*;

use super::{AttendedKeysValues, PAGE, pages_of, prefetch, softmax};
use crate::lanes::LANES;
use crate::registers::LoadF32;

/// The scores of a page fit in one register.
const _: () = assert!(PAGE <= LANES);

/// Most registers of values that are summed at a time.
const SPAN: usize = 4;

/// Attention of `Q` queries, `[Q, width]`; `width` is a multiple of a register's lanes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub fn attend<const Q: usize, T: LoadF32>(
    queries: &[f32],
    seen: AttendedKeysValues<T>,
    scratch: &mut Vec<f32>,
    attended: &mut [f32],
) {
    let AttendedKeysValues { width, cached, places: [start, end], scores } = seen;
    let (range, places) = (start..end, end - start);
    assert!(width.is_multiple_of(LANES) && queries.len() == Q * width && attended.len() == Q * width);
    // `[Q, room]`: for each query, a number per position, and space for a full register at the last page.
    let room = places.next_multiple_of(LANES) + LANES;
    scratch.resize(Q * room, 0.0);
    let scale = _mm512_set1_ps(scores.scale as f32);
    let mut first = 0;
    for page in pages_of(&range) {
        // SAFETY: the caller of `super::attend` promised that they can be read.
        let keys = unsafe { cached.piece(0, page, &range) };
        let next = cached.ahead(0, page, &range);
        let count = keys.len() / width;
        assert!(count <= LANES);
        let mut lanes = [[_mm512_setzero_ps(); LANES]; Q];
        for place in 0..count {
            prefetch(next.wrapping_add(place * width), width, width);
            let mut sums = [_mm512_setzero_ps(); Q];
            for at in (0..width).step_by(LANES) {
                // SAFETY: `place < count` and `at + LANES <= width`, here and for the queries.
                let key = unsafe { T::load_x16(keys.as_ptr().add(place * width + at)) };
                for (index, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: as above.
                    let query = unsafe { _mm512_loadu_ps(queries.as_ptr().add(index * width + at)) };
                    *sum = _mm512_fmadd_ps(query, key, *sum);
                }
            }
            for (lanes, sum) in lanes.iter_mut().zip(sums) {
                lanes[place] = sum;
            }
        }
        for (index, lanes) in lanes.iter().enumerate() {
            let scores = _mm512_mul_ps(sums_of(lanes), scale);
            // SAFETY: `first` is a position, and each query has space for a register after the last one.
            unsafe { _mm512_storeu_ps(scratch.as_mut_ptr().add(index * room + first), scores) };
        }
        first += count;
    }
    let mut totals = [0.0; Q];
    for (weights, total) in scratch.chunks_exact_mut(room).zip(&mut totals) {
        *total = softmax(&mut weights[..places], scores.softcap);
    }
    let mut at = 0;
    while at < width {
        let registers = ((width - at) / LANES).min(SPAN);
        // SAFETY: there are as many registers from `at` on in every row, and a weight of each query for every
        // place.
        unsafe {
            match registers {
                1 => means::<Q, 1, T>(scratch, room, &totals, seen, at, attended),
                2 => means::<Q, 2, T>(scratch, room, &totals, seen, at, attended),
                3 => means::<Q, 3, T>(scratch, room, &totals, seen, at, attended),
                _ => means::<Q, SPAN, T>(scratch, room, &totals, seen, at, attended),
            }
        }
        at += registers * LANES;
    }
}

/// `R` registers of every query's output, from `at` on.
///
/// # Safety
/// `weights` is `[Q, room]` with at least as much room as there are places, `attended` is `[Q, width]`, and
/// `at + R * LANES <= width`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn means<const Q: usize, const R: usize, T: LoadF32>(
    weights: &[f32],
    room: usize,
    totals: &[f32; Q],
    seen: AttendedKeysValues<T>,
    at: usize,
    attended: &mut [f32],
) {
    let AttendedKeysValues { width, cached, places: [start, end], .. } = seen;
    let range = start..end;
    let mut sums = [[_mm512_setzero_ps(); R]; Q];
    let mut place = 0;
    for page in pages_of(&range) {
        // SAFETY: the caller of `super::attend` promised that they can be read.
        let values = unsafe { cached.piece(1, page, &range) };
        let mut next = cached.ahead(1, page, &range).wrapping_add(at);
        for values in values.chunks_exact(width) {
            prefetch(next, R * LANES, width);
            next = next.wrapping_add(width);
            let mut value = [_mm512_setzero_ps(); R];
            for (register, value) in value.iter_mut().enumerate() {
                // SAFETY: by the caller's promise.
                *value = unsafe { T::load_x16(values.as_ptr().add(at + register * LANES)) };
            }
            for (index, sums) in sums.iter_mut().enumerate() {
                // SAFETY: by the caller's promise.
                let weight = _mm512_set1_ps(unsafe { *weights.get_unchecked(index * room + place) });
                for (sum, value) in sums.iter_mut().zip(value) {
                    *sum = _mm512_fmadd_ps(weight, value, *sum);
                }
            }
            place += 1;
        }
    }
    for (index, (sums, total)) in sums.into_iter().zip(totals).enumerate() {
        for (register, sum) in sums.into_iter().enumerate() {
            let mean = _mm512_div_ps(sum, _mm512_set1_ps(*total));
            // SAFETY: by the caller's promise.
            unsafe {
                _mm512_storeu_ps(attended.as_mut_ptr().add(index * width + at + register * LANES), mean)
            };
        }
    }
}

/// The sum of each register's lanes, in the registers' order. Halves of two registers are added at a time, so
/// that every addition uses a full register: for one register alone, the sum would take longer than its
/// products.
#[target_feature(enable = "avx512f")]
fn sums_of(registers: &[__m512; LANES]) -> __m512 {
    // Each register has two halves: of `i` and of `i + 8`.
    let mut halves = [_mm512_setzero_ps(); 8];
    for (i, sum) in halves.iter_mut().enumerate() {
        let (a, b) = (registers[i], registers[i + 8]);
        *sum = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b));
    }
    // Four quarters: of `i`, `i + 8`, `i + 4`, `i + 12`.
    let mut quarters = [_mm512_setzero_ps(); 4];
    for (i, sum) in quarters.iter_mut().enumerate() {
        let (a, b) = (halves[i], halves[i + 4]);
        *sum = _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
    }
    // Each quarter has two numbers of its register and two of the register with index 2 more.
    let mut eighths = [_mm512_setzero_ps(); 2];
    for (i, sum) in eighths.iter_mut().enumerate() {
        let (a, b) = (_mm512_castps_pd(quarters[i]), _mm512_castps_pd(quarters[i + 2]));
        *sum = _mm512_add_ps(
            _mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
            _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)),
        );
    }
    let [a, b] = eighths;
    let sums = _mm512_add_ps(_mm512_shuffle_ps::<0x88>(a, b), _mm512_shuffle_ps::<0xdd>(a, b));
    // A quarter has the registers `i`, `i + 2`, `i + 1`, `i + 3`, where `i` is 0, 8, 4, 12.
    _mm512_permutexvar_ps(_mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15), sums)
}
