//! Matrices in slices, as products read them.

use std::ops::Range;

use crate::Scalar;

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

    /// Its numbers, row by row of the matrix as it lies in memory, the row stride, and whether it is read as
    /// the transpose of that matrix.
    pub(crate) fn layout(&self) -> (&'a [T], usize, bool) {
        (self.numbers, self.stride, self.transposed)
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        if self.transposed { [self.columns, self.rows] } else { [self.rows, self.columns] }
    }
}

impl<T: Scalar> MatrixView<'_, T> {
    pub(crate) fn at(&self, row: usize, column: usize) -> f32 {
        let (row, column) = if self.transposed { (column, row) } else { (row, column) };
        self.numbers[row * self.stride + column].as_f32()
    }
}
