//! The parameters of a decoder and their order in the flat vector.

use mopd_plan::{Projection, WeightGroup};

use super::stored_names::as_stored;
use super::{Config, Experts};

/// A parameter and its place in a model's flat vector. Matrices are `[outputs, inputs]`, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterEntry {
    /// The name in published checkpoints: `model.layers.0.self_attn.q_proj.weight`. Of a part that the
    /// decoder computes with: its name in a checkpoint of Llama.
    pub name: String,
    pub shape: Vec<usize>,
    pub offset: usize,
    pub kind: EntryKind,
    /// The group by which it is trained or frozen.
    pub group: WeightGroup,
    /// `None` outside layers.
    pub layer: Option<u32>,
    /// The matrices of a layer that it holds, by which adapters name them.
    pub projections: Vec<Projection>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    Matrix,
    /// Added to a matrix's output.
    Bias,
    /// The scale of a normalisation.
    Norm,
    /// The kernels of a convolution of single channels, `[channels, 1, taps]`.
    Convolution,
    /// Numbers of the gated delta rule, of each head or of the normalisation in a head: as published models,
    /// they begin at 1.
    Delta,
}

impl ParameterEntry {
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether an adapter with these targets changes it. Matrices that are stored as one have one adapter.
    pub fn is_adapted(&self, targets: &[Projection]) -> bool {
        !self.projections.is_empty() && self.projections.iter().all(|own| targets.contains(own))
    }

    /// Whether it is the scalar head.
    pub fn is_scalar_head(&self) -> bool {
        self.layer.is_none() && self.name == "score.weight"
    }

    /// Whether it belongs to a second head.
    pub fn is_second_head(&self) -> bool {
        self.layer.is_none() && self.name.starts_with(SECOND_HEAD)
    }

    /// Whether it is the input matrix of a second head.
    pub fn is_second_head_input(&self) -> bool {
        self.is_second_head() && self.name.ends_with("input.weight")
    }

    /// Whether a stage adds it to models that do not have it.
    pub fn is_given(&self) -> bool {
        self.is_scalar_head() || self.is_second_head()
    }
}

/// The prefix of the names of a second head's entries.
const SECOND_HEAD: &str = "second_head";

/// All parameters in order, as checkpoints store them.
pub fn layout(config: &Config) -> Vec<ParameterEntry> {
    as_stored(config.family, parts(config))
}

/// The parts that the decoder computes with, in the order of [`layout`]. Matrices come first, so that weight
/// decay is one range. Matrices with the same input are adjacent, so that they form one matrix; so do their
/// biases. All gate and up matrices of experts come before all down matrices, so that a layer's experts form
/// two stacks.
pub(super) fn parts(config: &Config) -> Vec<ParameterEntry> {
    let mut entries = Entries(Vec::new());
    let embedding = || vec![config.vocabulary, config.width];
    entries.whole_model("model.embed_tokens", embedding());
    for layer in 0..config.layers {
        entries.matrices(config, layer);
    }
    if !config.tied {
        entries.whole_model("lm_head", embedding());
    }
    if config.scalar_head {
        entries.whole_model("score", vec![1, config.width]);
    }
    if config.second_head {
        let width = config.width;
        for (part, shape) in
            [("input", [width, 2 * width]), ("output", [width, width]), ("confidence", [1, width])]
        {
            entries.whole_model(&format!("{SECOND_HEAD}.{part}"), shape.to_vec());
        }
    }
    for layer in 0..config.layers {
        entries.biases(config, layer);
    }
    for layer in 0..config.layers {
        entries.norms(config, layer);
        entries.gated_delta(config, layer);
        if let Some(conv) = config.short_conv_of(layer) {
            let kernels = vec![config.width, 1, conv.taps];
            entries.add(Some(layer), "conv.conv", kernels, EntryKind::Convolution, WeightGroup::Attention);
        }
    }
    entries.add(None, "model.norm", vec![config.width], EntryKind::Norm, WeightGroup::Norm);
    entries.0
}

/// A layout under construction: each entry begins where the previous one ends.
struct Entries(Vec<ParameterEntry>);

