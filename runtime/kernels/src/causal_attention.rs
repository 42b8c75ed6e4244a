//! Causal attention over whole sequences of any lengths, forward and backward.
//!
//! Each head of a sequence is a few small matrix products. libtorch's operator needs sequences in a batch,
//! padded to the longest, with heads before tokens; these loops read them packed, as the projections wrote
//! them. The backward pass recomputes the softmax block by block (arXiv:2205.14135), so that memory grows
//! linearly with the length.

use std::ops::Range;

use crate::Cpu;
use crate::functions::exp;
use crate::gemm::{Factor, multiply_small};
use crate::lanes::LANES;
use crate::matrix_view::MatrixView;
use crate::thread_pool::DisjointSlices;
use crate::{Scalar, SimdKernel, with_cpu_features};

/// The shape of a layer's attention.
#[derive(Clone, Copy)]
pub struct AttentionHeads {
    pub heads: usize,
    /// Heads of keys and values; each is shared by `heads / groups` heads of queries (arXiv:2305.13245).
    pub groups: usize,
    pub width: usize,
    /// Factor of the products of queries and keys.
    pub scale: f32,
    /// A token sees itself and the `window - 1` before it.
    pub window: usize,
}

impl AttentionHeads {
    /// Numbers of a token's queries, keys and values, stored in this order: all heads of queries, then the
    /// groups of keys, then those of values.
    pub fn projected(&self) -> usize {
        (self.heads + 2 * self.groups) * self.width
    }

    fn key(&self, group: usize) -> usize {
        (self.heads + group) * self.width
    }

    fn value(&self, group: usize) -> usize {
        (self.heads + self.groups + group) * self.width
    }
}

/// Queries per block: enough for the full speed of a product, and few enough to compute little above the
/// diagonal.
const BLOCK: usize = 64;

/// Some queries of a sequence, and the keys that any of them sees.
struct Block {
    queries: Range<usize>,
    keys: Range<usize>,
}

fn blocks(heads: &AttentionHeads, sequence: &Range<usize>) -> impl Iterator<Item = Block> + use<> {
    let (start, end, window) = (sequence.start, sequence.end, heads.window);
    (start..end).step_by(BLOCK).map(move |first| {
        let queries = first..(first + BLOCK).min(end);
        let keys = start.max((first + 1).saturating_sub(window))..queries.end;
        Block { queries, keys }
    })
}

impl Block {
    /// The keys that a query sees, relative to the block's first key.
    fn seen(&self, query: usize, window: usize) -> Range<usize> {
        let token = self.queries.start + query;
        (token + 1).saturating_sub(window).saturating_sub(self.keys.start)..token + 1 - self.keys.start
    }
}

/// A matrix of `columns` columns, from column `first` on, of the rows of some tokens, `stride` numbers each.
fn part<'a, T>(
    numbers: &'a [T],
    tokens: &Range<usize>,
    first: usize,
    columns: usize,
    stride: usize,
) -> MatrixView<'a, T> {
    let begin = tokens.start * stride + first;
    MatrixView::new(
        &numbers[begin..(tokens.end - 1) * stride + first + columns],
        tokens.len(),
        columns,
        stride,
    )
}

/// Checks that sequences are disjoint, because workers write to the rows of their own sequences.
fn check_apart(sequences: &[Range<usize>]) {
    assert!(sequences.windows(2).all(|pair| pair[0].end <= pair[1].start), "a token is of one sequence");
}

/// `projected` is `[tokens, AttentionHeads::projected]`, with rotated queries and keys; the result `attended`
/// is `[tokens, heads * width]`. `sequences` are ascending ranges of tokens, none of them empty.
pub(crate) fn forward<T: Factor + Send + Sync>(
    cpu: Cpu,
    heads: &AttentionHeads,
    sequences: &[Range<usize>],
    projected: &[T],
    attended: &mut [T],
) {
    let (stride, width) = (heads.projected(), heads.width);
    assert!(attended.len() * stride == projected.len() * heads.heads * width, "tokens of different batches");
    check_apart(sequences);
    let attended = DisjointSlices::new(attended);
    cpu.parallel(|worker| {
        let (mut scores, mut weights, mut output) = (Vec::new(), Vec::new(), vec![0.0f32; BLOCK * width]);
        for item in worker.range(sequences.len() * heads.heads, 1) {
            let (sequence, head) = (&sequences[item / heads.heads], item % heads.heads);
            let group = head * heads.groups / heads.heads;
            for block in blocks(heads, sequence) {
                let keys = part(projected, &block.keys, heads.key(group), width, stride);
                let values = part(projected, &block.keys, heads.value(group), width, stride);
                let queries = part(projected, &block.queries, head * width, width, stride);
                weigh(heads, &block, queries, keys, &mut scores, &mut weights);
                let weights =
                    MatrixView::new(&weights, block.queries.len(), block.keys.len(), block.keys.len());
                // SAFETY: the output has a row of `width` for every query of the block.
                unsafe { multiply_small(weights, values, false, output.as_mut_ptr(), width) };
                for (query, output) in block.queries.clone().zip(output.chunks_exact(width)) {
                    let place = (query * heads.heads + head) * width;
                    // SAFETY: workers have sequences and heads of their own.
                    let attended = unsafe { attended.slice_mut(place..place + width) };
                    for (to, from) in attended.iter_mut().zip(output) {
                        *to = T::from_f32(*from);
                    }
                }
            }
        }
    });
}

