//! Loads and sums of x86 vector registers of f32 numbers.

use std::arch::x86_64::*;

use half::bf16;

use crate::Scalar;

/// A storage type that is loaded into a register as f32.
pub trait LoadF32: Scalar {
    /// # Safety
    /// There are eight numbers from `place` on, and the CPU has the instructions.
    unsafe fn load_x8(place: *const Self) -> __m256;

    /// # Safety
    /// There are sixteen numbers from `place` on, and the CPU has the instructions.
    unsafe fn load_x16(place: *const Self) -> __m512;
}

impl LoadF32 for f32 {
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    unsafe fn load_x8(place: *const f32) -> __m256 {
        // SAFETY: by the caller's promise.
        unsafe { _mm256_loadu_ps(place) }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn load_x16(place: *const f32) -> __m512 {
        // SAFETY: by the caller's promise.
        unsafe { _mm512_loadu_ps(place) }
    }
}

impl LoadF32 for bf16 {
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    unsafe fn load_x8(place: *const bf16) -> __m256 {
        // SAFETY: by the caller's promise.
        let halves = unsafe { _mm_loadu_si128(place.cast()) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn load_x16(place: *const bf16) -> __m512 {
        // SAFETY: by the caller's promise.
        let halves = unsafe { _mm256_loadu_si256(place.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
    }
}

/// The sum of the lanes of each of eight registers. For one register alone, the sum would take longer than
/// the products before it.
#[target_feature(enable = "avx2")]
#[inline]
pub fn sums_of_eight([a, b, c, d, e, f, g, h]: [__m256; 8]) -> [f32; 8] {
    let low = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    let high = _mm256_hadd_ps(_mm256_hadd_ps(e, f), _mm256_hadd_ps(g, h));
    let sums =
        _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high));
    // SAFETY: both are eight floats of 32 bits.
    unsafe { std::mem::transmute::<__m256, [f32; 8]>(sums) }
}
