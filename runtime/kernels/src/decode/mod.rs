//! A whole decoder as loops: one step of generation for every row, or the prefill of short prompts.
//!
//! A step multiplies a few rows with all matrices, so that reading the weights bounds its time. A call of a
//! libtorch operator costs more than many of these products, so the whole step is one parallel section
//! ([`pass`]). Activations are f32, also where weights are bf16.
//!
//! Training and long prefills use another definition of the same decoder, by libtorch's operators and
//! differentiable loops; `book/src/decisions/decoder-definitions.md` says why there are three and which tests
//! keep them equal.

mod attention;
mod mlp;
mod pass;
pub mod saved;
mod weights;

use half::bf16;

use self::pass::Pass;
use self::saved::SavedPass;
pub use self::weights::{Gated, LayerWeights, LinearWeights, Mlp, Tables, WeightMatrix};
use crate::Cpu;
use crate::functions::Activation;
use crate::gemv::Matrix;
use crate::lines::Lines;
use crate::pages::{PageLayout, PagedSequence, Pages};
use crate::thread_pool::DisjointSlices;

/// Outputs of a matrix per chunk of work: enough to read the weights at full memory bandwidth.
const PIECE: usize = 96;
/// The same for the LM head, the largest matrix.
const WIDE_PIECE: usize = 8 * PIECE;

/// Sizes and constants of a decoder.
#[derive(Clone, Debug)]
pub struct Shape {
    pub layers: usize,
    pub width: usize,
    /// Inner width of the plain feed-forward blocks.
    pub intermediate_size: usize,
    pub vocabulary: usize,
    pub heads: usize,
    pub key_value_heads: usize,
    pub head_dim: usize,
    /// `None` where no layer has experts.
    pub experts: Option<ExpertsShape>,
    pub activation: Activation,
    pub attention_scale: f64,
    pub attention_softcap: Option<f64>,
    pub logit_softcap: Option<f64>,
    /// Factor of embeddings.
    pub embedding_scale: f32,
    /// RMSNorm's epsilon.
    pub epsilon: f64,
}

#[derive(Clone, Copy, Debug)]
pub struct ExpertsShape {
    pub intermediate_size: usize,
    pub per_token: usize,
}

impl Shape {
    /// The layout of pages whose numbers have `element` bytes.
    pub fn page_layout(&self, element: usize) -> PageLayout {
        PageLayout::new(self.layers, self.key_value_heads, self.head_dim, element)
    }
}

/// The weights of a decoder, as a step reads them.
pub struct DecoderWeights {
    pub embedding: WeightMatrix,
    pub lm_head: LinearWeights,
    /// The final norm, after the layers.
    pub norm: Vec<f32>,
    pub layers: Vec<LayerWeights>,
    /// `[positions, head width]` each.
    pub tables: Vec<Tables>,
}

/// Consecutive tokens of a sequence that are processed in one pass.
pub struct SequencePart<'a> {
    pub sequence: &'a mut PagedSequence,
    /// Position of the first of them. Earlier tokens have been processed.
    pub start: usize,
    /// At least one.
    pub tokens: &'a [i64],
    /// Whether to compute the logits of the next token.
    pub predicts: bool,
}

/// A decoder that runs one step at a time.
pub struct StepDecoder {
    cpu: Cpu,
    shape: Shape,
    weights: DecoderWeights,
    buffers: Buffers,
}

impl StepDecoder {
    pub fn new(cpu: Cpu, shape: Shape, weights: DecoderWeights) -> StepDecoder {
        assert_eq!(weights.layers.len(), shape.layers, "weights of another decoder");
        StepDecoder { cpu, shape, weights, buffers: Buffers::default() }
    }

    /// Appends one token to every row, and writes the logits of the next one, `[rows, vocabulary]`, to
    /// `logits`. Activations for training are saved where `saved` is given.
    pub fn step(
        &mut self,
        tokens: &[i64],
        pages: &mut Pages,
        sequences: Vec<&mut PagedSequence>,
        logits: &mut Vec<f32>,
        saved: Option<&mut SavedPass>,
    ) {
        assert_eq!(sequences.len(), tokens.len(), "every row has pages");
        logits.resize(tokens.len() * self.shape.vocabulary, 0.0);
        let parts = sequences.into_iter().zip(tokens.chunks(1)).map(|(sequence, tokens)| {
            let start = sequence.length().checked_sub(1).expect("a row has a token");
            SequencePart { sequence, start, tokens, predicts: true }
        });
        self.pass(parts.collect(), pages, logits, saved);
    }

