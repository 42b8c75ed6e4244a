//! Buffers that are aligned to cache lines.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use crate::Scalar;

/// Bytes of a cache line.
pub const LINE: usize = 64;

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line {
    _bytes: [u8; LINE],
}

const _: () = assert!(align_of::<Line>() == LINE && size_of::<Line>() == LINE);

/// A buffer aligned to cache lines, whose parts are written by different threads. Parts that begin at whole
/// lines do not share a line between cores, which avoids false sharing.
pub struct Lines<T> {
    lines: Vec<Line>,
    length: usize,
    numbers: PhantomData<T>,
}

impl<T> Default for Lines<T> {
    fn default() -> Lines<T> {
        Lines { lines: Vec::new(), length: 0, numbers: PhantomData }
    }
}

impl<T: Scalar> Lines<T> {
    /// Resizes to `length` numbers; new ones are 0.
    pub fn resize(&mut self, length: usize) {
        self.lines.resize((length * size_of::<T>()).div_ceil(LINE), Line { _bytes: [0; LINE] });
        self.length = length;
    }
}

impl<T: Scalar> Deref for Lines<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the lines hold as many numbers, aligned at least as `T`, and any bits are a valid number.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.length) }
    }
}

impl<T: Scalar> DerefMut for Lines<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.length) }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn buffers_begin_at_a_cache_line() {
        let mut lines = Lines::<bf16>::default();
        assert!(lines.is_empty());
        for length in [33, 1, 100] {
            lines.resize(length);
            assert_eq!((lines.len(), lines.as_ptr().align_offset(LINE)), (length, 0));
            lines.fill(bf16::ONE);
        }
        lines.resize(0);
        lines.resize(7);
        assert_eq!(&lines[..], [bf16::ZERO; 7]);
    }
}
