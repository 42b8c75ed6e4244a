//! A step's feed-forward block: a gated unit, or experts.

use std::ops::Range;

use super::pass::{NormalisedRows, Pass};
use super::saved::Saved;
use super::{Gated, LinearWeights, PIECE};
use crate::functions::{Activation, exp, gelu};
use crate::gemv::{GemvOutput, InputRows, Prefetch, PreparedRows, multiply};
use crate::thread_pool::{DisjointSlices, PoolWorker};
use crate::{round_to_bf16_in_place, with_cpu_features};

impl Pass<'_> {
    pub fn mlp(
        &self,
        worker: &PoolWorker,
        index: usize,
        gated: &Gated,
        normed: &NormalisedRows,
        after: Option<&[f32]>,
        then: Option<Prefetch>,
    ) {
        let hidden = gated.gate.outputs;
        let x = PreparedRows::new(normed.rows(self.decoder.shape.width), gated.gate.weight.matrix());
        for (outputs, next) in worker.chunks(hidden, PIECE) {
            let next = next
                .map_or_else(|| gated.down.first_of(worker, PIECE), |next| gated.gate.prefetch(next.start));
            self.gate(outputs, Some(index), gated, &x, 0..self.rows, next);
        }
        drop(x);
        worker.barrier();
        // SAFETY: between these barriers the inner rows are only read. They are `hidden` wide where no layer
        // has experts.
        let (f32, bf16) = unsafe { (self.gate.as_slice(), self.gate_bf16.as_slice()) };
        if self.inner == hidden && f32.len() == self.rows * hidden {
            return self.residual(worker, &gated.down, InputRows { inputs: hidden, f32, bf16 }, after, then);
        }
        let compact = NormalisedRows {
            f32: f32.chunks(self.inner).take(self.rows).flat_map(|row| &row[..hidden]).copied().collect(),
            bf16: bf16
                .chunks(self.inner.max(1))
                .take(self.rows)
                .flat_map(|row| &row[..hidden])
                .copied()
                .collect(),
        };
        self.residual(worker, &gated.down, compact.rows(hidden), after, then);
    }

    /// Computes the outputs `part` of act(gate) * up for the rows in `x`, into the rows `to` of the inner
    /// buffers. Saves gate and up of plain layers for training, where requested.
    fn gate(
        &self,
        part: Range<usize>,
        layer: Option<usize>,
        gated: &Gated,
        x: &PreparedRows,
        to: Range<usize>,
        then: Option<Prefetch>,
    ) {
        let (up, stride) = (gated.up.prefetch(part.start), self.inner);
        for (linear, buffer, next) in [(&gated.gate, &self.gate, up), (&gated.up, &self.up, then)] {
            let target = GemvOutput { buffer, first: to.start * stride, stride, add: false };
            // SAFETY: workers have outputs of their own.
            unsafe {
                multiply(x, linear.weight.matrix(), linear.bias.as_deref(), part.clone(), next, &target)
            };
        }
        for place in to {
            let range = place * stride + part.start..place * stride + part.end;
            // SAFETY: as above.
            let (gate, up) =
                unsafe { (self.gate.slice_mut(range.clone()), self.up.slice_mut(range.clone())) };
            if let (Some(layer), Some(saved)) = (layer, &self.saved) {
                for (first, numbers) in [(0, &*gate), (gated.gate.outputs, &*up)] {
                    // SAFETY: as above.
                    unsafe { saved.write(layer, Saved::GateUp, (place, first + part.start), numbers) };
                }
            }
            match self.decoder.shape.activation {
                Activation::Silu => with_cpu_features(|| {
                    gate.iter_mut().zip(up).for_each(|(gate, up)| *gate = *gate / (1.0 + exp(-*gate)) * *up);
                }),
                Activation::Gelu => gate.iter_mut().zip(up).for_each(|(gate, up)| *gate = gelu(*gate) * *up),
            }
            if self.is_bf16 {
                // SAFETY: as above.
                let rounded = unsafe { self.gate_bf16.slice_mut(range) };
                round_to_bf16_in_place(gate, rounded);
            }
        }
    }

    /// The experts of every row and their weights. Every worker computes all of them.
    pub fn route(
        &self,
        router: &LinearWeights,
        x: InputRows,
        per_token: usize,
        normalised: bool,
    ) -> Vec<Vec<(usize, f32)>> {
        let count = router.outputs;
        let x = PreparedRows::new(x, router.weight.matrix());
        let mut scores = vec![0.0; self.rows * count];
        let buffer = DisjointSlices::new(&mut scores);
        let target = GemvOutput { buffer: &buffer, first: 0, stride: count, add: false };
        // SAFETY: the buffer is this worker's own.
        unsafe { multiply(&x, router.weight.matrix(), router.bias.as_deref(), 0..count, None, &target) };
        let choose = |scores: &[f32]| {
            let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let total: f32 = scores.iter().map(|score| (score - largest).exp()).sum();
            let mut order: Vec<usize> = (0..count).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            let mut chosen: Vec<(usize, f32)> = order[..per_token]
                .iter()
                .map(|&expert| (expert, (scores[expert] - largest).exp() / total))
                .collect();
            if normalised {
                let sum: f32 = chosen.iter().map(|(_, weight)| weight).sum();
                chosen.iter_mut().for_each(|(_, weight)| *weight /= sum);
            }
            chosen
        };
        scores.chunks(count).map(choose).collect()
    }

    pub fn experts(
        &self,
        worker: &PoolWorker,
        experts: &[Gated],
        chosen: &[Vec<(usize, f32)>],
        normed: &NormalisedRows,
    ) {
        let width = self.decoder.shape.width;
        let slots = chosen.first().map_or(0, Vec::len);
        let row_of = |row: usize| InputRows {
            inputs: width,
            f32: &normed.f32[row * width..][..width],
            bf16: normed.bf16.get(row * width..(row + 1) * width).unwrap_or(&[]),
        };
        for (row, chosen) in chosen.iter().enumerate() {
            for (slot, (expert, _)) in chosen.iter().enumerate() {
                let place = row * slots + slot;
                self.gate(
                    worker.range(experts[*expert].gate.outputs, 16),
                    None,
                    &experts[*expert],
                    &PreparedRows::new(row_of(row), experts[*expert].gate.weight.matrix()),
                    place..place + 1,
                    None,
                );
            }
        }
        worker.barrier();
        // SAFETY: between these barriers the inner rows are only read.
        let (f32, bf16) = unsafe { (self.gate.as_slice(), self.gate_bf16.as_slice()) };
        let part = worker.range(width, 16);
        for (row, chosen) in chosen.iter().enumerate() {
            for (slot, (expert, weight)) in chosen.iter().enumerate() {
                let (place, down) = (row * slots + slot, &experts[*expert].down);
                let hidden = experts[*expert].gate.outputs;
                let inner = place * self.inner..place * self.inner + hidden;
                let x = InputRows {
                    inputs: hidden,
                    f32: &f32[inner.clone()],
                    bf16: bf16.get(inner).unwrap_or(&[]),
                };
                let x = PreparedRows::new(x, down.weight.matrix());
                let target =
                    GemvOutput { buffer: &self.branch, first: place * width, stride: width, add: false };
                // SAFETY: workers have disjoint outputs, in the stream, too.
                unsafe {
                    multiply(&x, down.weight.matrix(), down.bias.as_deref(), part.clone(), None, &target);
                    let branch = self.branch.slice_mut(place * width + part.start..place * width + part.end);
                    let stream = self.stream.slice_mut(row * width + part.start..row * width + part.end);
                    stream.iter_mut().zip(branch).for_each(|(stream, branch)| *stream += *weight * *branch);
                }
            }
        }
    }
}
