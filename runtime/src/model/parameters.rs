//! The tensors of a decoder: views of its flat vector by the names of the layout.

use std::collections::HashMap;
use std::ops::Range;

use tch::{Device, Kind, Tensor};

use super::feed_forward::{ExpertWeights, FeedForward};
use super::gated_delta::DeltaWeights;
use super::layout::NormNames;
use super::linear::Linear;
use super::short_conv::ShortConvWeights;
use super::{Config, EntryKind, LayerAttention, ParameterEntry, ShortConv, Weights};

/// Parameters of one layer.
pub(super) struct Layer {
    /// Its index in the model.
    pub index: usize,
    pub norm_attention: Tensor,
    pub after_attention: Option<Tensor>,
    pub mixer: Mixer,
    /// The projection after the mixer.
    pub output: Linear,
    pub norm_feed_forward: Tensor,
    pub after_feed_forward: Option<Tensor>,
    pub feed_forward: FeedForward,
}

/// The part of a layer in which tokens read earlier ones.
pub(super) enum Mixer {
    Attention(AttentionWeights),
    GatedDelta(DeltaWeights),
    ShortConv(ShortConvWeights),
}

impl Mixer {
    /// The weights of attention, where the layer has it.
    pub fn attention(&self) -> Option<&AttentionWeights> {
        if let Mixer::Attention(weights) = self { Some(weights) } else { None }
    }
}

/// Parameters of a layer's attention.
///
/// Matrices with the same input are multiplied separately in training, because the backward pass of a split
/// costs more than it saves. `query_key_value` is the same memory as one matrix, for inference.
pub(super) struct AttentionWeights {
    pub kind: LayerAttention,
    pub query_key: Linear,
    pub value: Linear,
    pub query_key_value: Linear,
    /// `[2, head width]`: the scale of queries, then that of keys.
    pub query_key_norm: Option<Tensor>,
    /// `[heads]`
    pub sinks: Option<Tensor>,
}

/// A tensor that gradients are taken for.
pub(super) struct ParameterLeaf {
    pub tensor: Tensor,
    pub reader: LayerBlock,
    /// Its offset in the flat vector.
    pub offset: usize,
}

/// The part of the model that reads a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LayerBlock {
    /// Before or after all layers.
    Outside,
    /// The first half of a layer.
    Attention(usize),
    /// The second half of a layer.
    FeedForward(usize),
}

/// The parameters of a model in the order of the layout, in one tensor or in several consecutive ones: all
/// parameters, or those that are in memory.
pub(super) struct FlatVector {
    /// Each piece with its offset.
    pieces: Vec<(usize, Tensor)>,
}

impl FlatVector {
    pub fn whole(weights: &Weights, kind: Kind, device: Device) -> FlatVector {
        FlatVector { pieces: vec![(0, weights.flat(kind, device))] }
    }

    /// A flat vector with a separate tensor for the matrices of each layer.
    pub fn by_layer(weights: &Weights, entries: &[ParameterEntry], kind: Kind, device: Device) -> FlatVector {
        let runs = runs(entries).map(|(_, run)| run);
        FlatVector { pieces: runs.map(|run| piece(weights, run, kind, device)).collect() }
    }

    /// All parameters but the matrices of layers: a vector with gaps.
    pub fn outside_layers(
        weights: &Weights,
        entries: &[ParameterEntry],
        kind: Kind,
        device: Device,
    ) -> FlatVector {
        let outside = runs(entries).filter(|(layer, _)| layer.is_none());
        FlatVector { pieces: outside.map(|(_, run)| piece(weights, run, kind, device)).collect() }
    }

    /// The same with the matrices of one layer, which are in the range `matrices` of the model.
    pub fn with_layer(&self, weights: &Weights, matrices: Range<usize>) -> FlatVector {
        let (_, outside) = &self.pieces[0];
        let mut pieces = vec![piece(weights, matrices, outside.kind(), outside.device())];
        pieces.extend(self.pieces.iter().map(|(offset, piece)| (*offset, piece.shallow_clone())));
        pieces.sort_by_key(|(offset, _)| *offset);
        FlatVector { pieces }
    }

    pub fn len(&self) -> usize {
        self.pieces.last().map_or(0, |(offset, piece)| offset + piece.numel())
    }

    /// A view of a range within one piece.
    pub fn part(&self, offset: usize, count: usize) -> Tensor {
        let index = self.pieces.partition_point(|(first, _)| *first <= offset) - 1;
        let (first, piece) = &self.pieces[index];
        piece.narrow(0, (offset - first) as i64, count as i64)
    }

    /// The tensor, if there is only one.
    pub fn only(&self) -> Option<&Tensor> {
        if let [(_, only)] = self.pieces.as_slice() { Some(only) } else { None }
    }
}

