//! Products of a few rows with a large matrix.
//!
//! Generation multiplies a handful of rows with every matrix of the model: each weight is read once and used
//! a few times, so the time is that of reading the weights. A general product first copies the matrix into
//! another order; here it is read as it lies, `[outputs, inputs]`, along the inputs.

use std::ops::Range;

use half::bf16;

use crate::crew::Parts;
use crate::{Instructions, Stored, with_instructions};

/// `[outputs, inputs]`, row-major.
#[derive(Clone, Copy)]
pub enum Matrix<'a> {
    Single(&'a [f32]),
    Half(&'a [bf16]),
}

impl Matrix<'_> {
    fn elements(&self) -> usize {
        match self {
            Matrix::Single(values) => values.len(),
            Matrix::Half(values) => values.len(),
        }
    }

    /// Where the weights of an output begin.
    pub fn place(&self, output: usize, inputs: usize) -> Place {
        Place(match self {
            Matrix::Single(values) => values.as_ptr().wrapping_add(output * inputs).cast(),
            Matrix::Half(values) => values.as_ptr().wrapping_add(output * inputs).cast(),
        })
    }
}

/// Weights that will be read soon, wherever they are: they are asked for, not read.
#[derive(Clone, Copy)]
pub struct Place(*const u8);

/// The rows on the left, `[rows, inputs]`; `half` are the same in half precision, for products with matrices
/// that are.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub inputs: usize,
    pub single: &'a [f32],
    pub half: &'a [bf16],
}

impl Rows<'_> {
    pub fn count(&self) -> usize {
        self.single.len() / self.inputs
    }
}

/// Where results go: row `r`, output `o` to `first + r * stride + o`.
pub struct Target<'a, 'b> {
    pub buffer: &'a Parts<'b, f32>,
    pub first: usize,
    pub stride: usize,
    /// Added to what is there, instead of taking its place.
    pub add: bool,
}

/// Outputs that are worked through before the next rows: their weights stay in the nearest cache meanwhile.
const OUTPUTS: usize = 24;

/// As many bytes of rows stay in the nearest cache. Then one output is multiplied after the other, so that
/// weights are read as they lie: in tiles of several outputs, as many streams are read at one time, which
/// reaches two thirds of the memory's rate. Where the rows are more, tiles read them less often.
const NEAR: usize = 24 << 10;

/// How far ahead of its use a weight is asked for, in bytes, where outputs are multiplied one by one and in
/// tiles. The processor's own guesses are too short-sighted while so many rows are multiplied with each
/// weight: without this, a product reaches a third to a half of the memory's rate.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 8 << 10;
#[cfg(target_arch = "x86_64")]
const AHEAD_OF_TILES: usize = 16 << 10;

