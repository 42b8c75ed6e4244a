//! A forward pass that a gradient can be taken of, and the backward pass.
//!
//! Every layer has a graph of its own, from what it read to what it answered, and its gradients are written to their place as soon as
//! they are there: what one layer kept leaves before the gradients of the layers below come. Some layers keep nothing but what they
//! read, and are run again (arXiv:1604.06174): memory for their activations becomes time for one more forward pass of theirs.

use tch::{Kind, Tensor, no_grad_guard};

use super::decoder::{Context, Decoder, PackedBatch};
use super::gated::Kept;

pub struct Trace {
    /// What [`Decoder::hidden`] answers, without gradient.
    pub hidden: Tensor,
    context: Context,
    layers: Vec<Layer>,
    /// The normalisation behind the layers.
    last: Graph,
}

enum Layer {
    Kept(Whole),
    /// What it read.
    Again(Tensor),
}

/// What one layer kept.
struct Whole {
    graph: Graph,
    /// Of a gated unit with loops of our own, which read what the graph answered; without one the graph goes through the layer.
    unit: Option<Kept>,
}

/// A part of the forward pass.
struct Graph {
    input: Tensor,
    output: Tensor,
}

impl Graph {
    /// `run` may begin with its input only.
    fn new(input: &Tensor, run: impl FnOnce(&Tensor) -> Tensor) -> Graph {
        let input = input.detach().set_requires_grad(true);
        let output = run(&input);
        Graph { input, output }
    }
}

/// d loss / d parameters, in the order of the flat vector, as far as it is known.
struct Gradient<'a> {
    decoder: &'a Decoder,
    flat: Tensor,
    written: Vec<bool>,
}

impl Gradient<'_> {
    fn leaf_of(&self, parameter: &Tensor) -> usize {
        let found = self.decoder.leaves.iter().position(|leaf| leaf.tensor.data_ptr() == parameter.data_ptr());
        found.expect("what is asked for is a parameter")
    }

    fn place(&self, leaf: usize) -> Tensor {
        let leaf = &self.decoder.leaves[leaf];
        self.flat.narrow(0, leaf.offset as i64, leaf.tensor.numel() as i64).view_as(&leaf.tensor)
    }

    fn write(&mut self, leaf: usize, gradient: &Tensor) {
        self.place(leaf).copy_(gradient);
        self.written[leaf] = true;
    }

    /// From d loss / d the graph's output: d loss / d its input, and of the leaves that `of` names and that have none yet.
    fn through(&mut self, graph: &Graph, by_output: &Tensor, of: impl Fn(usize) -> bool) -> Tensor {
        let leaves: Vec<usize> = (0..self.written.len()).filter(|leaf| of(*leaf) && !self.written[*leaf]).collect();
        let wanted: Vec<&Tensor> = leaves.iter().map(|leaf| &self.decoder.leaves[*leaf].tensor).chain([&graph.input]).collect();
        // The bindings start a backward pass from a number: this one has the gradient that is asked for.
        let number = (&graph.output * by_output).sum(None::<Kind>);
        let mut found = Tensor::run_backward(&[number], &wanted, false, false);
        let by_input = found.pop().expect("the input is the last that is asked for");
        for (leaf, gradient) in leaves.into_iter().zip(found) {
            self.write(leaf, &gradient);
        }
        by_input
    }
}

impl Decoder {
    /// Runs forward; the first `recomputed` layers are run again for the gradient.
    pub fn trace(&self, batch: &PackedBatch, recomputed: usize) -> Trace {
        let context = self.context(batch);
        let mut layers = Vec::with_capacity(self.layers.len());
        let mut stream = {
            let _guard = no_grad_guard();
            self.embed(&batch.tokens)
        };
        for index in 0..self.layers.len() {
            let (layer, answer) = if index < recomputed {
                let _guard = no_grad_guard();
                let middle = self.attended(index, &stream, &context);
                (Layer::Again(stream), self.fed_forward(index, &middle).0)
            } else {
                let (whole, answer) = self.whole(index, &stream, &context);
                (Layer::Kept(whole), answer)
            };
            layers.push(layer);
            stream = answer;
        }
        let last = Graph::new(&stream, |stream| self.normalise(stream, &self.norm));
        Trace { hidden: last.output.detach(), context, layers, last }
    }

