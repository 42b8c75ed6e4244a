//! Rows times outputs with AVX-512: 32 registers of sixteen lanes.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use half::bf16;

use super::{PrefetchCursor, Register, Registers, Sums};
use crate::lanes::LANES;
use crate::lines::LINE;

/// The sum of each register's lanes: `((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))`, where
/// `s0 = l0 + l8` and so on. For one register alone, it would take longer than its products. Registers that
/// are known to be zero at compile time cost nothing.
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
#[inline]
fn sums_of_sixteen(lanes: &[__m512; 16]) -> __m512 {
    // Each step adds one half of the lanes to the other half, of two registers at a time: one operand blends
    // a half of each, the other has the opposite halves. `a + b` is `b + a` to the bit.
    let across = _mm512_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23);
    let mut halves = [_mm512_setzero_ps(); 8];
    // Loops over indices, because the standard library's iterators would be compiled for narrower registers
    // and called.
    let mut place = 0;
    while place < 8 {
        let (a, b) = (lanes[2 * place], lanes[2 * place + 1]);
        let kept = _mm512_mask_blend_ps(0b11111111_00000000, a, b);
        halves[place] = _mm512_add_ps(kept, _mm512_permutex2var_ps(a, across, b));
        place += 1;
    }
    // Within eight lanes each: adjacent lanes.
    let across = _mm512_setr_epi32(1, 16, 3, 18, 5, 20, 7, 22, 9, 24, 11, 26, 13, 28, 15, 30);
    let mut quarters = [_mm512_setzero_ps(); 4];
    place = 0;
    while place < 4 {
        let (a, b) = (halves[2 * place], halves[2 * place + 1]);
        let kept = _mm512_mask_blend_ps(0b10101010_10101010, a, b);
        quarters[place] = _mm512_add_ps(kept, _mm512_permutex2var_ps(a, across, b));
        place += 1;
    }
    // Lanes at distance 2.
    let across = _mm512_setr_epi32(2, 3, 16, 17, 6, 7, 20, 21, 10, 11, 24, 25, 14, 15, 28, 29);
    let mut eighths = [_mm512_setzero_ps(); 2];
    place = 0;
    while place < 2 {
        let (a, b) = (quarters[2 * place], quarters[2 * place + 1]);
        let kept = _mm512_mask_blend_ps(0b11001100_11001100, a, b);
        eighths[place] = _mm512_add_ps(kept, _mm512_permutex2var_ps(a, across, b));
        place += 1;
    }
    // Lanes at distance 4. Each sum is now in the lane whose index has the bits of its register's index, in
    // the order of these steps.
    let across = _mm512_setr_epi32(4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 24, 25, 26, 27);
    let [a, b] = eighths;
    let kept = _mm512_mask_blend_ps(0b11110000_11110000, a, b);
    let sums = _mm512_add_ps(kept, _mm512_permutex2var_ps(a, across, b));
    let order = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
    _mm512_permutexvar_ps(order, sums)
}

/// The lane sums of the first `count` registers. The count does not change the order of a sum.
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
#[inline]
fn reduce(registers: &[__m512; 32], count: usize, sums: &mut Sums) {
    let ((registers, _), (sums, _)) = (registers.as_chunks::<16>(), sums.as_chunks_mut::<16>());
    let mut at = 0;
    while at < count.div_ceil(16) {
        // SAFETY: there are sixteen places.
        unsafe { _mm512_storeu_ps(sums[at].as_mut_ptr(), sums_of_sixteen(&registers[at])) };
        at += 1;
    }
}

