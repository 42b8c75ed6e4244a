//! The forward pass with saved activations, and the backward pass.
//!
//! A layer has two halves, each in our own loops or in its own libtorch graph. Gradients are written to their
//! place as soon as they are computed, and a layer's activations are freed before the gradients of the layers
//! below are computed. Some layers save only their input and are recomputed (checkpointing,
//! arXiv:1604.06174), which trades memory for one more forward pass of theirs.

mod generated;

use std::ops::Range;

use gated::UnitMatrix;
use tch::{Kind, Tensor, no_grad_guard};

use super::decoder::{Decoder, ForwardContext};
use super::gradient::Gradient;
use super::lm_head_grad::{HeadGrads, LmHeadGrad};
use super::loops::Normalised;
use super::packed_batch::PackedBatch;
use super::parameters::{Layer, LayerBlock, ParameterLeaf};
use super::second_head::SecondHeadGrad;
use super::{gated, packed_attention};
pub use generated::GeneratedActivations;
use mopd_kernels::Cpu;
use mopd_kernels::tensor::multiply;
use packed_attention::AttentionMatrix;

pub struct SavedActivations {
    /// The result of [`Decoder::hidden`], without gradient.
    pub hidden: Tensor,
    context: ForwardContext,
    layers: Vec<SavedLayer>,
    /// The normalisation after the layers.
    last: Graph,
}

enum SavedLayer {
    Kept(LayerActivations),
    /// The layer's input.
    Recomputed(Tensor),
}

/// The saved activations of one layer.
struct LayerActivations {
    stream: Tensor,
    attention: Tape<packed_attention::SavedForBackward>,
    /// The stream between the halves.
    middle: Tensor,
    feed_forward: Tape<gated::SavedForBackward>,
}

/// The tape of half a layer: what our own loops saved, or a graph of libtorch's operators.
enum Tape<Saved> {
    Own(Saved),
    Graph(Graph),
}

impl<Saved> Tape<Saved> {
    /// Runs half a layer; returns its tape and output. With `own`, `run` must return saved activations.
    fn new(
        own: bool,
        input: &Tensor,
        run: impl FnOnce(&Tensor) -> (Tensor, Option<Saved>),
    ) -> (Tape<Saved>, Tensor) {
        if own {
            let _guard = no_grad_guard();
            let (answer, kept) = run(input);
            return (Tape::Own(kept.expect("our own loops keep something")), answer);
        }
        let graph = Graph::new(input, |input| run(input).0);
        let answer = graph.output.detach();
        (Tape::Graph(graph), answer)
    }
}

/// A part of the forward pass as an autograd graph.
struct Graph {
    input: Tensor,
    output: Tensor,
}

impl Graph {
    /// Records `run`, which must depend on no other differentiable tensors than its input and parameters.
    fn new(input: &Tensor, run: impl FnOnce(&Tensor) -> Tensor) -> Graph {
        let input = input.detach().set_requires_grad(true);
        let output = run(&input);
        Graph { input, output }
    }
}

/// d loss / d parameters during the backward pass.
struct WrittenGradient<'a> {
    decoder: &'a Decoder,
    gradient: &'a mut Gradient,
    /// By leaf, whether its gradient was written.
    written: Vec<bool>,
}

