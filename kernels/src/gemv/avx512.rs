//! Rows times outputs with AVX-512: 32 registers of sixteen lanes.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use half::bf16;

use super::{Register, Registers, Sums};
use crate::lanes::LANES;
use crate::lines::LINE;

/// Of each register, the sum of its lanes: `((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))`, where
/// `s0 = l0 + l8` and so on. Of one register alone it would take longer than its products.
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
#[inline]
fn sums_of_sixteen(lanes: &[__m512; 16]) -> __m512 {
    let [mut halves, mut quarters, mut eighths] = [[_mm512_setzero_ps(); 8]; 3];
    // In loops over places: what the library does with iterators is compiled for smaller registers, and
    // called.
    let mut place = 0;
    while place < 8 {
        // With the register four places behind it: then the sums come out in order.
        let (a, b) = (lanes[place / 4 * 8 + place % 4], lanes[place / 4 * 8 + place % 4 + 4]);
        let low = _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b);
        let high = _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b);
        halves[place] = _mm512_add_ps(low, high);
        place += 1;
    }
    place = 0;
    while place < 4 {
        quarters[place] = of_neighbours(halves[2 * place], halves[2 * place + 1]);
        place += 1;
    }
    place = 0;
    while place < 2 {
        eighths[place] = of_neighbours(quarters[2 * place], quarters[2 * place + 1]);
        place += 1;
    }
    let even = _mm512_shuffle_f32x4::<0b10_00_10_00>(eighths[0], eighths[1]);
    let odd = _mm512_shuffle_f32x4::<0b11_01_11_01>(eighths[0], eighths[1]);
    _mm512_add_ps(even, odd)
}

/// The sums of each two lanes that stand side by side.
#[target_feature(enable = "avx512f")]
#[inline]
fn of_neighbours(a: __m512, b: __m512) -> __m512 {
    let even = _mm512_shuffle_ps::<0b10_00_10_00>(a, b);
    let odd = _mm512_shuffle_ps::<0b11_01_11_01>(a, b);
    _mm512_add_ps(even, odd)
}

/// The sums of the first so many registers. How many there are does not change the order of a sum.
///
/// # Safety
/// They were written.
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
unsafe fn reduce(registers: *const Register, count: usize, sums: &mut Sums) {
    for first in (0..count).step_by(16) {
        let mut sixteen = [_mm512_setzero_ps(); 16];
        let mut place = 0;
        while place < 16 {
            if first + place < count {
                // SAFETY: by the caller's promise.
                sixteen[place] = unsafe { _mm512_load_ps(registers.add(first + place).cast()) };
            }
            place += 1;
        }
        let to = sums[first..first + 16].as_mut_ptr();
        // SAFETY: there are sixteen places.
        unsafe { _mm512_storeu_ps(to, sums_of_sixteen(&sixteen)) };
    }
}

/// A tile of one kind of number, of which `wide` fill a register. `whole` loads as many, `some` those that a
/// mask has.
macro_rules! tile {
    ($(#[$doc:meta])* $name:ident of $number:ty, $wide:expr, features $features:literal,
     whole $whole:expr, some $some:expr, mask $mask:ty, add $add:expr) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// Where `part` begins later, the same tile left `carried` behind what is before it.
        #[target_feature(enable = $features)]
        #[allow(clippy::needless_range_loop, reason = "iterators are compiled for smaller registers")]
        pub unsafe fn $name<const R: usize, const O: usize>(
            x: &[$number],
            weights: &[$number],
            part: Range<usize>,
            ahead: *const u8,
            carried: &mut MaybeUninit<Registers>,
            sums: &mut Sums,
        ) {
            let inputs = x.len() / R;
            assert!(x.len() == R * inputs && weights.len() == O * inputs && part.end <= inputs);
            let carried = carried.as_mut_ptr().cast::<Register>();
            let (mut of_rows, mut of_outputs) = ([x.as_ptr(); R], [weights.as_ptr(); O]);
            let mut lanes = [[_mm512_setzero_ps(); O]; R];
            for row in 0..R {
                of_rows[row] = x[row * inputs..].as_ptr();
                for output in 0..O {
                    of_outputs[output] = weights[output * inputs..].as_ptr();
                    if part.start > 0 {
                        // SAFETY: by the caller's promise.
                        lanes[row][output] = unsafe { _mm512_load_ps(carried.add(row * O + output).cast()) };
                    }
                }
            }
            let (mut first, mut ahead) = (part.start, ahead);
            while part.end - first >= $wide {
                let mut weight = [_mm512_setzero_ps(); O];
                let mut output = 0;
                while output < O {
                    // Asking for memory reads none, wherever it is.
                    _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                    ahead = ahead.wrapping_add(LINE);
                    // SAFETY: so many numbers are left of each output.
                    weight[output] = unsafe { ($whole)(of_outputs[output].add(first)) };
                    output += 1;
                }
                let mut row = 0;
                while row < R {
                    // SAFETY: as above.
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
            for row in 0..R {
                for output in 0..O {
                    // SAFETY: there are as many places.
                    unsafe { _mm512_store_ps(carried.add(row * O + output).cast(), lanes[row][output]) };
                }
            }
            if part.end == inputs {
                // SAFETY: they were just written.
                unsafe { reduce(carried, R * O, sums) };
            }
        }
    };
}

tile! {
    /// `R` rows with `O` outputs, whose weights lie one behind the other. `ahead` is what is read soon: as
    /// many lines are asked for as are read here, in their order in memory.
    f32_tile of f32, LANES, features "avx512f,avx512bw,avx512dq",
    whole |place: *const f32| _mm512_loadu_ps(place),
    some |mask, place: *const f32| _mm512_maskz_loadu_ps(mask, place),
    mask u16,
    add |sum, x, weight| _mm512_fmadd_ps(x, weight, sum)
}

tile! {
    /// The same of bf16.
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
