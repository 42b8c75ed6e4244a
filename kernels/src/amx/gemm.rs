//! Products of large matrices, by all threads.
//!
//! The left factor is packed in blocks that stay in L2, by all threads together. Each thread then takes
//! panels of the right factor's columns, packs a panel, and multiplies it with the whole block.

use std::arch::asm;
use std::cell::RefCell;

use half::bf16;

use super::pack::TileSource;
use super::{Sums, TILE, TILE_INNER, TILE_LINES, TileShapes};
use crate::Cpu;
use crate::lines::{LINE, Lines};
use crate::matrix_view::MatrixView;
use crate::thread_pool::{DisjointSlices, PoolWorker};

/// Rows and columns that are multiplied in registers: two tiles each.
const BLOCK: usize = 2 * TILE_LINES;
/// Numbers of a line that are packed at once: a panel of so many stays in L1 and L2.
const INNER: usize = 48 * TILE_INNER;
/// Numbers of the left factor that are packed at once: half of an L2.
const LEFT: usize = (1 << 20) / size_of::<bf16>();

thread_local! {
    // Kept for the next product: new memory has to be cleared first.
    /// Packed numbers of the left factor.
    static LEFT_PACKED: RefCell<Lines<bf16>> = RefCell::default();
    /// Packed numbers of a panel of the right factor.
    static PANEL: RefCell<Lines<bf16>> = RefCell::default();
}

/// Row-major f32 numbers that the threads write in part.
struct Output {
    to: *mut f32,
    stride: usize,
}

// SAFETY: threads write columns of their own.
unsafe impl Sync for Output {}

/// Writes `a b` to `to`, row-major with row stride `stride`, or adds it there.
///
/// # Safety
/// As for [`crate::gemm::multiply_small`]; the CPU has AMX.
pub unsafe fn multiply(
    cpu: Cpu,
    a: MatrixView<bf16>,
    b: MatrixView<bf16>,
    add: bool,
    to: *mut f32,
    stride: usize,
) {
    let ([rows, inner], [inner_of_b, columns]) = (a.shape(), b.shape());
    assert!(inner == inner_of_b && columns <= stride && inner > 0);
    let at_once = inner.min(INNER).next_multiple_of(TILE_INNER);
    let most = (LEFT / at_once / BLOCK * BLOCK).max(BLOCK);
    let rows_at_once = rows.div_ceil(rows.div_ceil(most).max(1)).next_multiple_of(BLOCK);
    let mut left = LEFT_PACKED.take();
    left.resize(rows_at_once * at_once);
    let product = Product {
        left: TileSource::left(a),
        right: TileSource::right(b),
        packed: DisjointSlices::new(&mut left),
        output: Output { to, stride },
    };
    cpu.parallel(|worker| {
        for first in (0..inner).step_by(at_once) {
            for row in (0..rows).step_by(rows_at_once) {
                let part = Part {
                    rows: [row, rows.min(row + rows_at_once)],
                    inner: [first, inner.min(first + at_once)],
                    add: add || first > 0,
                };
                // SAFETY: by the caller's promise.
                unsafe { product.multiply(&worker, part, columns) };
            }
        }
    });
    LEFT_PACKED.set(left);
}

struct Product<'a> {
    left: TileSource<'a>,
    right: TileSource<'a>,
    packed: DisjointSlices<'a, bf16>,
    output: Output,
}

/// The rows and numbers of the left factor that are packed at once.
#[derive(Clone, Copy)]
struct Part {
    rows: [usize; 2],
    inner: [usize; 2],
    add: bool,
}

