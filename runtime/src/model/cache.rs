//! Generation with a KV cache in tensors, on any device. The CPU engine has its own: [`super::paged`].

mod on_gpu;
mod pairs;

use std::ops::Range;

use tch::{Tensor, no_grad_guard};

use self::on_gpu::OnGpu;
use super::attention::{HIDDEN, LayerRead, attend_stored};
use super::causal_conv::RecurrentState;
use super::decoder::Decoder;
use super::packed_batch::PackedBatch;
use super::parameters::{AttentionWeights, Layer, Mixer};
use super::rope::Rotaries;
use crate::machine::place::Place;
use crate::machine::transfer::to_vec;
use crate::machine::transfer::upload;
use crate::tokenizer::Token;

/// Rows that are continued token by token, all at once. Their prompts end at the same place of the cache:
/// shorter ones are padded on the left, and attention masks the padding.
pub struct Generator<'a> {
    decoder: &'a Decoder,
    caches: Vec<LayerCache>,
    /// `[rows, 1, 1, capacity]`: 0, or [`HIDDEN`] on left padding.
    bias: Tensor,
    /// `[rows]`: the position of the next token within its own sequence.
    positions: Tensor,
    /// The rotary tables of every position that a row can reach.
    rotary: Rotaries,
    filled: i64,
    /// The number of tokens that the cache has room for now, and the most that it can grow to.
    capacity: i64,
    most: i64,
    /// `[rows, width]`: the residual stream after the last layer, where the next token is predicted.
    last: Tensor,
    /// `[rows, vocabulary]`: logits of the next token, on the decoder's device.
    logits: Tensor,
    /// The same on the host, once they were read.
    on_host: Option<Vec<f32>>,
    on_gpu: Option<OnGpu>,
}

/// What generation keeps of a layer.
enum LayerCache {
    /// `[rows, key-value heads, capacity, head width]` each.
    Attention {
        keys: Tensor,
        values: Tensor,
    },
    Recurrent(RecurrentState),
}

impl LayerCache {
    /// Keys and values, where a way to decode is written for attention only.
    fn keys_values(&self) -> [&Tensor; 2] {
        match self {
            LayerCache::Attention { keys, values } => [keys, values],
            LayerCache::Recurrent(_) => unreachable!("`Config::runs_on` excludes such models"),
        }
    }
}

/// The cache grows by at least `GROWTH` tokens and by at least 1 / `SHARE` of its capacity.
const GROWTH: i64 = 64;
const SHARE: i64 = 4;
/// The least growth on a GPU, where a step must be captured again afterwards.
const GROWTH_ON_GPU: i64 = 256;
/// A step of up to this many rows takes a GPU no longer than a step of one.
const ROWS_OF_A_STEP: usize = 32;

fn growth(on_gpu: Option<&OnGpu>) -> i64 {
    if on_gpu.is_some() { GROWTH_ON_GPU } else { GROWTH }
}