/// `x @ matrix^T`, for the outputs in `range`; sums are taken in single precision, each in an order that
/// depends on nothing but the number of inputs. `bias` has one number per output of the matrix. `next` is
/// where the thread reads on, if it is not behind `range`; tiles do not look there.
///
/// # Safety
/// As for [`Parts::part`]: between two waits nobody else touches the outputs in `range`.
pub unsafe fn multiply(
    x: Rows,
    matrix: Matrix,
    bias: Option<&[f32]>,
    range: Range<usize>,
    next: Option<Place>,
    target: &Target,
) {
    assert!(range.end * x.inputs <= matrix.elements(), "the matrix has no such outputs");
    let rows = x.count();
    let instructions = Instructions::found();
    let row_bytes =
        x.inputs * if matches!(matrix, Matrix::Half(_)) { size_of::<bf16>() } else { size_of::<f32>() };
    for start in range.clone().step_by(OUTPUTS) {
        let outputs = start..(start + OUTPUTS).min(range.end);
        let mut row = 0;
        while row < rows {
            let count = (rows - row).min(8);
            if count * row_bytes <= NEAR {
                let mut sums = [[0.0f32; 8]; OUTPUTS];
                let sums = &mut sums[..outputs.len()];
                let onward = Onward { left: range.end - outputs.start, next };
                // SAFETY: rows and outputs are in bounds: `row + count <= rows`, and the range was looked at.
                let done = unsafe {
                    one_by_one(x, row..row + count, matrix, outputs.clone(), onward, instructions, sums)
                };
                if done {
                    let by_row = turned(sums);
                    for (index, sums) in by_row[..count].iter().enumerate() {
                        let place = target.first + (row + index) * target.stride;
                        // SAFETY: the caller keeps these outputs to this call.
                        let places =
                            unsafe { target.buffer.part(place + outputs.start..place + outputs.end) };
                        write(places, sums, bias.map(|bias| &bias[outputs.clone()]), target.add);
                    }
                    row += count;
                    continue;
                }
            }
            let mut output = outputs.start;
            while output < outputs.end {
                let wide = outputs.end - output;
                let mut sums = [[0.0f32; 4]; 8];
                // SAFETY: rows and outputs are in bounds: `row + count <= rows`, `output + width <=
                // range.end`.
                let width = unsafe {
                    match (count, wide) {
                        (8, 3..) => tile::<8, 3>(x, row, matrix, output, instructions, &mut sums),
                        (7, 3..) => tile::<7, 3>(x, row, matrix, output, instructions, &mut sums),
                        (6, 3..) => tile::<6, 3>(x, row, matrix, output, instructions, &mut sums),
                        (5, 3..) => tile::<5, 3>(x, row, matrix, output, instructions, &mut sums),
                        (4, 4..) => tile::<4, 4>(x, row, matrix, output, instructions, &mut sums),
                        (3, 4..) => tile::<3, 4>(x, row, matrix, output, instructions, &mut sums),
                        (2, 4..) => tile::<2, 4>(x, row, matrix, output, instructions, &mut sums),
                        (1, 4..) => tile::<1, 4>(x, row, matrix, output, instructions, &mut sums),
                        (8, _) => tile::<8, 1>(x, row, matrix, output, instructions, &mut sums),
                        (7, _) => tile::<7, 1>(x, row, matrix, output, instructions, &mut sums),
                        (6, _) => tile::<6, 1>(x, row, matrix, output, instructions, &mut sums),
                        (5, _) => tile::<5, 1>(x, row, matrix, output, instructions, &mut sums),
                        (4, _) => tile::<4, 1>(x, row, matrix, output, instructions, &mut sums),
                        (3, _) => tile::<3, 1>(x, row, matrix, output, instructions, &mut sums),
                        (2, _) => tile::<2, 1>(x, row, matrix, output, instructions, &mut sums),
                        _ => tile::<1, 1>(x, row, matrix, output, instructions, &mut sums),
                    }
                };
                for (index, sums) in sums[..count].iter().enumerate() {
                    let place = target.first + (row + index) * target.stride + output;
                    // SAFETY: the caller keeps these outputs to this call.
                    let places = unsafe { target.buffer.part(place..place + width) };
                    write(places, sums, bias.map(|bias| &bias[output..output + width]), target.add);
                }
                output += width;
            }
            row += count;
        }
    }
}

/// Sums of outputs as sums of rows.
fn turned(sums: &[[f32; 8]]) -> [[f32; OUTPUTS]; 8] {
    let mut by_row = [[0.0; OUTPUTS]; 8];
    with_instructions(|| {
        // In squares of registers where they are whole.
        let (squares, rest) = sums.as_chunks::<8>();
        for (square, sums) in squares.iter().enumerate() {
            for row in 0..8 {
                for output in 0..8 {
                    by_row[row][8 * square + output] = sums[output][row];
                }
            }
        }
        for (output, sums) in rest.iter().enumerate() {
            for row in 0..8 {
                by_row[row][8 * squares.len() + output] = sums[row];
            }
        }
    });
    by_row
}

#[inline]
fn write(places: &mut [f32], sums: &[f32], bias: Option<&[f32]>, add: bool) {
    let places = places.iter_mut().zip(sums);
    match (bias, add) {
        (None, false) => places.for_each(|(place, sum)| *place = *sum),
        (None, true) => places.for_each(|(place, sum)| *place += sum),
        (Some(bias), false) => places.zip(bias).for_each(|((place, sum), bias)| *place = sum + bias),
        (Some(bias), true) => places.zip(bias).for_each(|((place, sum), bias)| *place += sum + bias),
    }
}

/// Where a thread reads on.
#[derive(Clone, Copy)]
struct Onward {
    /// Outputs whose weights lie one behind the other, from the first of those at hand.
    left: usize,
    /// What comes behind them; where nothing is known, what lies there.
    next: Option<Place>,
}