impl Product<'_> {
    /// # Safety
    /// As for [`multiply`].
    unsafe fn multiply(&self, worker: &PoolWorker, part: Part, columns: usize) {
        let Part { rows: [row, end], inner: [first, last], add } = part;
        let steps = (last - first).div_ceil(TILE_INNER);
        let groups = (end - row).next_multiple_of(BLOCK) / TILE_LINES;
        for group in worker.range(groups, 1) {
            // SAFETY: workers have groups of their own; the CPU has AMX, and with it AVX-512.
            unsafe {
                let to = self.packed.slice_mut(group * steps * TILE..(group + 1) * steps * TILE);
                self.left.pack(row + group * TILE_LINES, first..last, to);
            }
        }
        worker.barrier();
        let mut panel = PANEL.take();
        panel.resize(2 * steps * TILE);
        let shapes = TileShapes::load();
        // SAFETY: no worker packs before the barrier below.
        let left = unsafe { self.packed.as_slice() };
        for (columns, _) in worker.chunks(columns, BLOCK) {
            for (index, to) in panel.chunks_exact_mut(steps * TILE).enumerate() {
                // SAFETY: as above.
                unsafe { self.right.pack(columns.start + index * TILE_LINES, first..last, to) };
            }
            for (first, left) in (row..end).step_by(BLOCK).zip(left.chunks_exact(2 * steps * TILE)) {
                // SAFETY: by the caller's promise; workers have columns of their own.
                unsafe {
                    let to = self.output.to.add(first * self.output.stride + columns.start);
                    write_block(left, &panel, [end - first, columns.len()], add, to, self.output.stride);
                }
            }
        }
        drop(shapes);
        PANEL.set(panel);
        worker.barrier();
    }
}

/// Writes the product of two rows and two columns of tiles, or as much of it as there is.
///
/// # Safety
/// `rows` rows of `columns` numbers at `to`, at most a block, are this thread's; the shapes of tiles are
/// loaded.
unsafe fn write_block(
    left: &[bf16],
    right: &[bf16],
    [rows, columns]: [usize; 2],
    add: bool,
    to: *mut f32,
    stride: usize,
) {
    if rows >= BLOCK && columns == BLOCK {
        // SAFETY: by the caller's promise.
        return unsafe { multiply_tiles(left, right, add, to, stride) };
    }
    let mut sums = Sums([0.0; BLOCK * BLOCK]);
    let block = &mut sums.0;
    let place = |row: usize| to.wrapping_add(row * stride);
    let rows = rows.min(BLOCK);
    // SAFETY: by the caller's promise.
    unsafe {
        if add {
            for (row, block) in block.chunks_exact_mut(BLOCK).enumerate().take(rows) {
                std::ptr::copy_nonoverlapping(place(row), block.as_mut_ptr(), columns);
            }
        }
        multiply_tiles(left, right, add, block.as_mut_ptr(), BLOCK);
        for (row, block) in block.chunks_exact(BLOCK).enumerate().take(rows) {
            std::ptr::copy_nonoverlapping(block.as_ptr(), place(row), columns);
        }
    }
}

/// # Safety
/// There are 32 rows of 32 numbers at `to`, of this thread's; the shapes of tiles are loaded.
unsafe fn multiply_tiles(left: &[bf16], right: &[bf16], add: bool, to: *mut f32, stride: usize) {
    assert!(left.len() == right.len() && left.len().is_multiple_of(2 * TILE) && !left.is_empty());
    let half = left.len() / 2;
    // SAFETY: by the caller's promise; both halves have so many tiles.
    unsafe {
        asm!(
            "test {add}, {add}",
            "jz 3f",
            "tileloadd tmm0, [{upper} + {stride}]",
            "tileloadd tmm1, [{upper} + {stride} + 64]",
            "tileloadd tmm2, [{lower} + {stride}]",
            "tileloadd tmm3, [{lower} + {stride} + 64]",
            "jmp 2f",
            "3:",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{left} + {line}]",
            "tileloadd tmm6, [{right} + {line}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{other_right} + {line}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{other_left} + {line}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {left}, 1024",
            "add {other_left}, 1024",
            "add {right}, 1024",
            "add {other_right}, 1024",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{upper} + {stride}], tmm0",
            "tilestored [{upper} + {stride} + 64], tmm1",
            "tilestored [{lower} + {stride}], tmm2",
            "tilestored [{lower} + {stride} + 64], tmm3",
            add = in(reg) usize::from(add),
            left = inout(reg) left.as_ptr() => _,
            other_left = inout(reg) left[half..].as_ptr() => _,
            right = inout(reg) right.as_ptr() => _,
            other_right = inout(reg) right[half..].as_ptr() => _,
            steps = inout(reg) half / TILE => _,
            upper = in(reg) to,
            lower = in(reg) to.wrapping_add(TILE_LINES * stride),
            stride = in(reg) stride * size_of::<f32>(),
            line = in(reg) LINE,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
