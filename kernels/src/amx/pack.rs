//! Copies of matrices as tiles.

use std::arch::x86_64::*;
use std::ops::Range;

use half::bf16;

use super::{TILE, TILE_INNER, TILE_LINES, first_lanes, transposed};
use crate::matrix_view::MatrixView;

/// One factor of a product, as lines along the sum: the rows of the left one, the columns of the right one.
#[derive(Clone, Copy)]
pub struct TileSource<'a> {
    numbers: &'a [bf16],
    lines: usize,
    inner: usize,
    stride: usize,
    /// Whether the numbers of a line are consecutive in memory; otherwise, those of the lines are.
    consecutive: bool,
    /// Whether tiles have lines of numbers; otherwise, pairs of numbers of each line.
    is_left: bool,
}

impl<'a> TileSource<'a> {
    pub fn left(matrix: MatrixView<'a, bf16>) -> TileSource<'a> {
        let [lines, inner] = matrix.shape();
        let (numbers, stride, transposed) = matrix.layout();
        TileSource { numbers, lines, inner, stride, consecutive: !transposed, is_left: true }
    }

    pub fn right(matrix: MatrixView<'a, bf16>) -> TileSource<'a> {
        TileSource { is_left: false, ..TileSource::left(matrix.transposed()) }
    }

    /// Writes the tiles of sixteen lines from `line` on, for the numbers `inner` of each. Missing lines and
    /// numbers are 0.
    ///
    /// # Safety
    /// The CPU has AVX-512.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub unsafe fn pack(&self, line: usize, inner: Range<usize>, to: &mut [bf16]) {
        assert!(to.len() == inner.len().div_ceil(TILE_INNER) * TILE && inner.end <= self.inner);
        let lines = self.lines.saturating_sub(line).min(TILE_LINES);
        let (tiles, _) = to.as_chunks_mut::<TILE>();
        // Loops over indices, because closures would not be compiled into the iterators that call them.
        let mut tile = 0;
        while tile < tiles.len() {
            let first = inner.start + tile * TILE_INNER;
            let last = inner.end.min(first + TILE_INNER);
            let mut lanes = match self.consecutive {
                true => self.by_line(line, lines, first, last),
                false => self.by_pair(line, lines, first, last),
            };
            if self.consecutive != self.is_left {
                lanes = transposed(lanes);
            }
            let mut place = 0;
            while place < TILE_LINES {
                // SAFETY: a tile has sixteen times 32 numbers.
                unsafe {
                    _mm512_storeu_si512(tiles[tile].as_mut_ptr().add(place * TILE_INNER).cast(), lanes[place])
                };
                place += 1;
            }
            tile += 1;
        }
    }

    /// A register for each of the lines from `line` on, with its numbers from `first` to `last`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    fn by_line(&self, line: usize, lines: usize, first: usize, last: usize) -> [__m512i; TILE_LINES] {
        let mut lanes = [_mm512_setzero_si512(); TILE_LINES];
        if lines == 0 {
            return lanes;
        }
        let start = line * self.stride + first;
        let numbers = &self.numbers[start..start + (lines - 1) * self.stride + last - first];
        let mask = first_lanes(last - first);
        let mut index = 0;
        while index < TILE_LINES {
            if index < lines {
                // SAFETY: the mask ends at `last`, and the last line within the numbers.
                let from = unsafe { numbers.as_ptr().add(index * self.stride) };
                // SAFETY: as above.
                lanes[index] = unsafe { _mm512_maskz_loadu_epi16(mask, from.cast()) };
            }
            index += 1;
        }
        lanes
    }

    /// A register for each pair of numbers from `first` to `last`, with those of the lines from `line` on.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    fn by_pair(&self, line: usize, lines: usize, first: usize, last: usize) -> [__m512i; TILE_LINES] {
        let mut lanes = [_mm512_setzero_si512(); TILE_LINES];
        if lines == 0 {
            return lanes;
        }
        let start = first * self.stride + line;
        let numbers = &self.numbers[start..start + (last - first - 1) * self.stride + lines];
        let mask = first_lanes(lines) as u16;
        let mut index = 0;
        while index < TILE_LINES {
            let mut pair = [_mm512_setzero_si512(); 2];
            let mut at = 0;
            while at < 2 {
                if 2 * index + at < last - first {
                    // SAFETY: the mask ends at the last of the lines, and the last number within the numbers.
                    let from = unsafe { numbers.as_ptr().add((2 * index + at) * self.stride) };
                    // SAFETY: as above.
                    pair[at] = _mm512_cvtepu16_epi32(unsafe { _mm256_maskz_loadu_epi16(mask, from.cast()) });
                }
                at += 1;
            }
            lanes[index] = _mm512_or_si512(pair[0], _mm512_slli_epi32::<16>(pair[1]));
            index += 1;
        }
        lanes
    }
}
