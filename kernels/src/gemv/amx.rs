//! Rows times outputs with AMX: a tile register holds sixteen rows of 64 bytes, and one instruction multiplies
//! two of them.
//!
//! The weights are the left factor, so that a tile of sixteen outputs is loaded from the matrix as it lies. The
//! right factor needs pairs of inputs of sixteen rows side by side; the rows are packed so, once per product
//! ([`pack`]). A product is then a tile of `[outputs, rows]`, which is transposed on the way out.
//!
//! The instructions are written as assembly because Rust has no stable intrinsics for them. Each block of it
//! begins and ends a sum, so that no tile register has to keep its content from one block to the next.

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use half::bf16;

use super::{GemvOutput, Prefetch};
use crate::lines::{LINE, Lines};

/// Rows of a tile: outputs on the left, rows of the product on the right.
pub const ROWS: usize = 16;
/// Inputs of a tile: 64 bytes of a row.
pub const INPUTS: usize = LINE / size_of::<bf16>();
/// Numbers of a packed tile.
const TILE: usize = ROWS * INPUTS;
/// Most groups of sixteen rows in one block of assembly.
const GROUPS: usize = 2;
/// Most tiles of outputs in one block: enough sums in a row for each to be done before it is added to again.
const OUTPUTS: [usize; GROUPS] = [3, 2];

