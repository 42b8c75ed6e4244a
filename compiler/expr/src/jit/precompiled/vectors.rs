//! Float operations as instructions for vectors of 512 and of 256 bits.

use std::arch::x86_64::*;

use mopd_ops::f32_ops::{CompareOp, FloatOps};

use super::Elementary;
use crate::graph::signals::Function;

/// The operations of both widths, by instruction; the masks, which differ, are given as code.
macro_rules! vectors {
    (
        $name:ident: $number:ty, $integer:ty, $truth:ty, $lanes:literal;
        $set:ident $load:ident $store:ident
        $add:ident $sub:ident $mul:ident $div:ident $sqrt:ident $fmadd:ident $min:ident $max:ident
        $bits:ident $number_of_bits:ident $set_integer:ident $add_integer:ident $sub_integer:ident
        $and_integer:ident $or_integer:ident $xor_integer:ident $shift_left:ident $shift_right:ident
        $convert:ident;
        floor($fx:ident) $floor:expr;
        compare($ca:ident, $cb:ident) $compare:ident;
        integer_greater($ga:ident, $gb:ident) $greater:expr;
        select($st:ident, $sa:ident, $sb:ident) $select:expr;
        any($at:ident) $any:expr;
        not($nt:ident) $not:expr;
        and($aa:ident, $ab:ident) $and:expr;
        or($oa:ident, $ob:ident) $or:expr;
    ) => {
        /// Created only in loops whose caller has checked that the processor has the instructions.
        struct $name<const FUSED: bool>;

        #[expect(
            clippy::undocumented_unsafe_blocks,
            reason = "of each the same: a value exists only where the processor has the instructions"
        )]
        impl<const FUSED: bool> FloatOps for $name<FUSED> {
            type Number = $number;
            type Integer = $integer;
            type Truth = $truth;

            #[inline(always)]
            fn number(&mut self, value: f32) -> $number {
                unsafe { $set(value) }
            }

            #[inline(always)]
            fn add(&mut self, a: $number, b: $number) -> $number {
                unsafe { $add(a, b) }
            }

            #[inline(always)]
            fn subtract(&mut self, a: $number, b: $number) -> $number {
                unsafe { $sub(a, b) }
            }

            #[inline(always)]
            fn multiply(&mut self, a: $number, b: $number) -> $number {
                unsafe { $mul(a, b) }
            }

            #[inline(always)]
            fn divide(&mut self, a: $number, b: $number) -> $number {
                unsafe { $div(a, b) }
            }

            #[inline(always)]
            fn square_root(&mut self, x: $number) -> $number {
                unsafe { $sqrt(x) }
            }

            #[inline(always)]
            fn negate(&mut self, x: $number) -> $number {
                let (bits, sign) = (self.bits(x), self.integer(i32::MIN));
                self.number_of_bits(unsafe { $xor_integer(bits, sign) })
            }

            #[inline(always)]
            fn absolute(&mut self, x: $number) -> $number {
                let (bits, rest) = (self.bits(x), self.integer(i32::MAX));
                self.number_of_bits(unsafe { $and_integer(bits, rest) })
            }

            #[inline(always)]
            fn floor(&mut self, $fx: $number) -> $number {
                unsafe { $floor }
            }

            #[inline(always)]
            fn fused(&self) -> bool {
                FUSED
            }

            #[inline(always)]
            fn multiply_add(&mut self, a: $number, b: $number, c: $number) -> $number {
                if FUSED {
                    return unsafe { $fmadd(a, b, c) };
                }
                let product = self.multiply(a, b);
                self.add(product, c)
            }

            /// The instruction returns its second operand where one is NaN or both are 0.
            #[inline(always)]
            fn smaller(&mut self, a: $number, b: $number) -> $number {
                unsafe { $min(a, b) }
            }

            /// The instruction returns its second operand where one is NaN or both are 0.
            #[inline(always)]
            fn larger(&mut self, a: $number, b: $number) -> $number {
                unsafe { $max(a, b) }
            }

            #[inline(always)]
            fn compare(&mut self, how: CompareOp, $ca: $number, $cb: $number) -> $truth {
                unsafe {
                    match how {
                        CompareOp::Equal => $compare::<_CMP_EQ_OQ>($ca, $cb),
                        CompareOp::NotEqual => $compare::<_CMP_NEQ_UQ>($ca, $cb),
                        CompareOp::Less => $compare::<_CMP_LT_OQ>($ca, $cb),
                        CompareOp::LessEqual => $compare::<_CMP_LE_OQ>($ca, $cb),
                        CompareOp::Greater => $compare::<_CMP_GT_OQ>($ca, $cb),
                        CompareOp::GreaterEqual => $compare::<_CMP_GE_OQ>($ca, $cb),
                    }
                }
            }

            #[inline(always)]
            fn not(&mut self, $nt: $truth) -> $truth {
                $not
            }

            #[inline(always)]
            fn and(&mut self, $aa: $truth, $ab: $truth) -> $truth {
                $and
            }

            #[inline(always)]
            fn or(&mut self, $oa: $truth, $ob: $truth) -> $truth {
                $or
            }

            #[inline(always)]
            fn select(&mut self, $st: $truth, $sa: $number, $sb: $number) -> $number {
                unsafe { $select }
            }

            #[inline(always)]
            fn except(
                &mut self,
                special: $truth,
                usual: $number,
                compute: impl FnOnce(&mut Self) -> $number,
            ) -> $number {
                let $at = special;
                if $any {
                    let computed = compute(self);
                    return self.select(special, computed, usual);
                }
                usual
            }

            fn call(&mut self, function: Function, x: $number) -> $number {
                let mut lanes = [0.0f32; $lanes];
                unsafe { $store(lanes.as_mut_ptr(), x) };
                let lanes = lanes.map(|x| function.value(&[f64::from(x)]) as f32);
                unsafe { $load(lanes.as_ptr()) }
            }

            #[inline(always)]
            fn bits(&mut self, x: $number) -> $integer {
                unsafe { $bits(x) }
            }

            #[inline(always)]
            fn number_of_bits(&mut self, x: $integer) -> $number {
                unsafe { $number_of_bits(x) }
            }

            #[inline(always)]
            fn integer(&mut self, value: i32) -> $integer {
                unsafe { $set_integer(value) }
            }

            #[inline(always)]
            fn integer_greater(&mut self, $ga: $integer, $gb: $integer) -> $truth {
                unsafe { $greater }
            }

            #[inline(always)]
            fn integer_add(&mut self, a: $integer, b: $integer) -> $integer {
                unsafe { $add_integer(a, b) }
            }

            #[inline(always)]
            fn integer_subtract(&mut self, a: $integer, b: $integer) -> $integer {
                unsafe { $sub_integer(a, b) }
            }

            #[inline(always)]
            fn integer_and(&mut self, a: $integer, b: $integer) -> $integer {
                unsafe { $and_integer(a, b) }
            }

            #[inline(always)]
            fn integer_or(&mut self, a: $integer, b: $integer) -> $integer {
                unsafe { $or_integer(a, b) }
            }

            #[inline(always)]
            fn shift_left(&mut self, a: $integer, by: u8) -> $integer {
                unsafe { $shift_left(a, _mm_cvtsi32_si128(i32::from(by))) }
            }

            #[inline(always)]
            fn shift_right(&mut self, a: $integer, by: u8) -> $integer {
                unsafe { $shift_right(a, _mm_cvtsi32_si128(i32::from(by))) }
            }

            #[inline(always)]
            fn number_of(&mut self, a: $integer) -> $number {
                unsafe { $convert(a) }
            }
        }
    };
}