/// Runs of adjacent entries, as ranges: the matrices of each layer, with its index, and the entries between.
pub(super) fn runs(entries: &[ParameterEntry]) -> impl Iterator<Item = (Option<u32>, Range<usize>)> {
    let of = |entry: &ParameterEntry| (entry.kind == EntryKind::Matrix).then_some(entry.layer);
    entries.chunk_by(move |one, next| of(one) == of(next)).map(move |run| {
        let (first, last) = (&run[0], &run[run.len() - 1]);
        (of(first).flatten(), first.offset..last.offset + last.len())
    })
}

/// A range of a model's parameters, with its offset.
fn piece(weights: &Weights, numbers: Range<usize>, kind: Kind, device: Device) -> (usize, Tensor) {
    (numbers.start, weights.vector(numbers, kind, device))
}

/// Makes views of a vector, and collects those that gradients are taken for.
pub(super) struct ParameterViews<'a> {
    entries: &'a HashMap<String, ParameterEntry>,
    vector: &'a FlatVector,
    trainable: bool,
    leaves: Vec<ParameterLeaf>,
}

impl<'a> ParameterViews<'a> {
    pub fn new(
        entries: &'a HashMap<String, ParameterEntry>,
        vector: &'a FlatVector,
        trainable: bool,
    ) -> ParameterViews<'a> {
        ParameterViews { entries, vector, trainable, leaves: Vec::new() }
    }

    /// Every leaf, in the order of the layout.
    pub fn leaves(mut self) -> Vec<ParameterLeaf> {
        self.leaves.sort_by_key(|leaf| leaf.offset);
        let mut end = 0;
        for leaf in &self.leaves {
            assert_eq!(leaf.offset, end, "every parameter belongs to one leaf");
            end += leaf.tensor.numel();
        }
        assert_eq!(end, self.vector.len(), "every parameter belongs to one leaf");
        self.leaves
    }

    /// A parameter outside the layers, in its shape.
    pub fn outside(&mut self, name: &str) -> Tensor {
        let shape: Vec<i64> = self.entries[name].shape.iter().map(|size| *size as i64).collect();
        self.leaf(LayerBlock::Outside, &[name.to_owned()], &shape)
    }

    /// The parameters of one layer.
    pub fn layer(&mut self, config: &Config, index: usize) -> Layer {
        let mut of = LayerParameters { index, reader: LayerBlock::Attention(index), parameters: self };
        let names = NormNames::new(config);
        let norm_attention = of.norm(names.attention);
        let after_attention = names.after_attention.map(|name| of.norm(name));
        let (mixer, output) = match (config.gated_delta_of(index), config.short_conv_of(index)) {
            (Some(_), _) => {
                (Mixer::GatedDelta(of.gated_delta()), of.linear(&["linear_attn.out_proj"], false))
            }
            (None, Some(conv)) => {
                (Mixer::ShortConv(of.short_conv(conv)), of.linear(&["conv.out_proj"], conv.biases))
            }
            (None, None) => {
                let weights = of.attention(config);
                (Mixer::Attention(weights), of.linear(&["self_attn.o_proj"], config.biases.output))
            }
        };
        of.reader = LayerBlock::FeedForward(index);
        Layer {
            index,
            norm_attention,
            after_attention,
            mixer,
            output,
            norm_feed_forward: of.norm(names.feed_forward),
            after_feed_forward: names.after_feed_forward.map(|name| of.norm(name)),
            feed_forward: of.feed_forward(config),
        }
    }

    /// Parameters that are adjacent in the layout, as one tensor.
    fn view(&self, names: &[String], shape: &[i64]) -> (usize, Tensor) {
        let entries: Vec<&ParameterEntry> = names.iter().map(|name| &self.entries[name]).collect();
        let neighbours = entries.windows(2).all(|pair| pair[0].offset + pair[0].len() == pair[1].offset);
        assert!(neighbours, "{names:?} are not neighbours in the layout");
        let elements: usize = entries.iter().map(|entry| entry.len()).sum();
        let offset = entries[0].offset;
        (offset, self.vector.part(offset, elements).view(shape))
    }

    fn leaf(&mut self, reader: LayerBlock, names: &[String], shape: &[i64]) -> Tensor {
        let (offset, view) = self.view(names, shape);
        let tensor = view.detach().set_requires_grad(self.trainable);
        self.leaves.push(ParameterLeaf { tensor: tensor.shallow_clone(), reader, offset });
        tensor
    }
}

struct LayerParameters<'p, 'a> {
    index: usize,
    /// The block that reads the next parameters.
    reader: LayerBlock,
    parameters: &'p mut ParameterViews<'a>,
}

impl LayerParameters<'_, '_> {
    fn names<S: AsRef<str>>(&self, parts: &[S], what: &str) -> Vec<String> {
        parts.iter().map(|part| format!("model.layers.{}.{}.{what}", self.index, part.as_ref())).collect()
    }

    /// A leaf, of the given shape.
    fn stack<S: AsRef<str>>(&mut self, parts: &[S], shape: &[i64]) -> Tensor {
        let names = self.names(parts, "weight");
        self.parameters.leaf(self.reader, &names, shape)
    }