/// `[rows, inputs]` as tiles, `[groups of rows, steps, pairs of inputs, rows, 2]`. Missing rows and inputs are 0.
pub fn pack(rows: &[bf16], inputs: usize, to: &mut Lines<bf16>) {
    assert!(inputs > 0 && rows.len().is_multiple_of(inputs), "whole rows");
    let steps = inputs.div_ceil(INPUTS);
    let groups = rows.chunks(ROWS * inputs);
    to.resize(groups.len() * steps * TILE);
    for (rows, to) in groups.zip(to.chunks_exact_mut(steps * TILE)) {
        // SAFETY: the CPU has AMX, and with it AVX-512.
        unsafe { pack_group(rows, inputs, to) };
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn pack_group(rows: &[bf16], inputs: usize, to: &mut [bf16]) {
    for (step, to) in to.chunks_exact_mut(TILE).enumerate() {
        let first = step * INPUTS;
        let mask = first_lanes(inputs - first);
        let mut lanes = [_mm512_setzero_si512(); ROWS];
        for (row, lanes) in rows.chunks_exact(inputs).zip(&mut lanes) {
            // SAFETY: the mask ends at the row's end.
            *lanes = unsafe { _mm512_maskz_loadu_epi16(mask, row[first..].as_ptr().cast()) };
        }
        for (lanes, to) in transposed(lanes).into_iter().zip(to.chunks_exact_mut(INPUTS)) {
            // SAFETY: 32 numbers.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), lanes) };
        }
    }
}

/// A mask of the first lanes of 16 bits.
fn first_lanes(count: usize) -> u32 {
    if count < INPUTS { (1 << count) - 1 } else { u32::MAX }
}

/// The transpose of sixteen rows of sixteen numbers of 32 bits.
#[target_feature(enable = "avx512f")]
#[inline]
fn transposed(rows: [__m512i; 16]) -> [__m512i; 16] {
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

/// The shape of this thread's tile registers, until it is dropped.
struct TileShapes;

impl TileShapes {
    /// All eight registers have sixteen rows of 64 bytes.
    fn load() -> TileShapes {
        /// As `LDTILECFG` reads it: the palette, bytes per row from byte 16 on, rows from byte 48 on.
        static SHAPES: [u8; 64] = {
            let (mut shapes, mut tile) = ([0; 64], 0);
            shapes[0] = 1;
            while tile < 8 {
                shapes[16 + 2 * tile] = LINE as u8;
                shapes[48 + tile] = ROWS as u8;
                tile += 1;
            }
            shapes
        };
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

/// A block of products: tiles of outputs times groups of rows.
struct Block {
    /// The first weight of the first output, and bytes from one output's to the next.
    weights: *const bf16,
    stride: usize,
    /// The packed tiles of the first group of rows.
    x: *const bf16,
    /// Tiles of a group, and of an output.
    steps: usize,
    /// The first line to prefetch, and sixteenths of lines per step.
    ahead: *const u8,
    lines: usize,
}

/// Sums of a block: `[groups, tiles of outputs, outputs, rows]`.
#[repr(align(64))]
struct Sums([f32; 4 * ROWS * ROWS]);

/// Defines the assembly of a block's shape: `loads` and `products` of one step, the tiles that are cleared before
/// and stored after.
macro_rules! block {
    ($name:ident, groups $groups:literal, outputs $outputs:literal, clear [$($clear:literal),*],
     products [$($product:literal),*], store [$($store:literal),*]) => {
        /// # Safety
        /// Weights and rows of the block have as many tiles, and the shapes of tiles are loaded.
        unsafe fn $name(block: &Block, sums: &mut Sums) {
            let bytes = ROWS * block.stride;
            let weights = block.weights.cast::<u8>();
            let second = if $outputs > 1 { weights.wrapping_add(bytes) } else { weights };
            let third = if $outputs > 2 { weights.wrapping_add(2 * bytes) } else { weights };
            let x = block.x;
            let other = if $groups > 1 { x.wrapping_add(block.steps * TILE) } else { x };
            // SAFETY: by the caller's promise; prefetches read nothing.
            unsafe {
                asm!(
                    $($clear,)*
                    "2:",
                    $($product,)*
                    "mov {count}, {lines}",
                    "test {count}, {count}",
                    "jz 4f",
                    "3:",
                    "prefetcht1 [{ahead}]",
                    "prefetcht1 [{ahead} + 64]",
                    "prefetcht1 [{ahead} + 128]",
                    "prefetcht1 [{ahead} + 192]",
                    "prefetcht1 [{ahead} + 256]",
                    "prefetcht1 [{ahead} + 320]",
                    "prefetcht1 [{ahead} + 384]",
                    "prefetcht1 [{ahead} + 448]",
                    "prefetcht1 [{ahead} + 512]",
                    "prefetcht1 [{ahead} + 576]",
                    "prefetcht1 [{ahead} + 640]",
                    "prefetcht1 [{ahead} + 704]",
                    "prefetcht1 [{ahead} + 768]",
                    "prefetcht1 [{ahead} + 832]",
                    "prefetcht1 [{ahead} + 896]",
                    "prefetcht1 [{ahead} + 960]",
                    "add {ahead}, 1024",
                    "dec {count}",
                    "jnz 3b",
                    "4:",
                    "add {w0}, 64",
                    "add {w1}, 64",
                    "add {w2}, 64",
                    "add {x0}, 1024",
                    "add {x1}, 1024",
                    "dec {steps}",
                    "jnz 2b",
                    $($store,)*
                    w0 = inout(reg) weights => _,
                    w1 = inout(reg) second => _,
                    w2 = inout(reg) third => _,
                    x0 = inout(reg) x => _,
                    x1 = inout(reg) other => _,
                    steps = inout(reg) block.steps => _,
                    ahead = inout(reg) block.ahead => _,
                    lines = in(reg) block.lines,
                    count = out(reg) _,
                    stride = in(reg) block.stride,
                    line = in(reg) LINE,
                    to = in(reg) sums.0.as_mut_ptr(),
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

block!(one_by_one, groups 1, outputs 1, clear ["tilezero tmm0"],
    products ["tileloadd tmm6, [{x0} + {line}]", "tileloadd tmm4, [{w0} + {stride}]", "tdpbf16ps tmm0, tmm4, tmm6"],
    store ["tilestored [{to} + {line}], tmm0"]);
block!(one_by_two, groups 1, outputs 2, clear ["tilezero tmm0", "tilezero tmm1"],
    products ["tileloadd tmm6, [{x0} + {line}]", "tileloadd tmm4, [{w0} + {stride}]", "tdpbf16ps tmm0, tmm4, tmm6",
        "tileloadd tmm5, [{w1} + {stride}]", "tdpbf16ps tmm1, tmm5, tmm6"],
    store ["tilestored [{to} + {line}], tmm0", "tilestored [{to} + {line} + 1024], tmm1"]);
block!(one_by_three, groups 1, outputs 3, clear ["tilezero tmm0", "tilezero tmm1", "tilezero tmm2"],
    products ["tileloadd tmm6, [{x0} + {line}]", "tileloadd tmm4, [{w0} + {stride}]", "tdpbf16ps tmm0, tmm4, tmm6",
        "tileloadd tmm5, [{w1} + {stride}]", "tdpbf16ps tmm1, tmm5, tmm6",
        "tileloadd tmm7, [{w2} + {stride}]", "tdpbf16ps tmm2, tmm7, tmm6"],
    store ["tilestored [{to} + {line}], tmm0", "tilestored [{to} + {line} + 1024], tmm1",
        "tilestored [{to} + {line} + 2048], tmm2"]);
block!(two_by_one, groups 2, outputs 1, clear ["tilezero tmm0", "tilezero tmm1"],
    products ["tileloadd tmm6, [{x0} + {line}]", "tileloadd tmm4, [{w0} + {stride}]", "tdpbf16ps tmm0, tmm4, tmm6",
        "tileloadd tmm7, [{x1} + {line}]", "tdpbf16ps tmm1, tmm4, tmm7"],
    store ["tilestored [{to} + {line}], tmm0", "tilestored [{to} + {line} + 1024], tmm1"]);
block!(two_by_two, groups 2, outputs 2, clear ["tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3"],
    products ["tileloadd tmm6, [{x0} + {line}]", "tileloadd tmm4, [{w0} + {stride}]", "tdpbf16ps tmm0, tmm4, tmm6",
        "tileloadd tmm5, [{w1} + {stride}]", "tdpbf16ps tmm1, tmm5, tmm6",
        "tileloadd tmm7, [{x1} + {line}]", "tdpbf16ps tmm2, tmm4, tmm7", "tdpbf16ps tmm3, tmm5, tmm7"],
    store ["tilestored [{to} + {line}], tmm0", "tilestored [{to} + {line} + 1024], tmm1",
        "tilestored [{to} + {line} + 2048], tmm2", "tilestored [{to} + {line} + 3072], tmm3"]);

/// As [`super::multiply`]. `x` are `rows` rows as [`pack`] wrote them.
///
/// # Safety
/// As for [`super::multiply`]; the CPU has AMX, and the matrix has the outputs in `range`.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn multiply(
    (x, rows, inputs): (&[bf16], usize, usize),
    matrix: &[bf16],
    bias: Option<&[f32]>,
    range: Range<usize>,
    next: Option<Prefetch>,
    target: &GemvOutput,
) {
    let _shapes = TileShapes::load();
    let (groups, steps) = (rows.div_ceil(ROWS), inputs.div_ceil(INPUTS));
    assert!(x.len() == groups * steps * TILE && range.end * inputs <= matrix.len());
    let passes = groups.div_ceil(GROUPS);
    let (mut sums, mut copy) = (Sums([0.0; 4 * ROWS * ROWS]), Lines::default());
    let mut first = range.start;
    while first < range.end {
        let left = range.end - first;
        let whole = if inputs.is_multiple_of(INPUTS) { left / ROWS } else { 0 };
        let tiles = whole.min(OUTPUTS[groups.min(GROUPS) - 1]).max(1);
        let outputs = left.min(tiles * ROWS);
        let mut weights = &matrix[first * inputs..(first + outputs) * inputs];
        let mut stride = inputs;
        if whole == 0 {
            stride = steps * INPUTS;
            padded(weights, inputs, stride, &mut copy);
            weights = &copy;
        }
        // A block prefetches the weights of the next one; where several passes read the same weights, each of
        // the first ones prefetches a part.
        let then = first + outputs;
        let ahead = match next {
            Some(Prefetch(next)) if then == range.end => next,
            _ => matrix.as_ptr().wrapping_add(then * inputs).cast(),
        };
        for pass in 0..passes {
            let group = pass * GROUPS;
            let block = Block {
                weights: weights.as_ptr(),
                stride: stride * size_of::<bf16>(),
                x: x[group * steps * TILE..].as_ptr(),
                steps,
                ahead: ahead.wrapping_add(pass * steps * ROWS * LINE),
                lines: if passes == 1 { tiles } else { usize::from(pass < tiles) },
            };
            let together = (groups - group).min(GROUPS);
            // SAFETY: the rows have so many groups, and the weights so many tiles.
            unsafe {
                match (together, tiles) {
                    (1, 1) => one_by_one(&block, &mut sums),
                    (1, 2) => one_by_two(&block, &mut sums),
                    (1, 3) => one_by_three(&block, &mut sums),
                    (2, 1) => two_by_one(&block, &mut sums),
                    (2, 2) => two_by_two(&block, &mut sums),
                    (groups, tiles) => unreachable!("no block of {groups} by {tiles} tiles"),
                }
            }
            for (index, sums) in sums.0.chunks_exact(ROWS * ROWS).take(together * tiles).enumerate() {
                let row = (group + index / tiles) * ROWS;
                let output = first + index % tiles * ROWS;
                let count = (range.end - output).min(ROWS);
                let bias = bias.map(|bias| &bias[output..output + count]);
                // SAFETY: by the caller's promise, no other thread accesses these outputs.
                unsafe { write(sums, row..rows.min(row + ROWS), output, count, bias, target) };
            }
        }
        first = then;
    }
}

/// Copies at most sixteen outputs' weights to rows of `stride` numbers; missing rows and numbers are 0.
fn padded(weights: &[bf16], inputs: usize, stride: usize, to: &mut Lines<bf16>) {
    to.resize(ROWS * stride);
    to.fill(bf16::ZERO);
    for (weights, to) in weights.chunks_exact(inputs).zip(to.chunks_exact_mut(stride)) {
        to[..inputs].copy_from_slice(weights);
    }
}

/// Writes a tile, `[outputs, rows]`, to the target.
///
/// # Safety
/// No other thread accesses these outputs.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn write(
    sums: &[f32],
    rows: Range<usize>,
    output: usize,
    count: usize,
    bias: Option<&[f32]>,
    target: &GemvOutput,
) {
    assert!(sums.len() == ROWS * ROWS && rows.len() <= ROWS && bias.is_none_or(|bias| bias.len() == count));
    let mask = first_lanes(count) as u16;
    let mut lanes = [_mm512_setzero_si512(); ROWS];
    for (lanes, sums) in lanes.iter_mut().zip(sums.chunks_exact(ROWS)) {
        // SAFETY: sixteen numbers.
        *lanes = unsafe { _mm512_loadu_si512(sums.as_ptr().cast()) };
    }
    // SAFETY: `count` numbers.
    let bias = bias.map(|bias| unsafe { _mm512_maskz_loadu_ps(mask, bias.as_ptr()) });
    for (row, sums) in rows.zip(transposed(lanes)) {
        let place = target.first + row * target.stride + output;
        // SAFETY: by the caller's promise.
        let to = unsafe { target.buffer.slice_mut(place..place + count) }.as_mut_ptr();
        let mut sum = _mm512_castsi512_ps(sums);
        if let Some(bias) = bias {
            sum = _mm512_add_ps(sum, bias);
        }
        // SAFETY: `count` numbers.
        unsafe {
            if target.add {
                sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), sum);
            }
            _mm512_mask_storeu_ps(to, mask, sum);
        }
    }
}