/// Defines a tile for one storage type, of which `wide` numbers fill a register. `whole` loads a full
/// register, `some` those of a mask.
macro_rules! tile {
    ($(#[$doc:meta])* $name:ident of $number:ty, $wide:expr, features $features:literal,
     whole $whole:expr, some $some:expr, mask $mask:ty, add $add:expr) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// Unless `part` begins at 0, `carried` is as the same tile left it for the preceding inputs.
        #[target_feature(enable = $features)]
        #[allow(clippy::needless_range_loop, reason = "iterators are compiled for smaller registers")]
        pub unsafe fn $name<const R: usize, const O: usize>(
            (x, stride): (&[$number], usize),
            weights: &[$number],
            part: Range<usize>,
            ahead: &mut PrefetchCursor,
            carried: &mut MaybeUninit<Registers>,
            sums: &mut Sums,
        ) {
            let inputs = weights.len() / O;
            assert!(stride >= inputs && x.len() >= (R - 1) * stride + inputs);
            assert!(weights.len() == O * inputs && part.end <= inputs);
            let carried = carried.as_mut_ptr().cast::<Register>();
            let (mut of_rows, mut of_outputs) = ([x.as_ptr(); R], [weights.as_ptr(); O]);
            for row in 0..R {
                of_rows[row] = x[row * stride..].as_ptr();
            }
            for output in 0..O {
                of_outputs[output] = weights[output * inputs..].as_ptr();
            }
            let mut lanes = [[_mm512_setzero_ps(); O]; R];
            if part.start > 0 {
                for row in 0..R {
                    for output in 0..O {
                        // SAFETY: by the caller's promise.
                        lanes[row][output] = unsafe { _mm512_load_ps(carried.add(row * O + output).cast()) };
                    }
                }
            }
            // A copy that stays in registers.
            let mut own = *ahead;
            let mut first = part.start;
            while part.end - first >= $wide {
                own.prefetch(O * LINE);
                let mut weight = [_mm512_setzero_ps(); O];
                let mut output = 0;
                while output < O {
                    // SAFETY: each output has so many numbers left.
                    weight[output] = unsafe { ($whole)(of_outputs[output].add(first)) };
                    output += 1;
                }
                let mut row = 0;
                while row < R {
                    // SAFETY: so has each row.
                    let x = unsafe { ($whole)(of_rows[row].add(first)) };
                    let mut output = 0;
                    while output < O {
                        lanes[row][output] = ($add)(lanes[row][output], x, weight[output]);
                        output += 1;
                    }
                    row += 1;
                }
                first += $wide;
            }
            *ahead = own;
            if first < part.end {
                let mask: $mask = (1 << (part.end - first)) - 1;
                for row in 0..R {
                    // SAFETY: lanes beyond the part are masked out, and masked lanes are not read.
                    let x = unsafe { ($some)(mask, of_rows[row].add(first)) };
                    for output in 0..O {
                        // SAFETY: as above.
                        let weight = unsafe { ($some)(mask, of_outputs[output].add(first)) };
                        lanes[row][output] = ($add)(lanes[row][output], x, weight);
                    }
                }
            }
            if part.end < inputs {
                for row in 0..R {
                    for output in 0..O {
                        // SAFETY: there are as many places.
                        unsafe { _mm512_store_ps(carried.add(row * O + output).cast(), lanes[row][output]) };
                    }
                }
                return;
            }
            let mut in_order = [_mm512_setzero_ps(); 32];
            for row in 0..R {
                for output in 0..O {
                    in_order[row * O + output] = lanes[row][output];
                }
            }
            reduce(&in_order, R * O, sums);
        }
    };
}

tile! {
    /// Multiplies `R` rows with `O` outputs, whose weights are contiguous. `ahead` prefetches later ones.
    f32_tile of f32, LANES, features "avx512f,avx512bw,avx512dq",
    whole |place: *const f32| _mm512_loadu_ps(place),
    some |mask, place: *const f32| _mm512_maskz_loadu_ps(mask, place),
    mask u16,
    add |sum, x, weight| _mm512_fmadd_ps(x, weight, sum)
}

tile! {
    /// The same for bf16.
    bf16_tile of bf16, 2 * LANES, features "avx512f,avx512bw,avx512dq,avx512bf16",
    whole |place: *const bf16| _mm512_castsi512_ps(_mm512_loadu_epi16(place.cast())),
    some |mask, place: *const bf16| _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(mask, place.cast())),
    mask u32,
    add |sum, x: __m512, weight: __m512| {
        // SAFETY: both are 512 bits without invalid values; the other type only names what they hold.
        let [x, weight] = unsafe { [x, weight].map(|of| std::mem::transmute::<__m512, __m512bh>(of)) };
        _mm512_dpbf16_ps(sum, x, weight)
    }
}