impl WrittenGradient<'_> {
    fn leaf_of(&self, parameter: &Tensor) -> usize {
        let found =
            self.decoder.leaves.iter().position(|leaf| leaf.tensor.data_ptr() == parameter.data_ptr());
        found.expect("what is asked for is a parameter")
    }

    fn wants(&self, leaf: usize) -> bool {
        let ParameterLeaf { offset, tensor, .. } = &self.decoder.leaves[leaf];
        self.gradient.wants(*offset..offset + tensor.numel())
    }

    fn wants_of(&self, parameter: &Tensor) -> bool {
        self.wants(self.leaf_of(parameter))
    }

    /// The lowest layer that the backward pass must reach: the first with trained parameters, or layer 0 if
    /// the embedding is trained. `None` if neither is.
    fn lowest_layer(&self) -> Option<usize> {
        if self.wants_of(&self.decoder.embedding) {
            return Some(0);
        }
        let leaves = self.decoder.leaves.iter().enumerate().filter(|(leaf, _)| self.wants(*leaf));
        let layers = leaves.filter_map(|(_, ParameterLeaf { reader, .. })| match reader {
            LayerBlock::Outside => None,
            LayerBlock::Attention(index) | LayerBlock::FeedForward(index) => Some(*index),
        });
        layers.min()
    }

    fn write(&mut self, leaf: usize, gradient: &Tensor) {
        if self.wants(leaf) {
            self.gradient.write_parameters(self.decoder.leaves[leaf].offset, gradient);
            self.written[leaf] = true;
        }
    }

    /// Writes the gradient of matrices in one product, `x * [one, other]'`: from d loss / d its output,
    /// `[tokens, outputs]`, and its input, `[tokens, inputs]`.
    fn write_product(&mut self, matrices: &[&Tensor], grad_output: &Tensor, input: &Tensor) {
        let leaves: Vec<usize> = matrices.iter().map(|matrix| self.leaf_of(matrix)).collect();
        if !leaves.iter().any(|leaf| self.wants(*leaf)) {
            return;
        }
        let whole = !self.gradient.follows_products();
        let whole = whole.then(|| multiply(&grad_output.tr(), input));
        let mut first = 0;
        for (leaf, matrix) in leaves.into_iter().zip(matrices) {
            let outputs = matrix.size()[0];
            match &whole {
                Some(whole) => self.write(leaf, &whole.narrow(0, first, outputs)),
                None if self.wants(leaf) => {
                    let (offset, grad) =
                        (self.decoder.leaves[leaf].offset, grad_output.narrow(1, first, outputs));
                    self.gradient.write_product(offset, &grad, input);
                    self.written[leaf] = true;
                }
                None => {}
            }
            first += outputs;
        }
        assert_eq!(first, grad_output.size()[1], "a product of these matrices");
    }

    /// Writes the gradient of a leaf `[count, width]`, some rows at a time.
    fn write_rows(&mut self, leaf: usize, rows: impl Fn(Range<i64>) -> Tensor) {
        if !self.wants(leaf) {
            return;
        }
        let ParameterLeaf { offset, tensor, .. } = &self.decoder.leaves[leaf];
        let [count, width] = tensor.size()[..] else { unreachable!("it is a matrix") };
        let step = (self.decoder.place.sizes.matrix_rows / width.max(1)).max(1);
        for first in (0..count).step_by(step as usize) {
            let rows = rows(first..(first + step).min(count));
            self.gradient.write_parameters(offset + (first * width) as usize, &rows);
        }
        self.written[leaf] = true;
    }

    /// Backward through a graph, from d loss / d output: returns d loss / d input, and writes the gradients
    /// of leaves for which `of` holds and that have none yet.
    fn through(&mut self, graph: &Graph, grad_output: &Tensor, of: impl Fn(usize) -> bool) -> Tensor {
        let leaves: Vec<usize> = (0..self.written.len())
            .filter(|leaf| of(*leaf) && self.wants(*leaf) && !self.written[*leaf])
            .collect();
        let wanted: Vec<&Tensor> =
            leaves.iter().map(|leaf| &self.decoder.leaves[*leaf].tensor).chain([&graph.input]).collect();
        // The bindings only differentiate scalars: this one's gradient at the output is `grad_output`.
        let number = (&graph.output * grad_output).sum(None::<Kind>);
        let mut found = Tensor::run_backward(&[number], &wanted, false, false);
        let by_input = found.pop().expect("the input is the last that is asked for");
        for (leaf, gradient) in leaves.into_iter().zip(found) {
            self.write(leaf, &gradient);
        }
        by_input
    }
}

impl Decoder {
    /// The forward pass; the backward pass recomputes the first `recomputed` layers.
    pub fn trace(&self, batch: &PackedBatch, recomputed: usize) -> SavedActivations {
        let context = self.context(batch);
        let mut layers = Vec::with_capacity(self.layers.len());
        let mut stream = {
            let _guard = no_grad_guard();
            self.embed(&batch.tokens)
        };
        for layer in &self.layers {
            let (saved, answer) = if layer.index < recomputed {
                let _guard = no_grad_guard();
                let middle = self.attention_block(layer, &stream, &context).0;
                (SavedLayer::Recomputed(stream), self.mlp_block(layer, &middle).0)
            } else {
                let (whole, answer) = self.whole(layer, &stream, &context);
                (SavedLayer::Kept(whole), answer)
            };
            layers.push(saved);
            stream = answer;
        }
        let last = Graph::new(&stream, |stream| self.normalise_last(stream));
        SavedActivations { hidden: last.output.detach(), context, layers, last }
    }

    /// Runs one layer; returns the activations that its gradient needs, and its output.
    fn whole(&self, layer: &Layer, stream: &Tensor, context: &ForwardContext) -> (LayerActivations, Tensor) {
        let run = |stream: &Tensor| {
            let (answer, read) = self.attention_block(layer, stream, context);
            (answer, read.saved_for_backward())
        };
        let (attention, middle) = Tape::new(self.packed_attention(layer).is_some(), stream, run);
        let run = |middle: &Tensor| self.mlp_block(layer, middle);
        let (feed_forward, answer) = Tape::new(self.unit(layer).is_some(), &middle, run);
        (LayerActivations { stream: stream.shallow_clone(), attention, middle, feed_forward }, answer)
    }