vectors! {
    Bits512: __m512, __m512i, __mmask16, 16;
    _mm512_set1_ps _mm512_loadu_ps _mm512_storeu_ps
    _mm512_add_ps _mm512_sub_ps _mm512_mul_ps _mm512_div_ps _mm512_sqrt_ps _mm512_fmadd_ps
    _mm512_min_ps _mm512_max_ps
    _mm512_castps_si512 _mm512_castsi512_ps _mm512_set1_epi32 _mm512_add_epi32 _mm512_sub_epi32
    _mm512_and_si512 _mm512_or_si512 _mm512_xor_si512 _mm512_sll_epi32 _mm512_srl_epi32
    _mm512_cvtepi32_ps;
    floor(x) _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(x);
    compare(a, b) _mm512_cmp_ps_mask;
    integer_greater(a, b) _mm512_cmpgt_epi32_mask(a, b);
    select(truth, then, otherwise) _mm512_mask_blend_ps(truth, otherwise, then);
    any(truth) truth != 0;
    not(a) !a;
    and(a, b) a & b;
    or(a, b) a | b;
}

vectors! {
    Bits256: __m256, __m256i, __m256, 8;
    _mm256_set1_ps _mm256_loadu_ps _mm256_storeu_ps
    _mm256_add_ps _mm256_sub_ps _mm256_mul_ps _mm256_div_ps _mm256_sqrt_ps _mm256_fmadd_ps
    _mm256_min_ps _mm256_max_ps
    _mm256_castps_si256 _mm256_castsi256_ps _mm256_set1_epi32 _mm256_add_epi32 _mm256_sub_epi32
    _mm256_and_si256 _mm256_or_si256 _mm256_xor_si256 _mm256_sll_epi32 _mm256_srl_epi32
    _mm256_cvtepi32_ps;
    floor(x) _mm256_floor_ps(x);
    compare(a, b) _mm256_cmp_ps;
    integer_greater(a, b) _mm256_castsi256_ps(_mm256_cmpgt_epi32(a, b));
    select(truth, then, otherwise) _mm256_blendv_ps(otherwise, then, truth);
    any(truth) unsafe { _mm256_movemask_ps(truth) != 0 };
    not(a) unsafe { _mm256_xor_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(-1))) };
    and(a, b) unsafe { _mm256_and_ps(a, b) };
    or(a, b) unsafe { _mm256_or_ps(a, b) };
}

/// # Safety
/// The requirements of [`super::Precompiled`], with AVX-512F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn run_512<P: Elementary, const FUSED: bool>(from: *const f32, to: *mut f32, count: usize) {
    let mut ops = Bits512::<FUSED>;
    let whole = count / 16 * 16;
    for first in (0..whole).step_by(16) {
        // SAFETY: `first + 16` is at most `count`.
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

/// # Safety
/// The requirements of [`super::Precompiled`], with AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run_256<P: Elementary, const FUSED: bool>(from: *const f32, to: *mut f32, count: usize) {
    let mut ops = Bits256::<FUSED>;
    let whole = count / 8 * 8;
    for first in (0..whole).step_by(8) {
        // SAFETY: `first + 8` is at most `count`.
        unsafe {
            let result = P::of(&mut ops, _mm256_loadu_ps(from.add(first)));
            _mm256_storeu_ps(to.add(first), result);
        }
    }
    if whole < count {
        let lanes: [i32; 8] = std::array::from_fn(|lane| if lane < count - whole { -1 } else { 0 });
        // SAFETY: the mask has the numbers before `count`.
        unsafe {
            let mask = _mm256_loadu_si256(lanes.as_ptr().cast());
            let result = P::of(&mut ops, _mm256_maskload_ps(from.add(whole), mask));
            _mm256_maskstore_ps(to.add(whole), mask, result);
        }
    }
}
