//! A decoder as tensors: the forward pass that training and scoring share. Decoding has two other
//! definitions: [`super::cache`], and [`super::step`] with `mopd_kernels::decode`.
//!
//! It tests features of the configuration, never a family: RMSNorm (arXiv:1910.07467) before and, in some
//! families, after each part, rotary positions ([`super::rope`]), grouped heads with windows and caps
//! ([`super::attention`]), or the gated delta rule ([`super::gated_delta`]) or a short convolution
//! ([`super::short_conv`]) in their place, gated linear units or experts ([`super::feed_forward`]).

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use tch::{Device, Kind, Tensor, no_grad_guard};

use super::attention::{LayerRead, SequenceLayout, cap};
use super::feed_forward::ExpertLoad;
use super::gated::{GatedUnit, SavedForBackward};
use super::layout::parts;
use super::packed_attention::{BatchPlaces, PackedAttention};
use super::packed_batch::PackedBatch;
use super::parameters::{FlatVector, Layer, Mixer, ParameterLeaf, ParameterViews};
use super::rope::Rotaries;
use super::second_head::SecondHead;
use super::weights::Weights;
use super::{Config, EntryKind, FastPath, LayerAttention, ParameterEntry, layout};
use crate::machine::place::Place;
use crate::tokenizer::Tokenizer;

/// A model on a device. All parameters are views of its flat vector, which has the order of [`layout`].
pub struct Decoder {
    pub config: Arc<Config>,
    pub tokenizer: Arc<Tokenizer>,
    pub place: Place,
    kind: Kind,
    pub(super) numbers: FlatVector,
    pub(super) entries: HashMap<String, ParameterEntry>,
    /// Every tensor that gradients are taken for, in the order of the flat vector.
    pub(super) leaves: Vec<ParameterLeaf>,
    decayed: i64,
    pub(super) embedding: Tensor,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: Tensor,
    pub(super) lm_head: Tensor,
    /// `[1, width]`
    pub(super) scalar_head: Option<Tensor>,
    pub(super) second_head: Option<SecondHead>,
    /// By layer, the number of tokens of each expert in forward passes so far; `None` where a layer has no
    /// experts or has not run.
    load: RefCell<Vec<Option<Tensor>>>,
}

/// The use of a decoder.
#[derive(Clone, Copy, PartialEq, Eq)]
enum DecoderUse {
    Training,
    Inference,
    /// Layers are loaded one at a time by [`super::StreamedDecoder`].
    Streaming,
}

/// The inputs that all layers of a forward pass share.
pub(super) struct ForwardContext {
    pub batch: PackedBatch,
    pub(super) rotary: Rotaries,
    /// The same in single precision, for our own loops.
    rotary_f32: Rotaries,
    pub(super) sequence_layout: SequenceLayout,
}

impl Decoder {
    /// A decoder for scoring and sampling, in a floating-point `kind`.
    pub fn frozen(weights: &Weights, place: Place, kind: Kind) -> Decoder {
        let numbers = FlatVector::whole(weights, kind, place.device);
        Decoder::new(weights, numbers, place, kind, DecoderUse::Inference)
    }

    /// The same for a model that is loaded and freed repeatedly: one allocation per layer fits into
    /// fragmented memory better than one for the whole model.
    pub fn by_layer(weights: &Weights, place: Place, kind: Kind) -> Decoder {
        let numbers = FlatVector::by_layer(weights, &layout(&weights.config), kind, place.device);
        Decoder::new(weights, numbers, place, kind, DecoderUse::Inference)
    }

    /// The parts outside the layers: embedding, last normalisation and heads.
    pub(super) fn without_layers(weights: &Weights, place: Place, kind: Kind) -> Decoder {
        let numbers = FlatVector::outside_layers(weights, &layout(&weights.config), kind, place.device);
        Decoder::new(weights, numbers, place, kind, DecoderUse::Streaming)
    }

    /// A decoder for training.
    pub fn trainable(weights: &Weights, place: Place, kind: Kind) -> Decoder {
        let numbers = FlatVector::whole(weights, kind, place.device);
        Decoder::new(weights, numbers, place, kind, DecoderUse::Training)
    }

