//! One more token for every row, on the processor.
//!
//! A step of generation is a few rows through all matrices: the time to read the weights, if nothing stands
//! in between. An operator of libtorch costs more than many of these products, so the whole step is one pass
//! of a crew of threads: each computes its share of every product's outputs, and they meet between products.
//! Numbers between products are in single precision, also where weights are not.

mod weights;

use std::ops::Range;
use std::sync::Arc;

use half::bf16;
use tch::Kind;

use self::weights::{FeedForward, Gated, Layer, Linear, Tables, Weight};
use super::decoder::Rotaries;
use super::pages::PageLayout;
use super::{Activation, Config, Decoder, to_vec};
use crate::tokenizer::Token;
use mopd_kernels::attend::{Cached, Scores, Wide, attend};
use mopd_kernels::crew::{Member, Parts, together};
use mopd_kernels::exp::exp;
use mopd_kernels::lines::Lines;
use mopd_kernels::thin::{Matrix, Place, Rows, Target, multiply};
use mopd_kernels::{round, with_instructions};

/// Outputs of a matrix that a thread takes at one time: enough to be read at the memory's full rate.
const PIECE: usize = 96;
/// The same of the largest matrix.
const WIDE_PIECE: usize = 8 * PIECE;

/// The weights of a decoder, as a step reads them.
pub struct Stepper {
    config: Arc<Config>,
    embedding: Weight,
    output: Linear,
    norm: Vec<f32>,
    layers: Vec<Layer>,
    /// `[positions, head width]`, as [`super::rope::Rotary`] has them.
    tables: Vec<Tables>,
    threads: usize,
    buffers: Buffers,
}

/// What a step reads of the rows, and writes to their pages.
pub struct State<'a> {
    /// Where the pages of all rows begin. No two rows have the one that a new token is written to.
    pub pages: &'a [*mut u8],
    /// What each row has of them, and the place of its new token.
    pub rows: &'a [(Range<usize>, usize)],
    pub layout: PageLayout,
}

// SAFETY: members of the crew write to the pages of different rows, or of different heads, and nobody else
// reads there.
unsafe impl Sync for State<'_> {}

impl Stepper {
    /// None where the decoder is elsewhere, or of a kind of number that steps are not written for.
    pub(super) fn new(decoder: &Decoder, rotary: &Rotaries, threads: usize) -> Option<Stepper> {
        let kind = decoder.tensor("model.embed_tokens.weight")?.kind();
        if decoder.device != tch::Device::Cpu || !matches!(kind, Kind::Float | Kind::BFloat16) {
            return None;
        }
        let config = decoder.config.clone();
        let weight = |name: &str| Some(Weight::new(decoder.tensor(name)?.detach()));
        let linear = |name: &str| {
            let weight = weight(&format!("{name}.weight"))?;
            let outputs = weight.tensor.size()[0] as usize;
            Some(Linear {
                weight,
                bias: decoder.tensor(&format!("{name}.bias")).map(|bias| to_vec(&bias)),
                outputs,
            })
        };
        let norm = |name: &str| {
            let scale = to_vec(&decoder.tensor(&format!("{name}.weight"))?);
            Some(scale.into_iter().map(|scale| scale + config.norm.offset as f32).collect::<Vec<f32>>())
        };
        let gated = |name: &str| {
            Some(Gated {
                gate: linear(&format!("{name}.gate_proj"))?,
                up: linear(&format!("{name}.up_proj"))?,
                down: linear(&format!("{name}.down_proj"))?,
            })
        };
        let layers = (0..config.layers).map(|index| {
            let name = format!("model.layers.{index}");
            let attention = config.attention[index];
            let feed_forward = match &config.experts {
                Some(experts) if experts.layers[index] => FeedForward::Experts {
                    router: linear(&format!("{name}.mlp.gate"))?,
                    experts: (0..experts.count)
                        .map(|expert| gated(&format!("{name}.mlp.experts.{expert}")))
                        .collect::<Option<_>>()?,
                    per_token: experts.per_token,
                    normalised: experts.normalised,
                },
                _ => FeedForward::Plain(gated(&format!("{name}.mlp"))?),
            };
            // With norms after both parts, the one before the feed-forward part has another name (Gemma 2 and
            // 3).
            let [after_attention, before] = if config.norm.after {
                [
                    norm(&format!("{name}.post_attention_layernorm")),
                    norm(&format!("{name}.pre_feedforward_layernorm")),
                ]
            } else {
                [None, norm(&format!("{name}.post_attention_layernorm"))]
            };
            Some(Layer {
                norm_attention: norm(&format!("{name}.input_layernorm"))?,
                query: linear(&format!("{name}.self_attn.q_proj"))?,
                key: linear(&format!("{name}.self_attn.k_proj"))?,
                value: linear(&format!("{name}.self_attn.v_proj"))?,
                query_norm: norm(&format!("{name}.self_attn.q_norm")),
                key_norm: norm(&format!("{name}.self_attn.k_norm")),
                output: linear(&format!("{name}.self_attn.o_proj"))?,
                after_attention,
                norm_feed_forward: before?,
                feed_forward,
                after_feed_forward: norm(&format!("{name}.post_feedforward_layernorm")),
                window: attention.window.unwrap_or(usize::MAX),
                tables: attention
                    .rotary
                    .then(|| usize::from(attention.window.is_some() && config.local_rope.is_some())),
            })
        });
        let layers = layers.collect::<Option<Vec<Layer>>>()?;
        let tables = rotary.tables();
        let tables = tables.map(|table| Tables { cosine: to_vec(&table.cosine), sine: to_vec(&table.sine) });
        let embedding = weight("model.embed_tokens.weight")?;
        let output =
            weight("lm_head.weight").unwrap_or_else(|| Weight::new(embedding.tensor.shallow_clone()));
        Some(Stepper {
            output: Linear { outputs: output.tensor.size()[0] as usize, weight: output, bias: None },
            embedding,
            norm: norm("model.norm")?,
            layers,
            tables: tables.collect(),
            threads,
            buffers: Buffers::default(),
            config,
        })
    }