    /// Processes consecutive tokens of some sequences, which have room for them. A token's outputs depend, to
    /// the bit, only on the tokens up to it: not on other sequences, nor on how its own sequence is split
    /// into passes. Writes the logits after the last token of each part that predicts, in the order of the
    /// parts, to `logits`. Activations for training, in the order of the parts, are saved where `saved` is
    /// given.
    pub fn pass(
        &mut self,
        parts: Vec<SequencePart>,
        pages: &mut Pages,
        logits: &mut [f32],
        saved: Option<&mut SavedPass>,
    ) {
        let mut buffers = std::mem::take(&mut self.buffers);
        let shape = &self.shape;
        let tokens: Vec<i64> = parts.iter().flat_map(|part| part.tokens).copied().collect();
        let rows = tokens.len();
        let ends = parts.iter().scan(0, |end, part| {
            *end += part.tokens.len();
            Some((*end, part.predicts))
        });
        let predicted: Vec<usize> = ends.filter(|(_, predicts)| *predicts).map(|(end, _)| end - 1).collect();
        assert_eq!(logits.len(), predicted.len() * shape.vocabulary, "logits of other rows");
        assert!(saved.as_ref().is_none_or(|saved| saved.tokens() == rows), "activations of other rows");
        let is_bf16 = matches!(self.weights.embedding, WeightMatrix::Bf16(_));
        let element = if is_bf16 { size_of::<bf16>() } else { size_of::<f32>() };
        assert!(pages.layout() == shape.page_layout(element), "pages of another decoder");
        let inner = match &shape.experts {
            Some(experts) => experts.intermediate_size.max(shape.intermediate_size),
            None => shape.intermediate_size,
        };
        buffers.fit(shape, rows, inner, is_bf16);
        for (token, row) in tokens.iter().zip(buffers.stream.chunks_exact_mut(shape.width)) {
            self.embed(*token as usize, shape.embedding_scale, row);
        }
        let places = parts
            .into_iter()
            .map(|SequencePart { sequence, start, tokens, .. }| (sequence, start..start + tokens.len()));
        let pass = Pass {
            decoder: self,
            rows,
            predicted: &predicted,
            pages: pages.rows(places),
            is_bf16,
            inner,
            stream: DisjointSlices::new(&mut buffers.stream),
            projected: DisjointSlices::new(&mut buffers.projected),
            attended: DisjointSlices::new(&mut buffers.attended),
            attended_bf16: DisjointSlices::new(&mut buffers.attended_bf16),
            gate: DisjointSlices::new(&mut buffers.gate),
            gate_bf16: DisjointSlices::new(&mut buffers.gate_bf16),
            up: DisjointSlices::new(&mut buffers.up),
            branch: DisjointSlices::new(&mut buffers.branch),
            logits: DisjointSlices::new(logits),
            saved: saved.map(SavedPass::slots),
        };
        self.cpu.parallel(|worker| pass.work(&worker));
        if let Some(cap) = shape.logit_softcap {
            for logit in logits {
                *logit = (f64::from(*logit) / cap).tanh() as f32 * cap as f32;
            }
        }
        self.buffers = buffers;
    }

    fn embed(&self, token: usize, scale: f32, to: &mut [f32]) {
        let range = token * to.len()..(token + 1) * to.len();
        match self.weights.embedding.matrix() {
            Matrix::F32(values) => to.copy_from_slice(&values[range]),
            Matrix::Bf16(values) => {
                to.iter_mut().zip(&values[range]).for_each(|(to, value)| *to = value.to_f32())
            }
        }
        if scale != 1.0 {
            to.iter_mut().for_each(|value| *value *= scale);
        }
    }
}

/// Activations of a step, `[rows, ...]`. The buffers are reused between steps, because new memory has to be
/// cleared first.
#[derive(Default)]
struct Buffers {
    stream: Lines<f32>,
    projected: Lines<f32>,
    attended: Lines<f32>,
    attended_bf16: Lines<bf16>,
    gate: Lines<f32>,
    gate_bf16: Lines<bf16>,
    up: Lines<f32>,
    branch: Lines<f32>,
}

impl Buffers {
    fn fit(&mut self, shape: &Shape, rows: usize, inner: usize, is_bf16: bool) {
        let heads = shape.heads * shape.head_dim;
        let slots = shape.experts.as_ref().map_or(1, |experts| experts.per_token);
        let f32 = |buffer: &mut Lines<f32>, width: usize| buffer.resize(rows * width);
        let bf16 =
            |buffer: &mut Lines<bf16>, width: usize| buffer.resize(if is_bf16 { rows * width } else { 0 });
        f32(&mut self.stream, shape.width);
        f32(&mut self.projected, heads + 2 * shape.key_value_heads * shape.head_dim);
        f32(&mut self.attended, heads);
        bf16(&mut self.attended_bf16, heads);
        f32(&mut self.gate, slots * inner);
        bf16(&mut self.gate_bf16, slots * inner);
        f32(&mut self.up, slots * inner);
        f32(&mut self.branch, slots * shape.width);
    }
}