    fn new(
        weights: &Weights,
        numbers: FlatVector,
        place: Place,
        kind: Kind,
        decoder_use: DecoderUse,
    ) -> Decoder {
        let config = weights.config.clone();
        let list = parts(&config);
        let decayed: usize =
            list.iter().filter(|entry| entry.kind == EntryKind::Matrix).map(|entry| entry.len()).sum();
        let entries = list.into_iter().map(|entry| (entry.name.clone(), entry)).collect();
        let mut parameters = ParameterViews::new(&entries, &numbers, decoder_use == DecoderUse::Training);
        let embedding = parameters.outside("model.embed_tokens.weight");
        let layers = match decoder_use {
            DecoderUse::Streaming => Vec::new(),
            DecoderUse::Training | DecoderUse::Inference => {
                (0..config.layers).map(|index| parameters.layer(&config, index)).collect()
            }
        };
        let lm_head =
            if config.tied { embedding.shallow_clone() } else { parameters.outside("lm_head.weight") };
        let scalar_head = config.scalar_head.then(|| parameters.outside("score.weight"));
        let second_head = config.second_head.then(|| SecondHead {
            input: parameters.outside("second_head.input.weight"),
            output: parameters.outside("second_head.output.weight"),
            confidence: parameters.outside("second_head.confidence.weight"),
        });
        let norm = parameters.outside("model.norm.weight");
        let leaves = match decoder_use {
            DecoderUse::Streaming => Vec::new(),
            DecoderUse::Training | DecoderUse::Inference => parameters.leaves(),
        };
        Decoder {
            load: RefCell::new((0..config.layers).map(|_| None).collect()),
            tokenizer: weights.tokenizer.clone(),
            config,
            place,
            kind,
            numbers,
            entries,
            leaves,
            decayed: decayed as i64,
            embedding,
            layers,
            norm,
            lm_head,
            scalar_head,
            second_head,
        }
    }

    /// A part of the model by its name in a checkpoint of Llama.
    pub fn tensor(&self, name: &str) -> Option<Tensor> {
        let entry = self.entries.get(name)?;
        let shape: Vec<i64> = entry.shape.iter().map(|&size| size as i64).collect();
        Some(self.numbers.part(entry.offset, entry.len()).view(shape.as_slice()))
    }

    /// The parameters as one vector; writing to it changes the model.
    ///
    /// # Panics
    /// If the model was loaded by [`Decoder::by_layer`].
    pub fn flat(&self) -> &Tensor {
        self.numbers.only().expect("a model that stays is one vector")
    }

    pub fn device(&self) -> Device {
        self.place.device
    }

    /// The compute dtype.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How many of the flat vector's first elements have weight decay: the matrices, not biases and
    /// normalisations.
    pub fn decayed(&self) -> i64 {
        self.decayed
    }

    /// `[vocabulary, width]`
    pub fn lm_head(&self) -> &Tensor {
        &self.lm_head
    }

    /// `[1, width]`: the row that maps each last hidden state to a number, where the model has one.
    pub fn scalar_head(&self) -> Option<&Tensor> {
        self.scalar_head.as_ref()
    }

    /// The load of the experts in forward passes ([`Decoder::hidden`], [`Decoder::trace`]) since the last
    /// call; `None` where the model has no experts or no pass was made.
    pub fn take_expert_load(&self) -> Option<ExpertLoad> {
        let counts: Vec<Vec<i64>> = self
            .load
            .borrow_mut()
            .iter_mut()
            .filter_map(Option::take)
            .map(|counts| Vec::try_from(counts).expect("counts are integers in one row"))
            .collect();
        (!counts.is_empty()).then_some(ExpertLoad { counts })
    }

    /// Next-token logits at the batch's completion positions: `[completion tokens, vocabulary]`.
    pub fn logits(&self, batch: &PackedBatch) -> Tensor {
        self.capped_logits(&self.hidden(batch))
    }

    /// The last hidden states, which the LM head reads, at the batch's completion positions: `[completion
    /// tokens, width]`. Without gradient; [`Decoder::trace`] gives the same bits with one.
    pub fn hidden(&self, batch: &PackedBatch) -> Tensor {
        let _guard = no_grad_guard();
        self.normalise_last(&self.pass(batch, |_| {}))
    }

    /// The residual stream after the last layer, where completion tokens are predicted: `[completion tokens,
    /// width]`. `each` gets every layer's [`LayerRead`], from the first layer on.
    pub(super) fn pass(&self, batch: &PackedBatch, mut each: impl FnMut(LayerRead)) -> Tensor {
        let context = self.context(batch);
        self.layers.iter().fold(self.embed(&batch.tokens), |stream, layer| {
            let (answer, read) = self.through_layer(layer, &stream, &context);
            each(read);
            answer
        })
    }

