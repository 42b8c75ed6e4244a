//! Products of a few rows with a large matrix.
//!
//! Generation multiplies a handful of rows with every matrix of the model: each weight is read once and used
//! a few times, so memory bandwidth bounds the time. A general product first packs the matrix into another
//! layout; these loops read it in place, `[outputs, inputs]`, along the inputs.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod prefetch_cursor;
mod rows;

use std::mem::MaybeUninit;
use std::ops::Range;

use half::bf16;

use self::prefetch_cursor::{PrefetchCursor, WeightsToPrefetch};
pub use self::rows::PreparedRows;
use self::rows::StridedRows;
#[cfg(target_arch = "x86_64")]
use crate::features::Bf16Products;
use crate::lanes::LANES;
use crate::thread_pool::DisjointSlices;
use crate::{CpuFeatures, Scalar};

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

    /// Bytes per number.
    fn element(&self) -> usize {
        match self {
            Matrix::F32(_) => size_of::<f32>(),
            Matrix::Bf16(_) => size_of::<bf16>(),
        }
    }

    /// The address of the first weight of an output.
    pub fn prefetch(&self, output: usize, inputs: usize) -> Prefetch {
        Prefetch(match self {
            Matrix::F32(values) => values.as_ptr().wrapping_add(output * inputs).cast(),
            Matrix::Bf16(values) => values.as_ptr().wrapping_add(output * inputs).cast(),
        })
    }
}

/// The address of weights that will be read soon. It is only prefetched, so it may be any address.
#[derive(Clone, Copy)]
pub struct Prefetch(*const u8);

/// The rows on the left, `[rows, inputs]`. Where the matrix is bf16, both slices hold the rows rounded to
/// bf16: `bf16` is for CPUs that multiply bf16 numbers, and `f32` saves the others a conversion per product.
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

/// The destination of results: row `r`, output `o` goes to `first + r * stride + o`.
pub struct GemvOutput<'a, 'b> {
    pub buffer: &'a DisjointSlices<'b, f32>,
    pub first: usize,
    pub stride: usize,
    /// Whether results are added to the buffer instead of overwriting it.
    pub add: bool,
}

/// Most outputs in a block, which is computed for all rows before the next: its weights stay in L2.
const OUTPUTS: usize = 24;

/// Bytes of weights that stay in L2.
const L2_WEIGHTS: usize = 256 << 10;

/// Bytes per part of a row, where there are many rows and a row is processed in parts: such parts of eight
/// rows stay in L2 along with the weights.
const PART: usize = 16 << 10;

/// Prefetch distance in bytes. The hardware prefetcher does not run far enough ahead while several rows are
/// multiplied with each weight: without this, a product reaches a third to a half of the memory bandwidth.
const AHEAD: usize = 16 << 10;

/// The sums of a tile, row by row.
type Sums = [f32; 32];

/// As [`Sums`], before the lanes of each register are added up.
type Registers = [Register; 32];

