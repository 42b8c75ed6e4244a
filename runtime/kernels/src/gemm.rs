//! Products of matrices, summed and returned in f32 for f32 and bf16 matrices.

use std::ffi::c_int;

use half::bf16;

use crate::matrix_view::MatrixView;
use crate::symbols::{bf16_gemm, f32_gemm};
use crate::{CpuFeatures, Scalar};

const ROWS_FIRST: c_int = 101;
const AS_IT_IS: c_int = 111;
const TRANSPOSED: c_int = 112;

/// An element type of small matrices.
pub trait Factor: Scalar {
    /// Multiplies by the matrix library; returns false where there is none.
    ///
    /// # Safety
    /// As for [`multiply_small`].
    unsafe fn by_library(
        a: MatrixView<Self>,
        b: MatrixView<Self>,
        add: bool,
        to: *mut f32,
        stride: usize,
    ) -> bool
    where
        Self: Sized;
}

impl Factor for bf16 {
    unsafe fn by_library(
        a: MatrixView<bf16>,
        b: MatrixView<bf16>,
        add: bool,
        to: *mut f32,
        stride: usize,
    ) -> bool {
        let Some(gemm) = bf16_gemm() else { return false };
        let ([rows, inner], [_, columns]) = (a.shape(), b.shape());
        let ((from_a, stride_a, transposed_a), (from_b, stride_b, transposed_b)) = (a.layout(), b.layout());
        let layout = |transposed: bool| if transposed { TRANSPOSED } else { AS_IT_IS };
        let [rows, columns, inner, stride_a, stride_b, stride] =
            [rows, columns, inner, stride_a, stride_b, stride].map(|size| size as c_int);
        let (from_a, from_b) = (from_a.as_ptr().cast(), from_b.as_ptr().cast());
        // SAFETY: grids are within their numbers; the caller guarantees the rest.
        unsafe {
            gemm(
                ROWS_FIRST,
                layout(transposed_a),
                layout(transposed_b),
                rows,
                columns,
                inner,
                1.0,
                from_a,
                stride_a,
                from_b,
                stride_b,
                f32::from(u8::from(add)),
                to,
                stride,
            );
        }
        true
    }
}

impl Factor for f32 {
    unsafe fn by_library(
        a: MatrixView<f32>,
        b: MatrixView<f32>,
        add: bool,
        to: *mut f32,
        stride: usize,
    ) -> bool {
        let Some(gemm) = f32_gemm() else { return false };
        let ([rows, inner], [_, columns]) = (a.shape(), b.shape());
        let ((from_a, stride_a, transposed_a), (from_b, stride_b, transposed_b)) = (a.layout(), b.layout());
        let layout = |transposed: bool| if transposed { c"T" } else { c"N" };
        let [rows, columns, inner, stride_a, stride_b, stride] =
            [rows, columns, inner, stride_a, stride_b, stride].map(|size| size as c_int);
        // A row-major matrix read column-major is its transpose; and (a b)' = b' a'.
        // SAFETY: as above.
        unsafe {
            gemm(
                layout(transposed_b).as_ptr(),
                layout(transposed_a).as_ptr(),
                &columns,
                &rows,
                &inner,
                &1.0,
                from_b.as_ptr(),
                &stride_b,
                from_a.as_ptr(),
                &stride_a,
                &f32::from(u8::from(add)),
                to,
                &stride,
            );
        }
        true
    }
}

/// Whether the matrix library multiplies bf16 matrices as they are.
pub fn multiplies_bf16() -> bool {
    bf16_gemm().is_some()
}

/// Writes `a b` to `to`, row-major with row stride `stride`, or adds it there. Runs on the calling thread:
/// within [`crate::Cpu::parallel`], each worker multiplies its own matrices.
///
/// # Safety
/// The product's rows at `to` are valid for reads and writes, and no other thread accesses them during the
/// call.
pub unsafe fn multiply_small<T: Factor>(
    a: MatrixView<T>,
    b: MatrixView<T>,
    add: bool,
    to: *mut f32,
    stride: usize,
) {
    let ([rows, inner], [inner_of_b, columns]) = (a.shape(), b.shape());
    assert!(inner == inner_of_b && columns <= stride, "matrices of other shapes");
    // SAFETY: the caller's promise.
    if rows == 0 || columns == 0 || (inner > 0 && unsafe { T::by_library(a, b, add, to, stride) }) {
        return;
    }
    for row in 0..rows {
        for column in 0..columns {
            let sum: f32 = (0..inner).map(|at| a.at(row, at) * b.at(at, column)).sum();
            // SAFETY: within the product.
            unsafe {
                let place = to.add(row * stride + column);
                *place = if add { *place + sum } else { sum };
            }
        }
    }
}

/// The same for large bf16 matrices, on the threads of the matrix library. Not to be called within
/// [`crate::Cpu::parallel`].
///
/// # Safety
/// As for [`multiply_small`].
pub unsafe fn multiply_large(
    a: MatrixView<bf16>,
    b: MatrixView<bf16>,
    add: bool,
    to: *mut f32,
    stride: usize,
) {
    let ([_, inner], [_, columns]) = (a.shape(), b.shape());
    let block = columns_at_once(inner);
    for first in (0..columns).step_by(block) {
        let part = b.columns(first..columns.min(first + block));
        // SAFETY: by the caller's promise; these are some columns of each row.
        unsafe { multiply_small(a, part, add, to.add(first), stride) };
    }
}

