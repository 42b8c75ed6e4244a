//! The rows on the left of a product, laid out so that they don't evict each other from the L1 cache.

use std::cell::RefCell;

use half::bf16;

use super::{InputRows, Matrix};
use crate::Scalar;
use crate::lines::{LINE, Lines};

/// Bytes of a way of the L1 cache: addresses so far apart share a set.
const WAY: usize = 4 << 10;

/// Rows on the left, `stride` apart. Only the slice of the type that the product uses is padded.
#[derive(Clone, Copy)]
pub struct StridedRows<'a> {
    pub inputs: usize,
    pub stride: usize,
    pub f32: &'a [f32],
    pub bf16: &'a [bf16],
}

thread_local! {
    /// Kept for the next product: new memory has to be cleared first.
    pub static COPIES: RefCell<Copies> = RefCell::default();
}

/// Buffers for padded copies of rows.
#[derive(Default)]
pub struct Copies {
    f32: Lines<f32>,
    bf16: Lines<bf16>,
}

impl Copies {
    /// Returns the rows, or a padded copy where all rows would share sets of the L1 cache and evict each
    /// other: the copy makes products of 32 rows of 2,048 numbers 1.7 times as fast. Narrower registers take
    /// only four rows at a time, which fit in the cache's ways.
    pub fn pad<'a>(&'a mut self, x: InputRows<'a>, matrix: Matrix, wide: bool) -> StridedRows<'a> {
        let InputRows { inputs, f32, bf16 } = x;
        if !wide || x.count() == 1 || !(inputs * matrix.element()).is_multiple_of(WAY) {
            return StridedRows { inputs, stride: inputs, f32, bf16 };
        }
        match matrix {
            Matrix::F32(_) => {
                let stride = padded(f32, inputs, &mut self.f32);
                StridedRows { inputs, stride, f32: &self.f32, bf16: &[] }
            }
            Matrix::Bf16(_) => {
                let stride = padded(bf16, inputs, &mut self.bf16);
                StridedRows { inputs, stride, f32: &[], bf16: &self.bf16 }
            }
        }
    }
}

/// Copies rows, with a cache line of padding behind each. Outputs the stride.
fn padded<T: Scalar>(rows: &[T], inputs: usize, to: &mut Lines<T>) -> usize {
    let stride = inputs + LINE / size_of::<T>();
    to.resize(rows.len() / inputs * stride);
    for (row, to) in rows.chunks_exact(inputs).zip(to.chunks_exact_mut(stride)) {
        to[..inputs].copy_from_slice(row);
    }
    stride
}