    /// The stream after a layer, and what the layer read.
    pub(super) fn through_layer(
        &self,
        layer: &Layer,
        stream: &Tensor,
        context: &ForwardContext,
    ) -> (Tensor, LayerRead) {
        let (middle, read) = self.attention_block(layer, stream, context);
        (self.mlp_block(layer, &middle).0, read)
    }

    fn is_last(&self, layer: &Layer) -> bool {
        layer.index + 1 == self.config.layers
    }

    pub(super) fn context(&self, batch: &PackedBatch) -> ForwardContext {
        let (length, kind) = (batch.shape[1] as usize, self.kind);
        let rotary = Rotaries::new(&self.config, length, kind, self.device()).at(&batch.positions);
        ForwardContext {
            batch: batch.shallow_clone(),
            rotary_f32: rotary.to_f32(),
            rotary,
            sequence_layout: SequenceLayout::new(self.place, &self.config, kind, batch),
        }
    }

    /// The first half of a layer: the stream, `[tokens, width]`, plus the output of attention or of the gated
    /// delta rule; and what was read. The last layer returns only positions that predict a completion token:
    /// after it, no token reads the others.
    pub(super) fn attention_block(
        &self,
        layer: &Layer,
        stream: &Tensor,
        context: &ForwardContext,
    ) -> (Tensor, LayerRead) {
        let batch = &context.batch;
        let normed = self.normalise(stream, &layer.norm_attention);
        let last = self.is_last(layer);
        if let Some(attention) = self.packed_attention(layer) {
            let (answer, kept) = attention.forward(&normed, &self.places(layer, attention.kind, context));
            let carried =
                if last { stream.index_select(0, &batch.predictors) } else { stream.shallow_clone() };
            return ((answer + carried).to_kind(stream.kind()), LayerRead::Own(kept));
        }
        let (attended, read) = match &layer.mixer {
            Mixer::Attention(weights) => self.attention(weights, &normed, context, last),
            Mixer::GatedDelta(weights) => self.gated_delta(weights, &normed, batch, last),
            Mixer::ShortConv(weights) => self.short_conv(weights, &normed, batch, last),
        };
        let attended = self.after(layer.output.apply(&attended), layer.after_attention.as_ref());
        // Never in place: the backward pass reads what the normalisations read.
        let answer = if last { gather(stream, &batch.predictors) + attended } else { stream + attended };
        (answer, read)
    }

    /// A layer's attention, where our own loops can run it.
    pub(super) fn packed_attention<'a>(&'a self, layer: &'a Layer) -> Option<PackedAttention<'a>> {
        if !self.config.runs_on(FastPath::PackedAttention) {
            return None;
        }
        let weights = layer.mixer.attention()?;
        let head_norm = weights.query_key_norm.as_ref().map(|scales| self.scale(scales).detach());
        PackedAttention::new(self.place.loops()?, &self.config, weights, &layer.output, head_norm)
    }