    /// One layer with what its gradient needs, and its answer.
    fn whole(&self, index: usize, stream: &Tensor, context: &Context) -> (Whole, Tensor) {
        if self.unit(index).is_some() {
            let graph = Graph::new(stream, |stream| self.attended(index, stream, context));
            let _guard = no_grad_guard();
            let (answer, unit) = self.fed_forward(index, &graph.output.detach());
            return (Whole { graph, unit }, answer);
        }
        let graph = Graph::new(stream, |stream| self.fed_forward(index, &self.attended(index, stream, context)).0);
        let answer = graph.output.detach();
        (Whole { graph, unit: None }, answer)
    }

    /// d loss / d parameters, in the order of the flat vector and of its kind; to the bit, however many layers are run again.
    /// `by_hidden` is d loss / d hidden; `by_matrix` d loss / d output matrix beside what hidden states say of it, nothing where absent.
    /// It may be changed on the way.
    pub fn gradient_of(&self, trace: Trace, by_hidden: &Tensor, by_matrix: Option<Tensor>) -> Tensor {
        let Trace { hidden, context, layers, last } = trace;
        drop(hidden);
        let mut gradient =
            Gradient { decoder: self, flat: self.flat().empty_like(), written: self.leaves.iter().map(|_| false).collect() };
        let norm = gradient.leaf_of(&self.norm);
        let mut by_stream = gradient.through(&last, by_hidden, |leaf| leaf == norm);
        drop(last);
        for (index, layer) in layers.into_iter().enumerate().rev() {
            let Whole { graph, unit } = match layer {
                Layer::Kept(whole) => whole,
                Layer::Again(stream) => self.again(index, &stream, &context),
            };
            if let Some(kept) = unit {
                by_stream = self.through_unit(index, kept, &graph.output.detach(), &by_stream, &mut gradient);
            }
            by_stream = gradient.through(&graph, &by_stream, |leaf| self.leaves[leaf].layer == Some(index));
        }
        self.read_and_projected(&context.batch.tokens, &by_stream, by_matrix, &mut gradient);
        assert!(gradient.written.iter().all(|written| *written), "every parameter is read by a layer or by the loss");
        gradient.flat
    }

    /// What a layer would have kept. Its experts were counted when it ran first.
    fn again(&self, index: usize, stream: &Tensor, context: &Context) -> Whole {
        self.uncounted(|| self.whole(index, stream, context).0)
    }

    fn through_unit(&self, index: usize, kept: Kept, middle: &Tensor, by_answer: &Tensor, gradient: &mut Gradient) -> Tensor {
        let _guard = no_grad_guard();
        let layer = &self.layers[index];
        let unit = self.unit(index).expect("it kept something");
        let normed = self.normalise(middle, &layer.norm_feed_forward);
        let (scale, epsilon) = (self.scale(&layer.norm_feed_forward), self.config.norm.epsilon);
        let by = unit.backward(kept, middle, &normed, &scale, epsilon, by_answer);
        let [gate, up, down] = layer.feed_forward.matrices().expect("a unit has them");
        let inner = gate.size()[0];
        let leaves = [gate, up, down, &layer.norm_feed_forward].map(|parameter| gradient.leaf_of(parameter));
        let parts = [by.gate_up.narrow(0, 0, inner), by.gate_up.narrow(0, inner, inner), by.down, by.norm];
        for (leaf, part) in leaves.into_iter().zip(parts) {
            gradient.write(leaf, &part);
        }
        by.stream
    }

    /// The embedding is read before the first layer, the output matrix by the loss; one parameter may be both.
    fn read_and_projected(&self, tokens: &Tensor, by_stream: &Tensor, by_matrix: Option<Tensor>, gradient: &mut Gradient) {
        let _guard = no_grad_guard();
        let wide = if by_stream.kind() == Kind::Double { Kind::Double } else { Kind::Float };
        let by_rows = by_stream.to_kind(wide) * self.embedding_scale();
        let (embedding, matrix) = (gradient.leaf_of(&self.embedding), gradient.leaf_of(&self.matrix));
        let nothing = || Tensor::zeros(self.embedding.size(), (wide, self.device));
        if embedding == matrix {
            let mut sum = by_matrix.map_or_else(nothing, |by_matrix| by_matrix.to_kind(wide));
            let _ = sum.index_add_(0, tokens, &by_rows);
            gradient.write(matrix, &sum);
            return;
        }
        match by_matrix {
            Some(by_matrix) => gradient.write(matrix, &by_matrix),
            None => gradient.write(matrix, &self.matrix.zeros_like()),
        }
        let mut sum = nothing();
        let _ = sum.index_add_(0, tokens, &by_rows);
        gradient.write(embedding, &sum);
    }
}
