//! Products of bf16 matrices with AMX, on CPUs that have it.
//!
//! A tile register holds sixteen rows of 64 bytes. One instruction multiplies two tiles and adds the product
//! to a third, of sixteen by sixteen f32 numbers: the left tile has sixteen lines of 32 numbers along the
//! sum, the right one sixteen pairs of numbers along the sum, each of sixteen lines ([`pack`]).
//!
//! The instructions are written as assembly because Rust has no stable intrinsics for them. Each block of it
//! begins and ends a sum, so that no tile register has to keep its content from one block to the next.
//!
//! A sum is added up in the order of its numbers, 32 at a time, whatever the other rows, columns and threads
//! are. So a row has the same bits in [`gemm`] and in the product of a few rows (`gemv/amx.rs`).

pub mod gemm;
pub mod pack;

use std::arch::asm;
use std::arch::x86_64::*;

use half::bf16;

use crate::CpuFeatures;
use crate::features::Bf16Products;
use crate::lines::LINE;

/// Lines of a tile.
pub const TILE_LINES: usize = 16;
/// Numbers of a line along the sum: 64 bytes.
pub const TILE_INNER: usize = LINE / size_of::<bf16>();
/// Numbers of a tile.
pub const TILE: usize = TILE_LINES * TILE_INNER;

/// Sums of two by two tiles, aligned as tiles are loaded and stored fastest.
#[repr(align(64))]
pub struct Sums(pub [f32; 4 * TILE_LINES * TILE_LINES]);

// The assembly has these as numbers.
const _: () = assert!(LINE == 64 && TILE * size_of::<bf16>() == 1024 && TILE_LINES * LINE == 1024);

/// Whether the CPU multiplies tiles.
pub fn is_available() -> bool {
    CpuFeatures::detect() == CpuFeatures::Avx512(Bf16Products::Tiles)
}

/// The shape of this thread's tile registers, until it is dropped.
pub struct TileShapes;

impl TileShapes {
    /// All eight registers have sixteen rows of 64 bytes.
    pub fn load() -> TileShapes {
        /// As `LDTILECFG` reads it: the palette, bytes per row from byte 16 on, rows from byte 48 on.
        static SHAPES: [u8; 64] = {
            let (mut shapes, mut tile) = ([0; 64], 0);
            shapes[0] = 1;
            while tile < 8 {
                shapes[16 + 2 * tile] = LINE as u8;
                shapes[48 + tile] = TILE_LINES as u8;
                tile += 1;
            }
            shapes
        };
        assert!(is_available(), "the CPU has no tiles");
        // SAFETY: the CPU has AMX, and the system permits it.
        unsafe { asm!("ldtilecfg [{}]", in(reg) SHAPES.as_ptr(), options(nostack, readonly)) };
        TileShapes
    }
}

impl Drop for TileShapes {
    fn drop(&mut self) {
        // SAFETY: no code on this thread expects content in a tile register.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// A mask of the first `count` lanes of 16 bits, at most 32.
pub fn first_lanes(count: usize) -> u32 {
    if count < 32 { (1 << count) - 1 } else { u32::MAX }
}

/// The transpose of sixteen rows of sixteen numbers of 32 bits.
#[target_feature(enable = "avx512f")]
#[inline]
pub fn transposed(rows: [__m512i; 16]) -> [__m512i; 16] {
    // Rows of four: a lane of 128 bits holds a column of four rows.
    let mut fours = [_mm512_setzero_si512(); 16];
    for first in [0, 4, 8, 12] {
        let (a, b, c, d) = (rows[first], rows[first + 1], rows[first + 2], rows[first + 3]);
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        fours[first] = _mm512_unpacklo_epi64(ab, cd);
        fours[first + 1] = _mm512_unpackhi_epi64(ab, cd);
        let (ab, cd) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        fours[first + 2] = _mm512_unpacklo_epi64(ab, cd);
        fours[first + 3] = _mm512_unpackhi_epi64(ab, cd);
    }
    // Then the lanes of four such registers: 0x88 takes the first and third of each, 0xdd the others.
    let mut columns = [_mm512_setzero_si512(); 16];
    for column in 0..4 {
        let (a, b, c, d) = (fours[column], fours[column + 4], fours[column + 8], fours[column + 12]);
        let (ab, cd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(c, d));
        columns[column] = _mm512_shuffle_i32x4::<0x88>(ab, cd);
        columns[column + 8] = _mm512_shuffle_i32x4::<0xdd>(ab, cd);
        let (ab, cd) = (_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(c, d));
        columns[column + 4] = _mm512_shuffle_i32x4::<0x88>(ab, cd);
        columns[column + 12] = _mm512_shuffle_i32x4::<0xdd>(ab, cd);
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cpu;
    use crate::gemv::{GemvOutput, InputRows, Matrix, PreparedRows};
    use crate::matrix_view::MatrixView;
    use crate::thread_pool::DisjointSlices;

    /// The order of a sum depends on its length alone: not on the number of rows, the other factor's layout,
    /// blocks, threads, or the loop that computes it. Only on CPUs with AMX.
    #[test]
    fn a_product_has_the_same_bits_in_every_loop() {
        if !is_available() {
            return;
        }
        let wave = |count: usize, seed: usize| -> Vec<bf16> {
            (0..count).map(|at| bf16::from_f32(((at + seed * 7) as f32 * 0.37).sin())).collect()
        };
        for (rows, inner, outputs) in [(1, 64, 96), (40, 1700, 50), (67, 577, 131)] {
            let (x, weights) = (wave(rows * inner, 1), wave(outputs * inner, 2));
            let columns: Vec<bf16> =
                (0..inner * outputs).map(|at| weights[at % outputs * inner + at / outputs]).collect();
            let left = MatrixView::new(&x, rows, inner, inner);
            let by_rows = MatrixView::new(&weights, outputs, inner, inner).transposed();
            let by_columns = MatrixView::new(&columns, inner, outputs, outputs);
            let whole = |right: MatrixView<bf16>, threads: usize| {
                let mut to = vec![0.0f32; rows * outputs];
                // SAFETY: so many rows of so many numbers.
                unsafe { gemm::multiply(Cpu::new(threads), left, right, false, to.as_mut_ptr(), outputs) };
                to
            };
            let expected = whole(by_rows, 1);
            assert_eq!(whole(by_columns, 3), expected);
            for count in [1, rows.div_ceil(2)] {
                let x = &x[(rows - count) * inner..];
                let f32: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
                let mut to = vec![0.0f32; count * outputs];
                let buffer = DisjointSlices::new(&mut to);
                let target = GemvOutput { buffer: &buffer, first: 0, stride: outputs, add: false };
                let matrix = Matrix::Bf16(&weights);
                let x = PreparedRows::new(InputRows { inputs: inner, f32: &f32, bf16: x }, matrix);
                // SAFETY: there is one thread.
                unsafe { crate::gemv::multiply(&x, matrix, None, 0..outputs, None, &target) };
                assert_eq!(to, expected[(rows - count) * outputs..], "{count} rows");
            }
        }
    }
}
