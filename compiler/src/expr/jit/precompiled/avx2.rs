//! Float operations as instructions of AVX2 and FMA.

use std::arch::x86_64::*;

use super::Program;
use crate::expr::signals::Function;
use mopd_ops::f32_ops::{Comparison, FloatOps};

const LANES: usize = 8;

/// Made only in [`run`], whose caller says that the processor has the instructions.
struct Avx2<const FUSED: bool>;

/// # Safety
/// As [`super::Precompiled`] says; AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run<P: Program, const FUSED: bool>(from: *const f32, to: *mut f32, count: usize) {
    let mut ops = Avx2::<FUSED>;
    let whole = count / LANES * LANES;
    for first in (0..whole).step_by(LANES) {
        // SAFETY: `first + LANES` is at most `count`.
        unsafe {
            let result = P::of(&mut ops, _mm256_loadu_ps(from.add(first)));
            _mm256_storeu_ps(to.add(first), result);
        }
    }
    if whole < count {
        let lanes: [i32; LANES] = std::array::from_fn(|lane| if lane < count - whole { -1 } else { 0 });
        // SAFETY: the mask has the numbers before `count`.
        unsafe {
            let mask = _mm256_loadu_si256(lanes.as_ptr().cast());
            let result = P::of(&mut ops, _mm256_maskload_ps(from.add(whole), mask));
            _mm256_maskstore_ps(to.add(whole), mask, result);
        }
    }
}

// SAFETY of every block below: a value of this type exists only where the processor has the instructions.
impl<const FUSED: bool> FloatOps for Avx2<FUSED> {
    type Number = __m256;
    type Integer = __m256i;
    type Truth = __m256;

    #[inline(always)]
    fn number(&mut self, value: f32) -> __m256 {
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    fn add(&mut self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    fn subtract(&mut self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    fn multiply(&mut self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn divide(&mut self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    fn square_root(&mut self, x: __m256) -> __m256 {
        unsafe { _mm256_sqrt_ps(x) }
    }

    #[inline(always)]
    fn negate(&mut self, x: __m256) -> __m256 {
        let sign = self.integer(i32::MIN);
        let bits = self.bits(x);
        self.number_of_bits(unsafe { _mm256_xor_si256(bits, sign) })
    }

    #[inline(always)]
    fn absolute(&mut self, x: __m256) -> __m256 {
        let rest = self.integer(i32::MAX);
        let bits = self.bits(x);
        self.number_of_bits(unsafe { _mm256_and_si256(bits, rest) })
    }

    #[inline(always)]
    fn floor(&mut self, x: __m256) -> __m256 {
        unsafe { _mm256_floor_ps(x) }
    }

    #[inline(always)]
    fn fused(&self) -> bool {
        FUSED
    }

    #[inline(always)]
    fn multiply_add(&mut self, a: __m256, b: __m256, c: __m256) -> __m256 {
        if FUSED {
            return unsafe { _mm256_fmadd_ps(a, b, c) };
        }
        let product = self.multiply(a, b);
        self.add(product, c)
    }

    /// The instruction gives its second operand where one is NaN or both are 0.
    #[inline(always)]
    fn smaller(&mut self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_min_ps(a, b) }
    }

    /// The instruction gives its second operand where one is NaN or both are 0.
    #[inline(always)]
    fn larger(&mut self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    fn compare(&mut self, comparison: Comparison, a: __m256, b: __m256) -> __m256 {
        unsafe {
            match comparison {
                Comparison::Equal => _mm256_cmp_ps::<_CMP_EQ_OQ>(a, b),
                Comparison::NotEqual => _mm256_cmp_ps::<_CMP_NEQ_UQ>(a, b),
                Comparison::Less => _mm256_cmp_ps::<_CMP_LT_OQ>(a, b),
                Comparison::LessEqual => _mm256_cmp_ps::<_CMP_LE_OQ>(a, b),
                Comparison::Greater => _mm256_cmp_ps::<_CMP_GT_OQ>(a, b),
                Comparison::GreaterEqual => _mm256_cmp_ps::<_CMP_GE_OQ>(a, b),
            }
        }
    }

    #[inline(always)]
    fn not(&mut self, a: __m256) -> __m256 {
        unsafe { _mm256_xor_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(-1))) }
    }

    #[inline(always)]
    fn and(&mut self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_and_ps(a, b) }
    }

    #[inline(always)]
    fn or(&mut self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_or_ps(a, b) }
    }

    #[inline(always)]
    fn select(&mut self, truth: __m256, then: __m256, otherwise: __m256) -> __m256 {
        unsafe { _mm256_blendv_ps(otherwise, then, truth) }
    }

    #[inline(always)]
    fn except(
        &mut self,
        special: __m256,
        usual: __m256,
        compute: impl FnOnce(&mut Self) -> __m256,
    ) -> __m256 {
        if unsafe { _mm256_movemask_ps(special) != 0 } {
            let computed = compute(self);
            return self.select(special, computed, usual);
        }
        usual
    }

    fn call(&mut self, function: Function, x: __m256) -> __m256 {
        let mut lanes = [0.0f32; LANES];
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), x) };
        let lanes = lanes.map(|x| function.value(&[f64::from(x)]) as f32);
        unsafe { _mm256_loadu_ps(lanes.as_ptr()) }
    }

    #[inline(always)]
    fn bits(&mut self, x: __m256) -> __m256i {
        unsafe { _mm256_castps_si256(x) }
    }

    #[inline(always)]
    fn number_of_bits(&mut self, x: __m256i) -> __m256 {
        unsafe { _mm256_castsi256_ps(x) }
    }

    #[inline(always)]
    fn integer(&mut self, value: i32) -> __m256i {
        unsafe { _mm256_set1_epi32(value) }
    }

    #[inline(always)]
    fn integer_greater(&mut self, a: __m256i, b: __m256i) -> __m256 {
        unsafe { _mm256_castsi256_ps(_mm256_cmpgt_epi32(a, b)) }
    }

    #[inline(always)]
    fn integer_add(&mut self, a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_add_epi32(a, b) }
    }

    #[inline(always)]
    fn integer_subtract(&mut self, a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_sub_epi32(a, b) }
    }

    #[inline(always)]
    fn integer_and(&mut self, a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_and_si256(a, b) }
    }

    #[inline(always)]
    fn integer_or(&mut self, a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_or_si256(a, b) }
    }

    #[inline(always)]
    fn shift_left(&mut self, a: __m256i, by: u8) -> __m256i {
        unsafe { _mm256_sll_epi32(a, _mm_cvtsi32_si128(i32::from(by))) }
    }

    #[inline(always)]
    fn shift_right(&mut self, a: __m256i, by: u8) -> __m256i {
        unsafe { _mm256_srl_epi32(a, _mm_cvtsi32_si128(i32::from(by))) }
    }

    #[inline(always)]
    fn number_of(&mut self, a: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(a) }
    }
}