    fn bias(&mut self, part: &str, shape: &[i64]) -> Tensor {
        let names = self.names(&[part], "bias");
        self.parameters.leaf(self.reader, &names, shape)
    }

    fn norm(&mut self, part: &str) -> Tensor {
        self.stack(&[part], &[-1])
    }

    /// Adjacent matrices, stacked along the outputs.
    fn linear(&mut self, parts: &[&str], bias: bool) -> Linear {
        let (matrices, biases) = (self.names(parts, "weight"), self.names(parts, "bias"));
        let inputs = self.inputs(&matrices);
        Linear {
            weight: self.parameters.leaf(self.reader, &matrices, &[-1, inputs]),
            bias: bias.then(|| self.parameters.leaf(self.reader, &biases, &[-1])),
        }
    }

    /// The same memory as one matrix, for inference; not a leaf.
    fn fused(&self, parts: &[&str], bias: bool) -> Linear {
        let (matrices, biases) = (self.names(parts, "weight"), self.names(parts, "bias"));
        let inputs = self.inputs(&matrices);
        Linear {
            weight: self.parameters.view(&matrices, &[-1, inputs]).1,
            bias: bias.then(|| self.parameters.view(&biases, &[-1]).1),
        }
    }

    fn inputs(&self, matrices: &[String]) -> i64 {
        self.parameters.entries[&matrices[0]].shape[1] as i64
    }

    fn attention(&mut self, config: &Config) -> AttentionWeights {
        let projections = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
        let bias = config.biases.query_key_value;
        let norms = ["self_attn.q_norm", "self_attn.k_norm"];
        AttentionWeights {
            kind: config.attention[self.index],
            query_key: self.linear(&projections[..2], bias),
            value: self.linear(&projections[2..], bias),
            query_key_value: self.fused(&projections, bias),
            query_key_norm: config.query_key_norm.then(|| self.stack(&norms, &[2, -1])),
            sinks: config.attention_sinks.then(|| self.bias("self_attn.sinks", &[-1])),
        }
    }

    fn gated_delta(&mut self) -> DeltaWeights {
        let inputs = ["in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"];
        let inputs = inputs.map(|part| format!("linear_attn.{part}"));
        let mut vector = |part: &str| {
            let name = format!("model.layers.{}.linear_attn.{part}", self.index);
            self.parameters.leaf(self.reader, &[name], &[-1])
        };
        let (decay, decay_bias, norm) = (vector("A_log"), vector("dt_bias"), vector("norm.weight"));
        DeltaWeights {
            inputs: self.linear(&inputs.each_ref().map(String::as_str), false),
            convolution: self.convolution("linear_attn.conv1d"),
            decay,
            decay_bias,
            norm,
        }
    }

    fn short_conv(&mut self, conv: &ShortConv) -> ShortConvWeights {
        ShortConvWeights {
            inputs: self.linear(&["conv.in_proj"], conv.biases),
            convolution: self.convolution("conv.conv"),
            bias: conv.biases.then(|| self.bias("conv.conv", &[-1])),
        }
    }

    fn convolution(&mut self, part: &str) -> Tensor {
        let kernels = self.names(&[part], "weight");
        let shape = self.parameters.entries[&kernels[0]].shape.clone();
        let shape: Vec<i64> = shape.into_iter().map(|size| size as i64).collect();
        self.parameters.leaf(self.reader, &kernels, &shape)
    }

    fn feed_forward(&mut self, config: &Config) -> FeedForward {
        let [gate, up] = ["mlp.gate_proj", "mlp.up_proj"];
        let bias = config.biases.feed_forward;
        let Some(experts) = config.experts_of(self.index) else {
            return FeedForward::Gated {
                gate: self.linear(&[gate], bias),
                up: self.linear(&[up], bias),
                gate_up: self.fused(&[gate, up], bias),
                down: self.linear(&["mlp.down_proj"], bias),
            };
        };
        let (count, width, hidden) =
            (experts.count as i64, config.width as i64, experts.intermediate_size as i64);
        if experts.clamped.is_some() {
            let [gate_up, down] = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"];
            return FeedForward::Experts(ExpertWeights {
                router: self.linear(&["mlp.gate"], true),
                gate_up: self.stack(&[gate_up], &[count, width, 2 * hidden]),
                down: self.stack(&[down], &[count, hidden, width]),
                biases: Some([self.bias(gate_up, &[count, 2 * hidden]), self.bias(down, &[count, width])]),
            });
        }
        let part = |expert: usize, part: &str| format!("mlp.experts.{expert}.{part}");
        let gate_up: Vec<String> = (0..experts.count)
            .flat_map(|expert| [part(expert, "gate_proj"), part(expert, "up_proj")])
            .collect();
        let down: Vec<String> = (0..experts.count).map(|expert| part(expert, "down_proj")).collect();
        FeedForward::Experts(ExpertWeights {
            router: self.linear(&["mlp.gate"], false),
            gate_up: self.stack(&gate_up, &[count, 2 * hidden, width]),
            down: self.stack(&down, &[count, width, hidden]),
            biases: None,
        })
    }
}