impl Entries {
    fn add(
        &mut self,
        layer: Option<usize>,
        part: &str,
        shape: Vec<usize>,
        kind: EntryKind,
        group: WeightGroup,
    ) {
        let offset = self.0.last().map_or(0, |last| last.offset + last.len());
        let name = match kind {
            EntryKind::Bias => format!("{part}.bias"),
            EntryKind::Delta => part.to_owned(),
            EntryKind::Matrix | EntryKind::Norm | EntryKind::Convolution => format!("{part}.weight"),
        };
        let name = match layer {
            Some(layer) => format!("model.layers.{layer}.{name}"),
            None => name,
        };
        let (layer, projections) = (layer.map(|layer| layer as u32), Vec::new());
        self.0.push(ParameterEntry { name, shape, offset, kind, group, layer, projections });
    }

    /// A matrix outside of layers.
    fn whole_model(&mut self, part: &str, shape: Vec<usize>) {
        self.add(None, part, shape, EntryKind::Matrix, WeightGroup::Embedding);
    }

    fn matrices(&mut self, config: &Config, layer: usize) {
        use WeightGroup::{Attention, FeedForward};
        let (width, heads) = (config.width, config.heads * config.head_dim);
        let key_value = config.key_value_heads * config.head_dim;
        let mut matrix = |part: &str, projection: Option<Projection>, outputs: usize, inputs: usize| {
            let group = if part.starts_with("mlp") { FeedForward } else { Attention };
            self.add(Some(layer), part, vec![outputs, inputs], EntryKind::Matrix, group);
            self.0.last_mut().expect("it was added").projections = projection.into_iter().collect();
        };
        match (config.gated_delta_of(layer), config.short_conv_of(layer)) {
            (Some(delta), _) => {
                let mut matrix = |part: &str, projection, outputs, inputs| {
                    matrix(&format!("linear_attn.{part}"), Some(projection), outputs, inputs);
                };
                matrix("in_proj_qkv", Projection::DeltaInput, delta.channels(), width);
                matrix("in_proj_z", Projection::DeltaGate, delta.values(), width);
                matrix("in_proj_b", Projection::DeltaStrength, delta.value_heads, width);
                matrix("in_proj_a", Projection::DeltaDecay, delta.value_heads, width);
                matrix("out_proj", Projection::DeltaOutput, width, delta.values());
            }
            (None, Some(_)) => {
                matrix("conv.in_proj", Some(Projection::ConvInput), 3 * width, width);
                matrix("conv.out_proj", Some(Projection::ConvOutput), width, width);
            }
            (None, None) => {
                let mut matrix = |part: &str, projection, outputs, inputs| {
                    matrix(&format!("self_attn.{part}"), Some(projection), outputs, inputs);
                };
                let queries = config.query_and_gate_heads() * config.head_dim;
                matrix("q_proj", Projection::Query, queries, width);
                matrix("k_proj", Projection::Key, key_value, width);
                matrix("v_proj", Projection::Value, key_value, width);
                matrix("o_proj", Projection::Output, width, heads);
            }
        }
        let [gate, up, down] = [Projection::Gate, Projection::Up, Projection::Down].map(Some);
        match config.experts_of(layer) {
            Some(Experts { clamped: Some(_), count, intermediate_size: inner, .. }) => {
                matrix("mlp.gate", None, *count, width);
                for (part, shape) in [
                    ("mlp.experts.gate_up_proj", vec![*count, width, 2 * inner]),
                    ("mlp.experts.down_proj", vec![*count, *inner, width]),
                ] {
                    self.add(Some(layer), part, shape, EntryKind::Matrix, FeedForward);
                }
            }
            Some(Experts { count, intermediate_size: inner, .. }) => {
                matrix("mlp.gate", None, *count, width);
                for expert in 0..*count {
                    matrix(&format!("mlp.experts.{expert}.gate_proj"), gate, *inner, width);
                    matrix(&format!("mlp.experts.{expert}.up_proj"), up, *inner, width);
                }
                for expert in 0..*count {
                    matrix(&format!("mlp.experts.{expert}.down_proj"), down, width, *inner);
                }
            }
            None => {
                matrix("mlp.gate_proj", gate, config.intermediate_size, width);
                matrix("mlp.up_proj", up, config.intermediate_size, width);
                matrix("mlp.down_proj", down, width, config.intermediate_size);
            }
        }
    }

