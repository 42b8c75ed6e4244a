//! Rows times outputs with AVX-512: 32 registers of sixteen lanes.

use std::arch::x86_64::*;

use half::bf16;

use super::avx2::sums_of_eight;
use super::{AHEAD_OF_TILES, Onward};
use crate::lanes::LANES;

/// The sums of eight registers' lanes: of one alone, it would take longer than its products.
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
#[inline]
fn eight_sums(lanes: [__m512; 8]) -> [f32; 8] {
    // In a loop: a closure that the library calls is only inlined by chance, since the library is
    // compiled for smaller registers.
    let mut halves = [_mm256_setzero_ps(); 8];
    for (half, lanes) in halves.iter_mut().zip(lanes) {
        *half = _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps::<1>(lanes));
    }
    sums_of_eight(halves)
}

/// Of all registers of a tile. How many there are does not change the order of a sum.
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
fn reduce<const R: usize, const O: usize>(lanes: &[[__m512; O]; R], sums: &mut [[f32; 4]; 8]) {
    for first in (0..R * O).step_by(8) {
        let mut eight = [_mm512_setzero_ps(); 8];
        for (index, eight) in (first..R * O).zip(&mut eight) {
            *eight = lanes[index / O][index % O];
        }
        for (index, sum) in (first..R * O).zip(eight_sums(eight)) {
            sums[index / O][index % O] = sum;
        }
    }
}

/// Asks for weights before they are needed, into the second cache: the first is full of the rows.
#[target_feature(enable = "avx512f")]
#[inline]
fn prefetch<T>(place: *const T) {
    // Asking for memory reads none, wherever it is.
    _mm_prefetch::<_MM_HINT_T1>(place.cast());
}

/// For tiles, which leave more room.
#[target_feature(enable = "avx512f")]
#[inline]
fn ahead_of_tile<T>(place: *const T) {
    _mm_prefetch::<_MM_HINT_T0>(place.wrapping_byte_add(AHEAD_OF_TILES).cast());
}

/// Output after output, as many as there are places in `sums`: weights are read as they lie.
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
pub fn f32_one_by_one<const R: usize>(
    x: &[f32],
    weights: &[f32],
    inputs: usize,
    onward: Onward,
    sums: &mut [[f32; 8]],
) {
    assert!(x.len() == R * inputs && weights.len() == sums.len() * inputs);
    let begin = weights.as_ptr();
    for (output, (weights, sums)) in weights.chunks_exact(inputs).zip(sums).enumerate() {
        let ahead = onward.ahead(begin, inputs, output);
        let mut lanes = [_mm512_setzero_ps(); 8];
        for first in (0..inputs).step_by(LANES) {
            let mask = if inputs - first >= LANES { u16::MAX } else { (1 << (inputs - first)) - 1 };
            let place = weights.as_ptr().wrapping_add(first);
            prefetch(ahead.wrapping_add(first));
            // SAFETY: lanes beyond the row are masked out, and masked lanes are not read.
            let weight = unsafe { _mm512_maskz_loadu_ps(mask, place) };
            for (row, lanes) in lanes[..R].iter_mut().enumerate() {
                // SAFETY: as above.
                let x = unsafe { _mm512_maskz_loadu_ps(mask, x.as_ptr().add(row * inputs + first)) };
                *lanes = _mm512_fmadd_ps(x, weight, *lanes);
            }
        }
        *sums = eight_sums(lanes);
    }
}