#[repr(align(64))]
struct Register(#[allow(dead_code, reason = "read and written as a register")] [f32; LANES]);

/// `x @ matrix^T`, for the outputs in `range`. Sums are taken in single precision, in an order that depends
/// on the number of inputs only. `bias` has one number per output of the matrix. `next` is the address that
/// the thread reads after `range`, where that is not the next output.
///
/// # Safety
/// As for [`DisjointSlices::slice_mut`]: between two barriers only this call accesses the outputs in `range`.
pub unsafe fn multiply(
    x: &PreparedRows,
    matrix: Matrix,
    bias: Option<&[f32]>,
    range: Range<usize>,
    next: Option<Prefetch>,
    target: &GemvOutput,
) {
    assert!(range.end * x.inputs() <= matrix.elements(), "the matrix has no such outputs");
    let (rows, features) = (x.count(), CpuFeatures::detect());
    let x = x.strided(matrix);
    let row_bytes = x.inputs * matrix.element();
    let onward = WeightsToPrefetch { matrix, inputs: x.inputs, left: range.end, next };
    let wide = is_wide(matrix, features);
    let most_rows = if wide { 8 } else { 4 };
    let passes = rows.div_ceil(most_rows);
    // With few rows, which memory bandwidth bounds, weights are read in place; a single row reads one output
    // after the other, which is as fast as eight outputs side by side.
    let parts = if wide && rows > 4 { row_bytes.div_ceil(PART).max(1) } else { 1 };
    let part = x.inputs.div_ceil(parts).next_multiple_of(2 * LANES);
    let block = (L2_WEIGHTS / row_bytes.max(1) / OUTPUTS * OUTPUTS).clamp(OUTPUTS / 2, OUTPUTS);
    let mut sums: StripSums = [[0.0; OUTPUTS]; 8];
    // Uninitialised: clearing it would take as long as some products.
    let mut carried: Carried = [const { MaybeUninit::uninit() }; OUTPUTS / 2];
    // With several passes, the distance is one block: all passes over a block together prefetch the next
    // one.
    let distance = if passes == 1 && parts == 1 {
        outputs_at_once(wide, rows.min(most_rows)) * row_bytes + AHEAD
    } else {
        block * row_bytes
    };
    let mut ahead = PrefetchCursor::new(onward, range.start, distance, passes);
    for start in range.clone().step_by(block) {
        let outputs = start..(start + block).min(range.end);
        let mut row = 0;
        while row < rows {
            let count = (rows - row).min(most_rows);
            let most = if wide && rows == 1 { 1 } else { outputs_at_once(wide, count) };
            for first in (0..x.inputs.max(1)).step_by(part.max(1)) {
                let inputs = first..(first + part).min(x.inputs);
                let strip = Strip { x, row, matrix, outputs: outputs.clone(), inputs };
                // SAFETY: rows and outputs are in bounds: `row + count <= rows`, and `outputs.end <=
                // range.end`. Where there are several parts, a strip carries its sums between them.
                unsafe { strip.multiply((count, most), features, &mut ahead, &mut carried, &mut sums) };
            }
            for (index, sums) in sums[..count].iter().enumerate() {
                let place = target.first + (row + index) * target.stride;
                // SAFETY: by the caller's promise, no other thread accesses these outputs.
                let places = unsafe { target.buffer.slice_mut(place + outputs.start..place + outputs.end) };
                write(places, sums, bias.map(|bias| &bias[outputs.clone()]), target.add);
            }
            row += count;
        }
    }
}

/// Whether the product uses 512-bit registers.
fn is_wide(matrix: Matrix, features: CpuFeatures) -> bool {
    match (matrix, features) {
        (Matrix::Bf16(_), features) => features.has_bf16(),
        #[cfg(target_arch = "x86_64")]
        (Matrix::F32(_), CpuFeatures::Avx512(_)) => true,
        _ => false,
    }
}

/// Number of outputs whose sums fit in registers, for a tile of `rows` rows.
fn outputs_at_once(wide: bool, rows: usize) -> usize {
    let most = if wide { [8, 8, 6, 6, 4, 4, 3, 3] } else { [4, 4, 4, 3, 1, 1, 1, 1] };
    most[rows - 1]
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

/// The products of some rows with the outputs of a block.
struct Strip<'a> {
    x: StridedRows<'a>,
    row: usize,
    matrix: Matrix<'a>,
    outputs: Range<usize>,
    /// The inputs that are summed now. Sums over earlier inputs are carried.
    inputs: Range<usize>,
}

/// Sums of a strip, by row.
type StripSums = [[f32; OUTPUTS]; 8];

/// Registers of a strip's tiles, carried from one part of the inputs to the next.
type Carried = [MaybeUninit<Registers>; OUTPUTS / 2];

impl Strip<'_> {
    /// Computes the products by tiles of `(rows, outputs)`, and the remaining outputs one by one.
    ///
    /// # Safety
    /// The rows are in `x`, the outputs in the matrix, and the CPU has the instructions. Unless `inputs`
    /// start at 0, `carried` is as the call for the preceding inputs left it.
    unsafe fn multiply(
        &self,
        tile: (usize, usize),
        features: CpuFeatures,
        ahead: &mut PrefetchCursor,
        carried: &mut Carried,
        sums: &mut StripSums,
    ) {
        // SAFETY: by the caller's promise.
        unsafe {
            match tile {
                (8, 3) => self.of::<8, 3>(features, ahead, carried, sums),
                (7, 3) => self.of::<7, 3>(features, ahead, carried, sums),
                (6, 4) => self.of::<6, 4>(features, ahead, carried, sums),
                (5, 4) => self.of::<5, 4>(features, ahead, carried, sums),
                (4, 6) => self.of::<4, 6>(features, ahead, carried, sums),
                (4, 3) => self.of::<4, 3>(features, ahead, carried, sums),
                (3, 6) => self.of::<3, 6>(features, ahead, carried, sums),
                (3, 4) => self.of::<3, 4>(features, ahead, carried, sums),
                (2, 8) => self.of::<2, 8>(features, ahead, carried, sums),
                (2, 4) => self.of::<2, 4>(features, ahead, carried, sums),
                (1, 8) => self.of::<1, 8>(features, ahead, carried, sums),
                (1, 4) => self.of::<1, 4>(features, ahead, carried, sums),
                (1, 1) => self.of::<1, 1>(features, ahead, carried, sums),
                (rows, outputs) => unreachable!("no tile of {rows} rows and {outputs} outputs"),
            }
        }
    }

    /// # Safety
    /// As for [`Strip::multiply`].
    unsafe fn of<const R: usize, const O: usize>(
        &self,
        features: CpuFeatures,
        ahead: &mut PrefetchCursor,
        carried: &mut Carried,
        sums: &mut StripSums,
    ) {
        // A strip that sums all inputs at once carries nothing.
        let parts = self.inputs.len() < self.x.inputs;
        let (whole, mut index) = (self.outputs.len() / O * O, 0);
        for place in (0..whole).step_by(O) {
            // SAFETY: by the caller's promise.
            unsafe { self.tile::<R, O>(place, features, ahead, &mut carried[index], sums) };
            index += usize::from(parts);
        }
        for place in whole..self.outputs.len() {
            // SAFETY: by the caller's promise.
            unsafe { self.tile::<R, 1>(place, features, ahead, &mut carried[index], sums) };
            index += usize::from(parts);
        }
    }

    /// Computes the tile of `O` outputs from index `place` of the block on.
    ///
    /// # Safety
    /// As for [`Strip::multiply`].
    #[inline(always)]
    unsafe fn tile<const R: usize, const O: usize>(
        &self,
        place: usize,
        features: CpuFeatures,
        ahead: &mut PrefetchCursor,
        carried: &mut MaybeUninit<Registers>,
        to: &mut StripSums,
    ) {
        let Strip { x, row, matrix, .. } = *self;
        let (inputs, part, output) = (x.inputs, self.inputs.clone(), self.outputs.start + place);
        let mut sums = [0.0; 32];
        let sums_of = &mut sums;
        let from = row * x.stride..(row + R - 1) * x.stride + inputs;
        let weights = output * inputs..(output + O) * inputs;
        // SAFETY: the slices are in bounds by the caller's promise, and each version runs on CPUs that have
        // its instructions.
        unsafe {
            match (matrix, features) {
                #[cfg(target_arch = "x86_64")]
                (Matrix::F32(matrix), CpuFeatures::Avx512(_)) => avx512::f32_tile::<R, O>(
                    (&x.f32[from], x.stride),
                    &matrix[weights],
                    part,
                    ahead,
                    carried,
                    sums_of,
                ),
                #[cfg(target_arch = "x86_64")]
                (Matrix::Bf16(matrix), CpuFeatures::Avx512(Bf16Products::Lanes)) => {
                    avx512::bf16_tile::<R, O>(
                        (&x.bf16[from], x.stride),
                        &matrix[weights],
                        part,
                        ahead,
                        carried,
                        sums_of,
                    )
                }
                #[cfg(target_arch = "x86_64")]
                (Matrix::F32(matrix), CpuFeatures::Avx2) => {
                    avx2::tile::<R, O, _>(&x.f32[from], &matrix[weights], inputs, ahead, sums_of)
                }
                #[cfg(target_arch = "x86_64")]
                (Matrix::Bf16(matrix), CpuFeatures::Avx512(_) | CpuFeatures::Avx2) => {
                    avx2::tile::<R, O, _>(&x.f32[from], &matrix[weights], inputs, ahead, sums_of)
                }
                (Matrix::F32(matrix), CpuFeatures::Any) => {
                    portable::<R, O, _>(&x.f32[from], &matrix[weights], inputs, sums_of)
                }
                (Matrix::Bf16(matrix), CpuFeatures::Any) => {
                    portable::<R, O, _>(&x.f32[from], &matrix[weights], inputs, sums_of)
                }
            }
        }
        for (row, to) in to.iter_mut().take(R).enumerate() {
            to[place..place + O].copy_from_slice(&sums[row * O..(row + 1) * O]);
        }
    }
}

