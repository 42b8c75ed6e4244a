//! A step's attention block: projections, positions, and attention over the pages.

use super::pass::Pass;
use super::saved::Saved;
use super::{LayerWeights, PIECE, Tables};
use crate::gemv::{GemvOutput, InputRows, Prefetch, PreparedRows, multiply};
use crate::paged_attention::{CachedKeysValues, LoadF32, ScoreRule, attend};
use crate::thread_pool::PoolWorker;
use crate::{round_to_bf16_in_place, with_cpu_features};

/// A worker's scratch buffers.
#[derive(Default)]
struct AttentionScratch {
    rotated: Vec<f32>,
    scores: Vec<f32>,
}

impl Pass<'_> {
    /// Projects to queries, keys and values, concatenated in one row. `then`, here and below, is the address
    /// that the worker reads after its last piece.
    pub fn project(
        &self,
        worker: &PoolWorker,
        layer: &LayerWeights,
        normed: InputRows,
        then: Option<Prefetch>,
    ) {
        let parts = [&layer.query, &layer.key, &layer.value];
        let stride: usize = parts.iter().map(|part| part.outputs).sum();
        let normed = PreparedRows::new(normed, layer.query.weight.matrix());
        for (mine, next) in worker.chunks(stride, PIECE) {
            let next = next.and_then(|next| {
                let mut at = next.start;
                parts.iter().find_map(|part| {
                    part.prefetch(at).or_else(|| {
                        at -= part.outputs;
                        None
                    })
                })
            });
            let mut first = 0;
            for part in parts {
                let within = |place: usize| place.clamp(first, first + part.outputs) - first;
                let target = GemvOutput { buffer: &self.projected, first, stride, add: false };
                // SAFETY: workers have outputs of their own.
                unsafe {
                    multiply(
                        &normed,
                        part.weight.matrix(),
                        part.bias.as_deref(),
                        within(mine.start)..within(mine.end),
                        next.or(then),
                        &target,
                    )
                };
                first += part.outputs;
            }
        }
    }

    /// Writes keys and values to the pages, and the output of each head.
    pub fn attention<T: LoadF32>(&self, worker: &PoolWorker, index: usize, layer: &LayerWeights) {
        let items = self.rows * self.decoder.shape.key_value_heads;
        let mut scratch = AttentionScratch::default();
        if self.pages.alone {
            // Each pair of row and key-value head belongs to one worker.
            for item in worker.range(items, 1) {
                self.write_key_value::<T>(index, layer, item, &mut scratch);
                self.attend::<T>(index, layer, item, &mut scratch);
            }
            return;
        }
        for item in worker.range(items, 1) {
            self.write_key_value::<T>(index, layer, item, &mut scratch);
        }
        worker.barrier();
        // Chunks are taken dynamically, because later rows see more tokens.
        for (items, _) in worker.chunks(items, items.div_ceil(8 * worker.count)) {
            items.for_each(|item| self.attend::<T>(index, layer, item, &mut scratch));
        }
    }

    /// For an item (a row and a key-value head): the row's projections, the head's index, its pages, and the
    /// row's position in them.
    fn row_of<T: LoadF32>(
        &self,
        index: usize,
        item: usize,
    ) -> (&[f32], usize, CachedKeysValues<'_, T>, usize) {
        let shape = &self.decoder.shape;
        let (row, group) = (item / shape.key_value_heads, item % shape.key_value_heads);
        let stride = (shape.heads + 2 * shape.key_value_heads) * shape.head_dim;
        // SAFETY: between the barriers around attention, projected rows are only read.
        let projected = unsafe { self.projected.as_slice() };
        let (pages, position) = self.pages.rows[row].clone();
        let places = self.pages.layout.places(index, group);
        let cached = CachedKeysValues::<T>::new(&self.pages.starts[pages], places, shape.head_dim);
        (&projected[row * stride..][..stride], group, cached, position)
    }

    fn write_key_value<T: LoadF32>(
        &self,
        index: usize,
        layer: &LayerWeights,
        item: usize,
        scratch: &mut AttentionScratch,
    ) {
        let (shape, width) = (&self.decoder.shape, self.decoder.shape.head_dim);
        let (own, group, mut cached, position) = self.row_of::<T>(index, item);
        // SAFETY: the pages are of this layout, no other row has this position in them, and no other worker
        // has this head.
        let [own_key, own_value] = unsafe { cached.slots(position) };
        let key = &own[(shape.heads + group) * width..][..width];
        let value = &own[(shape.heads + shape.key_value_heads + group) * width..][..width];
        let rotated = &mut scratch.rotated;
        rotated.resize(width.max(rotated.len()), 0.0);
        self.apply_rope(key, layer.key_norm.as_deref(), layer.tables, position, &mut rotated[..width]);
        with_cpu_features(|| {
            own_key.iter_mut().zip(&rotated[..width]).for_each(|(to, from)| *to = T::from_f32(*from));
            own_value.iter_mut().zip(value).for_each(|(to, from)| *to = T::from_f32(*from));
        });
        let first = shape.heads + group;
        self.save_heads(index, item, first, key, &rotated[..width]);
        self.save_heads(index, item, first + shape.key_value_heads, value, value);
    }

    /// Saves heads of an item's row from head `first` on, before normalisation and after rotation.
    fn save_heads(&self, index: usize, item: usize, first: usize, before: &[f32], projected: &[f32]) {
        let Some(saved) = &self.saved else { return };
        let shape = &self.decoder.shape;
        let at = (item / shape.key_value_heads, first * shape.head_dim);
        // SAFETY: an item's heads are one worker's.
        unsafe {
            saved.write(index, Saved::BeforeNorm, at, before);
            saved.write(index, Saved::Projected, at, projected);
        }
    }

    fn attend<T: LoadF32>(
        &self,
        index: usize,
        layer: &LayerWeights,
        item: usize,
        scratch: &mut AttentionScratch,
    ) {
        let (shape, width) = (&self.decoder.shape, self.decoder.shape.head_dim);
        let shared_by = shape.heads / shape.key_value_heads;
        let (own, group, cached, position) = self.row_of::<T>(index, item);
        let AttentionScratch { rotated, scores } = scratch;
        rotated.resize(shared_by * width, 0.0);
        let queries = &own[group * shared_by * width..][..shared_by * width];
        for (query, rotated) in queries.chunks_exact(width).zip(rotated.chunks_exact_mut(width)) {
            self.apply_rope(query, layer.query_norm.as_deref(), layer.tables, position, rotated);
        }
        self.save_heads(index, item, group * shared_by, queries, rotated);
        let place = (item / shape.key_value_heads * shape.heads + group * shared_by) * width;
        let range = place..place + shared_by * width;
        // SAFETY: no other worker has this row and group.
        let attended = unsafe { self.attended.slice_mut(range.clone()) };
        let seen = (position + 1).saturating_sub(layer.window)..position + 1;
        let rule = ScoreRule { scale: shape.attention_scale, softcap: shape.attention_softcap };
        // SAFETY: as above; earlier keys and values were written by this worker or before a barrier, and no
        // worker writes them now.
        unsafe { attend(rotated, cached, seen, rule, scores, attended) };
        if let Some(saved) = &self.saved {
            let at = (item / shape.key_value_heads, group * shared_by * width);
            // SAFETY: no other worker has this row and group.
            unsafe { saved.write(index, Saved::Attended, at, attended) };
        }
        if self.is_bf16 {
            // SAFETY: as above.
            let rounded = unsafe { self.attended_bf16.slice_mut(range) };
            round_to_bf16_in_place(attended, rounded);
        }
    }

    /// Normalises a query or key, where the model does, and rotates it to its position.
    fn apply_rope(
        &self,
        head: &[f32],
        norm: Option<&[f32]>,
        tables: Option<usize>,
        position: usize,
        rotated: &mut [f32],
    ) {
        rotated.copy_from_slice(head);
        if let Some(scale) = norm {
            let factor = self.norm_factor(head);
            rotated.iter_mut().zip(scale).for_each(|(value, scale)| *value *= factor * scale);
        }
        let Some(tables) = tables else { return };
        let (width, half) = (head.len(), head.len() / 2);
        let Tables { cosine, sine } = &self.decoder.weights.tables[tables];
        let (cosine, sine) = (&cosine[position * width..][..width], &sine[position * width..][..width]);
        for low in 0..half {
            let high = low + half;
            let (a, b) = (rotated[low], rotated[high]);
            rotated[low] = a * cosine[low] + b * sine[low];
            rotated[high] = b * cosine[high] + a * sine[high];
        }
    }
}