/// The softmax of a block's scores, `[queries, keys]`: in single precision into `scores`, and rounded to the
/// type of matrix products into `weights`.
fn weigh<T: Factor>(
    heads: &AttentionHeads,
    block: &Block,
    queries: MatrixView<T>,
    keys: MatrixView<T>,
    scores: &mut Vec<f32>,
    weights: &mut Vec<T>,
) {
    let (rows, columns) = (block.queries.len(), block.keys.len());
    scores.resize(rows * columns, 0.0);
    weights.resize(rows * columns, T::from_f32(0.0));
    // SAFETY: the scores were made that long.
    unsafe { multiply_small(queries, keys.transposed(), false, scores.as_mut_ptr(), columns) };
    let rows = scores.chunks_exact_mut(columns).zip(weights.chunks_exact_mut(columns));
    for (query, (scores, weights)) in rows.enumerate() {
        let seen = block.seen(query, heads.window);
        for hidden in [0..seen.start, seen.end..columns] {
            scores[hidden.clone()].fill(0.0);
            weights[hidden].fill(T::from_f32(0.0));
        }
        with_cpu_features(Softmax {
            scale: heads.scale,
            scores: &mut scores[seen.clone()],
            weights: &mut weights[seen],
        });
    }
}

/// The softmax of one row, in place.
struct Softmax<'a, T> {
    scale: f32,
    scores: &'a mut [f32],
    weights: &'a mut [T],
}

impl<T: Scalar> SimdKernel for Softmax<'_, T> {
    #[inline(always)]
    fn run(self) {
        let Softmax { scale, scores, weights } = self;
        let mut largest = [f32::NEG_INFINITY; LANES];
        for chunk in scores.chunks_mut(LANES) {
            for (score, largest) in chunk.iter_mut().zip(&mut largest) {
                *score *= scale;
                *largest = if *score > *largest { *score } else { *largest };
            }
        }
        let largest = largest.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut total = [0.0f32; LANES];
        for chunk in scores.chunks_mut(LANES) {
            for (score, total) in chunk.iter_mut().zip(&mut total) {
                *score = exp(*score - largest);
                *total += *score;
            }
        }
        let share = 1.0 / total.iter().sum::<f32>();
        for (score, weight) in scores.iter_mut().zip(weights) {
            *score *= share;
            *weight = T::from_f32(*score);
        }
    }
}

/// From d loss / d attended: d loss / d projected. `projected` and `attended` are the input and output of
/// [`forward`].
pub(crate) fn backward<T: Factor + Send + Sync>(
    cpu: Cpu,
    heads: &AttentionHeads,
    sequences: &[Range<usize>],
    projected: &[T],
    attended: &[T],
    grad_attended: &[f32],
    grad_projected: &mut [f32],
) {
    let (stride, width) = (heads.projected(), heads.width);
    assert!(
        attended.len() * stride == projected.len() * heads.heads * width
            && grad_attended.len() == attended.len()
    );
    assert!(grad_projected.len() == projected.len());
    check_apart(sequences);
    grad_projected.fill(0.0);
    let grad_projected = DisjointSlices::new(grad_projected);
    let per_group = heads.heads / heads.groups;
    cpu.parallel(|worker| {
        let mut scratch = Scratch::default();
        for item in worker.range(sequences.len() * heads.groups, 1) {
            let (sequence, group) = (&sequences[item / heads.groups], item % heads.groups);
            for head in group * per_group..(group + 1) * per_group {
                for block in blocks(heads, sequence) {
                    let inputs = AttentionInputs { projected, attended, grad_attended, head, group, block };
                    // SAFETY: workers have disjoint pairs of sequence and group, and therefore disjoint
                    // queries, keys and values.
                    unsafe { inputs.backward(heads, &mut scratch, &grad_projected) };
                }
            }
        }
    });
}

/// A block of one head.
struct AttentionInputs<'a, T> {
    projected: &'a [T],
    attended: &'a [T],
    grad_attended: &'a [f32],
    head: usize,
    group: usize,
    block: Block,
}