    /// d loss / d all parameters, by [`Decoder::write_gradient`].
    #[cfg(test)]
    pub fn gradient_of(&self, trace: SavedActivations, grad_hidden: &Tensor, heads: HeadGrads) -> Gradient {
        let mut gradient = Gradient::zero(self.flat().numel(), self.kind(), self.place);
        self.write_gradient(trace, grad_hidden, heads, &mut gradient);
        gradient
    }

    /// Whether the gradient includes the LM head.
    pub fn lm_head_is_in(&self, gradient: &Gradient) -> bool {
        let of_lm_head = |leaf: &&ParameterLeaf| leaf.tensor.data_ptr() == self.lm_head.data_ptr();
        let ParameterLeaf { offset, tensor, .. } =
            self.leaves.iter().find(of_lm_head).expect("it is a parameter");
        gradient.wants(*offset..offset + tensor.numel())
    }

    /// Writes or adds d loss / d parameters to `gradient`. Its bits do not depend on the number of recomputed
    /// layers. `grad_hidden` is d loss / d hidden; `heads` are the gradients of the heads that read them.
    /// Nothing is computed for parameters whose gradient is not needed: no products of theirs, and no layer
    /// below the lowest trained one.
    pub fn write_gradient(
        &self,
        trace: SavedActivations,
        grad_hidden: &Tensor,
        heads: HeadGrads,
        gradient: &mut Gradient,
    ) {
        let SavedActivations { hidden, context, layers, last } = trace;
        drop(hidden);
        let mut gradient =
            WrittenGradient { decoder: self, gradient, written: self.leaves.iter().map(|_| false).collect() };
        let norm = gradient.leaf_of(&self.norm);
        let mut grad_stream = gradient.through(&last, grad_hidden, |leaf| leaf == norm);
        drop(last);
        let lowest = gradient.lowest_layer();
        for (index, layer) in layers.into_iter().enumerate().rev() {
            if lowest.is_none_or(|lowest| index < lowest) {
                break;
            }
            let LayerActivations { stream, attention, middle, feed_forward } = match layer {
                SavedLayer::Kept(whole) => whole,
                SavedLayer::Recomputed(stream) => self.recompute(index, &stream, &context),
            };
            grad_stream = match feed_forward {
                Tape::Own(kept) => self.through_unit(index, kept, &middle, &grad_stream, &mut gradient),
                Tape::Graph(graph) => gradient.through(&graph, &grad_stream, |leaf| {
                    self.leaves[leaf].reader == LayerBlock::FeedForward(index)
                }),
            };
            drop(middle);
            grad_stream = match attention {
                Tape::Own(kept) => {
                    self.through_attention(index, kept, &stream, &context, &grad_stream, &mut gradient)
                }
                Tape::Graph(graph) => gradient.through(&graph, &grad_stream, |leaf| {
                    self.leaves[leaf].reader == LayerBlock::Attention(index)
                }),
            };
        }
        if let Some(head) = &self.scalar_head {
            let zeros = || head.detach().zeros_like();
            gradient.write(gradient.leaf_of(head), &heads.scalar.unwrap_or_else(zeros));
        }
        let mut read = (context.batch.tokens.shallow_clone(), grad_stream);
        if let Some(head) = &self.second_head {
            let grads = heads.second.as_ref().map(|grads| &grads.matrices);
            for (index, matrix) in head.matrices().into_iter().enumerate() {
                let zeros = || matrix.detach().zeros_like();
                let grad = grads.map_or_else(zeros, |grads| grads[index].shallow_clone());
                gradient.write(gradient.leaf_of(matrix), &grad);
            }
            if let Some(SecondHeadGrad { tokens, read: grad, .. }) = &heads.second {
                // The second head reads the embedding like the layers.
                let of_layers = read.1.to_kind(grad.kind());
                read = (Tensor::cat(&[&read.0, tokens], 0), Tensor::cat(&[&of_layers, grad], 0));
            }
        }
        self.read_and_projected(&read.0, &read.1, heads.lm_head, &mut gradient);
        assert!(
            (0..self.leaves.len()).all(|leaf| gradient.written[leaf] || !gradient.wants(leaf)),
            "every parameter is read by a layer or by the loss"
        );
    }

    /// Recomputes a layer's activations. Its experts were counted in the forward pass.
    fn recompute(&self, index: usize, stream: &Tensor, context: &ForwardContext) -> LayerActivations {
        self.uncounted(|| self.whole(&self.layers[index], stream, context).0)
    }

