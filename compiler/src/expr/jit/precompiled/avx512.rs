//! Float operations as instructions of AVX-512F.

use std::arch::x86_64::*;

use super::Program;
use crate::expr::signals::Function;
use mopd_ops::f32_ops::{Comparison, FloatOps};

const LANES: usize = 16;

/// Made only in [`run`], whose caller says that the processor has the instructions.
struct Avx512<const FUSED: bool>;

/// # Safety
/// As [`super::Precompiled`] says; AVX-512F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn run<P: Program, const FUSED: bool>(from: *const f32, to: *mut f32, count: usize) {
    let mut ops = Avx512::<FUSED>;
    let whole = count / LANES * LANES;
    for first in (0..whole).step_by(LANES) {
        // SAFETY: `first + LANES` is at most `count`.
        unsafe {
            let result = P::of(&mut ops, _mm512_loadu_ps(from.add(first)));
            _mm512_storeu_ps(to.add(first), result);
        }
    }
    if whole < count {
        let mask = (1 << (count - whole)) - 1;
        // SAFETY: the mask has the numbers before `count`.
        unsafe {
            let result = P::of(&mut ops, _mm512_maskz_loadu_ps(mask, from.add(whole)));
            _mm512_mask_storeu_ps(to.add(whole), mask, result);
        }
    }
}

// SAFETY of every block below: a value of this type exists only where the processor has the instructions.
impl<const FUSED: bool> FloatOps for Avx512<FUSED> {
    type Number = __m512;
    type Integer = __m512i;
    type Truth = __mmask16;

    #[inline(always)]
    fn number(&mut self, value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn add(&mut self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn subtract(&mut self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn multiply(&mut self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn divide(&mut self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn square_root(&mut self, x: __m512) -> __m512 {
        unsafe { _mm512_sqrt_ps(x) }
    }

    #[inline(always)]
    fn negate(&mut self, x: __m512) -> __m512 {
        let sign = self.integer(i32::MIN);
        let bits = self.bits(x);
        self.number_of_bits(unsafe { _mm512_xor_si512(bits, sign) })
    }

    #[inline(always)]
    fn absolute(&mut self, x: __m512) -> __m512 {
        let rest = self.integer(i32::MAX);
        let bits = self.bits(x);
        self.number_of_bits(unsafe { _mm512_and_si512(bits, rest) })
    }

    #[inline(always)]
    fn floor(&mut self, x: __m512) -> __m512 {
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(x) }
    }

    #[inline(always)]
    fn fused(&self) -> bool {
        FUSED
    }

    #[inline(always)]
    fn multiply_add(&mut self, a: __m512, b: __m512, c: __m512) -> __m512 {
        if FUSED {
            return unsafe { _mm512_fmadd_ps(a, b, c) };
        }
        let product = self.multiply(a, b);
        self.add(product, c)
    }

    /// The instruction gives its second operand where one is NaN or both are 0.
    #[inline(always)]
    fn smaller(&mut self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_min_ps(a, b) }
    }

    /// The instruction gives its second operand where one is NaN or both are 0.
    #[inline(always)]
    fn larger(&mut self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn compare(&mut self, comparison: Comparison, a: __m512, b: __m512) -> __mmask16 {
        unsafe {
            match comparison {
                Comparison::Equal => _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b),
                Comparison::NotEqual => _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(a, b),
                Comparison::Less => _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b),
                Comparison::LessEqual => _mm512_cmp_ps_mask::<_CMP_LE_OQ>(a, b),
                Comparison::Greater => _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b),
                Comparison::GreaterEqual => _mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b),
            }
        }
    }

    #[inline(always)]
    fn not(&mut self, a: __mmask16) -> __mmask16 {
        !a
    }

    #[inline(always)]
    fn and(&mut self, a: __mmask16, b: __mmask16) -> __mmask16 {
        a & b
    }

    #[inline(always)]
    fn or(&mut self, a: __mmask16, b: __mmask16) -> __mmask16 {
        a | b
    }

    #[inline(always)]
    fn select(&mut self, truth: __mmask16, then: __m512, otherwise: __m512) -> __m512 {
        unsafe { _mm512_mask_blend_ps(truth, otherwise, then) }
    }

    #[inline(always)]
    fn except(
        &mut self,
        special: __mmask16,
        usual: __m512,
        compute: impl FnOnce(&mut Self) -> __m512,
    ) -> __m512 {
        if special != 0 {
            let computed = compute(self);
            return self.select(special, computed, usual);
        }
        usual
    }

    fn call(&mut self, function: Function, x: __m512) -> __m512 {
        let mut lanes = [0.0f32; LANES];
        unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), x) };
        let lanes = lanes.map(|x| function.value(&[f64::from(x)]) as f32);
        unsafe { _mm512_loadu_ps(lanes.as_ptr()) }
    }

    #[inline(always)]
    fn bits(&mut self, x: __m512) -> __m512i {
        unsafe { _mm512_castps_si512(x) }
    }

    #[inline(always)]
    fn number_of_bits(&mut self, x: __m512i) -> __m512 {
        unsafe { _mm512_castsi512_ps(x) }
    }

    #[inline(always)]
    fn integer(&mut self, value: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    fn integer_greater(&mut self, a: __m512i, b: __m512i) -> __mmask16 {
        unsafe { _mm512_cmpgt_epi32_mask(a, b) }
    }

    #[inline(always)]
    fn integer_add(&mut self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    fn integer_subtract(&mut self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_sub_epi32(a, b) }
    }

    #[inline(always)]
    fn integer_and(&mut self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(a, b) }
    }

    #[inline(always)]
    fn integer_or(&mut self, a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    fn shift_left(&mut self, a: __m512i, by: u8) -> __m512i {
        unsafe { _mm512_sll_epi32(a, _mm_cvtsi32_si128(i32::from(by))) }
    }

    #[inline(always)]
    fn shift_right(&mut self, a: __m512i, by: u8) -> __m512i {
        unsafe { _mm512_srl_epi32(a, _mm_cvtsi32_si128(i32::from(by))) }
    }

    #[inline(always)]
    fn number_of(&mut self, a: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(a) }
    }
}