/// A worker's buffers for a block.
struct Scratch<T> {
    /// `[queries, keys]`: the softmax, in single precision and in the type of matrix products.
    scores: Vec<f32>,
    weights: Vec<T>,
    /// d loss / d weights, and d loss / d scores.
    grad_weights: Vec<f32>,
    grad_scores: Vec<T>,
    /// `[queries, width]`: d loss / d output.
    grad_output: Vec<T>,
}

impl<T> Default for Scratch<T> {
    fn default() -> Scratch<T> {
        let (weights, grad_scores, grad_output) = (Vec::new(), Vec::new(), Vec::new());
        Scratch { scores: Vec::new(), weights, grad_weights: Vec::new(), grad_scores, grad_output }
    }
}

impl<T: Factor> AttentionInputs<'_, T> {
    /// With weights P, values V, outputs O = P V and scores S: dV = P' dO, dP = dO V', dS = P (dP - sum(dO
    /// O)), dQ = dS K, dK = dS' Q (arXiv:2205.14135, appendix B.4).
    ///
    /// # Safety
    /// No other thread accesses the gradients of this sequence's head and group.
    unsafe fn backward(
        &self,
        heads: &AttentionHeads,
        scratch: &mut Scratch<T>,
        grad_projected: &DisjointSlices<f32>,
    ) {
        let AttentionInputs { projected, attended, grad_attended, head, group, block } = self;
        let (stride, width) = (heads.projected(), heads.width);
        let (rows, columns) = (block.queries.len(), block.keys.len());
        let keys = part(projected, &block.keys, heads.key(*group), width, stride);
        let values = part(projected, &block.keys, heads.value(*group), width, stride);
        let queries = part(projected, &block.queries, head * width, width, stride);
        let Scratch { scores, weights, grad_weights, grad_scores, grad_output } = scratch;
        weigh(heads, block, queries, keys, scores, weights);
        grad_weights.resize(rows * columns, 0.0);
        grad_scores.resize(rows * columns, T::from_f32(0.0));
        grad_output.resize(rows * width, T::from_f32(0.0));
        let place = |query: usize| (query * heads.heads + head) * width;
        for (query, to) in block.queries.clone().zip(grad_output.chunks_exact_mut(width)) {
            for (to, from) in to.iter_mut().zip(&grad_attended[place(query)..]) {
                *to = T::from_f32(*from);
            }
        }
        let grad_rows = MatrixView::new(grad_output, rows, width, width);
        // SAFETY: the buffer has that length.
        unsafe { multiply_small(grad_rows, values.transposed(), false, grad_weights.as_mut_ptr(), columns) };
        for (row, query) in block.queries.clone().enumerate() {
            let (range, output) = (row * columns..(row + 1) * columns, place(query)..place(query) + width);
            with_cpu_features(GradScores {
                scale: heads.scale,
                output: &attended[output.clone()],
                grad_output: &grad_attended[output],
                weights: &scores[range.clone()],
                grad_weights: &grad_weights[range.clone()],
                grad_scores: &mut grad_scores[range],
            });
        }
        let (weights, grad_scores) = (
            MatrixView::new(weights, rows, columns, columns),
            MatrixView::new(grad_scores, rows, columns, columns),
        );
        // SAFETY: these are rows of the block's tokens, `stride` apart, within the buffer; only the caller
        // accesses them.
        unsafe {
            let to = |tokens: &Range<usize>, first: usize| {
                grad_projected.pointer_at(tokens.start * stride + first)
            };
            multiply_small(
                weights.transposed(),
                grad_rows,
                true,
                to(&block.keys, heads.value(*group)),
                stride,
            );
            multiply_small(
                grad_scores.transposed(),
                queries,
                true,
                to(&block.keys, heads.key(*group)),
                stride,
            );
            multiply_small(grad_scores, keys, false, to(&block.queries, head * width), stride);
        }
    }
}

/// d loss / d scores of one query, the scale included.
struct GradScores<'a, T> {
    scale: f32,
    output: &'a [T],
    grad_output: &'a [f32],
    weights: &'a [f32],
    grad_weights: &'a [f32],
    grad_scores: &'a mut [T],
}

