//! Products of a few rows with a large matrix.
//!
//! Generation multiplies a handful of rows with every matrix of the model: each weight is read once and used
//! a few times, so the time is that of reading the weights. A general product first copies the matrix into
//! another order; here it is read as it lies, `[outputs, inputs]`, along the inputs.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use std::ops::Range;

use half::bf16;

use crate::thread_pool::DisjointSlices;
use crate::{CpuFeatures, Scalar, with_cpu_features};

/// `[outputs, inputs]`, row-major.
#[derive(Clone, Copy)]
pub enum Matrix<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

impl Matrix<'_> {
    fn elements(&self) -> usize {
        match self {
            Matrix::F32(values) => values.len(),
            Matrix::Bf16(values) => values.len(),
        }
    }

    /// Where the weights of an output begin.
    pub fn prefetch(&self, output: usize, inputs: usize) -> Prefetch {
        Prefetch(match self {
            Matrix::F32(values) => values.as_ptr().wrapping_add(output * inputs).cast(),
            Matrix::Bf16(values) => values.as_ptr().wrapping_add(output * inputs).cast(),
        })
    }
}

/// Weights that will be read soon, wherever they are: they are asked for, not read.
#[derive(Clone, Copy)]
pub struct Prefetch(*const u8);

/// The rows on the left, `[rows, inputs]`; `bf16` are the same rounded, for products with matrices
/// that are.
#[derive(Clone, Copy)]
pub struct InputRows<'a> {
    pub inputs: usize,
    pub f32: &'a [f32],
    pub bf16: &'a [bf16],
}

impl InputRows<'_> {
    pub fn count(&self) -> usize {
        self.f32.len() / self.inputs
    }
}

