//! One pass through the decoder by all threads: each computes its share of every product's outputs, with
//! barriers between products.

use half::bf16;

use super::saved::{Saved, SavedSlots};
use super::{LinearWeights, Mlp, PIECE, StepDecoder, WIDE_PIECE};
use crate::gemv::{GemvOutput, InputRows, Prefetch, PreparedRows, multiply};
use crate::lanes::LANES;
use crate::pages::RowPages;
use crate::thread_pool::{DisjointSlices, PoolWorker};
use crate::{round_to_bf16_in_place, with_cpu_features};

/// Everything that the thread pool shares during a pass. Buffers are `[rows, ...]`.
pub struct Pass<'a> {
    pub decoder: &'a StepDecoder,
    pub rows: usize,
    /// The rows whose next token is predicted.
    pub predicted: &'a [usize],
    pub pages: RowPages<'a>,
    pub is_bf16: bool,
    pub inner: usize,
    pub stream: DisjointSlices<'a, f32>,
    /// Queries, keys, values.
    pub projected: DisjointSlices<'a, f32>,
    pub attended: DisjointSlices<'a, f32>,
    pub attended_bf16: DisjointSlices<'a, bf16>,
    /// Feed-forward block: first the gate, then activation(gate) times up.
    pub gate: DisjointSlices<'a, f32>,
    pub gate_bf16: DisjointSlices<'a, bf16>,
    pub up: DisjointSlices<'a, f32>,
    /// The output of a block before it is normalised, or weighted by an expert's weight.
    pub branch: DisjointSlices<'a, f32>,
    pub logits: DisjointSlices<'a, f32>,
    /// Where activations for training are saved, if requested.
    pub saved: Option<SavedSlots<'a>>,
}

/// A worker's own copy of normalised rows.
#[derive(Default)]
pub struct NormalisedRows {
    pub f32: Vec<f32>,
    pub bf16: Vec<bf16>,
}

impl NormalisedRows {
    pub fn rows(&self, inputs: usize) -> InputRows<'_> {
        InputRows { inputs, f32: &self.f32, bf16: &self.bf16 }
    }

    /// Keeps only the given rows, in ascending order.
    fn keep(&mut self, rows: &[usize], width: usize) {
        for (to, row) in rows.iter().enumerate() {
            self.f32.copy_within(row * width..(row + 1) * width, to * width);
            if !self.bf16.is_empty() {
                self.bf16.copy_within(row * width..(row + 1) * width, to * width);
            }
        }
        self.f32.truncate(rows.len() * width);
        self.bf16.truncate(rows.len() * width);
    }
}

