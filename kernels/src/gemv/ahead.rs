//! What a thread reads next, and prefetches while it multiplies.

use super::{Matrix, Prefetch};
use crate::lines::LINE;

/// What a thread reads: outputs of a matrix up to `left`, whose weights lie one behind the other, then what
/// is said to come next; where nothing is known, what lies there.
#[derive(Clone, Copy)]
pub struct Onward<'a> {
    pub matrix: Matrix<'a>,
    pub inputs: usize,
    pub left: usize,
    pub next: Option<Prefetch>,
}

/// What is read soon, as tiles prefetch it. Where several passes read the same weights, each prefetches a
/// part.
#[derive(Clone, Copy)]
pub struct Ahead {
    place: *const u8,
    /// Lines until `next` is read instead.
    lines: usize,
    next: *const u8,
    /// Bytes that are read for each line that is prefetched: of as many lines as there are passes.
    interval: usize,
    read: usize,
    /// Bytes that are read when the next line is prefetched.
    due: usize,
}

impl Ahead {
    /// From so many bytes behind the first weight of an output on.
    pub fn new(onward: Onward, output: usize, bytes: usize, passes: usize) -> Ahead {
        let row = onward.inputs * onward.matrix.element();
        // From the matrix's first weight on.
        let (at, end) = (output * row + bytes, onward.left * row);
        let here = onward.matrix.prefetch(0, onward.inputs).0.wrapping_add(at);
        let (place, left, next) = match onward.next {
            Some(Prefetch(next)) if at >= end => (next.wrapping_add(at - end), usize::MAX, next),
            Some(Prefetch(next)) => (here, end - at, next),
            None => (here, usize::MAX, here),
        };
        Ahead { place, lines: left.div_ceil(LINE), next, interval: LINE * passes, read: 0, due: 0 }
    }

    /// Prefetches more, since so many bytes are read now. Into L2: L1 has few miss buffers, and where they
    /// are full the products wait, too. Four rows are multiplied 1.4 to 2 times as fast.
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