    /// The sequences and positions of a batch for a layer's attention.
    pub(super) fn places<'a>(
        &self,
        layer: &Layer,
        kind: &LayerAttention,
        context: &'a ForwardContext,
    ) -> BatchPlaces<'a> {
        BatchPlaces {
            sequences: &context.batch.sequences,
            rotary: context.rotary_f32.of(kind),
            answered: self.is_last(layer).then_some(&context.batch.predictors),
        }
    }

    /// The second half of a layer: the stream plus the output of experts or of the gated unit; and the
    /// activations that our own loops saved for the backward pass.
    pub(super) fn mlp_block(&self, layer: &Layer, stream: &Tensor) -> (Tensor, Option<SavedForBackward>) {
        let normed = self.normalise(stream, &layer.norm_feed_forward);
        if let Some(unit) = self.unit(layer) {
            let (answer, kept) = unit.forward(&normed);
            return ((answer + stream).to_kind(stream.kind()), Some(kept));
        }
        let (answer, counts) =
            layer.feed_forward.train(&normed, self.config.activation, self.config.experts.as_ref());
        self.count(layer.index, counts);
        (stream + self.after(answer, layer.after_feed_forward.as_ref()), None)
    }

    /// A layer's gated unit, where our own loops can run it.
    pub(super) fn unit<'a>(&'a self, layer: &'a Layer) -> Option<GatedUnit<'a>> {
        if !self.config.runs_on(FastPath::GatedUnit) {
            return None;
        }
        GatedUnit::new(self.place.loops()?, &layer.feed_forward, self.config.activation)
    }

    /// Whether our own loops save all activations that the gradient reads, so that generation can save them.
    pub fn saves_activations(&self) -> bool {
        let all = |layer| self.packed_attention(layer).is_some() && self.unit(layer).is_some();
        self.second_head.is_none() && self.layers.iter().all(all)
    }

    /// Runs something without counting the tokens of experts.
    pub fn uncounted<T>(&self, run: impl FnOnce() -> T) -> T {
        let counts = self.load.take();
        self.load.replace(counts.iter().map(|_| None).collect());
        let answer = run();
        self.load.replace(counts);
        answer
    }

    /// Adds to the number of tokens of each expert.
    fn count(&self, index: usize, counts: Option<Tensor>) {
        if let Some(counts) = counts {
            let sum = &mut self.load.borrow_mut()[index];
            *sum = Some(match sum.take() {
                Some(before) => before + counts,
                None => counts,
            });
        }
    }

    /// The factor of embeddings.
    pub(super) fn embedding_scale(&self) -> f64 {
        self.config.embedding_scale.value(self.kind == Kind::BFloat16)
    }

    /// The stream before the first layer: `[tokens]` to `[tokens, width]`.
    pub(super) fn embed(&self, tokens: &Tensor) -> Tensor {
        let stream = gather(&self.embedding, tokens);
        match self.embedding_scale() {
            1.0 => stream,
            scale => stream * scale,
        }
    }

    /// Logits of the next token from the stream after the last layer.
    pub(super) fn project_vocabulary(&self, stream: &Tensor) -> Tensor {
        self.capped_logits(&self.normalise_last(stream))
    }

    /// Logits from last hidden states.
    pub fn capped_logits(&self, hidden: &Tensor) -> Tensor {
        logits(self.place, hidden, &self.lm_head, self.config.logit_softcap)
    }

    pub(super) fn normalise(&self, stream: &Tensor, scale: &Tensor) -> Tensor {
        let scale = self.scale(scale);
        let normed = |stream: &Tensor| {
            stream.rms_norm([self.config.width as i64], Some(&scale), self.config.norm.epsilon)
        };
        if scale.kind() == stream.kind() {
            normed(stream)
        } else {
            normed(&stream.to_kind(scale.kind())).to_kind(stream.kind())
        }
    }

    /// The last hidden states, which the LM head reads, from the stream after the last layer.
    pub(super) fn normalise_last(&self, stream: &Tensor) -> Tensor {
        let normed = self.normalise(stream, &self.norm);
        match self.config.logit_scale {
            1.0 => normed,
            scale => normed * scale,
        }
    }

    /// The output of attention or feed-forward, normalised where `scale` is given, before it is added.
    pub(super) fn after(&self, answer: Tensor, scale: Option<&Tensor>) -> Tensor {
        match scale {
            Some(scale) => self.normalise(&answer, scale),
            None => answer,
        }
    }

    /// The scale that a normalisation multiplies with. Where it is stored as a distance from 1, the sum is in
    /// single precision, not rounded to half.
    pub(super) fn scale(&self, stored: &Tensor) -> Tensor {
        match self.config.norm.offset {
            0.0 => stored.shallow_clone(),
            offset if stored.kind() == Kind::BFloat16 => stored.to_kind(Kind::Float) + offset,
            offset => stored + offset,
        }
    }
}

/// Next-token logits, `[rows, vocabulary]`, from last hidden states, `[rows, width]`, and the LM head,
/// `[vocabulary, width]`. In single precision where these are in half: rounding logits to half would change
/// them by more than many divergences, and sampling would differ from training.
pub fn logits(place: Place, hidden: &Tensor, matrix: &Tensor, softcap: Option<f64>) -> Tensor {
    let logits = match hidden.kind() {
        Kind::BFloat16 => place.multiply(hidden, &matrix.tr()),
        _ => hidden.linear::<&Tensor>(matrix, None),
    };
    cap(logits, softcap)
}

/// Rows of a matrix, as an embedding: of all operators that gather rows, it has the fastest backward pass on
/// the CPU.
pub(super) fn gather(matrix: &Tensor, rows: &Tensor) -> Tensor {
    Tensor::embedding(matrix, rows, -1, false, false)
}
