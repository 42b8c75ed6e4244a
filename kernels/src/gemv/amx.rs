//! Rows times outputs with AMX ([`crate::amx`]).
//!
//! The weights are the left factor, so that a tile of sixteen outputs is loaded from the matrix as it lies.
//! The rows are the right one, packed once per product. A product is then a tile of `[outputs, rows]`, which
//! is transposed on the way out.

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use half::bf16;

use super::{GemvOutput, Prefetch};
use crate::amx::pack::TileSource;
use crate::amx::{Sums, TILE, TILE_INNER, TILE_LINES, TileShapes, first_lanes, transposed};
use crate::lines::{LINE, Lines};
use crate::matrix_view::MatrixView;

/// Most groups of sixteen rows in one block of assembly.
const GROUPS: usize = 2;
/// Most tiles of outputs in one block: enough sums in a row for each to be done before it is added to again.
const OUTPUTS: [usize; GROUPS] = [3, 2];

/// `[rows, inputs]` as tiles of the right factor, `[groups of rows, steps, pairs of inputs, rows, 2]`.
/// Missing rows and inputs are 0.
pub fn pack(rows: &[bf16], inputs: usize, to: &mut Lines<bf16>) {
    assert!(inputs > 0 && rows.len().is_multiple_of(inputs), "whole rows");
    let (count, steps) = (rows.len() / inputs, inputs.div_ceil(TILE_INNER));
    let side = TileSource::right(MatrixView::new(rows, count, inputs, inputs).transposed());
    to.resize(count.div_ceil(TILE_LINES) * steps * TILE);
    for (group, to) in to.chunks_exact_mut(steps * TILE).enumerate() {
        // SAFETY: the CPU has AMX, and with it AVX-512.
        unsafe { side.pack(group * TILE_LINES, 0..inputs, to) };
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
    /// The first line to prefetch, and how many times sixteen lines a step prefetches.
    ahead: *const u8,
    lines: usize,
}

/// Prefetches sixteen lines, if a step does so more than `$index` times. `$label` is a label of its own.
macro_rules! prefetch {
    ($index:literal, $label:literal) => {
        concat!(
            "cmp {lines}, ",
            $index,
            "\n",
            "jbe ",
            $label,
            "f\n",
            "prefetcht1 [{ahead}]\n",
            "prefetcht1 [{ahead} + 64]\n",
            "prefetcht1 [{ahead} + 128]\n",
            "prefetcht1 [{ahead} + 192]\n",
            "prefetcht1 [{ahead} + 256]\n",
            "prefetcht1 [{ahead} + 320]\n",
            "prefetcht1 [{ahead} + 384]\n",
            "prefetcht1 [{ahead} + 448]\n",
            "prefetcht1 [{ahead} + 512]\n",
            "prefetcht1 [{ahead} + 576]\n",
            "prefetcht1 [{ahead} + 640]\n",
            "prefetcht1 [{ahead} + 704]\n",
            "prefetcht1 [{ahead} + 768]\n",
            "prefetcht1 [{ahead} + 832]\n",
            "prefetcht1 [{ahead} + 896]\n",
            "prefetcht1 [{ahead} + 960]\n",
            "add {ahead}, 1024\n",
            $label,
            ":",
        )
    };
}

/// Defines the assembly of a block's shape: the tiles that are cleared before, the products of one step, and
/// the tiles that are stored after. Between products, a step prefetches.
macro_rules! block {
    ($name:ident, groups $groups:literal, outputs $outputs:literal, clear [$($clear:literal),*],
     step [$($step:expr),*], store [$($store:literal),*]) => {
        /// Writes the sums as `[groups, tiles of outputs, outputs, rows]`.
        ///
        /// # Safety
        /// Weights and rows of the block have as many tiles, and the shapes of tiles are loaded.
        unsafe fn $name(block: &Block, sums: &mut Sums) {
            let bytes = TILE_LINES * block.stride;
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
                    $($step,)*
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

block!(one_by_one, groups 1, outputs 1,
    clear ["tilezero tmm0"],
    step [
        "tileloadd tmm6, [{x0} + {line}]", "tileloadd tmm4, [{w0} + {stride}]", "tdpbf16ps tmm0, tmm4, tmm6",
        prefetch!(0, "3")
    ],
    store ["tilestored [{to} + {line}], tmm0"]);
block!(one_by_two, groups 1, outputs 2,
    clear ["tilezero tmm0", "tilezero tmm1"],
    step [
        "tileloadd tmm6, [{x0} + {line}]", "tileloadd tmm4, [{w0} + {stride}]", "tdpbf16ps tmm0, tmm4, tmm6",
        prefetch!(0, "3"),
        "tileloadd tmm5, [{w1} + {stride}]", "tdpbf16ps tmm1, tmm5, tmm6",
        prefetch!(1, "4")
    ],
    store ["tilestored [{to} + {line}], tmm0", "tilestored [{to} + {line} + 1024], tmm1"]);
block!(one_by_three, groups 1, outputs 3,
clear ["tilezero tmm0", "tilezero tmm1", "tilezero tmm2"],
step [
    "tileloadd tmm6, [{x0} + {line}]", "tileloadd tmm4, [{w0} + {stride}]", "tdpbf16ps tmm0, tmm4, tmm6",
    prefetch!(0, "3"),
    "tileloadd tmm5, [{w1} + {stride}]", "tdpbf16ps tmm1, tmm5, tmm6",
    prefetch!(1, "4"),
    "tileloadd tmm7, [{w2} + {stride}]", "tdpbf16ps tmm2, tmm7, tmm6",
    prefetch!(2, "5")
],
store [
    "tilestored [{to} + {line}], tmm0", "tilestored [{to} + {line} + 1024], tmm1",
    "tilestored [{to} + {line} + 2048], tmm2"
]);
block!(two_by_one, groups 2, outputs 1,
    clear ["tilezero tmm0", "tilezero tmm1"],
    step [
        "tileloadd tmm6, [{x0} + {line}]", "tileloadd tmm4, [{w0} + {stride}]", "tdpbf16ps tmm0, tmm4, tmm6",
        prefetch!(0, "3"),
        "tileloadd tmm7, [{x1} + {line}]", "tdpbf16ps tmm1, tmm4, tmm7"
    ],
    store ["tilestored [{to} + {line}], tmm0", "tilestored [{to} + {line} + 1024], tmm1"]);
block!(two_by_two, groups 2, outputs 2,
clear ["tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3"],
step [
    "tileloadd tmm6, [{x0} + {line}]", "tileloadd tmm4, [{w0} + {stride}]", "tdpbf16ps tmm0, tmm4, tmm6",
    prefetch!(0, "3"),
    "tileloadd tmm5, [{w1} + {stride}]", "tdpbf16ps tmm1, tmm5, tmm6",
    "tileloadd tmm7, [{x1} + {line}]", "tdpbf16ps tmm2, tmm4, tmm7",
    prefetch!(1, "4"),
    "tdpbf16ps tmm3, tmm5, tmm7"
],
store [
    "tilestored [{to} + {line}], tmm0", "tilestored [{to} + {line} + 1024], tmm1",
    "tilestored [{to} + {line} + 2048], tmm2", "tilestored [{to} + {line} + 3072], tmm3"
]);

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
    let (groups, steps) = (rows.div_ceil(TILE_LINES), inputs.div_ceil(TILE_INNER));
    assert!(x.len() == groups * steps * TILE && range.end * inputs <= matrix.len());
    let passes = groups.div_ceil(GROUPS);
    let (mut sums, mut copy) = (Sums([0.0; 4 * TILE_LINES * TILE_LINES]), Lines::default());
    let mut first = range.start;
    while first < range.end {
        let left = range.end - first;
        let whole = if inputs.is_multiple_of(TILE_INNER) { left / TILE_LINES } else { 0 };
        let tiles = whole.min(OUTPUTS[groups.min(GROUPS) - 1]).max(1);
        let outputs = left.min(tiles * TILE_LINES);
        let mut weights = &matrix[first * inputs..(first + outputs) * inputs];
        let mut stride = inputs;
        if whole == 0 {
            stride = steps * TILE_INNER;
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
                ahead: ahead.wrapping_add(pass * steps * TILE_LINES * LINE),
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
            for (index, sums) in
                sums.0.chunks_exact(TILE_LINES * TILE_LINES).take(together * tiles).enumerate()
            {
                let row = (group + index / tiles) * TILE_LINES;
                let output = first + index % tiles * TILE_LINES;
                let count = (range.end - output).min(TILE_LINES);
                let bias = bias.map(|bias| &bias[output..output + count]);
                // SAFETY: by the caller's promise, no other thread accesses these outputs.
                unsafe { write(sums, row..rows.min(row + TILE_LINES), output, count, bias, target) };
            }
        }
        first = then;
    }
}

/// Copies at most sixteen outputs' weights to rows of `stride` numbers; missing rows and numbers are 0.
fn padded(weights: &[bf16], inputs: usize, stride: usize, to: &mut Lines<bf16>) {
    to.resize(TILE_LINES * stride);
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
    assert!(
        sums.len() == TILE_LINES * TILE_LINES
            && rows.len() <= TILE_LINES
            && bias.is_none_or(|bias| bias.len() == count)
    );
    let mask = first_lanes(count) as u16;
    let mut lanes = [_mm512_setzero_si512(); TILE_LINES];
    for (lanes, sums) in lanes.iter_mut().zip(sums.chunks_exact(TILE_LINES)) {
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