impl<'a> Generator<'a> {
    /// Reads the prompts, which have at least one token each. Up to `max_tokens` tokens can follow; the cache
    /// grows for them on demand.
    pub fn start(decoder: &'a Decoder, prompts: &[&[Token]], max_tokens: usize) -> Generator<'a> {
        let _guard = no_grad_guard();
        let config = &*decoder.config;
        let (device, kind) = (decoder.device(), decoder.kind());
        let rows = prompts.len() as i64;
        let longest = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(1);
        let most = (longest + max_tokens) as i64;
        let mut on_gpu = OnGpu::new(decoder);
        let capacity = most.min(longest as i64 + growth(on_gpu.as_ref())) as usize;
        let mut bias = vec![0.0f32; prompts.len() * capacity];
        for (row, prompt) in prompts.iter().enumerate() {
            bias[row * capacity..][..longest - prompt.len()].fill(HIDDEN as f32);
        }
        let tensor = |numbers: &[i64]| upload(numbers, device);
        let length = longest as i64;
        let [groups, width] = [config.key_value_heads as i64, config.head_dim as i64];
        let empty = || Tensor::zeros([rows, groups, capacity as i64, width], (kind, device));
        let of_layer = |layer| match (config.gated_delta_of(layer), config.short_conv_of(layer)) {
            (Some(delta), _) => LayerCache::Recurrent(delta.empty(rows, kind, device)),
            (None, Some(conv)) => LayerCache::Recurrent(conv.empty(config, rows, kind, device)),
            (None, None) => LayerCache::Attention { keys: empty(), values: empty() },
        };
        let caches: Vec<LayerCache> = (0..config.layers).map(of_layer).collect();
        // Only the position after a prompt is predicted; which token stands there does not matter.
        let next = [decoder.tokenizer.padding()];
        let mut last = Vec::new();
        for rows in read_together(prompts, decoder.place.sizes.read) {
            let (first, count) = (rows.start as i64, rows.len() as i64);
            let prompts = &prompts[rows];
            // The packed token for each place of the cache; padding reads its sequence's first token.
            let mut places = Vec::with_capacity(prompts.len() * longest);
            let mut tokens = 0;
            for prompt in prompts {
                let padding = longest - prompt.len();
                places.extend((0..longest).map(|place| (tokens + place.saturating_sub(padding)) as i64));
                tokens += prompt.len();
            }
            let places = tensor(&places);
            let store = |cache: &Tensor, packed: &Tensor| {
                let padded = packed.index_select(0, &places).view([count, length, groups, width]);
                cache.narrow(0, first, count).narrow(2, 0, length).copy_(&padded.transpose(1, 2));
            };
            let batch = PackedBatch::new(prompts.iter().map(|prompt| (*prompt, next.as_slice())), device);
            let mut caches = caches.iter();
            last.push(decoder.uncounted(|| {
                decoder.pass(&batch, |read| match (caches.next().expect("one of each layer"), read) {
                    (LayerCache::Recurrent(remembered), LayerRead::Recurrent(read)) => {
                        remembered.write(first, &read);
                    }
                    (cache, read) => {
                        let (cached, read) = (cache.keys_values(), read.keys_values(config, &batch));
                        cached.into_iter().zip(&read).for_each(|(cache, read)| store(cache, read));
                    }
                })
            }));
        }
        let last = Tensor::cat(&last, 0);
        on_gpu.iter_mut().for_each(|on_gpu| on_gpu.set_place(length));
        let rotary = Rotaries::new(config, most as usize, kind, device);
        let lengths: Vec<i64> = prompts.iter().map(|prompt| prompt.len() as i64).collect();
        Generator {
            decoder,
            caches,
            bias: upload(&bias, device).view([rows, 1, 1, capacity as i64]).to_kind(kind),
            positions: tensor(&lengths),
            logits: decoder.project_vocabulary(&last),
            on_host: None,
            last,
            rotary,
            filled: length,
            capacity: capacity as i64,
            most,
            on_gpu,
        }
    }

    /// The place of its tensors.
    pub fn place(&self) -> Place {
        self.decoder.place
    }

    /// Appends one token to every row.
    pub fn step(&mut self, tokens: &[Token]) {
        self.step_on_device(&upload(tokens, self.decoder.device()));
    }

    /// The same for tokens on the decoder's device, i64, `[rows]`.
    pub fn step_on_device(&mut self, tokens: &Tensor) {
        let _guard = no_grad_guard();
        if self.filled == self.capacity {
            self.grow();
        }
        if let Some(mut on_gpu) = self.on_gpu.take() {
            (self.last, self.logits) = on_gpu.step(self, tokens);
            self.on_gpu = Some(on_gpu);
            self.on_host = None;
            self.filled += 1;
            return;
        }
        let decoder = self.decoder;
        let config = &*decoder.config;
        let rotary = self.rotary.at(&self.positions);
        let length = self.filled + 1;
        let mut stream = decoder.embed(tokens);
        for (index, layer) in decoder.layers.iter().enumerate() {
            let normed = decoder.normalise(&stream, &layer.norm_attention);
            let attended = match (&mut self.caches[index], &layer.mixer) {
                (LayerCache::Attention { keys, values }, Mixer::Attention(weights)) => {
                    let Projected { query, key, value, gate } = decoder.project(weights, &normed, &rotary);
                    keys.select(2, self.filled).copy_(&key);
                    values.select(2, self.filled).copy_(&value);
                    // Rows end at the same place, so a window is the same range of every row's cache.
                    let first = weights.kind.window.map_or(0, |window| (length - window as i64).max(0));
                    let cached = |cache: &Tensor| cache.narrow(2, first, length - first);
                    let bias = self.bias.narrow(3, first, length - first);
                    let (keys, values) = (cached(keys), cached(values));
                    let (query, sinks) = (query.unsqueeze(2), weights.sinks.as_ref());
                    let attended = attend_stored(config, &query, &keys, &values, Some(&bias), sinks);
                    gated(attended.flatten(1, 3), gate)
                }
                (LayerCache::Recurrent(remembered), Mixer::GatedDelta(weights)) => {
                    decoder.gated_delta_step(weights, &normed, remembered)
                }
                (LayerCache::Recurrent(remembered), Mixer::ShortConv(weights)) => {
                    decoder.short_conv_step(weights, &normed, remembered)
                }
                _ => unreachable!("a cache is of its layer"),
            };
            stream = decoder.finish(layer, stream, &attended);
        }
        self.filled = length;
        self.positions = &self.positions + 1;
        self.predict(stream);
    }

    /// Computes the next logits from the stream after the last layer.
    fn predict(&mut self, last: Tensor) {
        self.logits = self.decoder.project_vocabulary(&last);
        self.on_host = None;
        self.last = last;
    }

    /// Grows the cache and copies its contents, layer by layer.
    fn grow(&mut self) {
        let least = growth(self.on_gpu.as_ref());
        let more = (self.capacity / SHARE).max(least).min(self.most - self.capacity);
        assert!(more > 0, "no more tokens than were said to follow");
        let longer = |tensor: &Tensor, dimension: i64| {
            let mut shape = tensor.size();
            shape[dimension as usize] += more;
            let all = Tensor::zeros(shape, (tensor.kind(), tensor.device()));
            all.narrow(dimension, 0, self.capacity).copy_(tensor);
            all
        };
        for cache in &mut self.caches {
            if let LayerCache::Attention { keys, values } = cache {
                (*keys, *values) = (longer(keys, 2), longer(values, 2));
            }
        }
        self.bias = longer(&self.bias, 3);
        self.capacity += more;
        self.on_gpu.iter_mut().for_each(|on_gpu| on_gpu.forget(self.decoder));
    }

    /// Logits of the next token on the host, `[rows, vocabulary]`, for the rows of the last step. Callers may
    /// change them in place.
    pub fn logits(&mut self) -> &mut [f32] {
        self.on_host.get_or_insert_with(|| to_vec(&self.logits))
    }

    /// The same on the decoder's device. The next step may overwrite this tensor.
    pub fn logits_on_device(&self) -> &Tensor {
        &self.logits
    }

    /// The last hidden states, `[rows, width]`, that these logits are computed from.
    pub fn hidden(&self) -> Tensor {
        let _guard = no_grad_guard();
        self.decoder.normalise_last(&self.last)
    }

    /// The most unfinished rows, of `rows`, for which dropping the others pays off. Dropping them copies the
    /// cache; keeping them wastes computation. On a GPU a step of few rows is not faster with fewer, and
    /// would have to be captured again.
    pub fn compaction_threshold(&self, rows: usize) -> usize {
        match self.on_gpu {
            None => rows * 3 / 4,
            Some(_) if rows > ROWS_OF_A_STEP => rows / 2,
            Some(_) => 0,
        }
    }

    /// Continues with only these rows, in this order; a row may be repeated.
    pub fn select(&mut self, rows: &[i64]) {
        let _guard = no_grad_guard();
        let rows = upload(rows, self.decoder.device());
        for cache in &mut self.caches {
            match cache {
                LayerCache::Attention { keys, values } => {
                    (*keys, *values) = (keys.index_select(0, &rows), values.index_select(0, &rows));
                }
                LayerCache::Recurrent(remembered) => *remembered = remembered.select(&rows),
            }
        }
        self.bias = self.bias.index_select(0, &rows);
        self.positions = self.positions.index_select(0, &rows);
        self.on_gpu.iter_mut().for_each(|on_gpu| on_gpu.forget(self.decoder));
    }
}

/// The ranges of rows whose prompts are read together, with at most `most` tokens, unless one alone has more.
fn read_together(prompts: &[&[Token]], most: usize) -> Vec<Range<usize>> {
    let mut all: Vec<Range<usize>> = Vec::new();
    let mut tokens = 0;
    for (row, prompt) in prompts.iter().enumerate() {
        tokens += prompt.len();
        match all.last_mut() {
            Some(rows) if tokens <= most => rows.end += 1,
            _ => {
                all.push(row..row + 1);
                tokens = prompt.len();
            }
        }
    }
    all
}

/// The inputs of attention for one token of each row, `[rows, heads, head width]` each.
struct Projected {
    /// Rotated, like the key.
    query: Tensor,
    key: Tensor,
    value: Tensor,
    gate: Option<Tensor>,
}

/// The output of attention, `[rows, heads * head width]`, multiplied by its gate.
fn gated(attended: Tensor, gate: Option<Tensor>) -> Tensor {
    match gate {
        Some(gate) => attended * gate.flatten(1, 2).sigmoid(),
        None => attended,
    }
}

/// A layer for inference: matrices that read the same input are one.
impl Decoder {
    /// Projects `[rows, width]`.
    fn project(&self, weights: &AttentionWeights, normed: &Tensor, rotary: &Rotaries) -> Projected {
        let config = &*self.config;
        let [heads, groups, head_dim] =
            [config.heads, config.key_value_heads, config.head_dim].map(|size| size as i64);
        let all = weights.query_key_value.apply(normed);
        let (all, gate) =
            self.without_gate(all.view([-1, config.query_and_gate_heads() as i64 + 2 * groups, head_dim]));
        let query_key = self.normalise_heads(all.narrow(-2, 0, heads + groups), weights);
        let query_key = rotary.apply_rope(&weights.kind, query_key);
        Projected {
            query: query_key.narrow(-2, 0, heads),
            key: query_key.narrow(-2, heads, groups),
            value: all.narrow(-2, heads + groups, groups),
            gate,
        }
    }