/// The same of bf16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
pub fn bf16_one_by_one<const R: usize>(
    x: &[bf16],
    weights: &[bf16],
    inputs: usize,
    onward: Onward,
    sums: &mut [[f32; 8]],
) {
    assert!(x.len() == R * inputs && weights.len() == sums.len() * inputs);
    let begin = weights.as_ptr();
    for (output, (weights, sums)) in weights.chunks_exact(inputs).zip(sums).enumerate() {
        let ahead = onward.ahead(begin, inputs, output);
        let mut lanes = [_mm512_setzero_ps(); 8];
        for first in (0..inputs).step_by(2 * LANES) {
            let mask = if inputs - first >= 2 * LANES { u32::MAX } else { (1 << (inputs - first)) - 1 };
            let place = weights.as_ptr().wrapping_add(first);
            prefetch(ahead.wrapping_add(first));
            // SAFETY: lanes beyond the row are masked out, and masked lanes are not read.
            let weight = unsafe { _mm512_maskz_loadu_epi16(mask, place.cast()) };
            for (row, lanes) in lanes[..R].iter_mut().enumerate() {
                // SAFETY: as above; both are 512 bits without invalid values, the other type only names
                // what they hold.
                *lanes = unsafe {
                    let x = _mm512_maskz_loadu_epi16(mask, x.as_ptr().add(row * inputs + first).cast());
                    let (x, weight) = (
                        std::mem::transmute::<__m512i, __m512bh>(x),
                        std::mem::transmute::<__m512i, __m512bh>(weight),
                    );
                    _mm512_dpbf16_ps(*lanes, x, weight)
                };
            }
        }
        *sums = eight_sums(lanes);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
pub fn f32_tile<const R: usize, const O: usize>(
    x: &[f32],
    weights: &[f32],
    inputs: usize,
    sums: &mut [[f32; 4]; 8],
) {
    assert!(x.len() == R * inputs && weights.len() == O * inputs);
    let mut lanes = [[_mm512_setzero_ps(); O]; R];
    for first in (0..inputs).step_by(LANES) {
        // All lanes, but at the end those that are left.
        let mask = if inputs - first >= LANES { u16::MAX } else { (1 << (inputs - first)) - 1 };
        let mut row_of_weights = [_mm512_setzero_ps(); O];
        for (output, weight) in row_of_weights.iter_mut().enumerate() {
            let place = weights.as_ptr().wrapping_add(output * inputs + first);
            ahead_of_tile(place);
            // SAFETY: lanes beyond the row are masked out, and masked lanes are not read.
            *weight = unsafe { _mm512_maskz_loadu_ps(mask, place) };
        }
        for (row, lanes) in lanes.iter_mut().enumerate() {
            // SAFETY: as above.
            let x = unsafe { _mm512_maskz_loadu_ps(mask, x.as_ptr().add(row * inputs + first)) };
            for (lanes, weight) in lanes.iter_mut().zip(&row_of_weights) {
                *lanes = _mm512_fmadd_ps(x, *weight, *lanes);
            }
        }
    }
    reduce(&lanes, sums);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
pub fn bf16_tile<const R: usize, const O: usize>(
    x: &[bf16],
    weights: &[bf16],
    inputs: usize,
    sums: &mut [[f32; 4]; 8],
) {
    assert!(x.len() == R * inputs && weights.len() == O * inputs);
    let mut lanes = [[_mm512_setzero_ps(); O]; R];
    for first in (0..inputs).step_by(2 * LANES) {
        let mask = if inputs - first >= 2 * LANES { u32::MAX } else { (1 << (inputs - first)) - 1 };
        let mut row_of_weights = [_mm512_setzero_si512(); O];
        for (output, weight) in row_of_weights.iter_mut().enumerate() {
            let place = weights.as_ptr().wrapping_add(output * inputs + first);
            ahead_of_tile(place);
            // SAFETY: as in `f32_tile`.
            *weight = unsafe { _mm512_maskz_loadu_epi16(mask, place.cast()) };
        }
        for (row, lanes) in lanes.iter_mut().enumerate() {
            // SAFETY: as above.
            let x = unsafe { _mm512_maskz_loadu_epi16(mask, x.as_ptr().add(row * inputs + first).cast()) };
            for (lanes, weight) in lanes.iter_mut().zip(&row_of_weights) {
                // SAFETY: both are 512 bits without invalid values; the other type only names what they
                // hold.
                let (x, weight) = unsafe {
                    (
                        std::mem::transmute::<__m512i, __m512bh>(x),
                        std::mem::transmute::<__m512i, __m512bh>(*weight),
                    )
                };
                *lanes = _mm512_dpbf16_ps(*lanes, x, weight);
            }
        }
    }
    reduce(&lanes, sums);
}