/// Columns of a bf16 matrix to multiply per call. The matrix library packs part of each column and keeps that
/// memory: 12 MiB for an `lm_head` of 49,152 entries. On CPUs without bf16 instructions it copies them to
/// f32, which takes twice the memory of the matrix itself.
pub fn columns_at_once(inner: usize) -> usize {
    const PACKED: usize = 4096;
    const COPIED: usize = 4 << 20;
    if CpuFeatures::detect().has_bf16() { PACKED } else { (COPIED / inner.max(1)).max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both precisions, transposed matrices, parts of wider matrices, with and without adding to the output.
    #[test]
    fn small_products_are_those_of_the_definition() {
        fn grid<T>(numbers: &[T], rows: usize, columns: usize, transposed: bool) -> MatrixView<'_, T> {
            if transposed {
                MatrixView::new(numbers, columns, rows, 11).transposed()
            } else {
                MatrixView::new(numbers, rows, columns, 11)
            }
        }
        fn look<T: Factor>(numbers: impl Fn(usize, usize) -> Vec<T>) {
            let (rows, columns, inner) = (7, 5, 9);
            for transposed in [[false, false], [true, false], [false, true], [true, true]] {
                let (a, b) = (numbers(11 * 11, 1), numbers(11 * 11, 2));
                let (a, b) = (grid(&a, rows, inner, transposed[0]), grid(&b, inner, columns, transposed[1]));
                // Some of its columns, which are those of the whole.
                let part = b.columns(2..4);
                assert_eq!(part.shape(), [inner, 2]);
                let same = |row, column| part.at(row, column) == b.at(row, column + 2);
                assert!((0..inner).all(|row| same(row, 0) && same(row, 1)));
                for add in [false, true] {
                    let mut sum = vec![2.0f32; rows * 6];
                    // SAFETY: seven rows of five numbers.
                    unsafe { multiply_small(a, b, add, sum.as_mut_ptr(), 6) };
                    for row in 0..rows {
                        for column in 0..columns {
                            let exact: f64 = (0..inner)
                                .map(|at| f64::from(a.at(row, at)) * f64::from(b.at(at, column)))
                                .sum();
                            let got = f64::from(sum[row * 6 + column]);
                            assert!(
                                (got - exact - if add { 2.0 } else { 0.0 }).abs() < 1e-5,
                                "{transposed:?} {add}: {got} {exact}"
                            );
                        }
                        assert_eq!(sum[row * 6 + 5], 2.0, "written beside the product");
                    }
                }
            }
        }
        let wave =
            |count: usize, seed: usize| (0..count).map(move |at| ((at + seed * 7) as f32 * 0.37).sin());
        look::<f32>(|count, seed| wave(count, seed).collect());
        look::<bf16>(|count, seed| wave(count, seed).map(bf16::from_f32).collect());
    }

    /// Sizes that fill no block of rows, of columns or of numbers along the sum, and sums that are longer
    /// than what is packed at once; transposed matrices, parts of wider ones, and several threads.
    #[test]
    fn large_products_are_those_of_the_definition() {
        let wave = |count: usize, seed: usize| -> Vec<bf16> {
            (0..count).map(|at| bf16::from_f32(((at + seed * 7) as f32 * 0.37).sin())).collect()
        };
        for (rows, columns, inner) in [(1, 1, 1), (70, 45, 33), (33, 70, 1700), (1300, 3, 40), (5, 64, 1536)]
        {
            let stride = rows.max(columns).max(inner) + 3;
            let (a, b) = (wave(stride * stride, 1), wave(stride * stride, 2));
            for transposed in [[false, false], [true, false], [false, true], [true, true]] {
                let view = |numbers, rows, columns, transposed: bool| match transposed {
                    true => MatrixView::new(numbers, columns, rows, stride).transposed(),
                    false => MatrixView::new(numbers, rows, columns, stride),
                };
                let (a, b) = (view(&a, rows, inner, transposed[0]), view(&b, inner, columns, transposed[1]));
                for add in [false, true] {
                    let mut sum = vec![2.0f32; rows * (columns + 1)];
                    // SAFETY: so many rows of so many numbers.
                    unsafe { multiply_large(a, b, add, sum.as_mut_ptr(), columns + 1) };
                    for (row, sum) in sum.chunks_exact(columns + 1).enumerate() {
                        for (column, sum) in sum[..columns].iter().enumerate() {
                            let products =
                                (0..inner).map(|at| f64::from(a.at(row, at)) * f64::from(b.at(at, column)));
                            let exact = products.clone().sum::<f64>() + if add { 2.0 } else { 0.0 };
                            // bf16 instructions round otherwise: by up to 2.7e-6 of this, on Zen 5.
                            let added: f64 = products.map(f64::abs).sum();
                            let most = match CpuFeatures::detect().has_bf16() {
                                true => 3e-6 * added,
                                false => 2e-7 * inner as f64,
                            };
                            assert!(
                                (f64::from(*sum) - exact).abs() < 2e-5 + most,
                                "{rows} {columns} {inner} {transposed:?} {add}: {sum} {exact}"
                            );
                        }
                        assert_eq!(sum[columns], 2.0, "written beside the product");
                    }
                }
            }
        }
    }
}