/// Sums in eight lanes, which the compiler can vectorise.
#[inline(always)]
fn portable<const R: usize, const O: usize, T: Scalar>(
    x: &[f32],
    weights: &[T],
    inputs: usize,
    sums: &mut Sums,
) {
    let whole = inputs / 8 * 8;
    let mut lanes = [[[0.0f32; 8]; O]; R];
    for first in (0..whole).step_by(8) {
        for output in 0..O {
            let weights = &weights[output * inputs + first..][..8];
            for (row, lanes) in lanes.iter_mut().enumerate() {
                let x = &x[row * inputs + first..][..8];
                for lane in 0..8 {
                    lanes[output][lane] += x[lane] * weights[lane].as_f32();
                }
            }
        }
    }
    for (row, lanes) in lanes.iter().enumerate() {
        for (output, lanes) in lanes.iter().enumerate() {
            let rest =
                (whole..inputs).map(|at| x[row * inputs + at] * weights[output * inputs + at].as_f32());
            sums[row * O + output] = lanes.iter().sum::<f32>() + rest.sum::<f32>();
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
            (6, 1700, 31),
            (9, 9100, 26),
            (11, 2048, 27),
        ] {
            let (x, matrix, bias) =
                (numbers(rows * inputs, 1), numbers(outputs * inputs, 2), numbers(outputs, 3));
            let rounded =
                |values: &[f32]| values.iter().map(|&value| bf16::from_f32(value)).collect::<Vec<_>>();
            let (x_bf16, matrix_bf16) = (rounded(&x), rounded(&matrix));
            for is_bf16 in [false, true] {
                let x = if is_bf16 { x_bf16.iter().map(|x| x.to_f32()).collect() } else { x.clone() };
                let mut got = vec![1.0; rows * (outputs + 2)];
                let buffer = DisjointSlices::new(&mut got);
                Cpu::new(3).parallel(|worker| {
                    let x = InputRows { inputs, f32: &x, bf16: &x_bf16 };
                    let matrix = if is_bf16 { Matrix::Bf16(&matrix_bf16) } else { Matrix::F32(&matrix) };
                    let target = GemvOutput { buffer: &buffer, first: 1, stride: outputs + 2, add: true };
                    let x = PreparedRows::new(x, matrix);
                    // SAFETY: workers have parts of their own.
                    unsafe { multiply(&x, matrix, Some(&bias), worker.range(outputs, 2), None, &target) };
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
                            (got - expected).abs() < 2e-5 + 2e-7 * inputs as f64,
                            "{rows} {inputs} {outputs} {is_bf16}: {got} {expected}"
                        );
                    }
                    assert_eq!(got[row * (outputs + 2)], 1.0, "written beside the target");
                }
            }
        }
    }

    /// A row's outputs do not depend on the other rows: neither on their number, nor on whether inputs are
    /// summed part by part.
    #[test]
    fn products_do_not_depend_on_the_batch() {
        for (inputs, outputs) in [(83, 29), (1700, 26), (2048, 27), (9000, 25)] {
            let (x, matrix) = (numbers(19 * inputs, 4), numbers(outputs * inputs, 5));
            let bf16 = |values: &[f32]| values.iter().map(|&of| bf16::from_f32(of)).collect::<Vec<_>>();
            let (x_bf16, matrix_bf16) = (bf16(&x), bf16(&matrix));
            for matrix in [Matrix::F32(&matrix), Matrix::Bf16(&matrix_bf16)] {
                let product = |rows: Range<usize>| {
                    let mut got = vec![0.0; rows.len() * outputs];
                    let buffer = DisjointSlices::new(&mut got);
                    let target = GemvOutput { buffer: &buffer, first: 0, stride: outputs, add: false };
                    let of = rows.start * inputs..rows.end * inputs;
                    let x = InputRows { inputs, f32: &x[of.clone()], bf16: &x_bf16[of] };
                    let next = Some(matrix.prefetch(0, inputs));
                    let x = PreparedRows::new(x, matrix);
                    // SAFETY: there is one thread.
                    unsafe { multiply(&x, matrix, None, 0..outputs, next, &target) };
                    got
                };
                let all = product(0..19);
                for count in 1..=8 {
                    for first in (0..19 - count).step_by(count) {
                        let expected = &all[first * outputs..(first + count) * outputs];
                        assert_eq!(product(first..first + count), expected, "{count} rows");
                    }
                }
            }
        }
    }
}