#[cfg(target_arch = "x86_64")]
impl Onward {
    /// What is read [`AHEAD`] of an output's weights, in whole outputs; `weights` are those of the first one
    /// at hand.
    #[inline(always)]
    fn ahead<T>(self, weights: *const T, inputs: usize, output: usize) -> *const T {
        let output = output + AHEAD.div_ceil(inputs * size_of::<T>());
        match self.next {
            Some(Place(next)) if output >= self.left => {
                next.cast::<T>().wrapping_add((output - self.left) * inputs)
            }
            _ => weights.wrapping_add(output * inputs),
        }
    }
}

/// The products of some rows, eight at most, with each of some outputs. False where that is not written for
/// the processor.
///
/// # Safety
/// The rows are in `x`, the outputs in the matrix, and the processor has the instructions.
unsafe fn one_by_one(
    x: Rows,
    rows: Range<usize>,
    matrix: Matrix,
    outputs: Range<usize>,
    onward: Onward,
    instructions: Instructions,
    sums: &mut [[f32; 8]],
) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let of = |range: Range<usize>| range.start * x.inputs..range.end * x.inputs;
        let (count, from, weights) = (rows.len(), of(rows), of(outputs));
        macro_rules! of_rows {
            ($run:ident, $x:expr, $matrix:expr) => {
                match count {
                    1 => x86::$run::<1>($x, $matrix, x.inputs, onward, sums),
                    2 => x86::$run::<2>($x, $matrix, x.inputs, onward, sums),
                    3 => x86::$run::<3>($x, $matrix, x.inputs, onward, sums),
                    4 => x86::$run::<4>($x, $matrix, x.inputs, onward, sums),
                    5 => x86::$run::<5>($x, $matrix, x.inputs, onward, sums),
                    6 => x86::$run::<6>($x, $matrix, x.inputs, onward, sums),
                    7 => x86::$run::<7>($x, $matrix, x.inputs, onward, sums),
                    _ => x86::$run::<8>($x, $matrix, x.inputs, onward, sums),
                }
            };
        }
        // SAFETY: each runs where its instructions are.
        unsafe {
            match (matrix, instructions) {
                (Matrix::Single(matrix), Instructions::Avx512 { .. }) => {
                    of_rows!(single_one_by_one, &x.single[from], &matrix[weights]);
                }
                (Matrix::Half(matrix), Instructions::Avx512 { half: true }) => {
                    of_rows!(half_one_by_one, &x.half[from], &matrix[weights]);
                }
                _ => return false,
            }
        }
        true
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (x, rows, matrix, outputs, onward, instructions, sums);
        false
    }
}

/// The products of `R` rows with `O` outputs, from `row` and `output` on. Answers `O`.
///
/// # Safety
/// The rows are in `x`, the outputs in the matrix, and the processor has the instructions.
unsafe fn tile<const R: usize, const O: usize>(
    x: Rows,
    row: usize,
    matrix: Matrix,
    output: usize,
    instructions: Instructions,
    sums: &mut [[f32; 4]; 8],
) -> usize {
    let inputs = x.inputs;
    let from = row * inputs..(row + R) * inputs;
    let weights = output * inputs..(output + O) * inputs;
    // SAFETY: the slices are in bounds by the caller's promise, and each version runs where its instructions
    // are.
    unsafe {
        match (matrix, instructions) {
            #[cfg(target_arch = "x86_64")]
            (Matrix::Single(matrix), Instructions::Avx512 { .. }) => {
                x86::single::<R, O>(&x.single[from], &matrix[weights], inputs, sums)
            }
            #[cfg(target_arch = "x86_64")]
            (Matrix::Half(matrix), Instructions::Avx512 { half: true }) => {
                x86::half::<R, O>(&x.half[from], &matrix[weights], inputs, sums)
            }
            #[cfg(target_arch = "x86_64")]
            (Matrix::Single(matrix), Instructions::Avx2) => {
                x86::single_avx2::<R, O>(&x.single[from], &matrix[weights], inputs, sums)
            }
            #[cfg(target_arch = "x86_64")]
            (Matrix::Half(matrix), Instructions::Avx512 { .. } | Instructions::Avx2) => {
                x86::half_avx2::<R, O>(&x.half[from], &matrix[weights], inputs, sums)
            }
            (Matrix::Single(matrix), Instructions::Any) => {
                portable::<R, O, _>(&x.single[from], &matrix[weights], inputs, sums)
            }
            (Matrix::Half(matrix), Instructions::Any) => {
                portable::<R, O, _>(&x.half[from], &matrix[weights], inputs, sums)
            }
        }
    }
    O
}