    /// Appends one token to every row; the logits of the next, `[rows, vocabulary]`, into `logits`.
    pub fn step(&mut self, tokens: &[Token], state: State, logits: &mut Vec<f32>) {
        let mut buffers = std::mem::take(&mut self.buffers);
        let config = &*self.config;
        let rows = tokens.len();
        assert_eq!(state.rows.len(), rows, "every row has pages");
        let halves = matches!(self.embedding.matrix(), Matrix::Half(_));
        let inner = match &config.experts {
            Some(experts) => experts.hidden.max(config.hidden),
            None => config.hidden,
        };
        buffers.fit(config, rows, inner, halves);
        logits.resize(rows * config.vocabulary, 0.0);
        let scale = if halves {
            bf16::from_f64(config.embedding_scale).to_f32()
        } else {
            config.embedding_scale as f32
        };
        for (token, row) in tokens.iter().zip(buffers.stream.chunks_exact_mut(config.width)) {
            self.embed(*token as usize, scale, row);
        }
        let shared = Shared {
            stepper: self,
            rows,
            state,
            halves,
            inner,
            stream: Parts::new(&mut buffers.stream),
            projected: Parts::new(&mut buffers.projected),
            attended: Parts::new(&mut buffers.attended),
            attended_half: Parts::new(&mut buffers.attended_half),
            gate: Parts::new(&mut buffers.gate),
            gate_half: Parts::new(&mut buffers.gate_half),
            up: Parts::new(&mut buffers.up),
            branch: Parts::new(&mut buffers.branch),
            logits: Parts::new(logits),
        };
        together(self.threads, |member| shared.work(&member));
        if let Some(cap) = config.logit_softcap {
            for logit in logits {
                *logit = (f64::from(*logit) / cap).tanh() as f32 * cap as f32;
            }
        }
        self.buffers = buffers;
    }

    fn embed(&self, token: usize, scale: f32, to: &mut [f32]) {
        let range = token * to.len()..(token + 1) * to.len();
        match self.embedding.matrix() {
            Matrix::Single(values) => to.copy_from_slice(&values[range]),
            Matrix::Half(values) => {
                to.iter_mut().zip(&values[range]).for_each(|(to, value)| *to = value.to_f32())
            }
        }
        if scale != 1.0 {
            to.iter_mut().for_each(|value| *value *= scale);
        }
    }
}

