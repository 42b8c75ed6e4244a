//! Rows times outputs with AVX2 and FMA: sixteen registers of eight lanes.

use std::arch::x86_64::*;

use super::{PrefetchCursor, Sums};
use crate::registers::{LoadF32, sums_of_eight};

const LANES: usize = 8;

/// Multiplies `R` rows with `O` outputs. `R * O` sums, `O` weights and one row's inputs are in registers at a
/// time. `ahead` prefetches the next weights.
#[target_feature(enable = "avx2,fma")]
pub fn tile<const R: usize, const O: usize, T: LoadF32>(
    x: &[f32],
    weights: &[T],
    inputs: usize,
    ahead: &mut PrefetchCursor,
    sums: &mut Sums,
) {
    assert!(x.len() == R * inputs && weights.len() == O * inputs);
    let mut lanes = [[_mm256_setzero_ps(); O]; R];
    // Start addresses, computed here because index computations in the loop are checked for overflow.
    let (mut of_rows, mut of_outputs) = ([x.as_ptr(); R], [weights.as_ptr(); O]);
    for (row, place) in of_rows.iter_mut().enumerate() {
        *place = x[row * inputs..].as_ptr();
    }
    for (output, place) in of_outputs.iter_mut().enumerate() {
        *place = weights[output * inputs..].as_ptr();
    }
    let whole = inputs - inputs % LANES;
    // A copy that stays in registers.
    let mut own = *ahead;
    // Loops over indices, because the standard library's iterators would be compiled for narrower registers
    // and called.
    let mut first = 0;
    while first < whole {
        own.prefetch(O * LANES * size_of::<T>());
        let mut row_of_weights = [_mm256_setzero_ps(); O];
        let mut output = 0;
        while output < O {
            // SAFETY: `first + LANES <= whole`, and the matrix has these outputs.
            row_of_weights[output] = unsafe { T::load_x8(of_outputs[output].wrapping_add(first)) };
            output += 1;
        }
        let mut row = 0;
        while row < R {
            // SAFETY: as above, and there are as many rows.
            let x = unsafe { f32::load_x8(of_rows[row].wrapping_add(first)) };
            let mut output = 0;
            while output < O {
                lanes[row][output] = _mm256_fmadd_ps(x, row_of_weights[output], lanes[row][output]);
                output += 1;
            }
            row += 1;
        }
        first = first.wrapping_add(LANES);
    }
    *ahead = own;
    if whole < inputs {
        for (row, lanes) in lanes.iter_mut().enumerate() {
            let x = rest(&x[row * inputs + whole..(row + 1) * inputs]);
            for (output, lanes) in lanes.iter_mut().enumerate() {
                let weight = rest(&weights[output * inputs + whole..(output + 1) * inputs]);
                *lanes = _mm256_fmadd_ps(x, weight, *lanes);
            }
        }
    }
    // Sums lanes of eight registers at a time: for one alone, that would take longer than its products. The
    // number of registers does not change the order of a sum.
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

/// A register of fewer numbers than fill it, padded with zeros.
#[target_feature(enable = "avx2,fma")]
fn rest<T: LoadF32>(numbers: &[T]) -> __m256 {
    let mut filled = [T::from_f32(0.0); LANES];
    filled[..numbers.len()].copy_from_slice(numbers);
    // SAFETY: there are as many.
    unsafe { T::load_x8(filled.as_ptr()) }
}
