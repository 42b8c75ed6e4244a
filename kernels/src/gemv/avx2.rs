//! Rows times outputs with AVX2 and FMA: sixteen registers of eight lanes.

use std::arch::x86_64::*;

use half::bf16;

use super::{AHEAD, Sums};

const LANES: usize = 8;

/// Numbers that fill a register in single precision.
pub trait LoadF32x8: Copy {
    const ZERO: Self;

    /// # Safety
    /// There are [`LANES`] numbers from `place` on, and the processor has the instructions.
    unsafe fn load(place: *const Self) -> __m256;
}

impl LoadF32x8 for f32 {
    const ZERO: f32 = 0.0;

    #[target_feature(enable = "avx2,fma")]
    #[inline]
    unsafe fn load(place: *const f32) -> __m256 {
        // SAFETY: by the caller's promise.
        unsafe { _mm256_loadu_ps(place) }
    }
}

impl LoadF32x8 for bf16 {
    const ZERO: bf16 = bf16::ZERO;

    #[target_feature(enable = "avx2,fma")]
    #[inline]
    unsafe fn load(place: *const bf16) -> __m256 {
        // SAFETY: by the caller's promise.
        let halves = unsafe { _mm_loadu_si128(place.cast()) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
    }
}

/// `R` rows with `O` outputs. `R * O` sums, `O` weights and a row are in registers at one time.
#[target_feature(enable = "avx2,fma")]
pub fn tile<const R: usize, const O: usize, T: LoadF32x8>(
    x: &[T],
    weights: &[T],
    inputs: usize,
    sums: &mut Sums,
) {
    assert!(x.len() == R * inputs && weights.len() == O * inputs);
    let mut lanes = [[_mm256_setzero_ps(); O]; R];
    let whole = inputs - inputs % LANES;
    // In loops over places: what the library does with iterators is compiled for smaller registers, and
    // called.
    let mut first = 0;
    while first < whole {
        let mut row_of_weights = [_mm256_setzero_ps(); O];
        let mut output = 0;
        while output < O {
            let place = weights.as_ptr().wrapping_add(output * inputs + first);
            // Asking for memory reads none, wherever it is.
            _mm_prefetch::<_MM_HINT_T0>(place.wrapping_byte_add(AHEAD).cast());
            // SAFETY: `first + LANES <= whole`, and the matrix has these outputs.
            row_of_weights[output] = unsafe { T::load(place) };
            output += 1;
        }
        let mut row = 0;
        while row < R {
            // SAFETY: as above, and there are as many rows.
            let x = unsafe { T::load(x.as_ptr().add(row * inputs + first)) };
            let mut output = 0;
            while output < O {
                lanes[row][output] = _mm256_fmadd_ps(x, row_of_weights[output], lanes[row][output]);
                output += 1;
            }
            row += 1;
        }
        first += LANES;
    }
    if whole < inputs {
        for (row, lanes) in lanes.iter_mut().enumerate() {
            let x = rest(&x[row * inputs + whole..(row + 1) * inputs]);
            for (output, lanes) in lanes.iter_mut().enumerate() {
                let weight = rest(&weights[output * inputs + whole..(output + 1) * inputs]);
                *lanes = _mm256_fmadd_ps(x, weight, *lanes);
            }
        }
    }
    // Of eight registers at a time: of one alone, it would take longer than its products. How many there are
    // does not change the order of a sum.
    for first in (0..R * O).step_by(8) {
        let mut eight = [_mm256_setzero_ps(); 8];
        for (index, eight) in (first..R * O).zip(&mut eight) {
            *eight = lanes[index / O][index % O];
        }
        for (index, sum) in (first..R * O).zip(sums_of_eight(eight)) {
            sums[index] = sum;
        }
    }
}

/// Fewer numbers than fill a register, and zeros.
#[target_feature(enable = "avx2,fma")]
fn rest<T: LoadF32x8>(numbers: &[T]) -> __m256 {
    let mut filled = [T::ZERO; LANES];
    filled[..numbers.len()].copy_from_slice(numbers);
    // SAFETY: there are as many.
    unsafe { T::load(filled.as_ptr()) }
}

/// Of each register, the sum of its lanes.
#[target_feature(enable = "avx2")]
#[inline]
fn sums_of_eight([a, b, c, d, e, f, g, h]: [__m256; 8]) -> [f32; 8] {
    let low = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    let high = _mm256_hadd_ps(_mm256_hadd_ps(e, f), _mm256_hadd_ps(g, h));
    let sums =
        _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high));
    // SAFETY: both are eight floats of 32 bits.
    unsafe { std::mem::transmute::<__m256, [f32; 8]>(sums) }
}