/// What is between the products of a step, `[rows, ...]`. Kept from step to step: new memory has to be
/// cleared first.
#[derive(Default)]
struct Buffers {
    stream: Lines<f32>,
    projected: Lines<f32>,
    attended: Lines<f32>,
    attended_half: Lines<bf16>,
    gate: Lines<f32>,
    gate_half: Lines<bf16>,
    up: Lines<f32>,
    branch: Lines<f32>,
}

impl Buffers {
    fn fit(&mut self, config: &Config, rows: usize, inner: usize, halves: bool) {
        let heads = config.heads * config.head_width;
        let slots = config.experts.as_ref().map_or(1, |experts| experts.per_token);
        let single = |buffer: &mut Lines<f32>, width: usize| buffer.resize(rows * width);
        let half =
            |buffer: &mut Lines<bf16>, width: usize| buffer.resize(if halves { rows * width } else { 0 });
        single(&mut self.stream, config.width);
        single(&mut self.projected, heads + 2 * config.key_value_heads * config.head_width);
        single(&mut self.attended, heads);
        half(&mut self.attended_half, heads);
        single(&mut self.gate, slots * inner);
        half(&mut self.gate_half, slots * inner);
        single(&mut self.up, slots * inner);
        single(&mut self.branch, slots * config.width);
    }
}

/// Everything that the crew shares during a step. Buffers are `[rows, ...]`.
struct Shared<'a> {
    stepper: &'a Stepper,
    rows: usize,
    state: State<'a>,
    halves: bool,
    inner: usize,
    stream: Parts<'a, f32>,
    /// Queries, keys, values.
    projected: Parts<'a, f32>,
    attended: Parts<'a, f32>,
    attended_half: Parts<'a, bf16>,
    /// Of the feed-forward part: first the gate, then gate times up.
    gate: Parts<'a, f32>,
    gate_half: Parts<'a, bf16>,
    up: Parts<'a, f32>,
    /// What a part answers before it is normalised or weighed.
    branch: Parts<'a, f32>,
    logits: Parts<'a, f32>,
}

/// A member's own copy of normalised rows.
#[derive(Default)]
struct Normed {
    single: Vec<f32>,
    half: Vec<bf16>,
}

impl Normed {
    fn rows(&self, inputs: usize) -> Rows<'_> {
        Rows { inputs, single: &self.single, half: &self.half }
    }
}