/// Sums in eight lanes, as the compiler can put them into registers.
#[inline(always)]
fn portable<const R: usize, const O: usize, T: Stored>(
    x: &[T],
    weights: &[T],
    inputs: usize,
    sums: &mut [[f32; 4]; 8],
) {
    let whole = inputs / 8 * 8;
    let mut lanes = [[[0.0f32; 8]; O]; R];
    for first in (0..whole).step_by(8) {
        for output in 0..O {
            let weights = &weights[output * inputs + first..][..8];
            for (row, lanes) in lanes.iter_mut().enumerate() {
                let x = &x[row * inputs + first..][..8];
                for lane in 0..8 {
                    lanes[output][lane] += x[lane].single() * weights[lane].single();
                }
            }
        }
    }
    for (row, lanes) in lanes.iter().enumerate() {
        for (output, lanes) in lanes.iter().enumerate() {
            let rest = (whole..inputs)
                .map(|at| x[row * inputs + at].single() * weights[output * inputs + at].single());
            sums[row][output] = lanes.iter().sum::<f32>() + rest.sum::<f32>();
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use half::bf16;

    use super::{AHEAD_OF_TILES, Onward, portable};

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
        let [a, b, c, d, e, f, g, h] = halves;
        let low = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
        let high = _mm256_hadd_ps(_mm256_hadd_ps(e, f), _mm256_hadd_ps(g, h));
        let sums = _mm256_add_ps(
            _mm256_permute2f128_ps::<0x20>(low, high),
            _mm256_permute2f128_ps::<0x31>(low, high),
        );
        // SAFETY: both are eight floats of 32 bits.
        unsafe { std::mem::transmute::<__m256, [f32; 8]>(sums) }
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
    fn ask<T>(place: *const T) {
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
    pub fn single_one_by_one<const R: usize>(
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
            for first in (0..inputs).step_by(16) {
                let mask = if inputs - first >= 16 { u16::MAX } else { (1 << (inputs - first)) - 1 };
                let place = weights.as_ptr().wrapping_add(first);
                ask(ahead.wrapping_add(first));
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

    /// The same in half precision.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
    pub fn half_one_by_one<const R: usize>(
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
            for first in (0..inputs).step_by(32) {
                let mask = if inputs - first >= 32 { u32::MAX } else { (1 << (inputs - first)) - 1 };
                let place = weights.as_ptr().wrapping_add(first);
                ask(ahead.wrapping_add(first));
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
    pub fn single<const R: usize, const O: usize>(
        x: &[f32],
        weights: &[f32],
        inputs: usize,
        sums: &mut [[f32; 4]; 8],
    ) {
        assert!(x.len() == R * inputs && weights.len() == O * inputs);
        let mut lanes = [[_mm512_setzero_ps(); O]; R];
        for first in (0..inputs).step_by(16) {
            // All lanes, but at the end those that are left.
            let mask = if inputs - first >= 16 { u16::MAX } else { (1 << (inputs - first)) - 1 };
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
    pub fn half<const R: usize, const O: usize>(
        x: &[bf16],
        weights: &[bf16],
        inputs: usize,
        sums: &mut [[f32; 4]; 8],
    ) {
        assert!(x.len() == R * inputs && weights.len() == O * inputs);
        let mut lanes = [[_mm512_setzero_ps(); O]; R];
        for first in (0..inputs).step_by(32) {
            let mask = if inputs - first >= 32 { u32::MAX } else { (1 << (inputs - first)) - 1 };
            let mut row_of_weights = [_mm512_setzero_si512(); O];
            for (output, weight) in row_of_weights.iter_mut().enumerate() {
                let place = weights.as_ptr().wrapping_add(output * inputs + first);
                ahead_of_tile(place);
                // SAFETY: as in `single`.
                *weight = unsafe { _mm512_maskz_loadu_epi16(mask, place.cast()) };
            }
            for (row, lanes) in lanes.iter_mut().enumerate() {
                // SAFETY: as above.
                let x =
                    unsafe { _mm512_maskz_loadu_epi16(mask, x.as_ptr().add(row * inputs + first).cast()) };
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

    #[target_feature(enable = "avx2,fma")]
    pub fn single_avx2<const R: usize, const O: usize>(
        x: &[f32],
        weights: &[f32],
        inputs: usize,
        sums: &mut [[f32; 4]; 8],
    ) {
        portable::<R, O, _>(x, weights, inputs, sums);
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn half_avx2<const R: usize, const O: usize>(
        x: &[bf16],
        weights: &[bf16],
        inputs: usize,
        sums: &mut [[f32; 4]; 8],
    ) {
        portable::<R, O, _>(x, weights, inputs, sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crew::together;

    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        (0..count as u64).map(|i| (((i + 1) * (seed * 2 + 12_345)) % 1013) as f32 / 506.5 - 1.0).collect()
    }

    /// Every number of rows, sizes that fill no register, both precisions, several threads, against sums in
    /// f64.
    #[test]
    fn products_equal_the_definition() {
        for (rows, inputs, outputs) in [
            (1, 5, 3),
            (2, 16, 7),
            (3, 33, 4),
            (4, 31, 19),
            (5, 64, 33),
            (7, 48, 9),
            (8, 96, 40),
            (21, 70, 18),
        ] {
            let (x, matrix, bias) =
                (numbers(rows * inputs, 1), numbers(outputs * inputs, 2), numbers(outputs, 3));
            let halves =
                |values: &[f32]| values.iter().map(|&value| bf16::from_f32(value)).collect::<Vec<_>>();
            let (x_half, matrix_half) = (halves(&x), halves(&matrix));
            for half in [false, true] {
                let mut got = vec![1.0; rows * (outputs + 2)];
                let buffer = Parts::new(&mut got);
                together(3, |member| {
                    let x = Rows { inputs, single: &x, half: &x_half };
                    let matrix = if half { Matrix::Half(&matrix_half) } else { Matrix::Single(&matrix) };
                    let target = Target { buffer: &buffer, first: 1, stride: outputs + 2, add: true };
                    // SAFETY: members have parts of their own.
                    unsafe { multiply(x, matrix, Some(&bias), member.part(outputs, 2), None, &target) };
                });
                for row in 0..rows {
                    for output in 0..outputs {
                        let number = |value: f32, half_value: bf16| {
                            if half { f64::from(half_value.to_f32()) } else { f64::from(value) }
                        };
                        let products = (0..inputs).map(|at| {
                            let (a, b) = (row * inputs + at, output * inputs + at);
                            number(x[a], x_half[a]) * number(matrix[b], matrix_half[b])
                        });
                        let expected = 1.0 + f64::from(bias[output]) + products.sum::<f64>();
                        let got = f64::from(got[1 + row * (outputs + 2) + output]);
                        assert!(
                            (got - expected).abs() < 2e-5,
                            "{rows} {inputs} {outputs} {half}: {got} {expected}"
                        );
                    }
                    assert_eq!(got[row * (outputs + 2)], 1.0, "written beside the target");
                }
            }
        }
    }

    /// What a row gives does not depend on the rows beside it.
    #[test]
    fn products_do_not_depend_on_the_batch() {
        let (inputs, outputs) = (83, 29);
        let (x, matrix) = (numbers(19 * inputs, 4), numbers(outputs * inputs, 5));
        let product = |x: &[f32]| {
            let mut got = vec![0.0; x.len() / inputs * outputs];
            let buffer = Parts::new(&mut got);
            let target = Target { buffer: &buffer, first: 0, stride: outputs, add: false };
            // SAFETY: there is one thread.
            unsafe {
                multiply(
                    Rows { inputs, single: x, half: &[] },
                    Matrix::Single(&matrix),
                    None,
                    0..outputs,
                    Some(Matrix::Single(&matrix).place(0, inputs)),
                    &target,
                )
            };
            got
        };
        let together = product(&x);
        for (row, expected) in x.chunks(inputs).zip(together.chunks(outputs)) {
            assert_eq!(product(row), expected);
        }
    }
}