impl Pass<'_> {
    pub fn work(&self, worker: &PoolWorker) {
        let shape = &self.decoder.shape;
        let mut normed = NormalisedRows::default();
        for (index, layer) in self.decoder.weights.layers.iter().enumerate() {
            self.save_stream(worker, index, Saved::Stream);
            self.normalise(&layer.norm_attention, &mut normed);
            self.project(worker, layer, normed.rows(shape.width), layer.output.first_of(worker, PIECE));
            worker.barrier();
            if self.is_bf16 {
                self.attention::<bf16>(worker, index, layer)
            } else {
                self.attention::<f32>(worker, index, layer)
            }
            worker.barrier();
            let heads = shape.heads * shape.head_dim;
            // SAFETY: between these barriers, attended rows are only read.
            let attended = unsafe {
                InputRows {
                    inputs: heads,
                    f32: self.attended.as_slice(),
                    bf16: self.attended_bf16.as_slice(),
                }
            };
            let next = match &layer.mlp {
                Mlp::Plain(gated) => gated.gate.first_of(worker, PIECE),
                Mlp::Experts { .. } => None,
            };
            self.residual(worker, &layer.output, attended, layer.after_attention.as_deref(), next);
            worker.barrier();
            self.save_stream(worker, index, Saved::Middle);
            self.normalise(&layer.norm_mlp, &mut normed);
            match &layer.mlp {
                Mlp::Plain(gated) => {
                    let next = match self.decoder.weights.layers.get(index + 1) {
                        Some(layer) => layer.query.first_of(worker, PIECE),
                        None => self.decoder.weights.lm_head.first_of(worker, WIDE_PIECE),
                    };
                    self.mlp(worker, index, gated, &normed, layer.after_mlp.as_deref(), next);
                }
                Mlp::Experts { router, experts, per_token, normalised } => {
                    let chosen = self.route(router, normed.rows(shape.width), *per_token, *normalised);
                    self.experts(worker, experts, &chosen, &normed);
                }
            }
            worker.barrier();
        }
        self.save_stream(worker, shape.layers, Saved::Stream);
        self.normalise(&self.decoder.weights.norm, &mut normed);
        normed.keep(self.predicted, shape.width);
        let output = &self.decoder.weights.lm_head;
        let target = GemvOutput { buffer: &self.logits, first: 0, stride: shape.vocabulary, add: false };
        let x = PreparedRows::new(normed.rows(shape.width), output.weight.matrix());
        for (outputs, next) in worker.chunks(shape.vocabulary, WIDE_PIECE) {
            let next = next.and_then(|next| output.prefetch(next.start));
            // SAFETY: workers have outputs of their own.
            unsafe { multiply(&x, output.weight.matrix(), None, outputs, next, &target) };
        }
    }

    /// Saves the residual stream between two barriers, where requested.
    fn save_stream(&self, worker: &PoolWorker, layer: usize, as_what: Saved) {
        let Some(saved) = &self.saved else { return };
        let width = self.decoder.shape.width;
        // SAFETY: between the barriers around this no worker writes the stream.
        let stream = unsafe { self.stream.as_slice() };
        for row in worker.range(self.rows, 1) {
            // SAFETY: workers have rows of their own.
            unsafe { saved.write(layer, as_what, (row, 0), &stream[row * width..(row + 1) * width]) };
        }
    }

    /// RMSNorm of all rows of the stream. Every worker computes all of them, which takes less time than a
    /// barrier.
    fn normalise(&self, scale: &[f32], normed: &mut NormalisedRows) {
        // SAFETY: between the barriers around this no worker writes the stream.
        let stream = unsafe { self.stream.as_slice() };
        normed.f32.resize(stream.len(), 0.0);
        for (row, to) in stream.chunks_exact(scale.len()).zip(normed.f32.chunks_exact_mut(scale.len())) {
            let factor = self.norm_factor(row);
            with_cpu_features(|| {
                for ((to, value), scale) in to.iter_mut().zip(row).zip(scale) {
                    *to = value * factor * scale;
                }
            });
        }
        if self.is_bf16 {
            normed.bf16.resize(stream.len(), bf16::ZERO);
            round_to_bf16_in_place(&mut normed.f32, &mut normed.bf16);
        }
    }

    pub fn norm_factor(&self, values: &[f32]) -> f32 {
        let mut lanes = [0.0f32; LANES];
        with_cpu_features(|| {
            let chunks = values.chunks_exact(LANES);
            for (lane, value) in lanes.iter_mut().zip(chunks.remainder()) {
                *lane = value * value;
            }
            for chunk in chunks {
                for (lane, value) in lanes.iter_mut().zip(chunk) {
                    *lane += value * value;
                }
            }
        });
        let mean = lanes.iter().sum::<f32>() / values.len() as f32;
        1.0 / (mean + self.decoder.shape.epsilon as f32).sqrt()
    }

    /// Adds the product of `x` and a matrix to the stream; `after` is the scale of a norm of the product.
    pub fn residual(
        &self,
        worker: &PoolWorker,
        linear: &LinearWeights,
        x: InputRows,
        after: Option<&[f32]>,
        then: Option<Prefetch>,
    ) {
        let width = self.decoder.shape.width;
        let buffer = if after.is_some() { &self.branch } else { &self.stream };
        let target = GemvOutput { buffer, first: 0, stride: width, add: after.is_none() };
        let x = PreparedRows::new(x, linear.weight.matrix());
        for (outputs, next) in worker.chunks(width, PIECE) {
            let next = next.and_then(|next| linear.prefetch(next.start)).or(then);
            // SAFETY: workers have outputs of their own.
            unsafe { multiply(&x, linear.weight.matrix(), linear.bias.as_deref(), outputs, next, &target) };
        }
        let Some(scale) = after else { return };
        worker.barrier();
        for row in worker.range(self.rows, 1) {
            let range = row * width..(row + 1) * width;
            // SAFETY: workers have rows of their own.
            let (stream, branch) =
                unsafe { (self.stream.slice_mut(range.clone()), self.branch.slice_mut(range)) };
            let factor = self.norm_factor(branch);
            for ((stream, branch), scale) in stream.iter_mut().zip(branch).zip(scale) {
                *stream += *branch * factor * scale;
            }
        }
    }
}