/// Where results go: row `r`, output `o` to `first + r * stride + o`.
pub struct GemvOutput<'a, 'b> {
    pub buffer: &'a DisjointSlices<'b, f32>,
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
/// As for [`DisjointSlices::part`]: between two waits nobody else touches the outputs in `range`.
pub unsafe fn multiply(
    x: InputRows,
    matrix: Matrix,
    bias: Option<&[f32]>,
    range: Range<usize>,
    next: Option<Prefetch>,
    target: &GemvOutput,
) {
    assert!(range.end * x.inputs <= matrix.elements(), "the matrix has no such outputs");
    let rows = x.count();
    let features = CpuFeatures::detect();
    let most = rows_at_once(matrix, features);
    let row_bytes =
        x.inputs * if matches!(matrix, Matrix::Bf16(_)) { size_of::<bf16>() } else { size_of::<f32>() };
    for start in range.clone().step_by(OUTPUTS) {
        let outputs = start..(start + OUTPUTS).min(range.end);
        let mut row = 0;
        while row < rows {
            let count = (rows - row).min(most);
            if count * row_bytes <= NEAR {
                let mut sums = [[0.0f32; 8]; OUTPUTS];
                let sums = &mut sums[..outputs.len()];
                let onward = Onward { left: range.end - outputs.start, next };
                // SAFETY: rows and outputs are in bounds: `row + count <= rows`, and the range was looked at.
                let done = unsafe {
                    one_by_one(x, row..row + count, matrix, outputs.clone(), onward, features, sums)
                };
                if done {
                    let by_row = transposed(sums);
                    for (index, sums) in by_row[..count].iter().enumerate() {
                        let place = target.first + (row + index) * target.stride;
                        // SAFETY: the caller keeps these outputs to this call.
                        let places =
                            unsafe { target.buffer.slice_mut(place + outputs.start..place + outputs.end) };
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
                        (8, 3..) => tile::<8, 3>(x, row, matrix, output, features, &mut sums),
                        (7, 3..) => tile::<7, 3>(x, row, matrix, output, features, &mut sums),
                        (6, 3..) => tile::<6, 3>(x, row, matrix, output, features, &mut sums),
                        (5, 3..) => tile::<5, 3>(x, row, matrix, output, features, &mut sums),
                        (4, 3..) if most == 4 => tile::<4, 3>(x, row, matrix, output, features, &mut sums),
                        (4, 4..) => tile::<4, 4>(x, row, matrix, output, features, &mut sums),
                        (3, 4..) => tile::<3, 4>(x, row, matrix, output, features, &mut sums),
                        (2, 4..) => tile::<2, 4>(x, row, matrix, output, features, &mut sums),
                        (1, 4..) => tile::<1, 4>(x, row, matrix, output, features, &mut sums),
                        (8, _) => tile::<8, 1>(x, row, matrix, output, features, &mut sums),
                        (7, _) => tile::<7, 1>(x, row, matrix, output, features, &mut sums),
                        (6, _) => tile::<6, 1>(x, row, matrix, output, features, &mut sums),
                        (5, _) => tile::<5, 1>(x, row, matrix, output, features, &mut sums),
                        (4, _) => tile::<4, 1>(x, row, matrix, output, features, &mut sums),
                        (3, _) => tile::<3, 1>(x, row, matrix, output, features, &mut sums),
                        (2, _) => tile::<2, 1>(x, row, matrix, output, features, &mut sums),
                        _ => tile::<1, 1>(x, row, matrix, output, features, &mut sums),
                    }
                };
                for (index, sums) in sums[..count].iter().enumerate() {
                    let place = target.first + (row + index) * target.stride + output;
                    // SAFETY: the caller keeps these outputs to this call.
                    let places = unsafe { target.buffer.slice_mut(place..place + width) };
                    write(places, sums, bias.map(|bias| &bias[output..output + width]), target.add);
                }
                output += width;
            }
            row += count;
        }
    }
}

/// As many rows as have their sums in registers.
fn rows_at_once(matrix: Matrix, features: CpuFeatures) -> usize {
    match (matrix, features) {
        #[cfg(target_arch = "x86_64")]
        (Matrix::F32(_), CpuFeatures::Avx512 { .. })
        | (Matrix::Bf16(_), CpuFeatures::Avx512 { bf16: true }) => 8,
        _ => 4,
    }
}

/// Sums of outputs as sums of rows.
fn transposed(sums: &[[f32; 8]]) -> [[f32; OUTPUTS]; 8] {
    let mut by_row = [[0.0; OUTPUTS]; 8];
    with_cpu_features(|| {
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
    next: Option<Prefetch>,
}

#[cfg(target_arch = "x86_64")]
impl Onward {
    /// What is read [`AHEAD`] of an output's weights, in whole outputs; `weights` are those of the first one
    /// at hand.
    #[inline(always)]
    fn ahead<T>(self, weights: *const T, inputs: usize, output: usize) -> *const T {
        let output = output + AHEAD.div_ceil(inputs * size_of::<T>());
        match self.next {
            Some(Prefetch(next)) if output >= self.left => {
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
    x: InputRows,
    rows: Range<usize>,
    matrix: Matrix,
    outputs: Range<usize>,
    onward: Onward,
    features: CpuFeatures,
    sums: &mut [[f32; 8]],
) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let of = |range: Range<usize>| range.start * x.inputs..range.end * x.inputs;
        let (count, from, weights) = (rows.len(), of(rows), of(outputs));
        macro_rules! of_rows {
            ($run:ident, $x:expr, $matrix:expr) => {
                match count {
                    1 => avx512::$run::<1>($x, $matrix, x.inputs, onward, sums),
                    2 => avx512::$run::<2>($x, $matrix, x.inputs, onward, sums),
                    3 => avx512::$run::<3>($x, $matrix, x.inputs, onward, sums),
                    4 => avx512::$run::<4>($x, $matrix, x.inputs, onward, sums),
                    5 => avx512::$run::<5>($x, $matrix, x.inputs, onward, sums),
                    6 => avx512::$run::<6>($x, $matrix, x.inputs, onward, sums),
                    7 => avx512::$run::<7>($x, $matrix, x.inputs, onward, sums),
                    _ => avx512::$run::<8>($x, $matrix, x.inputs, onward, sums),
                }
            };
        }
        // SAFETY: each runs where its instructions are.
        unsafe {
            match (matrix, features) {
                (Matrix::F32(matrix), CpuFeatures::Avx512 { .. }) => {
                    of_rows!(f32_one_by_one, &x.f32[from], &matrix[weights]);
                }
                (Matrix::Bf16(matrix), CpuFeatures::Avx512 { bf16: true }) => {
                    of_rows!(bf16_one_by_one, &x.bf16[from], &matrix[weights]);
                }
                _ => return false,
            }
        }
        true
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (x, rows, matrix, outputs, onward, features, sums);
        false
    }
}

/// The products of `R` rows with `O` outputs, from `row` and `output` on. Answers `O`.
///
/// # Safety
/// The rows are in `x`, the outputs in the matrix, and the processor has the instructions.
unsafe fn tile<const R: usize, const O: usize>(
    x: InputRows,
    row: usize,
    matrix: Matrix,
    output: usize,
    features: CpuFeatures,
    sums: &mut [[f32; 4]; 8],
) -> usize {
    let inputs = x.inputs;
    let from = row * inputs..(row + R) * inputs;
    let weights = output * inputs..(output + O) * inputs;
    // SAFETY: the slices are in bounds by the caller's promise, and each version runs where its instructions
    // are.
    unsafe {
        match (matrix, features) {
            #[cfg(target_arch = "x86_64")]
            (Matrix::F32(matrix), CpuFeatures::Avx512 { .. }) => {
                avx512::f32_tile::<R, O>(&x.f32[from], &matrix[weights], inputs, sums)
            }
            #[cfg(target_arch = "x86_64")]
            (Matrix::Bf16(matrix), CpuFeatures::Avx512 { bf16: true }) => {
                avx512::bf16_tile::<R, O>(&x.bf16[from], &matrix[weights], inputs, sums)
            }
            #[cfg(target_arch = "x86_64")]
            (Matrix::F32(matrix), CpuFeatures::Avx2) => {
                avx2::tile::<R, O, _>(&x.f32[from], &matrix[weights], inputs, sums)
            }
            #[cfg(target_arch = "x86_64")]
            (Matrix::Bf16(matrix), CpuFeatures::Avx512 { .. } | CpuFeatures::Avx2) => {
                avx2::tile::<R, O, _>(&x.bf16[from], &matrix[weights], inputs, sums)
            }
            (Matrix::F32(matrix), CpuFeatures::Any) => {
                portable::<R, O, _>(&x.f32[from], &matrix[weights], inputs, sums)
            }
            (Matrix::Bf16(matrix), CpuFeatures::Any) => {
                portable::<R, O, _>(&x.bf16[from], &matrix[weights], inputs, sums)
            }
        }
    }
    O
}

/// Sums in eight lanes, as the compiler can put them into registers.
#[inline(always)]
fn portable<const R: usize, const O: usize, T: Scalar>(
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
                    lanes[output][lane] += x[lane].as_f32() * weights[lane].as_f32();
                }
            }
        }
    }
    for (row, lanes) in lanes.iter().enumerate() {
        for (output, lanes) in lanes.iter().enumerate() {
            let rest = (whole..inputs)
                .map(|at| x[row * inputs + at].as_f32() * weights[output * inputs + at].as_f32());
            sums[row][output] = lanes.iter().sum::<f32>() + rest.sum::<f32>();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cpu;

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
            let rounded =
                |values: &[f32]| values.iter().map(|&value| bf16::from_f32(value)).collect::<Vec<_>>();
            let (x_bf16, matrix_bf16) = (rounded(&x), rounded(&matrix));
            for is_bf16 in [false, true] {
                let mut got = vec![1.0; rows * (outputs + 2)];
                let buffer = DisjointSlices::new(&mut got);
                Cpu::new(3).parallel(|worker| {
                    let x = InputRows { inputs, f32: &x, bf16: &x_bf16 };
                    let matrix = if is_bf16 { Matrix::Bf16(&matrix_bf16) } else { Matrix::F32(&matrix) };
                    let target = GemvOutput { buffer: &buffer, first: 1, stride: outputs + 2, add: true };
                    // SAFETY: workers have parts of their own.
                    unsafe { multiply(x, matrix, Some(&bias), worker.range(outputs, 2), None, &target) };
                });
                for row in 0..rows {
                    for output in 0..outputs {
                        let number = |value: f32, bf16_value: bf16| {
                            if is_bf16 { f64::from(bf16_value.to_f32()) } else { f64::from(value) }
                        };
                        let products = (0..inputs).map(|at| {
                            let (a, b) = (row * inputs + at, output * inputs + at);
                            number(x[a], x_bf16[a]) * number(matrix[b], matrix_bf16[b])
                        });
                        let expected = 1.0 + f64::from(bias[output]) + products.sum::<f64>();
                        let got = f64::from(got[1 + row * (outputs + 2) + output]);
                        assert!(
                            (got - expected).abs() < 2e-5,
                            "{rows} {inputs} {outputs} {is_bf16}: {got} {expected}"
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
            let buffer = DisjointSlices::new(&mut got);
            let target = GemvOutput { buffer: &buffer, first: 0, stride: outputs, add: false };
            // SAFETY: there is one thread.
            unsafe {
                multiply(
                    InputRows { inputs, f32: x, bf16: &[] },
                    Matrix::F32(&matrix),
                    None,
                    0..outputs,
                    Some(Matrix::F32(&matrix).prefetch(0, inputs)),
                    &target,
                )
            };
            got
        };
        let all = product(&x);
        for (row, expected) in x.chunks(inputs).zip(all.chunks(outputs)) {
            assert_eq!(product(row), expected);
        }
    }
}