impl<T: Scalar> SimdKernel for GradScores<'_, T> {
    #[inline(always)]
    fn run(self) {
        let GradScores { scale, output, grad_output, weights, grad_weights, grad_scores } = self;
        let mut sums = [0.0f32; LANES];
        for (output, grad_output) in output.chunks(LANES).zip(grad_output.chunks(LANES)) {
            for ((output, grad_output), sum) in output.iter().zip(grad_output).zip(&mut sums) {
                *sum += output.as_f32() * grad_output;
            }
        }
        let mean = sums.iter().sum::<f32>();
        for ((weight, grad_weight), grad_score) in weights.iter().zip(grad_weights).zip(grad_scores) {
            *grad_score = T::from_f32(weight * (grad_weight - mean) * scale);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use tch::{Kind, Tensor};

    use super::*;

    fn wave(count: usize, seed: f32) -> Vec<f32> {
        (0..count).map(|index| ((index as f32) * 0.37 + seed).sin()).collect()
    }

    /// Attention by its definition, in double precision, of one sequence: `[tokens, Heads::projected]` to
    /// `[tokens, heads * width]`.
    fn definition(heads: &AttentionHeads, projected: &Tensor) -> Tensor {
        let (width, tokens) = (heads.width as i64, projected.size()[0]);
        let mask = Tensor::from_slice(
            &(0..tokens * tokens)
                .map(|at| {
                    let (query, key) = (at / tokens, at % tokens);
                    let seen =
                        key <= query && (query - key) < i64::try_from(heads.window).unwrap_or(i64::MAX);
                    if seen { 0.0 } else { f64::NEG_INFINITY }
                })
                .collect::<Vec<f64>>(),
        )
        .view([tokens, tokens]);
        let outputs: Vec<Tensor> = (0..heads.heads)
            .map(|head| {
                let group = head * heads.groups / heads.heads;
                let of = |first: usize| projected.narrow(1, first as i64, width);
                let scores =
                    of(head * heads.width).mm(&of(heads.key(group)).tr()) * f64::from(heads.scale) + &mask;
                scores.softmax(-1, Kind::Double).mm(&of(heads.value(group)))
            })
            .collect();
        Tensor::cat(&outputs, 1)
    }

    fn double(values: &[f32], columns: usize) -> Tensor {
        Tensor::from_slice(values).to_kind(Kind::Double).view([-1, columns as i64])
    }

    fn far(got: &[f32], expected: &Tensor) -> f64 {
        let expected = Vec::<f64>::try_from(expected.contiguous().view([-1])).unwrap();
        assert_eq!(got.len(), expected.len());
        got.iter()
            .zip(&expected)
            .map(|(got, expected)| (f64::from(*got) - expected).abs())
            .fold(0.0, f64::max)
    }

    fn look<T: Factor + Send + Sync>(heads: &AttentionHeads, bound: f64) {
        // Lengths of one token, of less than a block, of just one, and of several.
        let sequences = [0..1, 1..38, 38..38 + BLOCK, 38 + BLOCK..38 + BLOCK + 150];
        let tokens = sequences[3].end;
        let stored = |values: Vec<f32>| values.into_iter().map(T::from_f32).collect::<Vec<T>>();
        let single = |values: &[T]| values.iter().map(|value| value.as_f32()).collect::<Vec<f32>>();
        let projected = stored(wave(tokens * heads.projected(), 0.3));
        let grad_attended = wave(tokens * heads.heads * heads.width, 0.8);
        let leaf = double(&single(&projected), heads.projected()).set_requires_grad(true);
        let parts: Vec<Tensor> = sequences
            .iter()
            .map(|range| definition(heads, &leaf.narrow(0, range.start as i64, range.len() as i64)))
            .collect();
        let expected = Tensor::cat(&parts, 0);
        let loss = (&expected * double(&grad_attended, heads.heads * heads.width)).sum(None::<Kind>);
        let grad_leaf = Tensor::run_backward(&[loss], &[&leaf], false, false).remove(0);
        let mut first: Option<(Vec<f32>, Vec<f32>)> = None;
        for cpu in [1, 3].map(Cpu::new) {
            let mut attended = stored(vec![7.0; grad_attended.len()]);
            forward(cpu, heads, &sequences, &projected, &mut attended);
            assert!(
                far(&single(&attended), &expected.detach()) < bound,
                "{}",
                far(&single(&attended), &expected.detach())
            );
            let mut grad_projected = vec![7.0; projected.len()];
            backward(cpu, heads, &sequences, &projected, &attended, &grad_attended, &mut grad_projected);
            assert!(far(&grad_projected, &grad_leaf) < bound * 8.0, "{}", far(&grad_projected, &grad_leaf));
            let both = (single(&attended), grad_projected);
            assert!(
                *first.get_or_insert_with(|| both.clone()) == both,
                "the number of threads changed a number"
            );
        }
    }

    #[test]
    fn attention_and_its_derivatives_are_those_of_the_definition() {
        for (heads, groups, window) in [(4, 4, usize::MAX), (6, 2, usize::MAX), (3, 1, 20), (2, 2, 100)] {
            let heads = AttentionHeads { heads, groups, width: 16, scale: 0.25, window };
            look::<f32>(&heads, 2e-6);
            look::<bf16>(&heads, 1e-2);
        }
    }
}