    /// The rest of a layer: output projection, residual, feed-forward, residual.
    fn finish(&self, layer: &Layer, stream: Tensor, attended: &Tensor) -> Tensor {
        let stream = stream + self.after(layer.output.apply(attended), layer.after_attention.as_ref());
        let normed = self.normalise(&stream, &layer.norm_feed_forward);
        let answer = layer.feed_forward.infer(&normed, self.config.activation, self.config.experts.as_ref());
        stream + self.after(answer, layer.after_feed_forward.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::machine::place::Place;
    use crate::model::tests::{random_model, tiny};

    /// Logits are in single precision at every token, also for a model in bf16: rounding a logit of 8 to bf16
    /// changes it by up to 0.03. At the first token they equal the trainer's; later ones differ by the
    /// rounding of activations.
    #[test]
    fn logits_are_in_single_precision_from_the_first_token_on() {
        let weights = random_model(&tiny(), 8);
        let prompts: Vec<Vec<Token>> =
            (0..20).map(|i| (0..1 + i % 7).map(|j| 97 + (3 * i + j) % 26).collect()).collect();
        let of_prompts: Vec<&[Token]> = prompts.iter().map(Vec::as_slice).collect();
        for kind in [Kind::Float, Kind::BFloat16] {
            let decoder = Decoder::frozen(&weights, Place::cpu(), kind);
            let mut generator = Generator::start(&decoder, &of_prompts, 10);
            let batch = PackedBatch::new(
                prompts.iter().map(|prompt| (prompt.as_slice(), [0].as_slice())),
                Device::Cpu,
            );
            let hidden = decoder.hidden(&batch).to_kind(Kind::Double);
            let exact = hidden.matmul(&decoder.lm_head().to_kind(Kind::Double).tr());
            let apart = Tensor::from_slice(generator.logits()).view(exact.size().as_slice()) - exact;
            let apart = apart.abs().max().double_value(&[]);
            assert!(apart < 1e-4, "{kind:?}: {apart:.1e}");
            for step in 0..10 {
                let logits = generator.logits();
                let coarse =
                    logits.iter().filter(|logit| half::bf16::from_f32(**logit).to_f32() == **logit).count();
                assert!(coarse * 20 < logits.len(), "{kind:?}, step {step}: {coarse} are rounded");
                generator.step(&vec![100 + 7 * step % 26; prompts.len()]);
            }
        }
    }
}
