//! Prefetches the weights that a thread reads next, while it multiplies.

use super::{Matrix, Prefetch};
use crate::lines::LINE;

/// The weights that a thread reads: outputs of a matrix up to `left`, which are contiguous, then those at
/// `next` or, without it, the addresses that follow.
#[derive(Clone, Copy)]
pub struct WeightsToPrefetch<'a> {
    pub matrix: Matrix<'a>,
    pub inputs: usize,
    pub left: usize,
    pub next: Option<Prefetch>,
}

/// The position of the prefetches. Where several passes read the same weights, each pass prefetches a part of
/// the following ones.
#[derive(Clone, Copy)]
pub struct PrefetchCursor {
    place: *const u8,
    /// Lines left before the prefetches continue at `next`.
    lines: usize,
    next: *const u8,
    /// Bytes read per prefetched line: those of one line for each pass.
    interval: usize,
    read: usize,
    /// Value of `read` from which the next line is prefetched.
    due: usize,
}

impl PrefetchCursor {
    /// Starts to prefetch `bytes` after the first weight of an output.
    pub fn new(onward: WeightsToPrefetch, output: usize, bytes: usize, passes: usize) -> PrefetchCursor {
        let row = onward.inputs * onward.matrix.element();
        // Offsets from the matrix's first weight.
        let (at, end) = (output * row + bytes, onward.left * row);
        let here = onward.matrix.prefetch(0, onward.inputs).0.wrapping_add(at);
        let (place, left, next) = match onward.next {
            Some(Prefetch(next)) if at >= end => (next.wrapping_add(at - end), usize::MAX, next),
            Some(Prefetch(next)) => (here, end - at, next),
            None => (here, usize::MAX, here),
        };
        PrefetchCursor { place, lines: left.div_ceil(LINE), next, interval: LINE * passes, read: 0, due: 0 }
    }

    /// Prefetches further lines, given that `bytes` more are read now. Into L2, because L1 has few miss
    /// buffers, and products wait when these are full. Speeds up products of four rows 1.4 to 2 times.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub fn prefetch(&mut self, bytes: usize) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        self.read = self.read.wrapping_add(bytes);
        while self.due < self.read {
            // SAFETY: every processor that this is compiled for has the instruction, and it reads nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.place.cast()) };
            self.place = self.place.wrapping_add(LINE);
            self.due = self.due.wrapping_add(self.interval);
            self.lines = self.lines.wrapping_sub(1);
            if self.lines == 0 {
                self.place = self.next;
            }
        }
    }
}
