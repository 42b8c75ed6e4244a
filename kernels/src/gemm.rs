//! Products of small matrices, summed and returned in f32 for f32 and bf16 matrices.

use std::ffi::c_int;
use std::ops::Range;

use half::bf16;

use crate::Scalar;
use crate::symbols::{bf16_gemm, f32_gemm};

const ROWS_FIRST: c_int = 101;
const AS_IT_IS: c_int = 111;
const TRANSPOSED: c_int = 112;

/// A row-major matrix with a row stride, possibly read as its transpose.
#[derive(Clone, Copy)]
pub struct MatrixView<'a, T> {
    numbers: &'a [T],
    rows: usize,
    columns: usize,
    /// Numbers from one row to the next.
    stride: usize,
    /// Whether it is read as its transpose.
    transposed: bool,
}

impl<'a, T> MatrixView<'a, T> {
    /// `numbers` begin with the first row's first number.
    pub fn new(numbers: &'a [T], rows: usize, columns: usize, stride: usize) -> MatrixView<'a, T> {
        assert!(
            columns <= stride && (rows == 0 || (rows - 1) * stride + columns <= numbers.len()),
            "a matrix beyond its numbers"
        );
        MatrixView { numbers, rows, columns, stride, transposed: false }
    }

    /// Its transpose.
    pub fn transposed(self) -> MatrixView<'a, T> {
        MatrixView { transposed: !self.transposed, ..self }
    }

    /// Some of its columns.
    pub fn columns(self, range: Range<usize>) -> MatrixView<'a, T> {
        let [_, columns] = self.shape();
        assert!(range.start <= range.end && range.end <= columns, "a matrix has no such columns");
        let first = if self.transposed { range.start * self.stride } else { range.start };
        let numbers = &self.numbers[first.min(self.numbers.len())..];
        if self.transposed {
            MatrixView { numbers, rows: range.len(), ..self }
        } else {
            MatrixView { numbers, columns: range.len(), ..self }
        }
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        if self.transposed { [self.columns, self.rows] } else { [self.rows, self.columns] }
    }
}

impl<T: Scalar> MatrixView<'_, T> {
    fn at(&self, row: usize, column: usize) -> f32 {
        let (row, column) = if self.transposed { (column, row) } else { (row, column) };
        self.numbers[row * self.stride + column].as_f32()
    }
}

/// An element type of small matrices.
pub trait Factor: Scalar {
    /// Multiplies by the matrix library; returns false where there is none.
    ///
    /// # Safety
    /// As for [`multiply_small`].
    unsafe fn by_library(
        a: MatrixView<Self>,
        b: MatrixView<Self>,
        beta: f32,
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
        beta: f32,
        to: *mut f32,
        stride: usize,
    ) -> bool {
        let Some(gemm) = bf16_gemm() else { return false };
        let ([rows, inner], [_, columns]) = (a.shape(), b.shape());
        let layout = |grid: &MatrixView<bf16>| if grid.transposed { TRANSPOSED } else { AS_IT_IS };
        let [rows, columns, inner, stride_a, stride_b, stride] =
            [rows, columns, inner, a.stride, b.stride, stride].map(|size| size as c_int);
        let (from_a, from_b) = (a.numbers.as_ptr().cast(), b.numbers.as_ptr().cast());
        // SAFETY: grids are within their numbers; the caller guarantees the rest.
        unsafe {
            gemm(
                ROWS_FIRST,
                layout(&a),
                layout(&b),
                rows,
                columns,
                inner,
                1.0,
                from_a,
                stride_a,
                from_b,
                stride_b,
                beta,
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
        beta: f32,
        to: *mut f32,
        stride: usize,
    ) -> bool {
        let Some(gemm) = f32_gemm() else { return false };
        let ([rows, inner], [_, columns]) = (a.shape(), b.shape());
        let layout = |grid: &MatrixView<f32>| if grid.transposed { c"T" } else { c"N" };
        let [rows, columns, inner, stride_a, stride_b, stride] =
            [rows, columns, inner, a.stride, b.stride, stride].map(|size| size as c_int);
        // A row-major matrix read column-major is its transpose; and (a b)' = b' a'.
        // SAFETY: as above.
        unsafe {
            gemm(
                layout(&b).as_ptr(),
                layout(&a).as_ptr(),
                &columns,
                &rows,
                &inner,
                &1.0,
                b.numbers.as_ptr(),
                &stride_b,
                a.numbers.as_ptr(),
                &stride_a,
                &beta,
                to,
                &stride,
            );
        }
        true
    }
}

/// Writes `a b + beta c` to c, which is row-major at `to` with row stride `stride`. Runs on the calling
/// thread: within [`crate::Cpu::parallel`], each worker multiplies its own matrices.
///
/// # Safety
/// The product's rows at `to` are valid for reads and writes, and no other thread accesses them during the
/// call.
pub unsafe fn multiply_small<T: Factor>(
    a: MatrixView<T>,
    b: MatrixView<T>,
    beta: f32,
    to: *mut f32,
    stride: usize,
) {
    let ([rows, inner], [inner_of_b, columns]) = (a.shape(), b.shape());
    assert!(inner == inner_of_b && columns <= stride, "matrices of other shapes");
    // SAFETY: the caller's promise.
    if rows == 0 || columns == 0 || (inner > 0 && unsafe { T::by_library(a, b, beta, to, stride) }) {
        return;
    }
    for row in 0..rows {
        for column in 0..columns {
            let sum: f32 = (0..inner).map(|at| a.at(row, at) * b.at(at, column)).sum();
            // SAFETY: within the product.
            unsafe {
                let place = to.add(row * stride + column);
                *place = if beta == 0.0 { sum } else { beta * *place + sum };
            }
        }
    }
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
                for beta in [0.0, 1.0] {
                    let mut sum = vec![2.0f32; rows * 6];
                    // SAFETY: seven rows of five numbers.
                    unsafe { multiply_small(a, b, beta, sum.as_mut_ptr(), 6) };
                    for row in 0..rows {
                        for column in 0..columns {
                            let exact: f64 = (0..inner)
                                .map(|at| f64::from(a.at(row, at)) * f64::from(b.at(at, column)))
                                .sum();
                            let got = f64::from(sum[row * 6 + column]);
                            assert!(
                                (got - exact - 2.0 * f64::from(beta)).abs() < 1e-5,
                                "{transposed:?} {beta}: {got} {exact}"
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
}