impl Shared<'_> {
    fn work(&self, member: &Member) {
        let config = &*self.stepper.config;
        let mut normed = Normed::default();
        for (index, layer) in self.stepper.layers.iter().enumerate() {
            self.normalise(&layer.norm_attention, &mut normed);
            self.project(member, layer, normed.rows(config.width), layer.output.first_of(member, PIECE));
            member.wait();
            if self.halves {
                self.attention::<bf16>(member, index, layer)
            } else {
                self.attention::<f32>(member, index, layer)
            }
            member.wait();
            let heads = config.heads * config.head_width;
            // SAFETY: between these waits attended rows are only read.
            let attended = unsafe {
                Rows { inputs: heads, single: self.attended.all(), half: self.attended_half.all() }
            };
            let next = match &layer.feed_forward {
                FeedForward::Plain(gated) => gated.gate.first_of(member, PIECE),
                FeedForward::Experts { .. } => None,
            };
            self.residual(member, &layer.output, attended, layer.after_attention.as_deref(), next);
            member.wait();
            self.normalise(&layer.norm_feed_forward, &mut normed);
            match &layer.feed_forward {
                FeedForward::Plain(gated) => {
                    let next = match self.stepper.layers.get(index + 1) {
                        Some(layer) => layer.query.first_of(member, PIECE),
                        None => self.stepper.output.first_of(member, WIDE_PIECE),
                    };
                    self.feed_forward(member, gated, &normed, layer.after_feed_forward.as_deref(), next);
                }
                FeedForward::Experts { router, experts, per_token, normalised } => {
                    let chosen = self.route(router, normed.rows(config.width), *per_token, *normalised);
                    self.experts(member, experts, &chosen, &normed);
                }
            }
            member.wait();
        }
        self.normalise(&self.stepper.norm, &mut normed);
        let output = &self.stepper.output;
        let target = Target { buffer: &self.logits, first: 0, stride: config.vocabulary, add: false };
        for (outputs, next) in member.pieces(config.vocabulary, WIDE_PIECE) {
            let next = next.and_then(|next| output.place(next.start));
            // SAFETY: members have outputs of their own.
            unsafe {
                multiply(normed.rows(config.width), output.weight.matrix(), None, outputs, next, &target)
            };
        }
    }

    /// RMSNorm of all rows of the stream, each member for itself: it is less work than waiting for each
    /// other.
    fn normalise(&self, scale: &[f32], normed: &mut Normed) {
        // SAFETY: between the waits around this nobody writes the stream.
        let stream = unsafe { self.stream.all() };
        normed.single.resize(stream.len(), 0.0);
        for (row, to) in stream.chunks_exact(scale.len()).zip(normed.single.chunks_exact_mut(scale.len())) {
            let factor = self.norm_factor(row);
            with_instructions(|| {
                for ((to, value), scale) in to.iter_mut().zip(row).zip(scale) {
                    *to = value * factor * scale;
                }
            });
        }
        if self.halves {
            normed.half.resize(stream.len(), bf16::ZERO);
            round(&normed.single, &mut normed.half);
        }
    }

    fn norm_factor(&self, values: &[f32]) -> f32 {
        let mut lanes = [0.0f32; 16];
        with_instructions(|| {
            let chunks = values.chunks_exact(16);
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
        1.0 / (mean + self.stepper.config.norm.epsilon as f32).sqrt()
    }

    /// Queries, keys and values, as one row of outputs. `then` is what the member reads after its last piece,
    /// here and below.
    fn project(&self, member: &Member, layer: &Layer, normed: Rows, then: Option<Place>) {
        let parts = [&layer.query, &layer.key, &layer.value];
        let stride: usize = parts.iter().map(|part| part.outputs).sum();
        for (mine, next) in member.pieces(stride, PIECE) {
            let next = next.and_then(|next| {
                let mut at = next.start;
                parts.iter().find_map(|part| {
                    part.place(at).or_else(|| {
                        at -= part.outputs;
                        None
                    })
                })
            });
            let mut first = 0;
            for part in parts {
                let within = |place: usize| place.clamp(first, first + part.outputs) - first;
                let target = Target { buffer: &self.projected, first, stride, add: false };
                // SAFETY: members have outputs of their own.
                unsafe {
                    multiply(
                        normed,
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

    /// A row and a key-value head belong to one member, which writes their keys and values and reads them.
    fn attention<T: Wide>(&self, member: &Member, index: usize, layer: &Layer) {
        let config = &*self.stepper.config;
        let width = config.head_width;
        let shared_by = config.heads / config.key_value_heads;
        let stride = (config.heads + 2 * config.key_value_heads) * width;
        let scores = Scores { scale: config.attention_scale, softcap: config.attention_softcap };
        // SAFETY: between these waits projected rows are only read.
        let projected = unsafe { self.projected.all() };
        let (mut turned, mut scratch) = (vec![0.0; shared_by * width], Vec::new());
        for item in member.part(self.rows * config.key_value_heads, 1) {
            let (row, group) = (item / config.key_value_heads, item % config.key_value_heads);
            let own = &projected[row * stride..][..stride];
            let (pages, position) = self.state.rows[row].clone();
            let first = (position + 1).saturating_sub(layer.window);
            let mut cached =
                Cached::<T>::new(&self.state.pages[pages], self.state.layout.places(index, group), width);
            // SAFETY: the pages are of this layout, no other row has the one that is written to, and no other
            // member the head.
            let [own_key, own_value] = unsafe { cached.slots(position) };
            let key = &own[(config.heads + group) * width..][..width];
            let value = &own[(config.heads + config.key_value_heads + group) * width..][..width];
            self.turn(key, layer.key_norm.as_deref(), layer.tables, position, &mut turned[..width]);
            with_instructions(|| {
                own_key.iter_mut().zip(&turned[..width]).for_each(|(to, from)| *to = T::of(*from));
                own_value.iter_mut().zip(value).for_each(|(to, from)| *to = T::of(*from));
            });
            let queries = own[group * shared_by * width..].chunks_exact(width);
            for (query, turned) in queries.zip(turned.chunks_exact_mut(width)) {
                self.turn(query, layer.query_norm.as_deref(), layer.tables, position, turned);
            }
            let place = (row * config.heads + group * shared_by) * width;
            let range = place..place + shared_by * width;
            // SAFETY: no other member has this row and group.
            let attended = unsafe { self.attended.part(range.clone()) };
            // SAFETY: as above; what came before is written to by nobody.
            unsafe { attend(&turned, cached, first..position + 1, scores, &mut scratch, attended) };
            if self.halves {
                // SAFETY: as above.
                let half = unsafe { self.attended_half.part(range) };
                round(attended, half);
            }
        }
    }

    /// A query or key, normalised where the model does that, and rotated to its position.
    fn turn(
        &self,
        head: &[f32],
        norm: Option<&[f32]>,
        tables: Option<usize>,
        position: usize,
        turned: &mut [f32],
    ) {
        turned.copy_from_slice(head);
        if let Some(scale) = norm {
            let factor = self.norm_factor(head);
            turned.iter_mut().zip(scale).for_each(|(value, scale)| *value *= factor * scale);
        }
        let Some(tables) = tables else { return };
        let (width, half) = (head.len(), head.len() / 2);
        let Tables { cosine, sine } = &self.stepper.tables[tables];
        let (cosine, sine) = (&cosine[position * width..][..width], &sine[position * width..][..width]);
        for low in 0..half {
            let high = low + half;
            let (a, b) = (turned[low], turned[high]);
            turned[low] = a * cosine[low] + b * sine[low];
            turned[high] = b * cosine[high] + a * sine[high];
        }
    }

    /// Adds what a matrix makes of `x` to the stream, normalised first where `after` is a scale.
    fn residual(
        &self,
        member: &Member,
        linear: &Linear,
        x: Rows,
        after: Option<&[f32]>,
        then: Option<Place>,
    ) {
        let width = self.stepper.config.width;
        let buffer = if after.is_some() { &self.branch } else { &self.stream };
        let target = Target { buffer, first: 0, stride: width, add: after.is_none() };
        for (outputs, next) in member.pieces(width, PIECE) {
            let next = next.and_then(|next| linear.place(next.start)).or(then);
            // SAFETY: members have outputs of their own.
            unsafe { multiply(x, linear.weight.matrix(), linear.bias.as_deref(), outputs, next, &target) };
        }
        let Some(scale) = after else { return };
        member.wait();
        for row in member.part(self.rows, 1) {
            let range = row * width..(row + 1) * width;
            // SAFETY: members have rows of their own.
            let (stream, branch) = unsafe { (self.stream.part(range.clone()), self.branch.part(range)) };
            let factor = self.norm_factor(branch);
            for ((stream, branch), scale) in stream.iter_mut().zip(branch).zip(scale) {
                *stream += *branch * factor * scale;
            }
        }
    }

    fn feed_forward(
        &self,
        member: &Member,
        gated: &Gated,
        normed: &Normed,
        after: Option<&[f32]>,
        then: Option<Place>,
    ) {
        let hidden = gated.gate.outputs;
        let x = normed.rows(self.stepper.config.width);
        for (outputs, next) in member.pieces(hidden, PIECE) {
            let next =
                next.map_or_else(|| gated.down.first_of(member, PIECE), |next| gated.gate.place(next.start));
            self.gate(outputs, gated, x, 0..self.rows, self.inner, next);
        }
        member.wait();
        // SAFETY: between these waits the inner rows are only read. Where no layer has experts they are
        // `hidden` wide.
        let (single, half) = unsafe { (self.gate.all(), self.gate_half.all()) };
        if self.inner == hidden && single.len() == self.rows * hidden {
            return self.residual(member, &gated.down, Rows { inputs: hidden, single, half }, after, then);
        }
        let compact = Normed {
            single: single
                .chunks(self.inner)
                .take(self.rows)
                .flat_map(|row| &row[..hidden])
                .copied()
                .collect(),
            half: half
                .chunks(self.inner.max(1))
                .take(self.rows)
                .flat_map(|row| &row[..hidden])
                .copied()
                .collect(),
        };
        self.residual(member, &gated.down, compact.rows(hidden), after, then);
    }

    /// Some outputs of act(gate) * up of the rows in `x`, into the places `to` of the inner buffers, `stride`
    /// apart.
    fn gate(
        &self,
        part: Range<usize>,
        gated: &Gated,
        x: Rows,
        to: Range<usize>,
        stride: usize,
        then: Option<Place>,
    ) {
        let up = gated.up.place(part.start);
        for (linear, buffer, next) in [(&gated.gate, &self.gate, up), (&gated.up, &self.up, then)] {
            let target = Target { buffer, first: to.start * stride, stride, add: false };
            // SAFETY: members have outputs of their own.
            unsafe {
                multiply(x, linear.weight.matrix(), linear.bias.as_deref(), part.clone(), next, &target)
            };
        }
        for place in to {
            let range = place * stride + part.start..place * stride + part.end;
            // SAFETY: as above.
            let (gate, up) = unsafe { (self.gate.part(range.clone()), self.up.part(range.clone())) };
            match self.stepper.config.activation {
                Activation::Silu => with_instructions(|| {
                    gate.iter_mut().zip(up).for_each(|(gate, up)| *gate = *gate / (1.0 + exp(-*gate)) * *up);
                }),
                Activation::Gelu => gate.iter_mut().zip(up).for_each(|(gate, up)| *gate = gelu(*gate) * *up),
            }
            if self.halves {
                // SAFETY: as above.
                let half = unsafe { self.gate_half.part(range) };
                round(gate, half);
            }
        }
    }

    /// The experts of every row and their weights, each member for itself.
    fn route(&self, router: &Linear, x: Rows, per_token: usize, normalised: bool) -> Vec<Vec<(usize, f32)>> {
        let count = router.outputs;
        let mut scores = vec![0.0; self.rows * count];
        let buffer = Parts::new(&mut scores);
        let target = Target { buffer: &buffer, first: 0, stride: count, add: false };
        // SAFETY: the buffer is this member's own.
        unsafe { multiply(x, router.weight.matrix(), router.bias.as_deref(), 0..count, None, &target) };
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

    fn experts(&self, member: &Member, experts: &[Gated], chosen: &[Vec<(usize, f32)>], normed: &Normed) {
        let width = self.stepper.config.width;
        let slots = chosen.first().map_or(0, Vec::len);
        let row_of = |row: usize| Rows {
            inputs: width,
            single: &normed.single[row * width..][..width],
            half: normed.half.get(row * width..(row + 1) * width).unwrap_or(&[]),
        };
        for (row, chosen) in chosen.iter().enumerate() {
            for (slot, (expert, _)) in chosen.iter().enumerate() {
                let place = row * slots + slot;
                self.gate(
                    member.part(experts[*expert].gate.outputs, 16),
                    &experts[*expert],
                    row_of(row),
                    place..place + 1,
                    self.inner,
                    None,
                );
            }
        }
        member.wait();
        // SAFETY: between these waits the inner rows are only read.
        let (single, half) = unsafe { (self.gate.all(), self.gate_half.all()) };
        let part = member.part(width, 8);
        for (row, chosen) in chosen.iter().enumerate() {
            for (slot, (expert, weight)) in chosen.iter().enumerate() {
                let (place, down) = (row * slots + slot, &experts[*expert].down);
                let hidden = experts[*expert].gate.outputs;
                let inner = place * self.inner..place * self.inner + hidden;
                let x = Rows {
                    inputs: hidden,
                    single: &single[inner.clone()],
                    half: half.get(inner).unwrap_or(&[]),
                };
                let target = Target { buffer: &self.branch, first: place * width, stride: width, add: false };
                // SAFETY: members have outputs of their own, also in the stream.
                unsafe {
                    multiply(x, down.weight.matrix(), down.bias.as_deref(), part.clone(), None, &target);
                    let branch = self.branch.part(place * width + part.start..place * width + part.end);
                    let stream = self.stream.part(row * width + part.start..row * width + part.end);
                    stream.iter_mut().zip(branch).for_each(|(stream, branch)| *stream += *weight * *branch);
                }
            }
        }
    }
}

/// GELU by tanh (arXiv:1606.08415, section 2).
fn gelu(x: f32) -> f32 {
    let inner = std::f32::consts::FRAC_2_PI.sqrt() * (x + 0.044_715 * x * x * x);
    0.5 * x * (1.0 + inner.tanh())
}