    fn through_attention(
        &self,
        index: usize,
        kept: packed_attention::SavedForBackward,
        stream: &Tensor,
        context: &ForwardContext,
        grad_answer: &Tensor,
        gradient: &mut WrittenGradient,
    ) -> Tensor {
        let _guard = no_grad_guard();
        let layer = &self.layers[index];
        let attention = self.packed_attention(layer).expect("it kept something");
        let weights = layer.mixer.attention().expect("it kept something");
        let (query_key, value) = (&weights.query_key, &weights.value);
        let of_matrix = |matrix, grad_output: &Tensor, input: &Tensor| {
            let matrices: &[&Tensor] = match matrix {
                AttentionMatrix::QueryKeyValue => &[&query_key.weight, &value.weight],
                AttentionMatrix::Output => &[&layer.output.weight],
            };
            gradient.write_product(matrices, grad_output, input);
        };
        let by = self.normalised(attention.cpu, stream, &layer.norm_attention, |before| {
            attention.backward(
                kept,
                &self.places(layer, attention.kind, context),
                before,
                grad_answer,
                of_matrix,
            )
        });
        let mut write = |parameter: &Tensor, by: &Tensor| gradient.write(gradient.leaf_of(parameter), by);
        write(&layer.norm_attention, &by.norm);
        if let (Some(query_key), Some(value), Some(by)) =
            (&query_key.bias, &value.bias, &by.query_key_value_bias)
        {
            let rotated = query_key.size()[0];
            write(query_key, &by.narrow(0, 0, rotated));
            write(value, &by.narrow(0, rotated, by.size()[0] - rotated));
        }
        if let (Some(output), Some(by)) = (&layer.output.bias, &by.output_bias) {
            write(output, by);
        }
        if let (Some(scales), Some(by)) = (&weights.query_key_norm, &by.head_norm) {
            write(scales, by);
        }
        by.stream
    }

    fn through_unit(
        &self,
        index: usize,
        kept: gated::SavedForBackward,
        middle: &Tensor,
        grad_answer: &Tensor,
        gradient: &mut WrittenGradient,
    ) -> Tensor {
        let _guard = no_grad_guard();
        let layer = &self.layers[index];
        let unit = self.unit(layer).expect("it kept something");
        let [gate, up, down] = layer.feed_forward.matrices().expect("a unit has them");
        let of_matrix = |matrix, grad_output: &Tensor, input: &Tensor| {
            let matrices: &[&Tensor] = match matrix {
                UnitMatrix::GateUp => &[gate, up],
                UnitMatrix::Down => &[down],
            };
            gradient.write_product(matrices, grad_output, input);
        };
        let by = self.normalised(unit.cpu, middle, &layer.norm_feed_forward, |before| {
            unit.backward(kept, before, grad_answer, of_matrix)
        });
        gradient.write(gradient.leaf_of(&layer.norm_feed_forward), &by.norm);
        by.stream
    }

    /// Recomputes the normalisation before half a layer.
    fn normalised<R>(
        &self,
        cpu: Cpu,
        stream: &Tensor,
        scale: &Tensor,
        run: impl FnOnce(&Normalised) -> R,
    ) -> R {
        let normed = self.normalise(stream, scale);
        run(&Normalised {
            cpu,
            stream,
            normed: &normed,
            scale: &self.scale(scale),
            epsilon: self.config.norm.epsilon,
        })
    }

    /// Writes the gradients of the embedding, read before the first layer, and of the LM head, read by the
    /// loss. One parameter may be both.
    fn read_and_projected(
        &self,
        tokens: &Tensor,
        grad_stream: &Tensor,
        grad_lm_head: Option<LmHeadGrad>,
        gradient: &mut WrittenGradient,
    ) {
        let _guard = no_grad_guard();
        let wide = if grad_stream.kind() == Kind::Double { Kind::Double } else { Kind::Float };
        let grad_tokens = grad_stream.to_kind(wide) * self.embedding_scale();
        let nothing = LmHeadGrad::zero(&self.lm_head, self.place);
        let grad_lm_head = grad_lm_head.as_ref().unwrap_or(&nothing);
        // d loss / d embedding, added to rows of it.
        let read = |range: Range<i64>, mut rows: Tensor| {
            let here = tokens.ge(range.start).logical_and(&tokens.lt(range.end)).nonzero().squeeze_dim(1);
            rows.index_add_(
                0,
                &(tokens.index_select(0, &here) - range.start),
                &grad_tokens.index_select(0, &here),
            )
        };
        let (embedding, lm_head) = (gradient.leaf_of(&self.embedding), gradient.leaf_of(&self.lm_head));
        if embedding == lm_head {
            return gradient.write_rows(lm_head, |range| read(range.clone(), grad_lm_head.rows(range)));
        }
        gradient.write_rows(lm_head, |range| grad_lm_head.rows(range));
        gradient.write_rows(embedding, |range| read(range.clone(), nothing.rows(range)));
    }
}