    fn biases(&mut self, config: &Config, layer: usize) {
        use WeightGroup::{Attention, FeedForward};
        let key_value = config.key_value_heads * config.head_dim;
        let mut add = |group: WeightGroup, part: &str, shape: Vec<usize>| {
            self.add(Some(layer), part, shape, EntryKind::Bias, group);
        };
        if let Some(Experts { clamped: Some(_), count, intermediate_size, .. }) = config.experts_of(layer) {
            add(FeedForward, "mlp.gate", vec![*count]);
            add(FeedForward, "mlp.experts.gate_up_proj", vec![*count, 2 * intermediate_size]);
            add(FeedForward, "mlp.experts.down_proj", vec![*count, config.width]);
        }
        let mut bias = |group: WeightGroup, part: &str, outputs: usize| add(group, part, vec![outputs]);
        let attention = config.has_attention(layer);
        if config.biases.query_key_value && attention {
            bias(Attention, "self_attn.q_proj", config.query_and_gate_heads() * config.head_dim);
            bias(Attention, "self_attn.k_proj", key_value);
            bias(Attention, "self_attn.v_proj", key_value);
        }
        if config.biases.output && attention {
            bias(Attention, "self_attn.o_proj", config.width);
        }
        if config.attention_sinks && attention {
            bias(Attention, "self_attn.sinks", config.heads);
        }
        if config.short_conv_of(layer).is_some_and(|conv| conv.biases) {
            bias(Attention, "conv.in_proj", 3 * config.width);
            bias(Attention, "conv.out_proj", config.width);
            bias(Attention, "conv.conv", config.width);
        }
        if config.biases.feed_forward && config.experts_of(layer).is_none() {
            bias(FeedForward, "mlp.gate_proj", config.intermediate_size);
            bias(FeedForward, "mlp.up_proj", config.intermediate_size);
            bias(FeedForward, "mlp.down_proj", config.width);
        }
    }

    fn norms(&mut self, config: &Config, layer: usize) {
        let mut norm = |part: &str, width: usize| {
            self.add(Some(layer), part, vec![width], EntryKind::Norm, WeightGroup::Norm);
        };
        let names = NormNames::new(config);
        norm(names.attention, config.width);
        if let Some(after) = names.after_attention {
            norm(after, config.width);
        }
        norm(names.feed_forward, config.width);
        if let Some(after) = names.after_feed_forward {
            norm(after, config.width);
        }
        if config.query_key_norm && config.has_attention(layer) {
            norm("self_attn.q_norm", config.head_dim);
            norm("self_attn.k_norm", config.head_dim);
        }
    }

    /// What the gated delta rule of a layer has beside its matrices.
    fn gated_delta(&mut self, config: &Config, layer: usize) {
        let Some(delta) = config.gated_delta_of(layer) else { return };
        let mut add = |part: &str, shape: Vec<usize>, kind: EntryKind, group: WeightGroup| {
            self.add(Some(layer), &format!("linear_attn.{part}"), shape, kind, group);
        };
        let (kernels, heads) = (vec![delta.channels(), 1, delta.convolution], vec![delta.value_heads]);
        add("conv1d", kernels, EntryKind::Convolution, WeightGroup::Attention);
        add("A_log", heads.clone(), EntryKind::Delta, WeightGroup::Attention);
        add("dt_bias", heads, EntryKind::Delta, WeightGroup::Attention);
        add("norm.weight", vec![delta.value_head_dim], EntryKind::Delta, WeightGroup::Norm);
    }
}

/// The names of a layer's normalisations in checkpoints. In most families `post_attention_layernorm` is the
/// one before the feed-forward part; where outputs are normalised too, it is the one after attention.
pub(super) struct NormNames {
    pub attention: &'static str,
    pub after_attention: Option<&'static str>,
    pub feed_forward: &'static str,
    pub after_feed_forward: Option<&'static str>,
}

impl NormNames {
    pub fn new(config: &Config) -> NormNames {
        let attention = "input_layernorm";
        if config.norm.after {
            NormNames {
                attention,
                after_attention: Some("post_attention_layernorm"),
                feed_forward: "pre_feedforward_layernorm",
                after_feed_forward: Some("post_feedforward_layernorm"),
            }
        } else {
            NormNames {
                attention,
                after_attention: None,
                feed_forward: "post_attention_layernorm",
                after_feed_forward: None,
            }
        }
    }
}
